"""What every pretrainer shares: frames in mini-batches, the training loop, progress, and the interface.

A pretrainer learns hidden layers from frames that carry no labels, one layer after the other or all at
once, and hands them to a frame network as its starting point. It sees any `(n, dim)` tensor and knows
nothing of audio.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spkadapt.errors import DivergenceError, InputError, suggest
from spkadapt.pretrain.checkpoint import Checkpoint, Stateful
from spkadapt.pretrain.frames import (
    EncodedFrames,
    FrameSource,
    TensorFrames,
    as_frame_source,
    check_frames,
    check_unit_interval,
    frames_digest,
    index_batches,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ACTIVATIONS",
    "DIVERGED_ABOVE",
    "EncodedFrames",
    "FrameSource",
    "OnEpoch",
    "PretrainConfig",
    "PretrainProgress",
    "Pretrainer",
    "TensorFrames",
    "as_frame_source",
    "check_frames",
    "check_unit_interval",
    "draw_seed",
    "linear_from",
    "minibatches",
    "run_epochs",
    "xavier_linear",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "relu": torch.relu}

# Losses are per dimension, and predicting nothing of standardised frames costs about 1.
DIVERGED_ABOVE = 1e6


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
    return map(source.take, index_batches(source, config.batch_size, config.max_frames_per_epoch, generator))


@dataclass
class _Position:
    """Where a training loop stands, in plain values and tensors.

    Attributes:
        history: the epochs that have ended.
        order: the generator's state from which the present epoch's order was drawn.
        num_batches, num_frames: seen in the present epoch.
        totals: losses by name, summed over the present epoch's frames.
    """

    history: list[PretrainProgress] = field(default_factory=list)
    order: Tensor | None = None
    num_batches: int = 0
    num_frames: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, saved: dict[str, Any]) -> _Position:
        """The position that `dump` gave, or the start."""
        history = [PretrainProgress(**epoch) for epoch in saved.get("history", ())]
        return cls(**{**saved, "history": history})

    def dump(self) -> dict[str, Any]:
        """What `load` takes."""
        return {**vars(self), "history": [asdict(epoch) for epoch in self.history], "totals": dict(self.totals)}

    def batches_left(
        self, source: FrameSource, config: PretrainConfig, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """The batches of the present epoch that have not been seen."""
        now = generator.get_state()
        generator.set_state(now if self.order is None else self.order)
        self.order = generator.get_state()
        indices = index_batches(source, config.batch_size, config.max_frames_per_epoch, generator)
        if self.num_batches:
            generator.set_state(now)  # the order had been drawn, and perhaps more since
        return map(source.take, islice(indices, self.num_batches, None))

    def count(self, losses: Mapping[str, float], num_frames: int) -> None:
        """Count one batch."""
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * num_frames
        self.num_batches += 1
        self.num_frames += num_frames

    def end_epoch(self, progress: PretrainProgress) -> None:
        """Enter the next epoch."""
        self.history.append(progress)
        self.order, self.num_batches, self.num_frames, self.totals = None, 0, 0, {}


def run_epochs(
    source: FrameSource,
    step: Step,
    config: PretrainConfig,
    generator: torch.Generator,
    *,
    layer: int | None,
    on_epoch: OnEpoch | None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    state: Mapping[str, Stateful] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[PretrainProgress]:
    """Train one model: call `step(batch, epoch)` on every mini-batch and report each epoch.

    Args:
        source: the frames.
        step: updates the model and returns its losses, scalars per dimension, as they were before the update.
        config: the passes and batches.
        generator: decides the order of the frames.
        layer: what progress and errors name; None for all layers.
        on_epoch: called after each epoch, first of all for those that a checkpoint holds.
        evaluate: `evaluate(epoch)` adds to an epoch's losses what is measured once at its end.
        state: all that `step` and `source` change, by name: model, optimiser, generators of noise.
        checkpoint: this loop is its next phase; saved after each epoch, and each minute within one.

    Raises:
        DivergenceError: a loss is not finite or above `DIVERGED_ABOVE`, or a parameter of `state` is not finite.
        InputError: the source yields frames that are not finite.
    """
    state, checkpoint = dict(state or {}), checkpoint or Checkpoint()
    place = "all layers" if layer is None else f"layer {layer}"
    position = _Position.load(checkpoint.begin({**state, "order of frames": generator}))
    if on_epoch is not None:
        for progress in position.history:
            on_epoch(progress)
    while (epoch := len(position.history) + 1) <= config.num_epochs:
        for batch in position.batches_left(source, config, generator):
            losses = {name: value.item() for name, value in step(batch, epoch).items()}
            where = f"{place}, epoch {epoch}, step {position.num_batches + 1}"
            _check_losses(losses, batch, config, where)
            position.count(losses, len(batch))
            checkpoint.save_if_due(position.dump)
        _check_parameters(state, config, f"{place}, epoch {epoch}, step {position.num_batches}")
        means = {name: total / position.num_frames for name, total in position.totals.items()}
        progress = PretrainProgress(layer, epoch, means | dict(evaluate(epoch) if evaluate else {}))
        position.end_epoch(progress)
        checkpoint.save(position.dump(), ended=epoch == config.num_epochs)
        if on_epoch is not None:
            on_epoch(progress)
    return position.history


def _check_losses(losses: Mapping[str, float], batch: Tensor, config: PretrainConfig, where: str) -> None:
    """Tell a diverged model from frames that were bad to begin with."""
    for name, value in losses.items():
        if abs(value) <= DIVERGED_ABOVE:  # false for NaN
            continue
        check_frames(batch)
        raise _diverged(where, f"{name} is {value:.3g} per dimension", config)


def _check_parameters(state: Mapping[str, Stateful], config: PretrainConfig, where: str) -> None:
    """A loss is of the model before its update, and some losses are bounded: the parameters tell the rest."""
    for name, model in state.items():
        for parameter, value in model.named_parameters() if isinstance(model, nn.Module) else ():
            if not torch.isfinite(value.detach().sum()) and not torch.isfinite(value).all():
                raise _diverged(where, f'the parameter "{parameter}" of the {name} is not finite', config)


def _diverged(where: str, what: str, config: PretrainConfig) -> DivergenceError:
    return DivergenceError(
        f"pretraining diverged at {where}: {what}; use a learning rate below {config.learning_rate:g}, "
        "and standardise the frames (mean 0, variance 1 in each dimension)"
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
        self._checkpoint: Checkpoint | None = None

    @abstractmethod
    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train all layers afresh on `frames (n, dim)`, standardised per dimension (mean 0, variance 1).

        Args:
            frames: a tensor, which is not copied, or a `FrameSource`. The model lives on their device and in
                their precision.
            seed: the same seed on the same machine gives the same bits; global random state stays untouched.
            on_epoch: called after each epoch of each layer, first of all for those that `checkpoint` holds.
            checkpoint: a file to go on from if it is there, and to keep after each epoch, and each minute within
                one. A training that was killed and is started again ends with the same bits as one that was not.
                The file stays when the training has ended.

        Raises:
            InputError: frames that are not a finite `(n, dim)` tensor of floating point; a checkpoint of other
                frames, settings or seed, or a file that is none.
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

    def _open_checkpoint(
        self,
        path: Path | None,
        source: FrameSource,
        seed: int,
        config: PretrainConfig,
        shared: Mapping[str, Stateful],
    ) -> Checkpoint:
        """The checkpoint of one `fit`: its phases are the calls of `run_epochs` that it is given to.

        Args:
            path, source, seed: as `fit` has them.
            config: how it trains.
            shared: the generators that `fit` draws from between the phases, or that several phases draw from.
        """
        settings = {
            "pretrainer": type(self).__name__,
            "hidden_dims": self.hidden_dims,
            "activation": self.activation,
            "seed": seed,
            **asdict(config),
        }
        if path is not None:
            settings["frames"] = frames_digest(source)
        self._checkpoint = Checkpoint(path, settings, shared)
        return self._checkpoint

    @property
    def seconds(self) -> float:
        """How long `fit` took, with the time before an interruption from which it went on; 0 before `fit`."""
        return self._checkpoint.seconds if self._checkpoint else 0.0

    def _unfitted(self) -> InputError:
        return InputError(f"this {type(self).__name__} has no layers yet; call fit first")
