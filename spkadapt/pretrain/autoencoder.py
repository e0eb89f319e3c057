"""Stacked denoising autoencoders (Vincent et al. 2010)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.corruption import CORRUPTIONS, corrupt, measure_extremes
from spkadapt.pretrain.frames import EncodedFrames, FrameSource, as_frame_source, check_unit_interval
from spkadapt.pretrain.interface import (
    ACTIVATIONS,
    OnEpoch,
    PretrainConfig,
    Pretrainer,
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
        corruption: level ν: the fraction of inputs that are masked or become salt and pepper, or the standard
            deviation of Gaussian noise (Vincent et al. 2010 find 25 % masked to serve widely).
        corruption_kind: "masking", the paper's first choice, "gaussian" or "salt_and_pepper".
        tied: the decoder's weights are the encoder's transposed, which halves the parameters and rules out
            that a nearly linear code merely scales (Vincent et al. 2010); else they are its own.
        reconstruction: loss of each layer: "squared"; "cross_entropy", for values in [0, 1]; or "matched", squared
            for frames and rectified codes, which are unbounded, and cross-entropy for sigmoid codes.

    Raises:
        InputError: a value out of its range.
    """

    corruption: float = 0.25
    corruption_kind: Literal["masking", "gaussian", "salt_and_pepper"] = "masking"
    tied: bool = True
    reconstruction: Literal["matched", "squared", "cross_entropy"] = "matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds, losses = ", ".join(CORRUPTIONS), ("matched", *LOSS_NAMES)
        self.require("corruption_kind", self.corruption_kind in CORRUPTIONS, f"one of {kinds}")
        if self.corruption_kind == "gaussian":
            self.require("corruption", 0 <= self.corruption < float("inf"), "a standard deviation of at least 0")
        else:
            self.require("corruption", 0 <= self.corruption < 1, "a fraction from 0 to below 1")
        self.require("reconstruction", self.reconstruction in losses, f"one of {', '.join(losses)}")

    def loss_of_layer(self, layer: int, activation: str) -> str:
        """The loss of `layer`, counted from 1, in a stack of `activation` units: a key of `LOSS_NAMES`."""
        if self.reconstruction != "matched":
            return self.reconstruction
        return "cross_entropy" if layer > 1 and activation == "sigmoid" else "squared"


