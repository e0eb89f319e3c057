"""Copied RBMs against plain ones whose copies are units of their own, and what they compose to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spkadapt.pretrain.dbm_layers import CopiedRbm, build_copied_rbms, compose
from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood, exact_log_partition
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_gradients import PersistentChains

COPIES = [(2, 1), (1, 2), (2, 2)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_copied(
    visible_copies: int, hidden_copies: int, visible: str = "bernoulli", num_visible: int = 3, num_hidden: int = 2
) -> CopiedRbm:
    rbm = CopiedRbm(
        num_visible, num_hidden, visible, visible_copies=visible_copies, hidden_copies=hidden_copies
    ).double()
    noise = generator()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return rbm


def expanded(rbm: CopiedRbm) -> tuple[Rbm, list[Tensor]]:
    """The same distribution with every copy a unit of its own, as a function of one copy's parameters."""
    shared = [parameter.detach().clone().requires_grad_() for parameter in rbm.parameters()]
    weight, visible_bias, hidden_bias = shared
    num_hidden, num_visible = weight.shape
    plain = Rbm(num_visible * rbm.visible_copies, num_hidden * rbm.hidden_copies, rbm.visible).double()
    values = {
        "weight": weight.repeat(rbm.hidden_copies, rbm.visible_copies),
        "visible_bias": visible_bias.repeat(rbm.visible_copies),
        "hidden_bias": hidden_bias.repeat(rbm.hidden_copies),
    }
    for name, value in values.items():
        delattr(plain, name)
        setattr(plain, name, value)
    return plain, shared


def mean_of_copies(x: Tensor, copies: int) -> Tensor:
    return x.view(len(x), copies, -1).mean(dim=1)


@pytest.mark.parametrize(("visible_copies", "hidden_copies"), COPIES)
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_conditionals_and_free_energy_are_those_of_the_copies(
    visible_copies: int, hidden_copies: int, visible: str
) -> None:
    rbm = random_copied(visible_copies, hidden_copies, visible)
    plain, _ = expanded(rbm)
    v, h = (torch.rand(5, units, generator=generator(2), dtype=torch.float64).round() for units in (6, 4))
    v, h = v[:, : 3 * visible_copies], h[:, : 2 * hidden_copies]
    with torch.no_grad():
        p = rbm.hidden_probabilities(mean_of_copies(v, visible_copies))
        torch.testing.assert_close(p.repeat(1, hidden_copies), plain.hidden_probabilities(v))
        mean = rbm.visible_mean(mean_of_copies(h, hidden_copies))
        torch.testing.assert_close(mean.repeat(1, visible_copies), plain.visible_mean(h))
        frames = v[:, :3]
        torch.testing.assert_close(
            rbm.free_energy(frames), plain.free_energy(frames.repeat(1, visible_copies)), rtol=1e-12, atol=1e-12
        )
        linear = rbm.hidden_layer()
        torch.testing.assert_close(linear(frames).sigmoid(), rbm.hidden_probabilities(frames))


