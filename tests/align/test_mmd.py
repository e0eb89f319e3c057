"""MMD against a float64 double loop, published figures, a peer's convention and its properties."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align import kernel_blocks, mmd
from spkadapt.align.mmd import MmdLoss, linear_mmd_loss, mmd_loss, polynomial_mmd_loss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_distances(left: Tensor, right: Tensor) -> Tensor:
    return (left[:, None] - right[None]).square().sum(dim=2)


def direct_median(source: Tensor, target_domain: Tensor) -> float:
    rows = torch.cat([source, target_domain])
    pairs = sorted(
        (rows[i] - rows[j]).square().sum().item()
        for i in range(len(rows))
        for j in range(i)
        if (rows[i] != rows[j]).any()
    )
    return pairs[(len(pairs) - 1) // 2] if pairs else 1.0


def direct_mmd(
    source: Tensor, target_domain: Tensor, bandwidths: Sequence[float] | None = None, unbiased: bool = False
) -> Tensor:
    """The definition, on whole (n, n, d) tensors, differentiated by autograd."""
    if bandwidths is None:
        median = direct_median(source.detach(), target_domain.detach())
        bandwidths = [median / 4, median / 2, median, median * 2, median * 4]

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        distances = direct_distances(left, right)
        return sum((-distances / gamma).exp() for gamma in bandwidths) / len(bandwidths)

    def mean_within(batch: Tensor) -> Tensor:
        n = len(batch)
        return (kernel(batch, batch).sum() - n) / (n * (n - 1)) if unbiased else kernel(batch, batch).mean()

    return mean_within(source) + mean_within(target_domain) - 2 * kernel(source, target_domain).mean()


def test_published_quadratic_figure() -> None:
    # The figure is pytorch-adapt's "quadratic" MMD: a U-statistic with a γ of the median of ‖s − s'‖², here 1.
    source, target_domain = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [3.0], [4.0]])
    loss = mmd_loss(source, target_domain, bandwidths=[1.0], unbiased=True)
    assert loss.item() == pytest.approx(-0.2769, abs=5e-5)


def test_peer_convention() -> None:
    # Five scales in pytorch-adapt: exp(−scale · ‖x − y‖² / median of ‖s − s'‖²), averaged.
    source, target_domain = normal(0, 6, 4), normal(1, 5, 4) + 1
    median = direct_distances(source, source).median().item()
    scales = [0.25, 0.5, 1.0, 2.0, 4.0]

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return sum(torch.exp(-scale / median * direct_distances(left, right)) for scale in scales) / len(scales)

    within = [
        kernel(batch, batch).fill_diagonal_(0).sum() / (len(batch) * (len(batch) - 1))
        for batch in (source, target_domain)
    ]
    peer = within[0] + within[1] - 2 * kernel(source, target_domain).mean()
    ours = mmd_loss(source, target_domain, [median / scale for scale in scales], unbiased=True)
    assert ours.item() == pytest.approx(peer.item(), rel=1e-10)


def test_two_rows_in_closed_form() -> None:
    # One row of each at distance r: MMD² = 2 − 2 exp(−r² / γ), and r² is its own median.
    source, target_domain = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert mmd_loss(source, target_domain, [50.0]).item() == pytest.approx(2 - 2 * math.exp(-0.5), rel=1e-6)
    by_median = 2 - 2 * sum(math.exp(-1 / multiple) for multiple in (0.25, 0.5, 1, 2, 4)) / 5
    assert mmd_loss(source, target_domain).item() == pytest.approx(by_median, rel=1e-6)


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
@pytest.mark.parametrize("bandwidths", [None, [0.7, 3.0]])
@pytest.mark.parametrize("unbiased", [False, True])
def test_value_and_gradient_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, bandwidths: list[float] | None, unbiased: bool
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    # Far from the origin, where forming distances from products costs the most digits.
    pairs = [normal(0, 5, 3).add_(100).requires_grad_(), normal(1, 8, 3).mul_(2).add_(101).requires_grad_()]
    twins = [batch.detach().clone().requires_grad_() for batch in pairs]
    loss, twin = mmd_loss(*pairs, bandwidths, unbiased), direct_mmd(*twins, bandwidths, unbiased)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    (3 * loss).backward()
    (3 * twin).backward()
    for ours, theirs in zip(pairs, twins, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("num_source", "num_target"), [(4, 3), (2, 5)])
def test_gradcheck(num_source: int, num_target: int, unbiased: bool) -> None:
    inputs = (normal(0, num_source, 3).requires_grad_(), normal(1, num_target, 3).requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: mmd_loss(s, t, [1.0, 5.0], unbiased), inputs)


def test_gradient_of_one_domain_alone() -> None:
    source, target_domain = normal(0, 4, 3).requires_grad_(), normal(1, 3, 3)
    (alone,) = torch.autograd.grad(mmd_loss(source, target_domain), source)
    both = torch.autograd.grad(mmd_loss(source, target_domain.requires_grad_()), (source, target_domain))
    assert torch.equal(alone, both[0])


def test_second_derivative_is_refused() -> None:
    source = normal(0, 4, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="mmd_loss has no second derivative; call without create_graph"):
        torch.autograd.grad(mmd_loss(source, normal(1, 3, 3)), source, create_graph=True)


def test_float32_at_many_rows_keeps_its_digits() -> None:
    # The loss is a thousandth of the means it is a difference of.
    source, target_domain = normal(0, 1500, 32), normal(1, 1300, 32) + 0.02
    exact = mmd_loss(source, target_domain, [64.0]).item()
    in_float32 = mmd_loss(source.float() + 10, target_domain.float() + 10, [64.0]).item()
    assert exact < 2e-3
    assert in_float32 == pytest.approx(exact, rel=1e-3)


@given(seeds, sizes, sizes, st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int, dim: int) -> None:
    source, target_domain = normal(seed, num_source, dim), normal(seed + 1, num_target, dim)
    loss = mmd_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert 0 < loss <= 2
    assert mmd_loss(target_domain, source).item() == pytest.approx(loss, rel=1e-9)
    assert mmd_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert mmd_loss(source + 5, target_domain + 5).item() == pytest.approx(loss, rel=1e-6)
    # The median carries the unit, so the loss has none.
    assert mmd_loss(1000 * source, 1000 * target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert mmd_loss(source, source.clone()).item() == pytest.approx(0, abs=1e-14)
    assert mmd_loss(source, source[order]).item() == pytest.approx(0, abs=1e-14)


def test_grows_with_the_shift_between_means() -> None:
    source, target_domain = normal(0, 200, 8), normal(1, 150, 8)
    losses = [mmd_loss(source, target_domain + shift, [16.0]).item() for shift in (0, 0.25, 0.5, 1, 2, 4)]
    assert losses == sorted(losses)
    assert losses[-1] > 100 * losses[0]
    assert losses[-1] == pytest.approx(direct_mmd(source, target_domain + 4, [16.0]).item(), rel=1e-9)


def test_unbiased_has_mean_zero_under_the_null() -> None:
    # Over 400 independent batches the mean lies within 4.5 standard errors of 0 (chance of a false alarm below
    # 1e-5); that of the V-statistic lies far beyond.
    values = torch.stack(
        [mmd_loss(normal(2 * i, 12, 3), normal(2 * i + 1, 9, 3), [4.0], unbiased=True) for i in range(400)]
    )
    standard_error = (values.std() / math.sqrt(len(values))).item()
    assert abs(values.mean().item()) < 4.5 * standard_error
    biased = torch.stack([mmd_loss(normal(2 * i, 12, 3), normal(2 * i + 1, 9, 3), [4.0]) for i in range(400)])
    assert biased.mean().item() > 20 * standard_error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "two constants", "large"])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    drawn = torch.randn(4, 6)
    source, target_domain = {
        "single": (drawn[:1], drawn[1:2]),
        "identical": (drawn, drawn.clone()),
        "constant": (torch.full((3, 6), 0.1), torch.full((5, 6), 0.1)),
        "two constants": (torch.full((3, 6), 0.1), torch.full((5, 6), 0.7)),
        "large": (200 * drawn, 200 * drawn.flip(0) + 300),
    }[corner]
    source, target_domain = source.to(dtype).requires_grad_(), target_domain.to(dtype).requires_grad_()
    loss = mmd_loss(source, target_domain)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        assert batch.grad.isfinite().all()
    if corner == "constant":
        assert loss.item() == pytest.approx(0, abs=1e-7)
        assert source.grad is not None
        assert not source.grad.any()
    if corner == "identical":
        assert loss.item() == pytest.approx(0, abs=1e-7)
    if corner == "two constants":  # the same as two single rows: the median skips the zeros within
        expected = 2 - 2 * sum(math.exp(-1 / multiple) for multiple in (0.25, 0.5, 1, 2, 4)) / 5
        assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_equal_rows_are_at_distance_zero_in_float32(seed: int) -> None:
    # Most pairs are of equal rows: were their distance mere rounding error, it would be the median and the loss 2.
    source, target_domain = (normal(2 * seed + i, 512).float().repeat(n, 1) for i, n in enumerate((20, 4)))
    expected = 2 - 2 * sum(math.exp(-1 / multiple) for multiple in (0.25, 0.5, 1, 2, 4)) / 5
    assert mmd_loss(source, target_domain).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_batch_shows(value: float) -> None:
    source = torch.randn(4, 3)
    source[1, 1] = value
    assert mmd_loss(source, torch.randn(5, 3)).isnan()


def test_autocast_changes_nothing() -> None:
    source, target_domain = torch.randn(8, 6, requires_grad=True), torch.randn(9, 6)
    outside = mmd_loss(source, target_domain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mmd_loss(source, target_domain)
    assert torch.equal(inside, outside)
    assert torch.equal(torch.autograd.grad(inside, source)[0], torch.autograd.grad(outside, source)[0])


@given(seeds, st.integers(2, 12), st.sampled_from([0.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_median(seed: int, num_rows: int, offset: float) -> None:
    rows = (normal(seed, num_rows, 3) * 2).round() / 2 + offset  # so that some rows may be equal
    expected = direct_median(rows[:1], rows[1:])
    assert mmd.median_squared_distance(rows).item() == pytest.approx(expected, rel=1e-9)


def test_median_of_many_rows_is_close_on_a_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normal(0, 900, 8)
    exact = mmd.median_squared_distance(rows).item()
    monkeypatch.setattr(mmd, "MEDIAN_ROWS", 300)
    assert mmd.median_squared_distance(rows).item() == mmd.median_squared_distance(rows[::3]).item()
    assert mmd.median_squared_distance(rows).item() == pytest.approx(exact, rel=0.05)


def test_module_is_the_function() -> None:
    source, target_domain = torch.randn(8, 6), torch.randn(9, 6)
    loss = MmdLoss([2.0], unbiased=True)(source, target_domain)
    assert torch.equal(loss, mmd_loss(source, target_domain, [2.0], unbiased=True))
    assert not torch.equal(loss, MmdLoss()(source, target_domain))


@pytest.mark.parametrize("bandwidths", [[], [0.0], [1.0, -2.0], [math.nan], [math.inf]])
def test_bad_bandwidths(bandwidths: list[float]) -> None:
    message = r"MMD bandwidths are \[.*\]; expected one or more positive, finite numbers"
    with pytest.raises(InputError, match=message):
        mmd_loss(torch.ones(2, 2), torch.ones(2, 2), bandwidths)
    with pytest.raises(InputError, match=message):
        MmdLoss(bandwidths)


def test_unbiased_needs_two_rows_of_each() -> None:
    message = "unbiased MMD of 3 source and 1 target_domain rows; expected at least two of each"
    with pytest.raises(InputError, match=message):
        mmd_loss(torch.ones(3, 2), torch.ones(1, 2), unbiased=True)


def direct_polynomial(
    source: Tensor, target_domain: Tensor, degree: int, scale: float, offset: float, unbiased: bool
) -> Tensor:
    """The definition, pair by pair."""

    def mean(left: Tensor, right: Tensor, own_pairs: bool) -> Tensor:
        pairs = [
            (scale * (left[i] * right[j]).sum() + offset) ** degree
            for i in range(len(left))
            for j in range(len(right))
            if own_pairs or i != j
        ]
        return torch.stack(pairs).mean()

    within = mean(source, source, not unbiased) + mean(target_domain, target_domain, not unbiased)
    return within - 2 * mean(source, target_domain, True)


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
@pytest.mark.parametrize(
    ("degree", "scale", "offset"), [(1, 1.0, 0.0), (2, 0.3, 1.0), (3, 0.25, 1.0), (4, 1.0, 2.0)]
)
@pytest.mark.parametrize("unbiased", [False, True])
def test_polynomial_equals_the_definition(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, degree: int, scale: float, offset: float, unbiased: bool
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    pairs = [normal(0, 5, 4).add_(1).requires_grad_(), normal(1, 7, 4).mul_(2).requires_grad_()]
    twins = [batch.detach().clone().requires_grad_() for batch in pairs]
    loss = polynomial_mmd_loss(*pairs, degree, scale, offset, unbiased)
    twin = direct_polynomial(*twins, degree, scale, offset, unbiased)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-10)
    loss.backward()
    twin.backward()
    for ours, theirs in zip(pairs, twins, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)


def test_polynomial_of_two_rows_in_closed_form() -> None:
    # ⟨s, s⟩ = 4, ⟨t, t⟩ = 16, ⟨s, t⟩ = 0, scale 1/2: 3³ + 9³ − 2 · 1³.
    source, target_domain = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert polynomial_mmd_loss(source, target_domain).item() == 27 + 729 - 2


def test_polynomial_sees_no_moment_beyond_its_degree() -> None:
    # One coordinate, same mean and variance, other skewness and fourth moment.
    source = torch.tensor([[-1.0], [1.0]]).double()
    target_domain = torch.tensor([[-2.0], [0.5], [0.5], [0.5], [0.5]]).double()
    for degree in (1, 2):
        assert polynomial_mmd_loss(source, target_domain, degree).item() == pytest.approx(0, abs=1e-12)
    # E t³ = −1.5: of (x y + 1)³ only the cubic term differs.
    assert polynomial_mmd_loss(source, target_domain, 3).item() == pytest.approx(1.5**2, rel=1e-12)


@given(seeds, sizes, sizes)
@settings(max_examples=20, deadline=None)
def test_polynomial_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = polynomial_mmd_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert loss > 0
    assert polynomial_mmd_loss(target_domain, source).item() == pytest.approx(loss, rel=1e-9)
    assert polynomial_mmd_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert polynomial_mmd_loss(source, source[order]).item() == pytest.approx(0, abs=1e-10)


def direct_linear(source: Tensor, target_domain: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Lemma 14 of Gretton et al., quadruple by quadruple."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return sum((-(x - y).square().sum() / gamma).exp() for gamma in bandwidths) / len(bandwidths)

    terms = []
    for i in range(min(len(source), len(target_domain)) // 2):
        (s1, s2), (t1, t2) = source[2 * i : 2 * i + 2], target_domain[2 * i : 2 * i + 2]
        terms.append(kernel(s1, s2) + kernel(t1, t2) - kernel(s1, t2) - kernel(s2, t1))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("num_source", "num_target"), [(2, 2), (5, 9), (8, 3), (6, 6)])
@pytest.mark.parametrize("bandwidths", [None, [0.7, 3.0]])
def test_linear_equals_the_definition(num_source: int, num_target: int, bandwidths: list[float] | None) -> None:
    pairs = [normal(0, num_source, 3).requires_grad_(), normal(1, num_target, 3).add_(1).requires_grad_()]
    twins = [batch.detach().clone().requires_grad_() for batch in pairs]
    median = direct_median(twins[0].detach(), twins[1].detach())
    loss = linear_mmd_loss(*pairs, bandwidths)
    twin = direct_linear(*twins, bandwidths or [median * multiple for multiple in (0.25, 0.5, 1, 2, 4)])
    assert loss.item() == pytest.approx(twin.item(), rel=1e-10)
    for ours, theirs in zip(torch.autograd.grad(loss, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_linear_estimates_what_the_unbiased_quadratic_does() -> None:
    # Over 300 batches of two distributions the means agree within 4.5 standard errors, and are far from zero.
    batches = [(normal(2 * i, 16, 3), normal(2 * i + 1, 16, 3) + 1) for i in range(300)]
    linear = torch.stack([linear_mmd_loss(s, t, [4.0]) for s, t in batches])
    quadratic = torch.stack([mmd_loss(s, t, [4.0], unbiased=True) for s, t in batches])
    difference = linear - quadratic
    assert abs(difference.mean().item()) < 4.5 * difference.std().item() / math.sqrt(300)
    assert linear.mean().item() > 10 * linear.std().item() / math.sqrt(300)
    assert linear.std() > 1.5 * quadratic.std()


def test_linear_needs_two_rows_of_each() -> None:
    message = "linear-time MMD of 1 source and 4 target_domain rows; expected at least two of each"
    with pytest.raises(InputError, match=message):
        linear_mmd_loss(torch.ones(1, 2), torch.ones(4, 2))


def test_bad_polynomials() -> None:
    one = torch.ones(2, 2)
    with pytest.raises(InputError, match="degree of the polynomial kernel is 0; expected at least 1"):
        polynomial_mmd_loss(one, one, degree=0)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(
            InputError, match=f"scale of the polynomial kernel is {scale}; expected a positive, fin"
        ):
            mmd.PolynomialMmdLoss(scale=scale)
    for offset in (-1.0, math.nan, math.inf):
        with pytest.raises(
            InputError, match=f"offset of the polynomial kernel is {offset}; expected zero or more"
        ):
            polynomial_mmd_loss(one, one, offset=offset)
    with pytest.raises(
        InputError, match="unbiased MMD of 1 source and 2 target_domain rows; expected at least two"
    ):
        polynomial_mmd_loss(one[:1], one, unbiased=True)
    with pytest.raises(InputError, match=r"MMD bandwidths are \[0.0\]"):
        mmd.LinearMmdLoss([0.0])
    with pytest.raises(InputError, match=r"MMD bandwidths are \[0.0\]"):
        linear_mmd_loss(one, one, [0.0])
