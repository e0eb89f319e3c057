"""Denoising autoencoders against principal components, a hand-derived gradient and the paper's recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.autoencoder import DaeConfig, DenoisingAutoencoder, StackedAutoencoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(reconstruction: str, corruption: float, *, activation: object = torch.sigmoid) -> DenoisingAutoencoder:
    return DenoisingAutoencoder(6, 3, activation, reconstruction, corruption, generator=generator()).double()  # type: ignore[arg-type]


def test_linear_tied_autoencoder_spans_the_principal_subspace() -> None:
    scales = torch.tensor([3.0, 2.5, 2.0, 0.5, 0.3, 0.1], dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(6, 6, generator=generator(1), dtype=torch.float64)).Q
    frames = (torch.randn(300, 6, generator=generator(2), dtype=torch.float64) * scales) @ mixing
    frames = frames - frames.mean(dim=0)
    autoencoder = layer("squared", 0.0, activation=nn.Identity())
    optimizer = torch.optim.LBFGS(
        autoencoder.parameters(), max_iter=400, tolerance_grad=1e-10, tolerance_change=1e-14
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = autoencoder.loss(frames, generator())
        loss.backward()
        return loss

    optimizer.step(closure)
    eigenvalues, eigenvectors = np.linalg.eigh(frames.T.numpy() @ frames.numpy() / len(frames))
    angles = scipy.linalg.subspace_angles(autoencoder.weight.detach().numpy().T, eigenvectors[:, 3:])
    assert angles.max() < 1e-4
    # What three components cannot say, per dimension (Eckart & Young 1936).
    assert closure().item() == pytest.approx(eigenvalues[:3].sum() / 6, rel=1e-7)


@pytest.mark.parametrize("reconstruction", ["squared", "cross_entropy"])
def test_gradient_is_the_hand_derived_one(reconstruction: str) -> None:
    autoencoder = layer(reconstruction, 0.4)
    with torch.no_grad():
        autoencoder.visible_bias.copy_(torch.linspace(-1, 1, 6))
        autoencoder.hidden_bias.copy_(torch.linspace(-0.5, 0.5, 3))
    x = torch.rand(5, 6, generator=generator(3), dtype=torch.float64)
    loss = autoencoder.loss(x, generator(4))
    loss.backward()

    weight, b, c = (
        p.detach().numpy() for p in (autoencoder.weight, autoencoder.visible_bias, autoencoder.hidden_bias)
    )
    expected_loss, by_weight, by_b, by_c = 0.0, np.zeros((3, 6)), np.zeros(6), np.zeros(3)
    for clean, corrupted in zip(x.numpy(), autoencoder.corrupt(x, generator(4)).numpy(), strict=True):
        h = 1 / (1 + np.exp(-(weight @ corrupted + c)))
        out = weight.T @ h + b
        if reconstruction == "squared":
            expected_loss += ((out - clean) ** 2).sum()
            delta_out = 2 * (out - clean)
        else:
            p = 1 / (1 + np.exp(-out))
            expected_loss -= (clean * np.log(p) + (1 - clean) * np.log(1 - p)).sum()
            delta_out = p - clean
        delta_h = (weight @ delta_out) * h * (1 - h)
        by_weight += np.outer(h, delta_out) + np.outer(delta_h, corrupted)
        by_b += delta_out
        by_c += delta_h
    assert loss.item() == pytest.approx(expected_loss / x.numel(), rel=1e-12)
    parameters = (autoencoder.weight, autoencoder.visible_bias, autoencoder.hidden_bias)
    for parameter, expected in zip(parameters, (by_weight, by_b, by_c), strict=True):
        np.testing.assert_allclose(parameter.grad, expected / x.numel(), rtol=1e-10, atol=1e-14)


def test_corruption_masks_the_asked_fraction_and_each_row_on_its_own() -> None:
    x = 1 + torch.rand(5000, 6, generator=generator(), dtype=torch.float64)
    corrupted = layer("squared", 0.25).corrupt(x, generator())
    masked = corrupted == 0
    assert torch.equal(corrupted[~masked], x[~masked])
    # Hoeffding: 2 exp(−2 n t²) < 1e-9
    assert masked.double().mean().item() == pytest.approx(0.25, abs=math.sqrt(math.log(2e9) / (2 * x.numel())))
    assert len(masked.unique(dim=0)) == 2**6


def test_no_corruption_changes_nothing() -> None:
    x = torch.rand(10, 6, generator=generator(), dtype=torch.float64)
    assert torch.equal(layer("squared", 0.0).corrupt(x, generator()), x)


def test_layers_above_train_on_codes_of_clean_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_inputs: list[tuple[DenoisingAutoencoder, Tensor]] = []
    original = DenoisingAutoencoder.loss

    def recording(self: DenoisingAutoencoder, x: Tensor, noise: torch.Generator) -> Tensor:
        clean_inputs.append((self, x))
        return original(self, x, noise)

    monkeypatch.setattr(DenoisingAutoencoder, "loss", recording)
    frames = torch.randn(40, 6, generator=generator(), dtype=torch.float64)
    stack = StackedAutoencoder([5, 4], "sigmoid", DaeConfig(num_epochs=2, batch_size=40, corruption=0.9))
    stack.fit(frames, seed=0)
    lower, upper = stack.autoencoders
    codes = lower.encode(frames).detach()
    for owner, x in clean_inputs:
        expected = frames if owner is lower else codes
        nearest = (x[:, None] - expected).abs().amax(dim=2).min(dim=1)
        assert nearest.values.max() < 1e-12
        assert len(nearest.indices.unique()) == 40
        assert not x.requires_grad  # else layer 2 would go on training layer 1
    assert [owner for owner, _ in clean_inputs] == [lower, lower, upper, upper]


@pytest.mark.parametrize(
    ("activation", "losses"),
    [("sigmoid", ["reconstruction_error", "cross_entropy"]), ("relu", ["reconstruction_error"] * 2)],
)
def test_losses_suit_the_values_they_reconstruct(activation: str, losses: list[str]) -> None:
    frames = torch.randn(50, 6, generator=generator())
    stack = StackedAutoencoder([5, 4], activation, DaeConfig(num_epochs=1)).fit(frames, seed=0)
    assert [list(progress.losses) for progress in stack.history] == [[loss] for loss in losses]


def test_denoising_learns_to_fill_in_masked_inputs() -> None:
    latent = torch.randn(2000, 2, generator=generator())
    frames = latent @ torch.randn(2, 10, generator=generator(1))
    frames = (frames - frames.mean(dim=0)) / frames.std(dim=0)
    config = DaeConfig(num_epochs=20, learning_rate=0.01)
    (autoencoder,) = StackedAutoencoder([16], "relu", config).fit(frames, seed=0).autoencoders
    masked = frames.clone()
    masked[:, 4] = 0
    filled = autoencoder.encode(masked) @ autoencoder.weight + autoencoder.visible_bias
    # The mean, which a mask leaves, would cost 1; two latent directions make every input known from the others.
    assert (filled - frames)[:, 4].square().mean().item() < 0.4


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"DaeConfig\.corruption is 1\.0; expected a fraction from 0 to below 1"):
        DaeConfig(corruption=1.0)
    with pytest.raises(InputError, match='unknown reconstruction "squard"; did you mean "squared"'):
        layer("squard", 0.1)