class DenoisingAutoencoder(nn.Module):
    """One layer: h = s(Wx̃ + c), x̂ = Vᵀh + b, where x̃ is a corrupted x, and V = W if the weights are tied.

    With s sigmoid, tied weights, Gaussian corruption of standard deviation ν and squared loss, d · loss / (2ν⁴) is
    the denoising score-matching objective of the energy (½‖x‖² − bᵀx − Σ_j softplus(W_j x + c_j)) / ν²
    (Vincent 2011).

    Args:
        num_visible: inputs, d.
        num_hidden: codes.
        activation: s, of the codes.
        reconstruction: "squared" for Σ (x̂ − x)², or "cross_entropy" for inputs in [0, 1], where the decoder
            ends in a sigmoid: −Σ x log σ(x̂) + (1 − x) log(1 − σ(x̂)), the Kullback-Leibler divergence but for
            the entropy of x.
        corruption: level ν of the corruption; see `corruption.corrupt`.
        corruption_kind: one of `CORRUPTIONS`. A mask sets 0, which is the mean of a standardised input.
        tied: whether V is W.
        generator: draws the weights (Glorot & Bengio 2010).

    Attributes:
        weight: W, (num_hidden, num_visible)
        decoder_weight: V, (num_hidden, num_visible); None if tied.
        visible_bias: b, (num_visible,)
        hidden_bias: c, (num_hidden,)
        extremes: what salt and pepper sets, (2, num_visible): 0 and 1 unless they are set otherwise.

    Raises:
        InputError: an unknown reconstruction or corruption.
    """

    extremes: Tensor

    def __init__(
        self,
        num_visible: int,
        num_hidden: int,
        activation: Callable[[Tensor], Tensor],
        reconstruction: str,
        corruption: float,
        *,
        corruption_kind: str = "masking",
        tied: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if reconstruction not in LOSS_NAMES:
            raise InputError(f'unknown reconstruction "{reconstruction}"; {suggest(reconstruction, LOSS_NAMES)}')
        if corruption_kind not in CORRUPTIONS:
            raise InputError(f'unknown corruption "{corruption_kind}"; {suggest(corruption_kind, CORRUPTIONS)}')
        self.activation, self.reconstruction = activation, reconstruction
        self.corruption, self.corruption_kind = corruption, corruption_kind

        def draw() -> nn.Parameter:
            weight = torch.empty(num_hidden, num_visible)
            return nn.Parameter(nn.init.xavier_uniform_(weight, generator=generator))

        self.weight = draw()
        self.decoder_weight = None if tied else draw()
        self.visible_bias = nn.Parameter(torch.zeros(num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))
        self.register_buffer("extremes", torch.tensor([[0.0], [1.0]]).repeat(1, num_visible))

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`x (n, num_visible)` with each entry corrupted on its own; see `corruption.corrupt`."""
        return corrupt(self.corruption_kind, x, self.corruption, self.extremes, generator)

    def encode(self, x: Tensor) -> Tensor:
        """The codes (n, num_hidden) of `x (n, num_visible)`."""
        return self.activation(F.linear(x, self.weight, self.hidden_bias))

    def decode(self, codes: Tensor) -> Tensor:
        """x̂, (n, num_visible), of `codes (n, num_hidden)`; before the sigmoid, if the loss is cross-entropy."""
        decoder_weight = self.weight if self.decoder_weight is None else self.decoder_weight
        return torch.addmm(self.visible_bias, codes, decoder_weight)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of reconstructing `x (n, num_visible)` from a corrupted copy, a mean over frames and inputs."""
        return self.denoising_loss(x, self.corrupt(x, generator))

    def denoising_loss(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """Loss of reconstructing `x` from `corrupted`, each (n, num_visible), a mean over frames and inputs."""
        reconstructed = self.decode(self.encode(corrupted))
        if self.reconstruction == "squared":
            return F.mse_loss(reconstructed, x)
        return F.binary_cross_entropy_with_logits(reconstructed, x)


class StackedAutoencoder(Pretrainer):
    """Denoising autoencoders trained from the bottom up, each on the codes of the layer below.

    Frames are corrupted only within the layer that trains: what a layer hands up are the codes of its clean
    input (Vincent et al. 2010).

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid" or "relu".
        config: how to train.

    Attributes:
        autoencoders: the layers, bottom first; empty before `fit`.
        history: one `PretrainProgress` per epoch of each layer.

    Raises:
        InputError: no layer, an empty layer, an unknown activation, or cross-entropy of rectified codes.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: DaeConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims))
        if activation == "relu" and config.reconstruction == "cross_entropy" and len(hidden_dims) > 1:
            raise InputError(
                'DaeConfig.reconstruction is "cross_entropy", and rectified codes, which layer 2 reconstructs, '
                'have no upper end; use "matched" or "squared", or sigmoid units'
            )
        self.config = config
        self.autoencoders: list[DenoisingAutoencoder] = []

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the layers afresh, bottom first; see `Pretrainer.fit`.

        With cross-entropy in the bottom layer, frames outside [0, 1] are an `InputError`.
        """
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        self.autoencoders, self.history = [], []
        saved = self._open_checkpoint(checkpoint, source, seed, self.config, {"generator": generator})
        for layer, num_hidden in enumerate(self.hidden_dims, start=1):
            autoencoder = DenoisingAutoencoder(
                source.dim,
                num_hidden,
                ACTIVATIONS[self.activation],
                self.config.loss_of_layer(layer, self.activation),
                self.config.corruption,
                corruption_kind=self.config.corruption_kind,
                tied=self.config.tied,
                generator=generator,
            )
            self._fit_layer(autoencoder, source, layer, generator, on_epoch, saved)
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
        saved: Checkpoint,
    ) -> None:
        autoencoder.to(source.take(torch.tensor([0])))
        noise = torch.Generator(autoencoder.weight.device).manual_seed(draw_seed(generator))
        cross_entropy = autoencoder.reconstruction == "cross_entropy"
        if autoencoder.corruption_kind == "salt_and_pepper" and not cross_entropy:
            autoencoder.extremes.copy_(measure_extremes(source, generator))
        optimizer = torch.optim.Adam(autoencoder.parameters(), lr=self.config.learning_rate, fused=True)
        name = LOSS_NAMES[autoencoder.reconstruction]

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            if cross_entropy and layer == 1:  # sigmoid codes lie within by themselves
                check_unit_interval(batch, "cross-entropy reconstruction")
            optimizer.zero_grad()
            loss = autoencoder.loss(batch, noise)
            loss.backward()
            optimizer.step()
            return {name: loss.detach()}

        self.history += run_epochs(
            source,
            step,
            self.config,
            generator,
            layer=layer,
            on_epoch=on_epoch,
            state={"autoencoder": autoencoder, "optimizer": optimizer, "noise": noise},
            checkpoint=saved,
        )

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the encoders, bottom first; see `Pretrainer.hidden_layers`."""
        if not self.autoencoders:
            raise self._unfitted()
        return [linear_from(layer.weight, layer.hidden_bias) for layer in self.autoencoders]

    def softmax_network(self, num_classes: int) -> nn.Sequential:
        """The stack with a softmax layer on top, to fine-tune with labels (Vincent et al. 2010).

        log p(y | x) = log softmax(U h_L + d)_y, where h_L are the codes of clean x; its negative mean is
        `torch.nn.functional.cross_entropy` of the network's output. U and d start at zero, so that every class is
        equally probable at first, and what the stack has learnt alone decides where the first step leads.

        Args:
            num_classes: labels, at least 2.

        Returns:
            A network from `(n, dim)` to logits `(n, num_classes)`, all of it copied and trainable.

        Raises:
            InputError: fewer than two classes, or called before `fit`.
        """
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; a softmax layer tells at least 2 apart")
        layers = self.hidden_layers()
        top = layers[-1].weight
        unit = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[self.activation]
        softmax = linear_from(top.new_zeros(num_classes, len(top)), top.new_zeros(num_classes))
        return nn.Sequential(*(module for linear in layers for module in (linear, unit())), softmax)
