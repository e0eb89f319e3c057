"""Denoising autoencoders against principal components, score matching, a hand-derived gradient and the recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.autoencoder import DaeConfig, DenoisingAutoencoder, StackedAutoencoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(
    reconstruction: str, corruption: float, *, activation: Any = torch.sigmoid, **options: Any
) -> DenoisingAutoencoder:
    """Three codes of six inputs, with biases that are not zero."""
    autoencoder = DenoisingAutoencoder(
        6, 3, activation, reconstruction, corruption, generator=generator(), **options
    ).double()
    with torch.no_grad():
        autoencoder.visible_bias.copy_(torch.linspace(-1, 1, 6))
        autoencoder.hidden_bias.copy_(torch.linspace(-0.5, 0.5, 3))
    return autoencoder


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


every_loss = pytest.mark.parametrize("reconstruction", ["squared", "cross_entropy"])
tied_or_not = pytest.mark.parametrize("tied", [True, False])


@every_loss
@tied_or_not
def test_gradient_is_the_hand_derived_one(reconstruction: str, tied: bool) -> None:
    autoencoder = layer(reconstruction, 0.4, tied=tied)
    x = torch.rand(5, 6, generator=generator(3), dtype=torch.float64)
    loss = autoencoder.loss(x, generator(4))
    loss.backward()

    weight, b, c = (
        p.detach().numpy() for p in (autoencoder.weight, autoencoder.visible_bias, autoencoder.hidden_bias)
    )
    own = autoencoder.decoder_weight
    decoder = weight if own is None else own.detach().numpy()
    expected_loss, by_weight, by_decoder, by_b, by_c = 0.0, *np.zeros((2, 3, 6)), np.zeros(6), np.zeros(3)
    for clean, corrupted in zip(x.numpy(), autoencoder.corrupt(x, generator(4)).numpy(), strict=True):
        h = 1 / (1 + np.exp(-(weight @ corrupted + c)))
        out = decoder.T @ h + b
        if reconstruction == "squared":
            expected_loss += ((out - clean) ** 2).sum()
            delta_out = 2 * (out - clean)
        else:
            p = 1 / (1 + np.exp(-out))
            expected_loss -= (clean * np.log(p) + (1 - clean) * np.log(1 - p)).sum()
            delta_out = p - clean
        delta_h = (decoder @ delta_out) * h * (1 - h)
        by_weight += np.outer(delta_h, corrupted)
        by_decoder += np.outer(h, delta_out)
        by_b += delta_out
        by_c += delta_h
    assert loss.item() == pytest.approx(expected_loss / x.numel(), rel=1e-12)
    found = [autoencoder.weight, autoencoder.visible_bias, autoencoder.hidden_bias]
    expected: list[np.ndarray] = [by_weight + by_decoder, by_b, by_c]
    if own is not None:
        found.append(own)
        expected = [by_weight, by_b, by_c, by_decoder]
    for parameter, gradient in zip(found, expected, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), gradient / x.numel(), rtol=1e-10, atol=1e-14)


@every_loss
@tied_or_not
@pytest.mark.parametrize("kind", ["masking", "gaussian", "salt_and_pepper"])
def test_gradient_is_that_of_finite_differences(reconstruction: str, tied: bool, kind: str) -> None:
    autoencoder = layer(reconstruction, 0.4, corruption_kind=kind, tied=tied)
    x = torch.rand(5, 6, generator=generator(3), dtype=torch.float64)
    autoencoder.loss(x, generator(4)).backward()
    step = 1e-5
    for parameter in autoencoder.parameters():
        assert parameter.grad is not None
        for entry, gradient in zip(parameter.data.view(-1), parameter.grad.view(-1), strict=True):
            losses = []
            for move in (step, -2 * step):
                entry += move
                losses.append(autoencoder.loss(x, generator(4)).item())
            entry += step
            assert gradient.item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6, abs=1e-9)


def energy(autoencoder: DenoisingAutoencoder, x: Tensor) -> Tensor:
    """(½‖x‖² − bᵀx − Σ_j softplus(W_j x + c_j)) / ν², whose denoising score matching is the autoencoder's loss."""
    softplus = torch.log1p((x @ autoencoder.weight.T + autoencoder.hidden_bias).exp()).sum(dim=1)
    return (x.square().sum(dim=1) / 2 - x @ autoencoder.visible_bias - softplus) / autoencoder.corruption**2


def score(autoencoder: DenoisingAutoencoder, x: Tensor) -> Tensor:
    """−∂E/∂x at each row of `x`, by differentiation of the energy; differentiable again."""
    at = x.clone().requires_grad_()
    return -torch.autograd.grad(energy(autoencoder, at).sum(), at, create_graph=True)[0]


