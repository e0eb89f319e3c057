"""Heavy-tailed PLDA against densities integrated over speakers, and Gaussian PLDA as its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, multivariate_t, norm

from spkadapt.backend import heavy_tailed
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.heavy_tailed import HeavyTailedPlda, chebyshev_series
from spkadapt.backend.heavy_tailed_em import fit_heavy_tailed, log_student, reduce_rank
from spkadapt.backend.plda import Plda
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer

GRID = np.linspace(-20, 20, 4001)


def random_model(dim: int, rank: int, rng: np.random.Generator) -> TwoCovariance:
    loadings, noise = 2 * rng.normal(size=(dim, rank)), rng.normal(size=(dim, 2 * dim))
    return TwoCovariance(rng.normal(size=dim), loadings @ loadings.T, noise @ noise.T / (2 * dim))


def draw(model: TwoCovariance, labels: np.ndarray, nu: float, rng: np.random.Generator) -> np.ndarray:
    speakers = rng.multivariate_normal(model.mean, model.between, size=labels.max() + 1)
    noise = rng.multivariate_normal(np.zeros(len(model.mean)), model.within, size=len(labels))
    return speakers[labels] + noise / np.sqrt(rng.gamma(nu / 2, 2 / nu, size=(len(labels), 1)))


RNG = np.random.default_rng(0)
TRUTH = random_model(12, 2, RNG)
LABELS = np.r_[np.repeat(np.arange(60), 4), np.arange(60, 90)]  # thirty singletons
EMBEDDINGS = draw(TRUTH, LABELS, 2.0, RNG)
MODEL = HeavyTailedPlda(2, 2.0).fit(EMBEDDINGS, LABELS)


def exact_log_joint(model: TwoCovariance, xs: np.ndarray, nu: float) -> float:
    """log p(x₁ … xₙ) of one speaker, whose `between` is of rank 1, by integration over him."""
    eigenvalues, vectors = np.linalg.eigh(model.between)
    loading = vectors[:, -1] * np.sqrt(eigenvalues[-1])
    means = model.mean + GRID[:, None] * loading
    density = (
        multivariate_t(shape=model.within, df=nu) if np.isfinite(nu) else multivariate_normal(cov=model.within)
    )
    log_densities = norm.logpdf(GRID) + sum(density.logpdf(x - means) for x in xs)
    peak = log_densities.max()
    return float(peak + np.log(np.exp(log_densities - peak).sum() * (GRID[1] - GRID[0])))


@pytest.mark.parametrize("nu", [0.5, 2.0, 30.0, np.inf])
def test_student_density(nu: float) -> None:
    x = RNG.normal(size=(5, 3)) * 3
    expected = multivariate_normal(np.zeros(3)) if np.isinf(nu) else multivariate_t(np.zeros(3), df=nu)
    np.testing.assert_allclose(log_student((x**2).sum(axis=1), 3, nu), expected.logpdf(x), rtol=1e-12)


def bound_and_likelihood(nu: float) -> tuple[float, float]:
    """The bound at a model that four updates of the posterior have reached, and the true log-likelihood there."""
    rng = np.random.default_rng(1)
    labels = np.array([0, 0, 0, 1, 1, 2])
    model = reduce_rank(random_model(6, 1, rng), 1)
    embeddings = draw(model, labels, 3.0, rng)
    settings = {"speaker_dim": 1, "degrees_of_freedom": nu, "floor": 1e-6}
    model, _ = fit_heavy_tailed(embeddings, labels, model, num_iterations=3, **settings)
    _, bounds = fit_heavy_tailed(embeddings, labels, model, num_iterations=0, **settings)
    return bounds[0], sum(exact_log_joint(model, embeddings[labels == k], nu) for k in range(3))


def test_bound_is_below_the_log_likelihood_and_near() -> None:
    bound, likelihood = bound_and_likelihood(3.0)
    assert likelihood - 2 < bound < likelihood


def test_bound_of_gaussian_plda_is_the_log_likelihood() -> None:
    bound, likelihood = bound_and_likelihood(np.inf)
    assert bound == pytest.approx(likelihood, rel=1e-9)


@pytest.mark.parametrize("nu", [0.5, 2.0, 20.0, np.inf])
def test_bound_never_falls(nu: float) -> None:
    bounds = HeavyTailedPlda(3, nu, num_iterations=30).fit(EMBEDDINGS, LABELS).bounds_
    assert len(bounds) == 31
    assert np.diff(bounds).min() > -1e-12
    assert bounds[-1] - bounds[0] > 0.01


def test_bound_is_of_the_embeddings_as_given() -> None:
    """Where ν = ∞, it is the log-likelihood that Gaussian PLDA has for the same model."""
    model = HeavyTailedPlda(4, np.inf, num_iterations=5).fit(EMBEDDINGS, LABELS)
    assert Plda.from_model(model.model_).log_likelihood(EMBEDDINGS, LABELS) == pytest.approx(model.bounds_[-1])


def test_utterance_weights_approximate_the_exact_ratio() -> None:
    """With many dimensions that tell nothing of the speaker, the weights b come near the true model's scores.

    Weights of one, as in Gaussian PLDA, are nats away.
    """
    rng = np.random.default_rng(2)
    model, labels = random_model(200, 1, rng), np.array([0, 0, 1, 2])
    model = TwoCovariance(model.mean, model.between / 200, model.within)
    xs = draw(model, labels, 2.0, rng)
    alone = [exact_log_joint(model, xs[[i]], 2.0) for i in range(4)]
    pairs = np.tril_indices(4, -1)
    exact = [exact_log_joint(model, xs[[i, j]], 2.0) - alone[i] - alone[j] for i, j in zip(*pairs, strict=True)]
    scores = {}
    for nu in (2.0, np.inf):
        plda = HeavyTailedPlda.from_model(model, speaker_dim=1, degrees_of_freedom=nu)
        side = plda.test_side(xs)
        scores[nu] = plda.score_block(side, side).numpy()[pairs]
    np.testing.assert_allclose(scores[2.0], exact, rtol=0.03)
    assert np.abs(scores[np.inf] - exact).max() > 5


def twin(model: HeavyTailedPlda, enrol: np.ndarray, test: np.ndarray) -> float:
    """The ratio of Gaussian densities of the first d dimensions, each utterance with covariance within/b."""
    z = (np.vstack([enrol, test]) - model.mean_) @ model.transform_.T
    d, nu = len(model.psi_), model.degrees_of_freedom
    rest = z[:, d:]
    b = (nu + rest.shape[1]) / (nu + (rest**2).sum(axis=1)) if np.isfinite(nu) else np.ones(len(z))

    def log_joint(rows: list[int]) -> float:
        covariance = np.kron(np.ones((len(rows), len(rows))), np.diag(model.psi_)) + np.kron(
            np.diag(1 / b[rows]), np.eye(d)
        )
        return float(multivariate_normal.logpdf(z[rows, :d].ravel(), cov=covariance))

    everyone = list(range(len(z)))
    return log_joint(everyone) - log_joint(everyone[:-1]) - log_joint(everyone[-1:])


@pytest.mark.parametrize("tile", [1, 3, 512])
@pytest.mark.parametrize("nu", [1.0, np.inf])
def test_blocks_and_pairs_match_a_twin(tile: int, nu: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heavy_tailed, "TILE", tile)
    model = HeavyTailedPlda.from_model(TRUTH, speaker_dim=2, degrees_of_freedom=nu)
    model_of = np.array([0, 1, 1, 2, 1, 3, 4])
    enrol, test = EMBEDDINGS[10:17], EMBEDDINGS[200:205]
    expected = np.array([[twin(model, enrol[model_of == m], t[None]) for t in test] for m in range(5)])
    sides = model.enrol_side(enrol, model_of), model.test_side(test)
    scores = model.score_block(*sides)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(model.score_pairs(*sides), np.diag(expected), atol=1e-4)
    assert model.score_block(sides[0].rows(slice(0)), sides[1]).shape == (0, 5)
    assert model.score_block(sides[0], sides[1].rows(slice(0))).shape == (5, 0)


def test_scores_of_outliers_are_as_exact() -> None:
    """Utterances that count from a millionth to hundreds of times as much as each other, in one block."""
    rng = np.random.default_rng(3)
    model = HeavyTailedPlda.from_model(random_model(30, 10, rng), speaker_dim=10, degrees_of_freedom=1.0)
    xs = model.mean_ + rng.normal(size=(25, 30)) * np.geomspace(1e-3, 1e3, 25)[:, None]
    model_of = np.r_[np.zeros(12, dtype=int), np.arange(1, 14)]
    sides = model.enrol_side(xs, model_of), model.test_side(xs[:14])
    pairs = [model.score_pairs(sides[0].rows(torch.full((14,), m)), sides[1]) for m in range(14)]
    np.testing.assert_allclose(model.score_block(*sides), torch.stack(pairs), rtol=1e-5, atol=1e-4)


@given(st.floats(-6, 3), st.floats(0, 6), st.lists(st.floats(-8, 8), min_size=1, max_size=4))
def test_series_is_as_near_as_it_says(start: float, decades: float, exponents: list[float]) -> None:
    low, high = 10.0**start, 10.0 ** (start + decades)
    psi = 10.0 ** np.array(exponents)
    series = chebyshev_series(psi, low, high)
    x = np.linspace(-1, 1, 101)
    s = np.sqrt(low * high) * (high / low) ** (x / 2)
    growth = 1 + s[:, None] * psi
    values = np.polynomial.chebyshev.chebval(x, series).T
    np.testing.assert_allclose(values[:, :-1], 0.5 / growth, atol=3e-8)
    assert np.abs(values[:, -1] + np.log(growth).sum(axis=1) / 2).max() < 3e-7 * len(psi)
    assert decades > 0 or len(series) == 1


@pytest.mark.parametrize("speaker_dim", [2, 12])
def test_gaussian_plda_is_the_limit_of_many_degrees_of_freedom(speaker_dim: int) -> None:
    """By the book, with one utterance or several, whatever the rank; and 10⁷ degrees come near infinitely many."""
    model = HeavyTailedPlda(speaker_dim, np.inf).fit(EMBEDDINGS, LABELS)
    gaussian = Plda.from_model(model.model_, enrolment="by-the-book")
    model_of = np.array([0, 1, 1, 2, 1, 3])
    enrol, test = EMBEDDINGS[:6], EMBEDDINGS[6:30]
    expected = gaussian.score_block(gaussian.enrol_side(enrol, model_of), gaussian.test_side(test))
    assert expected.abs().max() > 5
    scores = model.score_block(model.enrol_side(enrol, model_of), model.test_side(test))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    if speaker_dim < 12:
        near = HeavyTailedPlda(speaker_dim, 1e7).fit(EMBEDDINGS, LABELS)
        scores = near.score_block(near.enrol_side(enrol, model_of), near.test_side(test))
        np.testing.assert_allclose(scores, expected, rtol=1e-2, atol=1e-2)


def test_gaussian_em_reaches_the_maximum_likelihood_of_plda() -> None:
    rng = np.random.default_rng(4)
    model = random_model(4, 4, rng)
    labels = np.repeat(np.arange(80), 4)
    embeddings = draw(TwoCovariance(model.mean, model.between + np.eye(4), model.within), labels, 1e9, rng)
    ours = HeavyTailedPlda(4, np.inf, num_iterations=100).fit(embeddings, labels)
    plda = Plda(num_iterations=1000).fit(embeddings, labels)
    assert ours.bounds_[-1] == pytest.approx(plda.log_likelihood(embeddings, labels), rel=1e-9)
    np.testing.assert_allclose(ours.between_, plda.between_, atol=1e-4)
    np.testing.assert_allclose(ours.within_, plda.within_, atol=1e-4)


def test_heavy_tails_are_better_scored_by_a_heavy_tailed_model() -> None:
    """Unseen speakers of the model itself: Gaussian PLDA takes an outlier at its word."""
    rng = np.random.default_rng(5)
    truth = random_model(30, 3, rng)
    labels = np.repeat(np.arange(150), 4)
    embeddings = draw(truth, labels, 2.0, rng)
    train = labels < 100
    same = labels[~train, None] == labels[~train]
    pairs = np.triu_indices(len(same), 1)
    eers = []
    for nu in (2.0, np.inf):
        model = HeavyTailedPlda(3, nu).fit(embeddings[train], labels[train])
        side = model.test_side(embeddings[~train])
        eers.append(compute_eer(model.score_block(side, side).numpy()[pairs], same[pairs]))
    assert eers[0] < 0.8 * eers[1]


def test_within_covariance_is_recovered_under_outliers() -> None:
    model = HeavyTailedPlda(2, 2.0, num_iterations=100).fit(EMBEDDINGS, LABELS)
    gaussian = HeavyTailedPlda(2, np.inf, num_iterations=100).fit(EMBEDDINGS, LABELS)

    def error(within: np.ndarray) -> float:
        return float(np.linalg.norm(within - TRUTH.within) / np.linalg.norm(TRUTH.within))

    assert error(model.within_) < 0.25
    assert error(gaussian.within_) > 1


def test_scores_move_with_linear_maps() -> None:
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(12, 12)) + 3 * np.eye(12)
    moved = EMBEDDINGS @ matrix.T + 5
    model = HeavyTailedPlda(2, 2.0).fit(moved, LABELS)
    sides, moved_sides = MODEL.test_side(EMBEDDINGS[:40]), model.test_side(moved[:40])
    np.testing.assert_allclose(
        model.score_block(moved_sides, moved_sides), MODEL.score_block(sides, sides), atol=2e-3
    )


@pytest.mark.parametrize("nu", [2.0, np.inf])
def test_few_utterances_constant_dimensions_and_duplicates(nu: float) -> None:
    """Fewer embeddings than dimensions, of which some are constant; each embedding of speaker 0 given twice."""
    rng = np.random.default_rng(7)
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4])
    embeddings = rng.normal(size=(11, 40)) + rng.normal(size=(5, 40))[labels]
    embeddings[2:4] = embeddings[:2]
    embeddings[:, 30:] = 7.0
    model = HeavyTailedPlda(3, nu).fit(embeddings, labels)
    sides = model.enrol_side(embeddings, labels), model.test_side(embeddings)
    scores = model.score_block(*sides)
    assert torch.isfinite(scores).all()
    assert scores.abs().max() > 1
    shifted = embeddings + np.r_[np.zeros(30), np.ones(10)]
    np.testing.assert_allclose(model.score_block(sides[0], model.test_side(shifted)), scores, atol=1e-4)


def test_refusals() -> None:
    def refusal(call: object, *args: object, **settings: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args, **settings)  # type: ignore[operator]
        return str(caught.value)

    for settings in ((2, 0.0), (2, np.nan), (2, 2.0, -1), (2, 2.0, 1, 0.0), (2, 2.0, 1, 1.0)):
        message = refusal(HeavyTailedPlda(*settings).fit, EMBEDDINGS, LABELS)
        assert "degrees_of_freedom above 0, num_iterations of at least 0 and a floor between 0 and 1" in message
    too_many = refusal(HeavyTailedPlda(12).fit, EMBEDDINGS, LABELS)
    assert "speaker_dim from 1 to 11 for embeddings that vary in 12 dimensions, so that some are left" in too_many
    assert too_many.endswith("found 12")
    assert "from 1 to 12 for embeddings that vary in 12 dimensions; found 13" in refusal(
        HeavyTailedPlda(13, np.inf).fit, EMBEDDINGS, LABELS
    )
    assert "from 1 to 11" in refusal(HeavyTailedPlda.from_model, TRUTH, speaker_dim=0)
    assert "one class for each of 270 embeddings, found (269,)" in refusal(MODEL.fit, EMBEDDINGS, LABELS[1:])
    assert "two classes, found 1" in refusal(MODEL.fit, EMBEDDINGS[:4], LABELS[:4])
    assert "two or more embeddings, found 30 of one each" in refusal(MODEL.fit, EMBEDDINGS[-30:], LABELS[-30:])
    assert "not zero" in refusal(MODEL.fit, np.ones((4, 2)), [0, 0, 1, 1])
    assert "first row 1" in refusal(MODEL.fit, np.array([[1.0], [np.nan]]), [0, 0])
    for call in (HeavyTailedPlda().enrol_side, HeavyTailedPlda().test_side):
        assert "HeavyTailedPlda is not fitted yet" in refusal(call, EMBEDDINGS)
    assert "12 dimensions as in fit, found 11" in refusal(MODEL.test_side, EMBEDDINGS[:, 1:])
    assert "no utterance enrols model 1 of 3" in refusal(MODEL.enrol_side, EMBEDDINGS[:2], np.array([0, 2]))
