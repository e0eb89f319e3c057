"""The greedy stack: what its layers are and what they train on; then up-down training, and going on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.dbn import Dbn, DbnConfig
from spkadapt.pretrain.dbn_up_down import UpDownConfig
from spkadapt.pretrain.interface import PretrainProgress, TensorFrames
from spkadapt.pretrain.likelihood import binary_states
from spkadapt.pretrain.rbm import CdGradients, Rbm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_frames(num_frames: int = 400, dim: int = 6) -> Tensor:
    return torch.randn(num_frames, dim, generator=generator(5))


def test_the_bottom_is_gaussian_and_the_layers_above_bernoulli() -> None:
    dbn = Dbn([5, 4, 3], "sigmoid", DbnConfig(num_epochs=1)).fit(random_frames(), seed=0)
    assert [rbm.visible for rbm in dbn.rbms] == ["gaussian", "bernoulli", "bernoulli"]
    binary = Dbn([5, 4], "sigmoid", DbnConfig(num_epochs=1, visible="bernoulli")).fit(torch.rand(50, 6), seed=0)
    assert [rbm.visible for rbm in binary.rbms] == ["bernoulli", "bernoulli"]


def test_transform_passes_probabilities_up() -> None:
    frames = random_frames()
    dbn = Dbn([5, 3], "sigmoid", DbnConfig(num_epochs=1)).fit(frames, seed=0)
    lower, upper = dbn.rbms
    expected = upper.hidden_probabilities(lower.hidden_probabilities(frames))
    torch.testing.assert_close(dbn.transform(frames), expected.detach(), rtol=1e-6, atol=1e-6)


def record_inputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rbm, Tensor]]:
    """The mini-batches that each RBM is given."""
    seen: list[tuple[Rbm, Tensor]] = []
    original = Rbm.contrastive_divergence

    def recording(self: Rbm, v: Tensor, num_steps: int, noise: torch.Generator) -> CdGradients:
        seen.append((self, v.clone()))
        return original(self, v, num_steps, noise)

    monkeypatch.setattr(Rbm, "contrastive_divergence", recording)
    return seen


def test_upper_layers_train_on_fresh_samples_of_the_layers_below(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record_inputs(monkeypatch)
    frame = random_frames(1).double()
    num_frames, num_epochs = 4000, 3
    config = DbnConfig(num_epochs=num_epochs, batch_size=num_frames, gaussian_learning_rate=0.05)
    dbn = Dbn([6, 5, 2], "sigmoid", config).fit(frame.repeat(num_frames, 1), seed=0)
    lower, middle, top = dbn.rbms
    for rbm in (middle, top):
        batches = [v for owner, v in seen if owner is rbm]
        assert len(batches) == num_epochs
        assert all(((v == 0) | (v == 1)).all() for v in batches)
        assert not torch.equal(batches[0], batches[1])
    first = lower.hidden_probabilities(frame).detach()[0]
    # h₂'s mean is that of σ(c + W h₁) over the sampled h₁, not σ(c + W E[h₁]).
    h = binary_states(0, 64, 6).double()
    weights = (h * first + (1 - h) * (1 - first)).prod(dim=1)
    second = (weights @ middle.hidden_probabilities(h)).detach()
    # Hoeffding: 2 exp(−2 n t²) < 1e-9 for each unit.
    tolerance = math.sqrt(math.log(2e9) / (2 * num_frames * num_epochs))
    for rbm, expected in ((middle, first), (top, second)):
        found = torch.cat([v for owner, v in seen if owner is rbm]).mean(dim=0)
        np.testing.assert_allclose(found, expected, atol=tolerance)


class Recording(TensorFrames):
    """Frames that keep which were taken."""

    def __init__(self, frames: Tensor) -> None:
        super().__init__(frames)
        self.taken: list[Tensor] = []

    def take(self, indices: Tensor) -> Tensor:
        self.taken.append(indices)
        return super().take(indices)


def test_each_layer_sees_the_frames_in_an_order_of_its_own() -> None:
    source = Recording(random_frames())
    Dbn([5, 4, 3], "sigmoid", DbnConfig(num_epochs=1, batch_size=len(source))).fit(source, seed=0)
    orders = {tuple(indices.tolist()) for indices in source.taken if len(indices) == len(source)}
    assert len(orders) == 3


def test_each_kind_of_layer_has_its_own_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(self: Rbm, *_: object) -> CdGradients:
        return CdGradients(
            *(torch.ones_like(p) for p in (self.weight, self.visible_bias, self.hidden_bias)), torch.zeros(())
        )

    monkeypatch.setattr(Rbm, "contrastive_divergence", ones)
    config = DbnConfig(num_epochs=1, batch_size=400, learning_rate=0.5, gaussian_learning_rate=0.25)
    dbn = Dbn([5, 4, 3], "sigmoid", config).fit(random_frames(), seed=0)
    assert [rbm.hidden_bias[0].item() for rbm in dbn.rbms] == [0.25, 0.5, 0.5]
    binary = Dbn([5, 4], "sigmoid", replace(config, visible="bernoulli")).fit(torch.rand(400, 6), seed=0)
    assert [rbm.hidden_bias[0].item() for rbm in binary.rbms] == [0.5, 0.5]


def test_the_two_hidden_layers_start_from_different_weights() -> None:
    config = DbnConfig(num_epochs=1, learning_rate=1e-9, gaussian_learning_rate=1e-9)
    lower, upper = Dbn([6, 6], "sigmoid", config).fit(random_frames(), seed=0).rbms
    assert (lower.weight - upper.weight).abs().min() > 0


def test_rectified_units_are_named_as_impossible() -> None:
    with pytest.raises(InputError, match=r'"sigmoid"; found "relu" \(choose "dae" or "vae"'):
        Dbn([4], "relu", DbnConfig())


def test_bad_learning_rate_is_named() -> None:
    with pytest.raises(InputError, match=r"DbnConfig\.gaussian_learning_rate is -1; expected a number above 0"):
        DbnConfig(gaussian_learning_rate=-1)
    with pytest.raises(InputError, match=r'DbnConfig\.visible is .rectified.; expected "gaussian" or "bernoulli"'):
        DbnConfig(visible="rectified")  # type: ignore[arg-type]


def test_binary_visible_units_refuse_frames_outside_their_range() -> None:
    with pytest.raises(InputError, match=r"take values in \[0, 1\]; found frames from"):
        Dbn([5], "sigmoid", DbnConfig(num_epochs=1, visible="bernoulli")).fit(random_frames(), seed=0)


def test_up_down_training_follows_the_greedy_one_and_hands_over_the_recognition_network() -> None:
    frames = random_frames()
    config = DbnConfig(num_epochs=1, up_down=UpDownConfig(num_epochs=2))
    greedy = Dbn([5, 4], "sigmoid", replace(config, up_down=None)).fit(frames, seed=0)
    seen: list[PretrainProgress] = []
    dbn = Dbn([5, 4], "sigmoid", config).fit(frames, seed=0, on_epoch=seen.append)
    assert [(epoch.layer, epoch.epoch) for epoch in dbn.history] == [(1, 1), (2, 1), (None, 1), (None, 2)]
    assert seen == dbn.history
    assert dbn.num_epochs == len(dbn.history)
    assert greedy.net is not None
    assert dbn.net is not None
    for mine, theirs in zip(dbn.rbms, greedy.rbms, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
    layers = dbn.hidden_layers()
    assert torch.equal(layers[0].weight, dbn.net.recognition[0].weight)
    assert not torch.equal(layers[0].weight, dbn.rbms[0].weight)
    assert not torch.equal(dbn.net.generative[0].weight, dbn.net.recognition[0].weight.T)
    assert not torch.equal(layers[1].weight, dbn.rbms[1].weight)
    for untied, rbm in zip(greedy.hidden_layers(), greedy.rbms, strict=True):
        assert torch.equal(untied.weight, rbm.weight)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    """Within the greedy phases, and within up-down training with its persistent chains."""
    together = UpDownConfig(num_epochs=3, negative_phase="persistent", num_chains=7)
    config, frames = DbnConfig(num_epochs=1, up_down=together), random_frames()
    whole = Dbn([5, 4], "sigmoid", config).fit(frames, seed=0)
    seen: list[PretrainProgress] = []

    def stop(progress: PretrainProgress) -> None:
        seen.append(progress)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    path = tmp_path / "dbn.pt"
    with pytest.raises(KeyboardInterrupt):
        Dbn([5, 4], "sigmoid", config).fit(frames, seed=0, on_epoch=stop, checkpoint=path)
    resumed = Dbn([5, 4], "sigmoid", config).fit(frames, seed=0, checkpoint=path)
    assert resumed.history == whole.history
    assert whole.net is not None
    assert resumed.net is not None
    for mine, theirs in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_layers_before_fit_are_refused() -> None:
    with pytest.raises(InputError, match="this Dbn has no layers yet; call fit first"):
        Dbn([4], "sigmoid", DbnConfig()).hidden_layers()
