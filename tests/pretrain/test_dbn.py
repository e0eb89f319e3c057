"""The greedy stack: its bound, what its layers are and what they train on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.dbn import Dbn, DbnConfig
from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood, exact_log_partition
from spkadapt.pretrain.rbm import CdGradients, Rbm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_frames(num_frames: int = 400, dim: int = 6) -> Tensor:
    return torch.randn(num_frames, dim, generator=generator(5))


def dbn_log_likelihood(lower: Rbm, upper: Rbm, v: Tensor) -> Tensor:
    """log Σ_h p(v | h) p(h) by enumeration, h's prior being `upper`."""
    h = binary_states(0, 2 ** len(lower.hidden_bias), len(lower.hidden_bias)).double()
    log_prior = -upper.free_energy(h) - exact_log_partition(upper)
    mean = lower.visible_mean(h)
    log_conditional = v @ mean.log().T + (1 - v) @ (1 - mean).log().T
    return torch.logsumexp(log_conditional + log_prior, dim=1)


def test_a_second_layer_with_transposed_weights_leaves_the_likelihood_unchanged() -> None:
    lower = Rbm(5, 3, generator=generator()).double()
    upper = Rbm(3, 5, generator=generator(1)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(lower.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
        v = binary_states(0, 32, 5).double()
        unrelated = dbn_log_likelihood(lower, upper, v)
        upper.weight.copy_(lower.weight.T)
        upper.visible_bias.copy_(lower.hidden_bias)
        upper.hidden_bias.copy_(lower.visible_bias)
        alone = exact_log_likelihood(lower, v)
        torch.testing.assert_close(dbn_log_likelihood(lower, upper, v), alone, rtol=1e-12, atol=1e-12)
        assert (unrelated - alone).abs().max() > 0.1


def test_the_bottom_is_gaussian_and_the_layers_above_bernoulli() -> None:
    dbn = Dbn([5, 4, 3], "sigmoid", DbnConfig(num_epochs=1)).fit(random_frames(), seed=0)
    assert [rbm.visible for rbm in dbn.rbms] == ["gaussian", "bernoulli", "bernoulli"]


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


def test_each_kind_of_layer_has_its_own_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(self: Rbm, *_: object) -> CdGradients:
        return CdGradients(
            *(torch.ones_like(p) for p in (self.weight, self.visible_bias, self.hidden_bias)), torch.zeros(())
        )

    monkeypatch.setattr(Rbm, "contrastive_divergence", ones)
    config = DbnConfig(num_epochs=1, batch_size=400, learning_rate=0.5, gaussian_learning_rate=0.25)
    dbn = Dbn([5, 4, 3], "sigmoid", config).fit(random_frames(), seed=0)
    assert [rbm.hidden_bias[0].item() for rbm in dbn.rbms] == [0.25, 0.5, 0.5]


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
