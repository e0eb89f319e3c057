"""CORAL against NumPy's covariance, the published figure and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import logm
from torch import Tensor

from spkadapt.align.coral import CoralLoss, LogCoralLoss, coral_loss, log_coral_loss
from spkadapt.align.linear_algebra import covariance
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(2, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_coral(source: Tensor, target_domain: Tensor) -> float:
    covariances = [np.atleast_2d(np.cov(batch.numpy(), rowvar=False)) for batch in (source, target_domain)]
    return float(((covariances[0] - covariances[1]) ** 2).sum() / (4 * source.shape[1] ** 2))


def test_published_figure() -> None:
    # pytorch-adapt's figure for these batches; the source is drawn first.
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.normal(size=(64, 8)))
    target_domain = torch.from_numpy(1.5 * rng.normal(size=(64, 8)) + 0.5)
    assert coral_loss(source, target_domain).item() == pytest.approx(0.048131, abs=5e-7)
    assert coral_loss(source.float(), target_domain.float()).item() == pytest.approx(0.048131, abs=5e-7)


@given(seeds, sizes, sizes, st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_value_equals_numpy(seed: int, num_source: int, num_target: int, dim: int) -> None:
    source, target_domain = normal(seed, num_source, dim), 2 * normal(seed + 1, num_target, dim) + 1
    assert coral_loss(source, target_domain).item() == pytest.approx(numpy_coral(source, target_domain), rel=1e-10)


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (4, 1), (3, 3)])
def test_gradient(num_source: int, num_target: int) -> None:
    inputs = (normal(0, num_source, 3).requires_grad_(), normal(1, num_target, 3).requires_grad_())
    assert torch.autograd.gradcheck(coral_loss, inputs)
    assert torch.autograd.gradgradcheck(coral_loss, inputs)


@given(seeds, sizes, sizes)
@settings(max_examples=30, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = coral_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert loss > 0
    assert coral_loss(source, source).item() == 0
    assert coral_loss(target_domain, source).item() == loss
    assert coral_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert coral_loss(source + 7, target_domain - 3).item() == pytest.approx(loss, rel=1e-9)
    assert coral_loss(3 * source, 3 * target_domain).item() == pytest.approx(81 * loss, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "large"])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    source = {
        "single": torch.randn(1, 6),
        "identical": torch.ones(4, 6) * torch.arange(4)[:, None],
        "constant": torch.full((4, 6), 0.1),
        "large": 200 * torch.randn(4, 6),  # covariances of 40,000, squares beyond half precision
    }[corner]
    source = source.to(dtype).requires_grad_()
    target_domain = (torch.full((3, 6), 0.3) if corner == "constant" else source.detach().clone()).to(dtype)
    target_domain.requires_grad_()
    loss = coral_loss(source, 2 * target_domain if corner == "large" else target_domain)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        # The large gradient itself may exceed what half precision can hold.
        assert batch.grad.isfinite().all() or (corner == "large" and dtype == torch.float16)
    if corner != "large":
        assert loss.item() < 1e-12
        assert source.grad is not None
        assert source.grad.abs().max() < 1e-6


def test_autocast_changes_nothing() -> None:
    source, target_domain = torch.randn(8, 6), torch.randn(9, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = coral_loss(source, target_domain)
    assert torch.equal(inside, coral_loss(source, target_domain))


def test_module_is_the_function() -> None:
    source, target_domain = torch.randn(8, 6), torch.randn(9, 6)
    assert torch.equal(CoralLoss()(source, target_domain), coral_loss(source, target_domain))


def numpy_log_coral(source: Tensor, target_domain: Tensor, regularisation: float) -> float:
    first, second = (np.atleast_2d(np.cov(batch.numpy(), rowvar=False)) for batch in (source, target_domain))
    ridge = regularisation * (np.trace(first) + np.trace(second)) / (2 * len(first)) * np.eye(len(first))
    return float(((logm(first + ridge) - logm(second + ridge)) ** 2).sum() / (4 * len(first) ** 2))


def rows_with_covariance(matrix: Tensor) -> Tensor:
    """2 d rows whose unbiased covariance is exactly the symmetric positive definite matrix."""
    root = torch.linalg.cholesky(matrix) * ((2 * len(matrix) - 1) / 2) ** 0.5
    return torch.cat([root.T, -root.T])


@pytest.mark.filterwarnings("ignore:logm result may be inaccurate")  # by 1e-13
@given(seeds, sizes, sizes, st.integers(1, 6), st.sampled_from([1e-3, 0.1, 2.0]))
@settings(max_examples=30, deadline=None)
def test_log_value_equals_scipy(
    seed: int, num_source: int, num_target: int, dim: int, regularisation: float
) -> None:
    source, target_domain = normal(seed, num_source, dim), 2 * normal(seed + 1, num_target, dim) + 1
    expected = numpy_log_coral(source, target_domain, regularisation)
    assert log_coral_loss(source, target_domain, regularisation).item() == pytest.approx(expected, rel=1e-7)


def test_log_of_scaled_rows_in_closed_form() -> None:
    # log(a² C) = log C + 2 log a · I, whose squared norm is d (2 log a)²: L = log² a / d.
    source = normal(0, 50, 4)
    assert log_coral_loss(source, 3 * source, 1e-12).item() == pytest.approx(np.log(3) ** 2 / 4, rel=1e-9)


def test_log_of_commuting_covariances_in_closed_form() -> None:
    variances, others = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([2.0, 4.0, 100.0]).double()
    expected = (variances.log() - others.log()).square().sum() / (4 * 9)
    loss = log_coral_loss(rows_with_covariance(variances.diag()), rows_with_covariance(others.diag()), 1e-12)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    "eigenvalues", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (1.7, 1.7 + 1e-13, 3.0), (1e-2, 1.0, 1e2)]
)
def test_log_gradient_where_eigenvalues_are_equal_or_far_apart(eigenvalues: tuple[float, ...]) -> None:
    # Along a line of covariances A + h D, against the derivative of SciPy's logarithm by differences. A has equal
    # eigenvalues where eigh's own derivative would divide by zero.
    rotation, _ = torch.linalg.qr(normal(0, 3, 3))
    matrix = rotation @ torch.tensor(eigenvalues).double().diag() @ rotation.T
    direction = rotation @ (normal(1, 3, 3) + normal(1, 3, 3).T) @ rotation.T * min(eigenvalues)
    source, target_domain = rows_with_covariance(matrix), normal(2, 9, 3)
    source.requires_grad_()
    (gradient,) = torch.autograd.grad(log_coral_loss(source, target_domain, 1e-9), source)
    # The rows move as x + h M x with M A + A Mᵀ = D.
    move = torch.linalg.solve(matrix, direction).T / 2
    slope = (gradient * (source.detach() @ move.T)).sum().item()

    def along(step: float) -> float:
        return numpy_log_coral(source.detach() @ (torch.eye(3) + step * move).T, target_domain, 1e-9)

    assert slope == pytest.approx((along(1e-4) - along(-1e-4)) / 2e-4, rel=1e-5)


@given(seeds, sizes, sizes)
@settings(max_examples=30, deadline=None)
def test_log_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = log_coral_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    rotation, _ = torch.linalg.qr(normal(seed + 2, 4, 4))
    assert loss > 0
    assert log_coral_loss(source, source).item() == 0
    assert log_coral_loss(target_domain, source).item() == pytest.approx(loss, rel=1e-9)
    assert log_coral_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-7)
    assert log_coral_loss(source + 7, target_domain - 3).item() == pytest.approx(loss, rel=1e-6)
    assert log_coral_loss(30 * source, 30 * target_domain).item() == pytest.approx(loss, rel=1e-7)
    assert log_coral_loss(source @ rotation, target_domain @ rotation).item() == pytest.approx(loss, rel=1e-7)


def test_log_weighs_weak_directions_as_strong_ones() -> None:
    rows = normal(0, 100, 2)
    source, scales = rows * torch.tensor([100.0, 1.0]), (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]))
    strong, weak = (log_coral_loss(source, source * scale, 1e-12).item() for scale in scales)
    assert weak == pytest.approx(strong, rel=0.05)
    assert coral_loss(source, source * scales[0]) > 1e6 * coral_loss(source, source * scales[1])


def test_log_with_fewer_rows_than_dimensions_in_float32() -> None:
    # 40 rows in 256 dimensions: 217 eigenvalues are equal but for rounding.
    batches = [normal(0, 40, 256), 2 * normal(1, 30, 256) + 1]
    single = [batch.float().requires_grad_() for batch in batches]
    double = [batch.clone().requires_grad_() for batch in batches]
    losses = [log_coral_loss(*pair) for pair in (single, double)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    for in_single, in_double in zip(
        torch.autograd.grad(losses[0], single), torch.autograd.grad(losses[1], double), strict=True
    ):
        torch.testing.assert_close(in_single.double(), in_double, rtol=0, atol=1e-3 * in_double.abs().max().item())


def test_log_without_regularisation_to_speak_of_is_finite() -> None:
    # Rounding leaves some eigenvalues of a covariance of rank 3 below zero.
    source, target_domain = (normal(i, 4, 30).float().requires_grad_() for i in range(2))
    loss = log_coral_loss(source, target_domain, 1e-30)
    loss.backward()
    assert loss.isfinite()
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.isfinite().all()


@pytest.mark.parametrize("num_rows", [3, 5, 6, 7, 11, 100])
def test_covariance_of_constant_float32_rows_is_exactly_zero(num_rows: int) -> None:
    assert not covariance(normal(0, 200).float().repeat(num_rows, 1)).any()


def test_nearly_constant_features_leave_no_huge_gradient() -> None:
    # 0.1 · 3 / 3 is not 0.1 in float64: what a mean leaves behind must not be taken for a covariance.
    for dtype in (torch.float32, torch.float64):
        source = torch.full((3, 5), 0.1, dtype=dtype, requires_grad=True)
        log_coral_loss(source, torch.full((7, 5), 0.7, dtype=dtype)).backward()
        assert source.grad is not None
        assert source.grad.abs().max() < 1e-6


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_regularisation(regularisation: float) -> None:
    message = f"regularisation of log-CORAL is {regularisation}; expected a positive, finite number"
    with pytest.raises(InputError, match=message):
        log_coral_loss(torch.ones(2, 2), torch.ones(2, 2), regularisation)
    with pytest.raises(InputError, match=message):
        LogCoralLoss(regularisation)
