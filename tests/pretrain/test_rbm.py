"""The RBM against enumeration: energies, partition function, Gibbs chain, contrastive divergence, training."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.likelihood import exact_log_likelihood, exact_log_partition
from spkadapt.pretrain.rbm import CdGradients, Rbm, RbmConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(visible: str, num_visible: int = 4, num_hidden: int = 3, scale: float = 1.0) -> Rbm:
    rbm = Rbm(num_visible, num_hidden, visible, generator=generator()).double()
    with torch.no_grad():
        for seed, parameter in enumerate(rbm.parameters(), start=1):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
    return rbm


def states(num_units: int) -> np.ndarray:
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_units)))


def energy(rbm: Rbm, v: np.ndarray, h: np.ndarray) -> float:
    """E(v, h) of one configuration, written out."""
    weight, b, c = (p.detach().numpy() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    own = {"bernoulli": -b @ v, "gaussian": 0.5 * ((v - b) ** 2).sum(), "rectified": 0.5 * v @ v - b @ v}
    return float(own[rbm.visible] - c @ h - h @ weight @ v)


def joint(rbm: Rbm) -> np.ndarray:
    """p(v, h) of a Bernoulli RBM by enumeration, (2^num_visible, 2^num_hidden)."""
    num_hidden, num_visible = rbm.weight.shape
    mass = np.array([[math.exp(-energy(rbm, v, h)) for h in states(num_hidden)] for v in states(num_visible)])
    return mass / mass.sum()


def gibbs_transition(rbm: Rbm) -> np.ndarray:
    """P(v' | v) of one full Gibbs step, (2^num_visible, 2^num_visible), from the enumerated joint."""
    p = joint(rbm)
    return (p / p.sum(axis=1, keepdims=True)) @ (p / p.sum(axis=0, keepdims=True)).T


def expected_gradient(rbm: Rbm, data: np.ndarray, model: np.ndarray) -> list[np.ndarray]:
    """Positive minus negative statistics for distributions `data` and `model` over the visible states."""
    v = states(rbm.weight.shape[1])
    p = joint(rbm)
    h = (p / p.sum(axis=1, keepdims=True)) @ states(rbm.weight.shape[0])
    difference = data - model
    return [np.einsum("s,sh,sv->hv", difference, h, v), difference @ v, difference @ h]


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian", "rectified"])
def test_free_energy_is_the_enumerated_marginal(visible: str) -> None:
    rbm, real = random_rbm(visible), torch.randn(7, 4, dtype=torch.float64)
    v = {"bernoulli": torch.from_numpy(states(4)), "gaussian": real, "rectified": real.abs()}[visible]
    enumerated = [-np.logaddexp.reduce([-energy(rbm, row, h) for h in states(3)]) for row in v.numpy()]
    np.testing.assert_allclose(rbm.free_energy(v).detach(), enumerated, rtol=1e-12)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_conditionals_are_those_of_the_enumerated_joint(visible: str) -> None:
    rbm = random_rbm(visible)
    v = np.random.default_rng(0).normal(size=4) if visible == "gaussian" else states(4)[5]
    mass = np.array([math.exp(-energy(rbm, v, h)) for h in states(3)])
    found = rbm.hidden_probabilities(torch.from_numpy(v)[None]).detach()[0]
    np.testing.assert_allclose(found, mass @ states(3) / mass.sum(), rtol=1e-12)
    h = states(3)[5]
    if visible == "bernoulli":
        mass = np.array([math.exp(-energy(rbm, v, h)) for v in states(4)])
        mean = mass @ states(4) / mass.sum()
    else:  # the mode of exp(−E) in v is its mean: there the slope of E vanishes
        mean = (rbm.visible_bias + torch.from_numpy(h) @ rbm.weight).detach().numpy()
        for step in np.eye(4) * 1e-3:
            assert energy(rbm, mean + step, h) == pytest.approx(energy(rbm, mean - step, h), abs=1e-12)
    np.testing.assert_allclose(rbm.visible_mean(torch.from_numpy(h)[None]).detach()[0], mean, rtol=1e-12)


@pytest.mark.parametrize(("num_visible", "num_hidden"), [(4, 3), (3, 5), (15, 2), (2, 15)])
def test_log_partition_of_bernoulli_is_the_sum_over_all_configurations(num_visible: int, num_hidden: int) -> None:
    rbm = random_rbm("bernoulli", num_visible, num_hidden, scale=0.7)
    v, h = states(num_visible), states(num_hidden)
    weight, b, c = (p.detach().numpy() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    enumerated = np.logaddexp.reduce(((v @ b)[:, None] + h @ c + v @ weight.T @ h.T).ravel())
    assert exact_log_partition(rbm).item() == pytest.approx(enumerated, rel=1e-12)


def test_gaussian_density_integrates_to_one() -> None:
    rbm = random_rbm("gaussian", num_visible=2)
    axis = torch.linspace(-14, 14, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = exact_log_likelihood(rbm, grid).exp().sum() * (axis[1] - axis[0]) ** 2
    # The trapezoidal rule converges exponentially for Gaussians: what is left is rounding and the cut tails.
    assert density.item() == pytest.approx(1, abs=1e-9)


def test_exact_gradient_is_data_minus_model_expectation() -> None:
    rbm = random_rbm("bernoulli")
    data = np.random.default_rng(1).dirichlet(np.ones(16))
    likelihood = exact_log_likelihood(rbm, torch.from_numpy(states(4)))
    (torch.from_numpy(data) * likelihood).sum().backward()
    expected = expected_gradient(rbm, data, joint(rbm).sum(axis=1))
    for parameter, gradient in zip((rbm.weight, rbm.visible_bias, rbm.hidden_bias), expected, strict=True):
        np.testing.assert_allclose(parameter.grad, gradient, atol=1e-13)


def test_contrastive_divergence_matches_its_enumerated_expectation_and_its_bias_shrinks() -> None:
    rbm = random_rbm("bernoulli", scale=2.5)
    counts = np.array([45_000, 0, 15_000, 0, 0, 30_000, 0, 0, 0, 50_000, 0, 0, 20_000, 0, 0, 40_000])
    v = torch.from_numpy(states(4)).repeat_interleave(torch.from_numpy(counts), dim=0)
    data, transition = counts / counts.sum(), gibbs_transition(rbm)
    exact = expected_gradient(rbm, data, joint(rbm).sum(axis=1))
    # Only the negative statistics are random, each a mean of n independent values in [0, 1]; by Hoeffding
    # 2 exp(−2 n t²) < 1e-9 for each of the 19 × 3 numbers compared.
    tolerance = math.sqrt(math.log(2e9) / (2 * len(v)))
    biases = []
    for num_steps in (1, 2, 10):
        found = [g.numpy() for g in rbm.contrastive_divergence(v, num_steps, generator(num_steps))[:3]]
        expected = expected_gradient(rbm, data, data @ np.linalg.matrix_power(transition, num_steps))
        for value, truth in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, truth, atol=tolerance)
        biases.append(max(np.abs(value - truth).max() for value, truth in zip(found, exact, strict=True)))
    assert biases[0] > 2 * biases[1] > 4 * tolerance
    assert biases[2] < 2 * tolerance


def test_gaussian_contrastive_divergence_tends_to_the_exact_gradient() -> None:
    rbm = random_rbm("gaussian", num_visible=3, num_hidden=2)
    frames = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    exact_log_likelihood(rbm, frames).mean().backward()
    v = frames.repeat(8_000, 1)
    found = rbm.contrastive_divergence(v, 20, generator())
    # The model's own spread: unit noise around means within ‖W‖₁ of the bias.
    spread = 1 + rbm.weight.detach().abs().sum().item() + rbm.visible_bias.detach().abs().max().item()
    tolerance = 5 * spread / math.sqrt(len(v))
    for parameter, value in zip((rbm.weight, rbm.visible_bias, rbm.hidden_bias), found[:3], strict=True):
        np.testing.assert_allclose(value, parameter.grad, atol=tolerance)
    one_step = rbm.contrastive_divergence(v, 1, generator())
    assert (one_step.weight - rbm.weight.grad).abs().max() > 3 * tolerance


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_gibbs_chain_is_stationary_at_the_enumerated_distribution(visible: str) -> None:
    rbm = random_rbm(visible)
    num_steps, num_chains, noise = 50, 30_000, generator()
    v = torch.zeros(num_chains, 4, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(num_steps):
            h = rbm.sample_hidden(v, noise)
            v = rbm.sample_visible(h, noise)
        h = rbm.sample_hidden(v, noise)
        hidden_states = torch.from_numpy(states(3))
        if visible == "bernoulli":
            exact = joint(rbm).sum(axis=0)
            mixing = np.sort(np.abs(scipy.linalg.eigvals(gibbs_transition(rbm))))[-2]
            assert mixing**num_steps < 1e-6  # else the chain has not forgotten its start
        else:
            # p(h) ∝ exp(cᵀh + bᵀWᵀh + ½‖Wᵀh‖²), by completing the square
            inputs = hidden_states @ rbm.weight
            log_mass = hidden_states @ rbm.hidden_bias + inputs @ rbm.visible_bias + inputs.square().sum(1) / 2
            exact = log_mass.softmax(0).numpy()
    counts = np.bincount((h @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long(), minlength=8)
    statistic = ((counts - num_chains * exact) ** 2 / (num_chains * exact)).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, df=7)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_every_row_of_a_batch_has_noise_of_its_own(visible: str) -> None:
    rbm = Rbm(64, 64, visible, generator=generator())
    same = torch.zeros(50, 64)
    for sample in (rbm.sample_hidden, rbm.sample_visible):
        with torch.no_grad():
            assert len(sample(same, generator()).unique(dim=0)) == 50


@pytest.mark.parametrize("num_steps", [1, 3])
def test_hidden_statistics_are_probabilities(num_steps: int) -> None:
    rbm = Rbm(5, 4, generator=generator()).double()
    with torch.no_grad():
        rbm.weight.zero_()
    gradients = rbm.contrastive_divergence(torch.ones(3, 5, dtype=torch.float64), num_steps, generator())
    # Without weights the hidden probabilities are ½ on both sides; samples would differ.
    assert gradients.hidden_bias.abs().max() == 0


def test_reconstruction_error_is_of_the_mean_not_of_a_sample() -> None:
    rbm = Rbm(6, 2, generator=generator()).double()
    with torch.no_grad():
        rbm.weight.zero_()
    gradients = rbm.contrastive_divergence(torch.ones(3, 6, dtype=torch.float64), 2, generator())
    assert gradients.reconstruction_error.item() == 0.25


def test_updates_follow_the_momentum_schedule_and_only_weights_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RbmConfig(learning_rate=0.1, weight_decay=0.3, num_epochs=4, num_initial_epochs=2)
    gradients = CdGradients(*(torch.full(s, 1.0, dtype=torch.float64) for s in ((2, 3), (3,), (2,), ())))
    monkeypatch.setattr(Rbm, "contrastive_divergence", lambda *_: CdGradients(*(g.clone() for g in gradients[:4])))
    rbm = random_rbm("bernoulli", 3, 2)
    weight, bias = rbm.weight.detach().clone(), rbm.visible_bias.detach().clone()
    rbm.fit(torch.ones(1, 3, dtype=torch.float64), config, seed=0)
    weight_step, bias_step = torch.zeros_like(weight), torch.zeros_like(bias)
    for momentum in (0.5, 0.5, 0.9, 0.9):
        weight_step = momentum * weight_step + 0.1 * (1 - 0.3 * weight)
        bias_step = momentum * bias_step + 0.1
        weight, bias = weight + weight_step, bias + bias_step
    torch.testing.assert_close(rbm.weight.detach(), weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rbm.visible_bias.detach(), bias, rtol=1e-12, atol=1e-12)


def two_prototypes() -> Tensor:
    """A thousand copies of two opposite patterns, a twentieth of the bits flipped."""
    prototypes = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(500, 1)
    flips = torch.rand(1000, 6, generator=generator()) < 0.05
    return (prototypes ^ flips).float()


def test_training_brings_the_exact_likelihood_near_the_entropy_of_the_data() -> None:
    frames = two_prototypes()
    # The entropy of the generating process, in nats: one fair choice and six flips.
    entropy = math.log(2) + 6 * scipy.stats.entropy([0.05, 0.95])
    rbm = Rbm(6, 3, generator=generator())
    before = exact_log_likelihood(rbm, frames).mean().item()
    rbm.fit(frames, RbmConfig(num_epochs=60), seed=0)
    after = exact_log_likelihood(rbm, frames).mean().item()
    assert before == pytest.approx(-6 * math.log(2), abs=0.01)
    assert after > -entropy - 0.15
    errors = [progress.losses["reconstruction_error"] for progress in rbm.history]
    assert errors[0] > 0.15
    assert errors[-1] < 0.08


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.tensor([[0.0, 1.0], [0.5, float("nan")]]), "frame 1 holds nan in dimension 1"),
        (torch.tensor([[0.0, float("inf")]]), "frame 0 holds inf in dimension 1"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(0, 2), r"shape \(0, 2\)"),
        (torch.zeros(3, 2, dtype=torch.int64), "int64"),
        (torch.zeros(3, 5), "5 dimensions; this RBM has 2 visible units"),
        (torch.tensor([[-1.5, 0.25]]), r"\[0, 1\]; found frames from -1.5 to 0.25"),
    ],
)
def test_bad_frames_are_named(frames: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rbm(2, 2, generator=generator()).fit(frames, RbmConfig(), seed=0)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(InputError, match='unknown visible units "gausian"; did you mean "gaussian"'):
        Rbm(2, 2, "gausian")
    with pytest.raises(InputError, match="found 0 visible, 2 hidden"):
        Rbm(0, 2)
    with pytest.raises(InputError, match='unknown hidden units "gaussian"; choose from: bernoulli, rectified'):
        Rbm(2, 2, hidden="gaussian")
    with pytest.raises(InputError, match='learn_variances needs visible="gaussian"; bernoulli units have no'):
        Rbm(2, 2, learn_variances=True)
    with pytest.raises(InputError, match="num_steps is 0"):
        Rbm(2, 2).contrastive_divergence(torch.zeros(1, 2), 0, generator())
    with pytest.raises(InputError, match=r"2\^26 states of an RBM with 30 visible and 26 hidden"):
        exact_log_partition(Rbm(30, 26))
    with pytest.raises(InputError, match=r"2\^26 states"):
        exact_log_partition(Rbm(2, 26, "gaussian"))
