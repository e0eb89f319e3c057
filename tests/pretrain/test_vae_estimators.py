"""The estimators of a VAE's bound against quadrature, exact posteriors and densities written out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from spkadapt.errors import InputError
from spkadapt.pretrain import vae_estimators
from spkadapt.pretrain.vae_estimators import (
    ESTIMATORS,
    expected_log_likelihood,
    importance_weighted_bound,
    log_posterior,
    weighted_bound,
)
from spkadapt.pretrain.vae_network import DECODERS, VariationalAutoencoder, divergence

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(num_visible: int, decoder: str, hidden_dims: tuple[int, ...] = (4,)) -> VariationalAutoencoder:
    """One latent dimension, and no parameter at a value where a term would vanish."""
    network = VariationalAutoencoder(
        num_visible, hidden_dims, 1, torch.sigmoid, decoder=decoder, generator=generator()
    ).double()
    more = generator(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=more, dtype=torch.float64))
    return network


def one_frame(num_visible: int, decoder: str) -> Tensor:
    x = torch.randn(1, num_visible, generator=generator(1), dtype=torch.float64)
    return x if decoder == "gaussian" else x.sigmoid()


class Grid(NamedTuple):
    """A quadrature of K draws of N(0, 1): noise (K, num, 1) whose columns count by `weights (num,)`."""

    noise: Tensor
    weights: Tensor


def grid(num_samples: int, step: float = 0.25) -> Grid:
    """The trapezoidal rule: its error falls as exp(−c/step) for analytic functions, Gauss-Hermite's slower."""
    nodes = torch.arange(-9, 9 + step, step, dtype=torch.float64)
    noise = torch.cartesian_prod(*[nodes] * num_samples).reshape(-1, num_samples)
    return Grid(noise.T[..., None], torch.softmax(-noise.square().sum(dim=1) / 2, dim=0))


def estimates(network: VariationalAutoencoder, x: Tensor, points: Grid, estimator: str) -> tuple[Tensor, ...]:
    """What one frame's estimate is at each point of the grid; also m and log s², once for each point."""
    mean, log_variance = (found.expand(len(points.weights), -1) for found in network.encode(x))
    frames = x.expand(len(points.weights), -1)
    value = expected_log_likelihood(network, frames, mean, log_variance, points.noise, estimator)
    return value, mean, log_variance


def density(network: VariationalAutoencoder, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) by torch's distributions; that of a binary x, at any other, for a Bernoulli decoder."""
    decoded = network.decode(z)
    if network.decoder_log_variance is None:
        return Bernoulli(logits=decoded, validate_args=False).log_prob(x).sum(dim=-1)
    return Normal(decoded, (network.decoder_log_variance / 2).exp()).log_prob(x).sum(dim=-1)


def gradients(value: Tensor, network: nn.Module) -> Tensor:
    found = torch.autograd.grad(value, list(network.parameters()), retain_graph=True, allow_unused=True)
    pairs = zip(found, network.parameters(), strict=True)
    return torch.cat([torch.zeros_like(p).ravel() if g is None else g.ravel() for g, p in pairs])


@every_decoder
@every_estimator
def test_value_and_gradient_are_in_the_mean_those_of_quadrature(estimator: str, decoder: str) -> None:
    """No bias: the truth integrates p(x | z) against q on a fixed grid of z, and differentiates q itself."""
    network, x = model(3, decoder), one_frame(3, decoder)
    mean, log_variance = network.encode(x)
    posterior = Normal(mean[0, 0], (log_variance[0, 0] / 2).exp())
    # The trapezoidal rule, far beyond all tails
    z = (
        (mean + (log_variance / 2).exp() * torch.linspace(-12, 12, 481, dtype=torch.float64))
        .detach()
        .reshape(-1, 1)
    )
    truth = (posterior.log_prob(z[:, 0]).exp() * density(network, x, z)).sum() * (z[1, 0] - z[0, 0])

    points = grid(2)
    found = points.weights @ estimates(network, x, points, estimator)[0]
    assert found.item() == pytest.approx(truth.item(), rel=1e-10)
    expected = gradients(truth, network)
    torch.testing.assert_close(gradients(found, network), expected, rtol=1e-7, atol=1e-9)
    assert gradients(truth, network.encoder).abs().max() > 1e-3


