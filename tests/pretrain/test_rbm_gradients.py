"""Persistent and tempered chains against enumeration; learned variances and low precision against exact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood, exact_log_partition, sample_exactly
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_gradients import PersistentChains, TemperedChains, contrast
from spkadapt.pretrain.rbm_path import RbmPath


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(
    visible: str, num_visible: int = 4, num_hidden: int = 3, scale: float = 1.0, **options: bool
) -> Rbm:
    rbm = Rbm(num_visible, num_hidden, visible, generator=generator(), **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for seed, parameter in enumerate(rbm.parameters(), start=1):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
    return rbm


def two_modes(strength: float = 6.0) -> Rbm:
    """All four visible units on or all off, with equal mass: energy −strength · Σ_j (2h_j − 1)Σ_i(2v_i − 1)/4."""
    rbm = Rbm(4, 3, generator=generator()).double()
    with torch.no_grad():
        rbm.weight.fill_(strength)
        rbm.visible_bias.fill_(-1.5 * strength)
        rbm.hidden_bias.fill_(-2.0 * strength)
    return rbm


def gradient_names(rbm: Rbm) -> list[str]:
    return ["weight", "visible_bias", "hidden_bias"] + ([] if rbm.log_variance is None else ["log_variance"])


@pytest.mark.parametrize(
    ("visible", "learn_variances"),
    [("bernoulli", False), ("gaussian", False), ("gaussian", True), ("rectified", False)],
)
def test_contrast_is_the_gradient_of_the_free_energies(visible: str, learn_variances: bool) -> None:
    rbm = random_rbm(visible, learn_variances=learn_variances)
    v, chain = torch.rand(7, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64)
    (rbm.free_energy(chain).mean() - rbm.free_energy(v).mean()).backward()
    with torch.no_grad():
        found = contrast(rbm, v, rbm.hidden_mean(v), chain, rbm.hidden_mean(chain), torch.zeros(()))
    for name in gradient_names(rbm):
        torch.testing.assert_close(getattr(found, name), getattr(rbm, name).grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.hidden_activity, rbm.hidden_mean(v).mean(dim=0))


def test_learned_variance_enters_energy_conditionals_and_sampling() -> None:
    rbm = random_rbm("gaussian", num_visible=2, num_hidden=2, learn_variances=True)
    assert rbm.log_variance is not None
    weight, b, c, z = (p.detach().numpy() for p in rbm.parameters())
    axis = np.linspace(-12, 12, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    h = binary_states(0, 4, 2).double().numpy()
    energies = ((grid - b) ** 2 / (2 * np.exp(z))).sum(1)[:, None] - h @ c - (grid / np.exp(z)) @ weight.T @ h.T
    np.testing.assert_allclose(
        rbm.free_energy(torch.from_numpy(grid)).detach(), -np.logaddexp.reduce(-energies, axis=1), rtol=1e-10
    )
    mass = np.exp(-energies) * (axis[1] - axis[0]) ** 2
    assert exact_log_partition(rbm).item() == pytest.approx(math.log(mass.sum()), abs=1e-9)
    posterior = mass[40_000] / mass[40_000].sum() @ h
    np.testing.assert_allclose(rbm.hidden_mean(torch.from_numpy(grid[40_000:40_001])).detach()[0], posterior)
    conditional = mass[:, 2] / mass[:, 2].sum()
    state = torch.from_numpy(h[2:3]).repeat(100_000, 1)
    mean = rbm.visible_mean(state[:1]).detach()[0].numpy()
    np.testing.assert_allclose(mean, conditional @ grid, atol=1e-9)
    with torch.no_grad():
        sample = rbm.sample_visible(state, generator())
    spread = np.sqrt(conditional @ (grid - mean) ** 2)
    np.testing.assert_allclose(spread, np.exp(z / 2), rtol=1e-9)
    assert (np.abs(sample.mean(dim=0).numpy() - mean) < 5 * spread / math.sqrt(100_000)).all()
    assert (np.abs(sample.std(dim=0).numpy() / spread - 1) < 5 / math.sqrt(200_000)).all()


def test_exact_gradient_of_learned_variances_is_that_of_contrast_with_exact_samples() -> None:
    rbm = random_rbm("gaussian", num_visible=3, num_hidden=2, scale=0.6, learn_variances=True)
    v = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    exact_log_likelihood(rbm, v).mean().backward()
    samples = sample_exactly(rbm, 200_000, generator())
    with torch.no_grad():
        found = contrast(rbm, v, rbm.hidden_mean(v), samples, rbm.hidden_mean(samples), torch.zeros(()))
        # Per-sample statistics have this spread; 5 standard errors.
        squares = (samples - rbm.visible_bias).square() / 2 / rbm.log_variance.exp()
    tolerance = 5 * 3 * max(squares.std().item(), samples.std().item()) / math.sqrt(len(samples))
    for name in gradient_names(rbm):
        torch.testing.assert_close(getattr(found, name), getattr(rbm, name).grad, rtol=0, atol=tolerance)


def start_chains(kind: str, rbm: Rbm, starts: Tensor) -> PersistentChains:
    if kind == "persistent":
        return PersistentChains(rbm, starts)
    variances = torch.tensor([0.3, -0.2, 0.6]) if rbm.visible == "gaussian" else None
    return TemperedChains(RbmPath(rbm, torch.linspace(-1, 1, starts.shape[1]), variances), starts, 3)


def exact_gradients(rbm: Rbm, v: Tensor) -> list[Tensor]:
    rbm.zero_grad()
    exact_log_likelihood(rbm, v).mean().backward()
    return [getattr(rbm, name).grad for name in gradient_names(rbm)]


@pytest.mark.parametrize("kind", ["persistent", "tempered"])
def test_gradients_are_unbiased_once_the_chains_have_forgotten_their_start(kind: str) -> None:
    rbm = random_rbm("bernoulli", scale=1.5)
    v = binary_states(0, 16, 4).double()[[1, 1, 2, 7, 11, 15]]
    num_chains, noise = 20_000, generator()
    starts = torch.zeros(num_chains, 4, dtype=torch.float64)
    chains = start_chains(kind, rbm, starts)
    first = chains.gradients(v, 1, noise)
    for _ in range(30):
        found = chains.gradients(v, 1, noise)
    # Hoeffding: each is a mean over num_chains of values in [0, 1]; 19 numbers.
    tolerance = math.sqrt(math.log(2e9) / (2 * num_chains))
    exact = exact_gradients(rbm, v)
    for value, truth in zip(found[:3], exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=tolerance)
    assert max((value - truth).abs().max() for value, truth in zip(first[:3], exact, strict=True)) > 3 * tolerance


def test_gaussian_chains_with_learned_variances_are_unbiased_too() -> None:
    rbm = random_rbm("gaussian", num_visible=3, num_hidden=2, scale=0.6, learn_variances=True)
    v = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    exact = exact_gradients(rbm, v)
    for kind in ("persistent", "tempered"):
        chains = start_chains(kind, rbm, torch.zeros(20_000, 3, dtype=torch.float64))
        noise = generator()
        for _ in range(25):
            found = chains.gradients(v, 1, noise)
        states = chains.model_states()
        spread = ((states - rbm.visible_bias).square() / rbm.log_variance.exp()).std().item()  # type: ignore[union-attr]
        tolerance = 5 * 3 * max(1, spread) / math.sqrt(20_000)
        for name, truth in zip(gradient_names(rbm), exact, strict=True):
            torch.testing.assert_close(getattr(found, name), truth, rtol=0, atol=tolerance)


def test_chains_persist_and_the_data_do_not_restart_them() -> None:
    rbm = random_rbm("bernoulli", scale=0.5)
    # Of few chains, those that restart soon meet those that went on, for the noise is the same.
    v = torch.ones(300, 4, dtype=torch.float64)
    chains = PersistentChains(rbm, v.clone())
    expected, twin = v.clone(), generator()
    noise = generator()
    with torch.no_grad():
        for _ in range(5):
            chains.gradients(v, 2, noise)
            for _ in range(2):
                expected = rbm.sample_visible(rbm.sample_hidden(expected, twin), twin)
            assert torch.equal(chains.states, expected)
            rbm.sample_hidden(v, twin)  # the reconstruction's


@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_swaps_carry_tempered_chains_between_modes_that_gibbs_sampling_never_leaves(tilt: float) -> None:
    """Of equal mass and of unequal: were all swaps accepted, the base's halves would arrive at the model."""
    rbm, noise = two_modes(), generator()
    with torch.no_grad():
        rbm.visible_bias.add_(tilt)
    starts = torch.ones(1000, 4, dtype=torch.float64)
    alone = PersistentChains(rbm, starts)
    tempered = TemperedChains(RbmPath(rbm, torch.zeros(4)), starts, 10)
    for _ in range(200):
        alone.advance(noise)
        tempered.advance(noise)
    every = binary_states(0, 16, 4).double()
    exact = (-rbm.free_energy(every)).softmax(dim=0) @ every.mean(dim=1)
    assert alone.model_states().mean() > 0.95
    assert abs(tempered.model_states().mean().item() - exact.item()) < 5 * 0.5 / math.sqrt(1000)


