"""How an RBM is trained: schedules, sparsity, chains, precision, variances, and the signs that it goes wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain.interface import PretrainProgress
from spkadapt.pretrain.likelihood import exact_log_likelihood
from spkadapt.pretrain.rbm import CdGradients, Rbm, RbmConfig
from spkadapt.pretrain.rbm_gradients import TemperedChains
from spkadapt.pretrain.rbm_training import overfitting_since


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_prototypes(num_frames: int = 1000, seed: int = 0, flipped: float = 0.05) -> Tensor:
    """Two opposite patterns in turn, some of the bits flipped."""
    prototypes = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(num_frames // 2, 1)
    flips = torch.rand(num_frames, 6, generator=generator(seed)) < flipped
    return (prototypes ^ flips).float()


def entropy(flipped: float) -> float:
    """Of the process behind `two_prototypes`, in nats: one fair choice and six flips (but for their overlap)."""
    return math.log(2) - 6 * (flipped * math.log(flipped) + (1 - flipped) * math.log(1 - flipped))


@pytest.mark.parametrize(
    ("decay", "factor", "expected"),
    [
        ("linear", 1.0, [0.4, 0.4, 0.4]),
        ("linear", 0.0, [0.4, 0.2, 0.0]),
        ("linear", 0.5, [0.4, 0.3, 0.2]),
        ("exponential", 0.25, [0.4, 0.2, 0.1]),
    ],
)
def test_learning_rate_schedule(decay: Any, factor: float, expected: list[float]) -> None:
    config = RbmConfig(
        learning_rate=0.4, num_epochs=3, learning_rate_decay=decay, final_learning_rate_factor=factor
    )
    assert [config.scheduled_learning_rate(epoch) for epoch in (1, 2, 3)] == pytest.approx(expected)
    assert RbmConfig(num_epochs=1, final_learning_rate_factor=0.0).scheduled_learning_rate(1) == 0.1


def fixed_gradients(monkeypatch: pytest.MonkeyPatch, value: float, activities: list[Tensor] | None = None) -> None:
    """`contrastive_divergence` returns `value` for every parameter, and the activities one after the other."""
    remaining = iter(activities or [])

    def fixed(self: Rbm, *_: object) -> CdGradients:
        full = (torch.full_like(p, value) for p in (self.weight, self.visible_bias, self.hidden_bias))
        log_variance = None if self.log_variance is None else torch.full_like(self.log_variance, value)
        return CdGradients(*full, torch.zeros(()), log_variance, next(remaining, None))

    monkeypatch.setattr(Rbm, "contrastive_divergence", fixed)


def test_every_parameter_moves_at_the_scheduled_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_gradients(monkeypatch, 1.0)
    config = RbmConfig(
        learning_rate=0.4, num_epochs=3, final_learning_rate_factor=0.25, learning_rate_decay="exponential",
        initial_momentum=0.0, weight_decay=0.0,
    )  # fmt: skip
    rbm = Rbm(3, 2, "gaussian", learn_variances=True, generator=generator())
    assert rbm.log_variance is not None
    before = rbm.weight.detach().clone()
    rbm.fit(torch.ones(1, 3), config, seed=0)
    for parameter in (rbm.weight.detach() - before, rbm.visible_bias, rbm.hidden_bias, rbm.log_variance):
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 0.4 + 0.2 + 0.1))


def test_sparsity_gradient_is_that_of_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact where all frames are the same and no running mean is kept."""
    target, cost = 0.1, 0.3
    rbm = Rbm(3, 2, generator=generator(1)).double()
    v = torch.tensor([[1.0, 0.0, 0.5]], dtype=torch.float64)
    activity = rbm.hidden_mean(v)[0]
    (target * activity.log() + (1 - target) * (1 - activity).log()).sum().backward()
    assert rbm.weight.grad is not None
    expected_weight = rbm.weight.detach() + cost * rbm.weight.grad
    expected_bias = rbm.hidden_bias.detach() + cost * rbm.hidden_bias.grad
    fixed_gradients(monkeypatch, 0.0, [activity.detach()])
    config = RbmConfig(
        learning_rate=1.0, num_epochs=1, weight_decay=0.0, sparsity_target=target, sparsity_cost=cost,
        sparsity_decay=0.0,
    )  # fmt: skip
    rbm.fit(v, config, seed=0)
    torch.testing.assert_close(rbm.weight.detach(), expected_weight)
    torch.testing.assert_close(rbm.hidden_bias.detach(), expected_bias)
    assert not rbm.visible_bias.any()


