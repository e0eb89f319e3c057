"""What joins the speaker loss, and how strongly: settings alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spkadapt.errors import InputError, suggest

# What λ is multiplied with when a fraction `progress` of the steps is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "decay": lambda progress: 1.0 - progress,
    # The middle half of training from nothing to all, in a half-wave of a cosine.
    "cosine": lambda progress: 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, 2 * progress - 0.5))),
    # Ganin et al. (2016), section 5.2.2: the adversary is let in as features become worth aligning.
    "sigmoid": lambda progress: 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0,
}
LEVELS = ("embedding", "frame", "both")
BATCH_NORMS = ("shared", "per_domain", "adabn")
SOURCES = ("trained", "frozen", "absent")


@dataclass(frozen=True)
class TermConfig:
    """One term Ω of the objective, and its λ.

    Attributes:
        weight: λ ≥ 0; with 0 the term is as good as absent.
        schedule: a name in `SCHEDULES`.
        level: what is compared: utterance embeddings, the backbone's last frame layer, or the mean of both terms.
        per_source_domain: compare the target domain with each domain of the source by itself, and average.
        options: arguments of the term's own, such as `temperature`.
    """

    weight: float = 1.0
    schedule: str = "constant"
    level: str = "embedding"
    per_source_domain: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, value, known in (("schedule", self.schedule, SCHEDULES), ("level", self.level, LEVELS)):
            if value not in known:
                raise InputError(f'unknown {kind} "{value}"; {suggest(value, known)}')
        if not 0 <= self.weight < math.inf:
            raise InputError(f"the weight λ is {self.weight}; expected a number ≥ 0")

    def weight_at(self, progress: float) -> float:
        """λ when a fraction `progress` of the training is done."""
        return self.weight * SCHEDULES[self.schedule](progress)


@dataclass(frozen=True)
class AdaptConfig:
    """How the target domain takes part in training.

    Attributes:
        terms: what joins the speaker loss, by a name in `TERMS`; none is training on the source domain alone.
        batch_norm: `shared` statistics of both domains; `per_domain` ones in training, of which the target
            domain's are kept (Chang et al. 2019); or `adabn`, the target domain's, taken after training (Li et al.
            2017).
        source: `trained`, by the speaker loss; `frozen`, where its embeddings stay those of the initial model and
            only the target domain's encoder learns (as in ADDA, Tzeng et al. 2017); or `absent`, where nothing of
            it is seen but the initial model (source-free adaptation).
        rounds: how often, evenly over training, pseudo-speakers are found anew in the target domain's pool, for
            the terms that use them.
    """

    terms: Mapping[str, TermConfig] = field(default_factory=dict)
    batch_norm: str = "shared"
    source: str = "trained"
    rounds: int = 4

    def __post_init__(self) -> None:
        for kind, value, known in (("batch_norm", self.batch_norm, BATCH_NORMS), ("source", self.source, SOURCES)):
            if value not in known:
                raise InputError(f'unknown {kind} "{value}"; {suggest(value, known)}')
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}; expected at least 1")
        if self.source != "trained" and not self.active_terms:
            raise InputError(f"source is {self.source} and no term has a weight above 0: nothing would be learnt")
        if self.batch_norm == "per_domain" and not self.active_terms:
            raise InputError(
                "batch_norm is per_domain and no term has a weight above 0: the target domain would not be seen"
            )

    @property
    def active_terms(self) -> dict[str, TermConfig]:
        """The terms whose λ is above zero at some step."""
        return {name: term for name, term in self.terms.items() if term.weight > 0}

    @property
    def uses_target_domain(self) -> bool:
        """Whether any step, or what follows the last, looks at the target domain."""
        return bool(self.active_terms) or self.batch_norm != "shared"


def parse_terms(texts: Iterable[str]) -> dict[str, TermConfig]:
    """Terms as a command line gives them: `NAME=WEIGHT` or `NAME=WEIGHT:SCHEDULE`.

    Raises:
        InputError: for one that is not of this form.
    """
    terms = {}
    for text in texts:
        name, _, settings = text.partition("=")
        weight, colon, schedule = settings.partition(":")
        try:
            value = float(weight)
        except ValueError:
            raise InputError(
                f'found the term "{text}"; expected NAME=WEIGHT, as in "coral=50" or "dann=1:sigmoid"'
            ) from None
        terms[name] = TermConfig(value, schedule) if colon else TermConfig(value)
    return terms
