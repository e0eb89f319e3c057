"""The sides that a trial list needs: of one set of embeddings or two, of models of any number of utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spkadapt.backend.cosine import CosineScorer
from spkadapt.embed import EmbeddingSet
from spkadapt.enrolment import load_enrolment
from spkadapt.errors import InputError
from spkadapt.score import prepare_sides, score_trials
from spkadapt.trials import Trials

SCORER = CosineScorer()
VECTORS = np.array([[1, 0], [0, 2], [3, 3], [0, 0]], dtype=np.float32)
EMBEDDINGS = EmbeddingSet(("a", "b", "c", "zero"), VECTORS)
HALF = 0.5**0.5


def score(trials: Trials, **options: object) -> list[float]:
    sides = prepare_sides(SCORER, trials, EMBEDDINGS, **options)
    return score_trials(SCORER, sides.enrol, sides.test, sides.rows).tolist()


def test_utterances_are_scored_and_unused_embeddings_are_not_read() -> None:
    trials = Trials(("a", "c", "a", "b", "c"), ("b", "a", "c", "b", "c"))
    assert score(trials) == pytest.approx([0, HALF, HALF, 1, 1])
    with pytest.raises(InputError, match="only zeros"):
        score(Trials(("a",), ("zero",)))


def test_two_sets_and_models(tmp_path: Path) -> None:
    (tmp_path / "enrol").write_text("m1 a b\nunused zero\nm2 a\n")
    enrolment = load_enrolment(tmp_path / "enrol")
    others = EmbeddingSet(("a", "x"), np.array([[0, 5], [1, 1]], dtype=np.float32))
    trials = Trials(("m2", "m1", "m2", "m1"), ("a", "x", "x", "a"))
    options = {"enrolment": enrolment, "test_embeddings": others}
    assert score(trials, **options) == pytest.approx([0, 1, HALF, HALF], abs=1e-7)
    sides = prepare_sides(SCORER, trials, EMBEDDINGS, enrolment=enrolment, test_embeddings=others)
    assert (len(sides.enrol), len(sides.test)) == (2, 2)


def test_unknown_ids_of_both_sides_are_reported_at_once(tmp_path: Path) -> None:
    trials = Trials(("a", "u", "v"), ("w", "a", "u"))
    with pytest.raises(InputError) as caught:
        score(trials, path="list")
    assert str(caught.value) == "list: no embedding for 3 utterances: u, v, w"
    (tmp_path / "enrol").write_text("u a\nv a x\n")
    enrolment = load_enrolment(tmp_path / "enrol")
    with pytest.raises(InputError, match='list:1: model "a" is not among the 2 known ones'):
        score(trials, path="list", enrolment=enrolment)
    with pytest.raises(InputError, match='enrol:2: utterance "x" is not among the 4 known ones'):
        score(Trials(("u",), ("a",)), enrolment=enrolment)
    with pytest.raises(InputError) as caught:
        score(trials, path="list", test_embeddings=EmbeddingSet(("a", "u"), VECTORS[:2]))
    assert str(caught.value) == (
        "on both sides of the trials:\n"
        "  list: no embedding for 2 utterances: u, v\n"
        "  list: no embedding for 1 utterances: w"
    )
    with pytest.raises(InputError, match=r"^list: no embedding for 1 utterances: w$"):
        score(Trials(("a",), ("w",)), path="list", test_embeddings=EMBEDDINGS)
