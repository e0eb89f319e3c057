"""The up-down algorithm's gradients against enumeration, and what training does to the exact likelihood."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.dbn_bound import dbn_bound, dbn_log_likelihood
from spkadapt.pretrain.dbn_net import DeepBeliefNet
from spkadapt.pretrain.dbn_up_down import UpDownConfig, sleep_gradients, train_up_down, wake_gradients
from spkadapt.pretrain.interface import PretrainProgress
from spkadapt.pretrain.likelihood import binary_states, sample_exactly
from spkadapt.pretrain.rbm import Rbm, RbmConfig
from spkadapt.pretrain.rbm_gradients import PersistentChains


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_net(dims: list[int], visible: str = "bernoulli", scale: float = 1.0) -> DeepBeliefNet:
    kinds = [visible] + ["bernoulli"] * (len(dims) - 2)
    pairs = zip(itertools.pairwise(dims), kinds, strict=True)
    net = DeepBeliefNet([Rbm(*pair, kind, learn_variances=kind == "gaussian").double() for pair, kind in pairs])
    noise = generator()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return net


def parameters(layers: list[torch.nn.Module]) -> list[Tensor]:
    return [parameter for layer in layers for parameter in layer.parameters()]


def flat(gradients: list[list[Tensor]]) -> list[Tensor]:
    return [gradient for layer in gradients for gradient in layer]


def all_pairs_of_states(net: DeepBeliefNet) -> list[tuple[Tensor, Tensor]]:
    """(h₁, h₂), a row each, of a net with three hidden layers."""
    first, second = (binary_states(0, 2 ** len(layer.bias), len(layer.bias)) for layer in net.recognition)
    return [(one[None].double(), two[None].double()) for one in first for two in second]


def expected_wake(net: DeepBeliefNet, v: Tensor) -> list[Tensor]:
    """Σ_v Σ_h q(h | v) times the gradients of that one state."""
    total = [torch.zeros_like(parameter) for parameter in parameters(net.generative)]
    for frame in v.split(1):
        for h in all_pairs_of_states(net):
            states = [frame, *h]
            pairs = zip(net.recognition, itertools.pairwise(states), strict=True)
            weight = sum(layer.log_probability(y, x) for layer, (x, y) in pairs).exp() / len(v)
            for part, gradient in zip(total, flat(wake_gradients(net, states)), strict=True):
                part += weight * gradient
    return total


def expected_sleep(net: DeepBeliefNet) -> list[Tensor]:
    """Σ_{v, h} p(v, h) times the gradients of that one state, of Bernoulli visible units."""
    h = [pair[1] for pair in all_pairs_of_states(net)]
    log_z = torch.logsumexp(-net.top.free_energy(torch.cat(h).unique(dim=0)), dim=0)
    total = [torch.zeros_like(parameter) for parameter in parameters(net.recognition)]
    num_visible = len(net.generative[0].bias)
    for v in binary_states(0, 2**num_visible, num_visible).double().split(1):
        for pair in all_pairs_of_states(net):
            states = [v, *pair]
            layers = zip(net.generative, itertools.pairwise(states), strict=True)
            log_p = (
                sum(layer.log_probability(x, y) for layer, (x, y) in layers) - net.top.free_energy(pair[1]) - log_z
            )
            for part, gradient in zip(total, flat(sleep_gradients(net, states)), strict=True):
                part += log_p.exp() * gradient
    return total


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_the_wake_phase_climbs_the_enumerated_bound(visible: str) -> None:
    net = random_net([3, 2, 2, 2], visible)
    v = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    v = v if visible == "gaussian" else (v > 0).double()
    exact = torch.autograd.grad(dbn_bound(net, v).mean(), parameters(net.generative))
    with torch.no_grad():
        found = expected_wake(net, v)
    for value, truth in zip(found, exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-12)


def test_the_sleep_phase_descends_the_enumerated_divergence_from_the_posterior() -> None:
    """E_p KL(p(h | v) ‖ q(h | v)), whose part that q changes is −E_p[log q(h | v)]."""
    net = random_net([3, 2, 2, 2])
    v, pairs = binary_states(0, 8, 3).double(), all_pairs_of_states(net)
    first, second = (torch.cat(h) for h in zip(*pairs, strict=True))
    with torch.no_grad():
        log_top = -net.top.free_energy(second) - torch.logsumexp(-net.top.free_energy(second.unique(dim=0)), dim=0)
        log_hidden = log_top + net.generative[1].log_probability(first, second)
        joint = (net.generative[0].log_probabilities(v, first) + log_hidden).exp()
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    log_posterior = (joint / joint.sum(dim=1, keepdim=True)).log()
    log_q = net.recognition[0].log_probabilities(first, v).T + net.recognition[1].log_probability(second, first)
    divergence = (joint * (log_posterior - log_q)).sum()
    exact = torch.autograd.grad(-divergence, parameters(net.recognition))
    with torch.no_grad():
        found = expected_sleep(net)
    for value, truth in zip(found, exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-12)


def test_sampled_phases_are_unbiased() -> None:
    net, num_samples = random_net([3, 2, 2, 2]), 40_000
    v = binary_states(0, 8, 3).double()[[0, 3, 3, 6]]
    with torch.no_grad():
        wake = flat(wake_gradients(net, net.recognise(v.repeat(num_samples // 4, 1), generator())))
        tops = sample_exactly(net.top, num_samples, generator(1))
        sleep = flat(sleep_gradients(net, net.generate(tops, generator(2))))
        exact = expected_wake(net, v) + expected_sleep(net)
    # Hoeffding: values in [−1, 1].
    tolerance = math.sqrt(2 * math.log(2e9) / num_samples)
    for value, truth in zip(wake + sleep, exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=tolerance)
        assert truth.abs().max() > tolerance


@pytest.mark.parametrize("negative_phase", ["contrastive", "persistent"])
def test_one_update_moves_every_parameter_by_its_enumerated_gradient(negative_phase: str) -> None:
    """With chains long enough to forget their start, and all gradients taken before any parameter moves."""
    net, num_samples, rate = random_net([3, 2, 2, 2], scale=0.8), 40_000, 0.5
    v = binary_states(0, 8, 3).double()[[0, 3, 3, 6]]
    moved = copy.deepcopy(net)
    config = UpDownConfig(
        learning_rate=rate,
        num_epochs=1,
        batch_size=num_samples,
        negative_phase=negative_phase,  # type: ignore[arg-type]
        num_gibbs_steps=40,
        num_chains=num_samples,
    )
    history = train_up_down(moved, v.repeat(num_samples // 4, 1), config, seed=0)
    bound = dbn_bound(net, v).mean()
    expected = list(torch.autograd.grad(bound, [*parameters(net.generative), *net.top.parameters()]))
    with torch.no_grad():
        expected += expected_sleep(net)
        before = [*parameters(net.generative), *net.top.parameters(), *parameters(net.recognition)]
        after = [*parameters(moved.generative), *moved.top.parameters(), *parameters(moved.recognition)]
        found = [(new - old) / rate for new, old in zip(after, before, strict=True)]
    tolerance = 2 * math.sqrt(math.log(2e9) / num_samples)  # a difference of two means in [0, 1]
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=tolerance)
    # E(v − E[v | h₁])² over q(h₁ | v).
    with torch.no_grad():
        h = binary_states(0, 4, 2).double()
        q = net.recognition[0].log_probabilities(h, v).T.exp()
        errors = (v[:, None] - net.generative[0].mean(h)).square().mean(dim=2)
    [progress] = history
    assert (progress.layer, progress.epoch) == (None, 1)
    assert progress.losses["reconstruction_error"] == pytest.approx((q * errors).sum().item() / 4, abs=tolerance)


def record_advances(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """From where to where each Gibbs step of the top RBM's chains leads."""
    ends: list[tuple[Tensor, Tensor]] = []
    original = PersistentChains.advance

    def recording(self: PersistentChains, noise: torch.Generator) -> None:
        began = self.states
        original(self, noise)
        ends.append((began, self.states))

    monkeypatch.setattr(PersistentChains, "advance", recording)
    return ends