def test_sparsity_follows_the_running_mean_of_the_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    activities = [torch.tensor([0.2, 0.9]), torch.tensor([0.6, 0.1])]
    fixed_gradients(monkeypatch, 0.0, activities)
    config = RbmConfig(
        learning_rate=1.0, num_epochs=1, batch_size=1, weight_decay=0.0, initial_momentum=0.0,
        sparsity_target=0.1, sparsity_cost=0.5, sparsity_decay=0.75,
    )  # fmt: skip
    rbm = Rbm(3, 2, generator=generator()).fit(torch.ones(2, 3), config, seed=0)
    means = [activities[0], 0.75 * activities[0] + 0.25 * activities[1]]
    expected = -0.5 * sum((mean - 0.1 for mean in means), torch.zeros(2))
    torch.testing.assert_close(rbm.hidden_bias.detach(), expected)


def test_sparsity_gradient_reaches_weights_by_scaled_frames_where_variances_are_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixed_gradients(monkeypatch, 0.0, [torch.tensor([0.5])])
    rbm = Rbm(2, 1, "gaussian", learn_variances=True, generator=generator())
    assert rbm.log_variance is not None
    with torch.no_grad():
        rbm.log_variance.copy_(torch.tensor([1.0, -1.0]))
        rbm.weight.zero_()
    config = RbmConfig(learning_rate=1.0, num_epochs=1, sparsity_target=0.25, sparsity_cost=1.0)
    rbm.fit(torch.tensor([[2.0, 3.0]]), config, seed=0)
    expected = torch.tensor([[-0.25 * 2 * math.exp(-1), -0.25 * 3 * math.exp(1)]])
    torch.testing.assert_close(rbm.weight.detach(), expected)


def test_a_sparsity_target_is_met_and_reported() -> None:
    frames = (torch.rand(500, 20, generator=generator()) < 0.5).float()
    activities = []
    for target in (None, 0.1):
        config = RbmConfig(num_epochs=60, sparsity_target=target, sparsity_cost=0.1)
        rbm = Rbm(20, 10, generator=generator()).fit(frames, config, seed=0)
        activities.append(rbm.hidden_mean(frames).mean().item())
    assert activities[0] > 0.15
    assert activities[1] == pytest.approx(0.1, abs=0.02)
    assert rbm.history[-1].losses["hidden_activity"] == pytest.approx(activities[1], abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"negative_phase": "persistent", "learning_rate": 0.02},
        {"negative_phase": "tempered", "num_temperatures": 4},
        {"precision": "bfloat16"},
        {"negative_phase": "persistent", "precision": "bfloat16", "learning_rate": 0.02},
    ],
)
def test_every_way_of_training_comes_near_the_entropy_of_the_data(options: dict[str, Any]) -> None:
    # Patterns so far apart that plain chains do not pass between them would need tempering.
    frames = two_prototypes(flipped=0.15)
    config = RbmConfig(num_epochs=40, batch_size=50, final_learning_rate_factor=0.0, **options)
    rbm = Rbm(6, 3, generator=generator()).fit(frames, config, seed=0)
    assert rbm.weight.dtype == torch.float32
    assert exact_log_likelihood(rbm, frames).mean().item() > -entropy(0.15) - 0.1


def test_chains_follow_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    original = TemperedChains.gradients

    def recording(self: TemperedChains, v: Tensor, num_steps: int, noise: torch.Generator) -> CdGradients:
        seen.append((self.num_temperatures, len(self.model_states()), num_steps))
        return original(self, v, num_steps, noise)

    monkeypatch.setattr(TemperedChains, "gradients", recording)
    config = RbmConfig(
        negative_phase="tempered", num_temperatures=3, num_chains=130, num_gibbs_steps=2, num_epochs=1
    )
    Rbm(6, 3, generator=generator()).fit(two_prototypes(200), config, seed=0)
    assert seen == [(3, 130, 2)] * 2


def test_bfloat16_samples_the_present_weights_and_rounds_none_of_the_updates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def recording(self: Rbm, v: Tensor, *_: object) -> CdGradients:
        seen.append((self.weight.dtype, v.dtype, self.weight.detach().clone()))
        return CdGradients(
            *(torch.full_like(p, 2**-12) for p in (self.weight, self.visible_bias, self.hidden_bias)),
            torch.zeros(()),
        )

    monkeypatch.setattr(Rbm, "contrastive_divergence", recording)
    rbm = Rbm(3, 2, generator=generator())
    with torch.no_grad():
        rbm.weight.fill_(1.0)
    config = RbmConfig(
        learning_rate=1.0, num_epochs=32, precision="bfloat16", weight_decay=0.0, initial_momentum=0.0,
        final_momentum=0.0,
    )  # fmt: skip
    rbm.fit(torch.ones(1, 3), config, seed=0)
    assert {(weight, v) for weight, v, _ in seen} == {(torch.bfloat16, torch.bfloat16)}
    # An update of 2⁻¹² is lost beside 1 in bfloat16, whose numbers there lie 2⁻⁷ apart.
    torch.testing.assert_close(rbm.weight.detach(), torch.full((2, 3), 1 + 2**-7), rtol=1e-6, atol=0)
    assert seen[-1][2].max() > 1


