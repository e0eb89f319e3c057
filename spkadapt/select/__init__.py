"""Choosing without labels of the target domain: a backend, or a model, or to leave things as they are."""

from __future__ import annotations

from spkadapt.select.backends import CHOICE_RULE, FEWEST_SESSIONS, Candidate, Choice, choose_backend

__all__ = ["CHOICE_RULE", "FEWEST_SESSIONS", "Candidate", "Choice", "choose_backend"]
