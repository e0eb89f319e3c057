"""Thresholds for a stated false-accept rate, from non-target scores or from recordings without labels.

For a stated prior and costs no trials are needed: the threshold of calibrated scores is that of Bayes,
`spkadapt.metrics.OperatingPoint.bayes_threshold`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spkadapt.backend.scorer import Scorer
from spkadapt.errors import InputError

# Scores held at a time: 16 MB.
_BLOCK_SCORES = 1 << 22


def compute_far_threshold(nontarget_scores: np.ndarray, far: float) -> float:
    """The least threshold at which at most a share `far` of the non-target scores is accepted.

    A score is accepted at or above the threshold, so tied scores are accepted together or not at all.

    Shape:
        nontarget_scores: `(num_scores,)`

    Raises:
        InputError: a rate that is not between 0 and 1; scores that are not finite; or fewer than 1 / far of them,
            which cannot show so low a rate.
    """
    scores = np.asarray(nontarget_scores)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise InputError("expected finite non-target scores (num_scores,)")
    num_accepted = _count_accepted(len(scores), far)
    # The highest score that must be rejected: the threshold is the next number above it.
    place = len(scores) - 1 - num_accepted
    return _just_above(np.partition(scores, place)[place])


def compute_impostor_threshold(
    scorer: Scorer,
    embeddings: np.ndarray,
    recordings: np.ndarray,
    far: float,
    *,
    device: str | torch.device = "cpu",
) -> float:
    """The threshold for a false-accept rate from recordings without labels, every one against every other.

    Pairs from one recording are left out. The others are taken to be of different speakers: where some speakers
    come up in several recordings, their pairs are among the highest scores, so that the threshold is too high and
    the true rate below `far`. Scores are computed in blocks, and only the highest kept: memory grows with far ·
    num_embeddings².

    Args:
        scorer: the scorer, normalised or not, that the threshold is for. Not calibrated: map the threshold.
        embeddings: of the unlabelled recordings.
        recordings: which recording (call, video) each embedding comes from.
        device: where to score.

    Shape:
        embeddings: `(num_embeddings, dim)`
        recordings: `(num_embeddings,)`

    Raises:
        InputError: as `compute_far_threshold` does for the number of pairs, or not one recording for each
            embedding.
    """
    if len(recordings) != len(embeddings):
        raise InputError(f"expected {len(embeddings)} recordings, one an embedding, found {len(recordings)}")
    _, numbers, counts = np.unique(np.asarray(recordings), return_inverse=True, return_counts=True)
    num_pairs = len(embeddings) ** 2 - int((counts**2).sum())
    num_kept = _count_accepted(num_pairs, far) + 1
    enrol, test = scorer.enrol_side(embeddings).to(device), scorer.test_side(embeddings).to(device)
    owners = torch.from_numpy(numbers).to(device)
    highest = torch.empty(0, device=device)
    step = max(1, _BLOCK_SCORES // len(test))
    for start in range(0, len(enrol), step):
        block = slice(start, start + step)
        scores = scorer.score_block(enrol.rows(block), test)
        others = scores[owners[block, None] != owners]
        highest = _keep_highest(torch.cat([highest, others]), num_kept)
    return _just_above(highest.min().cpu().numpy())


def _keep_highest(scores: Tensor, number: int) -> Tensor:
    return scores if len(scores) <= number else scores.topk(number, sorted=False).values


def _count_accepted(num_scores: int, far: float) -> int:
    """How many of so many scores may be accepted: the most whose share is not above the rate."""
    if not 0 < far < 1:
        raise InputError(f"expected far between 0 and 1, found {far}")
    num_accepted = int(far * num_scores)
    num_accepted += (num_accepted + 1) / num_scores <= far if num_scores else 0  # a product rounded down
    if not num_accepted:
        raise InputError(
            f"a false-accept rate of {far} needs {np.ceil(1 / far):.0f} non-target scores, found {num_scores}"
        )
    return num_accepted


def _just_above(score: np.ndarray) -> float:
    """The next number above, in the type of the scores that will be held against it."""
    return float(np.nextafter(score, np.array(np.inf, dtype=score.dtype)))
