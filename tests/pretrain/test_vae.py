"""The VAE against quadrature and against probabilistic principal components."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.vae import Vae, VaeConfig, VariationalAutoencoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_reparameterised_elbo_and_gradient_are_those_of_quadrature() -> None:
    network = VariationalAutoencoder(3, [4], 1, torch.sigmoid, "learned", generator=generator()).double()
    with torch.no_grad():
        network.decoder_log_variance.fill_(0.3)
    x = torch.randn(1, 3, generator=generator(1), dtype=torch.float64)

    def gradients(elbo: Tensor) -> Tensor:
        found = torch.autograd.grad(elbo, list(network.parameters()), allow_unused=True)
        return torch.cat([torch.zeros(0) if g is None else g.ravel() for g in found])

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mean, log_variance = network.encode(x)
    z = mean + (log_variance / 2).exp() * torch.from_numpy(nodes)[:, None]
    expected = torch.from_numpy(weights / weights.sum()) @ network.log_likelihood(x.expand(40, -1), z)
    # KL of two Gaussians, by the same quadrature of log q − log p rather than in closed form
    log_ratio = (z.square() - torch.from_numpy(nodes)[:, None].square() - log_variance) / 2
    expected = expected - (torch.from_numpy(weights / weights.sum())[:, None] * log_ratio).sum()

    noise, num_blocks = generator(2), 40
    blocks = [network.elbo(x.expand(2000, -1), noise).mean() for _ in range(num_blocks)]
    values = torch.stack([torch.cat((block.detach()[None], gradients(block))) for block in blocks])
    truth = torch.cat((expected.detach()[None], gradients(expected)))
    # Six standard errors of the mean over blocks, and rounding where an entry has no noise.
    tolerance = 6 * values.std(dim=0) / math.sqrt(num_blocks) + 1e-12
    assert ((values.mean(dim=0) - truth).abs() < tolerance).all()
    assert (tolerance < 0.05 * truth.abs().max()).all()


def latent_frames(num_frames: int = 400) -> Tensor:
    frames = torch.randn(num_frames, 2, generator=generator(3), dtype=torch.float64) @ torch.randn(
        2, 5, generator=generator(4), dtype=torch.float64
    )
    frames += 0.7 * torch.randn(num_frames, 5, generator=generator(5), dtype=torch.float64)
    return (frames - frames.mean(dim=0)) / frames.std(dim=0)


def probabilistic_pca(frames: Tensor, num_latent: int, variance: float | None) -> tuple[np.ndarray, float, float]:
    """Maximum likelihood W, σ² and mean log-likelihood in nats (Tipping & Bishop 1999), σ² given or learnt."""
    covariance = frames.numpy().T @ frames.numpy() / len(frames)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    variance = eigenvalues[num_latent:].mean() if variance is None else variance
    weight = eigenvectors[:, :num_latent] * np.sqrt(np.maximum(eigenvalues[:num_latent] - variance, 0))
    model = weight @ weight.T + variance * np.eye(len(covariance))
    quadratic = np.trace(np.linalg.solve(model, covariance))
    likelihood = -(len(covariance) * math.log(2 * math.pi) + np.linalg.slogdet(model)[1] + quadratic) / 2
    return weight, float(variance), float(likelihood)


@pytest.mark.parametrize("decoder_variance", ["learned", "unit"])
def test_linear_vae_reaches_the_likelihood_of_probabilistic_pca(decoder_variance: str) -> None:
    frames = latent_frames()
    _, variance, best = probabilistic_pca(frames, 2, None if decoder_variance == "learned" else 1.0)
    network = VariationalAutoencoder(5, [], 2, torch.relu, decoder_variance, generator=generator()).double()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer, noise = torch.optim.Adam(trained, lr=0.03), generator(1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        optimizer.zero_grad()
        (-network.elbo(frames, noise).mean()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        draws = torch.stack([network.elbo(frames, noise).mean() for _ in range(200)])
    error = 5 * draws.std().item() / math.sqrt(len(draws))
    assert draws.mean().item() < best + error  # a bound never passes the maximum
    assert draws.mean().item() > best - 0.01 - error
    assert network.decoder_log_variance.exp().item() == pytest.approx(variance, rel=0.05)


def test_the_bound_is_tight_at_the_closed_form_optimum() -> None:
    frames = latent_frames()
    weight, variance, best = probabilistic_pca(frames, 2, None)
    posterior_precision = weight.T @ weight / variance + np.eye(2)  # diagonal, as W's columns are orthogonal
    network = VariationalAutoencoder(5, [], 2, torch.relu, "learned", generator=generator()).double()
    with torch.no_grad():
        network.decoder[0].weight.copy_(torch.from_numpy(weight))
        network.mean.weight.copy_(torch.from_numpy(np.linalg.solve(posterior_precision, weight.T / variance)))
        network.log_variance.weight.zero_()
        network.log_variance.bias.copy_(-torch.from_numpy(np.diag(posterior_precision).copy()).log())
        network.decoder_log_variance.fill_(math.log(variance))
        draws = torch.stack([network.elbo(frames, generator(seed)).mean() for seed in range(200)])
    assert draws.mean().item() == pytest.approx(best, abs=5 * draws.std().item() / math.sqrt(len(draws)))


def test_every_frame_has_noise_of_its_own() -> None:
    network = VariationalAutoencoder(3, [4], 2, torch.sigmoid, "unit", generator=generator())
    assert len(network.elbo(torch.ones(50, 3), generator()).unique()) == 50


def test_unit_variance_stays_and_learned_variance_moves() -> None:
    frames = torch.randn(200, 6, generator=generator())
    for decoder_variance, moves in (("unit", False), ("learned", True)):
        vae = Vae([5, 4], "relu", VaeConfig(num_epochs=2, num_latent=2, decoder_variance=decoder_variance))
        network = vae.fit(frames, seed=0).network
        assert network is not None
        assert (network.decoder_log_variance.item() != 0) == moves


def test_the_decoder_mirrors_the_encoder() -> None:
    network = VariationalAutoencoder(9, [8, 5], 2, torch.sigmoid, "unit", generator=generator())
    shapes = [tuple(linear.weight.shape) for linear in (*network.encoder, network.mean, *network.decoder)]
    assert shapes == [(8, 9), (5, 8), (2, 5), (5, 2), (8, 5), (9, 8)]


def test_history_is_the_negative_elbo_per_dimension() -> None:
    frames = torch.randn(300, 6, generator=generator())
    config = VaeConfig(num_epochs=1, num_latent=2, learning_rate=1e-12, batch_size=50)
    vae = Vae([5], "sigmoid", config).fit(frames, seed=0)
    draws = torch.stack([vae.elbo(frames, generator(seed)).mean() / 6 for seed in range(50)]).detach()
    spread = draws.std().item()
    assert vae.history[0].losses["negative_elbo"] == pytest.approx(-draws.mean().item(), abs=6 * spread)
    assert spread < 0.05


def test_transform_is_the_encoders_hidden_activation() -> None:
    frames = torch.randn(30, 6, generator=generator())
    vae = Vae([5, 4], "sigmoid", VaeConfig(num_epochs=1)).fit(frames, seed=0)
    network = vae.network
    assert network is not None
    mean, log_variance = network.encode(frames)
    torch.testing.assert_close(network.mean(vae.transform(frames)), mean)
    torch.testing.assert_close(network.log_variance(vae.transform(frames)), log_variance)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"VaeConfig\.num_latent is 0"):
        VaeConfig(num_latent=0)
    with pytest.raises(InputError, match='decoder_variance "learnt"; did you mean "learned"'):
        VaeConfig(decoder_variance="learnt")
    with pytest.raises(InputError, match="this Vae has no layers yet; call fit first"):
        Vae([4], "relu", VaeConfig()).elbo(torch.zeros(1, 3), generator())