BASE = torch.tensor([-1.0, 0.5, 0.0, 2.0], dtype=torch.float64)


def rung_distribution(rbm: Rbm, beta: float) -> np.ndarray:
    """p_β(v) of all 16 states: the interaction and hidden biases times β, visible biases from BASE to b."""
    v, h = binary_states(0, 16, 4).double(), binary_states(0, 8, 3).double()
    weight, b, c = rbm.weight.detach(), rbm.visible_bias.detach(), rbm.hidden_bias.detach()
    bias = (1 - beta) * BASE + beta * b
    mass = ((v @ bias)[:, None] + beta * (h @ c + v @ weight.T @ h.T)).exp().sum(dim=1)
    return (mass / mass.sum()).numpy()


@pytest.mark.parametrize("num_temperatures", [2, 4, 5])
def test_every_rung_of_the_ladder_is_at_its_own_temperature(num_temperatures: int) -> None:
    rbm, num_chains, noise = random_rbm("bernoulli", scale=1.5), 10_000, generator()
    starts = torch.zeros(num_chains, 4, dtype=torch.float64)
    chains = TemperedChains(RbmPath(rbm, BASE), starts, num_temperatures)
    for _ in range(40):
        chains.advance(noise)
    numbers = (chains.states @ torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).long()
    for rung, states in enumerate(numbers.view(num_temperatures, num_chains)):
        exact = rung_distribution(rbm, 1 - rung / (num_temperatures - 1))
        counts = np.bincount(states, minlength=16)
        statistic = ((counts - num_chains * exact) ** 2 / (num_chains * exact)).sum()
        assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, df=15), rung


