"""Stacked denoising autoencoders (Vincent et al. 2010)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.interface import (
    ACTIVATIONS,
    EncodedFrames,
    FrameSource,
    OnEpoch,
    PretrainConfig,
    Pretrainer,
    as_frame_source,
    draw_seed,
    linear_from,
    run_epochs,
)

if TYPE_CHECKING:
    from typing_extensions import Self

LOSS_NAMES = {"squared": "reconstruction_error", "cross_entropy": "cross_entropy"}


@dataclass(frozen=True)
class DaeConfig(PretrainConfig):
    """How each layer of a stacked denoising autoencoder is trained, with Adam (Kingma & Ba 2015).

    Attributes:
        learning_rate: Adam's; its paper's default.
        num_epochs: passes over the frames for each layer.
        batch_size: frames per update.
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        corruption: fraction of the inputs that are masked (Vincent et al. 2010 find 25 % to serve widely).

    Raises:
        InputError: a value out of its range.
    """

    corruption: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("corruption", 0 <= self.corruption < 1, "a fraction from 0 to below 1")


class DenoisingAutoencoder(nn.Module):
    """One layer with tied weights: h = s(Wx̃ + c), x̂ = Wᵀh + b, where x̃ is x with masked inputs.

    Args:
        num_visible: inputs.
        num_hidden: codes.
        activation: s, of the codes.
        reconstruction: "squared" for Σ (x̂ − x)², or "cross_entropy" for inputs in [0, 1], where the decoder
            ends in a sigmoid: −Σ x log σ(x̂) + (1 − x) log(1 − σ(x̂)).
        corruption: probability with which each input of each frame is masked, i.e. set to 0 (which is the mean
            of a standardised input).
        generator: draws the weights (Glorot & Bengio 2010).

    Attributes:
        weight: (num_hidden, num_visible)
        visible_bias: (num_visible,)
        hidden_bias: (num_hidden,)

    Raises:
        InputError: an unknown reconstruction.
    """

    def __init__(
        self,
        num_visible: int,
        num_hidden: int,
        activation: Callable[[Tensor], Tensor],
        reconstruction: str,
        corruption: float,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if reconstruction not in LOSS_NAMES:
            raise InputError(f'unknown reconstruction "{reconstruction}"; {suggest(reconstruction, LOSS_NAMES)}')
        self.activation, self.reconstruction, self.corruption = activation, reconstruction, corruption
        weight = nn.init.xavier_uniform_(torch.empty(num_hidden, num_visible), generator=generator)
        self.weight = nn.Parameter(weight)
        self.visible_bias = nn.Parameter(torch.zeros(num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`x (n, num_visible)` with each entry masked on its own with probability `corruption`."""
        uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return uniform.ge_(self.corruption).mul_(x)

    def encode(self, x: Tensor) -> Tensor:
        """The codes (n, num_hidden) of `x (n, num_visible)`."""
        return self.activation(F.linear(x, self.weight, self.hidden_bias))

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of reconstructing `x (n, num_visible)` from a corrupted copy, a mean over frames and inputs."""
        codes = self.encode(self.corrupt(x, generator))
        reconstructed = torch.addmm(self.visible_bias, codes, self.weight)
        if self.reconstruction == "squared":
            return F.mse_loss(reconstructed, x)
        return F.binary_cross_entropy_with_logits(reconstructed, x)


class StackedAutoencoder(Pretrainer):
    """Denoising autoencoders trained from the bottom up, each on the codes of the layer below.

    Frames are corrupted only within the layer that trains: what a layer hands up are the codes of its clean
    input (Vincent et al. 2010, §3.3). The bottom layer, whose input is real-valued, has a linear decoder and
    squared error; those above have cross-entropy for sigmoid codes and squared error for rectified ones.

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid" or "relu".
        config: how to train.

    Attributes:
        autoencoders: the layers, bottom first; empty before `fit`.
        history: one `PretrainProgress` per epoch of each layer.

    Raises:
        InputError: no layer, an empty layer, or an unknown activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: DaeConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims))
        self.config = config
        self.autoencoders: list[DenoisingAutoencoder] = []

    def fit(self, frames: Tensor | FrameSource, *, seed: int, on_epoch: OnEpoch | None = None) -> Self:
        """Train the layers afresh, bottom first; see `Pretrainer.fit`."""
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        self.autoencoders, self.history = [], []
        for layer, num_hidden in enumerate(self.hidden_dims, start=1):
            binary = layer > 1 and self.activation == "sigmoid"
            autoencoder = DenoisingAutoencoder(
                source.dim,
                num_hidden,
                ACTIVATIONS[self.activation],
                "cross_entropy" if binary else "squared",
                self.config.corruption,
                generator=generator,
            )
            self._fit_layer(autoencoder, source, layer, generator, on_epoch)
            self.autoencoders.append(autoencoder)
            source = EncodedFrames(source, num_hidden, autoencoder.encode)
        return self

    def _fit_layer(
        self,
        autoencoder: DenoisingAutoencoder,
        source: FrameSource,
        layer: int,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
    ) -> None:
        autoencoder.to(source.take(torch.tensor([0])))
        noise = torch.Generator(autoencoder.weight.device).manual_seed(draw_seed(generator))
        optimizer = torch.optim.Adam(autoencoder.parameters(), lr=self.config.learning_rate, fused=True)
        name = LOSS_NAMES[autoencoder.reconstruction]

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            optimizer.zero_grad()
            loss = autoencoder.loss(batch, noise)
            loss.backward()
            optimizer.step()
            return {name: loss.detach()}

        self.history += run_epochs(source, step, self.config, generator, layer=layer, on_epoch=on_epoch)

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the encoders, bottom first; see `Pretrainer.hidden_layers`."""
        if not self.autoencoders:
            raise self._unfitted()
        return [linear_from(layer.weight, layer.hidden_bias) for layer in self.autoencoders]
