"""Adapted backends against what they are made of, written out."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from spkadapt.backend import Plda
from spkadapt.backend.adaptation import ADAPTATIONS, FEATURE_ADAPTATIONS, MODEL_ADAPTATIONS, TargetStatistics
from spkadapt.backend.adaptation.statistics import SourceStatistics
from spkadapt.backend.adapted import (
    CENTRED,
    COSINE_METHOD,
    METHODS,
    MOST_COHORT,
    NO_ADAPTATION,
    NUM_NEAREST,
    PLDA_SHRINKAGE,
    SourceData,
    TargetDomainData,
    prepare_backend,
)
from spkadapt.backend.chain import Backend
from spkadapt.backend.covariance import TwoCovariance, shrink
from spkadapt.errors import InputError

DIM, NUM_SESSIONS, PER_SESSION = 8, 40, 5


def make_data(seed: int = 0) -> tuple[SourceData, TargetDomainData]:
    """A source of 30 speakers, and calls of another mean and spread, from two kinds of telephone."""
    random = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(30), 6)
    source = random.normal(size=(30, DIM))[speakers] + 0.6 * random.normal(size=(180, DIM))
    sessions = np.repeat(np.arange(NUM_SESSIONS), PER_SESSION)
    spread = np.linspace(0.3, 1.2, DIM)
    calls = random.normal(size=(NUM_SESSIONS, DIM))[sessions] + spread * random.normal(size=(len(sessions), DIM))
    domains = np.where(sessions % 4 == 0, "cell", "landline")
    calls += np.where(domains == "cell", 2.0, -1.0)[:, None]
    return SourceData(source, speakers), TargetDomainData(calls, sessions.astype(str), domains)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def centred_by_domain(pool: TargetDomainData) -> np.ndarray:
    assert pool.domains is not None
    means = {name: pool.embeddings[pool.domains == name].mean(axis=0) for name in np.unique(pool.domains)}
    return unit(pool.embeddings - np.array([means[name] for name in pool.domains]))


def score(backend: Backend, pool: TargetDomainData) -> np.ndarray:
    vectors = backend.transform(pool.embeddings, pool.domains)
    return backend.scorer.score_block(
        backend.scorer.enrol_side(vectors), backend.scorer.test_side(vectors)
    ).numpy()


def adaptive_norm(raw: np.ndarray, nearest: int) -> np.ndarray:
    """AS-norm of all pairs of a cohort with itself, each row's own score left out of its statistics."""
    others = raw + np.where(np.eye(len(raw), dtype=bool), -np.inf, 0)
    top = -np.sort(-others, axis=1)[:, :nearest]
    z = (raw - top.mean(axis=1)[:, None]) / top.std(axis=1)[:, None]
    return (z + z.T) / 2


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_same_recording_wccn_is_its_equation(strength: float) -> None:
    source, pool = make_data()
    x = centred_by_domain(pool)
    calls = x.reshape(NUM_SESSIONS, PER_SESSION, DIM)
    residuals = (calls - calls.mean(axis=1, keepdims=True)).reshape(-1, DIM)
    within = residuals.T @ residuals / len(x)
    within = strength * within + (1 - strength) * np.trace(within) / DIM * np.eye(DIM)
    values, vectors = np.linalg.eigh(within)
    y = unit(x @ (vectors / np.sqrt(values)) @ vectors.T)
    expected = adaptive_norm(y @ y.T, NUM_NEAREST)
    found = score(prepare_backend(COSINE_METHOD, source, pool).at(strength), pool)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_no_adaptation_is_bare_cosine() -> None:
    source, pool = make_data()
    found = score(prepare_backend(NO_ADAPTATION, source, pool).at(0), pool)
    np.testing.assert_allclose(found, unit(pool.embeddings) @ unit(pool.embeddings).T, atol=1e-6)


