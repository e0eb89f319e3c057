"""Telling the domains apart by a linear classifier: how well that goes, and what a source embedding weighs."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit

from spkadapt.select.data import SelectionData, thin

NUM_FOLDS = 5
_MOST_GROUPS, _MOST_EACH = 250, 6
_MOST_STEPS, _TOLERANCE = 100, 1e-10


def compute_proxy_a_distance(data: SelectionData) -> float:
    """Proxy A-distance (Ben-David et al., 2010, section 5; Ganin et al., 2016).

        d = 2 (1 − 2 ε),   ε the error of a classifier that tells the domains apart

    2 where it always can, 0 where it is no better than chance. ε is the mean of both domains' error rates in
    cross-validation, so that their sizes are of no account; the speakers and sessions of a fold are in no other
    (without sessions, utterances), so that no caller is recognised in place of the domain.
    """
    log_odds, is_pool = cross_fit_log_odds(data)[:2]
    wrong = (log_odds > 0) != is_pool
    return 2 * (1 - 2 * float((wrong[is_pool].mean() + wrong[~is_pool].mean()) / 2))


def cross_fit_log_odds(data: SelectionData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For some rows of both domains, the log odds of the pool that a classifier fitted on other folds gives.

    Shape:
        returns log odds, is_pool and the row in its domain, each `(num_rows,)`; the source's rows come first
    """
    sessions = np.arange(len(data.pool)) if data.pool_sessions is None else data.session_numbers
    parts = []
    for rows, groups in ((data.unit_source, data.speaker_numbers), (data.unit_pool, sessions)):
        most_each = _MOST_EACH if len(np.unique(groups)) < len(groups) else 1
        chosen = thin(groups, _MOST_GROUPS * (_MOST_EACH // most_each), most_each)
        # Group by group, so that each domain is in every fold whatever its groups are numbered.
        fold = np.unique(groups[chosen], return_inverse=True)[1] % NUM_FOLDS
        parts.append((rows[chosen], chosen, fold))
    embeddings, rows, folds = (np.concatenate(part) for part in zip(*parts, strict=True))
    is_pool = np.arange(len(embeddings)) >= len(parts[0][0])
    log_odds = np.zeros(len(embeddings))
    for number in range(NUM_FOLDS):
        held_out = folds == number
        if is_pool[~held_out].any() and not is_pool[~held_out].all():
            weights, offset = fit_domain_classifier(embeddings[~held_out], is_pool[~held_out])
            log_odds[held_out] = embeddings[held_out] @ weights + offset
    return log_odds, is_pool, rows


def fit_domain_classifier(embeddings: np.ndarray, is_pool: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression, both domains weighing alike: weights `(dim,)` and offset of the log odds of the pool.

        min_{w, b}  Σ_i a_i log(1 + exp(−y_i (wᵀx_i + b))) + ½ ‖w‖² σ²,   a_i = n / (2 n_domain(i)),  y_i = ±1

    σ² is the mean variance of a coordinate, so that the scale of the embeddings is of no account. By Newton's
    method with halved steps, which is deterministic.

    Shape:
        embeddings: `(num_embeddings, dim)`
        is_pool: `(num_embeddings,)`, of both kinds
    """
    centre = embeddings.mean(axis=0)
    centred = embeddings - centre
    scale = np.sqrt((centred**2).mean())
    design = np.column_stack([centred / (scale if scale > 0 else 1.0), np.ones(len(embeddings))])
    signs = np.where(is_pool, 1.0, -1.0)
    amounts = len(signs) / (2 * np.where(is_pool, is_pool.sum(), (~is_pool).sum()))
    penalty = np.append(np.ones(embeddings.shape[1]), 0.0)
    solution = np.zeros(len(penalty))
    loss = _loss(solution, design, signs, amounts, penalty)
    for _ in range(_MOST_STEPS):
        wrong = expit(-signs * (design @ solution))
        gradient = penalty * solution - design.T @ (amounts * signs * wrong)
        curvature = (design * (amounts * wrong * (1 - wrong))[:, None]).T @ design
        step = np.linalg.solve(curvature + np.diag(penalty), gradient)
        size = 1.0
        while (new := _loss(solution - size * step, design, signs, amounts, penalty)) > loss and size > 1e-10:
            size /= 2
        solution, fallen, loss = solution - size * step, loss - new, new
        if fallen <= _TOLERANCE * abs(loss):
            break
    weights = solution[:-1] / (scale if scale > 0 else 1.0)
    return weights, float(solution[-1] - weights @ centre)


def _loss(
    solution: np.ndarray, design: np.ndarray, signs: np.ndarray, amounts: np.ndarray, penalty: np.ndarray
) -> float:
    return float(-amounts @ log_expit(signs * (design @ solution)) + penalty @ solution**2 / 2)
