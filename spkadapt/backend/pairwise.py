"""The logistic objective over all pairs of labelled embeddings, which trains backends to tell speakers apart.

With π the prior of a target trial, T target pairs and N others, and s the score of a pair i < j,

    L = π/T Σ_target log(1 + exp(−s − logit π)) + (1 − π)/N Σ_other log(1 + exp(s + logit π)),

the cross-entropy of scores taken as log-likelihood ratios (Brümmer & du Preez, 2006): convex in the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import InputError

# So many pairs are scored at a time, in float64.
BLOCK = 1 << 21


class PairwiseLogistic:
    """L, and its gradient with respect to the scores, a block of rows of the upper triangle at a time.

    Args:
        numbers: the speaker of each embedding, from 0; some speaker has two, and there are two speakers.
        target_prior: π.

    Raises:
        InputError: a prior that is not between 0 and 1.
    """

    def __init__(self, numbers: np.ndarray, target_prior: float) -> None:
        if not 0 < target_prior < 1:
            raise InputError(f"expected a target_prior between 0 and 1, found {target_prior}")
        counts = np.bincount(numbers).astype(np.float64)
        num_pairs, num_targets = len(numbers) * (len(numbers) - 1) / 2, (counts * (counts - 1)).sum() / 2
        self.numbers = torch.from_numpy(numbers)
        # Of other pairs, and of target pairs.
        weights = [(1 - target_prior) / (num_pairs - num_targets), target_prior / num_targets]
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
        self.log_odds = float(np.log(target_prior / (1 - target_prior)))

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Rows, and the columns from the first of them on, that hold every pair i < j once."""
        start = 0
        while start < len(self.numbers):
            stop = start + max(1, BLOCK // (len(self.numbers) - start))
            yield slice(start, stop), slice(start, None)
            start = stop

    def evaluate(self, scores: Tensor, rows: slice, columns: slice) -> tuple[float, Tensor]:
        """The part of L that is a block's, and dL/ds there; pairs of i ≥ j have none.

        Shape:
            scores: that of the block, float64; overwritten
            returns a number and the same shape
        """
        is_target = self.numbers[rows, None] == self.numbers[columns]
        weights = torch.where(is_target, self.weights[1], self.weights[0]).triu_(diagonal=1)
        signs = torch.where(is_target, self.signs[1], self.signs[0])
        wrong = scores.add_(self.log_odds).mul_(signs)
        loss = float(torch.vdot(F.softplus(wrong).flatten(), weights.flatten()))
        return loss, wrong.sigmoid_().mul_(signs).mul_(weights)


def minimise(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, num_iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """What L-BFGS reaches from `start`, and the objective there and after each iteration, which never rises.

    Args:
        objective: gives its value and gradient.
        num_iterations: at most; it ends sooner when nothing more is won.
    """
    values = [objective(start)[0]]
    if not num_iterations:  # L-BFGS-B takes a step even so
        return start, np.array(values)
    result = scipy.optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": num_iterations, "maxfun": 20 * num_iterations, "ftol": 1e-12, "gtol": 1e-9},
        callback=lambda intermediate_result: values.append(float(intermediate_result.fun)),
    )
    return result.x, np.array(values)


def check_training(penalty: float, num_iterations: int) -> None:
    """Refuse settings that no training can use.

    Raises:
        InputError: a penalty that is negative or not finite, or fewer than no iterations.
    """
    if not 0 <= penalty < np.inf or num_iterations < 0:
        found = f"{penalty} and {num_iterations}"
        raise InputError(f"expected a finite penalty and num_iterations of at least 0, found {found}")
