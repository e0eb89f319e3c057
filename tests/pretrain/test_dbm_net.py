"""The deep Boltzmann machine against sums over all of its states, from the energy written out in NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.ais import ais_log_partition, reverse_ais_log_partition
from spkadapt.pretrain.dbm_likelihood import (
    DbmPath,
    dbm_bound,
    dbm_log_likelihood,
    dbm_log_partition,
    sample_dbm_exactly,
)
from spkadapt.pretrain.dbm_net import DeepBoltzmannMachine, statistics
from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood
from spkadapt.pretrain.rbm import Rbm

DIMS = [[3, 2], [4, 3, 2], [2, 3, 2, 2], [2, 2, 2, 2, 2]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_dbm(
    dims: list[int], visible: str = "bernoulli", seed: int = 0, scale: float = 1.0
) -> DeepBoltzmannMachine:
    dbm, noise = DeepBoltzmannMachine(dims, visible).double(), generator(seed)
    with torch.no_grad():
        for parameter in dbm.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return dbm


def all_states(num_units: int) -> np.ndarray:
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_units)))


def minus_energy(dbm: DeepBoltzmannMachine, layers: list[np.ndarray]) -> float:
    weights, biases = ([p.detach().numpy() for p in group] for group in (dbm.weights, dbm.biases))
    total = sum(x @ b for x, b in zip(layers, biases, strict=True))
    if dbm.visible == "gaussian":
        total = total - layers[0] @ layers[0] / 2 - biases[0] @ biases[0] / 2
    return float(total + sum(layers[k + 1] @ w @ layers[k] for k, w in enumerate(weights)))


def joint(dbm: DeepBoltzmannMachine, visible: np.ndarray | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """All joint states, (number, dims[k]) each, and −E of each; v's own states are given for Gaussian units."""
    visible = all_states(dbm.dims[0]) if visible is None else visible
    states = list(itertools.product(visible, *(all_states(dim) for dim in dbm.dims[1:])))
    log_mass = np.array([minus_energy(dbm, list(layers)) for layers in states])
    return [np.array(layer) for layer in zip(*states, strict=True)], log_mass


def grid() -> np.ndarray:
    return np.linspace(-14, 14, 561)[:, None]


@pytest.mark.parametrize("dims", DIMS)
def test_partition_function_and_likelihood_are_the_sums_over_all_states(dims: list[int]) -> None:
    dbm = random_dbm(dims)
    layers, log_mass = joint(dbm)
    log_z = scipy.special.logsumexp(log_mass)
    assert dbm_log_partition(dbm).item() == pytest.approx(log_z, rel=1e-12)
    torch.testing.assert_close(
        -dbm.energy([torch.from_numpy(layer) for layer in layers]).detach(), torch.from_numpy(log_mass)
    )
    v = all_states(dims[0])
    exact = scipy.special.logsumexp(log_mass.reshape(len(v), -1), axis=1) - log_z
    np.testing.assert_allclose(dbm_log_likelihood(dbm, torch.from_numpy(v)).detach(), exact, rtol=1e-12)


