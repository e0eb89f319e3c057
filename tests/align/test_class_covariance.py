"""Within- and between-class covariances against loops over classes, expectations and degrees of freedom."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.class_covariance import between_covariance_loss, within_covariance_loss
from spkadapt.errors import InputError

LOSSES = [within_covariance_loss, between_covariance_loss]
seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_within(batch: Tensor, classes: Tensor) -> Tensor:
    total, degrees = torch.zeros(batch.shape[1], batch.shape[1]).double(), 0
    for c in set(classes.tolist()):
        rows = [row for row, label in zip(batch, classes, strict=True) if label == c]
        mean = sum(rows) / len(rows)
        total = total + sum(torch.outer(row - mean, row - mean) for row in rows)
        degrees += len(rows) - 1
    return total / degrees


def direct_between(batch: Tensor, classes: Tensor) -> Tensor:
    mean, total, sizes = sum(batch) / len(batch), torch.zeros(batch.shape[1], batch.shape[1]).double(), []
    for c in set(classes.tolist()):
        rows = [row for row, label in zip(batch, classes, strict=True) if label == c]
        offset = sum(rows) / len(rows) - mean
        total = total + len(rows) * torch.outer(offset, offset)
        sizes.append(len(rows))
    # Mean squares between and within; n0 is the size of a class that counts.
    n0 = (len(batch) - sum(size**2 for size in sizes) / len(batch)) / (len(sizes) - 1)
    return (total / (len(sizes) - 1) - direct_within(batch, classes)) / n0


SOURCE_CLASSES, TARGET_CLASSES = torch.tensor([7, 2, 7, 9, 2, 7, 4]), torch.tensor([0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize(("loss", "direct"), list(zip(LOSSES, [direct_within, direct_between], strict=True)))
@pytest.mark.parametrize("dim", [1, 3, 9])
def test_value_and_gradient_equal_the_definition(loss, direct, dim: int) -> None:  # type: ignore[no-untyped-def]
    pairs, twins = (
        [(normal(0, 7, dim) + 10).requires_grad_(), (2 * normal(1, 6, dim) - 5).requires_grad_()] for _ in range(2)
    )
    value = loss(pairs[0], SOURCE_CLASSES, pairs[1], TARGET_CLASSES)
    difference = direct(twins[0], SOURCE_CLASSES) - direct(twins[1], TARGET_CLASSES)
    twin = difference.square().sum() / (4 * dim**2)
    assert value.item() == pytest.approx(twin.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(value, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_closed_form() -> None:
    # Classes at ±4 with rows ±1 about them: W = 4 / 2 = 2, and B = (4 · 16 − 1 · 2) / (4 − 8 / 4) = 31.
    source, classes = torch.tensor([[-5.0], [-3.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    # Classes at ±1 with rows ±2: W = 16 / 2 = 8, and B = (4 · 1 − 8) / 2 = −2, as an unbiased estimate may be.
    target_domain = torch.tensor([[-3.0], [1.0], [-1.0], [3.0]])
    within = within_covariance_loss(source, classes, target_domain, classes)
    between = between_covariance_loss(source, classes, target_domain, classes)
    assert within.item() == pytest.approx((2 - 8) ** 2 / 4)
    assert between.item() == pytest.approx((31 + 2) ** 2 / 4)


def test_singletons_add_nothing_within_but_count_between() -> None:
    source, target_domain = normal(0, 6, 3), 2 * normal(1, 6, 3)
    classes, alone = torch.arange(6) // 2, torch.cat([torch.arange(6) // 2, torch.tensor([8, 9])])
    more = torch.cat([source, 100 * normal(2, 2, 3)])
    expected = within_covariance_loss(source, classes, target_domain, classes)
    within = within_covariance_loss(more, alone, target_domain, classes)
    assert within.item() == pytest.approx(expected.item(), rel=1e-9)
    assert between_covariance_loss(more, alone, target_domain, classes) > 1e3 * expected


def test_between_is_blind_to_the_spread_within_and_to_the_number_of_rows() -> None:
    # Domains of one between-class covariance I, but of 2 rows a class with W = 4 I, and 9 rows with W = I / 4. The
    # estimates agree within their sampling error; naive covariances of class means are 3 I and 1.03 I.
    means, others = normal(0, 3000, 2), normal(1, 3000, 2)
    source = means.repeat_interleave(2, dim=0) + 2 * normal(2, 6000, 2)
    target_domain = others.repeat_interleave(9, dim=0) + normal(3, 27000, 2) / 2
    classes = [torch.arange(3000).repeat_interleave(count) for count in (2, 9)]
    between = between_covariance_loss(source, classes[0], target_domain, classes[1]).item()
    within = within_covariance_loss(source, classes[0], target_domain, classes[1]).item()
    # An entry of B has a standard error of about √2 · 3 / √3000 = 0.08; four entries, squared, over 16.
    assert between < 4 * (4.5 * 0.08) ** 2 / 16
    assert within == pytest.approx(2 * (4 - 1 / 4) ** 2 / 16, rel=0.1)


@given(seeds, st.integers(4, 12), st.integers(4, 12))
@settings(max_examples=30, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 3), normal(seed + 1, num_target, 3)
    classes, others = torch.arange(num_source) % 3, torch.arange(num_target) // 2
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    for function in LOSSES:
        loss = function(source, classes, target_domain, others).item()
        assert loss > 0
        assert function(source, classes, source[order], classes[order]).item() == pytest.approx(0, abs=1e-20)
        assert function(target_domain, others, source, classes).item() == pytest.approx(loss, rel=1e-9)
        assert function(source[order], classes[order], target_domain, others).item() == pytest.approx(
            loss, rel=1e-9
        )
        # Numbers of classes mean nothing, and nothing across domains; nor do the domains' means.
        assert function(source, 1000 - 7 * classes, target_domain, others).item() == pytest.approx(loss, rel=1e-9)
        assert function(source + 7, classes, target_domain - 3, others).item() == pytest.approx(loss, rel=1e-7)
        assert function(3 * source, classes, 3 * target_domain, others).item() == pytest.approx(
            81 * loss, rel=1e-9
        )


def test_within_is_blind_to_the_class_means() -> None:
    source, target_domain = normal(0, 7, 3), normal(1, 6, 3)
    moved = source + 5 * normal(2, 10, 3)[SOURCE_CLASSES]
    value = within_covariance_loss(source, SOURCE_CLASSES, target_domain, TARGET_CLASSES)
    again = within_covariance_loss(moved, SOURCE_CLASSES, target_domain, TARGET_CLASSES)
    assert again.item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("function", "source_classes", "target_classes"),
    [
        (within_covariance_loss, [0, 1, 2, 3], [0, 0, 0, 0]),  # no two rows of a class
        (within_covariance_loss, [0, 0, 0, 0], [0, 1, 2, 3]),
        (between_covariance_loss, [0, 0, 1, 1], [5, 5, 5, 5]),  # a single class
        (between_covariance_loss, [5, 5, 5, 5], [0, 0, 1, 1]),
        (between_covariance_loss, [0, 0, 1, 1], [0, 1, 2, 3]),  # nothing to take the spread within from
    ],
)
def test_no_degrees_of_freedom_is_zero_with_zero_gradient(function, source_classes, target_classes) -> None:  # type: ignore[no-untyped-def]
    source, target_domain = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3).requires_grad_()
    loss = function(source, torch.tensor(source_classes), target_domain, torch.tensor(target_classes))
    loss.backward()
    assert loss.item() == 0
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert not batch.grad.any()


@pytest.mark.parametrize("function", LOSSES)
def test_bad_classes(function) -> None:  # type: ignore[no-untyped-def]
    rows, classes = torch.ones(3, 2), torch.tensor([0, 0, 1])
    cases = [
        (classes[:2], classes, r"source_classes has shape \(2,\); expected \(3,\), a class of each row"),
        (classes, classes[:, None], r"target_classes has shape \(3, 1\); expected \(3,\), a class of each row"),
        (classes.double(), classes, "source_classes holds torch.float64; expected integers"),
        (classes, classes.bool(), "target_classes holds torch.bool; expected integers"),
        (classes, classes - 1, "target_classes has the class -1; expected zero or more"),
    ]
    for source_classes, target_classes, message in cases:
        with pytest.raises(InputError, match=message):
            function(rows, source_classes, rows, target_classes)


def test_a_diverged_batch_without_degrees_of_freedom_shows_too() -> None:
    rows = torch.full((2, 2), math.nan)
    assert within_covariance_loss(rows, torch.tensor([0, 1]), rows, torch.tensor([0, 1])).isnan()