def test_the_reconstruction_error_of_chains_is_that_of_the_data() -> None:
    rbm = Rbm(6, 2, generator=generator()).double()
    with torch.no_grad():
        rbm.weight.zero_()
    chains = PersistentChains(rbm, torch.zeros(5, 6, dtype=torch.float64))
    assert chains.gradients(torch.ones(3, 6, dtype=torch.float64), 1, generator()).reconstruction_error == 0.25


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_bfloat16_gradients_are_within_its_rounding_of_the_full_ones(visible: str) -> None:
    rbm = random_rbm(visible, scale=0.7)
    num_frames = 40_000
    v = torch.rand(num_frames, 4, generator=generator(), dtype=torch.float64).round_()
    full = rbm.contrastive_divergence(v, 1, generator(1))
    low = rbm.bfloat16().contrastive_divergence(v.bfloat16(), 1, generator(2))
    # Sampling: 5 standard errors of a statistic of spread at most 2 (Gaussian), in two runs. Rounding: inputs
    # up to |x| = 4, weights and probabilities lose 2⁻⁹ of themselves each.
    tolerance = 5 * 2 * math.sqrt(2 / num_frames) + 6 * 2**-9
    for found, expected in zip(low[:3], full[:3], strict=True):
        assert found.shape == expected.shape
        assert (found.double() - expected).abs().max() < tolerance
    assert low.visible_bias.dtype == torch.float32  # sums do not round to 8 bits
