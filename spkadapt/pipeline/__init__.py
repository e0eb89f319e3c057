"""Wires the stages: whole runs from recipes, and single stages on files."""

from __future__ import annotations

from spkadapt.pipeline.reporting import check_recipe, report_runs, run_recipes
from spkadapt.pipeline.run import run_recipe
from spkadapt.pipeline.standalone import (
    DEFAULT_CACHE,
    adapt_model,
    embed_manifest,
    evaluate_file,
    prepare_corpus,
    score_file,
)

__all__ = [
    "DEFAULT_CACHE",
    "adapt_model",
    "check_recipe",
    "embed_manifest",
    "evaluate_file",
    "prepare_corpus",
    "report_runs",
    "run_recipe",
    "run_recipes",
    "score_file",
]
