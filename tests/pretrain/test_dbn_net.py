"""The belief network's layers, samples and likelihood against sums over all states, written out in NumPy."""

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
from spkadapt.pretrain.ais import ais_log_partition
from spkadapt.pretrain.dbn_bound import dbn_bound, dbn_log_likelihood, estimate_dbn_bound
from spkadapt.pretrain.dbn_net import DeepBeliefNet, DirectedLayer
from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood, exact_log_partition
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_path import RbmPath


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(model: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    noise = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))


def random_net(dims: list[int], visible: str = "bernoulli", seed: int = 0, scale: float = 1.0) -> DeepBeliefNet:
    """Untied; a Gaussian bottom has variances of its own."""
    kinds = [visible] + ["bernoulli"] * (len(dims) - 2)
    net = DeepBeliefNet(
        [
            Rbm(*pair, kind, learn_variances=kind == "gaussian").double()
            for pair, kind in zip(itertools.pairwise(dims), kinds, strict=True)
        ]
    )
    randomise(net, seed, scale)
    return net


def transposed(rbm: Rbm) -> Rbm:
    other = Rbm(*rbm.weight.shape).double()
    with torch.no_grad():
        for name, parameter in zip(("weight", "visible_bias", "hidden_bias"), other.parameters(), strict=True):
            source = {"weight": rbm.weight.T, "visible_bias": rbm.hidden_bias, "hidden_bias": rbm.visible_bias}
            parameter.copy_(source[name])
    return other


def all_states(num_units: int) -> np.ndarray:
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_units)))


def log_conditional(layer: DirectedLayer, y: np.ndarray, x: np.ndarray) -> float:
    """One state of each side."""
    mean = layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()
    if layer.kind == "bernoulli":
        return float(np.sum(scipy.special.log_expit(np.where(y == 1, mean, -mean))))
    spread = 1.0 if layer.log_variance is None else np.exp(layer.log_variance.detach().numpy() / 2)
    return float(scipy.stats.norm.logpdf(y, mean, spread).sum())


