"""Confusion, entropy and mutual information against matrices and loops, in closed form, and in corners."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.confusion import (
    EntropyLoss,
    InformationMaximisationLoss,
    MinimumClassConfusionLoss,
    entropy_loss,
    information_maximisation_loss,
    minimum_class_confusion_loss,
)
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
LOSSES = [minimum_class_confusion_loss, entropy_loss, information_maximisation_loss]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posteriors_of(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(dim=1, keepdim=True)


def direct_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Jin et al.'s steps, with the matrix of all pairs of classes."""
    y = posteriors_of(logits / temperature)
    entropies = -(y * y.log()).sum(dim=1).detach()
    weights = 1 + (-entropies).exp()
    weights = len(y) * weights / weights.sum()
    confusion = y.T @ torch.diag(weights) @ y
    confusion = confusion / confusion.sum(dim=1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / len(confusion)


def direct_entropy(logits: Tensor) -> Tensor:
    return sum(-(row * row.log()).sum() for row in posteriors_of(logits)) / len(logits)


def direct_information(logits: Tensor) -> Tensor:
    """−Σ_ik p(i, k) log [p(i, k) / (p(i) p(k))] of a row drawn at random and its class."""
    joint = posteriors_of(logits) / len(logits)
    independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)
    return -(joint * (joint / independent).log()).sum()


DIRECT = dict(zip(LOSSES, [direct_confusion, direct_entropy, direct_information], strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@given(seeds, st.integers(1, 7), st.integers(1, 6), st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_value_and_gradient_equal_the_definition(
    loss: Callable[..., Tensor], seed: int, num: int, num_classes: int, size: float
) -> None:
    ours, theirs = ((size * normal(seed, num, num_classes)).requires_grad_() for _ in range(2))
    value, twin = loss(ours), DIRECT[loss](theirs)
    assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-12)
    value.backward()
    twin.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-11)


@given(seeds, st.floats(0.5, 10))
@settings(max_examples=15, deadline=None)
def test_temperature(seed: int, temperature: float) -> None:
    logits = 3 * normal(seed, 5, 4)
    expected = direct_confusion(logits, temperature).item()
    assert minimum_class_confusion_loss(logits, temperature).item() == pytest.approx(expected, rel=1e-9)
    module = MinimumClassConfusionLoss(temperature)
    assert torch.equal(module(logits), minimum_class_confusion_loss(logits, temperature))


def test_closed_forms() -> None:
    sure, unsure = 1e4 * torch.eye(4), torch.zeros(4, 4)
    one_class = 1e4 * torch.eye(4)[:1].repeat(4, 1)
    assert minimum_class_confusion_loss(sure).item() == 0
    assert minimum_class_confusion_loss(unsure).item() == pytest.approx(1 - 1 / 4, rel=1e-6)
    assert entropy_loss(sure).item() == entropy_loss(one_class).item() == 0
    assert entropy_loss(unsure).item() == pytest.approx(math.log(4), rel=1e-6)
    assert information_maximisation_loss(sure).item() == pytest.approx(-math.log(4), rel=1e-6)
    assert information_maximisation_loss(one_class).item() == pytest.approx(0, abs=1e-6)
    assert information_maximisation_loss(unsure).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(seeds, st.integers(2, 8), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_invariances(loss: Callable[..., Tensor], seed: int, num: int, num_classes: int) -> None:
    logits = normal(seed, num, num_classes)
    generator = torch.Generator().manual_seed(seed)
    shuffled = logits[torch.randperm(num, generator=generator)][
        :, torch.randperm(num_classes, generator=generator)
    ]
    value = loss(logits).item()
    assert loss(shuffled).item() == pytest.approx(value, rel=1e-9)
    assert loss(logits + normal(seed + 1, num, 1)).item() == pytest.approx(value, rel=1e-7)
    if loss is entropy_loss:  # the others weigh rows against one another: surer rows of one class gain nothing
        assert loss(3 * logits).item() < value


@pytest.mark.parametrize("loss", LOSSES[1:])  # the first takes its weights for constants
def test_gradcheck(loss: Callable[..., Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, normal(0, 4, 3).requires_grad_())
    assert torch.autograd.gradgradcheck(loss, normal(0, 4, 3).requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "one class", "identical", "constant", "sure", "large"])
def test_gradient_is_finite_in_corners(loss: Callable[..., Tensor], dtype: torch.dtype, corner: str) -> None:
    drawn = torch.randn(4, 6)
    logits = {
        "single": drawn[:1],
        "one class": drawn[:, :1],
        "identical": drawn[:1].repeat(4, 1),
        "constant": torch.full((4, 6), 0.1),
        "sure": 1e3 * torch.eye(6)[:1].repeat(4, 1),  # five classes that no float32 posterior reaches
        "large": 1e4 * drawn,
    }[corner]
    logits = logits.to(dtype).requires_grad_()
    value = loss(logits)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn(8, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits)
    assert torch.equal(inside, loss(logits))


def test_modules_are_the_functions() -> None:
    logits = torch.randn(8, 6)
    modules = (MinimumClassConfusionLoss(), EntropyLoss(), InformationMaximisationLoss())
    for module, loss in zip(modules, LOSSES, strict=True):
        assert torch.equal(module(logits), loss(logits))


@pytest.mark.parametrize("loss", LOSSES)
def test_bad_logits(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match=r"logits has shape \(3,\); expected two dimensions, \(batch, dim\)"):
        loss(torch.ones(3))
    with pytest.raises(InputError, match=r"logits has shape \(0, 2\); expected at least one row"):
        loss(torch.ones(0, 2))


def test_bad_temperature() -> None:
    for build in (
        lambda: minimum_class_confusion_loss(torch.ones(2, 2), 0.0),
        lambda: MinimumClassConfusionLoss(0.0),
    ):
        with pytest.raises(InputError, match=r"temperature is 0\.0; expected a positive, finite number"):
            build()
