"""What every pretrainer shares: frames in mini-batches, the training loop, progress, and the interface.

A pretrainer learns hidden layers from frames that carry no labels, one layer after the other or all at
once, and hands them to a frame network as its starting point. It sees any `(n, dim)` tensor and knows
nothing of audio.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spkadapt.errors import DivergenceError, InputError, suggest

if TYPE_CHECKING:
    from typing_extensions import Self

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "relu": torch.relu}

# Losses are per dimension, and predicting nothing of standardised frames costs about 1.
DIVERGED_ABOVE = 1e6


@runtime_checkable
class FrameSource(Protocol):
    """Frames that are made when asked for, e.g. spliced with their neighbours on the fly.

    The model trains on the device and in the precision of what `take` returns.
    """

    @property
    def dim(self) -> int:
        """Number of dimensions of a frame."""

    def __len__(self) -> int:
        """Number of frames."""

    def take(self, indices: Tensor) -> Tensor:
        """The frames `(batch, dim)` at `indices (batch,)`, int64 on the CPU, each in `[0, len(self))`."""


class TensorFrames:
    """A `FrameSource` over frames `(n, dim)` that lie in memory; never copied as a whole.

    Raises:
        InputError: not a matrix, empty, not of floating point, or not finite.
    """

    def __init__(self, frames: Tensor) -> None:
        check_frames(frames)
        self.frames = frames.detach()

    @property
    def dim(self) -> int:
        """Number of dimensions of a frame."""
        return self.frames.shape[1]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, indices: Tensor) -> Tensor:
        """The frames `(batch, dim)` at `indices (batch,)`."""
        return self.frames.index_select(0, indices.to(self.frames.device))


class EncodedFrames:
    """A `FrameSource` of codes: each mini-batch goes through the layers below when it is asked for."""

    def __init__(self, source: FrameSource, dim: int, encode: Callable[[Tensor], Tensor]) -> None:
        self.source, self.dim, self.encode = source, dim, encode

    def __len__(self) -> int:
        return len(self.source)

    @torch.no_grad()
    def take(self, indices: Tensor) -> Tensor:
        """The codes `(batch, dim)` of the source's frames at `indices (batch,)`."""
        return self.encode(self.source.take(indices))


def check_frames(frames: Tensor) -> None:
    """Raise `InputError` unless `frames` is a finite, non-empty `(n, dim)` tensor of floating point."""
    if frames.ndim != 2 or frames.numel() == 0 or not frames.is_floating_point():
        raise InputError(
            f"frames have shape {tuple(frames.shape)} and type {frames.dtype}; "
            "expected a non-empty (n, dim) tensor of floating point"
        )
    if torch.isfinite(frames.sum()):  # one pass and no mask: NaN and infinity survive a sum
        return
    for start in range(0, len(frames), 4096):
        bad = torch.nonzero(~torch.isfinite(frames[start : start + 4096]))
        if len(bad):
            frame, dimension = bad[0].tolist()
            value = frames[start + frame, dimension].item()
            raise InputError(
                f"frames must be finite; frame {start + frame} holds {value} in dimension {dimension}"
            )


