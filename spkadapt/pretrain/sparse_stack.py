"""What dense and convolutional sparse coding share: a layer's codes and losses, and the stack on top of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.fista import fista
from spkadapt.pretrain.frames import EncodedFrames, FrameSource, as_frame_source, check_frames, index_batches
from spkadapt.pretrain.interface import OnEpoch, PretrainConfig, Pretrainer, linear_from, run_epochs

if TYPE_CHECKING:
    from typing_extensions import Self

# Mean and variance of codes are measured on so many frames, in batches.
NUM_FRAMES_FOR_MOMENTS, MOMENTS_BATCH = 16384, 1024


@dataclass(frozen=True)
class SparseConfig(PretrainConfig):
    """How each layer of sparse codes is trained.

    Attributes:
        learning_rate: weight of a mini-batch among those before it, at most 1; see `SparseLayer.update`. To weigh
            all of them the same keeps for long the codes of the first, bad dictionaries, for which Mairal et al.
            (2009) let the past fade too.
        num_epochs: passes over the frames for each layer.
        batch_size: frames per update.
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        penalty: λ. Mairal et al. (2009) take 1.2/√m for patches of m pixels scaled to norm 1; standardised frames
            have norm √m, and so 1.2 is the same.
        num_iterations: steps of FISTA for each mini-batch. With 50, random frames of 30 dimensions and 60 atoms
            are within 1e-4 of the optimality conditions.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.1
    penalty: float = 1.2
    num_iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("learning_rate", self.learning_rate <= 1, "at most 1, a whole step")
        self.require("penalty", 0 < self.penalty < math.inf, "a number above 0")
        self.require("num_iterations", self.num_iterations >= 1, "a whole number of at least 1")


class SparseLayer(nn.Module, ABC):
    """x ≈ Dz with few z ≠ 0: F(x, z) = ½‖x − Dz‖² + λ‖z‖₁, atoms (columns of D) of norm 1.

    Inputs are `(n, num_visible)` and codes `(n, num_codes)`, whatever shape the layer gives them within.

    Args:
        num_visible, num_codes: dimensions of x and z.
        penalty: λ.
        num_iterations: steps of FISTA.
        nonnegative: whether z ≥ 0; else codes have a sign.

    Raises:
        InputError: an empty dimension, a penalty that is not above 0, or no iteration.
    """

    def __init__(
        self, num_visible: int, num_codes: int, penalty: float, num_iterations: int, *, nonnegative: bool = True
    ) -> None:
        super().__init__()
        for name, value in (("dimensions", num_visible), ("codes", num_codes), ("iterations", num_iterations)):
            if value < 1:
                raise InputError(f"found {value} {name}; sparse coding needs at least 1")
        if not 0 < penalty < math.inf:
            raise InputError(f"penalty is {penalty}; expected a number above 0")
        self.num_visible, self.num_codes = num_visible, num_codes
        self.penalty, self.num_iterations, self.nonnegative = penalty, num_iterations, nonnegative

    @abstractmethod
    def start_from(self, examples: Tensor, generator: torch.Generator) -> None:
        """Set the atoms to `examples (m, num_visible)`, or parts of them, with a tenth of noise on top.

        Random examples are a usual start (Mairal et al. 2009); the noise parts two that are the same, and is
        the whole of those atoms for which there is no example.
        """

    @abstractmethod
    def correlate(self, x: Tensor) -> Tensor:
        """Dᵀx, (n, num_codes), of `x (n, num_visible)`."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Dz, (n, num_visible), of `codes (n, num_codes)`."""

    @abstractmethod
    def gram(self) -> tuple[Callable[[Tensor], Tensor], float]:
        """z → DᵀDz on codes (n, num_codes), and a bound on its largest eigenvalue."""

    @abstractmethod
    def update(self, x: Tensor, codes: Tensor, weight: float) -> None:
        """Move the atoms towards those that minimise F(x, codes), and scale them to norm 1.

        Args:
            x, codes: a mini-batch.
            weight: how far: with 1, F does not increase on this mini-batch; with less, those before count too.
        """

    def share(self, values: Tensor) -> Tensor:
        """`values (num_codes,)`, made equal among codes that are to be treated alike."""
        return values

    @torch.no_grad()
    def encode(self, x: Tensor, *, num_iterations: int | None = None, tolerance: float = 0.0) -> Tensor:
        """The codes argmin_z F(x, z), (n, num_codes), of `x (n, num_visible)`.

        Args:
            x: input.
            num_iterations: the most steps of FISTA; None for the layer's own number.
            tolerance: stop once every sample is that near to the optimality conditions; see `fista`.
        """
        apply, lipschitz = self.gram()
        return fista(
            apply,
            self.correlate(x),
            self.penalty,
            lipschitz,
            nonnegative=self.nonnegative,
            num_iterations=num_iterations or self.num_iterations,
            tolerance=tolerance,
        )

    def objective(self, x: Tensor, codes: Tensor) -> Tensor:
        """F(x, codes) of each sample, (n,)."""
        return (x - self.decode(codes)).square().sum(dim=1) / 2 + self.penalty * codes.abs().sum(dim=1)

    @torch.no_grad()
    def step(self, x: Tensor, weight: float) -> dict[str, Tensor]:
        """Code one mini-batch and update the atoms; the losses per dimension, as they were before."""
        codes = self.encode(x)
        squared = (x - self.decode(codes)).square().mean()
        objective = squared / 2 + self.penalty * codes.abs().sum() / x.numel()
        self.update(x, codes, weight)
        return {"sparse_objective": objective, "reconstruction_error": squared}

    def dense(self) -> Tensor:
        """Dᵀ as a matrix, (num_codes, num_visible)."""
        identity = torch.eye(self.num_codes).to(next(self.parameters()))
        return self.decode(identity)

    def hidden_layer(self) -> nn.Linear:
        """The one-step encoder: W = Dᵀ and bias −λ, so that relu(Wx + b) = relu(Dᵀx − λ).

        From z = 0, one step of ISTA gives relu(Dᵀx − λ) / L: the unit fires for the atoms that enter the code at
        once. Where the atoms are orthonormal, L = 1 and that is argmin_z F(x, z); elsewhere it is the code without
        explaining away, and what Gregor & LeCun (2010) begin to learn from.

        Raises:
            InputError: codes with a sign, which rectified units cannot give.
        """
        if not self.nonnegative:
            raise InputError("these codes have a sign, and rectified units cannot give it; use nonnegative codes")
        weight = self.dense()
        return linear_from(weight, weight.new_full((self.num_codes,), -self.penalty))


