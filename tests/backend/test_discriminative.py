"""Discriminative PLDA against finite differences, Gaussian PLDA where it starts, and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spkadapt.backend import pairwise
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.discriminative import DiscriminativePlda, QuadraticObjective, pack, unpack
from spkadapt.backend.pairwise import PairwiseLogistic, minimise
from spkadapt.backend.plda import Plda
from spkadapt.errors import InputError

RNG = np.random.default_rng(0)
LABELS = np.r_[np.repeat(np.arange(40), 4), np.arange(40, 50)]  # ten singletons


def draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Not what PLDA assumes: in two dimensions most speakers are alike, and a few far from all others."""
    num_speakers = labels.max() + 1
    ordinary = rng.normal(size=(num_speakers, 3))
    rare = rng.choice([0, 0, 0, 0, 0, 0, 0, 0, -8, 8], size=(num_speakers, 2))
    return np.hstack([ordinary, rare, np.zeros((num_speakers, 1))])[labels] + 0.6 * rng.normal(
        size=(len(labels), 6)
    )


EMBEDDINGS = draw(LABELS, RNG)
MODEL = DiscriminativePlda(penalty=0.01).fit(EMBEDDINGS, LABELS)


def random_coefficients(dim: int, rng: np.random.Generator) -> np.ndarray:
    cross, square = (part + part.T for part in 0.3 * rng.normal(size=(2, dim, dim)))
    return pack(cross, square, rng.normal(size=dim), -1.0)


def small_objective(penalty: float) -> QuadraticObjective:
    rng = np.random.default_rng(1)
    return QuadraticObjective(
        rng.normal(size=(9, 3)),
        PairwiseLogistic(np.array([0, 0, 0, 1, 1, 2, 2, 3, 4]), 0.2),
        random_coefficients(3, rng),
        penalty,
    )


