"""Score files held against labelled trials: measured, compared, calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spkadapt.backend.calibration import LogisticCalibration, MixtureCalibration
from spkadapt.errors import InputError, suggest
from spkadapt.files import write_json
from spkadapt.intervals import (
    INTERVAL_DEFINITION,
    PAIRED_TEST_DEFINITION,
    bootstrap_metrics,
    compare_paired,
    percentile_interval,
)
from spkadapt.manifest import Manifest, load_manifest
from spkadapt.metrics.conditions import (
    EQUALISED_DEFINITION,
    combine_labels,
    measure_conditions,
    measure_equalised,
    pair_labels,
)
from spkadapt.metrics.operating_points import OPERATING_POINTS, OperatingPoint
from spkadapt.metrics.weighted import AUC, CLLR, EER, MIN_CLLR, ROCCH_EER, Metric, act_dcf, measure, min_dcf
from spkadapt.progress import Progress
from spkadapt.run_folder import trial_truth
from spkadapt.score import Scores, align_scores, load_scores, save_scores
from spkadapt.trials import Trials, load_trials

CONDITIONS = ("domain", "gender", "language")


def evaluate_file(
    scores: Path,
    trials: Path,
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    evaluation: str | None = None,
    llr: bool = False,
    manifest: Path | None = None,
    by: Sequence[str] = (),
    against: Path | None = None,
    num_bootstrap: int = 1000,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Measure a score file against labelled trials.

    Args:
        scores: `enrol test score` or `score enrol test` lines, npz or parquet.
        trials: labelled trials; each needs a score.
        p_targets: operating points of minDCF, with costs of 1.
        evaluation: also the primary cost of this evaluation, a name in `OPERATING_POINTS`.
        llr: the scores are calibrated log-likelihood ratios: also measure actDCF and Cllr.
        manifest: names the speakers, and so gives intervals by speaker.
        by: columns of the manifest, of `CONDITIONS`: also results for each pair of their values, and results in
            which all these count alike.
        against: the score file of another system on the same trials, to test the difference by speaker.
        num_bootstrap: bootstrap replicates of the intervals.
        json_file: also write the result there.

    Returns:
        Counts, metrics by name, the definitions they follow, and what else was asked for.

    Raises:
        InputError: bad files, trials without labels or without a score, an unknown evaluation or condition, or
            conditions or another system without a manifest.
    """
    listed, is_target = _load_labelled(trials)
    metrics = _choose_metrics(p_targets, evaluation, llr)
    values = align_scores(load_scores(scores), listed.enrol_ids, listed.test_ids)
    result: dict[str, Any] = {
        "num_targets": int(is_target.sum()),
        "num_nontargets": int((~is_target).sum()),
        "metrics": {metric.name: measure(metric, values, is_target) for metric in metrics},
        "definitions": {metric.name: metric.definition for metric in metrics},
    }
    if manifest is None and (by or against is not None):
        raise InputError("conditions and comparisons need a manifest that names the speakers")
    if manifest is not None:
        utterances = load_manifest(manifest)
        result |= _measure_by_speaker(values, listed, utterances, metrics, by, against, num_bootstrap)
        result["definitions"]["interval"] = INTERVAL_DEFINITION
        result["definitions"] |= {"equalised": EQUALISED_DEFINITION} if by else {}
        result["definitions"] |= {} if against is None else {"comparison": PAIRED_TEST_DEFINITION}
    if json_file is not None:
        write_json(json_file, result)
    return result


def _choose_metrics(p_targets: Sequence[float], evaluation: str | None, llr: bool) -> list[Metric]:
    """What to measure; the first is what systems are compared by."""
    points = [OperatingPoint(p) for p in p_targets]
    metrics: list[Metric] = [EER, ROCCH_EER, *(min_dcf(point) for point in points), MIN_CLLR, AUC]
    if llr:
        metrics += [*(act_dcf(point) for point in points), CLLR]
    if evaluation is None:
        return metrics
    if evaluation not in OPERATING_POINTS:
        raise InputError(f'there is no evaluation "{evaluation}"; {suggest(evaluation, OPERATING_POINTS)}')
    primary = OPERATING_POINTS[evaluation].points
    metrics += [min_dcf(*primary), *([act_dcf(*primary)] if llr else [])]
    return list({metric.name: metric for metric in metrics}.values())


