"""Embeddings to scores, in blocks of bounded memory on any device; and score files."""

from __future__ import annotations

from spkadapt.score.blocks import score_all_pairs, score_cosine
from spkadapt.score.files import Scores, align_scores, load_scores, save_scores

__all__ = ["Scores", "align_scores", "load_scores", "save_scores", "score_all_pairs", "score_cosine"]
