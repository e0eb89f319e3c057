"""The VAE against probabilistic principal components, and how it is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from spkadapt.errors import InputError
from spkadapt.pretrain import vae as vae_module
from spkadapt.pretrain.interface import PretrainProgress
from spkadapt.pretrain.vae import Vae, VaeConfig
from spkadapt.pretrain.vae_estimators import ESTIMATORS, expected_log_likelihood
from spkadapt.pretrain.vae_network import VariationalAutoencoder, divergence, draw_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_elbo_is_one_sample_of_the_likelihood_less_the_divergence() -> None:
    network = VariationalAutoencoder(3, [4], 2, torch.sigmoid, generator=generator()).double()
    x = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    mean, log_variance = network.encode(x)
    noise = draw_noise(mean, generator(2), 1)
    expected = expected_log_likelihood(network, x, mean, log_variance, noise, "reparameterised")
    expected = expected - divergence(mean, log_variance).sum(dim=1)
    torch.testing.assert_close(network.elbo(x, generator(2)), expected)


def test_noise_is_normal_and_of_the_asked_shape() -> None:
    noise = draw_noise(torch.zeros(200, 3, dtype=torch.float64), generator(), 50)
    assert noise.shape == (50, 200, 3)
    assert noise.dtype == torch.float64
    assert abs(noise.mean().item()) < 6 / math.sqrt(noise.numel())
    assert abs(noise.square().mean().item() - 1) < 6 * math.sqrt(2 / noise.numel())


@pytest.mark.parametrize("decoder", ["gaussian", "bernoulli"])
def test_log_likelihood_is_the_sum_of_the_dimensions_log_densities(decoder: str) -> None:
    network = VariationalAutoencoder(3, [4], 2, torch.sigmoid, decoder=decoder, generator=generator()).double()
    z = torch.randn(7, 5, 2, generator=generator(1), dtype=torch.float64)
    x = torch.rand(5, 3, generator=generator(2), dtype=torch.float64)
    if network.decoder_log_variance is None:
        p = network.decode(z).sigmoid()
        expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=2)
        torch.testing.assert_close(
            network.log_likelihood(x.round(), z), Bernoulli(p).log_prob(x.round()).sum(dim=2)
        )
    else:
        with torch.no_grad():
            network.decoder_log_variance.fill_(0.3)
        expected = Normal(network.decode(z), math.exp(0.15)).log_prob(x).sum(dim=2)
    torch.testing.assert_close(network.log_likelihood(x, z), expected)


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


def exact_bound(network: VariationalAutoencoder, frames: Tensor) -> Tensor:
    """The bound of each frame without noise: ±√L e_j are 2L points that average any quadratic as N(0, I) does."""
    mean, log_variance = network.encode(frames)
    corners = math.sqrt(mean.shape[1]) * torch.eye(mean.shape[1], dtype=torch.float64)
    noise = torch.cat((corners, -corners))[:, None].expand(-1, len(frames), -1)
    expected = expected_log_likelihood(network, frames, mean, log_variance, noise, "reparameterised")
    return expected - divergence(mean, log_variance).sum(dim=1)


@pytest.mark.parametrize("decoder_variance", ["learned", "unit"])
def test_the_optimum_of_a_linear_vae_is_probabilistic_pca(decoder_variance: str) -> None:
    """Tipping & Bishop (1999); that the bound's optimum is the likelihood's: Lucas et al. (2019)."""
    frames = latent_frames()
    weight, variance, best = probabilistic_pca(frames, 2, None if decoder_variance == "learned" else 1.0)
    network = VariationalAutoencoder(5, [], 2, torch.relu, decoder_variance, generator=generator()).double()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(
        trained, max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -exact_bound(network, frames).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert exact_bound(network, frames).mean().item() == pytest.approx(best, abs=1e-8)
    decoder, log_variance = network.decoder[0], network.decoder_log_variance
    assert isinstance(decoder, nn.Linear)
    assert log_variance is not None
    assert log_variance.exp().item() == pytest.approx(variance, rel=1e-4)
    found = decoder.weight.detach().numpy()
    np.testing.assert_allclose(found @ found.T, weight @ weight.T, atol=1e-4)
    np.testing.assert_allclose(decoder.bias.detach().numpy(), np.zeros(5), atol=1e-4)
    # The encoder is the exact posterior, (WᵀW + σ²I)⁻¹Wᵀx, which only orthogonal columns let a diagonal q be.
    posterior = np.linalg.solve(found.T @ found + variance * np.eye(2), found.T)
    np.testing.assert_allclose(network.mean.weight.detach().numpy(), posterior, atol=1e-4)


def test_the_bound_is_tight_at_the_closed_form_optimum() -> None:
    frames = latent_frames()
    weight, variance, best = probabilistic_pca(frames, 2, None)
    posterior_precision = weight.T @ weight / variance + np.eye(2)  # diagonal, as W's columns are orthogonal
    network = VariationalAutoencoder(5, [], 2, torch.relu, "learned", generator=generator()).double()
    decoder = network.decoder[0]
    assert isinstance(decoder, nn.Linear)
    assert network.decoder_log_variance is not None
    with torch.no_grad():
        decoder.weight.copy_(torch.from_numpy(weight))
        network.mean.weight.copy_(torch.from_numpy(np.linalg.solve(posterior_precision, weight.T / variance)))
        network.log_variance.weight.zero_()
        network.log_variance.bias.copy_(-torch.from_numpy(np.diag(posterior_precision).copy()).log())
        network.decoder_log_variance.fill_(math.log(variance))
    assert exact_bound(network, frames).mean().item() == pytest.approx(best, rel=1e-12)


def test_every_frame_has_noise_of_its_own() -> None:
    network = VariationalAutoencoder(3, [4], 2, torch.sigmoid, "unit", generator=generator())
    assert len(network.elbo(torch.ones(50, 3), generator()).unique()) == 50


def test_unit_variance_stays_and_learned_variance_moves() -> None:
    frames = torch.randn(200, 6, generator=generator())
    for decoder_variance, moves in (("unit", False), ("learned", True)):
        vae = Vae([5, 4], "relu", VaeConfig(num_epochs=2, num_latent=2, decoder_variance=decoder_variance))
        network = vae.fit(frames, seed=0).network
        assert network is not None
        assert network.decoder_log_variance is not None
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


def test_history_is_of_the_bound_whatever_its_divergence_weighs() -> None:
    """The loss of one batch is of the model before its update, which is the same."""
    frames = torch.randn(50, 6, generator=generator())
    configs = [VaeConfig(num_epochs=1, num_latent=2, batch_size=50, beta=beta) for beta in (0.0, 1.0, 4.0)]
    losses = [Vae([5], "sigmoid", config).fit(frames, seed=0).history[0].losses for config in configs]
    assert losses[0] == losses[1] == losses[2]


def test_transform_is_the_encoders_hidden_activation() -> None:
    frames = torch.randn(30, 6, generator=generator())
    vae = Vae([5, 4], "sigmoid", VaeConfig(num_epochs=1)).fit(frames, seed=0)
    network = vae.network
    assert network is not None
    mean, log_variance = network.encode(frames)
    torch.testing.assert_close(network.mean(vae.transform(frames)), mean)
    torch.testing.assert_close(network.log_variance(vae.transform(frames)), log_variance)


def test_importance_weighting_is_of_the_fitted_network() -> None:
    frames = torch.randn(30, 6, generator=generator())
    vae = Vae([5], "sigmoid", VaeConfig(num_epochs=1)).fit(frames, seed=0)
    single, many = (vae.importance_weighted_bound(frames, k, generator()).mean().item() for k in (1, 1000))
    bounds = torch.stack([vae.elbo(frames, generator(seed)).mean() for seed in range(30)])
    spread = bounds.std().item()
    assert single == pytest.approx(bounds.mean().item(), abs=8 * spread)  # its divergence is sampled, too
    assert many > bounds.mean().item() + spread


@pytest.mark.parametrize("decoder", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_every_decoder(estimator: Any, decoder: Any) -> None:
    frames = latent_frames().float()
    frames = frames if decoder == "gaussian" else frames.sigmoid()
    config = VaeConfig(
        num_epochs=15, learning_rate=0.01, num_latent=2, decoder=decoder, estimator=estimator, num_samples=4
    )
    history = Vae([6], "sigmoid", config).fit(frames, seed=0).history
    losses = [progress.losses["negative_elbo"] for progress in history]
    assert losses[-1] < losses[0] - 0.01
    assert history[-1].losses.keys() == {"negative_elbo"}


def test_schedules_are_straight_lines() -> None:
    warm = VaeConfig(beta=3.0, beta_warmup_epochs=4, free_bits=0.5, free_bits_decay_epochs=2)
    assert [warm.scheduled_beta(epoch) for epoch in range(1, 7)] == pytest.approx([0, 0.75, 1.5, 2.25, 3, 3])
    assert [warm.scheduled_free_bits(epoch) for epoch in range(1, 5)] == pytest.approx([0.5, 0.25, 0, 0])
    plain = VaeConfig(free_bits=0.5)
    assert [plain.scheduled_beta(epoch) for epoch in (1, 9)] == [1, 1]
    assert [plain.scheduled_free_bits(epoch) for epoch in (1, 9)] == [0.5, 0.5]


def test_training_follows_the_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = vae_module.weighted_bound

    def recording(expected: Tensor, divergences: Tensor, beta: float, free_bits: float) -> Tensor:
        seen.append((beta, free_bits))
        return original(expected, divergences, beta, free_bits)

    monkeypatch.setattr(vae_module, "weighted_bound", recording)
    frames = torch.randn(20, 6, generator=generator())
    config = VaeConfig(
        num_epochs=3, batch_size=10, beta=2, beta_warmup_epochs=2, free_bits=0.3, free_bits_decay_epochs=1
    )
    Vae([5], "sigmoid", config).fit(frames, seed=0)
    assert seen == [(0.0, 0.3)] * 2 + [(1.0, 0.0)] * 2 + [(2.0, 0.0)] * 2


def test_a_heavy_divergence_collapses_the_posterior_and_free_bits_keep_it() -> None:
    frames = latent_frames().float()

    def nats(**options: Any) -> Tensor:
        config = VaeConfig(num_epochs=40, learning_rate=0.02, num_latent=2, **options)
        network = Vae([8], "relu", config).fit(frames, seed=0).network
        assert network is not None
        return divergence(*network.encode(frames)).mean(dim=0).detach()

    assert (nats() > 0.5).all()
    assert (nats(beta=5) < 0.01).all()
    kept = nats(beta=5, free_bits=0.4)
    assert (kept > 0.2).all()
    assert (kept < 0.5).all()


class Interrupted(Exception):
    """In place of a process that is killed."""


def test_an_interrupted_vae_resumes_to_the_same_bits(tmp_path: Path) -> None:
    frames = torch.randn(200, 6, generator=generator())
    config = VaeConfig(
        num_epochs=3, estimator="score_function_baseline", num_samples=2, beta_warmup_epochs=2, free_bits=0.1
    )

    def interrupt(progress: PretrainProgress) -> None:
        if progress.epoch == 2:
            raise Interrupted

    whole = Vae([5], "relu", config).fit(frames, seed=0)
    with pytest.raises(Interrupted):
        Vae([5], "relu", config).fit(frames, seed=0, on_epoch=interrupt, checkpoint=tmp_path / "checkpoint.pt")
    resumed = Vae([5], "relu", config).fit(frames, seed=0, checkpoint=tmp_path / "checkpoint.pt")
    assert resumed.history == whole.history
    assert torch.equal(resumed.elbo(frames, generator()), whole.elbo(frames, generator()))


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"VaeConfig\.num_latent is 0"):
        VaeConfig(num_latent=0)
    with pytest.raises(InputError, match='decoder_variance "learnt"; did you mean "learned"'):
        VaeConfig(decoder_variance="learnt")
    with pytest.raises(InputError, match="this Vae has no layers yet; call fit first"):
        Vae([4], "relu", VaeConfig()).elbo(torch.zeros(1, 3), generator())
    with pytest.raises(InputError, match="this Vae has no layers yet; call fit first"):
        Vae([4], "relu", VaeConfig()).importance_weighted_bound(torch.zeros(1, 3), 2, generator())
    with pytest.raises(InputError, match=r'VaeConfig\.decoder "bernouli"; did you mean "bernoulli"'):
        VaeConfig(decoder="bernouli")  # type: ignore[arg-type]
    with pytest.raises(InputError, match='unknown decoder "normal"; choose from: gaussian, bernoulli'):
        VariationalAutoencoder(3, [], 1, torch.relu, decoder="normal", generator=generator())
    with pytest.raises(InputError, match=r'VaeConfig\.estimator "scorefunction"; did you mean "score_f'):
        VaeConfig(estimator="scorefunction")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"num_samples is 0; expected a whole number of at least 1 with the repar"
    ):
        VaeConfig(num_samples=0)
    with pytest.raises(
        InputError, match=r"num_samples is 1; expected a whole number of at least 2 with the score"
    ):
        VaeConfig(estimator="score_function_baseline")
    for field in ("beta", "free_bits"):
        for value in (-1.0, math.inf, math.nan):
            with pytest.raises(
                InputError, match=rf"VaeConfig\.{field} is {value}; expected a number of at least 0"
            ):
                VaeConfig(**{field: value})  # type: ignore[arg-type]
    for field in ("beta_warmup_epochs", "free_bits_decay_epochs"):
        with pytest.raises(InputError, match=rf"VaeConfig\.{field} is -1; expected a whole number of at least 0"):
            VaeConfig(**{field: -1})  # type: ignore[arg-type]
    bernoulli = Vae([4], "relu", VaeConfig(num_epochs=1, decoder="bernoulli"))
    with pytest.raises(
        InputError, match=r"a Bernoulli decoder needs frames in \[0, 1\]; found values from 0 to 2"
    ):
        bernoulli.fit(torch.tensor([[0.0, 2.0]]), seed=0)
