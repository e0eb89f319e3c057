"""Choosing without labels: on made domains where the truth is known, and the rule itself on made scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spkadapt.backend.adapted import (
    CENTRED,
    COSINE_METHOD,
    NO_ADAPTATION,
    SourceData,
    TargetDomainData,
    prepare_backend,
)
from spkadapt.errors import InputError
from spkadapt.intervals import compare_paired
from spkadapt.metrics import compute_eer
from spkadapt.select import Candidate, Choice, choose_backend
from spkadapt.select import backends as select
from spkadapt.select.pool_trials import mean_cosines, pair_nearest

DIM, NUM_SPEAKERS, CALLS, PER_CALL = 12, 40, 2, 6
QUICK = (NO_ADAPTATION, COSINE_METHOD)


def make_domain(spread: np.ndarray, seed: int = 0, shift: float = 0.0) -> tuple[TargetDomainData, np.ndarray]:
    """Calls of speakers who call twice, utterances spread within a call as said; and who speaks."""
    random = np.random.default_rng(seed)
    call_of = np.repeat(np.arange(NUM_SPEAKERS * CALLS), PER_CALL)
    speaker_of = call_of // CALLS
    embeddings = random.normal(size=(NUM_SPEAKERS, DIM))[speaker_of] + shift
    embeddings += 0.1 * random.normal(size=(NUM_SPEAKERS * CALLS, DIM))[call_of]
    embeddings += spread * random.normal(size=(len(call_of), DIM))
    return TargetDomainData(embeddings, call_of.astype(str)), speaker_of


def make_source() -> SourceData:
    random = np.random.default_rng(9)
    speakers = np.repeat(np.arange(30), 5)
    return SourceData(random.normal(size=(30, DIM))[speakers] + 0.5 * random.normal(size=(150, DIM)), speakers)


UNEVEN = np.concatenate([np.full(4, 4.0), np.full(DIM - 4, 0.2)])


def true_eer(choice: Choice, pool: TargetDomainData, seed: int = 77) -> float:
    """On other callers of the same domain, pairs across calls."""
    tested, speakers = make_domain(UNEVEN, seed)
    backend = prepare_backend(choice.method, make_source(), pool).at(choice.strength)
    vectors = backend.transform(tested.embeddings)
    scores = backend.scorer.score_block(backend.scorer.enrol_side(vectors), backend.scorer.test_side(vectors))
    assert tested.sessions is not None
    across = tested.sessions[:, None] != tested.sessions
    return compute_eer(scores.numpy()[across], (speakers[:, None] == speakers)[across])


def test_directions_that_vary_within_calls_are_found_and_played_down() -> None:
    pool, _ = make_domain(UNEVEN)
    choice = choose_backend(make_source(), pool, methods=QUICK)
    assert choice.method == COSINE_METHOD
    assert choice.strength > 0
    assert true_eer(choice, pool) < 0.7 * true_eer(replace(choice, strength=0.0), pool)


def test_pseudo_speakers_rank_strengths_as_true_speakers_do() -> None:
    pool, _ = make_domain(UNEVEN)
    choice = choose_backend(make_source(), pool, methods=(COSINE_METHOD,))
    pseudo = [candidate.pseudo_eer for candidate in choice.candidates]
    true = [true_eer(Choice(one.method, one.strength, ""), pool) for one in choice.candidates]
    assert np.corrcoef(np.array(pseudo, dtype=float), true)[0, 1] > 0.8


def test_a_shift_of_the_domain_is_what_no_adaptation_loses_by() -> None:
    pool, _ = make_domain(np.full(DIM, 0.5), shift=5.0)
    choice = choose_backend(make_source(), pool, methods=QUICK)
    worst = max(choice.candidates, key=lambda one: one.pseudo_eer or 0)
    assert worst.method == NO_ADAPTATION
    assert choice.method == COSINE_METHOD


def test_the_order_of_the_utterances_is_of_no_account_and_the_seed_is() -> None:
    pool, _ = make_domain(UNEVEN)
    shuffled = pool.select(np.random.default_rng(1).permutation(len(pool.embeddings)))
    first = choose_backend(make_source(), pool, methods=QUICK)
    again = choose_backend(make_source(), shuffled, methods=QUICK)
    assert choose_backend(make_source(), pool, methods=QUICK) == first
    assert (again.method, again.strength) == (first.method, first.strength)
    assert [one.pseudo_eer for one in again.candidates] == pytest.approx(
        [one.pseudo_eer for one in first.candidates], abs=1e-6
    )
    other = choose_backend(make_source(), pool, methods=QUICK, seed=1)
    assert [one.pseudo_eer for one in other.candidates] != [one.pseudo_eer for one in first.candidates]


def test_names_of_calls_are_of_no_account() -> None:
    pool, _ = make_domain(UNEVEN)
    assert pool.sessions is not None
    renamed = replace(pool, sessions=np.char.add("z", np.char.zfill(pool.sessions, 4)))
    numbered = replace(pool, sessions=np.char.zfill(pool.sessions, 4))
    source = make_source()
    assert choose_backend(source, renamed, methods=QUICK) == choose_backend(source, numbered, methods=QUICK)


@pytest.mark.parametrize(("sessions", "reason"), [(None, "no sessions are known"), (19, "19 sessions are known")])
def test_without_enough_calls_nothing_is_compared(sessions: int | None, reason: str) -> None:
    pool, _ = make_domain(UNEVEN)
    known = None if sessions is None else np.arange(len(pool.embeddings)) % sessions
    choice = choose_backend(make_source(), replace(pool, sessions=known))
    assert (choice.method, choice.strength, choice.candidates) == (CENTRED, 0.0, ())
    assert choice.reason.startswith(reason)
    with pytest.raises(
        InputError, match=f"{reason}, fewer than 20, so no strength can be chosen for coral: say which"
    ):
        choose_backend(make_source(), replace(pool, sessions=known), methods=("coral",))


def test_a_method_that_cannot_be_fitted_is_listed_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: str, *arguments: object, **settings: object) -> object:
        if method == "coral":
            raise InputError("too little of everything")
        return prepare_backend(method, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(select, "prepare_backend", fail)
    pool, _ = make_domain(UNEVEN)
    seen: list[tuple[int, str]] = []
    choice = choose_backend(
        make_source(), pool, methods=("coral", *QUICK), on_progress=lambda *step: seen.append(step)
    )
    assert choice.candidates[0] == Candidate("coral", 1.0, None, "too little of everything")
    assert choice.method in QUICK
    with pytest.raises(InputError, match="no method can be fitted: too little of everything"):
        choose_backend(make_source(), pool, methods=("coral",))
    assert seen == [(0, "coral"), (1, NO_ADAPTATION), (2, COSINE_METHOD)]


class TestTheRule:
    """`_choose` on made scores of 30 pseudo-speakers with two utterances each, in two halvings."""

    SPEAKERS = np.repeat(np.arange(30), 2)
    FIRST, SECOND = np.triu_indices(60, 1)

    def halvings(self) -> list[select._Halving]:
        enrol, test = self.SPEAKERS[self.FIRST], self.SPEAKERS[self.SECOND]
        return [select._Halving((), (), (), enrol == test, enrol, test)] * 2

    def choose(self, gaps: dict[tuple[str, float], float | tuple[float, float]]) -> Choice:
        """Each candidate's targets lie `gap` above its non-targets, in both halvings or in each as said."""
        halvings = self.halvings()
        noise = np.random.default_rng(0).normal(size=(2, len(self.FIRST)))
        scores = {}
        for (method, strength), gap in gaps.items():
            both = (gap, gap) if isinstance(gap, float) else gap
            found = [n + g * h.is_target for n, g, h in zip(noise, both, halvings, strict=True)]
            scores[Candidate(method, strength, select._mean_eer(found, halvings))] = found
        return select._choose(scores, halvings)

    def test_another_method_needs_a_clear_lead(self) -> None:
        narrow = self.choose({(COSINE_METHOD, 0.2): 2.0, ("kaldi", 1.0): 2.05, (NO_ADAPTATION, 0.0): 1.0})
        assert narrow.method == COSINE_METHOD
        assert "no other method is clearly below" in narrow.reason
        wide = self.choose({(COSINE_METHOD, 0.2): 1.0, ("kaldi", 1.0): 4.0, (NO_ADAPTATION, 0.0): 1.0})
        assert (wide.method, wide.strength) == ("kaldi", 1.0)
        assert "clearly below" in wide.reason

    def test_another_method_must_lead_in_every_halving(self) -> None:
        once = self.choose({(COSINE_METHOD, 0.2): 1.0, ("kaldi", 1.0): (6.0, 1.0)})
        assert once.method == COSINE_METHOD

    def test_the_more_methods_are_tried_the_clearer_a_lead_must_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        levels = []

        def compare(*arguments: object, level: float, **settings: object) -> object:
            levels.append(level)
            return compare_paired(*arguments, level=level, **settings)  # type: ignore[arg-type]

        monkeypatch.setattr(select, "compare_paired", compare)
        others = {(name, 1.0): 4.0 for name in ("kaldi", "coral", "fda", "idvc")}
        self.choose({(COSINE_METHOD, 0.2): 1.0, (CENTRED, 0.0): 0.5, **others})
        assert set(levels) == {1 - 0.05 / 4}

    def test_leaving_it_alone_wins_where_it_is_best(self) -> None:
        choice = self.choose({(COSINE_METHOD, 0.3): 1.0, (NO_ADAPTATION, 0.0): 3.0, ("kaldi", 1.0): 1.0})
        assert choice.method == NO_ADAPTATION

    def test_one_method_alone_is_chosen(self) -> None:
        choice = self.choose({("kaldi", 0.5): 3.0})
        assert (choice.method, choice.strength) == ("kaldi", 0.5)


