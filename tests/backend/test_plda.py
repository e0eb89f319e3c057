"""PLDA against brute-force Gaussian densities, known truth, and Kaldi's own parameters and scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from spkadapt.backend.covariance import TwoCovariance, class_statistics
from spkadapt.backend.lda import Lda
from spkadapt.backend.normalise import LengthNormalisation
from spkadapt.backend.plda import Plda
from spkadapt.backend.plda_em import fit_two_covariance, log_likelihood, match_moments, step
from spkadapt.backend.plda_scoring import GaussianPlda, diagonalise
from spkadapt.errors import InputError
from spkadapt.kaldi_io import read_kaldi_matrix, read_kaldi_plda

if TYPE_CHECKING:
    from tests.backend.conftest import KaldiChain

RANDOM = np.random.default_rng(0)


def draw_model(dim: int, seed: int = 0) -> TwoCovariance:
    random = np.random.default_rng(seed)
    between, within = (random.normal(size=(dim, 2 * dim)) for _ in range(2))
    return TwoCovariance(random.normal(size=dim), between @ between.T / dim, within @ within.T / (3 * dim))


def draw_embeddings(model: TwoCovariance, counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    speakers = random.multivariate_normal(model.mean, model.between, size=len(counts))
    zeros = np.zeros(len(model.mean))
    return speakers[labels] + random.multivariate_normal(zeros, model.within, size=len(labels)), labels


def joint_log_density(model: TwoCovariance, utterances: np.ndarray) -> float:
    """Of utterances of one speaker, as one long Gaussian vector."""
    n = len(utterances)
    covariance = np.kron(np.ones((n, n)), model.between) + np.kron(np.eye(n), model.within)
    return multivariate_normal.logpdf(utterances.ravel(), np.tile(model.mean, n), covariance)


def brute_force_ratio(model: TwoCovariance, enrol: np.ndarray, test: np.ndarray) -> float:
    together = joint_log_density(model, np.vstack([enrol, test[None]]))
    return together - joint_log_density(model, enrol) - joint_log_density(model, test[None])


def scores_of(
    plda: GaussianPlda, enrol: np.ndarray, test: np.ndarray, models: np.ndarray | None = None
) -> np.ndarray:
    return plda.score_block(plda.enrol_side(enrol, models), plda.test_side(test)).numpy()


@given(dim=st.integers(1, 5), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_one_against_one_is_the_exact_ratio(dim: int, seed: int) -> None:
    model = draw_model(dim, seed)
    enrol, test = draw_embeddings(model, [1] * 3, seed)[0], draw_embeddings(model, [2] * 2, seed + 1)[0]
    expected = [[brute_force_ratio(model, e[None], t) for t in test] for e in enrol]
    assert_allclose(scores_of(Plda.from_model(model), enrol, test), expected, rtol=2e-5, atol=2e-5)


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), dim=st.integers(1, 4), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_by_the_book_is_the_exact_ratio_whatever_the_counts(counts: list[int], dim: int, seed: int) -> None:
    model = draw_model(dim, seed)
    enrol, models = draw_embeddings(model, counts, seed)
    test = draw_embeddings(model, [3], seed + 1)[0]
    shuffled = np.random.default_rng(seed).permutation(len(enrol))
    scores = scores_of(Plda.from_model(model, enrolment="by-the-book"), enrol[shuffled], test, models[shuffled])
    expected = [[brute_force_ratio(model, enrol[models == m], t) for t in test] for m in range(len(counts))]
    assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


def test_average_scores_the_mean_as_one_utterance() -> None:
    model = draw_model(3)
    enrol, models = draw_embeddings(model, [3, 1, 2])
    test = RANDOM.normal(size=(4, 3))
    means = np.stack([enrol[models == m].mean(axis=0) for m in range(3)])
    plda = Plda.from_model(model)
    assert_allclose(scores_of(plda, enrol, test, models), scores_of(plda, means, test), rtol=1e-5)
    book = Plda.from_model(model, enrolment="by-the-book")
    assert_allclose(scores_of(book, enrol, test), scores_of(plda, enrol, test), rtol=1e-5, atol=1e-5)


def test_sides_are_symmetric_and_as_wide_as_the_speaker_space(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = RANDOM.normal(size=(6, 2))
    model = TwoCovariance(np.zeros(6), factors @ factors.T, np.eye(6))
    plda = Plda.from_model(model)
    embeddings = RANDOM.normal(size=(20, 6))
    enrol, test = plda.enrol_side(embeddings), plda.test_side(embeddings)
    assert enrol.vectors.shape == (20, 2)
    assert_allclose(enrol.vectors, test.vectors, rtol=1e-6)
    assert_allclose(enrol.offsets, test.offsets, rtol=1e-5)
    assert Plda.from_model(model, enrolment="by-the-book").test_side(embeddings).vectors.shape == (20, 4)
    expected = brute_force_ratio(model, embeddings[:1], embeddings[1])
    assert plda.score_block(enrol, test)[0, 1].item() == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr("spkadapt.backend.plda_scoring._BLOCK_ROWS", 7)
    assert_allclose(plda.enrol_side(embeddings).vectors, enrol.vectors)
    assert_allclose(plda.test_side(embeddings).offsets, test.offsets)
    assert len(plda.test_side(embeddings[:0])) == len(plda.enrol_side(embeddings[:0])) == 0


def test_score_pairs_are_those_of_the_block() -> None:
    plda = Plda.from_model(draw_model(4), enrolment="by-the-book")
    enrol, test = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(3, 4))
    sides = plda.enrol_side(enrol, np.array([0, 0, 0, 1, 2, 2])), plda.test_side(test)
    assert_allclose(plda.score_pairs(*sides), plda.score_block(*sides).diagonal(), rtol=1e-5)


@pytest.mark.parametrize("enrolment", ["average", "by-the-book"])
def test_normalised_length_is_what_the_model_expects(enrolment: str) -> None:
    """Kaldi's rule: the transformed mean of n utterances, of variance ψ + 1/n, is scaled to Σ z²/(ψ + 1/n) = d."""
    model = draw_model(4)
    enrol, models = draw_embeddings(model, [3, 1])
    test = RANDOM.normal(size=(5, 4))
    plain, scaled = (Plda.from_model(model, enrolment=enrolment, normalise_length=on) for on in (False, True))

    def rescaled(embedding: np.ndarray, n: int) -> np.ndarray:
        z = embedding - model.mean
        return model.mean + z * np.sqrt(4 / (z @ np.linalg.inv(model.between + model.within / n) @ z))

    by_book = enrolment == "by-the-book"
    means = [rescaled(enrol[models == m].mean(axis=0), n if by_book else 1) for m, n in enumerate((3, 1))]
    # Utterances equal to the scaled mean have it as their mean.
    expected = scores_of(plain, np.stack(means)[models], np.stack([rescaled(t, 1) for t in test]), models)
    assert_allclose(scores_of(scaled, enrol, test, models), expected, rtol=1e-5, atol=1e-5)


