"""The backend file: what is written scores the same when read, and bad files are refused in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator

from spkadapt.backend import (
    Lda,
    LengthNormalisation,
    MeanSubtraction,
    Nap,
    Plda,
    SimplifiedPlda,
    Wccn,
    Whitening,
)
from spkadapt.backend.adaptation.interface import AffineMap
from spkadapt.backend.affine import Affine
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.cosine_projection import CosineProjection
from spkadapt.backend.discriminative import DiscriminativePlda
from spkadapt.backend.heavy_tailed import HeavyTailedPlda
from spkadapt.backend.neural_plda import NeuralPlda
from spkadapt.backend.registry import ESTIMATORS
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.scorer import Scorer
from spkadapt.backend.spherical import Psda
from spkadapt.errors import InputError

DIM = 6
RANDOM = np.random.default_rng(0)
SPEAKERS = np.repeat(np.arange(12), 4)
EMBEDDINGS = RANDOM.normal(size=(12, DIM))[SPEAKERS] + 0.5 * RANDOM.normal(size=(48, DIM))
DOMAINS = np.where(np.arange(48) % 3 == 0, "cell", "landline")


def affine() -> Affine:
    return Affine.from_map(AffineMap(RANDOM.normal(size=(DIM, DIM)), RANDOM.normal(size=DIM)))


STEPS: dict[str, Callable[[], BaseEstimator]] = {
    "Affine": affine,
    "Lda": lambda: Lda(dim=4).fit(EMBEDDINGS, SPEAKERS),
    "LengthNormalisation": lambda: LengthNormalisation("sqrt-dim"),
    "MeanSubtraction": lambda: MeanSubtraction().fit(EMBEDDINGS, DOMAINS),
    "Nap": lambda: Nap(2).fit(EMBEDDINGS, SPEAKERS),
    "Wccn": lambda: Wccn("ledoit-wolf").fit(EMBEDDINGS, SPEAKERS),
    "Whitening": lambda: Whitening(3).fit(EMBEDDINGS),
}
SCORERS: dict[str, Callable[[], Scorer]] = {
    "CosineProjection": lambda: CosineProjection(num_iterations=3).fit(EMBEDDINGS, SPEAKERS),
    "CosineScorer": CosineScorer,
    "DiscriminativePlda": lambda: DiscriminativePlda(num_iterations=3).fit(EMBEDDINGS, SPEAKERS),
    "HeavyTailedPlda": lambda: HeavyTailedPlda(speaker_dim=3, degrees_of_freedom=np.inf).fit(EMBEDDINGS, SPEAKERS),
    "NeuralPlda": lambda: NeuralPlda(num_iterations=3).fit(EMBEDDINGS, SPEAKERS),
    "NormalisedScorer": lambda: NormalisedScorer(CosineScorer(), "as-norm", 5).fit(EMBEDDINGS[:20]),
    "Plda": lambda: Plda(shrinkage=0.1).fit(EMBEDDINGS, SPEAKERS),
    "Psda": lambda: Psda(num_iterations=20).fit(EMBEDDINGS, SPEAKERS),
    "SimplifiedPlda": lambda: SimplifiedPlda(rank=3).fit(EMBEDDINGS, SPEAKERS),
}


def score_all(backend: Backend, domains: np.ndarray | None = None) -> np.ndarray:
    vectors = backend.transform(EMBEDDINGS, domains)
    enrol, test = backend.scorer.enrol_side(vectors[20:]), backend.scorer.test_side(vectors)
    return backend.scorer.score_block(enrol, test).numpy()


def test_everything_that_a_file_may_hold_is_tested_here() -> None:
    assert {*STEPS, *SCORERS} == set(ESTIMATORS)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    backend = Backend((STEPS[name](),), CosineScorer(), {"made": "here"})
    backend.save(tmp_path / "b")
    loaded = Backend.load(tmp_path / "b")
    domains = DOMAINS if name == "MeanSubtraction" else None
    assert type(loaded.steps[0]) is type(backend.steps[0])
    assert loaded.steps[0].get_params() == backend.steps[0].get_params()
    np.testing.assert_array_equal(score_all(loaded, domains), score_all(backend, domains))
    assert loaded.history == {"made": "here"}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    backend = Backend((), SCORERS[name]())
    backend.save(tmp_path / "b")
    np.testing.assert_array_equal(score_all(Backend.load(tmp_path / "b")), score_all(backend))


def test_steps_are_taken_in_their_order() -> None:
    centring = MeanSubtraction().fit(EMBEDDINGS + 3)
    found = Backend((centring, LengthNormalisation()), CosineScorer()).transform(EMBEDDINGS + 3)
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    np.testing.assert_allclose(found, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-12)


def test_a_backend_that_centres_by_domain_asks_for_domains() -> None:
    backend = Backend((MeanSubtraction().fit(EMBEDDINGS, DOMAINS),), CosineScorer())
    assert backend.domains == ("cell", "landline")
    with pytest.raises(InputError, match=r"name one of \('cell', 'landline'\) for each"):
        backend.transform(EMBEDDINGS)
    with pytest.raises(InputError, match='no mean for domain "radio"'):
        backend.transform(EMBEDDINGS, ["radio"] * 48)


def write(path: Path, header: object) -> Path:
    save_file({"a": np.zeros(1)}, path, metadata={"backend": json.dumps(header)})
    return path


GOOD = {"format": "spkadapt backend 1", "steps": [], "history": {}}
COSINE = {"class": "CosineScorer", "settings": {}, "fitted": {}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"format": "spkadapt backend 9"},
            'of format "spkadapt backend 1", found spkadapt backend 9',
        ),
        ([1], "found another header"),
        ({}, "found a file of another kind"),
        (GOOD, r"this backend file is damaged \(KeyError\('scorer'\)\)"),
        (
            GOOD | {"scorer": COSINE | {"class": "CosineScorr"}},
            'no backend step "CosineScorr".*mean "CosineS',
        ),
        (GOOD | {"scorer": COSINE | {"settings": {"colour": {"value": 1}}}}, "damaged"),
        (GOOD | {"scorer": COSINE | {"fitted": {"enrol_side": {"value": 1}}}}, "not the name of anything"),
        (GOOD | {"scorer": COSINE | {"fitted": {"__class__": {"value": 1}}}}, "not the name of anything"),
        (GOOD | {"scorer": COSINE | {"fitted": {"a_": {"array": "b"}}}}, "damaged"),
    ],
)
def test_a_bad_header_is_refused_by_name(header: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "b", header)
    with pytest.raises(InputError, match=message) as caught:
        Backend.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_backend_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such backend file"):
        Backend.load(tmp_path / "none")
    (tmp_path / "text").write_text("no safetensors")
    with pytest.raises(InputError, match=r"expected a backend file \(safetensors\), found"):
        Backend.load(tmp_path / "text")
    save_file({"a": np.zeros(1)}, tmp_path / "model")
    with pytest.raises(InputError, match="found a file of another kind"):
        Backend.load(tmp_path / "model")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    Backend((STEPS["Lda"](),), SCORERS["Plda"]()).save(tmp_path / "b")
    whole = (tmp_path / "b").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(InputError):
            Backend.load(tmp_path / "cut")


def test_what_a_file_cannot_hold_is_not_written(tmp_path: Path) -> None:
    step = MeanSubtraction().fit(EMBEDDINGS)
    step.odd_ = object()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="cannot hold"):
        Backend((step,), CosineScorer()).save(tmp_path / "b")
    assert not list(tmp_path.iterdir())
