"""Choosing without labels of the target domain: a backend, or a model, or to leave things as they are."""

from __future__ import annotations

from spkadapt.select.backends import CHOICE_RULE, FEWEST_SESSIONS, Candidate, Choice, choose_backend
from spkadapt.select.data import SelectionData, unit_rows
from spkadapt.select.models import (
    MODEL_CHOICE_RULE,
    RULE_VALIDATORS,
    Gate,
    Judgement,
    Model,
    ModelChoice,
    agree_on_pseudo_speakers,
    choose_model,
    compare_models,
    judge_models,
)
from spkadapt.select.score_mixture import PredictedEer, predict_eer
from spkadapt.select.validators import VALIDATORS, Validator, find_validator

__all__ = [
    "CHOICE_RULE",
    "FEWEST_SESSIONS",
    "MODEL_CHOICE_RULE",
    "RULE_VALIDATORS",
    "VALIDATORS",
    "Candidate",
    "Choice",
    "Gate",
    "Judgement",
    "Model",
    "ModelChoice",
    "PredictedEer",
    "SelectionData",
    "Validator",
    "agree_on_pseudo_speakers",
    "choose_backend",
    "choose_model",
    "compare_models",
    "find_validator",
    "judge_models",
    "predict_eer",
    "unit_rows",
]
