"""PSDA against Bessel functions, integration over the sphere, and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from spkadapt.backend import spherical
from spkadapt.backend.spherical import Psda, invert_mean_resultant, log_uniform_mean, mean_resultant
from spkadapt.errors import InputError


def sphere_grid() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights that integrate over the sphere in 3 dimensions, of total weight 1."""
    heights, weights = np.polynomial.legendre.leggauss(200)
    angles = np.arange(200) * 2 * np.pi / 200
    rims = np.sqrt(1 - heights**2)[:, None]
    points = np.stack([rims * np.cos(angles), rims * np.sin(angles), np.tile(heights[:, None], 200)], axis=-1)
    return points.reshape(-1, 3), np.repeat(weights / 2 / 200, 200)


POINTS, WEIGHTS = sphere_grid()


def density(x: np.ndarray, mean: np.ndarray, concentration: float) -> np.ndarray:
    """VMF on the sphere in 3 dimensions, with respect to the uniform distribution, in closed form."""
    return concentration / np.sinh(concentration) * np.exp(concentration * x @ mean)


def joint_density(model: Psda, xs: np.ndarray) -> float:
    """p(x₁ … xₙ) of one speaker, by integration over where he lies."""
    likelihood = np.prod([density(POINTS, x, model.within_) for x in xs], axis=0)
    return float(WEIGHTS @ (density(POINTS, model.mean_, model.between_) * likelihood))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw(means: np.ndarray, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """A sample of VMF about each mean, in 3 dimensions, by inversion of its distribution function."""
    u = rng.uniform(size=len(means))
    height = 1 + np.log(u + (1 - u) * np.exp(-2 * concentration)) / concentration
    across = rng.normal(size=means.shape)
    across = unit(across - np.sum(across * means, axis=1, keepdims=True) * means)
    return height[:, None] * means + np.sqrt(1 - height**2)[:, None] * across


RNG = np.random.default_rng(0)
MEAN = unit(np.array([1.0, -2.0, 0.5]))
LABELS = np.r_[np.repeat(np.arange(400), 5), np.arange(400, 500)]  # a hundred singletons
SPEAKERS = draw(np.tile(MEAN, (500, 1)), 6.0, RNG)
EMBEDDINGS = draw(SPEAKERS[LABELS], 25.0, RNG) * RNG.uniform(0.1, 10, size=(len(LABELS), 1))
MODEL = Psda().fit(EMBEDDINGS, LABELS)


def log_mean(dim: int, concentration: np.ndarray) -> np.ndarray:
    return log_uniform_mean(dim, torch.from_numpy(np.square(concentration))).numpy()


@pytest.mark.parametrize("dim", [2, 3, 5, 64, 129, 130, 131, 192, 512])
def test_normaliser_against_bessel_functions(dim: int) -> None:
    """On both sides of the order from which it is expanded, wherever SciPy's own does not underflow."""
    nu = dim / 2 - 1
    concentration = np.geomspace(dim / 4, 1e5, 60)
    expected = np.log(scipy.special.ive(nu, concentration)) + concentration - nu * np.log(concentration / 2)
    np.testing.assert_allclose(
        log_mean(dim, concentration), expected + scipy.special.gammaln(nu + 1), rtol=1e-12, atol=2e-11
    )
    small = np.array([0, 1e-9, 1e-3, 0.1, 1.0])
    expected = np.log(scipy.special.hyp0f1(dim / 2, small**2 / 4))
    np.testing.assert_allclose(log_mean(dim, small), expected, atol=2e-11)


def test_normaliser_in_three_dimensions_has_a_closed_form() -> None:
    concentration = np.array([0.01, 0.5, 3.0, 40.0, 300.0])
    expected = np.log(np.sinh(concentration) / concentration)
    np.testing.assert_allclose(log_mean(3, concentration), expected, rtol=1e-11, atol=1e-11)


def test_normaliser_of_huge_concentration_grows_as_it() -> None:
    """M(κ) = κ − (dim − 1)/2 · log κ + constant for large κ."""
    low, high = log_mean(512, np.array([1e9, 2e9]))
    assert high - low == pytest.approx(1e9 - 511 / 2 * np.log(2), rel=1e-12)


@given(dim=st.integers(2, 600), exponent=st.floats(-3, 4))
def test_mean_resultant_is_inverted(dim: int, exponent: float) -> None:
    concentration = 10.0**exponent
    length = mean_resultant(dim, concentration)
    assert 0 < length < 1
    # What M(κ) loses to rounding is lost in 1 − A(κ) and so in κ.
    lost = 1e-15 * concentration / (1 - length)
    assert invert_mean_resultant(dim, length) == pytest.approx(concentration, rel=1e-9 + lost)


@given(dim=st.integers(2, 600), exponent=st.floats(4, 10))
def test_inverse_of_lengths_near_one(dim: int, exponent: float) -> None:
    """A(κ) = 1 − (dim − 1)/(2κ) (1 − ε + …), where ε is (dim − 3)/(4κ)."""
    concentration = dim * 10.0**exponent
    length = 1 - (dim - 1) / 2 / concentration
    assert invert_mean_resultant(dim, length) == pytest.approx(concentration, rel=2.6e-5 + 1e-15 / (1 - length))


def test_mean_resultant_is_the_mean_of_a_cosine() -> None:
    mean = np.array([0.0, 0.0, 1.0])
    assert WEIGHTS @ (density(POINTS, mean, 7.0) * POINTS[:, 2]) == pytest.approx(
        mean_resultant(3, 7.0), rel=1e-10
    )
    assert invert_mean_resultant(3, 0.0) == 0


def test_likelihood_is_the_integral_over_speakers() -> None:
    numbers = np.unique(LABELS)[[0, 1, 450]]
    chosen = np.isin(LABELS, numbers)
    short = Psda(num_iterations=3, tolerance=0).fit(EMBEDDINGS[chosen], LABELS[chosen])
    xs = unit(EMBEDDINGS)
    expected = [np.log(joint_density(short, xs[number == LABELS])) for number in numbers]
    assert short.log_likelihoods_[-1] == pytest.approx(np.sum(expected) / chosen.sum(), rel=1e-9)


def test_em_climbs_to_a_maximum() -> None:
    assert (np.diff(MODEL.log_likelihoods_) >= 0).all()
    assert len(MODEL.log_likelihoods_) < 500
    sums = np.array([unit(EMBEDDINGS)[number == LABELS].sum(axis=0) for number in range(500)])
    counts = np.bincount(LABELS)

    def log_likelihood(mean: np.ndarray, between: float, within: float) -> float:
        alone = log_mean(3, np.array([between, within]))
        lengths = np.linalg.norm(between * unit(mean) + within * sums, axis=1)
        return float((log_mean(3, lengths) - alone[0] - counts * alone[1]).sum() / counts.sum())

    best = log_likelihood(MODEL.mean_, MODEL.between_, MODEL.within_)
    assert best == pytest.approx(MODEL.log_likelihoods_[-1], rel=1e-12)
    for factor in (0.98, 1.02):
        assert log_likelihood(MODEL.mean_, MODEL.between_ * factor, MODEL.within_) < best
        assert log_likelihood(MODEL.mean_, MODEL.between_, MODEL.within_ * factor) < best
        assert log_likelihood(MODEL.mean_ + (factor - 1), MODEL.between_, MODEL.within_) < best


def test_parameters_are_recovered() -> None:
    """Within some three standard errors of 500 speakers and 2,100 utterances."""
    assert MODEL.mean_ @ MEAN > 0.999
    assert MODEL.between_ == pytest.approx(6, rel=0.15)
    assert MODEL.within_ == pytest.approx(25, rel=0.08)


def test_scores_are_ratios_of_integrals() -> None:
    enrol, test = EMBEDDINGS[[0, 1, 7, 12]], EMBEDDINGS[[2, 30, 100]]
    model_of = np.array([0, 0, 2, 1])
    scores = MODEL.score_block(MODEL.enrol_side(enrol, model_of), MODEL.test_side(test))
    for model in range(3):
        xs = unit(enrol[model_of == model])
        for column, t in enumerate(unit(test)):
            together = joint_density(MODEL, np.vstack([xs, t]))
            expected = np.log(together / joint_density(MODEL, xs) / joint_density(MODEL, t[None]))
            assert scores[model, column].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_blocks_and_pairs_match_a_loop_in_512_dimensions(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spherical, "BLOCK", block)
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(20), 3)
    embeddings = rng.normal(size=(60, 512)) + 2 * rng.normal(size=(20, 512))[labels] + 1
    model = Psda().fit(embeddings, labels)
    enrol, test = model.enrol_side(embeddings[:9]), model.test_side(embeddings[9:18])
    xs = unit(embeddings)
    prior = model.between_ * model.mean_
    expected = np.empty((9, 9))
    for row in range(9):
        for column in range(9):
            e, t = model.within_ * xs[row], model.within_ * xs[9 + column]
            lengths = [np.linalg.norm(v) for v in (prior + e + t, prior, prior + e, prior + t)]
            expected[row, column] = log_mean(512, np.array(lengths)) @ [1, 1, -1, -1]
    assert np.abs(expected).max() > 20  # not all near zero
    block_scores = model.score_block(enrol, test)
    assert block_scores.dtype == torch.float32
    np.testing.assert_allclose(block_scores, expected, atol=1e-3)
    np.testing.assert_allclose(model.score_pairs(enrol, test), np.diag(expected), atol=1e-3)
    assert model.score_pairs(enrol, test).dtype == torch.float32
    assert model.score_block(enrol.rows(slice(0)), test).shape == (0, 9)
    assert model.score_block(enrol, test.rows(slice(0))).shape == (9, 0)