@pytest.mark.parametrize("deviation", [0.3, 1.0, 1.7])
def test_denoising_score_matching_is_the_gaussian_tied_objective(deviation: float) -> None:
    """Vincent (2011), §4: the two differ by the factor 2σ⁴, in value and so in gradient."""
    autoencoder = layer("squared", deviation, corruption_kind="gaussian")
    x = torch.randn(40, 6, generator=generator(3), dtype=torch.float64)
    noisy = autoencoder.corrupt(x, generator(4))
    # The score of the Gaussian kernel, ∂ log N(x̃; x, σ²I)/∂x̃, is what the model's must match.
    error = score(autoencoder, noisy) - (x - noisy) / deviation**2
    matching = error.square().sum(dim=1).mean() / 2
    loss = autoencoder.loss(x, generator(4))
    assert loss.item() * 6 == pytest.approx(2 * deviation**4 * matching.item(), rel=1e-12)
    parameters = list(autoencoder.parameters())
    by_matching = torch.autograd.grad(matching, parameters)
    for one, other in zip(torch.autograd.grad(loss, parameters), by_matching, strict=True):
        torch.testing.assert_close(one * 6, 2 * deviation**4 * other, rtol=1e-10, atol=1e-12)


def test_the_objective_matches_the_score_of_the_smoothed_data_but_for_a_constant() -> None:
    """Vincent (2011), eq. 9-11, integrated exactly: loss/(2σ⁴) − ½E‖ψ − ∂ log q_σ‖² is the same for every θ."""
    deviation = 0.6
    points = torch.tensor([[-1.5], [-0.2], [0.1], [2.0]], dtype=torch.float64)
    # The trapezoidal rule, whose error falls fast: the smoothed score's poles are too near for Gauss-Hermite.
    nodes = torch.linspace(-9, 9, 361, dtype=torch.float64)
    node_weights = torch.softmax(-nodes.square() / 2, dim=0)
    noisy = (points + deviation * nodes).reshape(-1, 1)
    responsibility = torch.softmax(-((noisy - points.T) ** 2) / (2 * deviation**2), dim=1)
    smoothed_score = (responsibility @ points - noisy) / deviation**2

    constants, gradients = [], []
    for seed in range(3):
        autoencoder = DenoisingAutoencoder(
            1, 2, torch.sigmoid, "squared", deviation, corruption_kind="gaussian", generator=generator(seed)
        ).double()
        parameters = list(autoencoder.parameters())
        per_node = [autoencoder.denoising_loss(points, points + deviation * node) for node in nodes]
        denoising = (node_weights @ torch.stack(per_node)) / (2 * deviation**4)
        errors = (score(autoencoder, noisy) - smoothed_score).square().reshape(4, -1)
        explicit = (errors @ node_weights).mean() / 2
        constants.append((denoising - explicit).item())
        gradients.append(
            [torch.cat([g.ravel() for g in torch.autograd.grad(j, parameters)]) for j in (denoising, explicit)]
        )
    # The kernel's own score is ε/σ, whose mean square is 1/σ².
    stated = (1 / deviation**2 - (smoothed_score.square().reshape(4, -1) @ node_weights).mean().item()) / 2
    assert constants == pytest.approx([stated] * 3, rel=1e-9)
    for by_denoising, by_explicit in gradients:
        torch.testing.assert_close(by_denoising, by_explicit, rtol=1e-8, atol=1e-10)
        assert by_explicit.abs().max() > 1e-3


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


def test_configuration_reaches_the_layers() -> None:
    frames = torch.rand(60, 6, generator=generator())
    config = DaeConfig(
        num_epochs=1, corruption=0.3, corruption_kind="gaussian", tied=False, reconstruction="squared"
    )
    for autoencoder in StackedAutoencoder([5, 4], "sigmoid", config).fit(frames, seed=0).autoencoders:
        assert (autoencoder.corruption, autoencoder.corruption_kind) == (0.3, "gaussian")
        assert autoencoder.decoder_weight is not None
        assert not torch.equal(autoencoder.decoder_weight, autoencoder.weight)
        assert autoencoder.reconstruction == "squared"
    cross_entropy = DaeConfig(num_epochs=1, reconstruction="cross_entropy")
    stack = StackedAutoencoder([5, 4], "sigmoid", cross_entropy).fit(frames, seed=0)
    assert [list(progress.losses) for progress in stack.history] == [["cross_entropy"]] * 2
    assert all(autoencoder.decoder_weight is None for autoencoder in stack.autoencoders)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_salt_and_pepper_takes_the_extremes_of_each_layers_input(activation: str) -> None:
    frames = torch.randn(200, 6, generator=generator())
    config = DaeConfig(num_epochs=1, corruption_kind="salt_and_pepper")
    lower, upper = StackedAutoencoder([5, 4], activation, config).fit(frames, seed=0).autoencoders
    assert torch.equal(lower.extremes, torch.stack(torch.aminmax(frames, dim=0)))
    codes = lower.encode(frames).detach()
    expected = torch.tensor([[0.0] * 5, [1.0] * 5]) if activation == "sigmoid" else codes.aminmax(dim=0)
    torch.testing.assert_close(upper.extremes, expected if isinstance(expected, Tensor) else torch.stack(expected))