def test_doubled_inputs_are_the_papers() -> None:
    bottom, between, top = build_copied_rbms([3, 2, 2, 2], "gaussian", generator())
    v, h = torch.rand(4, 3), torch.rand(4, 2)
    assert [rbm.visible for rbm in (bottom, between, top)] == ["gaussian", "bernoulli", "bernoulli"]
    with torch.no_grad():
        for rbm in (bottom, between, top):
            rbm.hidden_bias.normal_(generator=generator(1))
            rbm.visible_bias.normal_(generator=generator(2))
        for rbm, x, up, down in ((bottom, v, 2, 1), (between, h, 2, 2), (top, h, 1, 2)):
            torch.testing.assert_close(
                rbm.hidden_probabilities(x), (up * x @ rbm.weight.T + rbm.hidden_bias).sigmoid()
            )
            mean = down * h @ rbm.weight + rbm.visible_bias
            torch.testing.assert_close(rbm.visible_mean(h), mean if rbm is bottom else mean.sigmoid())
        [only] = build_copied_rbms([3, 2], "bernoulli", generator())
        torch.testing.assert_close(only.hidden_probabilities(v), (v @ only.weight.T).sigmoid())
        torch.testing.assert_close(only.visible_mean(h), (h @ only.weight).sigmoid())


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_samples_are_means_of_independent_copies(visible: str) -> None:
    rbm, num_samples = random_copied(2, 2, visible), 60_000
    v, h = torch.rand(1, 3, dtype=torch.float64), torch.rand(1, 2, dtype=torch.float64)
    with torch.no_grad():
        hidden = rbm.sample_hidden(v.repeat(num_samples, 1), generator())
        seen = rbm.sample_visible(h.repeat(num_samples, 1), generator(1))
        p, mean = rbm.hidden_probabilities(v), rbm.visible_mean(h)
    assert set(hidden.unique().tolist()) == {0.0, 0.5, 1.0}
    for found, centre, of_one_copy in (
        (hidden, p, p * (1 - p)),
        (seen, mean, mean * (1 - mean) if visible == "bernoulli" else torch.ones_like(mean)),
    ):
        assert found.shape[0] == num_samples
        spread = (of_one_copy / 2).sqrt()
        assert ((found.mean(dim=0) - centre).abs() < 5 * spread / math.sqrt(num_samples)).all()
        assert ((found.var(dim=0) * 2 / of_one_copy - 1).abs() < 5 * math.sqrt(3 / num_samples)).all()
        correlation = torch.corrcoef(found.T) - torch.eye(found.shape[1])
        assert (correlation.abs() < 5 / math.sqrt(num_samples)).all()


@pytest.mark.parametrize(("visible_copies", "hidden_copies"), COPIES)
def test_the_gradient_is_the_exact_one_of_the_copies_for_one_copy(visible_copies: int, hidden_copies: int) -> None:
    """By chains long enough to forget their start, at frames whose copies agree."""
    rbm, num_chains, noise = random_copied(visible_copies, hidden_copies), 20_000, generator()
    plain, shared = expanded(rbm)
    v = binary_states(0, 8, 3).double()[[1, 2, 2, 7]]
    exact = torch.autograd.grad(exact_log_likelihood(plain, v.repeat(1, visible_copies)).mean(), shared)
    per_copy = (visible_copies * hidden_copies, visible_copies, hidden_copies)
    starts = torch.zeros(num_chains, 3, dtype=torch.float64)
    found = PersistentChains(rbm, starts).gradients(v, 40, noise)
    tolerance = math.sqrt(math.log(2e9) / (2 * num_chains))
    for value, truth, copies in zip(found[:3], exact, per_copy, strict=True):
        torch.testing.assert_close(value, truth / copies, rtol=0, atol=tolerance)
        assert truth.abs().max() > tolerance
    contrastive = rbm.contrastive_divergence(v.repeat(num_chains // 4, 1), 40, noise)
    for value, truth, copies in zip(contrastive[:3], exact, per_copy, strict=True):
        torch.testing.assert_close(value, truth / copies, rtol=0, atol=2 * tolerance)


def test_two_copies_are_not_one() -> None:
    """Else none of this would be seen: the partition functions differ."""
    plain, _ = expanded(random_copied(2, 1))
    single, _ = expanded(random_copied(1, 1))
    assert abs(exact_log_partition(plain).item() - exact_log_partition(single).item()) > 0.5


def test_the_composed_machine_hears_the_mean_of_both_neighbours() -> None:
    rbms = build_copied_rbms([3, 2, 4, 2], "gaussian", generator())
    noise = generator(1)
    with torch.no_grad():
        for rbm in rbms:
            for parameter in rbm.parameters():
                parameter.normal_(generator=noise)
    dbm = compose(rbms)
    assert dbm.visible == "gaussian"
    assert dbm.dims == (3, 2, 4, 2)
    layers = [torch.rand(5, dim, generator=noise) for dim in dbm.dims]
    logit = torch.logit
    with torch.no_grad():
        for k in (1, 2):
            below, above = rbms[k - 1], rbms[k]
            expected = logit(below.hidden_probabilities(layers[k - 1])) + logit(above.visible_mean(layers[k + 1]))
            torch.testing.assert_close(dbm.inputs(layers, k), expected / 2, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dbm.inputs(layers, 0), rbms[0].visible_mean(layers[1]))
        torch.testing.assert_close(dbm.inputs(layers, 3).sigmoid(), rbms[2].hidden_probabilities(layers[2]))
        rbms[0].weight.zero_()
        assert dbm.weights[0].abs().max() > 0
