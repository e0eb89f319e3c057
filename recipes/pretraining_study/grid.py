"""What the study runs: which arm, at which depth, with how many labels, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from spkadapt.pretrain import (
    ClassifierConfig,
    DaeConfig,
    DbmConfig,
    DbnConfig,
    PretrainConfig,
    SparseConfig,
    VaeConfig,
)
from spkadapt.pretrain.dbm_training import DbmTrainingConfig

# Nobody pretrained, and the layers that "supervised" starts from stay as they are: the control of "frozen".
RANDOM = "random"


@dataclass(frozen=True)
class Member:
    """One way of pretraining, and where in the grid it runs.

    Attributes:
        config: its settings.
        activations: the units that it makes.
        depths: at which depths it runs.
        one_stack: one stack of the deepest serves all depths, because layers are trained one after another; else
            each depth is pretrained on its own.
    """

    config: PretrainConfig
    activations: tuple[str, ...]
    depths: tuple[int, ...]
    one_stack: bool

    def stack_depth(self, depth: int) -> int:
        """How deep the stack is that serves a network of `depth` hidden layers."""
        return max(self.depths) if self.one_stack else depth


@dataclass(frozen=True, order=True)
class Cell:
    """One trained classifier.

    Attributes:
        activation: "sigmoid" or "relu".
        depth: hidden layers.
        budget: labelled utterances a speaker.
        strategy: one of `spkadapt.pretrain.STRATEGIES`.
        member: who pretrained, or `RANDOM`; empty where all layers are trained with labels.
        length: how many times the usual number of epochs.
        seed: of all that is drawn.
    """

    activation: str
    depth: int
    budget: int
    strategy: str
    member: str = ""
    length: int = 1
    seed: int = 0

    @property
    def arm(self) -> str:
        """What is compared: strategy, member and length."""
        return "-".join([self.strategy, *([self.member] if self.member else [])]) + (
            f" ×{self.length}" if self.length > 1 else ""
        )

    @property
    def name(self) -> str:
        """Unique within the study."""
        return f"{self.activation} depth {self.depth} budget {self.budget} {self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """All settings; results of other settings do not go into one file.

    Attributes:
        seeds: of weights, order, noise and of which utterances are labelled.
        budgets: labelled utterances a speaker; all of them are run at depth `middle`.
        depths: hidden layers; all of them are run at the smallest budget; the fewest and the most at the largest
            one too, supervised and pretrained by the DAE.
        middle: the depth of the budgets' line.
        hidden_dim: units of every hidden layer.
        frames_per_utterance: kept of each utterance.
        num_speakers: the first so many; None for all.
        lengths: further multiples of the usual epochs, at depth `middle` and the smallest and largest budget, for
            the supervised and the DAE-pretrained arm.
        classifiers: how classifiers of each activation are trained.
        members: who pretrains.
    """

    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    hidden_dim: int
    frames_per_utterance: int
    num_speakers: int | None
    lengths: tuple[int, ...]
    classifiers: Mapping[str, ClassifierConfig]
    members: Mapping[str, Member] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """All of them, seed by seed: when time runs out, whole seeds are there."""
        return [replace(cell, seed=seed) for seed in self.seeds for cell in dict.fromkeys(self._of_one_seed())]

    def _of_one_seed(self) -> Iterator[Cell]:
        few, many = min(self.budgets), max(self.budgets)
        for activation in self.classifiers:
            for budget in self.budgets:
                yield from self._arms(activation, self.middle, budget)
            for depth in self.depths:
                yield from self._arms(activation, depth, few)
            for depth in (min(self.depths), max(self.depths)):
                yield Cell(activation, depth, many, "supervised")
                if "dae" in self.members:
                    yield Cell(activation, depth, many, "finetune", "dae")
            for length, budget in product(self.lengths, (few, many)):
                yield Cell(activation, self.middle, budget, "supervised", length=length)
                yield Cell(activation, self.middle, budget, "finetune", "dae", length)

    def _arms(self, activation: str, depth: int, budget: int) -> Iterator[Cell]:
        yield Cell(activation, depth, budget, "supervised")
        yield Cell(activation, depth, budget, "greedy_supervised")
        yield Cell(activation, depth, budget, "frozen", RANDOM)
        for name, member in self.members.items():
            if activation in member.activations and depth in member.depths:
                yield Cell(activation, depth, budget, "frozen", name)
                yield Cell(activation, depth, budget, "finetune", name)


BOTH, ALL_DEPTHS = ("sigmoid", "relu"), (1, 2, 3, 4, 5)


def _members(num_epochs: int, max_frames: int) -> dict[str, Member]:
    """Each at its class's default rates. Sparse codes take the longest by far and see a fifth of the frames."""
    size: dict[str, Any] = {"num_epochs": num_epochs, "max_frames_per_epoch": max_frames}
    joint = DbmTrainingConfig(num_epochs=num_epochs, max_frames_per_epoch=max_frames)
    sparse = SparseConfig(num_epochs=num_epochs, max_frames_per_epoch=max_frames // 5, num_iterations=20)
    return {
        "dae": Member(DaeConfig(**size), BOTH, ALL_DEPTHS, one_stack=True),
        "dbn": Member(DbnConfig(**size), ("sigmoid",), ALL_DEPTHS, one_stack=True),
        "vae": Member(VaeConfig(**size), BOTH, (1, 3, 5), one_stack=False),
        "dbm": Member(DbmConfig(**size, joint=joint), ("sigmoid",), (3,), one_stack=False),
        "sparse": Member(sparse, ("relu",), (1, 2, 3), one_stack=True),
    }


def _classifiers(num_epochs: int, num_greedy_epochs: int, max_frames: int) -> dict[str, ClassifierConfig]:
    """The same number of steps for every budget; the rates are those that pilot.py chose for "supervised"."""
    return {
        activation: ClassifierConfig(
            learning_rate=rate,
            num_epochs=num_epochs,
            batch_size=128,
            max_frames_per_epoch=max_frames,
            num_greedy_epochs=num_greedy_epochs,
        )
        for activation, rate in {"sigmoid": 0.3, "relu": 0.05}.items()
    }


FULL = Study(
    seeds=(0, 1, 2, 3, 4),
    budgets=(1, 2, 4, 6),
    depths=ALL_DEPTHS,
    middle=3,
    hidden_dim=128,
    frames_per_utterance=40,
    num_speakers=None,
    lengths=(4,),
    classifiers=_classifiers(10, 5, 10000),
    members=_members(4, 30000),
)
# Within a minute, features not counted: that it all works, and nothing about pretraining.
QUICK = replace(
    FULL,
    seeds=(0, 1),
    budgets=(1, 6),
    depths=(1, 3),
    hidden_dim=32,
    frames_per_utterance=10,
    num_speakers=50,
    lengths=(),
    classifiers=_classifiers(3, 1, 2000),
    members=_members(1, 2000),
)