def test_persistent_chains_go_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Looked at directly: weights need not tell, for chains of the same noise soon meet wherever they start."""
    ends = record_advances(monkeypatch)
    config = UpDownConfig(num_epochs=2, batch_size=8, num_gibbs_steps=1, num_chains=5, negative_phase="persistent")
    frames, path = binary_states(0, 8, 3).double(), tmp_path / "up_down.pt"

    def stop(_: PretrainProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_up_down(random_net([3, 6, 2]), frames, config, seed=0, on_epoch=stop, checkpoint=Checkpoint(path))
    train_up_down(random_net([3, 6, 2]), frames, config, seed=0, checkpoint=Checkpoint(path))
    [(_, ended), (second, _)] = ends
    assert torch.equal(ended, second)


def test_each_update_takes_as_many_gibbs_steps_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = record_advances(monkeypatch)
    config = UpDownConfig(num_epochs=1, batch_size=4, num_gibbs_steps=3)
    train_up_down(random_net([3, 6, 2]), binary_states(0, 8, 3).double(), config, seed=0)
    assert len(ends) == 2 * 3


@pytest.mark.parametrize("negative_phase", ["contrastive", "persistent"])
def test_only_persistent_chains_go_on_from_update_to_update(
    monkeypatch: pytest.MonkeyPatch, negative_phase: str
) -> None:
    ends = record_advances(monkeypatch)
    config = UpDownConfig(
        num_epochs=2,
        batch_size=8,
        num_gibbs_steps=1,
        num_chains=5,
        negative_phase=negative_phase,  # type: ignore[arg-type]
    )
    train_up_down(random_net([3, 6, 2]), binary_states(0, 8, 3).double(), config, seed=0)
    [(first, ended), (second, _)] = ends
    assert torch.equal(ended, second) == (negative_phase == "persistent")
    assert len(first) == (5 if negative_phase == "persistent" else 8)


def bars(num_frames: int) -> Tensor:
    """3 × 3 pictures of one row or one column, with a little noise: 6 modes that no factorial model has."""
    noise = generator(7)
    grid = torch.zeros(6, 3, 3)
    for line in range(3):
        grid[line, line, :] = 1
        grid[3 + line, :, line] = 1
    chosen = grid.reshape(6, 9)[torch.randint(6, (num_frames,), generator=noise)]
    return (chosen - (torch.rand(chosen.shape, generator=noise) < 0.03).float()).abs()


@pytest.mark.parametrize("negative_phase", ["contrastive", "persistent"])
def test_training_raises_the_exact_likelihood_and_bound_of_a_greedy_stack(negative_phase: str) -> None:
    frames = bars(300)
    stack, source = [], frames
    for number, (num_visible, num_hidden) in enumerate([(9, 6), (6, 6)]):
        rbm = Rbm(num_visible, num_hidden, generator=generator(number))
        rbm.fit(source, RbmConfig(num_epochs=15, batch_size=20), seed=0)
        source = rbm.sample_hidden(source, generator(3)).detach()
        stack.append(rbm)
    net = DeepBeliefNet(stack)
    config = UpDownConfig(
        learning_rate=0.1,
        num_epochs=25,
        batch_size=20,
        negative_phase=negative_phase,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        before = [measure(net, frames).mean().item() for measure in (dbn_log_likelihood, dbn_bound)]
        history = train_up_down(net, frames, config, seed=0)
        after = [measure(net, frames).mean().item() for measure in (dbn_log_likelihood, dbn_bound)]
    assert len(history) == 25
    assert after[0] > before[0] + 0.2
    assert after[1] > before[1] + 0.2


def test_an_rbm_alone_trains_as_by_contrastive_divergence() -> None:
    net = random_net([4, 3])
    v = binary_states(0, 16, 4).double()
    moved = copy.deepcopy(net)
    config = UpDownConfig(learning_rate=0.25, num_epochs=1, batch_size=16, num_gibbs_steps=1)
    train_up_down(moved, v, config, seed=3)
    change = (moved.top.visible_bias - net.top.visible_bias).detach() / 0.25
    steps = (change * 16).round() - change * 16  # a mean over 16 frames of differences of zeros and ones
    assert steps.abs().max() < 1e-9
    assert change.abs().max() > 0


def test_the_same_seed_gives_the_same_bits_and_another_others() -> None:
    frames = bars(60).double()
    config = UpDownConfig(num_epochs=2, batch_size=20, negative_phase="persistent", num_chains=5)
    trained = [random_net([9, 4, 3]) for _ in range(3)]
    for net, seed in zip(trained, (0, 0, 1), strict=True):
        train_up_down(net, frames, config, seed=seed)
    first, again, other = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in trained)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_rate_too_high_for_gaussian_units_is_named() -> None:
    net = random_net([3, 2, 2], "gaussian")
    frames = 1e3 * torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    with pytest.raises(DivergenceError, match=r"diverged at all layers, epoch 1, step .* learning rate below 10"):
        train_up_down(net, frames, UpDownConfig(learning_rate=10.0, batch_size=10), seed=0)


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match=r'negative_phase is .tempered.; expected "contrastive" or "persistent"'):
        replace(UpDownConfig(), negative_phase="tempered")  # type: ignore[arg-type]
    for field in ("num_gibbs_steps", "num_chains"):
        with pytest.raises(
            InputError, match=rf"UpDownConfig\.{field} is 0; expected a whole number of at least 1"
        ):
            replace(UpDownConfig(), **{field: 0})