def test_learned_variances_are_those_of_the_data() -> None:
    deviations = torch.tensor([0.5, 1.0, 2.0])
    frames = torch.randn(2000, 3, generator=generator()) * deviations
    rbm = Rbm(3, 1, "gaussian", learn_variances=True, generator=generator())
    config = RbmConfig(learning_rate=0.05, num_epochs=30, weight_decay=0.1, final_learning_rate_factor=0.0)
    rbm.fit(frames, config, seed=0)
    assert rbm.log_variance is not None
    torch.testing.assert_close((rbm.log_variance / 2).exp().detach(), frames.std(dim=0), rtol=0.05, atol=0)


def test_rectified_units_learn_to_reconstruct() -> None:
    codes = torch.randn(2000, 4, generator=generator()).clamp_(min=0)
    frames = codes @ torch.randn(4, 12, generator=generator(1))
    frames = (frames - frames.mean(dim=0)) / frames.std(dim=0)
    config = RbmConfig(learning_rate=0.003, num_epochs=25)
    rbm = Rbm(12, 24, "gaussian", "rectified", generator=generator()).fit(frames, config, seed=0)
    errors = [progress.losses["reconstruction_error"] for progress in rbm.history]
    # Nothing explained leaves 1.
    assert errors[0] > 0.8
    assert errors[-1] < 0.4
    assert rbm.hidden_mean(frames).min() >= 0
    above = Rbm(24, 8, "rectified", generator=generator())
    above.fit(
        rbm.sample_hidden(frames, generator()).detach(), RbmConfig(learning_rate=0.001, num_epochs=3), seed=0
    )
    assert above.history[-1].losses["reconstruction_error"] < above.history[0].losses["reconstruction_error"]


def gap_of(rbm: Rbm, held_out: Tensor, frames: Tensor) -> float:
    """Mean free energy of one set less that of the other, per dimension, from the exact likelihoods."""
    difference = exact_log_likelihood(rbm, frames).mean() - exact_log_likelihood(rbm, held_out).mean()
    return difference.item() / frames.shape[1]


def test_the_free_energy_gap_is_the_difference_of_log_likelihoods() -> None:
    frames, held_out = two_prototypes(300), two_prototypes(300, seed=1)
    rbm = Rbm(6, 3, generator=generator()).fit(frames, RbmConfig(num_epochs=3), seed=0, held_out=held_out)
    losses = rbm.history[-1].losses
    # As many training frames as held-out ones: all.
    assert losses["free_energy_gap"] == pytest.approx(gap_of(rbm, held_out, frames), abs=1e-6)
    both = [rbm.free_energy(part).detach().double() / 6 for part in (frames, held_out)]
    error = math.sqrt(sum(part.var(correction=0).item() / 300 for part in both))
    assert losses["free_energy_gap_error"] == pytest.approx(error, rel=1e-5)


def test_watching_changes_no_weight() -> None:
    frames, held_out = two_prototypes(300), two_prototypes(50, seed=1)
    watched, alone = (
        Rbm(6, 3, generator=generator()).fit(frames, RbmConfig(num_epochs=2), seed=0, held_out=other)
        for other in (held_out, None)
    )
    assert torch.equal(watched.weight, alone.weight)
    assert "free_energy_gap" not in alone.history[0].losses


def test_the_gap_tells_overfitting() -> None:
    patterns = (torch.rand(4000, 20, generator=generator()) < 0.5).float()
    held_out = patterns[2000:]
    config = RbmConfig(num_epochs=150, batch_size=10, weight_decay=0.0, learning_rate=0.1)
    few = Rbm(20, 60, generator=generator()).fit(patterns[:30], config, seed=0, held_out=held_out)
    assert overfitting_since(few.history) is not None
    config = RbmConfig(num_epochs=5)
    many = Rbm(20, 5, generator=generator()).fit(patterns[:2000], config, seed=0, held_out=held_out)
    assert overfitting_since(many.history) is None


def test_overfitting_begins_where_the_gap_leaves_its_least_value() -> None:
    gaps = [0.5, 0.1, 0.2, 0.3, 0.4, 0.2]
    history = [
        PretrainProgress(1, epoch, {"free_energy_gap": gap, "free_energy_gap_error": 0.05})
        for epoch, gap in enumerate(gaps, start=1)
    ]
    # Errors of √2 · 0.05 for a difference: 0.1 is 1.4 of them, 0.2 is 2.8, 0.3 is 4.2.
    assert overfitting_since(history) == 5
    assert overfitting_since(history, 2) == 4
    assert overfitting_since(history, 5) is None


