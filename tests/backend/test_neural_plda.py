"""Neural PLDA against the generative chain that it starts as, finite differences, and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spkadapt.backend import pairwise
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.lda import Lda
from spkadapt.backend.neural_plda import NetworkObjective, NeuralPlda, SoftDetectionCost
from spkadapt.backend.normalise import LengthNormalisation
from spkadapt.backend.plda import Plda
from spkadapt.errors import InputError

LABELS = np.r_[np.repeat(np.arange(40), 4), np.arange(40, 50)]  # ten singletons
EVERYTHING = slice(0, None)


def draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Not what PLDA assumes: in two dimensions most speakers are alike, and a few far from all others."""
    num_speakers = labels.max() + 1
    ordinary = rng.normal(size=(num_speakers, 3))
    rare = rng.choice([0, 0, 0, 0, 0, 0, 0, 0, -8, 8], size=(num_speakers, 2))
    speakers = np.hstack([ordinary, rare, np.zeros((num_speakers, 1))])
    return 2 + speakers[labels] + 0.6 * rng.normal(size=(len(labels), 6))


EMBEDDINGS = draw(LABELS, np.random.default_rng(0))
MODEL = NeuralPlda(num_iterations=20).fit(EMBEDDINGS, LABELS)


def score_in_doubles(model: NeuralPlda, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Straight from the equation, an embedding at a time."""

    def latent(embedding: np.ndarray) -> np.ndarray:
        a = model.first_weight_ @ embedding + model.first_bias_
        return model.second_weight_ @ (a * np.sqrt(len(a)) / np.linalg.norm(a)) + model.second_bias_

    scores = np.empty((len(enrol), len(test)))
    for row, x in enumerate(map(latent, enrol)):
        for column, y in enumerate(map(latent, test)):
            both = (model.square_ * x * x).sum() + (model.square_ * y * y).sum()
            scores[row, column] = (model.cross_ * x * y).sum() + both + model.constant_
    return scores


def log_density(x: np.ndarray, covariance: np.ndarray) -> float:
    return -0.5 * float(x @ np.linalg.solve(covariance, x) + np.linalg.slogdet(2 * np.pi * covariance)[1])


def small_objective(loss: str, penalty: float) -> NetworkObjective:
    rng = np.random.default_rng(1)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4])
    network = NeuralPlda(loss=loss, target_priors=(0.2, 0.6), warping=1.5)
    embeddings = rng.normal(size=(9, 4)) + rng.normal(size=(5, 4))[labels]
    lda = Lda(3).fit(embeddings, labels)
    vectors = LengthNormalisation("sqrt-dim").transform(lda.transform(embeddings))
    network._start_from(lda, Plda(shrinkage=0.5).fit(vectors, labels))
    return NetworkObjective(network, embeddings, rng.normal(size=(9, 4)), network._make_losses(labels), penalty)


@pytest.mark.parametrize("loss", ["soft-detection-cost", "cross-entropy"])
@pytest.mark.parametrize("block", [1, 20, 1 << 21])
def test_gradient_is_that_of_differences(loss: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "BLOCK", block)
    objective = small_objective(loss, 0.3)
    at = 0.2 * np.random.default_rng(2).normal(size=objective.num_parameters)
    value, gradient = objective(at)
    steps = 1e-5 * np.eye(len(at))
    slopes = np.array([objective(at + step)[0] - objective(at - step)[0] for step in steps]) / 2e-5
    assert np.abs(slopes).min() > 1e-6
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)
    assert value == pytest.approx(small_objective(loss, 0.0)(at)[0] + 0.15 * at @ at, rel=1e-12)


@pytest.mark.parametrize("target_prior", [0.01, 0.5, 0.8])
def test_soft_detection_cost_by_loops_over_pairs(target_prior: float) -> None:
    numbers = np.array([0, 1, 0, 2, 1, 1])
    scores = np.random.default_rng(3).normal(size=(6, 6)) * 3
    log_odds = np.log(target_prior / (1 - target_prior))
    misses, alarms = [], []
    for i in range(6):
        for j in range(i + 1, 6):
            wrong = 1 / (1 + np.exp(-2.5 * (scores[i, j] + log_odds)))
            if numbers[i] == numbers[j]:
                misses.append(1 - wrong)
            else:
                alarms.append(wrong)
    expected = target_prior * np.mean(misses) + (1 - target_prior) * np.mean(alarms)
    cost = SoftDetectionCost(numbers, target_prior, 2.5)
    found, gradient = cost.evaluate(torch.from_numpy(scores.copy()), EVERYTHING, EVERYTHING)
    assert found == pytest.approx(expected / min(target_prior, 1 - target_prior), rel=1e-12)
    assert (gradient.tril() == 0).all()
    assert gradient[0, 2] < 0 < gradient[0, 1]  # a target, and a pair of strangers


def test_a_steep_soft_cost_is_the_detection_cost_at_the_bayes_threshold() -> None:
    """With equal scores just beyond the threshold, all are accepted; just before it, none; at it, half."""
    numbers = np.array([0, 0, 1, 1, 2])
    cost = SoftDetectionCost(numbers, 0.1, 1e6)
    for score, expected in ((np.log(9) + 1e-3, 9.0), (np.log(9) - 1e-3, 1.0), (np.log(9), 5.0)):
        scores = torch.full((5, 5), score, dtype=torch.float64)
        assert cost.evaluate(scores, EVERYTHING, EVERYTHING)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("settings", [{"num_iterations": 0}, {"penalty": 1e12}])
def test_it_starts_as_the_generative_chain(settings: dict[str, float]) -> None:
    """To float64 rounding against the likelihoods of the chain's model; and stays where moving costs too much."""
    lda = Lda(4).fit(EMBEDDINGS, LABELS)
    vectors = LengthNormalisation("sqrt-dim").transform(lda.transform(EMBEDDINGS))
    plda = Plda().fit(vectors, LABELS)
    model = NeuralPlda(**settings).fit(EMBEDDINGS, LABELS, (lda, plda))  # type: ignore[arg-type]
    total, between = plda.between_ + plda.within_, plda.between_
    of_both = np.block([[total, between], [between, total]])
    expected = np.empty((6, 20))
    for row, x in enumerate(vectors[:6] - plda.mean_):
        for column, y in enumerate(vectors[40:60] - plda.mean_):
            apart = log_density(x, total) + log_density(y, total)
            expected[row, column] = log_density(np.r_[x, y], of_both) - apart
    found = score_in_doubles(model, EMBEDDINGS[:6], EMBEDDINGS[40:60])
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(found, expected, rtol=1e-9 if "penalty" in settings else 1e-11, atol=1e-9)
    model_of = np.array([0, 1, 1, 2, 1, 3])
    ours = model.score_block(model.enrol_side(EMBEDDINGS[:6], model_of), model.test_side(EMBEDDINGS[6:40]))
    theirs = plda.score_block(plda.enrol_side(vectors[:6], model_of), plda.test_side(vectors[6:40]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_without_a_start_it_fits_the_chain_itself() -> None:
    lda = Lda().fit(EMBEDDINGS, LABELS)
    vectors = LengthNormalisation("sqrt-dim").transform(lda.transform(EMBEDDINGS))
    given = NeuralPlda(num_iterations=3).fit(EMBEDDINGS, LABELS, (lda, Plda().fit(vectors, LABELS)))
    alone = NeuralPlda(num_iterations=3).fit(EMBEDDINGS, LABELS)
    np.testing.assert_array_equal(alone.transform(EMBEDDINGS), given.transform(EMBEDDINGS))
    assert lda.projection_ is not given.first_weight_
    assert (lda.projection_ != given.first_weight_).any()  # it has moved, and the start has not
    np.testing.assert_array_equal(lda.projection_, Lda().fit(EMBEDDINGS, LABELS).projection_)


def test_all_parts_are_trained() -> None:
    start = NeuralPlda(num_iterations=0).fit(EMBEDDINGS, LABELS)
    for name, value in vars(start).items():
        if name.endswith("_") and name != "objectives_":
            assert np.abs(np.asarray(getattr(MODEL, name)) - value).max() > 1e-4, name


def test_scores_are_the_equation() -> None:
    sides = MODEL.enrol_side(EMBEDDINGS[:5]), MODEL.test_side(EMBEDDINGS[50:55])
    expected = score_in_doubles(MODEL, EMBEDDINGS[:5], EMBEDDINGS[50:55])
    np.testing.assert_allclose(MODEL.score_block(*sides), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(MODEL.score_pairs(*sides), np.diag(expected), rtol=1e-5, atol=1e-4)
    model_of = np.array([0, 1, 1, 2, 1])
    enrolled = MODEL.enrol_side(EMBEDDINGS[:5], model_of)
    z = MODEL.transform(EMBEDDINGS[[1, 2, 4]]).mean(axis=0)
    np.testing.assert_allclose(enrolled.vectors[1], z * MODEL.cross_, rtol=1e-6)
    assert float(enrolled.offsets[1]) == pytest.approx(float(z**2 @ MODEL.square_ + MODEL.constant_), rel=1e-6)
    assert len(MODEL.enrol_side(EMBEDDINGS[:0])) == 0


@pytest.mark.parametrize("loss", ["soft-detection-cost", "cross-entropy"])
def test_training_descends_and_repeats(loss: str) -> None:
    model, again = (NeuralPlda(0.01, loss, num_iterations=10).fit(EMBEDDINGS, LABELS) for _ in range(2))
    assert (np.diff(model.objectives_) <= 0).all()
    assert model.objectives_[-1] < 0.95 * model.objectives_[0]
    np.testing.assert_array_equal(again.objectives_, model.objectives_)
    np.testing.assert_array_equal(again.transform(EMBEDDINGS), model.transform(EMBEDDINGS))


def test_labels_are_but_names_and_units_of_no_account() -> None:
    """Embeddings that are scaled, shifted and turned give the same scores: change is measured after whitening."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    names = np.array([f"speaker {49 - label}" for label in LABELS])
    other = NeuralPlda(num_iterations=5).fit(1000 * EMBEDDINGS @ turn - 7, names)
    model = NeuralPlda(num_iterations=5).fit(EMBEDDINGS, LABELS)
    np.testing.assert_allclose(other.objectives_, model.objectives_, rtol=1e-6)
    ours = score_in_doubles(model, EMBEDDINGS[:4], EMBEDDINGS[:9])
    np.testing.assert_allclose(
        score_in_doubles(other, *(1000 * part @ turn - 7 for part in (EMBEDDINGS[:4], EMBEDDINGS[:9]))),
        ours,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("loss", "penalty", "most"), [("soft-detection-cost", 0.01, 0.7), ("cross-entropy", 0.001, 0.9)]
)
def test_unseen_speakers_cost_less_where_the_chain_is_wrong(loss: str, penalty: float, most: float) -> None:
    """PLDA takes it for strong evidence when two utterances agree on where most speakers do."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(250), 4)
    embeddings = draw(labels, rng)
    train = labels < 150
    costs: list[float] = []
    for num_iterations in (0, 40):
        model = NeuralPlda(penalty, loss, target_priors=(0.05,), num_iterations=num_iterations)
        model.fit(embeddings[train], labels[train])
        scores = model.score_block(model.enrol_side(embeddings[~train]), model.test_side(embeddings[~train]))
        unseen = NeuralPlda(loss=loss, target_priors=(0.05,))._make_losses(labels[~train] - 150)[0]
        costs.append(unseen.evaluate(scores.double(), EVERYTHING, EVERYTHING)[0])
    assert costs[1] < most * costs[0]


def test_fewer_embeddings_than_dimensions_and_constant_ones() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4])
    embeddings = np.hstack([rng.normal(size=(9, 20)) + rng.normal(size=(5, 20))[labels], np.full((9, 2), 3.0)])
    model = NeuralPlda().fit(embeddings, labels)
    unseen = np.random.default_rng(5).normal(size=(7, 22))
    assert np.isfinite(model.objectives_).all()
    for one in (embeddings, unseen):
        assert torch.isfinite(model.score_block(model.enrol_side(one), model.test_side(one))).all()
    two = NeuralPlda().fit(embeddings[:5], labels[:5])  # of one dimension, after LDA
    assert two.first_weight_.shape == (1, 22)
    assert torch.isfinite(two.score_block(two.enrol_side(unseen), two.test_side(unseen))).all()


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    fit = NeuralPlda().fit
    assert "finite penalty" in refusal(NeuralPlda(penalty=-1).fit, EMBEDDINGS, LABELS)
    assert "num_iterations of at least 0" in refusal(NeuralPlda(num_iterations=-1).fit, EMBEDDINGS, LABELS)
    assert "target_prior between 0 and 1, found 1.0" in refusal(
        NeuralPlda(target_priors=(0.1, 1.0)).fit, EMBEDDINGS, LABELS
    )
    assert "at least one of target_priors" in refusal(NeuralPlda(target_priors=()).fit, EMBEDDINGS, LABELS)
    assert "finite warping above 0, found 0" in refusal(NeuralPlda(warping=0).fit, EMBEDDINGS, LABELS)
    assert 'no loss "cross-entropi"' in refusal(NeuralPlda(loss="cross-entropi").fit, EMBEDDINGS, LABELS)
    assert "cross-entropy" in refusal(NeuralPlda(loss="cross-entropi").fit, EMBEDDINGS, LABELS)
    assert "first row 0" in refusal(fit, np.full((2, 2), np.nan), [0, 0])
    assert "one class for each of 3 embeddings, found (2,)" in refusal(fit, EMBEDDINGS[:3], [0, 1])
    assert "two classes, found 1" in refusal(fit, EMBEDDINGS[:3], [0, 0, 0])
    assert "two or more embeddings, found 3 of one each" in refusal(fit, EMBEDDINGS[:3], [0, 1, 2])
    lda = Lda(4).fit(EMBEDDINGS, LABELS)
    plda = Plda.from_model(TwoCovariance(np.zeros(5), np.eye(5), np.eye(5)))
    assert "a PLDA of 4 dimensions to start, found 5" in refusal(fit, EMBEDDINGS, LABELS, (lda, plda))
    assert "Plda is not fitted yet" in refusal(fit, EMBEDDINGS, LABELS, (lda, Plda()))
    assert "Lda is not fitted yet" in refusal(fit, EMBEDDINGS, LABELS, (Lda(), plda))
    for call in (NeuralPlda().enrol_side, NeuralPlda().test_side, NeuralPlda().transform):
        assert "NeuralPlda is not fitted yet" in refusal(call, EMBEDDINGS)
    for call in (MODEL.enrol_side, MODEL.test_side, MODEL.transform):
        assert "6 dimensions as in fit, found 5" in refusal(call, EMBEDDINGS[:, 1:])
    assert "no utterance enrols model 0 of 2" in refusal(MODEL.enrol_side, EMBEDDINGS[:2], np.array([1, 1]))