def test_each_method_enters_at_its_least() -> None:
    pool, _ = make_domain(UNEVEN)
    choice = choose_backend(make_source(), pool, methods=(COSINE_METHOD,))
    least = min(choice.candidates, key=lambda one: one.pseudo_eer or 1)
    assert choice.strength == least.strength


def test_the_sources_plda_enters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[str, float]] = []

    def choose(scores: dict[Candidate, object], halvings: object) -> Choice:
        entered.extend((one.method, one.strength) for one in scores)
        return Choice(CENTRED, 0.0, "")

    monkeypatch.setattr(select, "_choose", choose)
    monkeypatch.setattr(select, "_PLDA_STRENGTHS", (0.0,))
    pool, _ = make_domain(UNEVEN)
    choose_backend(make_source(), pool, methods=("kaldi", "coral", CENTRED))
    assert entered == [("kaldi", 0.0), (CENTRED, 0.0)]


def test_pairs_are_calls_that_are_each_others_nearest() -> None:
    """a and b point one way, c nearly so; c's nearest is b, but b's is a. d is alone."""
    means = np.array([[1, 0, 0], [1, 0.1, 0], [1, 0.6, 0], [0, 0, 1]], dtype=float)
    calls = np.repeat(np.arange(4), 2)
    np.testing.assert_array_equal(pair_nearest(mean_cosines(means[calls], calls, 4)), [0, 0, 2, 3])


