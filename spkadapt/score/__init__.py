"""Embeddings to scores, in blocks of bounded memory on any device; and score files."""

from __future__ import annotations

from spkadapt.score.blocks import Block, iterate_blocks, score_all_pairs
from spkadapt.score.files import Scores, align_scores, load_scores, save_scores
from spkadapt.score.listed import TrialRows, score_trials
from spkadapt.score.parts import score_to_file
from spkadapt.score.sides import TrialSides, prepare_sides

__all__ = [
    "Block",
    "Scores",
    "TrialRows",
    "TrialSides",
    "align_scores",
    "iterate_blocks",
    "load_scores",
    "prepare_sides",
    "save_scores",
    "score_all_pairs",
    "score_to_file",
    "score_trials",
]
