"""Scoring and error rates: trials per second, peak memory, and the ratio to a bare matrix product.

Rates count the whole call: from sides, which a set of embeddings is made into once, to scores in the order of the
trials. The bound is the bare product of the same sides, into memory of its own: for listed trials too, as though
picking them from it were free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import fused_metrics
import numpy as np
import torch
from fused_metrics import peak_growth
from harness import Row, compare, parse_arguments, publish
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve
from sklearn.metrics.pairwise import cosine_similarity
from speechbrain.processing.PLDA_LDA import Ndx, StatObject_SB, fast_PLDA_scoring

from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.plda import Plda
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.fused import measure_trials
from spkadapt.intervals import bootstrap_by_speaker
from spkadapt.metrics import OperatingPoint, compute_eer, compute_min_dcf
from spkadapt.score import TrialRows, score_all_pairs, score_trials

DIM = 256
NUM_COHORT = 2000
NUM_PEER_PAIRS = 2000


@dataclass(frozen=True, eq=False)
class Case:
    """A scorer and the sides that it makes of random embeddings."""

    name: str
    scorer: Scorer
    enrol: Side
    test: Side
    enrol_embeddings: np.ndarray
    test_embeddings: np.ndarray


def make_cases(num_embeddings: int) -> list[Case]:
    random = np.random.default_rng(0)
    # Two sets: NumPy computes the product of one set with itself at half the cost.
    enrol, test = random.normal(size=(2, num_embeddings, DIM)).astype(np.float32)
    plda = Plda.from_model(TwoCovariance(np.zeros(DIM), np.diag(random.uniform(0.1, 2, DIM)), np.eye(DIM)))
    cohort = random.normal(size=(NUM_COHORT, DIM)).astype(np.float32)
    scorers = {
        "cosine": CosineScorer(),
        "PLDA": plda,
        "AS-norm of cosine": NormalisedScorer(CosineScorer(), "as-norm", 300).fit(cohort),
    }
    return [
        Case(name, scorer, scorer.enrol_side(enrol), scorer.test_side(test), enrol, test)
        for name, scorer in scorers.items()
    ]


def multiply(case: Case, device: str) -> Callable[[], object]:
    enrol, test = case.enrol.vectors.to(device), case.test.vectors.to(device)
    return lambda: (enrol @ test.T).cpu()


def score_with_speechbrain(case: Case) -> Callable[[], object]:
    """All pairs by SpeechBrain's own function, whose PLDA has a full-rank F."""
    names = np.array([f"{i}" for i in range(len(case.enrol))], dtype=object)
    empty, ones = np.array([None] * len(names)), np.ones((len(names), 1))
    vectors = (side.astype(np.float64) for side in (case.enrol_embeddings, case.test_embeddings))
    enrol, test = (StatObject_SB(names, names, empty, empty, ones, side) for side in vectors)
    pairs = Ndx(models=np.repeat(names, 2), testsegs=np.tile(names[:2], len(names)))
    pairs.modelset = pairs.segset = names
    pairs.trialmask = np.ones((len(names), len(names)), dtype=bool)
    f = np.diag(np.random.default_rng(0).uniform(0.1, 2, DIM))
    return lambda: fast_PLDA_scoring(enrol, test, pairs, np.zeros(DIM), f, np.eye(DIM), check_missing=False)


def score_pair_by_pair(case: Case, rows: np.ndarray, columns: np.ndarray) -> Callable[[], object]:
    """As WeSpeaker's score.py does: scikit-learn's cosine of one pair of NumPy vectors after another."""
    enrol, test = (
        {f"{i}": vector for i, vector in enumerate(side)} for side in (case.enrol_embeddings, case.test_embeddings)
    )
    pairs = [(f"{i}", f"{j}") for i, j in zip(rows[:NUM_PEER_PAIRS], columns[:NUM_PEER_PAIRS], strict=True)]
    return lambda: [cosine_similarity(enrol[i].reshape(1, -1), test[j].reshape(1, -1))[0][0] for i, j in pairs]


def with_memory(row: Row, call: Callable[[], object]) -> Row:
    return replace(row, name=f"{row.name} ({peak_growth(call)[1]:+.0f} MB)")


def compare_dense(case: Case, device: str, repeats: int) -> Row:
    """All pairs. The peer is SpeechBrain's `fast_PLDA_scoring` for PLDA, else NumPy's product."""
    size = len(case.enrol)

    def ours() -> object:
        return score_all_pairs(case.scorer, case.enrol, case.test, device=device)

    left, right = case.enrol.vectors.numpy(), case.test.vectors.numpy()
    peer = score_with_speechbrain(case) if case.name == "PLDA" else lambda: left @ right.T
    name = f"{device}: {case.name}, all pairs of {size:,}"
    row = compare(name, size**2, "trials/s", ours=ours, peer=peer, bound=multiply(case, device), repeats=repeats)
    return with_memory(row, ours)


