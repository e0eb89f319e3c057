"""Score normalisation: every score measured by how its two sides score against a cohort of other speakers.

With μ and σ the mean and standard deviation of a side's scores against the cohort,

    z-norm:   (s − μ_e) / σ_e                            (Reynolds, 1997)
    t-norm:   (s − μ_t) / σ_t                            (Auckenthaler, Carey & Lloyd-Thomas, 2000)
    s-norm:   ½ (s − μ_e) / σ_e + ½ (s − μ_t) / σ_t      (Kenny, 2010)
    as-norm:  s-norm with μ and σ over each side's own `num_nearest` highest cohort scores (Matějka et al., 2017,
              their adaptive S-norm1; its other variant picks the cohort by the *other* side, and so has
              statistics of a pair, not of a side)

All are s · (scale_e + scale_t) + shift_e + shift_t, so that statistics are computed once a side, and a block of
trials costs the scorer's own work and three passes over the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from spkadapt.backend.checks import check_embeddings, check_fitted
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError, suggest

METHODS = ("z-norm", "t-norm", "s-norm", "as-norm")
# Cohort scores held at a time: 16 MB in float32, and some small multiple of that in float64.
_BLOCK_SCORES = 1 << 22
# Scores come in float32: those that differ by less than this share of themselves may be one score, rounded.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
# Embeddings that are this share of their length apart are one, that went through products of different sizes.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class NormalisedSide(Side):
    """A side with its cohort statistics, computed once: normalised score = s · Σ scales + Σ shifts.

    Attributes:
        raw: the side as the scorer beneath made it; `vectors` and `offsets` are its own.
        scales, shifts: float32.

    Shape:
        scales, shifts: `(num_rows,)`
    """

    raw: Side
    scales: Tensor
    shifts: Tensor

    def rows(self, which: slice | Tensor) -> NormalisedSide:
        """Some of the rows, as `Side.rows` gives them."""
        return _normalised_side(self.raw.rows(which), self.scales[which], self.shifts[which])

    def to(self, device: str | torch.device) -> NormalisedSide:
        """The same side on another device."""
        return _normalised_side(self.raw.to(device), self.scales.to(device), self.shifts.to(device))


class NormalisedScorer(BaseEstimator, Scorer):
    """A scorer whose scores are normalised against a cohort.

    The cohort should be of the domain that the trials come from: unlabelled recordings will do, as most pairs of
    them are of different speakers. One that is also a side of a trial is left out of that side's statistics (it is
    known by its values, but for rounding); other recordings of the trial's speakers are not known here, and should
    not be in the cohort. One vector a recording, the mean of its utterances, keeps a long recording from filling a
    side's nearest. Making a side scores it against the cohort, in blocks of bounded memory.

    Args:
        scorer: whose scores are normalised.
        method: one of `METHODS`.
        num_nearest: how many of a side's highest cohort scores as-norm takes; all of them where they are fewer,
            which is s-norm. The others ignore it.

    Attributes:
        cohort_: the cohort's embeddings, float64.
        device: where cohort scores are computed; no setting, as it does not belong to a model.

    Shape:
        cohort_: `(num_cohort, dim)`
    """

    cohort_: np.ndarray
    device: str = "cpu"

    def __init__(self, scorer: Scorer, method: str = "as-norm", num_nearest: int = 300) -> None:
        self.scorer = scorer
        self.method = method
        self.num_nearest = num_nearest

    def fit(self, cohort: np.ndarray) -> NormalisedScorer:
        """Keep the cohort's embeddings, `(num_cohort, dim)`, as the scorer is to see them.

        Raises:
            InputError: an unknown method, `num_nearest` below 2, fewer than 2 embeddings, or as `check_embeddings`
                does.
        """
        if self.method not in METHODS:
            raise InputError(f'unknown score normalisation "{self.method}"; {suggest(self.method, METHODS)}')
        if self.num_nearest < 2:
            raise InputError(f"expected num_nearest of at least 2, found {self.num_nearest}")
        cohort = check_embeddings(cohort)
        if len(cohort) < 2:
            raise InputError(f"expected a cohort of at least 2 embeddings, found {len(cohort)}")
        self.cohort_ = cohort
        return self

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> NormalisedSide:
        """The enrolment side and its statistics against the cohort as test utterances.

        Raises:
            InputError: before `fit`, as the scorer beneath does, or for a model whose cohort scores are all
                the same.
        """
        raw = self.scorer.enrol_side(embeddings, model_of)
        rows = np.arange(len(embeddings)) if model_of is None else np.asarray(model_of)
        return self._normalise(raw, embeddings, rows, is_enrol=True)

    def test_side(self, embeddings: np.ndarray) -> NormalisedSide:
        """The test side and its statistics against the cohort as enrolments of one utterance.

        Raises:
            InputError: before `fit`, as the scorer beneath does, or for an utterance whose cohort scores are
                all the same.
        """
        raw = self.scorer.test_side(embeddings)
        return self._normalise(raw, embeddings, np.arange(len(embeddings)), is_enrol=False)

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        """The normalised score of every row of `enrol` with every row of `test`."""
        enrol, test = _check_side(enrol), _check_side(test)
        raw = self.scorer.score_block(enrol.raw, test.raw)
        scores = torch.addcmul(test.shifts, raw, test.scales)
        return scores.addcmul_(raw, enrol.scales[:, None]).add_(enrol.shifts[:, None])

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        """The normalised score of each row of `enrol` with the same row of `test`."""
        enrol, test = _check_side(enrol), _check_side(test)
        raw = self.scorer.score_pairs(enrol.raw, test.raw)
        return raw.mul_(enrol.scales + test.scales).add_(enrol.shifts).add_(test.shifts)

    def score_listed(self, enrol: Side, test: Side, enrol_rows: Tensor, test_rows: Tensor) -> Tensor:
        """The normalised score of listed rows, by the way of the scorer beneath; see `Scorer.score_listed`."""
        enrol, test = _check_side(enrol), _check_side(test)
        raw = self.scorer.score_listed(enrol.raw, test.raw, enrol_rows, test_rows)
        scales = enrol.scales[enrol_rows].add_(test.scales[test_rows])
        return raw.mul_(scales).add_(enrol.shifts[enrol_rows]).add_(test.shifts[test_rows])

    def _normalise(self, raw: Side, embeddings: np.ndarray, rows: np.ndarray, *, is_enrol: bool) -> NormalisedSide:
        check_fitted(self, "cohort_")
        if self.method == ("t-norm" if is_enrol else "z-norm"):
            nothing = torch.zeros(len(raw))
            return _normalised_side(raw, nothing, nothing)
        num_nearest = self.num_nearest if self.method == "as-norm" else len(self.cohort_)
        means, deviations = _cohort_statistics(
            self.scorer, raw, embeddings, rows, self.cohort_, num_nearest, self.device, is_enrol=is_enrol
        )
        flat = np.flatnonzero(~(deviations > _ROUNDING * np.abs(means)))
        if len(flat):
            side = "enrolment" if is_enrol else "test"
            raise InputError(
                f"cannot normalise: all cohort scores of {side} row {flat[0]} are the same, "
                f"and {len(flat)} of {len(raw)} rows are so"
            )
        scales = (0.5 if self.method in ("s-norm", "as-norm") else 1.0) / deviations
        return _normalised_side(raw, *(torch.from_numpy(v).float() for v in (scales, -means * scales)))


def compute_cohort_statistics(
    scorer: Scorer,
    embeddings: np.ndarray,
    cohort: np.ndarray,
    num_nearest: int,
    *,
    is_enrol: bool,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each embedding's `num_nearest` highest scores against the cohort.

    What as-norm divides by, and a quality measure too: the mean is high for the voice, or the channel, that many
    others resemble. Deviations are divided by the number of scores, not one less. The embedding itself,
    where the cohort has it, does not count.

    Args:
        is_enrol: which side of a trial the embeddings are.

    Shape:
        embeddings: `(num_embeddings, dim)`
        cohort: `(num_cohort, dim)`
        returns two of `(num_embeddings,)`, float64
    """
    raw = scorer.enrol_side(embeddings) if is_enrol else scorer.test_side(embeddings)
    rows = np.arange(len(embeddings))
    return _cohort_statistics(scorer, raw, embeddings, rows, cohort, num_nearest, device, is_enrol=is_enrol)


