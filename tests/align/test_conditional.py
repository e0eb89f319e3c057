"""Class-conditional and joint MMD against their definitions, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align import kernel_blocks
from spkadapt.align.conditional import JointMmdLoss, LmmdLoss, joint_mmd_loss, lmmd_loss
from spkadapt.align.mmd import mmd_loss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(seed: int, num_rows: int, num_classes: int) -> Tensor:
    return (2 * normal(seed, num_rows, num_classes)).softmax(dim=1)


def kernel(x: Tensor, y: Tensor, bandwidths: list[float]) -> Tensor:
    return sum((-(x - y).square().sum() / gamma).exp() for gamma in bandwidths) / len(bandwidths)


def direct_lmmd(
    source: Tensor, target_domain: Tensor, classes: Tensor, probabilities: Tensor, bandwidths: list[float]
) -> Tensor:
    """Equation 6 of Zhu et al., class by class and pair by pair."""
    common = set(classes.tolist()) & set(probabilities.argmax(dim=1).tolist())
    terms = []
    for c in common:
        u = [float(y == c) / sum(classes == c).item() for y in classes]
        v = [p.item() / probabilities[:, c].sum().item() for p in probabilities[:, c]]
        terms += [
            u[i] * u[j] * kernel(source[i], source[j], bandwidths) for i in range(len(u)) for j in range(len(u))
        ]
        terms += [
            v[i] * v[j] * kernel(target_domain[i], target_domain[j], bandwidths)
            for i in range(len(v))
            for j in range(len(v))
        ]
        terms += [
            -2 * u[i] * v[j] * kernel(source[i], target_domain[j], bandwidths)
            for i in range(len(u))
            for j in range(len(v))
        ]
    return sum(terms, start=source.new_zeros(())) / max(len(common), 1)


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
@pytest.mark.parametrize("bandwidths", [[2.0], [0.7, 3.0]])
def test_lmmd_equals_the_definition(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, bandwidths: list[float]
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    # Class 3 has no source row, and class 4 is nobody's most probable: 0, 1, 2 remain of five.
    classes, probabilities = torch.tensor([0, 1, 0, 2, 4, 1]), softmax(2, 7, 5)
    probabilities[:5, :4] += torch.eye(4)[[0, 1, 2, 3, 3]].double() * 3
    probabilities[:, 4] /= 10
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    assert set(probabilities.argmax(dim=1).tolist()) == {0, 1, 2, 3}
    pairs, twins = (
        [(normal(0, 6, 3) + 20).requires_grad_(), (2 * normal(1, 7, 3) + 21).requires_grad_()] for _ in range(2)
    )
    loss = lmmd_loss(*pairs, classes, probabilities, bandwidths)
    twin = direct_lmmd(*twins, classes, probabilities, bandwidths)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(loss, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_lmmd_of_pseudo_labels_is_the_mean_of_each_class() -> None:
    source, target_domain = normal(0, 8, 3), normal(1, 6, 3) + 1
    classes, pseudo = torch.tensor([0, 0, 1, 1, 1, 5, 5, 5]), torch.tensor([0, 1, 0, 1, 1, 2])
    loss = lmmd_loss(source, target_domain, classes, torch.eye(6)[pseudo], [3.0])
    expected = sum(mmd_loss(source[classes == c], target_domain[pseudo == c], [3.0]).item() for c in (0, 1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_lmmd_of_one_class_is_mmd() -> None:
    source, target_domain = normal(0, 5, 3), normal(1, 4, 3) + 1
    loss = lmmd_loss(source, target_domain, torch.zeros(5).long(), torch.ones(4, 1))
    assert loss.item() == pytest.approx(mmd_loss(source, target_domain).item(), rel=1e-9)


def test_lmmd_sees_classes_swapped_where_mmd_does_not() -> None:
    rows, classes = torch.cat([normal(0, 20, 2) - 3, normal(1, 20, 2) + 3]), torch.arange(40) // 20
    matched, swapped = torch.eye(2)[classes], torch.eye(2)[1 - classes]
    assert mmd_loss(rows, rows).item() == pytest.approx(0, abs=1e-12)
    assert lmmd_loss(rows, rows, classes, matched).item() == pytest.approx(0, abs=1e-12)
    assert lmmd_loss(rows, rows, classes, swapped).item() > 0.5


def test_lmmd_without_a_common_class_is_zero_with_zero_gradient() -> None:
    source, target_domain = normal(0, 4, 3).requires_grad_(), normal(1, 3, 3).requires_grad_()
    loss = lmmd_loss(source, target_domain, torch.zeros(4).long(), torch.eye(3).double()[[1, 2, 2]])
    loss.backward()
    assert loss.item() == 0
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert not batch.grad.any()


def test_lmmd_gives_the_probabilities_no_gradient() -> None:
    probabilities = softmax(2, 3, 2).requires_grad_()
    loss = lmmd_loss(normal(0, 4, 3).requires_grad_(), normal(1, 3, 3), torch.tensor([0, 1, 0, 1]), probabilities)
    loss.backward()
    assert probabilities.grad is None


@given(seeds, sizes, sizes)
@settings(max_examples=25, deadline=None)
def test_lmmd_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (num_source,), generator=generator)
    probabilities = softmax(seed + 2, num_target, 3)
    loss = lmmd_loss(source, target_domain, classes, probabilities).item()
    rows, columns = torch.randperm(num_source, generator=generator), torch.tensor([2, 0, 1])
    assert loss >= 0
    assert lmmd_loss(source[rows], target_domain, classes[rows], probabilities).item() == pytest.approx(
        loss, rel=1e-9
    )
    # Renaming the classes changes nothing: class c is now where `columns` has c.
    renamed = columns.argsort()[classes]
    assert lmmd_loss(source, target_domain, renamed, probabilities[:, columns]).item() == pytest.approx(
        loss, rel=1e-9
    )
    assert lmmd_loss(source, source[rows], classes, torch.eye(3)[classes[rows]]).item() == pytest.approx(
        0, abs=1e-13
    )


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
def test_joint_equals_the_definition(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    bandwidths = [[2.0], [0.7, 3.0], [9.0]]

    def layers(seed: int, num_rows: int) -> list[Tensor]:
        return [normal(seed + i, num_rows, dim).requires_grad_() for i, dim in enumerate((3, 1, 5))]

    def product(x: int, y: int, left: list[Tensor], right: list[Tensor]) -> Tensor:
        parts = [kernel(a[x], b[y], gammas) for a, b, gammas in zip(left, right, bandwidths, strict=True)]
        return parts[0] * parts[1] * parts[2]

    def mean(left: list[Tensor], right: list[Tensor]) -> Tensor:
        return torch.stack(
            [product(x, y, left, right) for x in range(len(left[0])) for y in range(len(right[0]))]
        ).mean()

    (sources, targets), (twins, twin_targets) = ((layers(0, 4), layers(9, 6)) for _ in range(2))
    loss = joint_mmd_loss(sources, targets, bandwidths)
    twin = mean(twins, twins) + mean(twin_targets, twin_targets) - 2 * mean(twins, twin_targets)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    ours = torch.autograd.grad(loss, sources + targets)
    for gradient, expected in zip(ours, torch.autograd.grad(twin, twins + twin_targets), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_joint_of_one_layer_is_mmd() -> None:
    source, target_domain = normal(0, 5, 3), normal(1, 4, 3) + 1
    expected = mmd_loss(source, target_domain).item()
    assert joint_mmd_loss([source], [target_domain]).item() == pytest.approx(expected, rel=1e-12)
    # A layer that is constant has a kernel of one, and changes nothing.
    ones = [torch.ones(5, 2), torch.ones(4, 2)]
    assert joint_mmd_loss([source, ones[0]], [target_domain, ones[1]]).item() == pytest.approx(expected, rel=1e-9)


def test_joint_sees_how_layers_go_together_where_each_alone_agrees() -> None:
    rows = normal(0, 40, 2)
    assert joint_mmd_loss([rows, rows], [rows, rows]).item() == pytest.approx(0, abs=1e-12)
    assert joint_mmd_loss([rows, rows], [rows, rows.flip(0)]).item() > 0.05


def test_joint_layers_in_several_precisions() -> None:
    sources = [normal(0, 4, 3).requires_grad_(), normal(1, 4, 2).half().requires_grad_()]
    targets = [normal(2, 5, 3).float().requires_grad_(), normal(3, 5, 2).float().requires_grad_()]
    loss = joint_mmd_loss(sources, targets)
    loss.backward()
    exact = joint_mmd_loss([x.detach().double() for x in sources], [x.detach().double() for x in targets])
    assert loss.item() == pytest.approx(exact.item(), rel=1e-12)
    for layer in sources + targets:
        assert layer.grad is not None
        assert layer.grad.dtype == layer.dtype


@given(seeds, sizes, sizes)
@settings(max_examples=20, deadline=None)
def test_joint_properties(seed: int, num_source: int, num_target: int) -> None:
    sources = [normal(seed, num_source, 4), normal(seed + 1, num_source, 2)]
    targets = [normal(seed + 2, num_target, 4), normal(seed + 3, num_target, 2)]
    loss = joint_mmd_loss(sources, targets).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert 0 < loss <= 2
    assert joint_mmd_loss(targets, sources).item() == pytest.approx(loss, rel=1e-9)
    assert joint_mmd_loss([x[order] for x in sources], targets).item() == pytest.approx(loss, rel=1e-9)
    assert joint_mmd_loss(sources[::-1], targets[::-1]).item() == pytest.approx(loss, rel=1e-9)
    assert joint_mmd_loss(sources, [x[order] for x in sources]).item() == pytest.approx(0, abs=1e-13)


def test_bad_classes_and_probabilities() -> None:
    source, target_domain, classes = torch.ones(3, 2), torch.ones(2, 2), torch.tensor([0, 1, 0])
    uniform = torch.full((2, 4), 0.25)
    cases = [
        (classes[:2], uniform, r"source_classes has shape \(2,\); expected \(3,\), a class of each row"),
        (classes.float(), uniform, "source_classes holds torch.float32; expected integers"),
        (classes - 1, uniform, "source_classes has the class -1; expected zero or more"),
        (classes + 3, uniform, "source_classes has the class 4; expected less than 4"),
        (classes, uniform[:1], "target_probabilities has 1 rows; expected 2, as target_domain"),
        (classes, uniform[0], r"target_probabilities has shape \(4,\); expected \(batch, num_classes\)"),
        (classes, uniform[:0], r"target_probabilities has shape \(0, 4\); expected \(batch, num_classes\)"),
        (classes, uniform.long(), "target_probabilities holds torch.int64; expected floating point"),
        (
            classes,
            torch.tensor([[0.5, 0.5], [3.0, -2.0]]),
            "target_probabilities of row 1 sum to 1, the least -2; expected probabilities, as of a softmax",
        ),
        (classes, 2 * uniform, "target_probabilities of row 0 sum to 2, the least 0.5; expected probabilities"),
    ]
    for bad_classes, bad_probabilities, message in cases:
        with pytest.raises(InputError, match=message):
            lmmd_loss(source, target_domain, bad_classes, bad_probabilities)
    with pytest.raises(InputError, match=r"MMD bandwidths are \[\]"):
        lmmd_loss(source, target_domain, classes, uniform, [])
    with pytest.raises(InputError, match=r"MMD bandwidths are \[-1.0\]"):
        LmmdLoss([-1.0])


def test_probabilities_that_are_nan_show() -> None:
    probabilities = torch.tensor([[math.nan, math.nan], [0.5, 0.5]])
    assert lmmd_loss(torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 1]), probabilities).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_softmax_over_many_classes_in_half_precision_passes(dtype: torch.dtype) -> None:
    # Each 1 / 5003 rounds the same way: in bfloat16 they sum to 1.002.
    probabilities = torch.zeros(4, 5003, dtype=dtype).softmax(dim=1)
    loss = lmmd_loss(torch.randn(2, 3), torch.randn(4, 3), probabilities[:2].argmax(dim=1), probabilities)
    assert loss.isfinite()


def test_bad_layers() -> None:
    rows = torch.ones(3, 2)
    with pytest.raises(InputError, match="0 source and 0 target_domain layers; expected as many, at least one"):
        joint_mmd_loss([], [])
    with pytest.raises(InputError, match="2 source and 1 target_domain layers; expected as many, at least one"):
        joint_mmd_loss([rows, rows], [rows])
    message = r"layers have \(source, target_domain\) rows \[\(3, 3\), \(2, 3\)\]; expected the same rows in each"
    with pytest.raises(InputError, match=message):
        joint_mmd_loss([rows, rows[:2]], [rows, rows])
    with pytest.raises(InputError, match="bandwidths of 1 layers; expected those of 2"):
        joint_mmd_loss([rows, rows], [rows, rows], [[1.0]])
    with pytest.raises(InputError, match=r"MMD bandwidths are \[0.0\]"):
        JointMmdLoss([None, [0.0]])
