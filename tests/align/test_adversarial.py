"""Gradient reversal, the domain classifier and DANN's loss against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spkadapt.align import DomainAdversarialLoss, DomainClassifier, reverse_gradient
from spkadapt.errors import InputError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reversal_is_the_identity_forward_and_minus_scale_backward() -> None:
    x, gradient = normal(0, 3, 4).requires_grad_(), normal(1, 3, 4)
    reversed_x = reverse_gradient(x, 0.7)
    assert torch.equal(reversed_x, x)
    reversed_x.backward(gradient)
    assert torch.equal(x.grad, -0.7 * gradient)


def test_reversal_can_be_differentiated_twice() -> None:
    # y = reverse(x)³: the first derivative is −2 · 3x², and that of the reversed x² within it is −2 · −2 · 6x.
    x = normal(0, 5).requires_grad_()
    (first,) = torch.autograd.grad((reverse_gradient(x, 2.0) ** 3).sum(), x, create_graph=True)
    torch.testing.assert_close(first, -2 * 3 * x**2)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 4 * 6 * x)


def test_loss_is_balanced_cross_entropy() -> None:
    loss = DomainAdversarialLoss(4, hidden_dim=5).double()
    source, target_domain = normal(0, 7, 4), normal(1, 2, 4)
    probability = loss.classifier(torch.cat([source, target_domain])).sigmoid()
    expected = -(1 - probability[:7]).log().mean() / 2 - probability[7:].log().mean() / 2
    assert loss(source, target_domain).item() == pytest.approx(expected.item(), rel=1e-12)
    # Repeating a domain's rows changes neither the loss nor what the classifier learns from it.
    once = torch.autograd.grad(loss(source, target_domain), loss.classifier.output.weight)[0]
    thrice = torch.autograd.grad(loss(source, target_domain.repeat(3, 1)), loss.classifier.output.weight)[0]
    torch.testing.assert_close(once, thrice, rtol=1e-12, atol=1e-14)


def test_classifier_that_knows_nothing_is_at_log_two() -> None:
    loss = DomainAdversarialLoss(4)
    torch.nn.init.zeros_(loss.classifier.output.weight)
    torch.nn.init.zeros_(loss.classifier.output.bias)
    assert loss(torch.randn(9, 4), torch.randn(2, 4)).item() == pytest.approx(math.log(2), rel=1e-6)
    assert loss.accuracy(torch.randn(9, 4), torch.randn(2, 4)) == 0.5


def test_features_ascend_what_the_classifier_descends() -> None:
    loss = DomainAdversarialLoss(4, hidden_dim=8, scale=0.5).double()
    source, target_domain = normal(0, 6, 4).requires_grad_(), normal(1, 3, 4).requires_grad_()
    rows, labels = torch.cat([source, target_domain]), torch.tensor([0.0] * 6 + [1.0] * 3, dtype=torch.float64)
    weights = torch.tensor([0.5 / 6] * 6 + [0.5 / 3] * 3, dtype=torch.float64)
    plain = F.binary_cross_entropy_with_logits(loss.classifier(rows), labels, weight=weights, reduction="sum")
    parameters = list(loss.classifier.parameters())
    expected = torch.autograd.grad(plain, [source, target_domain, *parameters])
    ours = torch.autograd.grad(loss(source, target_domain), [source, target_domain, *parameters])
    for gradient, twin in zip(ours[:2], expected[:2], strict=True):
        assert twin.abs().max() > 0
        torch.testing.assert_close(gradient, -0.5 * twin)
    for gradient, twin in zip(ours[2:], expected[2:], strict=True):
        torch.testing.assert_close(gradient, twin)


def test_scale_zero_leaves_the_features_alone_but_trains_the_classifier() -> None:
    loss = DomainAdversarialLoss(4, scale=0.0)
    source = torch.randn(5, 4, requires_grad=True)
    loss(source, torch.randn(5, 4)).backward()
    assert source.grad is not None
    assert not source.grad.any()
    assert loss.classifier.output.weight.grad is not None
    assert loss.classifier.output.weight.grad.any()


def test_training_pulls_two_domains_together() -> None:
    # Domains that differ by a shift of one coordinate; the extractor is a bias that the target domain may learn.
    source, target_domain = torch.randn(256, 2), torch.randn(256, 2) + torch.tensor([2.0, 0.0])
    loss = DomainAdversarialLoss(2, hidden_dim=16)
    bias = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": loss.parameters(), "lr": 0.1}, {"params": [bias], "lr": 0.3}])
    for _ in range(200):
        optimizer.zero_grad()
        loss(source, target_domain + bias).backward()
        optimizer.step()
    assert abs(bias[0].item() + 2) < 1
    assert abs(bias[1].item()) < 1


def test_accuracy_weighs_the_domains_alike() -> None:
    loss = DomainAdversarialLoss(1, hidden_dim=1)
    for parameter, value in zip(loss.parameters(), (1.0, 0.0, 1.0, -1.0), strict=True):  # logit = relu(x) − 1
        torch.nn.init.constant_(parameter, value)
    source, target_domain = torch.tensor([[0.0], [0.0], [0.0], [5.0]]), torch.tensor([[5.0], [0.0]])
    assert loss.accuracy(source, target_domain) == pytest.approx((3 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "large"])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    source = {
        "single": torch.randn(1, 6),
        "identical": torch.randn(4, 6),
        "constant": torch.zeros(4, 6),
        "large": 1e4 * torch.randn(4, 6),
    }[corner]
    source = source.to(dtype).requires_grad_()
    target_domain = source.detach().clone().requires_grad_()
    value = DomainAdversarialLoss(6)(source, target_domain)
    value.backward()
    assert value.isfinite()
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        assert batch.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    loss, source, target_domain = DomainAdversarialLoss(6), torch.randn(8, 6), torch.randn(9, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(source, target_domain)
    assert torch.equal(inside, loss(source, target_domain))


def test_classifier_gives_one_logit_per_row() -> None:
    assert DomainClassifier(6, 3)(torch.randn(1, 6)).shape == (1,)
    assert DomainClassifier(6, 3)(torch.randn(5, 6)).shape == (5,)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="dim of the domain classifier is 0; expected at least 1"):
        DomainClassifier(0, 4)
    with pytest.raises(InputError, match="hidden_dim of the domain classifier is -1; expected at least 1"):
        DomainAdversarialLoss(4, hidden_dim=-1)
    for scale in (-1.0, math.nan):
        with pytest.raises(InputError, match=f"scale of the reversed gradient is {scale}; expected zero or more"):
            DomainAdversarialLoss(4, scale=scale)
    with pytest.raises(InputError, match="embeddings have dim 3; the domain classifier has 4"):
        DomainAdversarialLoss(4)(torch.ones(2, 3), torch.ones(2, 3))