def gradient_variance(network: VariationalAutoencoder, x: Tensor, estimator: str) -> float:
    """Trace of the covariance of a two-sample gradient in m and log s² of one frame, by quadrature."""
    points = grid(2)
    values, *posterior = estimates(network, x, points, estimator)
    rows = torch.cat(torch.autograd.grad(values.sum(), posterior), dim=1)
    return (points.weights @ (rows - points.weights @ rows).square().sum(dim=1)).item()


def test_variance_of_the_score_function_grows_with_the_dimension_and_a_baseline_removes_much_of_it() -> None:
    """The figures that `expected_log_likelihood` states."""
    ratios = {}
    for num_visible in (4, 40):
        network, x, _ = linear_gaussian(num_visible, num_latent=1)
        variances = [sum(gradient_variance(network, row[None], name) for row in x) for name in ESTIMATORS]
        ratios[num_visible] = [variance / variances[0] for variance in variances[1:]]
    assert ratios[4] == pytest.approx([21, 3.7], rel=0.05)
    assert ratios[40] == pytest.approx([1500, 3.6], rel=0.05)


def test_the_baseline_takes_another_sample() -> None:
    network, x = model(3, "gaussian"), one_frame(3, "gaussian")
    mean, log_variance = network.encode(x)
    with pytest.raises(InputError, match="baseline is the mean of the other samples; num_samples is 1"):
        expected_log_likelihood(
            network, x, mean, log_variance, torch.zeros(1, 1, 1).double(), "score_function_baseline"
        )


def test_log_posterior_is_a_diagonal_normal_density() -> None:
    mean, log_variance, z = (torch.randn(4, 3, generator=generator(seed)).double() for seed in range(3))
    expected = Normal(mean, log_variance.exp().sqrt()).log_prob(z).sum(dim=1)
    torch.testing.assert_close(log_posterior(z, mean, log_variance), expected)


def test_divergence_is_that_of_two_normals() -> None:
    mean, log_variance = (torch.randn(4, 3, generator=generator(seed)).double() for seed in range(2))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1))
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_weighted_bound_frees_each_dimension_of_what_it_may_spend() -> None:
    expected = torch.tensor([-3.0, -5.0], dtype=torch.float64)
    divergences = torch.tensor([[0.1, 2.0], [0.7, 4.0]], dtype=torch.float64, requires_grad=True)
    assert weighted_bound(expected, divergences, 1.0, 0.0).item() == pytest.approx(-4 - 0.4 - 3)
    weighted = weighted_bound(expected, divergences, 2.0, 0.5)
    assert weighted.item() == pytest.approx(-4 - 2 * (0.5 + 3))
    (gradient,) = torch.autograd.grad(weighted, divergences)
    assert gradient.tolist() == [[0, -1], [0, -1]]  # the batch's mean counts, not each frame's divergence


def with_grid(monkeypatch: pytest.MonkeyPatch, points: Grid) -> None:
    monkeypatch.setattr(vae_estimators, "draw_noise", lambda *_: points.noise)
    monkeypatch.setattr(vae_estimators, "ROWS_AT_ONCE", points.noise.numel())


@every_decoder
def test_importance_weighting_raises_the_bound_towards_the_likelihood(
    monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    """Expectations by quadrature: L_1 is the variational bound, and L_1 < L_2 < L_3 < log p(x)."""
    network, x = model(3, decoder), one_frame(3, decoder)
    mean, log_variance = network.encode(x)
    bounds = []
    for num_samples in (1, 2, 3):
        points = grid(num_samples, step=0.25 if num_samples < 3 else 0.75)
        with_grid(monkeypatch, points)
        found = importance_weighted_bound(network, x.expand(len(points.weights), -1), num_samples, generator())
        bounds.append((points.weights @ found).item())
    elbo = grid(1).weights @ estimates(network, x, grid(1), "reparameterised")[0]
    assert bounds[0] == pytest.approx((elbo - divergence(mean, log_variance).sum()).item(), rel=1e-10)
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None]
    likelihood = torch.logsumexp(density(network, x, z) + Normal(0, 1).log_prob(z[:, 0]), dim=0) + math.log(0.01)
    steps = torch.tensor([*bounds, likelihood.item()]).diff()
    assert (steps > 0.05 * steps[0]).all()
    assert steps[0] > 0.01