@pytest.mark.parametrize("block", [1, 20, 1 << 21])
def test_objective_and_gradient(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value against scores of single pairs, the gradient against differences in every coefficient."""
    monkeypatch.setattr(pairwise, "BLOCK", block)
    objective = small_objective(0.3)
    at = random_coefficients(3, np.random.default_rng(2))
    cross, square, linear, constant = unpack(at, 3)
    xs = objective.embeddings.numpy()
    scores = [
        [x @ cross @ y + x @ square @ x + y @ square @ y + linear @ (x + y) + constant for y in xs] for x in xs
    ]
    everything = slice(0, None)
    loss, _ = objective.pairs.evaluate(torch.tensor(scores, dtype=torch.float64), everything, everything)
    value, gradient = objective(at)
    assert value == pytest.approx(loss + 0.15 * np.square(at - objective.centre).sum(), rel=1e-12)
    steps = 1e-5 * np.eye(len(at))
    slopes = np.array([objective(at + step)[0] - objective(at - step)[0] for step in steps]) / 2e-5
    # Λ is used as if symmetric: its gradient is the symmetric part of the slopes.
    of_cross, *rest = unpack(slopes, 3)
    np.testing.assert_allclose(gradient, pack((of_cross + of_cross.T) / 2, *rest), rtol=1e-6, atol=1e-8)


def test_minimum_is_unique() -> None:
    """The objective is convex: from wherever it starts, training ends at one place."""
    objective = small_objective(0.01)
    ends = [minimise(objective, random_coefficients(3, np.random.default_rng(s)), 500)[0] for s in range(3)]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-5)
    middle = objective((objective.centre + ends[0]) / 2)[0]
    assert middle < (objective(objective.centre)[0] + objective(ends[0])[0]) / 2


@pytest.mark.parametrize("settings", [{"num_iterations": 0}, {"penalty": 1e9}])
def test_it_starts_at_gaussian_plda(settings: dict[str, float]) -> None:
    """With one utterance a model and with several, averaged; and stays there where moving costs too much."""
    model = DiscriminativePlda(**settings).fit(EMBEDDINGS, LABELS)
    plda = Plda().fit(EMBEDDINGS, LABELS)
    model_of = np.array([0, 1, 1, 2, 1, 3])
    ours = model.score_block(model.enrol_side(EMBEDDINGS[:6], model_of), model.test_side(EMBEDDINGS[6:40]))
    theirs = plda.score_block(plda.enrol_side(EMBEDDINGS[:6], model_of), plda.test_side(EMBEDDINGS[6:40]))
    assert theirs.abs().max() > 5
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_start_may_be_another_model() -> None:
    start = TwoCovariance(np.ones(6), np.diag([4.0, 3, 2, 1, 0, 0]), np.eye(6))
    model = DiscriminativePlda(num_iterations=0).fit(EMBEDDINGS, LABELS, start)
    plda = Plda.from_model(start)
    side, expected = model.test_side(EMBEDDINGS[:9]), plda.test_side(EMBEDDINGS[:9])
    ours = model.score_block(model.enrol_side(EMBEDDINGS[:9]), side)
    np.testing.assert_allclose(ours, plda.score_block(expected, expected), rtol=1e-5, atol=1e-4)


def test_scores_are_the_quadratic_form() -> None:
    model_of = np.array([0, 1, 1, 2, 1])
    enrol, test = EMBEDDINGS[:5], EMBEDDINGS[50:53]
    sides = MODEL.enrol_side(enrol, model_of), MODEL.test_side(test)
    expected = np.empty((3, 3))
    for row in range(3):
        x = MODEL.transform_ @ (enrol[model_of == row].mean(axis=0) - MODEL.mean_)
        for column in range(3):
            y = MODEL.transform_ @ (test[column] - MODEL.mean_)
            expected[row, column] = (
                x @ MODEL.cross_ @ y
                + x @ MODEL.square_ @ x
                + y @ MODEL.square_ @ y
                + MODEL.linear_ @ (x + y)
                + MODEL.constant_
            )
    np.testing.assert_allclose(MODEL.score_block(*sides), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(MODEL.score_pairs(*sides), np.diag(expected), rtol=1e-5, atol=1e-5)


def test_sides_may_be_exchanged() -> None:
    np.testing.assert_allclose(MODEL.cross_, MODEL.cross_.T, atol=1e-12)
    np.testing.assert_allclose(MODEL.square_, MODEL.square_.T, atol=1e-12)
    assert np.abs(MODEL.cross_ - np.diag(np.diag(MODEL.cross_))).max() > 0.01  # it has moved


def test_training_descends_and_repeats() -> None:
    assert (np.diff(MODEL.objectives_) <= 0).all()
    assert MODEL.objectives_[-1] < 0.95 * MODEL.objectives_[0]
    again = DiscriminativePlda(penalty=0.01).fit(EMBEDDINGS, LABELS)
    np.testing.assert_array_equal(again.cross_, MODEL.cross_)
    np.testing.assert_array_equal(again.objectives_, MODEL.objectives_)


def test_unseen_speakers_cost_less_where_plda_is_wrong() -> None:
    """PLDA takes it for strong evidence when two utterances agree on where most speakers do."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(250), 4)
    embeddings = draw(labels, rng)
    train = labels < 150
    cost = PairwiseLogistic(labels[~train] - 150, 0.5)
    losses = []
    for model in (Plda(), DiscriminativePlda(penalty=0.01)):
        model.fit(embeddings[train], labels[train])
        scores = model.score_block(model.enrol_side(embeddings[~train]), model.test_side(embeddings[~train]))
        losses.append(cost.evaluate(scores.double(), slice(0, None), slice(0, None))[0])
    assert losses[1] < 0.9 * losses[0]


def test_few_utterances_and_constant_dimensions() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4])
    embeddings = np.hstack([rng.normal(size=(9, 20)) + rng.normal(size=(5, 20))[labels], np.full((9, 2), 3.0)])
    model = DiscriminativePlda().fit(embeddings, labels)
    assert torch.isfinite(model.score_block(model.enrol_side(embeddings), model.test_side(embeddings))).all()


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    fit = DiscriminativePlda().fit
    assert "finite penalty" in refusal(DiscriminativePlda(penalty=-1).fit, EMBEDDINGS, LABELS)
    assert "num_iterations of at least 0" in refusal(DiscriminativePlda(num_iterations=-1).fit, EMBEDDINGS, LABELS)
    assert "target_prior between" in refusal(DiscriminativePlda(target_prior=1.0).fit, EMBEDDINGS, LABELS)
    assert "first row 0" in refusal(fit, np.full((2, 2), np.nan), [0, 0])
    assert "one class for each of 3 embeddings, found (2,)" in refusal(fit, EMBEDDINGS[:3], [0, 1])
    assert "two classes, found 1" in refusal(fit, EMBEDDINGS[:3], [0, 0, 0])
    assert "two or more embeddings, found 3 of one each" in refusal(fit, EMBEDDINGS[:3], [0, 1, 2])
    assert "not zero" in refusal(fit, np.ones((4, 2)), [0, 0, 1, 1])
    assert "5 dimensions as in fit, found 6" in refusal(
        fit, EMBEDDINGS, LABELS, TwoCovariance(np.zeros(5), np.eye(5), np.eye(5))
    )
    for call in (DiscriminativePlda().enrol_side, DiscriminativePlda().test_side):
        assert "DiscriminativePlda is not fitted yet" in refusal(call, EMBEDDINGS)
    for call in (MODEL.enrol_side, MODEL.test_side):
        assert "6 dimensions as in fit, found 5" in refusal(call, EMBEDDINGS[:, 1:])
    assert "no utterance enrols model 0 of 2" in refusal(MODEL.enrol_side, EMBEDDINGS[:2], np.array([1, 1]))