def shrunk(model: TwoCovariance) -> TwoCovariance:
    between, within = (shrink(part, PLDA_SHRINKAGE) for part in (model.between, model.within))
    return TwoCovariance(model.mean, between, within)


def plda_scores(model: TwoCovariance, vectors: np.ndarray) -> np.ndarray:
    plda = Plda.from_model(model)
    return plda.score_block(plda.enrol_side(vectors), plda.test_side(vectors)).numpy()


@pytest.mark.parametrize("method", MODEL_ADAPTATIONS)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_model_adaptation_is_plda_of_the_adapted_model(method: str, strength: float) -> None:
    source, pool = make_data()
    x = centred_by_domain(pool)
    model = Plda().fit(unit(source.embeddings - source.embeddings.mean(axis=0)), source.speakers).model_
    statistics = TargetStatistics.from_embeddings(x, pool.sessions)
    adapted = MODEL_ADAPTATIONS[method]().prepare(model, statistics).at(strength)
    expected = adaptive_norm(plda_scores(shrunk(adapted), x), NUM_NEAREST)
    found = score(prepare_backend(method, source, pool).at(strength), pool)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("method", FEATURE_ADAPTATIONS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_feature_adaptation_is_plda_trained_on_mapped_embeddings(method: str, strength: float) -> None:
    """Which the code does not train: it maps the model, and EM must agree that this is the same."""
    source, pool = make_data()
    x, trained_on = centred_by_domain(pool), unit(source.embeddings - source.embeddings.mean(axis=0))
    statistics = SourceStatistics.from_embeddings(trained_on), TargetStatistics.from_embeddings(x, pool.sessions)
    maps = FEATURE_ADAPTATIONS[method]().prepare(*statistics).at(strength)
    model = shrunk(Plda().fit(maps.transform_source(trained_on), source.speakers).model_)
    expected = adaptive_norm(plda_scores(model, maps.transform_target_domain(x)), NUM_NEAREST)
    found = score(prepare_backend(method, source, pool).at(strength), pool)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_centring_alone_is_cosine_of_what_is_centred_by_domain() -> None:
    source, pool = make_data()
    x = centred_by_domain(pool)
    found = score(prepare_backend(CENTRED, source, pool).at(0), pool)
    np.testing.assert_allclose(found, x @ x.T, atol=1e-6)


def test_the_methods_are_all_adaptations_and_three_more() -> None:
    assert set(METHODS) == {NO_ADAPTATION, CENTRED, COSINE_METHOD, *ADAPTATIONS}


def test_the_unlabelled_domain_has_no_room_for_a_speaker() -> None:
    assert {field.name for field in fields(TargetDomainData)} == {"embeddings", "sessions", "domains"}


def test_a_large_cohort_is_thinned_evenly() -> None:
    random = np.random.default_rng(0)
    pool = TargetDomainData(random.normal(size=(MOST_COHORT + 1001, 3)))
    prepared = prepare_backend(COSINE_METHOD, SourceData(pool.embeddings[:4], np.array([0, 0, 1, 1])), pool)
    assert prepared.cohort is not None
    assert len(prepared.cohort) == MOST_COHORT
    np.testing.assert_array_equal(prepared.cohort[[0, -1]], pool.embeddings[[0, -1]])


def test_bad_input_is_one_message() -> None:
    source, pool = make_data()
    with pytest.raises(InputError, match='no backend adaptation "corl"; did you mean "coral"'):
        prepare_backend("corl", source, pool)
    with pytest.raises(InputError, match="one extractor, found 8 and 5 dimensions"):
        prepare_backend("coral", source, TargetDomainData(pool.embeddings[:, :5]))
    with pytest.raises(InputError, match="name the sessions"):
        prepare_backend(COSINE_METHOD, source, TargetDomainData(pool.embeddings)).at(0.5)
    with pytest.raises(InputError, match="shrinkage"):
        prepare_backend(COSINE_METHOD, source, pool).at(1.5)