def _measure_by_speaker(
    values: np.ndarray,
    listed: Trials,
    utterances: Manifest,
    metrics: Sequence[Metric],
    by: Sequence[str],
    against: Path | None,
    num_bootstrap: int,
) -> dict[str, Any]:
    truth = trial_truth(listed, utterances)
    speakers = truth.enrol_speakers, truth.test_speakers
    replicates = bootstrap_metrics(values, truth.is_target, *speakers, metrics, num_replicates=num_bootstrap)
    found: dict[str, Any] = {
        "intervals": {name: asdict(percentile_interval(drawn)) for name, drawn in replicates.items()}
    }
    if by:
        conditions = _label_trials(listed, utterances, by)
        parts = measure_conditions(metrics, values, truth.is_target, conditions)
        found["conditions"] = [asdict(part) for part in parts]
        found["equalised"] = {
            metric.name: measure_equalised(metric, values, truth.is_target, conditions) for metric in metrics
        }
    if against is not None:
        other = align_scores(load_scores(against), listed.enrol_ids, listed.test_ids)
        test = compare_paired(other, values, truth.is_target, *speakers, metrics[0], num_replicates=num_bootstrap)
        found["comparison"] = {"against": str(against)} | asdict(test)
    return found


def _label_trials(listed: Trials, utterances: Manifest, by: Sequence[str]) -> np.ndarray:
    """The condition of each trial: the pair of values of each column, whichever side has which."""
    factors = {}
    for column in by:
        if column not in CONDITIONS:
            raise InputError(f'there are no conditions by "{column}"; {suggest(column, CONDITIONS)}')
        value_of = {item.utterance_id: getattr(item, column) or "unknown" for item in utterances}
        sides = [[value_of[name] for name in ids] for ids in (listed.enrol_ids, listed.test_ids)]
        factors[column] = pair_labels(*sides)
    return combine_labels(factors)


def calibrate_files(
    scores: Sequence[Path],
    out: Path,
    progress: Progress,
    *,
    trials: Path | None = None,
    training_scores: Sequence[Path] = (),
    p_target: float = 0.5,
) -> None:
    """Turn scores into log-likelihood ratios; of several systems on the same trials, into one.

    Args:
        scores: a score file of each system.
        out: the file of log-likelihood ratios, natural log.
        progress: where to say what was done.
        trials: labelled trials to learn from; without them, a mixture of two Gaussians is fitted to the scores
            themselves, which is a guess and serves one system only.
        training_scores: the same systems' scores of those trials, in the same order.
        p_target: the prior to be best at.

    Raises:
        InputError: bad files; trials without training scores or the other way about; another number of these than
            of systems; scores from which no calibration can be learnt.
    """
    systems = [load_scores(path) for path in scores]
    first = systems[0]
    columns = np.stack([align_scores(one, first.enrol_ids, first.test_ids) for one in systems], axis=1)
    if trials is None:
        llrs = _calibrate_blindly(columns, training_scores, progress)
    else:
        if len(training_scores) != len(scores):
            found = f"{len(training_scores)} training score files for {len(scores)} systems"
            raise InputError(f"expected one training score file for each system, found {found}")
        listed, is_target = _load_labelled(trials)
        known = [align_scores(load_scores(path), listed.enrol_ids, listed.test_ids) for path in training_scores]
        calibration = LogisticCalibration(p_target).fit(np.stack(known, axis=1), is_target)
        llrs = calibration.transform(columns)
        weights = ", ".join(f"{weight:.4g}" for weight in calibration.weights_)
        progress.say(f"llr = ({weights}) · scores + {calibration.offset_:.4g}")
    save_scores(out, Scores(first.enrol_ids, first.test_ids, llrs))
    progress.say(f"{len(llrs)} log-likelihood ratios → {out}")


def _calibrate_blindly(columns: np.ndarray, training_scores: Sequence[Path], progress: Progress) -> np.ndarray:
    if training_scores:
        raise InputError("training scores need the labelled trials that they are of: give --trials too")
    if columns.shape[1] > 1:
        found = f"{columns.shape[1]} systems"
        raise InputError(f"expected one system to calibrate without labels, found {found}: fusion needs --trials")
    mixture = MixtureCalibration().fit(columns[:, 0])
    progress.say(f"llr = {mixture.scale_:.4g} · score + {mixture.offset_:.4g}, from a mixture of two Gaussians")
    progress.say(
        f"it takes {100 * mixture.target_share_:.2f} % of the trials for targets: a guess, unless that fits"
    )
    return mixture.transform(columns[:, 0])


def _load_labelled(path: Path) -> tuple[Trials, np.ndarray]:
    listed = load_trials(path)
    if listed.is_target is None:
        raise InputError("these trials say nothing of which are targets; evaluation needs labels", path=path)
    return listed, listed.is_target
