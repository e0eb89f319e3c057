"""The one training loop."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch.utils.tensorboard import SummaryWriter

from spkadapt.adapt import MultiTaskObjective
from spkadapt.batches import SourceBatch, SourceBatches, TargetDomainBatch, TargetDomainBatches, step_generator
from spkadapt.errors import DivergenceError, InputError, suggest
from spkadapt.files import atomic_path

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_STREAM = 2


@dataclass(frozen=True)
class TrainConfig:
    """How the objective is minimised: AdamW (Loshchilov & Hutter, 2019) under a one-cycle learning rate.

    Attributes:
        num_steps: optimiser steps.
        batch_size: crops of each domain a step.
        crops_per_speaker: of the source domain, in one batch; a divisor of `batch_size`.
        crop_frames: frames a crop.
        learning_rate: the peak, reached after `warmup` of all steps, then annealed along a cosine.
        warmup: a fraction of the steps.
        weight_decay: AdamW's.
        max_gradient_norm: gradients are scaled down to this norm.
        precision: `float32`, `bfloat16` or `float16` (on a GPU); losses are always computed in float32.
        device: `cpu`, `cuda`, `cuda:1`, …
        log_every: steps that one logged value averages over.
        checkpoint_every: steps between checkpoints.
    """

    num_steps: int = 1000
    batch_size: int = 64
    crops_per_speaker: int = 1
    crop_frames: int = 200
    learning_rate: float = 1e-3
    warmup: float = 0.2
    weight_decay: float = 1e-2
    max_gradient_norm: float = 5.0
    precision: str = "float32"
    device: str = "cpu"
    log_every: int = 20
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f'unknown precision "{self.precision}"; {suggest(self.precision, PRECISIONS)}')
        counts = ("num_steps", "batch_size", "crops_per_speaker", "crop_frames", "log_every", "checkpoint_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "max_gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected a number > 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}; expected a number ≥ 0")
        if self.batch_size < 2:
            raise InputError("batch_size is 1; batch normalisation needs at least 2")
        if self.batch_size % self.crops_per_speaker:
            raise InputError(
                f"crops_per_speaker is {self.crops_per_speaker}; expected a divisor of {self.batch_size}"
            )
        if not 0 < self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}; expected a fraction between 0 and 1")
        check_device(self.device)
        if self.precision == "float16" and torch.device(self.device).type == "cpu":
            raise InputError('float16 needs a GPU; on a CPU use "float32" or "bfloat16"')


def check_device(device: str) -> None:
    """Raise `InputError` unless this machine has the device: `cpu`, or a GPU that PyTorch sees."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f'there is no device "{device}"; expected cpu, cuda, cuda:1, …')
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise InputError(f'device is "{device}", and this machine has no GPU that PyTorch sees; use "cpu"')
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise InputError(f'device is "{device}", and this machine has {torch.cuda.device_count()} GPUs')


@dataclass(frozen=True)
class LoggedStep:
    """The terms of the objective, averaged over the steps since the last one logged."""

    step: int
    terms: dict[str, float]


@dataclass(frozen=True)
class TrainOutcome:
    """What was logged, and the wall time of all steps in seconds, those before an interruption included."""

    history: tuple[LoggedStep, ...]
    seconds: float


