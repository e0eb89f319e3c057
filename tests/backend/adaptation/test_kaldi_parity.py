"""Kaldi's own adapted PLDA and its scores, from the embeddings of real calls."""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from spkadapt.backend import length_normalise
from spkadapt.backend.adaptation import KaldiAdaptation, TargetStatistics
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.plda import Plda


def read_plda(path: Path) -> TwoCovariance:
    """Kaldi's binary file: a mean, the transform that makes `within` the identity, and the diagonal `between`."""
    content = path.read_bytes()
    position = content.index(b"<Plda>") + len(b"<Plda> ")
    parts = []
    for num_sizes in (1, 2, 1):
        position += len(b"DV ")
        shape = [struct.unpack_from("<i", content, position + 1 + 5 * i)[0] for i in range(num_sizes)]
        position += 5 * num_sizes
        parts.append(np.frombuffer(content, "<f8", int(np.prod(shape)), position).reshape(shape))
        position += parts[-1].nbytes
    mean, transform, psi = parts
    back = np.linalg.inv(transform)
    return TwoCovariance(mean, (back * psi) @ back.T, back @ back.T)


@pytest.fixture(scope="module")
def calls(shared: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every call's embedding as Kaldi's chain leaves it, and the utterances of the adaptation pool."""
    held = np.load(shared / "corpora/embeddings/wuw2_campplus.npz")
    rows = dict(zip(held["utterance_ids"].tolist(), held["embeddings"].astype(np.float64), strict=True))
    with (shared / "corpora/wuw2/manifest.csv").open(newline="") as lines:
        pool = [row["utterance_id"] for row in csv.DictReader(lines) if row["split"] == "adapt"]
    centred = np.array([*rows.values()]) - np.mean([rows[name] for name in pool], axis=0)
    lda = kaldiio.load_mat(str(shared / "fixtures/kaldi/lda.mat"))
    projected = length_normalise(centred @ lda[:, :-1].T + lda[:, -1]) * np.sqrt(len(lda))
    return dict(zip(rows, projected, strict=True)), pool


@pytest.fixture(scope="module")
def adapted(shared: Path, calls: tuple[dict[str, np.ndarray], list[str]]) -> TwoCovariance:
    rows, pool = calls
    source = read_plda(shared / "fixtures/kaldi/plda")
    statistics = TargetStatistics.from_embeddings(np.array([rows[name] for name in pool]))
    return KaldiAdaptation(within_covar_scale=0.75, between_covar_scale=0.25).adapt(source, statistics)


def test_parameters(shared: Path, adapted: TwoCovariance) -> None:
    """Kaldi held embeddings in float32, and means of 1,104 of them near zero."""
    expected = read_plda(shared / "fixtures/kaldi/plda_adapt")
    for field, tolerance in (("mean", 2e-5), ("between", 1e-6), ("within", 1e-6)):
        theirs = getattr(expected, field)
        assert np.linalg.norm(getattr(adapted, field) - theirs) < tolerance * np.linalg.norm(theirs), field


def test_scores(shared: Path, calls: tuple[dict[str, np.ndarray], list[str]], adapted: TwoCovariance) -> None:
    with (shared / "fixtures/kaldi/scores_plda_adapt.txt").open() as lines:
        trials = [line.split() for line in lines]
    rows, _ = calls
    enrol, test = (np.array([rows[trial[side]] for trial in trials]) for side in (0, 1))
    plda = Plda.from_model(adapted, normalise_length=True)
    scores = plda.score_pairs(plda.enrol_side(enrol), plda.test_side(test)).numpy()
    theirs = np.array([float(trial[2]) for trial in trials])
    assert len(theirs) == 5000
    np.testing.assert_allclose(scores, theirs, rtol=1e-4, atol=1e-4 * np.std(theirs))