def test_length_means_nothing() -> None:
    scaled = Psda().fit(EMBEDDINGS * 7, LABELS)
    assert scaled.within_ == pytest.approx(MODEL.within_, rel=1e-9)
    np.testing.assert_allclose(MODEL.test_side(EMBEDDINGS * 3).vectors, MODEL.test_side(EMBEDDINGS).vectors)


def test_speakers_without_a_common_direction() -> None:
    """The mean speaker is the zero vector: speakers are uniform, whatever μ is."""
    xs = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    model = Psda().fit(xs, np.array([0, 0, 1, 1]))
    assert model.between_ < 1e-6
    assert np.linalg.norm(model.mean_) == pytest.approx(1)
    assert np.isfinite(model.score_block(model.enrol_side(xs), model.test_side(xs)).numpy()).all()


def test_utterances_nearly_alike() -> None:
    """A concentration beyond what rounding can tell is still a number, and a large one."""
    xs = np.repeat(np.eye(3), 2, axis=0) + 1e-5 * np.arange(18).reshape(6, 3) % 1.1e-5
    model = Psda().fit(xs, np.repeat(np.arange(3), 2))
    assert 1e9 < model.within_ < np.inf
    assert np.isfinite(model.score_block(model.enrol_side(xs), model.test_side(xs)).numpy()).all()


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    fit = Psda().fit
    for wrong in (Psda(num_iterations=-1), Psda(tolerance=-1.0), Psda(tolerance=np.nan)):
        assert "num_iterations and a tolerance of at least 0" in refusal(wrong.fit, EMBEDDINGS, LABELS)
    assert "two dimensions or more, found 1" in refusal(fit, np.ones((4, 1)), [0, 0, 1, 1])
    assert "row 2 holds only zeros" in refusal(fit, np.vstack([EMBEDDINGS[:2], np.zeros((1, 3))]), [0, 0, 1])
    assert "one class for each of 3 embeddings, found (2,)" in refusal(fit, EMBEDDINGS[:3], [0, 1])
    assert "two classes, found 1" in refusal(fit, EMBEDDINGS[:3], [0, 0, 0])
    assert "two or more embeddings, found 3 of one each" in refusal(fit, EMBEDDINGS[:3], [0, 1, 2])
    alike = np.array([[1.0, 0], [2, 0], [0, 1], [0, 5]])
    assert "differ in direction, found none that do" in refusal(fit, alike, [0, 0, 1, 1])
    assert "Psda is not fitted yet" in refusal(Psda().enrol_side, EMBEDDINGS)
    assert "Psda is not fitted yet" in refusal(Psda().test_side, EMBEDDINGS)
    assert "3 dimensions as in fit, found 2" in refusal(MODEL.test_side, EMBEDDINGS[:, :2])
    assert "for each of 2 embeddings, found int64 of shape (3,)" in refusal(
        MODEL.enrol_side, EMBEDDINGS[:2], np.array([0, 1, 0])
    )