def test_log_likelihood_is_the_joint_density() -> None:
    model = draw_model(3)
    embeddings, labels = draw_embeddings(model, [1, 3, 2, 3], seed=1)
    expected = sum(joint_log_density(model, embeddings[labels == label]) for label in range(4))
    plda = Plda.from_model(model)
    assert plda.log_likelihood(embeddings, labels) == pytest.approx(expected / 9, rel=1e-12)


def em_path(counts: list[int], *, update_mean: bool = True) -> Iterator[float]:
    embeddings, labels = draw_embeddings(draw_model(4), counts)
    statistics = class_statistics(embeddings, labels)
    model = TwoCovariance(np.ones(4), np.eye(4), np.eye(4))
    for _ in range(40):
        yield log_likelihood(statistics, model.mean, *diagonalise(model))
        model = step(statistics, model, update_mean=update_mean, floor=0.0)


@pytest.mark.parametrize("update_mean", [True, False])
def test_em_never_lowers_the_likelihood(update_mean: bool) -> None:
    path = np.array(list(em_path([1, 2, 3, 4, 5, 6, 7, 8], update_mean=update_mean)))
    assert (np.diff(path) > -1e-9).all()
    assert path[-1] - path[0] > 1


def test_em_with_a_floor_never_lowers_the_likelihood_and_ends() -> None:
    """With fewer embeddings than dimensions the likelihood has no bound but for the floor."""
    random = np.random.default_rng(0)
    embeddings, labels = random.normal(size=(12, 20)), np.repeat(np.arange(4), 3)
    path = [Plda(num_iterations=k).fit(embeddings, labels).log_likelihood(embeddings, labels) for k in range(8)]
    assert (np.diff(path) > -1e-9).all()
    assert path[-1] - path[-2] < 0.01 * (path[1] - path[0])


