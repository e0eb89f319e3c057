"""The logistic objective over pairs, against a loop over them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spkadapt.backend import pairwise
from spkadapt.backend.pairwise import PairwiseLogistic, check_training, minimise
from spkadapt.errors import InputError

NUMBERS = np.array([0, 1, 0, 2, 1, 0, 3])
SCORES = np.random.default_rng(0).normal(size=(7, 7)) * 3


def loop(scores: np.ndarray, prior: float) -> float:
    losses: dict[bool, list[float]] = {True: [], False: []}
    for i in range(7):
        for j in range(i + 1, 7):
            is_target = bool(NUMBERS[i] == NUMBERS[j])
            log_odds = scores[i, j] + math.log(prior / (1 - prior))
            losses[is_target].append(math.log(1 + math.exp(-log_odds if is_target else log_odds)))
    return prior * float(np.mean(losses[True])) + (1 - prior) * float(np.mean(losses[False]))


def evaluate(scores: np.ndarray, prior: float) -> tuple[float, np.ndarray]:
    pairs = PairwiseLogistic(NUMBERS, prior)
    loss, gradients = 0.0, np.zeros((7, 7))
    for rows, columns in pairs.blocks():
        part, gradient = pairs.evaluate(torch.from_numpy(scores[rows, columns].copy()), rows, columns)
        loss += part
        gradients[rows, columns] += gradient.numpy()
    return loss, gradients


@pytest.mark.parametrize("block", [1, 10, 1 << 21])
@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_blocks_hold_every_pair_once(block: int, prior: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "BLOCK", block)
    loss, gradients = evaluate(SCORES, prior)
    assert loss == pytest.approx(loop(SCORES, prior), rel=1e-12)
    for i in range(7):
        for j in range(7):
            step = np.zeros((7, 7))
            step[i, j] = 1e-5
            slope = (loop(SCORES + step, prior) - loop(SCORES - step, prior)) / 2e-5
            assert gradients[i, j] == pytest.approx(slope, abs=1e-9)
    assert (np.tril(gradients) == 0).all()


def test_scores_that_say_nothing_cost_the_entropy_of_the_prior() -> None:
    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert evaluate(np.zeros((7, 7)), 0.1)[0] == pytest.approx(entropy, rel=1e-12)


def test_scores_far_beyond_the_exponential() -> None:
    is_target = NUMBERS[:, None] == NUMBERS
    loss, gradients = evaluate(np.where(is_target, -2000.0, 2000.0), 0.5)
    assert loss == pytest.approx(2000)
    assert np.isfinite(gradients).all()
    assert evaluate(np.where(is_target, 2000.0, -2000.0), 0.5)[0] == 0


def test_minimise_reaches_the_minimum_and_never_rises() -> None:
    curvature = np.array([1.0, 10.0, 100.0])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(curvature @ (x - 3) ** 2) / 2, curvature * (x - 3)

    best, values = minimise(objective, np.zeros(3), 50)
    np.testing.assert_allclose(best, 3, rtol=1e-6)
    assert values[0] == 111 / 2 * 9
    assert (np.diff(values) <= 0).all()
    assert values[-1] == pytest.approx(objective(best)[0])
    still, values = minimise(objective, np.ones(3), 0)
    assert (still.tolist(), len(values)) == ([1, 1, 1], 1)


@pytest.mark.parametrize("prior", [0.0, 1.0, math.nan])
def test_prior_refused(prior: float) -> None:
    with pytest.raises(InputError, match=f"target_prior between 0 and 1, found {prior}"):
        PairwiseLogistic(NUMBERS, prior)


@pytest.mark.parametrize(("penalty", "num_iterations"), [(-1.0, 1), (math.inf, 1), (math.nan, 1), (1.0, -1)])
def test_training_refused(penalty: float, num_iterations: int) -> None:
    with pytest.raises(InputError, match=f"finite penalty .* found {penalty} and {num_iterations}"):
        check_training(penalty, num_iterations)
