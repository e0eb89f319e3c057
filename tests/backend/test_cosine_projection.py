"""The cosine after a learnt map: against differences, the plain cosine where it starts, and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spkadapt.backend import pairwise
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.cosine_projection import CosineObjective, CosineProjection, scale_cosines
from spkadapt.backend.pairwise import PairwiseLogistic
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer

LABELS = np.r_[np.repeat(np.arange(40), 4), np.arange(40, 50)]  # ten singletons


def draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speakers in some directions, and in others what changes from utterance to utterance."""
    speakers = rng.normal(size=(labels.max() + 1, 8)) * [1, 1, 1, 1, 0.2, 0.2, 0, 0]
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(8, 8)))[0]
    noise = rng.normal(size=(len(labels), 8)) * [0.3, 0.3, 0.3, 0.3, 1, 1, 2, 2]
    return (speakers[labels] + noise) @ turn + 3


EMBEDDINGS = draw(LABELS, np.random.default_rng(0))
MODEL = CosineProjection(penalty=0.1).fit(EMBEDDINGS, LABELS)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("block", [1, 20, 1 << 21])
def test_objective_and_gradient(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value against cosines of single pairs, the gradient against differences in every parameter."""
    monkeypatch.setattr(pairwise, "BLOCK", block)
    rng = np.random.default_rng(1)
    xs, pairs = rng.normal(size=(9, 3)), PairwiseLogistic(np.array([0, 0, 0, 1, 1, 2, 2, 3, 4]), 0.2)
    objective = CosineObjective(xs, pairs, penalty=0.6)
    projection = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    at = np.r_[projection.ravel(), 0.7, -0.4]
    scores = [[np.exp(0.7) * cosine(projection @ x, projection @ y) - 0.4 for y in xs] for x in xs]
    loss, _ = pairs.evaluate(torch.tensor(scores, dtype=torch.float64), slice(0, None), slice(0, None))
    value, gradient = objective(at)
    assert value == pytest.approx(loss + 0.1 * np.square(projection - np.eye(3)).sum(), rel=1e-12)
    steps = 1e-5 * np.eye(len(at))
    slopes = [(objective(at + step)[0] - objective(at - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)


def test_cosines_start_with_unit_variance() -> None:
    units = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    log_scale, offset = scale_cosines(units)
    scores = (np.exp(log_scale) * units @ units.T + offset)[np.triu_indices(len(units), 1)]
    assert scores.mean() == pytest.approx(0, abs=1e-9)
    assert scores.var() == pytest.approx(1, rel=1e-9)
    assert scale_cosines(np.ones((3, 1))) == pytest.approx((np.log(1000), -1000))  # all alike


def test_it_starts_at_the_centred_cosine() -> None:
    model = CosineProjection(num_iterations=0).fit(EMBEDDINGS, LABELS)
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    model_of = np.array([0, 1, 1, 2, 1])
    ours = model.score_block(model.enrol_side(EMBEDDINGS[:5], model_of), model.test_side(EMBEDDINGS[5:30]))
    plain = CosineScorer()
    theirs = plain.score_block(plain.enrol_side(centred[:5], model_of), plain.test_side(centred[5:30]))
    np.testing.assert_allclose(ours, model.scale_ * theirs + model.offset_, atol=1e-5)


def test_scores_match_a_loop() -> None:
    model_of = np.array([0, 1, 1, 2, 1])
    enrol, test = EMBEDDINGS[:5].astype(np.float32), EMBEDDINGS[50:53].astype(np.float32)
    sides = MODEL.enrol_side(enrol, model_of), MODEL.test_side(test)
    expected = np.empty((3, 3))
    for row in range(3):
        xs = [MODEL.projection_ @ (x - MODEL.mean_) for x in enrol[model_of == row].astype(np.float64)]
        mean = np.sum([x / np.linalg.norm(x) for x in xs], axis=0)
        for column in range(3):
            y = MODEL.projection_ @ (test[column].astype(np.float64) - MODEL.mean_)
            expected[row, column] = MODEL.scale_ * cosine(mean, y) + MODEL.offset_
    np.testing.assert_allclose(MODEL.score_block(*sides), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(MODEL.score_pairs(*sides), np.diag(expected), rtol=1e-5, atol=1e-5)


def test_training_descends_and_repeats() -> None:
    assert (np.diff(MODEL.objectives_) <= 0).all()
    assert MODEL.objectives_[-1] < 0.7 * MODEL.objectives_[0]
    again = CosineProjection(penalty=0.1).fit(EMBEDDINGS, LABELS)
    np.testing.assert_array_equal(again.projection_, MODEL.projection_)
    assert (again.scale_, again.offset_) == (MODEL.scale_, MODEL.offset_)


def test_penalty_holds_it_at_the_identity() -> None:
    held = CosineProjection(penalty=1e9).fit(EMBEDDINGS, LABELS)
    np.testing.assert_allclose(held.projection_, np.eye(8), atol=1e-6)
    assert np.abs(MODEL.projection_ - np.eye(8)).max() > 0.1


def test_length_means_nothing() -> None:
    """Neither in training nor in scores: every centred embedding counts by its direction."""
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    objective, longer = (
        CosineObjective(xs, PairwiseLogistic(LABELS, 0.5), 0.1)
        for xs in (centred, centred * np.random.default_rng(2).uniform(0.1, 10, size=(len(centred), 1)))
    )
    at = np.r_[MODEL.projection_.ravel(), 1.0, 0.0]
    assert objective(at)[0] == pytest.approx(longer(at)[0], rel=1e-12)
    np.testing.assert_allclose(objective(at)[1], longer(at)[1], atol=1e-12)


def test_unseen_speakers_are_told_apart_better() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(60), 4)
    embeddings = draw(labels, rng)
    same = labels[:, None] == labels
    pairs = np.triu_indices(len(same), 1)
    eers = []
    for model in (CosineProjection(num_iterations=0).fit(EMBEDDINGS, LABELS), MODEL):
        scores = model.score_block(model.enrol_side(embeddings), model.test_side(embeddings))
        eers.append(compute_eer(scores.numpy()[pairs], same[pairs]))
    assert eers[1] < 0.5 * eers[0]


def test_few_utterances_and_constant_dimensions() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4])
    embeddings = np.hstack([rng.normal(size=(9, 20)) + rng.normal(size=(5, 20))[labels], np.full((9, 2), 3.0)])
    model = CosineProjection().fit(embeddings, labels)
    assert torch.isfinite(model.score_block(model.enrol_side(embeddings), model.test_side(embeddings))).all()


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    fit = CosineProjection().fit
    assert "finite penalty" in refusal(CosineProjection(penalty=np.inf).fit, EMBEDDINGS, LABELS)
    assert "num_iterations of at least 0" in refusal(CosineProjection(num_iterations=-1).fit, EMBEDDINGS, LABELS)
    assert "target_prior between" in refusal(CosineProjection(target_prior=0.0).fit, EMBEDDINGS, LABELS)
    assert "first row 0" in refusal(fit, np.full((2, 2), np.nan), [0, 0])
    assert "one class for each of 3 embeddings, found (2,)" in refusal(fit, EMBEDDINGS[:3], [0, 1])
    assert "two classes, found 1" in refusal(fit, EMBEDDINGS[:3], [0, 0, 0])
    assert "two or more embeddings, found 3 of one each" in refusal(fit, EMBEDDINGS[:3], [0, 1, 2])
    assert "row 1 holds only zeros" in refusal(fit, np.array([[1.0], [2], [3]]), [0, 0, 1])
    for call in (CosineProjection().enrol_side, CosineProjection().test_side):
        assert "CosineProjection is not fitted yet" in refusal(call, EMBEDDINGS)
    for call in (MODEL.enrol_side, MODEL.test_side):
        assert "8 dimensions as in fit, found 7" in refusal(call, EMBEDDINGS[:, 1:])
    assert "only zeros" in refusal(MODEL.test_side, MODEL.mean_[None])
    assert "no utterance enrols model 0 of 2" in refusal(MODEL.enrol_side, EMBEDDINGS[:2], np.array([1, 1]))