def _cohort_statistics(
    scorer: Scorer,
    side: Side,
    embeddings: np.ndarray,
    row_of: np.ndarray,
    cohort: np.ndarray,
    num_nearest: int,
    device: str | torch.device,
    *,
    is_enrol: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `side`; `row_of` says which row each of the embeddings went into."""
    cohort_side = (scorer.test_side(cohort) if is_enrol else scorer.enrol_side(cohort)).to(device)
    itself, place = _same_rows(np.asarray(embeddings, dtype=np.float64), np.asarray(cohort, dtype=np.float64))
    owner = row_of[itself]
    num_nearest = min(num_nearest, len(cohort))
    means, deviations = np.empty((2, len(side)))
    for block in _row_blocks(len(side), len(cohort)):
        part = side.rows(block).to(device)
        scores = (
            scorer.score_block(part, cohort_side)
            if is_enrol
            else scorer.score_block(cohort_side, part).T.contiguous()
        )
        here = np.flatnonzero((owner >= block.start) & (owner < block.stop))
        excluded = (torch.from_numpy(owner[here] - block.start), torch.from_numpy(place[here]))
        scores[excluded[0].to(scores.device), excluded[1].to(scores.device)] = -torch.inf
        nearest = scores.topk(num_nearest, dim=1, sorted=False).values if num_nearest < len(cohort) else scores
        block_means, block_deviations = _finite_statistics(nearest.double())
        means[block], deviations[block] = block_means.cpu().numpy(), block_deviations.cpu().numpy()
    return means, deviations


def _finite_statistics(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each row, less its excluded cells, which hold −∞."""
    counted = scores != -torch.inf
    count = counted.sum(dim=1)
    means = scores.where(counted, 0).sum(dim=1) / count
    residuals = (scores - means[:, None]).where(counted, 0)
    return means, (residuals.square().sum(dim=1) / count).sqrt()


def _same_rows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (row of `first`, row of `second`) that are one embedding but for rounding, as `_SAME` has it."""
    # Rows that close are as close on any line: sort `second` along one, and compare those within reach.
    line = np.random.default_rng(0).normal(size=first.shape[1])
    line /= np.linalg.norm(line)
    reach = _SAME * np.linalg.norm(first, axis=1)
    along, order = first @ line, np.argsort(second @ line)
    left, right = (np.searchsorted((second @ line)[order], along + sign * 2 * reach) for sign in (-1, 1))
    counts = right - left
    rows = np.repeat(np.arange(len(first)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    others = order[np.repeat(left, counts) + within]
    same = np.linalg.norm(first[rows] - second[others], axis=1) <= reach[rows]
    return rows[same], others[same]


def _row_blocks(num_rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_SCORES // width)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _check_side(side: Side) -> NormalisedSide:
    if not isinstance(side, NormalisedSide):
        raise InputError("expected sides made by this normalised scorer, found one without cohort statistics")
    return side


def _normalised_side(raw: Side, scales: Tensor, shifts: Tensor) -> NormalisedSide:
    return NormalisedSide(raw.vectors, raw.offsets, raw, scales, shifts)
