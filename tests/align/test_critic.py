"""The Wasserstein critic: its penalty against a second backward pass, its distance against the exact one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spkadapt.align import DomainClassifier
from spkadapt.align.critic import WassersteinCriticLoss, between, lengths
from spkadapt.errors import InputError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_slopes_are_the_derivatives() -> None:
    classifier, rows = DomainClassifier(4, 7).double(), normal(0, 6, 4).requires_grad_()
    (expected,) = torch.autograd.grad(classifier(rows).sum(), rows)
    torch.testing.assert_close(classifier.slopes(rows), expected)


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (6, 6)])
def test_loss_and_gradients_equal_those_of_a_double_backward(num_source: int, num_target: int) -> None:
    loss = WassersteinCriticLoss(4, 7, scale=0.5, penalty=3.0).double()
    source, target = normal(0, num_source, 4).requires_grad_(), (1 + normal(1, num_target, 4)).requires_grad_()
    parameters = list(loss.parameters())
    torch.manual_seed(9)
    value = loss(source, target)
    ours = torch.autograd.grad(value, [source, target, *parameters])
    torch.manual_seed(9)
    points = torch.cat([source, target, between(source, target)]).detach().requires_grad_()
    assert len(points) == num_source + num_target + max(num_source, num_target)
    (slopes,) = torch.autograd.grad(loss.critic(points).sum(), points, create_graph=True)
    penalty = (slopes.norm(dim=1) - 1).square().mean()
    gap = loss.critic(source).mean() - loss.critic(target).mean()
    expected = torch.autograd.grad(3 * penalty - gap, parameters)
    assert value.item() == pytest.approx((3 * penalty - gap).item(), rel=1e-12)
    for gradient, twin in zip(ours[2:-1], expected[:-1], strict=True):
        assert twin.abs().max() > 0
        torch.testing.assert_close(gradient, twin)
    gap = loss.critic(source).mean() - loss.critic(target).mean()
    for gradient, twin in zip(ours[:2], torch.autograd.grad(gap, [source, target]), strict=True):
        assert twin.abs().max() > 0
        torch.testing.assert_close(gradient, 0.5 * twin)  # the features descend the distance


def test_points_between() -> None:
    torch.manual_seed(0)
    source, target = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    points = torch.cat([between(source, target) for _ in range(2000)])
    assert points.shape == (6000, 2)
    assert points[:, 0].min() >= 0
    assert points[:, 0].max() <= 1
    assert points[:, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert points[:, 1].mean().item() == pytest.approx(0.75, abs=0.03)  # means 0.5 and 1, in equal parts
    near_target = points[points[:, 0] > 0.98, 1]
    assert {round(y) for y in near_target.tolist()} == {0, 1, 2}


def test_critic_finds_the_distance_of_a_shift() -> None:
    torch.manual_seed(0)
    source = torch.randn(256, 2)
    target = source + torch.tensor([2.0, 0.0])
    loss = WassersteinCriticLoss(2, 32)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss(source, target).backward()
        optimizer.step()
    assert loss.distance(source, target) == pytest.approx(2, rel=0.1)
    assert loss.distance(target, source) == pytest.approx(-loss.distance(source, target))


def test_training_pulls_two_domains_together() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(256, 2), torch.randn(200, 2) + torch.tensor([2.0, 0.0])
    biases = []
    loss, bias = WassersteinCriticLoss(2, 16), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": loss.parameters(), "lr": 0.05}, {"params": [bias], "lr": 0.01}])
    for _ in range(600):
        optimizer.zero_grad()
        loss(source, target + bias).backward()
        optimizer.step()
        biases.append(bias.detach().clone())
    # With a rate that does not decay, it goes round the optimum.
    centre = torch.stack(biases[200:]).mean(dim=0)
    expected = source.mean(dim=0) - target.mean(dim=0)
    torch.testing.assert_close(centre, expected, atol=0.3, rtol=0)


def test_length_has_a_derivative_of_zero_at_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]).requires_grad_()
    values = lengths(vectors)
    assert values.tolist()[:2] == [5, 0]
    (gradient,) = torch.autograd.grad(values.sum(), vectors)
    torch.testing.assert_close(gradient[0], torch.tensor([0.6, 0.8]))
    assert not gradient[1:].any()


def test_gradients_are_finite_where_the_critic_is_flat() -> None:
    loss = WassersteinCriticLoss(3, 4)
    torch.nn.init.zeros_(loss.critic.output.weight)
    torch.nn.init.constant_(loss.critic.hidden.bias, -1e3)  # no unit is active
    source = torch.randn(5, 3, requires_grad=True)
    value = loss(source, torch.randn(2, 3))
    value.backward()
    assert value.item() == pytest.approx(10)
    for tensor in (source, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


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
    target = source.detach().clone().requires_grad_()
    loss = WassersteinCriticLoss(6)
    value = loss(source, target)
    value.backward()
    assert value.isfinite()
    assert loss.distance(source, target) == 0
    for tensor in (source, target, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_it_can_be_had_without_a_graph() -> None:
    loss, source, target = WassersteinCriticLoss(3), torch.randn(4, 3), torch.randn(2, 3)
    values = []
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        torch.manual_seed(1)
        with mode:
            values.append(loss(source, target).item())
    assert values[0] == values[1] == values[2]


def test_autocast_changes_nothing() -> None:
    loss, source, target = WassersteinCriticLoss(6), torch.randn(8, 6), torch.randn(9, 6)
    torch.manual_seed(1)
    outside = loss(source, target)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(source, target), outside)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="dim of the domain classifier is 0; expected at least 1"):
        WassersteinCriticLoss(0)
    with pytest.raises(InputError, match=r"scale of the reversed gradient is -1\.0; expected zero"):
        WassersteinCriticLoss(3, scale=-1.0)
    for penalty in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=f"penalty of the critic is {penalty}; expected zero or more, and"):
            WassersteinCriticLoss(3, penalty=penalty)
    loss = WassersteinCriticLoss(3)
    for call in (loss, loss.distance):
        with pytest.raises(InputError, match="embeddings have dim 2; the domain classifier has 3"):
            call(torch.ones(2, 2), torch.ones(2, 2))
        with pytest.raises(InputError, match="source has dim 3 and target_domain has dim 2"):
            call(torch.ones(2, 3), torch.ones(2, 2))
