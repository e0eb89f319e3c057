"""Scoring and error rates: trials per second against a loop over pairs, and against a bare matrix product.

Rates count the whole call: length normalisation, sorting into blocks, and putting scores back in order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from harness import Row, compare, parse_arguments, publish
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from spkadapt.intervals import bootstrap_by_speaker
from spkadapt.metrics import compute_eer
from spkadapt.score import score_all_pairs, score_cosine

DIM = 256


def score_pair_by_pair(
    enrol: torch.Tensor, test: torch.Tensor, rows: np.ndarray, columns: np.ndarray
) -> list[float]:
    similarity = torch.nn.functional.cosine_similarity
    return [similarity(enrol[i], test[j], dim=0).item() for i, j in zip(rows, columns, strict=True)]


def compare_scoring(name: str, num_embeddings: int, num_trials: int | None, device: str) -> Row:
    """Time all pairs, or `num_trials` listed pairs.

    The peer scores 2,000 pairs. The bound is the bare product of all pairs, as though picking listed ones from it
    were free; where few are listed, gathering them beats it.
    """
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(num_embeddings, DIM)).astype(np.float32)
    rows, columns = random.integers(num_embeddings, size=(2, num_trials or 2000))
    tensor = torch.from_numpy(embeddings)
    on_device = tensor.to(device)
    amount = num_trials or num_embeddings**2

    def ours() -> object:
        if num_trials is None:
            return score_all_pairs(embeddings, embeddings, device=device)
        return score_cosine(embeddings, embeddings, rows, columns, device=device)

    def bound() -> object:
        return (on_device @ on_device.T).cpu()

    row = compare(name, amount, "trials/s", ours=ours, bound=bound)
    peer = compare(
        name,
        2000,
        "trials/s",
        ours=lambda: score_pair_by_pair(tensor, tensor, rows[:2000], columns[:2000]),
        repeats=3,
    ).ours
    return replace(row, peer=peer, ratio_to_peer=row.ours / peer)


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
    num_embeddings = 3000 if arguments.quick else 10_000
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        rows += [
            compare_scoring(f"{device}: all pairs of {num_embeddings:,}", num_embeddings, None, device),
            compare_scoring(f"{device}: 1,000,000 of their pairs", num_embeddings, 1_000_000, device),
            compare_scoring(f"{device}: 50,000 of their pairs", num_embeddings, 50_000, device),
        ]
    rows += [compare_eer(200_000 if arguments.quick else 1_000_000)]
    rows += [compare_bootstrap(200 if arguments.quick else 1000)]
    publish(f"scoring, dim {DIM}, {torch.get_num_threads()} CPU threads", rows, arguments.json)


if __name__ == "__main__":
    main()
