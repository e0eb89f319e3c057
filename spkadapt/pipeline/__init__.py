"""Wires the stages: whole runs from recipes, and single stages on files."""

from __future__ import annotations

from spkadapt.pipeline.backends import adapt_backend
from spkadapt.pipeline.evaluation import calibrate_files, evaluate_file
from spkadapt.pipeline.reporting import check_recipe, report_runs, run_recipes
from spkadapt.pipeline.run import run_recipe
from spkadapt.pipeline.scoring import measure_all_pairs, score_file
from spkadapt.pipeline.selection import select_runs
from spkadapt.pipeline.standalone import (
    DEFAULT_CACHE,
    adapt_model,
    embed_manifest,
    prepare_corpus,
)

__all__ = [
    "DEFAULT_CACHE",
    "adapt_backend",
    "adapt_model",
    "calibrate_files",
    "check_recipe",
    "embed_manifest",
    "evaluate_file",
    "measure_all_pairs",
    "prepare_corpus",
    "report_runs",
    "run_recipe",
    "run_recipes",
    "score_file",
    "select_runs",
]
