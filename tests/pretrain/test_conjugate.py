"""Coordinate ascent against the exact posteriors and evidence of conjugate models, and the VAE against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from spkadapt.errors import InputError
from spkadapt.pretrain.conjugate import NormalGamma, linear_gaussian_mean_field, normal_gamma_mean_field
from spkadapt.pretrain.vae_estimators import expected_log_likelihood
from spkadapt.pretrain.vae_network import VariationalAutoencoder, divergence


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_posterior(x: Tensor, weight: Tensor, offset: Tensor, noise_variance: float) -> tuple[Tensor, Tensor]:
    """Mean (n, num_latent) and covariance of p(z | x), by conditioning the joint Gaussian of x and z."""
    marginal = weight @ weight.T + noise_variance * torch.eye(len(weight), dtype=torch.float64)
    gain = weight.T @ torch.linalg.inv(marginal)
    return (x - offset) @ gain.T, torch.eye(weight.shape[1], dtype=torch.float64) - gain @ weight


def log_marginal(x: Tensor, weight: Tensor, offset: Tensor, noise_variance: float) -> Tensor:
    covariance = weight @ weight.T + noise_variance * torch.eye(len(weight), dtype=torch.float64)
    return MultivariateNormal(offset, covariance).log_prob(x)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 6),
    num_latent=st.integers(1, 5),
    noise_variance=st.floats(0.05, 5),
)
def test_sweeps_never_lower_the_bound_nor_pass_the_evidence(
    seed: int, dim: int, num_latent: int, noise_variance: float
) -> None:
    weight, offset, x = (
        normal(dim, num_latent, seed=seed),
        normal(dim, seed=seed + 1),
        normal(7, dim, seed=seed + 2),
    )
    bounds = linear_gaussian_mean_field(x, weight, offset, noise_variance, num_sweeps=6).bounds
    slack = 1e-10 * (1 + bounds.abs().max())
    assert (bounds.diff(dim=0) > -slack).all()
    assert (bounds <= log_marginal(x, weight, offset, noise_variance) + slack).all()


@pytest.mark.parametrize("num_sweeps", [0, 1, 3])
def test_the_bound_falls_short_by_the_divergence_from_the_exact_posterior(num_sweeps: int) -> None:
    weight, offset, x = normal(5, 3), normal(5, seed=1), normal(4, 5, seed=2)
    found = linear_gaussian_mean_field(x, weight, offset, 0.6, num_sweeps)
    mean, covariance = exact_posterior(x, weight, offset, 0.6)
    gap = kl_divergence(
        MultivariateNormal(found.mean, found.variance.diag()), MultivariateNormal(mean, covariance)
    )
    torch.testing.assert_close(found.bounds[-1], log_marginal(x, weight, offset, 0.6) - gap)
    assert found.bounds.shape == (num_sweeps + 1, 4)


def test_the_means_become_exact_and_the_variances_stay_too_small() -> None:
    weight, offset, x = normal(5, 3), normal(5, seed=1), normal(4, 5, seed=2)
    found = linear_gaussian_mean_field(x, weight, offset, 0.6, num_sweeps=200)
    mean, covariance = exact_posterior(x, weight, offset, 0.6)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, torch.linalg.inv(covariance).diagonal().reciprocal())
    assert (found.variance < 0.99 * covariance.diagonal()).all()


def test_orthogonal_weights_factorise_and_one_sweep_is_exact() -> None:
    weight = torch.linalg.qr(normal(5, 3)).Q * torch.tensor([3.0, 2, 1], dtype=torch.float64)
    offset, x = normal(5, seed=1), normal(4, 5, seed=2)
    found = linear_gaussian_mean_field(x, weight, offset, 0.6, num_sweeps=1)
    torch.testing.assert_close(found.bounds[-1], log_marginal(x, weight, offset, 0.6))
    torch.testing.assert_close(found.variance, exact_posterior(x, weight, offset, 0.6)[1].diagonal())


def test_a_linear_encoder_trained_on_the_bound_ends_where_coordinate_ascent_ends() -> None:
    """The VAE's gradient and the conjugate updates climb the same bound: of an encoder and of each frame."""
    x = normal(50, 5, seed=2)
    network = VariationalAutoencoder(5, [], 3, torch.relu, "unit", generator=torch.Generator()).double()
    decoder = network.decoder[0]
    assert isinstance(decoder, nn.Linear)
    with torch.no_grad():
        decoder.weight.copy_(normal(5, 3))
        decoder.bias.copy_(normal(5, seed=1))
    # ±√3 e_j: six points that average any quadratic as the normal distribution does.
    corners = math.sqrt(3) * torch.eye(3, dtype=torch.float64)
    noise = torch.cat((corners, -corners))[:, None].expand(-1, len(x), -1)
    trained = [*network.mean.parameters(), *network.log_variance.parameters()]
    optimizer = torch.optim.LBFGS(trained, max_iter=300, tolerance_grad=1e-11, line_search_fn="strong_wolfe")

    def bound() -> Tensor:
        mean, log_variance = network.encode(x)
        expected = expected_log_likelihood(network, x, mean, log_variance, noise, "reparameterised")
        return expected - divergence(mean, log_variance).sum(dim=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -bound().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = linear_gaussian_mean_field(x, decoder.weight.detach(), decoder.bias.detach(), 1.0, num_sweeps=200)
    mean, log_variance = network.encode(x)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_variance.exp(), expected.variance.expand(50, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bound(), expected.bounds[-1], rtol=1e-8, atol=1e-8)


PRIOR = NormalGamma(torch.tensor([0.5, -1.0], dtype=torch.float64), 0.7, 1.3, torch.tensor([0.4, 2.0]).double())


def observations(num: int = 9) -> Tensor:
    return normal(num, 2, seed=3) * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -3.0])