def linear_gaussian(num_visible: int = 5, num_latent: int = 2) -> tuple[VariationalAutoencoder, Tensor, Tensor]:
    """A linear VAE whose encoder is the exact posterior, frames drawn from it, and their log p(x)."""
    network = VariationalAutoencoder(num_visible, [], num_latent, torch.relu, generator=generator()).double()
    directions = torch.linalg.qr(torch.randn(num_visible, num_latent, generator=generator(1)).double()).Q
    weight, variance = directions * torch.linspace(2, 0.7, num_latent).double(), 0.4
    offset = torch.linspace(-1, 1, num_visible).double()
    precision = weight.square().sum(dim=0) / variance + 1
    decoder = network.decoder[0]
    assert isinstance(decoder, nn.Linear)
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(offset)
        network.mean.weight.copy_((weight / variance / precision).T)
        network.mean.bias.copy_(-network.mean.weight @ offset)
        network.log_variance.bias.copy_(-precision.log())
        assert network.decoder_log_variance is not None
        network.decoder_log_variance.fill_(math.log(variance))
    covariance = weight @ weight.T + variance * torch.eye(num_visible, dtype=torch.float64)
    model = MultivariateNormal(offset, covariance)
    noise = torch.randn(6, num_visible, generator=generator(2), dtype=torch.float64)
    x = offset + noise @ model.scale_tril.T
    return network, x, model.log_prob(x)


@pytest.mark.parametrize("num_samples", [1, 50])
def test_with_the_exact_posterior_every_sample_gives_the_exact_likelihood(
    monkeypatch: pytest.MonkeyPatch, num_samples: int
) -> None:
    """Weights are all p(x), so that parts of any size must add up, however few rows fit at once."""
    network, x, exact = linear_gaussian()
    torch.testing.assert_close(importance_weighted_bound(network, x, num_samples, generator()), exact)
    monkeypatch.setattr(vae_estimators, "ROWS_AT_ONCE", 7)
    rows = []
    original = VariationalAutoencoder.log_likelihood

    def counting(self: VariationalAutoencoder, frames: Tensor, z: Tensor) -> Tensor:
        rows.append(z.shape[:-1].numel())
        return original(self, frames, z)

    monkeypatch.setattr(VariationalAutoencoder, "log_likelihood", counting)
    torch.testing.assert_close(importance_weighted_bound(network, x, num_samples, generator()), exact)
    assert max(rows) <= 7
    assert sum(rows) == num_samples * len(x)


def test_with_another_posterior_many_samples_tend_to_the_exact_likelihood() -> None:
    network, x, exact = linear_gaussian()
    with torch.no_grad():
        network.mean.bias.add_(0.3)
        network.log_variance.bias.add_(0.5)  # wider than the truth, so that the weights' variance is finite
        log_variance = network.encode(x)[1]
    num_samples = 20000
    found = importance_weighted_bound(network, x, num_samples, generator())
    # Relative variance of the weights p(z | x)/q(z): ∫ p²/q − 1, a product over the two dimensions.
    true_variance, shift = (log_variance - 0.5).exp(), 0.3
    wide = 2 * log_variance.exp() - true_variance
    each = log_variance.exp() / (true_variance * wide).sqrt() * (shift**2 / wide).exp()
    error = ((each.prod(dim=1) - 1) / num_samples).sqrt()
    assert ((found - exact).abs() < 6 * error).all()
    assert error.max() < 0.02
    single = importance_weighted_bound(network, x.repeat(500, 1), 1, generator()).reshape(500, -1).mean(dim=0)
    assert (single < exact - 0.1).all()


def test_an_importance_weighted_bound_takes_a_sample() -> None:
    arguments: Any = (*linear_gaussian()[:2], 0, generator())
    with pytest.raises(InputError, match="num_samples is 0; an importance-weighted bound takes at least 1"):
        importance_weighted_bound(*arguments)
