"""CDAN and CDAN+E against their definitions, and against DANN where they are the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spkadapt.align import DomainAdversarialLoss
from spkadapt.align.conditional_adversarial import ConditionalDomainAdversarialLoss, certainty
from spkadapt.errors import InputError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return normal(0, 5, 3), 2 * normal(1, 5, 4), normal(2, 2, 3) + 1, 3 * normal(3, 2, 4)


@pytest.mark.parametrize("entropy_weighted", [False, True])
def test_loss_is_the_papers(entropy_weighted: bool) -> None:
    loss = ConditionalDomainAdversarialLoss(3, 4, hidden_dim=6, entropy_weighted=entropy_weighted).double()
    source, source_logits, target, target_logits = batches()
    expected = 0.0
    for rows, logits, is_target in ((source, source_logits, 0), (target, target_logits, 1)):
        costs, weights = [], []
        for row, logit in zip(rows, logits, strict=True):
            p = [math.exp(x) / sum(map(math.exp, logit.tolist())) for x in logit.tolist()]
            products = torch.tensor([[f * g for f in row.tolist() for g in p]], dtype=torch.float64)
            probability = loss.classifier(products).sigmoid().item()
            costs.append(-math.log(probability if is_target else 1 - probability))
            weights.append(1 + math.exp(sum(x * math.log(x) for x in p)) if entropy_weighted else 1.0)
        expected += sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights) / 2
    assert loss(source, source_logits, target, target_logits).item() == pytest.approx(expected, rel=1e-12)


def test_features_ascend_what_the_classifier_descends() -> None:
    source, source_logits, target, target_logits = batches()
    gradients = {}
    for scale in (0.5, 0.0):
        torch.manual_seed(0)
        loss = ConditionalDomainAdversarialLoss(3, 4, hidden_dim=6, scale=scale).double()
        rows = source.clone().requires_grad_()
        value = loss(rows, source_logits, target, target_logits)
        gradients[scale] = torch.autograd.grad(value, [rows, *loss.classifier.parameters()])
    for first, second in zip(gradients[0.5][1:], gradients[0.0][1:], strict=True):
        assert torch.equal(first, second)  # the classifier's gradient does not depend on the scale
    assert not gradients[0.0][0].any()
    # Against finite differences: the features receive −scale times the derivative.
    moved = source.clone()
    moved[1, 2] += 1e-6
    values = [loss(rows, source_logits, target, target_logits).item() for rows in (moved, source)]
    assert gradients[0.5][0][1, 2].item() == pytest.approx(-0.5 * (values[0] - values[1]) / 1e-6, rel=1e-4)


def test_predictions_are_constants() -> None:
    source, source_logits, target, target_logits = batches()
    loss = ConditionalDomainAdversarialLoss(3, 4).double()
    value = loss(source.requires_grad_(), source_logits.requires_grad_(), target, target_logits.requires_grad_())
    assert torch.autograd.grad(value, [source_logits, target_logits], allow_unused=True) == (None, None)


def test_with_one_class_it_is_dann() -> None:
    source, _, target, _ = batches()
    loss, dann = ConditionalDomainAdversarialLoss(3, 1, hidden_dim=6), DomainAdversarialLoss(3, hidden_dim=6)
    dann.classifier.load_state_dict(loss.classifier.state_dict())
    loss, dann = loss.double(), dann.double()
    value = loss(source, torch.zeros(5, 1), target, torch.zeros(2, 1))
    assert value.item() == pytest.approx(dann(source, target).item(), rel=1e-12)


def test_certainty() -> None:
    assert certainty(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([2, 1.5])
    assert certainty(torch.full((1, 1000), 1e-3)).item() == pytest.approx(1.001)


def test_random_map_keeps_inner_products() -> None:
    loss = ConditionalDomainAdversarialLoss(64, 65, num_random=20_000, hidden_dim=1)
    assert loss.classifier.hidden.in_features == 20_000
    embeddings, predictions = normal(0, 3, 64).float(), normal(1, 3, 65).float().softmax(dim=1)
    products = loss.multilinear_map(embeddings, predictions)
    expected = (embeddings @ embeddings.T) * (predictions @ predictions.T)
    torch.testing.assert_close(products @ products.T, expected, atol=0.06 * expected.max().item(), rtol=0)


def test_random_map_begins_beyond_4096_and_follows_the_seed() -> None:
    exact = ConditionalDomainAdversarialLoss(64, 64)
    assert exact.classifier.hidden.in_features == 4096
    assert set(exact.state_dict()) == {f"classifier.{n}" for n in exact.classifier.state_dict()}
    first, again, other = (ConditionalDomainAdversarialLoss(64, 65, seed=seed) for seed in (1, 1, 2))
    assert first.classifier.hidden.in_features == 1024
    assert torch.equal(first.embedding_map, again.embedding_map)
    assert not torch.equal(first.embedding_map, other.embedding_map)
    assert {"embedding_map", "prediction_map"} < set(first.state_dict())
    source = torch.randn(5, 64, requires_grad=True)
    first(source, torch.randn(5, 65), torch.randn(3, 64), torch.randn(3, 65)).backward()
    assert source.grad is not None
    assert source.grad.abs().max() > 0


def test_it_sees_speakers_aligned_crosswise_where_dann_does_not() -> None:
    # Both domains have the same two clusters, named the other way round in the target domain.
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    rows = (2.0 * labels - 1)[:, None] * torch.ones(1, 2) + 0.1 * torch.randn(200, 2)
    logits = 10 * torch.eye(2)[labels]
    conditional, dann = ConditionalDomainAdversarialLoss(2, 2, 16), DomainAdversarialLoss(2, 16)
    for loss, inputs in ((conditional, (rows, logits, rows, logits.flip(1))), (dann, (rows, rows))):
        optimizer = torch.optim.Adam(loss.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss(*inputs).backward()
            optimizer.step()
    assert conditional(rows, logits, rows, logits.flip(1)) < 0.1
    assert dann(rows, rows) > 0.69


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "large", "masked"])
@pytest.mark.parametrize("num_classes", [3, 700])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str, num_classes: int) -> None:
    size = 1 if corner == "single" else 4
    source = {"constant": torch.zeros(size, 6), "large": 1e4 * torch.randn(size, 6)}.get(
        corner, torch.randn(size, 6)
    )
    logits = 1e3 * torch.randn(size, num_classes)
    if corner == "masked":
        logits[:, 1:] = -math.inf
    source = source.to(dtype).requires_grad_()
    target = source.detach().clone().requires_grad_()
    value = ConditionalDomainAdversarialLoss(6, num_classes)(source, logits.to(dtype), target, logits.to(dtype))
    value.backward()
    assert value.isfinite()
    for batch in (source, target):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        assert batch.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    loss = ConditionalDomainAdversarialLoss(3, 4)
    inputs = [batch.float() for batch in batches()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(*inputs)
    assert torch.equal(inside, loss(*inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim of the conditional domain adversary is 0; expected at least 1"),
        ({"num_classes": 0}, "num_classes of the conditional domain adversary is 0; expected at least 1"),
        ({"num_random": 0}, "num_random of the conditional domain adversary is 0; expected at least 1"),
        ({"hidden_dim": 0}, "hidden_dim of the domain classifier is 0; expected at least 1"),
        ({"scale": -1.0}, "scale of the reversed gradient is -1.0; expected zero or more"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConditionalDomainAdversarialLoss(**{"dim": 3, "num_classes": 4, **arguments})  # type: ignore[arg-type]


def test_bad_batches() -> None:
    loss, (source, source_logits, target, target_logits) = ConditionalDomainAdversarialLoss(3, 4), batches()
    with pytest.raises(InputError, match="embeddings have dim 2; the conditional domain adversary has 3"):
        loss(source[:, :2], source_logits, target[:, :2], target_logits)
    with pytest.raises(InputError, match=r"source_logits has shape \(4, 4\); expected \(5, 4\), a row of each"):
        loss(source, source_logits[:4], target, target_logits)
    with pytest.raises(InputError, match=r"target_logits has shape \(2, 3\); expected \(2, 4\), a row of each"):
        loss(source, source_logits, target, target_logits[:, :3])
    with pytest.raises(InputError, match=r"target_logits holds torch.int64; expected floating point"):
        loss(source, source_logits, target, target_logits.long())
    with pytest.raises(InputError, match=r"source has dim 3 and target_domain has dim 2"):
        loss(source, source_logits, target[:, :2], target_logits)
