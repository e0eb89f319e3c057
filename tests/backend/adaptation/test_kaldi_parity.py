"""Kaldi's own adapted PLDA and its scores, from the embeddings of real calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from spkadapt.backend import length_normalise
from spkadapt.backend.adaptation import KaldiAdaptation, TargetStatistics
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.lda import Lda
from spkadapt.backend.plda import Plda
from spkadapt.kaldi_io import read_kaldi_matrix, read_kaldi_plda

SETTINGS = KaldiAdaptation(within_covar_scale=0.75, between_covar_scale=0.25)


def score(model: TwoCovariance, chain: Any, calls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Our scores and Kaldi's of the 5,000 trials."""
    trials = [line.split() for line in (chain.folder / "scores_plda_adapt.txt").read_text().splitlines()]
    place = {name: row for row, name in enumerate(chain.utterance_ids)}
    enrol, test = (calls[[place[trial[side]] for trial in trials]] for side in (0, 1))
    plda = Plda.from_model(model, normalise_length=True)
    scores = plda.score_pairs(plda.enrol_side(enrol), plda.test_side(test)).numpy()
    assert len(scores) == 5000
    return scores, np.array([float(trial[2]) for trial in trials])


def test_parity_from_kaldis_own_model(kaldi_chain: Any) -> None:
    """Its adapted parameters and scores. It held embeddings in float32, and their mean is near zero."""
    lda = read_kaldi_matrix(kaldi_chain.folder / "lda.mat")
    calls = length_normalise(kaldi_chain.target_domain @ lda[:, :-1].T + lda[:, -1]) * np.sqrt(len(lda))
    source, expected = (
        Plda.from_kaldi(*read_kaldi_plda(kaldi_chain.folder / name)).model_ for name in ("plda", "plda_adapt")
    )
    adapted = SETTINGS.adapt(source, TargetStatistics.from_embeddings(calls[kaldi_chain.is_pool]))
    for field, tolerance in (("mean", 2e-5), ("between", 1e-6), ("within", 1e-6)):
        theirs = getattr(expected, field)
        assert np.linalg.norm(getattr(adapted, field) - theirs) < tolerance * np.linalg.norm(theirs), field
    scores, theirs = score(adapted, kaldi_chain, calls)
    np.testing.assert_allclose(scores, theirs, rtol=1e-5, atol=1e-4)


def test_parity_from_embeddings(kaldi_chain: Any) -> None:
    """Nothing of Kaldi's but what is expected: our LDA, our PLDA, our adaptation."""
    lda = Lda(100).fit(kaldi_chain.source, kaldi_chain.speakers)
    source, calls = (
        length_normalise(lda.transform(x)) * np.sqrt(100) for x in (kaldi_chain.source, kaldi_chain.target_domain)
    )
    model = Plda("kaldi").fit(source, kaldi_chain.speakers).model_
    statistics = TargetStatistics.from_embeddings(calls[kaldi_chain.is_pool])
    scores, theirs = score(SETTINGS.prepare(model, statistics).at(1), kaldi_chain, calls)
    np.testing.assert_allclose(scores, theirs, rtol=1e-5, atol=1e-4)
