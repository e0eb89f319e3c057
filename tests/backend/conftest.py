"""Kaldi's fixtures and what they were made from, for the tests of several backends."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class KaldiChain:
    """The embeddings that Kaldi's own LDA and PLDA of `shared/fixtures/kaldi` were estimated and scored on.

    Attributes:
        source: labelled, less their mean.
        speakers: of `source`.
        target_domain: the utterances of real calls, less the mean of the adaptation pool.
        is_pool: which of them are in the adaptation pool.
        utterance_ids: of `target_domain`.
        folder: where Kaldi's files are.
    """

    source: np.ndarray
    speakers: np.ndarray
    target_domain: np.ndarray
    is_pool: np.ndarray
    utterance_ids: np.ndarray
    folder: Path


def read_embeddings(shared: Path, corpus: str) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    with np.load(shared / f"corpora/embeddings/{corpus}_campplus.npz") as file:
        names, embeddings = file["utterance_ids"], file["embeddings"].astype(np.float64)
    with open(shared / f"corpora/{corpus}/manifest.csv", newline="") as file:
        rows = {row["utterance_id"]: row for row in csv.DictReader(file)}
    return names, embeddings, [rows[name] for name in names]


@pytest.fixture(scope="session")
def kaldi_chain(shared: Path) -> KaldiChain:
    _, source, rows = read_embeddings(shared, "speechocean762")
    names, target_domain, target_rows = read_embeddings(shared, "wuw2")
    is_pool = np.array([row["split"] == "adapt" for row in target_rows])
    return KaldiChain(
        source - source.mean(axis=0),
        np.array([row["speaker_id"] for row in rows]),
        target_domain - target_domain[is_pool].mean(axis=0),
        is_pool,
        names,
        shared / "fixtures/kaldi",
    )
