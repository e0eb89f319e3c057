"""Training a deep Boltzmann machine: its gradients against enumeration, its likelihood, and what it hands over."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain import PRETRAINER_CONFIGS, PRETRAINERS, dbm_training
from spkadapt.pretrain.dbm import Dbm, DbmConfig
from spkadapt.pretrain.dbm_layers import build_copied_rbms, compose
from spkadapt.pretrain.dbm_likelihood import dbm_bound, dbm_log_likelihood, dbm_log_partition
from spkadapt.pretrain.dbm_net import DbmStatistics, DeepBoltzmannMachine
from spkadapt.pretrain.dbm_training import DbmChains, DbmTrainingConfig, train_dbm
from spkadapt.pretrain.interface import PretrainProgress
from spkadapt.pretrain.likelihood import binary_states
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.stack import train_greedily


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_frames(num_frames: int = 200, dim: int = 6) -> Tensor:
    return torch.randn(num_frames, dim, generator=generator(5))


def random_dbm(dims: list[int], visible: str = "bernoulli", scale: float = 0.8) -> DeepBoltzmannMachine:
    dbm, noise = DeepBoltzmannMachine(dims, visible).double(), generator()
    with torch.no_grad():
        for parameter in dbm.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return dbm


def quick(**joint: int) -> DbmConfig:
    return DbmConfig(num_epochs=1, joint=DbmTrainingConfig(**{"num_epochs": 2, "num_chains": 8} | joint))


def bound_gradient(dbm: DeepBoltzmannMachine, v: Tensor) -> list[Tensor]:
    """Of the mean bound at its mean-field posterior, log Z by enumeration."""
    means = dbm.mean_field(v, num_updates=200, tolerance=0)
    bound = dbm.unnormalised_bound(v, means).mean() - dbm_log_partition(dbm)
    return list(torch.autograd.grad(bound, list(dbm.parameters())))


def test_long_chains_have_the_machines_statistics() -> None:
    dbm, num_chains = random_dbm([3, 2, 2, 2]), 40_000
    exact = torch.autograd.grad(dbm_log_partition(dbm), list(dbm.parameters()))  # ∂ log Z/∂θ = E_model[∂(−E)/∂θ]
    starts = DbmChains.from_frames(dbm, torch.zeros(5, 3, dtype=torch.float64), num_chains, generator())
    assert [layer.shape for layer in starts.layers] == [(num_chains, dim) for dim in dbm.dims]
    starts.statistics(40, generator(1))
    found = starts.statistics(1, generator(2))
    tolerance = math.sqrt(math.log(2e9) / (2 * num_chains))
    for value, truth in zip([*found.weights, *found.biases], exact, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_one_update_is_the_gradient_of_the_enumerated_bound(visible: str) -> None:
    dbm, num_chains, rate, decay = random_dbm([2, 2, 2], visible), 40_000, 0.5, 0.1
    v = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).double()
    expected = bound_gradient(dbm, v)
    moved = copy.deepcopy(dbm)
    config = DbmTrainingConfig(
        learning_rate=rate,
        num_epochs=1,
        weight_decay=decay,
        num_mean_field_updates=200,
        num_gibbs_steps=40,
        num_chains=num_chains,
    )
    [progress] = train_dbm(moved, v, config, seed=0)
    assert (progress.layer, progress.epoch) == (None, 1)
    spread = 1.0 if visible == "bernoulli" else 2.5  # of v, of E[v | h] and of their products with hidden units
    tolerance = spread * math.sqrt(math.log(2e9) / (2 * num_chains))
    with torch.no_grad():
        first = dbm.mean_field(v, num_updates=200)[0]
        error = (v - dbm.visible_mean(first)).square().mean().item()
        for number, (new, old, truth) in enumerate(
            zip(moved.parameters(), dbm.parameters(), expected, strict=True)
        ):
            change = (new - old) / rate + (decay * old if number < len(dbm.weights) else 0)
            torch.testing.assert_close(change, truth, rtol=0, atol=tolerance)
    assert progress.losses["reconstruction_error"] == pytest.approx(error, abs=1e-3)


def test_the_rate_falls_evenly_from_epoch_to_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: object) -> DbmStatistics:
        return DbmStatistics([torch.ones(2, 3)], [torch.ones(3), torch.ones(2)])

    monkeypatch.setattr(dbm_training, "contrast", ones)
    dbm, seen = DeepBoltzmannMachine([3, 2]), [0.0]
    config = DbmTrainingConfig(learning_rate=0.4, num_epochs=4, batch_size=50)
    train_dbm(dbm, torch.rand(50, 3), config, seed=0, on_epoch=lambda _: seen.append(dbm.biases[0][0].item()))
    assert np.diff(seen).tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_chains_go_on_from_update_to_update(monkeypatch: pytest.MonkeyPatch) -> None:
    dbm, starts = random_dbm([2, 2, 2]), []
    original = DeepBoltzmannMachine.gibbs

    def recording(
        self: DeepBoltzmannMachine, layers: list[Tensor], noise: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor]]:
        result = original(self, layers, noise)
        starts.append((layers, result[0]))
        return result

    monkeypatch.setattr(DeepBoltzmannMachine, "gibbs", recording)
    config = DbmTrainingConfig(num_epochs=3, batch_size=4, num_gibbs_steps=2, num_chains=3)
    train_dbm(dbm, torch.zeros(4, 2, dtype=torch.float64), config, seed=0)
    assert len(starts) == 6
    for (_, ended), (began, _) in pairwise(starts):
        assert all(torch.equal(a, b) for a, b in zip(ended, began, strict=True))


def bars(num_frames: int) -> Tensor:
    """3 × 3 pictures of one row or one column, with a little noise."""
    noise = generator(7)
    grid = torch.zeros(6, 3, 3)
    for line in range(3):
        grid[line, line, :] = 1
        grid[3 + line, :, line] = 1
    chosen = grid.reshape(6, 9)[torch.randint(6, (num_frames,), generator=noise)]
    return (chosen - (torch.rand(chosen.shape, generator=noise) < 0.03).float()).abs()


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_joint_training_raises_the_exact_likelihood_of_the_layers_put_together(visible: str) -> None:
    frames = (
        bars(300)
        if visible == "bernoulli"
        else 2 * bars(300) - 1 + 0.3 * torch.randn(300, 9, generator=generator())
    )
    rbms = build_copied_rbms([9, 6, 4], visible, generator())
    config = DbmConfig(num_epochs=15, batch_size=20, visible=visible, gaussian_learning_rate=0.01)  # type: ignore[arg-type]
    train_greedily(rbms, frames, config, generator(), generator(1), None, None)
    dbm = compose(rbms)
    untrained = compose(build_copied_rbms([9, 6, 4], visible, generator()))
    joint = DbmTrainingConfig(learning_rate=0.05, num_epochs=20, batch_size=20)
    with torch.no_grad():
        before = dbm_log_likelihood(dbm, frames).mean().item()
        assert before > dbm_log_likelihood(untrained, frames).mean().item()
        train_dbm(dbm, frames, joint, seed=0)
        after = dbm_log_likelihood(dbm, frames).mean().item()
        bound = dbm_bound(dbm, frames, dbm_log_partition(dbm).item()).mean().item()
    assert after > before + 0.1  # 0.15 to 0.21 over three seeds
    assert after > bound > before


def test_fit_trains_layer_by_layer_and_then_together() -> None:
    frames, config = random_frames(), quick()
    seen: list[PretrainProgress] = []
    trained = Dbm([5, 4, 3], "sigmoid", config).fit(frames, seed=0, on_epoch=seen.append)
    assert [(one.layer, one.epoch) for one in trained.history] == [(1, 1), (2, 1), (3, 1), (None, 1), (None, 2)]
    assert seen == trained.history
    assert trained.num_epochs == 5
    assert trained.net is not None
    assert (trained.net.visible, trained.net.dims) == ("gaussian", (6, 5, 4, 3))
    binary = Dbm([4], "sigmoid", replace(config, visible="bernoulli")).fit(frames.sigmoid(), seed=0)
    assert binary.net is not None
    assert binary.net.visible == "bernoulli"


def test_each_layer_trains_on_fresh_samples_of_the_one_below(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Rbm, Tensor]] = []
    original = Rbm.contrastive_divergence

    def recording(self: Rbm, v: Tensor, num_steps: int, noise: torch.Generator) -> object:
        seen.append((self, v.clone()))
        return original(self, v, num_steps, noise)

    monkeypatch.setattr(Rbm, "contrastive_divergence", recording)
    num_frames = 4000
    frames = random_frames(1).double().repeat(num_frames, 1)
    config = replace(quick(), num_epochs=2, batch_size=num_frames, gaussian_learning_rate=0.05)
    Dbm([4, 3, 2], "sigmoid", config).fit(frames, seed=0)
    lower, middle, _ = dict.fromkeys(rbm for rbm, _ in seen)
    batches = [v for rbm, v in seen if rbm is middle]
    assert all(((v == 0) | (v == 1)).all() for _, v in seen[2:])
    assert not torch.equal(*batches)
    with torch.no_grad():
        expected = lower.hidden_probabilities(frames[:1])[0]
    tolerance = math.sqrt(math.log(2e9) / (4 * num_frames))
    np.testing.assert_allclose(torch.cat(batches).mean(dim=0), expected, atol=tolerance)


def test_hidden_layers_are_the_pass_up() -> None:
    frames = random_frames()
    trained = Dbm([5, 4, 3], "sigmoid", quick()).fit(frames, seed=0)
    assert trained.net is not None
    weights = [layer.weight for layer in trained.hidden_layers()]
    for found, weight, factor in zip(weights, trained.net.weights, (2, 2, 1), strict=True):
        torch.testing.assert_close(found.detach(), factor * weight.detach())
    with torch.no_grad():
        torch.testing.assert_close(trained.transform(frames), trained.net.bottom_up(frames)[-1])


def test_a_network_with_the_posterior_beside_its_input_computes_the_mean_field_update() -> None:
    frames = random_frames().double()
    trained = Dbm([5, 4], "sigmoid", quick()).fit(frames, seed=0)
    assert trained.net is not None
    with torch.no_grad():
        for weight in trained.net.weights:
            weight.mul_(20)
        first, second = trained.posterior(frames, num_updates=500)
        settled = trained.net.mean_field(frames, num_updates=500, tolerance=0)
        values = torch.cat([frames, settled[1]], dim=1)
        torch.testing.assert_close(trained.with_posterior(frames, num_updates=500), values, rtol=0, atol=1e-3)
        for linear, expected in zip(trained.hidden_layers_with_posterior(), settled, strict=True):
            values = linear(values).sigmoid()
            torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)
        assert (trained.net.bottom_up(frames)[0] - first).abs().max() > 0.01
    assert second.shape == (200, 4)


def test_the_posterior_of_one_hidden_layer_adds_nothing_and_of_three_the_second() -> None:
    frames = random_frames()
    one = Dbm([5], "sigmoid", quick()).fit(frames, seed=0)
    assert torch.equal(one.with_posterior(frames), frames)
    assert one.hidden_layers_with_posterior()[0].weight.shape == (5, 6)
    three = Dbm([5, 4, 3], "sigmoid", quick()).fit(frames, seed=0)
    assert torch.equal(three.with_posterior(frames)[:, 6:], three.posterior(frames)[1])
    shapes = [tuple(layer.weight.shape) for layer in three.hidden_layers_with_posterior()]
    assert shapes == [(5, 10), (4, 5), (3, 4)]


def test_the_same_seed_gives_the_same_bits_and_another_others() -> None:
    frames = random_frames()
    first, again, other = (Dbm([5, 4], "sigmoid", quick()).fit(frames, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.transform(frames), again.transform(frames))
    assert not torch.equal(first.transform(frames), other.transform(frames))


@pytest.mark.parametrize("stop_after", [2, 3])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    config, frames = quick(num_epochs=3), random_frames()
    whole = Dbm([5, 4], "sigmoid", config).fit(frames, seed=0)
    seen: list[PretrainProgress] = []

    def stop(progress: PretrainProgress) -> None:
        seen.append(progress)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    path = tmp_path / "dbm.pt"
    with pytest.raises(KeyboardInterrupt):
        Dbm([5, 4], "sigmoid", config).fit(frames, seed=0, on_epoch=stop, checkpoint=path)
    resumed = Dbm([5, 4], "sigmoid", config).fit(frames, seed=0, checkpoint=path)
    assert resumed.history == whole.history
    for mine, theirs in zip(resumed.hidden_layers(), whole.hidden_layers(), strict=True):
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.bias, theirs.bias)


def test_a_recipe_finds_it() -> None:
    assert PRETRAINERS["dbm"] is Dbm
    assert PRETRAINER_CONFIGS["dbm"] is DbmConfig


def test_divergence_is_named() -> None:
    frames = binary_states(0, 16, 4).double()
    with pytest.raises(
        DivergenceError, match=r"at all layers, epoch 1: a weight of layer . has reached .* below 1000"
    ):
        train_dbm(random_dbm([4, 3, 2]), frames, DbmTrainingConfig(learning_rate=1000.0), seed=0)
    config = DbmTrainingConfig(learning_rate=1.0, batch_size=10)
    with pytest.raises(DivergenceError, match=r"diverged .* epoch 1"):
        train_dbm(random_dbm([6, 3, 2], "gaussian"), 1e4 * random_frames().double(), config, seed=0)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r'a dbm has .* "sigmoid"; found "relu" \(choose "dae" or "vae"'):
        Dbm([4], "relu", DbmConfig())
    with pytest.raises(
        InputError, match=r"negative_phase is 'tempered'; expected \"contrastive\" or \"persistent\""
    ):
        DbmConfig(negative_phase="tempered")
    with pytest.raises(
        InputError, match=r"DbmTrainingConfig\.weight_decay is -1; expected a number of at least 0"
    ):
        DbmTrainingConfig(weight_decay=-1)
    for field in ("num_mean_field_updates", "num_gibbs_steps", "num_chains"):
        with pytest.raises(InputError, match=rf"{field} is 0; expected a whole number of at least 1"):
            DbmTrainingConfig(**{field: 0})
    unfitted = Dbm([4], "sigmoid", DbmConfig())
    for call in (unfitted.hidden_layers, unfitted.hidden_layers_with_posterior):
        with pytest.raises(InputError, match="this Dbm has no layers yet; call fit first"):
            call()
    fitted = Dbm([4, 3], "sigmoid", quick()).fit(random_frames(), seed=0)
    with pytest.raises(InputError, match=r"frames have shape \(2, 5\); expected \(n, 6\) as in fit"):
        fitted.with_posterior(torch.zeros(2, 5))