class SparseStack(Pretrainer):
    """Layers of non-negative sparse codes, each on the codes of the one below, trained from the bottom up.

    z₁ = argmin F₁(x, z), and z_{k+1} = argmin F_{k+1}((z_k − m_k) / s_k, z): every layer sees an input that is
    standardised as the frames are, with mean m_k and deviation s_k of each code, so that one λ serves them all.

    The frame network has one step in place of each minimisation: h₁ = relu(D₁ᵀx − λ) and
    h_{k+1} = relu(D_{k+1}ᵀ (h_k − m'_k) / s'_k − λ), where m'_k and s'_k are those of h_k. The standardisation is
    affine, and lies within the weights and biases of the layer above it.

    Attributes:
        layers: the sparse layers, bottom first; empty before `fit`.
        history: one `PretrainProgress` per epoch of each layer.
    """

    def __init__(self, hidden_dims: tuple[int, ...], activation: str, config: SparseConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims))
        self.config = config
        self.layers: list[SparseLayer] = []
        self._inputs: list[tuple[Tensor, Tensor]] = []
        self._network: list[nn.Linear] = []

    @abstractmethod
    def _build_layer(self, layer: int, num_visible: int) -> SparseLayer:
        """An untrained layer, counted from 1, on inputs of `num_visible` dimensions."""

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the layers afresh, bottom first; see `Pretrainer.fit`.

        The layers below code each mini-batch anew: the k-th layer takes about k times as long as the first.
        """
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        saved = self._open_checkpoint(checkpoint, source, seed, self.config, {"generator": generator})
        self.layers, self._inputs, self._network, self.history = [], [], [], []
        codes, passed = source, source
        for number in range(1, len(self.hidden_dims) + 1):
            layer = self._build_layer(number, source.dim if number == 1 else codes.dim)
            codes = self._standardised(codes, generator)
            self._fit_layer(layer, number, codes, generator, on_epoch, saved)
            linear = self._one_step(layer, passed, generator)
            self.layers.append(layer)
            self._network.append(linear)
            codes = EncodedFrames(codes, layer.num_codes, layer.encode)
            passed = EncodedFrames(passed, layer.num_codes, _rectified(linear))
        return self

    def _standardised(self, codes: FrameSource, generator: torch.Generator) -> FrameSource:
        """What the next layer trains on; the frames themselves come standardised."""
        if not self.layers:
            return codes
        mean, scale = _moments(codes, self.layers[-1].share, generator)
        self._inputs.append((mean, scale))
        return EncodedFrames(codes, codes.dim, lambda x: (x - mean) / scale)

    def _one_step(self, layer: SparseLayer, passed: FrameSource, generator: torch.Generator) -> nn.Linear:
        """The layer of the frame network, on the codes that the network's layers below hand up."""
        linear = layer.hidden_layer()
        if not self.layers:
            return linear
        mean, scale = _moments(passed, self.layers[-1].share, generator)
        weight = linear.weight.detach() / scale
        return linear_from(weight, linear.bias.detach() - weight @ mean)

    def _fit_layer(
        self,
        layer: SparseLayer,
        number: int,
        source: FrameSource,
        generator: torch.Generator,
        on_epoch: OnEpoch | None,
        saved: Checkpoint,
    ) -> None:
        chosen = next(index_batches(source, layer.num_codes, layer.num_codes, generator))
        examples = source.take(chosen)
        check_frames(examples)
        layer.to(examples)
        layer.start_from(examples, generator)
        self.history += run_epochs(
            source,
            lambda batch, epoch: layer.step(batch, self.config.learning_rate),
            self.config,
            generator,
            layer=number,
            on_epoch=on_epoch,
            state={"layer": layer},
            checkpoint=saved,
        )

    @torch.no_grad()
    def encode(self, frames: Tensor, *, tolerance: float = 0.0) -> Tensor:
        """The sparse codes z_K (n, hidden_dims[-1]) of `frames (n, dim)`, each layer's by FISTA.

        `transform` gives h_K instead, the one-step codes that the frame network computes.

        Args:
            frames: as in `fit`.
            tolerance: see `SparseLayer.encode`.

        Raises:
            InputError: called before `fit`, or frames of another dimension than those of `fit`.
        """
        self._check_dim(frames)
        for number, layer in enumerate(self.layers):
            if number:
                mean, scale = self._inputs[number - 1]
                frames = (frames - mean) / scale
            frames = layer.encode(frames, tolerance=tolerance)
        return frames

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """What `codes (n, hidden_dims[-1])` of the top layer stand for in the input, (n, dim).

        Raises:
            InputError: called before `fit`.
        """
        if not self.layers:
            raise self._unfitted()
        for number in reversed(range(len(self.layers))):
            codes = self.layers[number].decode(codes)
            if number:
                mean, scale = self._inputs[number - 1]
                codes = codes * scale + mean
        return codes

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the one-step encoders, bottom first; see `Pretrainer.hidden_layers`."""
        if not self._network:
            raise self._unfitted()
        return [linear_from(linear.weight, linear.bias) for linear in self._network]

    def _check_dim(self, frames: Tensor) -> None:
        if not self.layers:
            raise self._unfitted()
        dim = self.layers[0].num_visible
        if frames.ndim != 2 or frames.shape[1] != dim:
            raise InputError(f"frames have shape {tuple(frames.shape)}; expected (n, {dim}) as in fit")


def _rectified(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.relu(linear(x))


def _moments(
    source: FrameSource, share: Callable[[Tensor], Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension, the latter 1 where it is constant; summed in float64.

    Args:
        source: the frames, of which at most `NUM_FRAMES_FOR_MOMENTS` are taken.
        share: makes the moments of dimensions equal that are to be treated alike.
        generator: decides which.
    """
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for indices in index_batches(source, MOMENTS_BATCH, NUM_FRAMES_FOR_MOMENTS, generator):
        batch = source.take(indices)
        wide = batch.double()
        total, squares, count = total + wide.sum(dim=0), squares + wide.square().sum(dim=0), count + len(batch)
    mean, mean_square = share(total / count), share(squares / count)
    variance = mean_square - mean.square()
    scale = torch.where(variance > 1e-12 * mean_square, variance.clamp(min=0).sqrt(), 1.0)
    return mean.to(batch), scale.to(batch)