def log_joints(net: DeepBeliefNet, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(v, h₁ …) and log q(h₁ … | v) of one frame at every joint state."""
    weight, b, c = (p.detach().numpy() for p in list(net.top.parameters())[:3])
    hidden = all_states(len(c))

    def log_mass(x: np.ndarray) -> float:
        return float(scipy.special.logsumexp([x @ b + h @ c + h @ weight @ x for h in hidden]))

    log_z = scipy.special.logsumexp([log_mass(x) for x in all_states(len(b))])
    log_p, log_q = [], []
    for states in itertools.product(*(all_states(len(layer.bias)) for layer in net.recognition)):
        chain = [v, *states]
        log_p.append(
            log_mass(chain[-1])
            - log_z
            + sum(log_conditional(layer, chain[k], chain[k + 1]) for k, layer in enumerate(net.generative))
        )
        log_q.append(
            sum(log_conditional(layer, chain[k + 1], chain[k]) for k, layer in enumerate(net.recognition))
        )
    return np.array(log_p), np.array(log_q)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "learned"])
def test_a_layers_gradients_are_those_of_its_log_probability(kind: str) -> None:
    log_variance = torch.zeros(3, dtype=torch.float64) if kind == "learned" else None
    layer = DirectedLayer(
        torch.zeros(3, 2, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
        "bernoulli" if kind == "bernoulli" else "gaussian",
        log_variance,
    )
    randomise(layer, 1)
    y, x = torch.rand(7, 3, generator=generator(), dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    if kind == "bernoulli":
        y = y.round()
    log_p = layer.log_probability(y, x)
    np.testing.assert_allclose(
        log_p.detach(), [log_conditional(layer, *pair) for pair in zip(y.numpy(), x.numpy(), strict=True)]
    )
    torch.testing.assert_close(layer.log_probabilities(y, x).diagonal(), log_p)
    expected = torch.autograd.grad(log_p.mean(), list(layer.parameters()))
    with torch.no_grad():
        found = layer.gradients(y, x)
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dims", "visible"), [([4, 3, 2, 3], "bernoulli"), ([3, 2, 3], "gaussian")])
def test_likelihood_and_bound_are_the_sums_over_all_states(dims: list[int], visible: str) -> None:
    net = random_net(dims, visible)
    v = torch.randn(5, dims[0], generator=generator(3), dtype=torch.float64)
    v = v if visible == "gaussian" else (v > 0).double()
    both = [log_joints(net, frame) for frame in v.numpy()]
    np.testing.assert_allclose(
        dbn_log_likelihood(net, v).detach(), [scipy.special.logsumexp(p) for p, _ in both], rtol=1e-10
    )
    np.testing.assert_allclose(
        dbn_bound(net, v).detach(), [np.sum(np.exp(q) * (p - q)) for p, q in both], rtol=1e-10
    )


def test_the_enumerated_likelihood_is_a_distribution() -> None:
    net = random_net([5, 4, 3, 2])
    total = dbn_log_likelihood(net, binary_states(0, 32, 5).double()).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_layers_with_transposed_weights_leave_the_likelihood_unchanged() -> None:
    """And there the posterior is factorial, which is where the bound is tight."""
    rbm = Rbm(5, 3).double()
    randomise(rbm, 0)
    above, v = transposed(rbm), binary_states(0, 32, 5).double()
    alone = exact_log_likelihood(rbm, v)
    for stack in ([rbm], [rbm, above], [rbm, above, transposed(above)]):
        net = DeepBeliefNet(stack)
        torch.testing.assert_close(dbn_log_likelihood(net, v), alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dbn_bound(net, v), alone, rtol=1e-12, atol=1e-12)
    other = Rbm(3, 5).double()
    randomise(other, 1)
    assert (dbn_log_likelihood(DeepBeliefNet([rbm, other]), v) - alone).abs().max() > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([0.1, 1.0, 4.0]))
def test_the_bound_never_passes_the_likelihood_and_misses_it_by_the_divergence(seed: int, scale: float) -> None:
    net = random_net([4, 3, 2, 2], seed=seed, scale=scale)
    v = binary_states(0, 16, 4).double()[[seed % 16]]
    with torch.no_grad():
        gap = (dbn_log_likelihood(net, v) - dbn_bound(net, v)).item()
    log_p, log_q = log_joints(net, v[0].numpy())
    divergence = np.sum(np.exp(log_q) * (log_q - log_p)) + scipy.special.logsumexp(log_p)
    assert gap >= -1e-12
    assert gap == pytest.approx(divergence, rel=1e-8, abs=1e-9)


def test_the_sampled_bound_agrees_with_the_enumerated_one() -> None:
    net, num_samples = random_net([5, 4, 3, 3], scale=0.6), 4000
    v = binary_states(0, 32, 5).double()
    log_z = exact_log_partition(net.top).item()
    found = estimate_dbn_bound(net, v, log_z, num_samples=num_samples, seed=0)  # more rows than fit a part
    with torch.no_grad():
        bound, exact = dbn_bound(net, v), dbn_log_likelihood(net, v)
    both = [log_joints(net, frame) for frame in v.numpy()]
    spread = np.sqrt([np.sum(np.exp(q) * (p - q) ** 2) - np.sum(np.exp(q) * (p - q)) ** 2 for p, q in both])
    np.testing.assert_allclose(found.error, spread / math.sqrt(num_samples), rtol=0.15)
    assert ((found.bound - bound).abs() < 5 * found.error).all()
    second_moments = np.array(
        [
            np.exp(scipy.special.logsumexp(2 * p - q) - 2 * one)
            for (p, q), one in zip(both, exact.numpy(), strict=True)
        ]
    )
    relative = np.sqrt((second_moments - 1) / num_samples)
    assert (np.abs(np.expm1((found.importance_weighted - exact).numpy())) < 5 * relative).all()
    assert relative.max() < 0.1
    few = [estimate_dbn_bound(net, v, log_z, num_samples=5, seed=seed).importance_weighted for seed in range(200)]
    between = torch.stack(few).mean(dim=0)
    assert (between > bound).all()
    assert (between.mean() < exact.mean()).all()


def test_a_tight_bound_has_no_error_and_annealing_gives_its_log_partition() -> None:
    rbm = Rbm(12, 8).double()
    randomise(rbm, 0, 0.5)
    net = DeepBeliefNet([rbm, transposed(rbm)])
    v = binary_states(0, 4096, 12).double()[::100]
    exact = exact_log_likelihood(rbm, v).detach()
    sharp = estimate_dbn_bound(net, v, exact_log_partition(net.top).item(), num_samples=3, seed=0)
    torch.testing.assert_close(sharp.bound, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(sharp.importance_weighted, exact, rtol=0, atol=1e-10)
    assert (sharp.error < 1e-10).all()
    annealed = ais_log_partition(RbmPath(net.top), num_chains=200, num_temperatures=200, confidence=0.9999, seed=0)
    found = estimate_dbn_bound(net, v, annealed.log_partition, num_samples=3, seed=0)
    assert (found.bound - exact).abs().max() <= annealed.high - annealed.low


def test_samples_have_the_enumerated_distribution() -> None:
    net, num_samples = random_net([3, 3, 2], scale=0.7), 40_000
    samples = net.sample(num_samples, num_gibbs_steps=60, seed=0)
    exact = dbn_log_likelihood(net, binary_states(0, 8, 3).double()).exp().detach().numpy()
    counts = np.bincount((samples @ 2.0 ** torch.arange(3, dtype=torch.float64)).long(), minlength=8)
    statistic = ((counts - num_samples * exact) ** 2 / (num_samples * exact)).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, df=7)
    assert torch.equal(samples, net.sample(num_samples, num_gibbs_steps=60, seed=0))
    assert not torch.equal(samples, net.sample(num_samples, num_gibbs_steps=60, seed=1))


def test_samples_of_gaussian_units_have_the_moments_of_their_density() -> None:
    net, num_samples = random_net([1, 3, 2], "gaussian", seed=4), 60_000
    grid = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    density = dbn_log_likelihood(net, grid[:, None]).exp().detach() * 0.01
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    cumulative = density.cumsum(0).numpy()
    samples = net.sample(num_samples, num_gibbs_steps=60, seed=0)[:, 0].numpy()
    found = np.searchsorted(np.sort(samples), grid.numpy() + 0.005) / num_samples
    # Dvoretzky-Kiefer-Wolfowitz: 2 exp(−2nt²) < 1e-9.
    assert np.abs(found - cumulative).max() < math.sqrt(math.log(2e9) / (2 * num_samples)) + 1e-3


def test_up_and_down_passes_draw_from_their_conditionals() -> None:
    net, num_samples = random_net([3, 2, 2, 2]), 40_000
    up = net.recognise(torch.tensor([[1.0, 0, 1]]).double().repeat(num_samples, 1), generator())
    down = net.generate(torch.tensor([[0.0, 1]]).double().repeat(num_samples, 1), generator())
    assert [x.shape[1] for x in up] == [3, 2, 2]
    assert [x.shape[1] for x in down] == [3, 2, 2]
    assert all(((x == 0) | (x == 1)).all() for x in (*up, *down))
    h = binary_states(0, 4, 2).double()
    tolerance = math.sqrt(math.log(2e9) / (2 * num_samples))
    with torch.no_grad():
        first = net.recognition[0].log_probabilities(h, up[0][:1])[:, 0].exp()
        second = first @ net.recognition[1].mean(h)
        lower = net.generative[1].log_probabilities(h, down[2][:1])[:, 0].exp() @ net.generative[0].mean(h)
    torch.testing.assert_close(up[2].mean(dim=0), second, rtol=0, atol=tolerance)
    torch.testing.assert_close(down[0].mean(dim=0), lower, rtol=0, atol=tolerance)


def test_hidden_layers_are_copies_of_the_recognition_network() -> None:
    net = random_net([4, 3, 2], "gaussian")
    layers = net.hidden_layers()
    torch.testing.assert_close(layers[0].weight, net.recognition[0].weight)
    torch.testing.assert_close(layers[1].bias, net.top.hidden_bias)
    with torch.no_grad():
        layers[0].weight.zero_()
    assert net.recognition[0].weight.abs().min() > 0


def test_a_tied_net_recognises_as_its_rbms_do_and_leaves_them_alone() -> None:
    rbm, top = Rbm(4, 3, "gaussian", learn_variances=True).double(), Rbm(3, 2).double()
    randomise(rbm, 0)
    net = DeepBeliefNet([rbm, top])
    v, h = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.recognition[0].mean(v), rbm.hidden_probabilities(v))
        torch.testing.assert_close(net.generative[0].mean(h), rbm.visible_mean(h))
        spread = (net.generative[0].sample(h[:1].repeat(5000, 1), generator()) - rbm.visible_mean(h[:1])).std(
            dim=0
        )
        torch.testing.assert_close(spread, (rbm.log_variance / 2).exp(), rtol=0.05, atol=0)  # 5 standard errors
        before: Tensor = rbm.visible_mean(h)
        for parameter in net.parameters():
            parameter.zero_()
        torch.testing.assert_close(rbm.visible_mean(h), before)
        assert (top.weight != 0).all()


def test_bad_stacks_and_arguments_are_named() -> None:
    with pytest.raises(InputError, match="at least one RBM; found none"):
        DeepBeliefNet([])
    with pytest.raises(InputError, match=r"layer 2 of a deep belief network is for .* found rectified hidden"):
        DeepBeliefNet([Rbm(3, 2), Rbm(2, 2, hidden="rectified")])
    with pytest.raises(InputError, match="layer 2 has 3 bernoulli visible units; expected 2 bernoulli ones"):
        DeepBeliefNet([Rbm(3, 2), Rbm(3, 2)])
    with pytest.raises(InputError, match="layer 2 has 2 gaussian visible units; expected 2 bernoulli ones"):
        DeepBeliefNet([Rbm(3, 2), Rbm(2, 2, "gaussian")])
    net = DeepBeliefNet([Rbm(3, 2), Rbm(2, 2)])
    with pytest.raises(InputError, match="found 0 samples and 5 Gibbs steps; expected at least 1 of each"):
        net.sample(0, num_gibbs_steps=5, seed=0)
    with pytest.raises(InputError, match="num_samples is 1; the bound's error needs at least 2"):
        estimate_dbn_bound(net, torch.zeros(1, 3), 0.0, num_samples=1, seed=0)
    large = DeepBeliefNet([Rbm(3, 15), Rbm(15, 2)])
    with pytest.raises(InputError, match=r"hidden layer 1 of 15 units; expected at most 14 \(estimate_dbn_bound"):
        dbn_bound(large, torch.zeros(1, 3))