class Interrupted(Exception):
    """In place of a process that is killed."""


@pytest.mark.parametrize("layer", [1, 2])
def test_an_interrupted_stack_resumes_to_the_same_bits(tmp_path: Path, layer: int) -> None:
    """With all that a layer draws: two matrices of weights, extremes and noise."""
    frames = torch.randn(200, 6, generator=generator())
    config = DaeConfig(num_epochs=2, corruption_kind="salt_and_pepper", tied=False)

    def interrupt(progress: Any) -> None:
        if (progress.layer, progress.epoch) == (layer, 1):
            raise Interrupted

    def stack() -> StackedAutoencoder:
        return StackedAutoencoder([5, 4], "relu", config)

    whole = stack().fit(frames, seed=0)
    with pytest.raises(Interrupted):
        stack().fit(frames, seed=0, on_epoch=interrupt, checkpoint=tmp_path / "checkpoint.pt")
    resumed = stack().fit(frames, seed=0, checkpoint=tmp_path / "checkpoint.pt")
    assert resumed.history == whole.history
    for one, other in zip(resumed.autoencoders, whole.autoencoders, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_softmax_network_tells_classes_apart_that_its_codes_tell(activation: str) -> None:
    frames = torch.randn(60, 6, generator=generator(), dtype=torch.float64)
    stack = StackedAutoencoder([16, 8], activation, DaeConfig(num_epochs=2)).fit(frames, seed=0)
    codes = stack.transform(frames)
    network = stack.softmax_network(3)
    labels = torch.bucketize(frames[:, 0].contiguous(), torch.tensor([-0.5, 0.5], dtype=torch.float64))
    assert nn.functional.cross_entropy(network(frames), labels).item() == pytest.approx(math.log(3), rel=1e-12)
    top = network[-1]
    assert isinstance(top, nn.Linear)
    assert not network(frames).any()
    with torch.no_grad():
        top.weight.normal_(generator=generator())
        top.bias.normal_(generator=generator())
        torch.testing.assert_close(network(frames), codes @ top.weight.T + top.bias)

    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(frames), labels).backward()
        optimizer.step()
    assert (network(frames).argmax(dim=1) == labels).double().mean() > 0.95
    assert not any(map(torch.equal, before, network.parameters()))  # every layer is trained
    assert torch.equal(stack.transform(frames), codes)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"DaeConfig\.corruption is 1\.0; expected a fraction from 0 to below 1"):
        DaeConfig(corruption=1.0)
    with pytest.raises(InputError, match='unknown reconstruction "squard"; did you mean "squared"'):
        layer("squard", 0.1)
    with pytest.raises(InputError, match='unknown corruption "salt"; choose from: masking, gaussian'):
        layer("squared", 0.1, corruption_kind="salt")
    with pytest.raises(InputError, match=r"corruption is -0\.1; expected a standard deviation of at least 0"):
        DaeConfig(corruption=-0.1, corruption_kind="gaussian")
    assert DaeConfig(corruption=1.5, corruption_kind="gaussian").corruption == 1.5
    with pytest.raises(InputError, match=r"corruption_kind is 'pepper'; expected one of masking, gaussian, salt"):
        DaeConfig(corruption_kind="pepper")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reconstruction is 'kl'; expected one of matched, squared, cross"):
        DaeConfig(reconstruction="kl")  # type: ignore[arg-type]
    cross_entropy = DaeConfig(num_epochs=1, reconstruction="cross_entropy")
    with pytest.raises(InputError, match="rectified codes, which layer 2 reconstructs, have no upper end; use"):
        StackedAutoencoder([5, 4], "relu", cross_entropy)
    frames = torch.tensor([[0.5, 0.2], [1.5, -0.25]])
    with pytest.raises(InputError, match=r"cross-entropy .* frames in \[0, 1\]; found values from -0\.25 to 1\.5"):
        StackedAutoencoder([5], "relu", cross_entropy).fit(frames, seed=0)
    stack = StackedAutoencoder([5], "relu", DaeConfig(num_epochs=1))
    with pytest.raises(InputError, match="this StackedAutoencoder has no layers yet; call fit first"):
        stack.softmax_network(2)
    with pytest.raises(InputError, match="num_classes is 1; a softmax layer tells at least 2 apart"):
        stack.fit(frames, seed=0).softmax_network(1)
