"""Score normalisation against a loop over every trial and every cohort score, in NumPy and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone

from spkadapt.backend import score_norm
from spkadapt.backend.score_norm import METHODS, NormalisedScorer, compute_cohort_statistics
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
ENROL, TEST, COHORT = (RANDOM.normal(size=(rows, 6)) for rows in (7, 9, 20))


class Lopsided(Scorer):
    """A score in which the two sides differ, so that a mix-up of sides shows."""

    matrix = np.random.default_rng(1).normal(size=(6, 6))

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        if model_of is not None:
            embeddings = np.stack([embeddings[model_of == m].mean(axis=0) for m in range(max(model_of) + 1)])
        return Side(torch.from_numpy(embeddings @ self.matrix).float(), torch.from_numpy(embeddings[:, 0]).float())

    def test_side(self, embeddings: np.ndarray) -> Side:
        return Side(torch.from_numpy(embeddings).float(), torch.from_numpy(embeddings[:, 1]).float() * 2)

    @classmethod
    def score(cls, enrol: np.ndarray, test: np.ndarray) -> float:
        return float(enrol @ cls.matrix @ test + enrol[0] + 2 * test[1])


class NotBilinear(Lopsided):
    """Its score is no matrix product: a normaliser that used the vectors itself would be wrong."""

    def score_block(self, enrol: Side, test: Side) -> torch.Tensor:
        return super().score_block(enrol, test).div(9).tanh()

    def score_pairs(self, enrol: Side, test: Side) -> torch.Tensor:
        return super().score_pairs(enrol, test).div(9).tanh()

    @classmethod
    def score(cls, enrol: np.ndarray, test: np.ndarray) -> float:
        return math.tanh(super().score(enrol, test) / 9)


def naive_scores(scorer: type[Lopsided], method: str, num_nearest: int) -> np.ndarray:
    """Trial by trial, from the definitions."""

    def statistics(scores: list[float]) -> tuple[float, float]:
        kept = sorted(scores)[-num_nearest:] if method == "as-norm" else scores
        return float(np.mean(kept)), float(np.std(kept))

    normalised = np.empty((len(ENROL), len(TEST)))
    for i, enrol in enumerate(ENROL):
        for j, test in enumerate(TEST):
            score = scorer.score(enrol, test)
            mean_e, sd_e = statistics([scorer.score(enrol, other) for other in COHORT])
            mean_t, sd_t = statistics([scorer.score(other, test) for other in COHORT])
            z, t = (score - mean_e) / sd_e, (score - mean_t) / sd_t
            normalised[i, j] = {"z-norm": z, "t-norm": t}.get(method, (z + t) / 2)
    return normalised


@pytest.mark.parametrize("scorer", [Lopsided, NotBilinear])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block_scores", [1 << 22, 45])  # all at once, and two rows at a time
def test_all_methods_match_the_loops(
    monkeypatch: pytest.MonkeyPatch, scorer: type[Lopsided], method: str, block_scores: int
) -> None:
    monkeypatch.setattr(score_norm, "_BLOCK_SCORES", block_scores)
    normalised = NormalisedScorer(scorer(), method, num_nearest=5).fit(COHORT)
    enrol, test = normalised.enrol_side(ENROL), normalised.test_side(TEST)
    expected = naive_scores(scorer, method, 5)
    np.testing.assert_allclose(normalised.score_block(enrol, test), expected, rtol=2e-4, atol=2e-5)
    rows, columns = torch.tensor([0, 6, 3, 3]), torch.tensor([8, 0, 2, 3])
    pairs = normalised.score_pairs(enrol.rows(rows), test.rows(columns))
    np.testing.assert_allclose(pairs, expected[rows, columns], rtol=2e-4, atol=2e-5)
    listed = normalised.score_listed(enrol, test, rows, columns)
    np.testing.assert_allclose(listed, expected[rows, columns], rtol=2e-4, atol=2e-5)
    part = normalised.score_block(enrol.rows(slice(2, 5)), test.rows(slice(1, 4)).to("cpu"))
    np.testing.assert_allclose(part, expected[2:5, 1:4], rtol=2e-4, atol=2e-5)
    assert (len(enrol), len(test)) == (7, 9)
    assert pairs.dtype == part.dtype == torch.float32


def wrap(method: str = "as-norm", num_nearest: int = 5, cohort: np.ndarray = COHORT) -> NormalisedScorer:
    return NormalisedScorer(Lopsided(), method, num_nearest).fit(cohort)


def test_a_small_cohort_makes_as_norm_s_norm() -> None:
    for num_nearest in (20, 300):
        adaptive, whole = wrap("as-norm", num_nearest), wrap("s-norm")
        torch.testing.assert_close(
            adaptive.score_block(adaptive.enrol_side(ENROL), adaptive.test_side(TEST)),
            whole.score_block(whole.enrol_side(ENROL), whole.test_side(TEST)),
            rtol=0,
            atol=0,
        )


@pytest.mark.parametrize("method", METHODS)
def test_normalised_scores_do_not_see_scale_and_shift(method: str) -> None:
    class Moved(Lopsided):
        def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
            side = super().enrol_side(embeddings, model_of)
            return Side(3 * side.vectors, 3 * side.offsets + 5)

        def test_side(self, embeddings: np.ndarray) -> Side:
            side = super().test_side(embeddings)
            return Side(side.vectors, 3 * side.offsets)

    found = [
        scorer.score_block(scorer.enrol_side(ENROL), scorer.test_side(TEST))
        for scorer in (NormalisedScorer(base, method, 5).fit(COHORT) for base in (Lopsided(), Moved()))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_nearest", [4, 19, 20, 50])
def test_an_embedding_in_the_cohort_is_not_its_own_cohort(num_nearest: int) -> None:
    """As if the row, and its double, had been taken out for it alone; and no other row with it."""
    cohort = np.concatenate([COHORT, TEST[:1], COHORT[:1], TEST[:1] * (1 + 1e-9)])
    for is_enrol in (True, False):
        means, deviations = compute_cohort_statistics(Lopsided(), TEST, cohort, num_nearest, is_enrol=is_enrol)
        for row, left in ((0, cohort[[*range(20), 21]]), (1, cohort)):
            others = [Lopsided.score(TEST[row], c) if is_enrol else Lopsided.score(c, TEST[row]) for c in left]
            kept = sorted(others)[-num_nearest:]
            if row == 0 and num_nearest > 20:
                kept = others
            assert means[row] == pytest.approx(np.mean(kept), rel=1e-5)
            assert deviations[row] == pytest.approx(np.std(kept), rel=1e-5)


def test_a_model_leaves_out_all_its_utterances() -> None:
    model_of = np.array([1, 0, 1, 0, 2, 2, 2])
    cohort = np.concatenate([COHORT, ENROL[[0, 2]]])
    both = [NormalisedScorer(Lopsided(), "z-norm").fit(c).enrol_side(ENROL, model_of) for c in (cohort, COHORT)]
    assert len(both[0]) == 3
    torch.testing.assert_close(both[0].shifts[1], both[1].shifts[1])
    assert (both[0].shifts[[0, 2]] != both[1].shifts[[0, 2]]).all()


def test_same_rows_is_the_loop() -> None:
    """Equal rows, rows that rounding moved, and rows that are only near."""
    random = np.random.default_rng(3)
    first, second = (random.integers(2, size=(rows, 3)) + 0.5 for rows in (30, 40))
    second[:20] *= 1 + random.normal(size=(20, 3)) * 1e-9
    second[30:] *= 1 + 1e-4
    rows, others = score_norm._same_rows(first, second)
    expected = {(i, j) for i in range(30) for j in range(30) if np.allclose(first[i], second[j], rtol=1e-7)}
    assert len(rows) == len(expected) > 0
    assert set(zip(rows.tolist(), others.tolist(), strict=True)) == expected


def test_settings_and_fitted_attributes() -> None:
    scorer = Lopsided()
    model = NormalisedScorer(scorer, "s-norm", 7).fit(COHORT.astype(np.float32))
    assert model.cohort_.dtype == np.float64
    assert model.get_params() == {"scorer": scorer, "method": "s-norm", "num_nearest": 7}
    assert not hasattr(clone(model), "cohort_")


# Refusals


def refusal(call: object) -> str:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


def test_refusals() -> None:
    assert refusal(lambda: NormalisedScorer(Lopsided(), "asnorm").fit(COHORT)) == (
        'unknown score normalisation "asnorm"; did you mean "as-norm"?'
    )
    assert "num_nearest of at least 2, found 1" in refusal(
        lambda: NormalisedScorer(Lopsided(), num_nearest=1).fit(COHORT)
    )
    assert "cohort of at least 2 embeddings, found 1" in refusal(
        lambda: NormalisedScorer(Lopsided()).fit(COHORT[:1])
    )
    broken = COHORT.copy()
    broken[3, 1] = np.nan
    assert "NaN or infinity, first row 3" in refusal(lambda: NormalisedScorer(Lopsided()).fit(broken))
    assert "call fit first" in refusal(lambda: NormalisedScorer(Lopsided()).enrol_side(ENROL))


@pytest.mark.parametrize(("method", "side"), [("z-norm", "enrolment"), ("t-norm", "test")])
def test_a_side_whose_cohort_scores_are_equal(method: str, side: str) -> None:
    """No deviation to divide by: say which row, and do not go on with infinities."""
    scorer = wrap(method, cohort=np.repeat(COHORT[:1], 4, axis=0))
    make = scorer.enrol_side if side == "enrolment" else scorer.test_side
    assert f"all cohort scores of {side} row 0 are the same, and 9 of 9 rows are so" in refusal(lambda: make(TEST))
    alone = wrap(method, cohort=np.concatenate([TEST[2:3], TEST[2:3]]))  # itself is all there is
    make = alone.enrol_side if side == "enrolment" else alone.test_side
    assert "9 of 9" in refusal(lambda: make(TEST))


def test_sides_of_another_scorer() -> None:
    scorer, bare = wrap(), Lopsided()
    rows = torch.tensor([0])
    for call in (scorer.score_block, scorer.score_pairs, lambda e, t: scorer.score_listed(e, t, rows, rows)):
        for sides in (
            (bare.enrol_side(ENROL), scorer.test_side(ENROL)),
            (scorer.enrol_side(ENROL), bare.test_side(ENROL)),
        ):
            assert "without cohort statistics" in refusal(lambda call=call, sides=sides: call(*sides))