def compare_listed(case: Case, num_trials: int, device: str, repeats: int) -> Row:
    """Random pairs in random order. The peer, one pair at a time, scores 2,000."""
    rows, columns = draw_pairs(len(case.enrol), num_trials)
    trials = TrialRows(rows, columns, len(case.enrol), len(case.test))

    def ours() -> object:
        return score_trials(case.scorer, case.enrol, case.test, trials, device=device)

    name = f"{device}: {case.name}, {num_trials:,} listed of {len(case.enrol):,}²"
    row = compare(name, num_trials, "trials/s", ours=ours, bound=multiply(case, device), repeats=repeats)
    peer = compare(name, NUM_PEER_PAIRS, "trials/s", ours=score_pair_by_pair(case, rows, columns), repeats=1).ours
    return with_memory(replace(row, peer=peer, ratio_to_peer=row.ours / peer), ours)


def draw_pairs(size: int, num_trials: int) -> np.ndarray:
    return np.random.default_rng(1).integers(size, size=(2, num_trials), dtype=np.int32)


def compare_measured(case: Case, num_trials: int, repeats: int) -> list[Row]:
    """Listed trials scored and measured: EER and minDCF in memory; and all metrics at once, by counting."""
    rows, columns = draw_pairs(len(case.enrol), num_trials)
    is_target = (rows + columns) % 50 == 0
    point = OperatingPoint(0.01)

    def score() -> np.ndarray:
        return score_trials(case.scorer, case.enrol, case.test, TrialRows(rows, columns, *2 * [len(case.enrol)]))

    def in_memory() -> object:
        scores = score()
        return compute_eer(scores, is_target), compute_min_dcf(scores, is_target, point.p_target)

    def counted() -> object:
        trials = TrialRows(rows, columns, *2 * [len(case.enrol)])
        return measure_trials(case.scorer, case.enrol, case.test, trials, is_target, (point,))

    found = []
    for name, call in (("EER, minDCF", in_memory), ("EER, ROCCH-EER, minDCF, actDCF, Cllr", counted)):
        label = f"cpu: {case.name}, {num_trials:,} listed trials scored and measured: {name}"
        row = compare(label, num_trials, "trials/s", ours=call, bound=multiply(case, "cpu"), repeats=repeats)
        print(f"{label}: {num_trials / row.ours:.2f} s")
        found.append(with_memory(row, call))
    return found


def compute_sklearn_eer(scores: np.ndarray, is_target: np.ndarray) -> float:
    p_false_alarm, p_detection, _ = roc_curve(is_target, scores)
    return float(brentq(lambda x: 1 - x - interp1d(p_false_alarm, p_detection)(x), 0, 1))


def compare_eer(num_trials: int) -> Row:
    random = np.random.default_rng(0)
    is_target = random.random(num_trials) < 0.1
    scores = random.normal(size=num_trials) + 2 * is_target
    difference = abs(compute_eer(scores, is_target) - compute_sklearn_eer(scores, is_target))
    print(f"EER of {num_trials:,} trials: ours and scikit-learn's differ by {difference:.1e}")
    return compare(
        f"EER, {num_trials:,} trials",
        num_trials,
        "trials/s",
        ours=lambda: compute_eer(scores, is_target),
        peer=lambda: compute_sklearn_eer(scores, is_target),
        bound=lambda: np.sort(scores),
    )


def compare_bootstrap(num_replicates: int) -> Row:
    """62,600 trials of 47 speakers. The peer computes each replicate anew from weighted trials by roc_curve."""
    random = np.random.default_rng(0)
    num_trials, num_speakers = 62_600, 47
    enrol, test = random.integers(num_speakers, size=(2, num_trials))
    test[:2600] = enrol[:2600]
    is_target = enrol == test
    scores = random.normal(size=num_trials) + 2 * is_target

    def peer() -> None:
        for _ in range(10):
            drawn = np.bincount(random.integers(num_speakers, size=num_speakers), minlength=num_speakers)
            weights = np.where(is_target, drawn[enrol], drawn[enrol] * drawn[test])
            p_false_alarm, p_detection, _ = roc_curve(is_target, scores, sample_weight=weights)
            brentq(lambda x: 1 - x - interp1d(p_false_alarm, p_detection)(x), 0, 1)  # noqa: B023

    name, unit = "bootstrap by speaker, 62,600 trials", "replicates/s"
    ours = compare(
        name,
        num_replicates,
        unit,
        ours=lambda: bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, num_replicates=num_replicates),
        repeats=3,
    ).ours
    theirs = compare(name, 10, unit, ours=peer, repeats=3).ours
    return Row(name, ours, theirs, None, unit, ours / theirs, None)


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    quick = arguments.quick
    repeats = 3 if quick else 5
    cases = make_cases(3000 if quick else 10_000)
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for case in cases:
            rows.append(compare_dense(case, device, repeats))
            rows.append(compare_listed(case, 3_300_000 if quick else 37_000_000, device, repeats))
            rows.append(compare_listed(case, 50_000, device, repeats))
    rows += compare_measured(cases[0], 3_300_000 if quick else 37_000_000, 1 if quick else 3)
    rows += [compare_eer(200_000 if quick else 1_000_000), compare_bootstrap(100 if quick else 1000)]
    rows += fused_metrics.rows(quick)
    publish(f"scoring, dim {DIM}, {torch.get_num_threads()} CPU threads", rows, arguments.json)


if __name__ == "__main__":
    main()