def test_em_ends_where_no_direction_is_uphill() -> None:
    """At the maximum, no small change of any of the parameters raises the likelihood."""
    embeddings, labels = draw_embeddings(draw_model(2), [1, 2, 3, 4] * 5)
    statistics = class_statistics(embeddings, labels)
    best = fit_two_covariance(statistics, 3000, 1e-6)

    def likelihood(mean: np.ndarray, between: np.ndarray, within: np.ndarray) -> float:
        return log_likelihood(statistics, mean, *diagonalise(TwoCovariance(mean, between, within)))

    top = likelihood(best.mean, best.between, best.within)
    symmetric = [np.array(m, dtype=float) for m in ([[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]])]
    for sign in (-1e-3, 1e-3):
        for change in sign * np.eye(2):
            assert likelihood(best.mean + change, best.between, best.within) < top
        for matrix in symmetric:
            assert likelihood(best.mean, best.between + sign * matrix, best.within) < top
            assert likelihood(best.mean, best.between, best.within + sign * matrix) < top


def test_balanced_classes_have_their_closed_form() -> None:
    """With n each and B inside the cone, W = S / (N − K) and B = cov(means) − W / n."""
    embeddings, labels = draw_embeddings(draw_model(3), [5] * 200)
    plda = Plda(num_iterations=50).fit(embeddings, labels)
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in range(200)])
    within = (embeddings - means[labels]).T @ (embeddings - means[labels]) / 800
    assert_allclose(plda.within_, within, rtol=1e-6, atol=1e-9)
    assert_allclose(plda.between_, np.cov(means.T, bias=True) - within / 5, rtol=1e-6, atol=1e-8)
    assert_allclose(plda.mean_, embeddings.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("estimator", ["em", "kaldi"])
def test_em_recovers_the_truth(estimator: str) -> None:
    model = draw_model(3)
    embeddings, labels = draw_embeddings(model, [1, 2, 3, 6] * 1000)
    plda = Plda(estimator, num_iterations=30).fit(embeddings, labels)
    assert_allclose(plda.mean_, model.mean, atol=0.1)
    assert_allclose(plda.within_, model.within, atol=0.04 * np.abs(model.within).max())
    assert_allclose(plda.between_, model.between, atol=0.08 * np.abs(model.between).max())


def test_matched_moments_have_no_bias() -> None:
    """The mean estimate over many draws is the truth; with unequal counts too."""
    model = draw_model(2)
    draws = [
        match_moments(class_statistics(*draw_embeddings(model, [2, 3, 9] * 10, seed)), 1e-9) for seed in range(300)
    ]
    assert_allclose(np.mean([d.within for d in draws], axis=0), model.within, atol=0.02 * model.within.max())
    assert_allclose(np.mean([d.between for d in draws], axis=0), model.between, atol=0.06 * model.between.max())


def test_scores_do_not_change_under_an_invertible_map() -> None:
    embeddings, labels = draw_embeddings(draw_model(4), [1, 2, 3, 4] * 6)
    test = RANDOM.normal(size=(5, 4))
    matrix = RANDOM.normal(size=(4, 4)) * [1, 10, 100, 1000]
    before = scores_of(Plda().fit(embeddings, labels), embeddings, test)
    after = scores_of(Plda().fit(embeddings @ matrix + 7, labels), embeddings @ matrix + 7, test @ matrix + 7)
    assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_constant_and_repeated_dimensions_change_no_score() -> None:
    embeddings, labels = draw_embeddings(draw_model(3), [1, 2, 3, 4] * 6)
    wide = np.hstack([embeddings, embeddings[:, :1] - embeddings[:, 1:2], np.full((len(labels), 2), 0.1)])
    plda = Plda().fit(wide, labels)
    assert plda.transform_.shape == (3, 6)
    expected = scores_of(Plda().fit(embeddings, labels), embeddings, embeddings)
    assert_allclose(scores_of(plda, wide, wide), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("estimator", ["em", "kaldi"])
def test_fewer_embeddings_than_dimensions(estimator: str) -> None:
    """Scores are finite, and the training speakers come out right."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 2)[:-1]
    embeddings = random.normal(size=(10, 50))[labels] + 0.3 * random.normal(size=(19, 50))
    plda = Plda(estimator).fit(embeddings, labels)
    scores = scores_of(plda, embeddings, embeddings)
    same = labels[:, None] == labels
    assert np.isfinite(scores).all()
    assert scores[same].min() > scores[~same].max()


def test_a_share_within_speakers_of_less_than_the_floor_is_raised_to_it() -> None:
    """Utterances that repeat exactly: ψ + 1 = 1 / share, at most 1 / floor of the total of the data."""
    embeddings, labels = np.repeat(RANDOM.normal(size=(30, 3)), 2, axis=0), np.repeat(np.arange(30), 2)
    for floor in (1e-2, 1e-4):
        assert_allclose(Plda(floor=floor).fit(embeddings, labels).psi_, 1 / floor, rtol=0.02)


def test_shrinkage_draws_both_covariances_towards_the_identity() -> None:
    embeddings, labels = draw_embeddings(draw_model(3), [3] * 20)
    plain, shrunk = Plda().fit(embeddings, labels), Plda(shrinkage=0.25).fit(embeddings, labels)
    for before, after in ((plain.between_, shrunk.between_), (plain.within_, shrunk.within_)):
        assert_allclose(after, 0.75 * before + 0.25 * np.trace(before) / 3 * np.eye(3), rtol=1e-9)
    wide = np.random.default_rng(0).normal(size=(60, 100))
    assert Plda(shrinkage=0.1).fit(wide, labels).transform_.shape == (100, 100)
    isotropic = Plda(shrinkage=1.0).fit(embeddings, labels)
    assert_allclose(isotropic.psi_, np.trace(plain.between_) / np.trace(plain.within_))


def test_a_singular_model_still_scores() -> None:
    model = TwoCovariance(np.zeros(2), np.eye(2), np.diag([1.0, 0.0]))
    transform, psi = diagonalise(model)
    assert_allclose(psi, [1e8, 1], rtol=1e-6)
    assert_allclose(transform @ np.diag([1, 1e-8]) @ transform.T, np.eye(2), atol=1e-6)
    negative = TwoCovariance(np.zeros(2), np.diag([1.0, -0.1]), np.eye(2))
    assert_allclose(diagonalise(negative)[1], [1, 0], atol=1e-12)


def test_kaldi_triple_round_trip() -> None:
    embeddings, labels = draw_embeddings(draw_model(4), [3] * 20)
    plda = Plda("kaldi", enrolment="by-the-book", normalise_length=True).fit(embeddings, labels)
    mean, transform, psi = plda.to_kaldi()
    again = Plda.from_kaldi(mean, transform, psi)
    assert_allclose(again.within_, plda.within_, rtol=1e-9, atol=1e-12)
    assert_allclose(again.between_, plda.between_, rtol=1e-9, atol=1e-12)
    assert again.get_params() == plda.get_params()
    assert_allclose(scores_of(again, embeddings, embeddings), scores_of(plda, embeddings, embeddings), rtol=1e-6)
    rising = Plda.from_kaldi(mean, transform[::-1], psi[::-1])
    assert_allclose(rising.psi_, plda.psi_)


def test_parity_with_kaldi(kaldi_chain: KaldiChain) -> None:
    """From the embeddings through LDA, length normalisation and PLDA to 5,000 scores of real calls."""
    chain = kaldi_chain
    lda, length = Lda(100).fit(chain.source, chain.speakers), LengthNormalisation("sqrt-dim")
    source, calls = (length.transform(lda.transform(x)) for x in (chain.source, chain.target_domain))
    plda = Plda("kaldi", enrolment="by-the-book", normalise_length=True).fit(source, chain.speakers)

    trials = [line.split() for line in (chain.folder / "scores_plda.txt").read_text().splitlines()]
    place = {name: row for row, name in enumerate(chain.utterance_ids)}
    enrol, test = (calls[[place[trial[side]] for trial in trials]] for side in (0, 1))
    expected = np.array([float(trial[2]) for trial in trials])
    scores = plda.score_pairs(plda.enrol_side(enrol), plda.test_side(test)).numpy()
    assert len(scores) == 5000
    # Scores near 0 are differences of terms of about 100, of which Kaldi's float32 input leaves six digits.
    assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)

    mean, transform, psi = read_kaldi_plda(chain.folder / "plda")
    assert_allclose(plda.psi_, psi, rtol=1e-6)
    # Kaldi's rows of LDA may have the other sign, and in that basis it estimated.
    signs = np.sign((lda.to_kaldi() * read_kaldi_matrix(chain.folder / "lda.mat")).sum(axis=1))
    theirs = Plda.from_kaldi(mean, transform, psi)
    for ours, kaldis in ((plda.within_, theirs.within_), (plda.between_, theirs.between_)):
        assert_allclose(signs[:, None] * ours * signs, kaldis, atol=1e-6 * np.abs(kaldis).max())
    assert_allclose(signs * plda.mean_, mean, atol=1e-6 * np.abs(source).max())
    scores = theirs.score_pairs(theirs.enrol_side(enrol * signs), theirs.test_side(test * signs)).numpy()
    assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)


def test_refusals() -> None:
    embeddings, labels = draw_embeddings(draw_model(3), [2] * 4)

    def refusal(call: object, *args: object, **kwargs: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args, **kwargs)  # type: ignore[operator]
        return str(caught.value)

    assert refusal(Plda("kaldy").fit, embeddings, labels) == 'no estimator "kaldy": did you mean "kaldi"?'
    assert "found num_iterations -1 and floor 0.0001" in refusal(Plda(num_iterations=-1).fit, embeddings, labels)
    assert "shrinkage to be from 0 to 1, found 2" in refusal(Plda(shrinkage=2).fit, embeddings, labels)
    assert "floor between 0 and 1" in refusal(Plda(floor=0).fit, embeddings, labels)
    assert "one class for each of 8" in refusal(Plda().fit, embeddings, labels[1:])
    assert "at least two classes" in refusal(Plda().fit, embeddings, np.zeros(8))
    assert "two or more embeddings" in refusal(Plda().fit, embeddings, np.arange(8))
    assert "hold NaN" in refusal(Plda().fit, np.full((8, 3), np.nan), labels)
    assert "found eigenvalues from 0 to 0" in refusal(Plda().fit, np.ones((8, 3)), labels)
    plda = Plda(enrolment="averages").fit(embeddings, labels)
    assert refusal(plda.test_side, embeddings) == 'no enrolment "averages": did you mean "average"?'
    assert "3 dimensions as in fit, found 2" in refusal(
        Plda().fit(embeddings, labels).test_side, embeddings[:, 1:]
    )
    assert "no utterance enrols model 1" in refusal(
        Plda().fit(embeddings, labels).enrol_side, embeddings, labels * 2
    )
    for method in (Plda().test_side, Plda().enrol_side):
        assert "call fit first" in refusal(method, embeddings)
    assert "call fit first" in refusal(Plda().log_likelihood, embeddings, labels)
    assert "call fit first" in refusal(Plda().to_kaldi)
    normalising = Plda.from_model(draw_model(3), normalise_length=True)
    assert "the model's own mean" in refusal(normalising.test_side, normalising.mean_[None])
    indefinite = TwoCovariance(np.zeros(2), np.diag([1.0, -2.0]), np.eye(2))
    assert "found eigenvalues from -1 to 2" in refusal(Plda.from_model, indefinite)
    narrow = Plda().fit(np.hstack([embeddings, np.ones((8, 1))]), labels)
    assert "all 4 dimensions, found 3" in refusal(narrow.to_kaldi)
    eye = np.eye(2)
    assert "psi (3,)" in refusal(Plda.from_kaldi, np.zeros(2), eye, np.ones(3))
    assert "transform (2, 3)" in refusal(Plda.from_kaldi, np.zeros(2), np.ones((2, 3)), np.ones(2))
    assert "invertible" in refusal(Plda.from_kaldi, np.zeros(2), np.ones((2, 2)), np.ones(2))
    assert "at least 0" in refusal(Plda.from_kaldi, np.zeros(2), eye, np.array([1, -0.1]))