def train(
    objective: MultiTaskObjective,
    source: SourceBatches | None,
    target_domain: TargetDomainBatches | None,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainOutcome:
    """Minimise the objective; leave it trained.

    The state is checkpointed to `folder/checkpoint.pt`; a run that finds one goes on from it and ends with the
    same weights as if it had never stopped. TensorBoard scalars go to `folder/tensorboard`.

    Args:
        objective: trained in place.
        source, target_domain: where batches come from. Where the source is absent, `source` is asked before the
            first step, by terms that remember it, and no more; it may be None where there is none. `target_domain`
            is asked only while some λ is above zero.
        config: how to train.
        seed: of the draws that the network itself makes (dropout).
        folder: for the checkpoint and the scalars.
        on_step: called after each step with the number of steps done and the terms last logged.

    Raises:
        DivergenceError: a term stopped being finite; names the step and the terms.
        InputError: the checkpoint is another run's.
    """
    objective.to(config.device).train()
    state = _TrainingState(objective, config, seed)
    state.resume(folder / "checkpoint.pt")
    source = _source_of_steps(objective, source, state.step)
    num_rounds = objective.config.rounds
    rounds = {number * config.num_steps // num_rounds for number in range(num_rounds)}
    with SummaryWriter(str(folder / "tensorboard"), purge_step=state.step) as writer:
        while state.step < config.num_steps:
            start = time.monotonic()
            # Drawn from (seed, step), so that a resumed run draws what the unbroken one would have.
            torch.manual_seed(step_generator(seed, MODEL_STREAM, state.step).initial_seed())
            weights = objective.weights(state.step / config.num_steps)
            labelled = None if source is None else source.batch(state.step)
            unlabelled = None
            if target_domain is not None and objective.has_rounds and state.step in rounds:
                objective.start_round(target_domain.whole_pool())
            if target_domain is not None and any(weights.values()):
                unlabelled = target_domain.batch(state.step)
            state.take_step(labelled, unlabelled, weights)
            state.seconds += time.monotonic() - start
            if state.step % config.log_every == 0 or state.step == config.num_steps:
                for name, value in state.log().terms.items():
                    writer.add_scalar(name, value, state.step)
            if state.step % config.checkpoint_every == 0:
                state.save(folder / "checkpoint.pt")
            if on_step is not None:
                on_step(state.step, state.history[-1].terms if state.history else {})
    objective.eval()
    return TrainOutcome(tuple(state.history), state.seconds)


def _source_of_steps(
    objective: MultiTaskObjective, source: SourceBatches | None, step: int
) -> SourceBatches | None:
    """What steps may ask for of the source, once the terms that remember it have seen it."""
    if source is not None and objective.remembers_source and step == 0:
        objective.remember_source(source.whole())
    return None if objective.config.source == "absent" else source


class _TrainingState:
    """Everything that a step changes, which is what a checkpoint holds."""

    def __init__(self, objective: MultiTaskObjective, config: TrainConfig, seed: int) -> None:
        self.objective = objective
        self.config = config
        self._settings = {"train": asdict(config), "adapt": asdict(objective.config), "seed": seed}
        self.step = 0
        self.seconds = 0.0
        self.history: list[LoggedStep] = []
        self._recent: list[dict[str, float]] = []
        self._parameters = [item for item in objective.parameters() if item.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        # OneCycleLR divides by zero where the warm-up is exactly its first step; a shade less, and it has none.
        one_step = config.warmup * config.num_steps == 1
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            config.learning_rate,
            total_steps=config.num_steps,
            pct_start=config.warmup * (1 - 1e-6) if one_step else config.warmup,
        )
        self._scaler = torch.amp.GradScaler(enabled=config.precision == "float16")

    def take_step(
        self, source: SourceBatch | None, target_domain: TargetDomainBatch | None, weights: Mapping[str, float]
    ) -> None:
        """One step of the optimiser."""
        device = self.config.device
        mixed = self.config.precision != "float32"
        source = None if source is None else source.to(device)
        target_domain = None if target_domain is None else target_domain.to(device)
        with torch.autocast(torch.device(device).type, PRECISIONS[self.config.precision], enabled=mixed):
            terms = self.objective(source, target_domain, weights)
        values = {name: value.item() for name, value in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise DivergenceError(
                f"training diverged at step {self.step + 1}: "
                f"{', '.join(f'{name} is {value:g}' for name, value in values.items())}; lower "
                f"train.learning_rate ({self.config.learning_rate:g}) or a weight of adapt.terms"
            )
        # Each term is differentiated by itself, which is dear: once for each entry of the log.
        conflicts = self.objective.conflicts(terms) if (self.step + 1) % self.config.log_every == 0 else {}
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(terms["total"]).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_gradient_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self.objective.after_step()
        self.step += 1
        lambdas = {f"weight/{name}": weight for name, weight in weights.items()}
        self._recent.append({**values, **lambdas, **conflicts})

    def log(self) -> LoggedStep:
        """Average the terms since the last call into the history."""
        names = dict.fromkeys(name for terms in self._recent for name in terms)
        values = {name: [terms[name] for terms in self._recent if name in terms] for name in names}
        self.history.append(LoggedStep(self.step, {name: fmean(items) for name, items in values.items()}))
        self._recent = []
        return self.history[-1]

    def save(self, path: Path) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "settings": self._settings,
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(logged) for logged in self.history],
            "recent": self._recent,
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Take up the checkpoint, if there is one."""
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        if state.get("settings") != self._settings:
            raise InputError(
                "this checkpoint was made with other settings or another seed; remove it to start anew", path=path
            )
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.history = [LoggedStep(**logged) for logged in state["history"]]
        self._recent = state["recent"]
        self.objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
