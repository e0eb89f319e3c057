"""Validators that ask which source speaker an utterance is taken for.

The classifier is made of the embeddings themselves, so that any extractor has one: logits are `SCALE` times the
cosine to each source speaker's mean, as in an additive-angular-margin head without its margin. To a source
utterance, its own speaker is represented by his other utterances.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, log_softmax, softmax

from spkadapt.backend.covariance import sum_by_class
from spkadapt.errors import InputError
from spkadapt.select.data import SelectionData, spread, unit_rows
from spkadapt.select.domain_classifier import cross_fit_log_odds

SCALE = 30.0
NEIGHBOURHOOD_TEMPERATURE = 0.05
_MOST_ROWS, _BLOCK_ROWS = 2000, 256


def pool_posteriors(data: SelectionData) -> np.ndarray:
    """Which source speaker pool utterances, 2,000 at most, are taken for, `(num_rows, num_speakers)`."""
    sums = sum_by_class(data.unit_source, data.speaker_numbers, int(data.speaker_numbers.max()) + 1)
    rows = spread(len(data.pool), _MOST_ROWS)
    return softmax(SCALE * data.unit_pool[rows] @ unit_rows(sums).T, axis=1)


def source_losses(data: SelectionData, chosen: np.ndarray) -> np.ndarray:
    """The cross-entropy of source utterances, a speaker's own mean being that of his other utterances.

    Shape:
        chosen: rows of the source, `(num_rows,)`
        returns `(num_rows,)`; NaN for the only utterance of a speaker
    """
    counts = np.bincount(data.speaker_numbers)
    sums = sum_by_class(data.unit_source, data.speaker_numbers, len(counts))
    speakers, rows = data.speaker_numbers[chosen], data.unit_source[chosen]
    logits = SCALE * rows @ unit_rows(sums).T
    own = (rows * unit_rows(sums[speakers] - rows)).sum(axis=1)
    logits[np.arange(len(rows)), speakers] = SCALE * own
    losses = -log_softmax(logits, axis=1)[np.arange(len(rows)), speakers]
    return np.where(counts[speakers] > 1, losses, np.nan)


def compute_entropy(data: SelectionData) -> float:
    """Mean entropy of the pool's posteriors, nats (Grandvalet & Bengio, 2004; to choose by, Morerio et al., 2018).

    −(1/n) Σ_i Σ_k p_ik log p_ik
    """
    return float(entr(pool_posteriors(data)).sum(axis=1).mean())


def compute_information(data: SelectionData) -> float:
    """Mutual information of pool utterance and predicted speaker, nats (Bridle et al., 1991; Shi & Sha, 2012).

        H(mean_i p_i) − mean_i H(p_i)

    Certain, as a low entropy, and of many speakers, which an entropy does not ask.
    """
    posteriors = pool_posteriors(data)
    return float(entr(posteriors.mean(axis=0)).sum() - entr(posteriors).sum(axis=1).mean())


def compute_nuclear_norm(data: SelectionData) -> float:
    """‖P‖_* / n of the pool's posteriors P (BNM, Cui et al., 2020; to choose by, Musgrave et al., 2022)."""
    posteriors = pool_posteriors(data)
    return float(np.linalg.norm(posteriors, "nuc") / len(posteriors))


def compute_neighbourhood_density(data: SelectionData) -> float:
    """Soft neighbourhood density (SND, Saito et al., 2021, equations 2-3).

        SND = (1/n) Σ_i H(P_i),   P_ij = exp(f_i·f_j / τ) / Σ_{k≠i} exp(f_i·f_k / τ),   P_ii = 0

    f the posteriors scaled to unit length, τ = 0.05 as in the paper. The denser the neighbourhoods, the higher.
    """
    features = unit_rows(pool_posteriors(data))
    entropies = []
    for start in range(0, len(features), _BLOCK_ROWS):
        logits = features[start : start + _BLOCK_ROWS] @ features.T / NEIGHBOURHOOD_TEMPERATURE
        logits[np.arange(len(logits)), start + np.arange(len(logits))] = -np.inf
        entropies.append(entr(softmax(logits, axis=1)).sum(axis=1))
    return float(np.concatenate(entropies).mean())


def compute_deep_embedded_validation(data: SelectionData) -> float:
    """Deep embedded validation (DEV, You et al., 2019, section 4): the source's loss, weighed as the target's.

        R = mean(w ℓ) + η (mean(w) − 1),   η = −Cov(w ℓ, w) / Var(w),   w = p(pool | x) / p(source | x)

    w is the ratio of densities by a classifier of domains, cross-fitted, both domains weighing alike; ℓ are
    `source_losses`. The control variate takes out what of the variance comes from the weights.

    Raises:
        InputError: every source speaker has a single utterance.
    """
    log_odds, is_pool, rows = cross_fit_log_odds(data)
    losses = source_losses(data, rows[~is_pool])
    known = ~np.isnan(losses)
    if known.sum() < 2:
        raise InputError("needs source speakers of two utterances or more, found none")
    weights, losses = np.exp(log_odds[~is_pool][known]), losses[known]
    return weighted_risk(weights, losses)


def weighted_risk(weights: np.ndarray, losses: np.ndarray) -> float:
    """DEV's estimate of the target domain's risk from importance weights and losses, each `(num_losses,)`."""
    weighted = weights * losses
    variance = weights.var(ddof=1)
    eta = -np.cov(weighted, weights, ddof=1)[0, 1] / variance if variance > 0 else 0.0
    return float(weighted.mean() + eta * (weights.mean() - 1))