def test_halvings_part_calls_and_compare_across_them() -> None:
    pool, _ = make_domain(UNEVEN)
    assert pool.sessions is not None
    for halving in select._halve(pool, np.unique(pool.sessions), seed=0):
        trials = 0
        for fitted_on, rows, pairs in zip(halving.fitted_on, halving.rows, halving.pairs, strict=True):
            assert not set(pool.sessions[fitted_on]) & set(pool.sessions[rows])
            first, second = np.divmod(pairs, len(rows))
            assert (pool.sessions[rows[first]] != pool.sessions[rows[second]]).all()
            half = len(rows)
            assert len(pairs) == half * (half - PER_CALL) // 2
            trials += len(pairs)
        assert len(halving.is_target) == trials
        assert 0 < halving.is_target.mean() < 0.05


# Calls held out of training -----------------------------------------------------------------------------------


def held_out_calls(pool: TargetDomainData, number: int) -> np.ndarray:
    assert pool.sessions is not None
    return pool.sessions.astype(int) < number


def test_halvings_compare_what_is_held_out_and_fit_on_all_else() -> None:
    pool, _ = make_domain(UNEVEN)
    assert pool.sessions is not None
    held_out = held_out_calls(pool, 30)
    for halving in select._halve(pool, np.unique(pool.sessions[held_out]), seed=0):
        tested = np.concatenate(halving.rows)
        np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(held_out))
        for fitted_on, rows in zip(halving.fitted_on, halving.rows, strict=True):
            np.testing.assert_array_equal(np.sort(np.concatenate([fitted_on, rows])), np.arange(len(held_out)))


def test_calls_known_by_heart_hide_what_only_held_out_calls_show() -> None:
    """Of calls that an extractor has learnt, each is one point: nothing is left to centre or to play down."""
    pool, speakers = make_domain(UNEVEN, shift=5.0)
    held_out = held_out_calls(pool, 20)
    points = np.random.default_rng(5).normal(size=(NUM_SPEAKERS, DIM))[speakers]
    learnt = replace(pool, embeddings=np.where(held_out[:, None], pool.embeddings, points))
    honest, by_all, by_held_out = (
        min(one.pseudo_eer or 0 for one in choice.candidates)
        for choice in (
            choose_backend(make_source(), pool, methods=QUICK),
            choose_backend(make_source(), learnt, methods=QUICK),
            choose_backend(make_source(), learnt, methods=QUICK, held_out=held_out),
        )
    )
    assert by_all < 0.6 * honest
    assert by_held_out > 0.9 * honest


def test_all_held_out_is_none_held_out() -> None:
    pool, _ = make_domain(UNEVEN)
    everything = np.ones(len(pool.embeddings), dtype=bool)
    choice = choose_backend(make_source(), pool, methods=QUICK, held_out=everything)
    assert choice == choose_backend(make_source(), pool, methods=QUICK)


def test_too_few_or_broken_calls_held_out() -> None:
    pool, _ = make_domain(UNEVEN)
    choice = choose_backend(make_source(), pool, methods=(*QUICK, CENTRED), held_out=held_out_calls(pool, 19))
    assert choice == Choice(CENTRED, 0.0, "19 sessions are held out, fewer than 20, so nothing can be compared")
    broken = held_out_calls(pool, 30)
    broken[0] = False
    with pytest.raises(InputError, match=r"^1 sessions are held out in part: 0$"):
        choose_backend(make_source(), pool, methods=QUICK, held_out=broken)