def test_divergence_of_bernoulli_units_names_layer_update_and_remedy() -> None:
    frames = two_prototypes()
    message = (
        r"layer 2, epoch \d+, update \d+: a weight has reached \d+, where its units no longer change; "
        r"use a learning rate below 1000, or a weight_decay above 0.0002"
    )
    with pytest.raises(DivergenceError, match=message):
        Rbm(6, 3, generator=generator()).fit(frames, RbmConfig(learning_rate=1000.0), seed=0, layer=2)


@pytest.mark.parametrize("hidden", ["bernoulli", "rectified"])
def test_divergence_of_real_units_names_layer_step_and_remedy(hidden: str) -> None:
    frames = torch.randn(400, 10, generator=generator())
    rbm = Rbm(10, 20, "gaussian", hidden, generator=generator())
    with pytest.raises(
        DivergenceError, match=r"layer 3, epoch \d+, step \d+: .*learning rate below 50, .*standardise"
    ):
        rbm.fit(frames, RbmConfig(learning_rate=50.0), seed=0, layer=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "RbmConfig.learning_rate is 0.0; expected a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"max_frames_per_epoch": 0}, "max_frames_per_epoch is 0"),
        (
            {"final_learning_rate_factor": -0.5},
            "final_learning_rate_factor is -0.5; expected a number above 0, or 0",
        ),
        (
            {"final_learning_rate_factor": 0.0, "learning_rate_decay": "exponential"},
            "final_learning_rate_factor is 0.0; expected a number above 0$",
        ),
        ({"learning_rate_decay": "step"}, 'learning_rate_decay is \'step\'; expected "linear" or "exponential"'),
        ({"initial_momentum": -0.1}, "initial_momentum is -0.1"),
        ({"final_momentum": 1.0}, "final_momentum is 1.0"),
        ({"num_initial_epochs": -1}, "num_initial_epochs is -1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"negative_phase": "cd"}, 'negative_phase is \'cd\'; expected "contrastive", "persistent" or "tempered"'),
        ({"num_gibbs_steps": 0}, "num_gibbs_steps is 0"),
        ({"num_chains": 0}, "num_chains is 0"),
        ({"num_temperatures": 1}, "num_temperatures is 1; expected a whole number of at least 2"),
        ({"sparsity_target": 1.0}, "sparsity_target is 1.0; expected a number between 0 and 1, or none"),
        ({"sparsity_cost": -1.0}, "sparsity_cost is -1.0"),
        ({"sparsity_decay": 1.0}, "sparsity_decay is 1.0"),
        ({"precision": "float16"}, 'precision is \'float16\'; expected "full" or "bfloat16"'),
    ],
)
def test_bad_configuration_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RbmConfig(**values)


@pytest.mark.parametrize(
    ("rbm", "options", "config", "message"),
    [
        (Rbm(6, 3, "gaussian", "rectified"), {}, {"sparsity_target": 0.1}, "hidden units; these are rectified"),
        (Rbm(6, 3, hidden="rectified"), {}, {"negative_phase": "tempered"}, "tempering is for .* rectified hid"),
        (Rbm(6, 3, "rectified"), {}, {"negative_phase": "tempered"}, "bernoulli hidden and rectified visible"),
        (Rbm(6, 3), {"held_out": torch.zeros(2, 5)}, {}, "held-out frames have 5 dimensions; this RBM has 6"),
        (Rbm(6, 3), {"held_out": torch.full((2, 6), 1.5)}, {}, r"found held-out frames from 1.5 to 1.5"),
        (Rbm(6, 3), {"held_out": torch.full((2, 6), math.nan)}, {}, "frame 0 holds nan"),
    ],
)  # fmt: skip
def test_impossible_combinations_are_named(
    rbm: Rbm, options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rbm.fit(two_prototypes(10), RbmConfig(**config), seed=0, **options)


def test_negative_frames_of_rectified_units_are_named() -> None:
    with pytest.raises(
        InputError, match="rectified visible units take values of at least 0; found frames from -1 to"
    ):
        Rbm(2, 2, "rectified").fit(torch.tensor([[-1.0, 4.0]]), RbmConfig(), seed=0)


def test_a_history_without_gaps_is_named() -> None:
    with pytest.raises(
        InputError, match="epoch 3 of the history holds no free_energy_gap; call fit with held_out"
    ):
        overfitting_since([PretrainProgress(1, 3, {"reconstruction_error": 0.1})])