def as_frame_source(frames: Tensor | FrameSource) -> FrameSource:
    """`frames` itself where it is a `FrameSource`, else a checked `TensorFrames`."""
    if isinstance(frames, Tensor):
        return TensorFrames(frames)
    if len(frames) == 0:
        raise InputError("the frame source is empty; expected at least one frame")
    return frames


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a further, independent generator (perhaps on another device)."""
    return int(torch.randint(2**62, (), generator=generator))


def xavier_linear(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with Glorot & Bengio's (2010) uniform weights and zero bias, drawn from `generator`.

    `nn.Linear` itself would draw from the global random state.
    """
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, num_inputs, num_outputs)
    nn.init.xavier_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def linear_from(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer that holds copies of `weight (num_outputs, num_inputs)` and `bias (num_outputs,)`."""
    linear: nn.Linear = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


@dataclass(frozen=True)
class PretrainConfig:
    """What every pretrainer's configuration holds; the methods' own classes set the defaults.

    Attributes:
        learning_rate: step size of the optimiser.
        num_epochs: passes over the frames, for each layer that is trained on its own.
        batch_size: frames per update.
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 1e-3
    num_epochs: int = 10
    batch_size: int = 100
    max_frames_per_epoch: int | None = None

    def __post_init__(self) -> None:
        self.require("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        self.require("num_epochs", self.num_epochs >= 1, "a whole number of at least 1")
        self.require("batch_size", self.batch_size >= 1, "a whole number of at least 1")
        limit = self.max_frames_per_epoch
        self.require("max_frames_per_epoch", limit is None or limit >= 1, "a whole number of at least 1, or none")

    def require(self, field: str, holds: bool, expected: str) -> None:
        """Raise `InputError` naming `field`, its value and what was `expected`, unless the condition holds."""
        if not holds:
            raise InputError(f"{type(self).__name__}.{field} is {getattr(self, field)!r}; expected {expected}")


@dataclass(frozen=True)
class PretrainProgress:
    """One epoch of one layer.

    Attributes:
        layer: 1 for the bottom layer; None where all layers are trained together.
        epoch: 1 for the first.
        losses: means over the epoch's frames by name, each per dimension of the layer's input, so that they
            compare across layers: "reconstruction_error" (squared), "cross_entropy", "negative_elbo" (nats),
            "free_energy_gap" (nats, held-out frames less training frames) and its standard error.
    """

    layer: int | None
    epoch: int
    losses: Mapping[str, float]


OnEpoch = Callable[[PretrainProgress], None]
Step = Callable[[Tensor, int], Mapping[str, Tensor]]


def minibatches(source: FrameSource, config: PretrainConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch in shuffled mini-batches `(batch_size, dim)`; the last may be smaller."""
    order = torch.randperm(len(source), generator=generator)[: config.max_frames_per_epoch]
    for indices in order.split(config.batch_size):
        yield source.take(indices)


def run_epochs(
    source: FrameSource,
    step: Step,
    config: PretrainConfig,
    generator: torch.Generator,
    *,
    layer: int | None,
    on_epoch: OnEpoch | None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
) -> list[PretrainProgress]:
    """Train one model: call `step(batch, epoch)` on every mini-batch and report each epoch.

    `step` updates the model and returns its losses, scalars per dimension, as they were before the update.
    `evaluate(epoch)` adds to an epoch's losses what is measured once at its end.

    Raises:
        DivergenceError: a loss is not finite or above `DIVERGED_ABOVE`.
        InputError: the source yields frames that are not finite.
    """
    history = []
    for epoch in range(1, config.num_epochs + 1):
        totals: dict[str, float] = {}
        num_frames = 0
        for number, batch in enumerate(minibatches(source, config, generator), start=1):
            losses = {name: value.item() for name, value in step(batch, epoch).items()}
            where = f"{'all layers' if layer is None else f'layer {layer}'}, epoch {epoch}, step {number}"
            _check_losses(losses, batch, config, where)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value * len(batch)
            num_frames += len(batch)
        means = {name: total / num_frames for name, total in totals.items()}
        history.append(PretrainProgress(layer, epoch, means | dict(evaluate(epoch) if evaluate else {})))
        if on_epoch is not None:
            on_epoch(history[-1])
    return history


def _check_losses(losses: Mapping[str, float], batch: Tensor, config: PretrainConfig, where: str) -> None:
    """Tell a diverged model from frames that were bad to begin with."""
    for name, value in losses.items():
        if abs(value) <= DIVERGED_ABOVE:  # false for NaN
            continue
        check_frames(batch)
        raise DivergenceError(
            f"pretraining diverged at {where}: {name} is {value:.3g} per dimension; use a learning rate below "
            f"{config.learning_rate:g}, and standardise the frames (mean 0, variance 1 in each dimension)"
        )


class Pretrainer(ABC):
    """Hidden layers learnt from frames without labels: `Dbn`, `StackedAutoencoder` and `Vae`.

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid" or "relu", the same in every layer.
        num_epochs: passes over the frames in all, over all layers: how long `history` will be.

    Attributes:
        history: one `PretrainProgress` per epoch of each layer, in the order of training.

    Raises:
        InputError: no layer, an empty layer, or an activation that the method does not have.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, num_epochs: int) -> None:
        if not hidden_dims or min(hidden_dims) < 1:
            raise InputError(
                f"hidden_dims is {list(hidden_dims)}; expected at least one layer of at least one unit"
            )
        if activation not in ACTIVATIONS:
            raise InputError(f'unknown activation "{activation}"; {suggest(activation, ACTIVATIONS)}')
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.num_epochs = num_epochs
        self.history: list[PretrainProgress] = []

    @abstractmethod
    def fit(self, frames: Tensor | FrameSource, *, seed: int, on_epoch: OnEpoch | None = None) -> Self:
        """Train all layers afresh on `frames (n, dim)`, standardised per dimension (mean 0, variance 1).

        Args:
            frames: a tensor, which is not copied, or a `FrameSource`. The model lives on their device and in
                their precision.
            seed: the same seed on the same machine gives the same bits; global random state stays untouched.
            on_epoch: called after each epoch of each layer.

        Raises:
            InputError: frames that are not a finite `(n, dim)` tensor of floating point.
            DivergenceError: the training diverged.
        """

    @abstractmethod
    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the hidden layers, bottom first: weights `(hidden_dims[k], hidden_dims[k - 1])` and biases.

        Raises:
            InputError: called before `fit`.
        """

    @torch.no_grad()
    def transform(self, frames: Tensor) -> Tensor:
        """The codes `(n, hidden_dims[-1])` of `frames (n, dim)`: each hidden layer and its activation in turn.

        Raises:
            InputError: called before `fit`, or frames of another dimension than those of `fit`.
        """
        layers = self.hidden_layers()
        if frames.ndim != 2 or frames.shape[1] != layers[0].in_features:
            raise InputError(
                f"frames have shape {tuple(frames.shape)}; expected (n, {layers[0].in_features}) as in fit"
            )
        for linear in layers:
            frames = ACTIVATIONS[self.activation](linear(frames))
        return frames

    def _unfitted(self) -> InputError:
        return InputError(f"this {type(self).__name__} has no layers yet; call fit first")
