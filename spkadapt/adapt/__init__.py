"""The multi-task objective: the speaker loss, and what pulls the target domain to the source while it is learnt.

`TERMS` lists what a recipe's `adapt.terms` may name.
"""

from __future__ import annotations

from spkadapt.adapt.config import SCHEDULES, AdaptConfig, TermConfig, parse_terms
from spkadapt.adapt.objective import MultiTaskObjective
from spkadapt.adapt.outputs import Encoded, StepOutputs
from spkadapt.adapt.registry import TERMS, check_terms

__all__ = [
    "SCHEDULES",
    "TERMS",
    "AdaptConfig",
    "Encoded",
    "MultiTaskObjective",
    "StepOutputs",
    "TermConfig",
    "check_terms",
    "parse_terms",
]