@pytest.mark.parametrize("dims", [[1, 2], [1, 2, 2], [1, 2, 2, 1]])
def test_a_gaussian_machines_density_is_that_of_its_energy(dims: list[int]) -> None:
    dbm = random_dbm(dims, "gaussian")
    v = grid()
    _, log_mass = joint(dbm, v)
    log_v = scipy.special.logsumexp(log_mass.reshape(len(v), -1), axis=1)
    log_z = scipy.special.logsumexp(log_v) + math.log(v[1, 0] - v[0, 0])
    assert dbm_log_partition(dbm).item() == pytest.approx(log_z, abs=1e-9)
    np.testing.assert_allclose(
        dbm_log_likelihood(dbm, torch.from_numpy(v)).detach(), log_v - log_z, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_one_hidden_layer_is_an_rbm(visible: str) -> None:
    dbm, rbm = random_dbm([4, 3], visible), Rbm(4, 3, visible).double()
    with torch.no_grad():
        rbm.weight.copy_(dbm.weights[0])
        rbm.visible_bias.copy_(dbm.biases[0])
        rbm.hidden_bias.copy_(dbm.biases[1])
    v = torch.rand(6, 4, generator=generator(), dtype=torch.float64)
    exact = exact_log_likelihood(rbm, v)
    torch.testing.assert_close(dbm_log_likelihood(dbm, v), exact, rtol=1e-12, atol=1e-12)
    # Its posterior is factorial: there the bound is tight.
    bound = dbm_bound(dbm, v, dbm_log_partition(dbm).item())
    torch.testing.assert_close(bound, exact, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([0.3, 1.0, 3.0]), st.sampled_from(DIMS[1:]), st.booleans())
def test_mean_field_raises_the_bound_and_never_passes_the_likelihood(
    seed: int, scale: float, dims: list[int], from_below: bool
) -> None:
    dbm = random_dbm(dims, seed=seed, scale=scale)
    v = binary_states(0, 2 ** dims[0], dims[0]).double()
    noise = generator(seed)
    starts = [torch.rand(len(v), dim, generator=noise, dtype=torch.float64) for dim in dims[1:]]
    means = dbm.bottom_up(v) if from_below else starts
    with torch.no_grad():
        exact = dbm_log_likelihood(dbm, v)
        log_z = dbm_log_partition(dbm)
        bound = dbm.unnormalised_bound(v, means) - log_z
        for _ in range(30):
            means = dbm.mean_field(v, num_updates=1, start=means)
            risen = dbm.unnormalised_bound(v, means) - log_z
            assert (risen >= bound - 1e-11).all()
            bound = risen
    assert (bound <= exact + 1e-11).all()


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_the_bound_misses_the_likelihood_by_the_divergence_from_the_posterior(visible: str) -> None:
    dbm = random_dbm([2, 3, 2, 2], visible)
    v = np.array([[0.0, 1.0], [1.0, 1.0]])
    layers, log_mass = joint(dbm, v)
    log_posterior = log_mass.reshape(2, -1)
    log_posterior = log_posterior - scipy.special.logsumexp(log_posterior, axis=1, keepdims=True)
    frames = torch.from_numpy(v)
    means = [torch.rand(2, dim, generator=generator(1), dtype=torch.float64) for dim in dbm.dims[1:]]
    with torch.no_grad():
        gap = dbm_log_likelihood(dbm, frames) - dbm.unnormalised_bound(frames, means) + dbm_log_partition(dbm)
    for row in range(2):
        log_q = sum(
            np.log(np.where(h.reshape(2, -1, h.shape[1])[row] == 1, mean[row].numpy(), 1 - mean[row].numpy())).sum(
                1
            )
            for h, mean in zip(layers[1:], means, strict=True)
        )
        assert gap[row].item() == pytest.approx(np.sum(np.exp(log_q) * (log_q - log_posterior[row])), rel=1e-9)


def test_mean_field_ends_where_an_update_changes_nothing() -> None:
    dbm = random_dbm([4, 3, 3, 2], scale=0.5)
    v = binary_states(0, 16, 4).double()
    means = dbm.mean_field(v, num_updates=500, tolerance=1e-13)
    layers = [v, *means]
    with torch.no_grad():
        for k in range(1, 4):
            torch.testing.assert_close(dbm.inputs(layers, k).sigmoid(), layers[k], rtol=0, atol=1e-12)
        early = dbm.mean_field(v, num_updates=500, tolerance=0.5)
        one = dbm.mean_field(v, num_updates=1)
    for a, b in zip(early, one, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("k", range(4))
def test_conditionals_are_those_of_the_joint(k: int) -> None:
    dbm = random_dbm([2, 3, 2, 2])
    layers, log_mass = joint(dbm)
    others = np.concatenate([layer for number, layer in enumerate(layers) if number != k], axis=1)
    given_state = (others == others[7]).all(axis=1)
    p = scipy.special.softmax(log_mass[given_state])
    with torch.no_grad():
        found = dbm.inputs([torch.from_numpy(layer[7:8]) for layer in layers], k).sigmoid()
    np.testing.assert_allclose(found[0], p @ layers[k][given_state], rtol=1e-10)


def numbers_of(layers: list[Tensor]) -> np.ndarray:
    """The place of each row in the order of `joint`."""
    bits = torch.cat(layers, dim=1)
    return (bits @ (2.0 ** torch.arange(bits.shape[1] - 1, -1, -1, dtype=torch.float64))).long().numpy()


def assert_distributed(layers: list[Tensor], probabilities: np.ndarray) -> None:
    counts, expected = (
        np.bincount(numbers_of(layers), minlength=len(probabilities)),
        probabilities * len(layers[0]),
    )
    common = expected > 10
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    statistic = ((observed - wanted) ** 2 / wanted)[wanted > 1].sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, df=common.sum())


def test_samplers_have_the_enumerated_distribution() -> None:
    """Exact samples; a Gibbs step of them; chains; and the transition of annealing along its path."""
    dbm, num_samples = random_dbm([2, 2, 2, 1], scale=0.8), 40_000
    probabilities = scipy.special.softmax(joint(dbm)[1])
    layers, odd = sample_dbm_exactly(dbm, num_samples, generator())
    assert_distributed(layers, probabilities)
    torch.testing.assert_close(odd, torch.cat([layers[1], layers[3]], dim=1))
    states, means = dbm.gibbs(layers, generator(1))
    assert_distributed(states, probabilities)
    assert torch.equal(means[0], states[0])
    with torch.no_grad():
        torch.testing.assert_close(means[1], dbm.inputs(states, 1).sigmoid())
        torch.testing.assert_close(means[3], dbm.inputs(states, 3).sigmoid())
    assert_distributed(dbm.sample(num_samples, num_gibbs_steps=60, seed=0), probabilities)


def test_samples_of_gaussian_units_have_the_exact_moments() -> None:
    dbm, num_samples = random_dbm([1, 2, 2], "gaussian"), 60_000
    v = torch.from_numpy(grid())
    with torch.no_grad():
        density = dbm_log_likelihood(dbm, v).exp() * (v[1, 0] - v[0, 0])
    cumulative = density.cumsum(0).numpy()
    for found in (
        sample_dbm_exactly(dbm, num_samples, generator())[0][0],
        dbm.sample(num_samples, num_gibbs_steps=60, seed=0)[0],
    ):
        share = np.searchsorted(np.sort(found[:, 0].numpy()), grid()[:, 0] + 0.025) / num_samples
        # Dvoretzky-Kiefer-Wolfowitz: 2 exp(−2nt²) < 1e-9; and what half a cell of the grid may hold.
        assert np.abs(share - cumulative).max() < math.sqrt(math.log(2e9) / (2 * num_samples)) + 2e-3


def expected_statistics(dbm: DeepBoltzmannMachine, layers: list[np.ndarray], p: np.ndarray) -> list[np.ndarray]:
    """Σ p(x) times the statistics of that one state, those with weight only."""
    total = [np.zeros(parameter.shape) for parameter in dbm.parameters()]
    for row in np.flatnonzero(p > 0):
        one = statistics([torch.from_numpy(layer[row : row + 1]) for layer in layers])
        for part, value in zip(total, [*one.weights, *one.biases], strict=True):
            part += p[row] * value.numpy()
    return total


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_exact_statistics_give_the_numerical_gradient_of_the_exact_likelihood(visible: str) -> None:
    dbm = random_dbm([2, 2, 2, 2], visible, scale=0.7)
    v = np.array([[0.0, 1.0]]) if visible == "bernoulli" else np.array([[0.3, -1.2]])
    layers, log_mass = joint(dbm, v)
    positive = expected_statistics(dbm, layers, scipy.special.softmax(log_mass))
    if visible == "bernoulli":
        layers, log_mass = joint(dbm)
    else:
        # Statistics are linear in v, and so see E[v | h]; exp(−E) at the mean is p(h)'s share but for a constant.
        first = torch.from_numpy(layers[1])
        with torch.no_grad():
            layers[0] = dbm.visible_mean(first).numpy()
        log_mass = np.array([minus_energy(dbm, [layer[row] for layer in layers]) for row in range(len(first))])
    negative = expected_statistics(dbm, layers, scipy.special.softmax(log_mass))
    step = 1e-5
    with torch.no_grad():
        for parameter, data, model in zip(dbm.parameters(), positive, negative, strict=True):
            flat = parameter.view(-1)
            for number, truth in enumerate((data - model).ravel()):
                value, ends = flat[number].item(), []
                for sign in (1, -1):
                    flat[number] = value + sign * step
                    ends.append(dbm_log_likelihood(dbm, torch.from_numpy(v)).item())
                flat[number] = value
                assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(truth, abs=1e-8)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_mean_field_statistics_are_the_gradient_of_the_unnormalised_bound(visible: str) -> None:
    dbm = random_dbm([3, 3, 2], visible)
    v = torch.rand(5, 3, generator=generator(), dtype=torch.float64)
    means = dbm.mean_field(v)
    exact = torch.autograd.grad(dbm.unnormalised_bound(v, means).mean(), list(dbm.parameters()))
    found = statistics([v, *means])
    if visible == "gaussian":
        found.biases[0].sub_(
            dbm.biases[0].detach()
        )  # of −½‖v − a₀‖²; it falls out of the difference of two phases
    for value, truth in zip([*found.weights, *found.biases], exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_annealing_path_is_a_machine_of_mixed_parameters(visible: str, beta: float) -> None:
    dbm = random_dbm([1, 2, 2, 1], visible, scale=0.8)
    base = torch.tensor([0.7], dtype=torch.float64)
    path, mixed = DbmPath(dbm, base), random_dbm([1, 2, 2, 1], visible)
    with torch.no_grad():
        for target, source in zip(mixed.parameters(), dbm.parameters(), strict=True):
            target.copy_(beta * source)
        mixed.biases[0].add_((1 - beta) * base)
        # Its Gaussian terms in v alone mix as −½(1 − β)(v − b)² − ½β(v − a)², not as −½(v − (1 − β)b − βa)².
        a, b = dbm.biases[0].item(), base.item()
        shift = ((1 - beta) * b + beta * a) ** 2 / 2 - ((1 - beta) * b**2 + beta * a**2) / 2
        shift = shift if visible == "gaussian" else 0.0
        states = binary_states(0, 8, 3).double()
        mixed_path = DbmPath(mixed)
        torch.testing.assert_close(path.log_mass(states, beta), mixed_path.log_mass(states) + shift)
        if beta == 0:
            assert torch.logsumexp(path.log_mass(states, 0.0), dim=0).item() == pytest.approx(
                path.log_base_partition.item(), abs=1e-12
            )
    num_samples = 40_000
    odd = sample_dbm_exactly(mixed, num_samples, generator())[1]
    log_ratio, moved = path.move(odd, 0.2, beta, generator(1))
    torch.testing.assert_close(log_ratio, (path.log_mass(odd, beta) - path.log_mass(odd, 0.2)).detach())
    probabilities = scipy.special.softmax(mixed_path.log_mass(states).detach().numpy())
    order = numbers_of([states])
    assert_distributed([moved], probabilities[np.argsort(order)])


def test_annealing_brackets_the_exact_partition_function() -> None:
    """Within its own interval, at 1 − 1e-5, on machines of two and three hidden layers."""
    ended_inside = 0
    for seed in range(12):
        dims = [[6, 4, 3], [5, 4, 3, 3]][seed % 2]
        visible = ["bernoulli", "gaussian"][seed // 2 % 2]
        dbm = random_dbm(dims, visible, seed=seed, scale=0.5)
        exact = dbm_log_partition(dbm).item()
        layers, odd = sample_dbm_exactly(dbm, 100, generator(seed))
        path = DbmPath.from_frames(dbm, layers[0])
        options = {"num_temperatures": 100, "confidence": 1 - 1e-5, "seed": seed}
        forward = ais_log_partition(path, num_chains=100, **options)  # type: ignore[arg-type]
        backward = reverse_ais_log_partition(path, odd, **options)  # type: ignore[arg-type]
        for estimate in (forward, backward):
            ended_inside += estimate.low <= exact <= estimate.high
            assert estimate.high - estimate.low < 1
    assert ended_inside == 24


def test_single_precision_machines_are_enumerated_and_annealed_in_double() -> None:
    dbm = random_dbm([5, 4, 3], scale=0.5)
    single = random_dbm([5, 4, 3], scale=0.5).float()
    v = binary_states(0, 32, 5)
    assert dbm_log_partition(single).item() == pytest.approx(dbm_log_partition(dbm).item(), abs=1e-5)
    torch.testing.assert_close(
        dbm_log_likelihood(single, v.float()).double(), dbm_log_likelihood(dbm, v.double()), rtol=0, atol=1e-5
    )
    estimate = ais_log_partition(DbmPath(single), num_chains=50, num_temperatures=50, seed=0)
    assert estimate.log_partition == pytest.approx(dbm_log_partition(dbm).item(), abs=0.5)


def test_enumeration_goes_on_over_chunks() -> None:
    dbm = random_dbm([4, 15, 2], scale=0.4)
    v = binary_states(0, 16, 4).double()
    with torch.no_grad():
        assert dbm_log_likelihood(dbm, v).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_bad_arguments_are_named() -> None:
    for dims in ([3], [3, 0]):
        with pytest.raises(
            InputError, match="expected a visible and at least one hidden layer of at least one unit"
        ):
            DeepBoltzmannMachine(dims)
    with pytest.raises(InputError, match=r'unknown visible units "gausian".*gaussian'):
        DeepBoltzmannMachine([3, 2], "gausian")
    dbm = DeepBoltzmannMachine([3, 20, 2, 6])
    with pytest.raises(
        InputError, match=r"2\^26 states of the odd hidden layers, of \[20, 6\] units; .* at most 25"
    ):
        dbm_log_partition(dbm)
    with pytest.raises(InputError, match="found 3 samples and 0 Gibbs steps; expected at least 1 of each"):
        dbm.sample(3, num_gibbs_steps=0, seed=0)
    with pytest.raises(InputError, match="frames have 4 dimensions; this machine has 3 visible units"):
        DbmPath.from_frames(dbm, torch.zeros(2, 4))


def test_a_base_from_frames_has_their_smoothed_means() -> None:
    frames = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    base = DbmPath.from_frames(DeepBoltzmannMachine([2, 2]), frames).base_bias
    torch.testing.assert_close(base.sigmoid(), torch.tensor([0.5 / 3, 1.5 / 3]))  # no unit is off for certain
    torch.testing.assert_close(
        DbmPath.from_frames(DeepBoltzmannMachine([2, 2], "gaussian"), frames).base_bias, torch.tensor([0.0, 0.5])
    )