def test_exact_posterior_and_evidence_are_those_of_one_observation_after_another() -> None:
    """The chain rule over Student's t predictive densities."""
    x, belief, evidence = observations(), PRIOR, np.zeros(2)
    for row in x:
        spread = belief.rate * (belief.strength + 1) / (belief.shape * belief.strength)
        evidence += scipy.stats.t.logpdf(row.numpy(), 2 * belief.shape, belief.mean.numpy(), spread.sqrt().numpy())
        belief = belief.posterior(row[None])
    whole = PRIOR.posterior(x)
    torch.testing.assert_close(whole.mean, belief.mean)
    torch.testing.assert_close(whole.rate, belief.rate)
    assert (whole.strength, whole.shape) == pytest.approx((belief.strength, belief.shape))
    np.testing.assert_allclose(PRIOR.log_evidence(x).numpy(), evidence, rtol=1e-12)


def test_mean_and_precision_end_where_the_fixed_point_is() -> None:
    x = observations()
    found, exact = normal_gamma_mean_field(PRIOR, x, num_sweeps=50), PRIOR.posterior(x)
    torch.testing.assert_close(found.mean, exact.mean)
    torch.testing.assert_close(found.shape / found.rate, exact.shape / exact.rate)
    # The exact marginal of μ is Student's t with 2a degrees of freedom.
    variance = exact.rate / (exact.strength * (exact.shape - 1))
    torch.testing.assert_close(found.variance, variance * (exact.shape - 1) / exact.shape)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 30), spread=st.floats(0.01, 100))
def test_sweeps_over_mean_and_precision_never_lower_the_bound(seed: int, num: int, spread: float) -> None:
    x = spread * normal(num, 2, seed=seed)
    bounds = normal_gamma_mean_field(PRIOR, x, num_sweeps=6).bounds
    slack = 1e-10 * (1 + bounds.abs().max())
    assert (bounds.diff(dim=0) > -slack).all()
    assert (bounds < PRIOR.log_evidence(x) + slack).all()


@pytest.mark.parametrize("num_sweeps", [1, 4])
def test_the_bound_is_the_sum_of_its_expectations(num_sweeps: int) -> None:
    x = observations()
    q = normal_gamma_mean_field(PRIOR, x, num_sweeps)
    mean, variance, rate = q.mean.numpy(), q.variance.numpy(), q.rate.numpy()
    precision, log_precision = q.shape / rate, digamma(q.shape) - np.log(rate)

    def gaussian(squared_error: np.ndarray, scale: float) -> np.ndarray:
        """E log N(·; ·, 1/(scale τ)) with E(· − ·)² = squared_error."""
        return (math.log(scale / (2 * math.pi)) + log_precision - scale * precision * squared_error) / 2

    of_data = sum(gaussian((row - mean) ** 2 + variance, 1.0) for row in x.numpy())
    of_mean = gaussian((mean - PRIOR.mean.numpy()) ** 2 + variance, PRIOR.strength)
    of_precision = (
        PRIOR.shape * np.log(PRIOR.rate.numpy())
        - math.lgamma(PRIOR.shape)
        + (PRIOR.shape - 1) * log_precision
        - PRIOR.rate.numpy() * precision
    )
    entropies = scipy.stats.norm.entropy(scale=np.sqrt(variance)) + scipy.stats.gamma.entropy(
        q.shape, scale=1 / rate
    )
    np.testing.assert_allclose(q.bounds[-1].numpy(), of_data + of_mean + of_precision + entropies, rtol=1e-10)


def test_bad_input_is_named() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(InputError, match=r"noise_variance is 0\.0; expected a number above 0"):
        linear_gaussian_mean_field(x, normal(2, 1), normal(2), 0.0, num_sweeps=1)
    with pytest.raises(InputError, match="num_sweeps is 0; expected at least 1"):
        normal_gamma_mean_field(PRIOR, x, num_sweeps=0)
    with pytest.raises(InputError, match=r"NormalGamma\.strength is 0; expected a number above 0"):
        NormalGamma(PRIOR.mean, 0.0, 1.0, PRIOR.rate)
    with pytest.raises(InputError, match=r"NormalGamma\.shape is -1; expected"):
        NormalGamma(PRIOR.mean, 1.0, -1.0, PRIOR.rate)
    with pytest.raises(InputError, match=r"NormalGamma\.rate is nan; expected"):
        NormalGamma(PRIOR.mean, 1.0, 1.0, PRIOR.rate * math.nan)
