"""Units of RBMs: noise against its exact distribution, rectified units against quadrature, log-normalisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from spkadapt.pretrain.units import log_normaliser, mean_and_sample, rectified_moments, sample_bernoulli, unit_mean


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class ThresholdProbe:
    """Finds the uniform numbers behind `sample_bernoulli` by bisection, from its answers alone."""

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        low, high = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
        for _ in range(24):
            middle = (low + high) / 2
            below = sample_bernoulli(middle.float(), generator(seed)).bool()
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        self.uniform = low.numpy()


def test_float32_noise_is_uniform_on_the_grid_of_24_bits() -> None:
    uniform = ThresholdProbe((2000, 500), seed=3).uniform
    n = uniform.size
    assert uniform.min() >= 0
    assert uniform.max() < 1
    # Dvoretzky-Kiefer-Wolfowitz: P(D > t) ≤ 2 exp(−2nt²) = 1e-9; for the low bits by Pearson's test.
    assert scipy.stats.kstest(uniform.ravel(), "uniform").statistic < math.sqrt(math.log(2e9) / (2 * n))
    whole = (uniform * 2**24).astype(np.int64)
    np.testing.assert_array_equal(whole / 2**24, uniform)
    assert len(np.unique(whole[:, 0] % 256)) == 256
    low_bits = np.bincount(whole[:, 0] % 16, minlength=16)
    high_bits = np.bincount((whole >> 16).ravel() % 256, minlength=256)
    for counts in (low_bits, high_bits):
        assert scipy.stats.chisquare(counts).pvalue > 1e-6


def test_float32_noise_has_no_correlation_between_elements_rows_or_calls() -> None:
    first = ThresholdProbe((4000, 40), seed=1).uniform
    second = ThresholdProbe((4000, 40), seed=2).uniform
    columns = np.corrcoef(np.hstack((first, second, first[:, :1] ** 2)), rowvar=False)
    rows = np.corrcoef(first[:80].reshape(40, 80))
    # |r| of n independent pairs: 5.5 standard errors 1/√n, over some 3,200 pairs.
    assert np.abs(columns - np.eye(81))[:80, :80].max() < 5.5 / math.sqrt(4000)
    assert np.abs(rows - np.eye(40)).max() < 5.5 / math.sqrt(80)
    neighbours = np.corrcoef(first.ravel()[:-1], first.ravel()[1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(first.size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_bernoulli_frequencies_are_the_probabilities(dtype: torch.dtype) -> None:
    probabilities = torch.tensor([0.0, 2**-10, 0.25, 0.5, 0.8125, 1 - 2**-8, 1.0], dtype=dtype)
    num_rows = 200_000
    sample = sample_bernoulli(probabilities.expand(num_rows, 7).contiguous(), generator())
    assert sample.dtype == dtype
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    found, p = sample.double().mean(dim=0).numpy(), probabilities.double().numpy()
    np.testing.assert_array_equal(found[[0, -1]], [0, 1])
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / num_rows)).all()


def test_a_row_count_that_fills_no_whole_word_is_sampled_too() -> None:
    for shape in ((1, 1), (3, 5), (1, 7)):
        assert sample_bernoulli(torch.ones(shape), generator()).shape == shape


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "rectified"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_of_a_batch_has_noise_of_its_own(kind: str, dtype: torch.dtype) -> None:
    _, sample = mean_and_sample(kind, torch.zeros(50, 64, dtype=dtype), generator())
    assert len(sample.unique(dim=0)) == 50
    assert len(sample.T.unique(dim=0)) == 64


def rectified_oracle(x: float) -> tuple[float, float]:
    """Mean and variance of max(0, x + N(0, σ(x))) by quadrature."""
    deviation = math.sqrt(scipy.special.expit(x))
    density = scipy.stats.norm(x, deviation).pdf
    low, high = max(0.0, x - 12 * deviation), max(0.0, x + 12 * deviation)
    first, second = (
        scipy.integrate.quad(lambda y, k=k: y**k * density(y), low, high, epsabs=1e-13, limit=200)[0]
        for k in (1, 2)
    )
    return first, second - first**2


def test_rectified_moments_are_those_of_the_density() -> None:
    inputs = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.7, 2.0, 9.0], dtype=torch.float64)
    mean, variance = rectified_moments(inputs)
    expected = [rectified_oracle(x) for x in inputs.tolist()]
    np.testing.assert_allclose(mean, [m for m, _ in expected], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(variance, [v for _, v in expected], rtol=1e-8, atol=1e-12)


def test_rectified_samples_have_those_moments_and_never_fall_below_zero() -> None:
    inputs = torch.tensor([-0.9, -0.5, 0.0, 0.7, 5.0], dtype=torch.float64)
    num_rows = 200_000
    mean, sample = mean_and_sample("rectified", inputs.repeat(num_rows, 1), generator())
    expected_mean, expected_variance = rectified_moments(inputs)
    torch.testing.assert_close(mean[0], expected_mean)
    assert sample.min() == 0
    deviation = expected_variance.sqrt()
    assert ((sample.mean(dim=0) - expected_mean).abs() < 5 * deviation / math.sqrt(num_rows)).all()
    fourth = (sample - expected_mean).pow(4).mean(dim=0)
    error = ((fourth - expected_variance.square()) / num_rows).sqrt()
    assert ((sample.var(dim=0) - expected_variance).abs() < 5 * error).all()


def test_rectified_units_far_from_the_corner_are_off_or_linear() -> None:
    inputs = torch.tensor([-300.0, -90.0, 40.0])
    mean, variance = rectified_moments(inputs)
    assert mean.tolist() == [0, 0, 40]
    torch.testing.assert_close(variance, torch.tensor([0.0, 0.0, 1.0]), atol=1e-3, rtol=0)
    assert torch.isfinite(mean_and_sample("rectified", inputs[None], generator())[1]).all()


def test_gaussian_samples_have_the_mean_and_deviation_asked_for() -> None:
    inputs, deviation = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([0.5, 3.0]).double()
    for asked, expected in ((None, torch.ones(2)), (deviation, deviation)):
        mean, sample = mean_and_sample("gaussian", inputs.repeat(100_000, 1), generator(), asked)
        assert torch.equal(mean[0], inputs[0])
        assert ((sample.mean(dim=0) - inputs[0]).abs() < 5 * expected / math.sqrt(100_000)).all()
        assert ((sample.std(dim=0) / expected - 1).abs() < 5 / math.sqrt(200_000)).all()


def test_unit_means() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(unit_mean("bernoulli", x.clone()), 1 / (1 + (-x).exp()))
    torch.testing.assert_close(unit_mean("gaussian", x.clone()), x)
    torch.testing.assert_close(unit_mean("rectified", x.clone()), rectified_moments(x)[0])


def derivative(kind: str, inputs: Tensor) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    log_normaliser(kind, inputs).sum().backward()
    assert inputs.grad is not None
    return inputs.grad


def test_log_normaliser_of_rectified_units_is_the_dilogarithm() -> None:
    x = torch.linspace(-25, 30, 221, dtype=torch.float64)
    found = log_normaliser("rectified", x).numpy()
    # −Li₂(−eˣ) is spence(1 + eˣ) negated; left of −10 its series eˣ − e²ˣ/4 + e³ˣ/9 is the better oracle.
    e = np.exp(x.numpy())
    expected = np.where(x < -10, e - e**2 / 4 + e**3 / 9, -scipy.special.spence(1 + e))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch.testing.assert_close(derivative("rectified", x), torch.nn.functional.softplus(x), rtol=1e-9, atol=1e-12)


def test_log_normaliser_of_rectified_units_is_near_the_sum_over_their_copies() -> None:
    x = torch.linspace(-6, 12, 73, dtype=torch.float64)
    offsets = torch.arange(1, 80, dtype=torch.float64) - 0.5
    copies = torch.nn.functional.softplus(x[:, None] - offsets).sum(dim=1)
    # The midpoint rule's error is at most f′(0)/24 = σ(x)/24, to leading order.
    assert (log_normaliser("rectified", x) - copies).abs().max() < 1.05 / 24


def test_derivative_of_the_bernoulli_log_normaliser_is_the_mean() -> None:
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    torch.testing.assert_close(derivative("bernoulli", x), x.sigmoid())
