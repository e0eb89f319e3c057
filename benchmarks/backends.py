"""Backends adapted without labels, on real telephone calls: error rates, not seconds.

Two extractors' embeddings; source domain read speech at a microphone (speechocean762), target domain telephone
calls (wuw2), of which adaptation sees the unlabelled pool, with the call and the kind of phone of each recording.
Each method at the strength that the label-free rule gives it, then the rule's own choice among all. The evaluation
trials choose nothing. `ours` is EER in per cent, so lower is better; `peer` that of cosine centred on the pool;
`bound` the linear ceiling of ../shared/README.md, learnt from labels that no user has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Row, parse_arguments, publish

from spkadapt.backend import Lda, Plda
from spkadapt.backend.adaptation import KaldiAdaptation, TargetStatistics
from spkadapt.backend.adapted import METHODS, SourceData, TargetDomainData, prepare_backend
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.intervals import compare_paired
from spkadapt.manifest import Manifest, load_manifest
from spkadapt.metrics.weighted import EER
from spkadapt.run_folder import TrialTruth, trial_truth
from spkadapt.score import prepare_sides, score_trials
from spkadapt.select import Choice, choose_backend
from spkadapt.trials import Trials, load_trials

CORPORA = Path(__file__).resolve().parents[2] / "shared" / "corpora"
LINEAR_CEILING = {"campplus": 0.090, "resemblyzer": 0.160}


@dataclass(frozen=True)
class Task:
    """One extractor's embeddings, and what they are scored on."""

    name: str
    source: SourceData
    pool: TargetDomainData
    pool_without_sessions: TargetDomainData
    evaluation: EmbeddingSet
    domains: np.ndarray
    trials: Trials
    truth: TrialTruth

    def score(self, backend: Backend) -> np.ndarray:
        """The scores of the evaluation trials."""
        domains = None if backend.domains is None else self.domains
        vectors = EmbeddingSet(
            self.evaluation.utterance_ids, backend.transform(self.evaluation.embeddings, domains)
        )
        sides = prepare_sides(backend.scorer, self.trials, vectors)
        return score_trials(backend.scorer, sides.enrol, sides.test, sides.rows)


def load_task(name: str) -> Task:
    source_items = load_manifest(CORPORA / "speechocean762" / "manifest.csv")
    source_set = EmbeddingSet.load(CORPORA / "embeddings" / f"speechocean762_{name}.npz")
    speaker_of = dict(zip((item.utterance_id for item in source_items), source_items.speakers(), strict=True))
    source = SourceData(
        source_set.embeddings, np.array([speaker_of[utterance] for utterance in source_set.utterance_ids])
    )
    calls = load_manifest(CORPORA / "wuw2" / "manifest.csv")
    embeddings = EmbeddingSet.load(CORPORA / "embeddings" / f"wuw2_{name}.npz")
    pool, evaluation = (calls.where({"split": split}) for split in ("adapt", "eval"))
    trials = load_trials(CORPORA / "wuw2" / "trials_eval.txt")
    vectors = embeddings.select([item.utterance_id for item in pool]).embeddings
    return Task(
        name,
        source,
        TargetDomainData(vectors, np.array([item.session_id for item in pool]), domains_of(pool)),
        TargetDomainData(vectors),
        embeddings.select([item.utterance_id for item in evaluation]),
        domains_of(evaluation),
        trials,
        trial_truth(trials, evaluation),
    )


def domains_of(items: Manifest) -> np.ndarray:
    return np.array([item.domain for item in items])


def references(task: Task) -> dict[str, Backend]:
    """What others do: cosine, centred cosine, and Kaldi's recipe before and after its adaptation."""
    pool = task.pool.embeddings
    centred = MeanSubtraction().fit(pool)
    found = {
        "cosine": Backend((), CosineScorer()),
        "cosine, centred on the pool": Backend((centred,), CosineScorer()),
        "cosine, centred by kind of phone": Backend(
            (MeanSubtraction().fit(pool, task.pool.domains),), CosineScorer()
        ),
    }
    source_mean = MeanSubtraction().fit(task.source.embeddings)
    scale = LengthNormalisation("sqrt-dim")
    lda = Lda(dim=100).fit(source_mean.transform(task.source.embeddings), task.source.speakers)
    source = scale.transform(lda.transform(source_mean.transform(task.source.embeddings)))
    plda = Plda(estimator="kaldi", normalise_length=True).fit(source, task.source.speakers)
    statistics = TargetStatistics.from_embeddings(scale.transform(lda.transform(centred.transform(pool))))
    adapted = KaldiAdaptation().adapt(plda.model_, statistics)
    steps = (centred, lda, scale)
    found["Kaldi's PLDA"] = Backend(steps, plda)
    found["Kaldi's PLDA, its adaptation"] = Backend(steps, Plda.from_model(adapted, normalise_length=True))
    return found


def best_of(choice: Choice, method: str) -> float | None:
    """The strength of a method that its pseudo-speaker EER is least at; None where it could not be fitted."""
    tried = [one for one in choice.candidates if one.method == method and one.pseudo_eer is not None]
    return min(tried, key=lambda one: one.pseudo_eer or 0.0).strength if tried else None


def adapted_backends(task: Task) -> dict[str, Backend]:
    """Each method in full and at its label-free strength, and the choices with less and less known of the pool."""
    choice = choose_backend(task.source, task.pool)
    found = {"source PLDA, as it is": prepare_backend("kaldi", task.source, task.pool).at(0)}
    for method in METHODS[2:]:
        try:
            prepared = prepare_backend(method, task.source, task.pool)
        except InputError as error:
            print(f"{task.name}: {method} cannot be fitted: {error}")
            continue
        found[f"{method} in full"] = prepared.at(1)
        strength = best_of(choice, method)
        if strength:  # at 0 it is the source PLDA
            found[f"{method}, label-free strength {strength:g}"] = prepared.at(strength)
    pools = {
        "calls and kinds of phone known": task.pool,
        "calls known": TargetDomainData(task.pool.embeddings, task.pool.sessions),
        "nothing known": task.pool_without_sessions,
    }
    for known, pool in pools.items():
        chosen = choice if pool is task.pool else choose_backend(task.source, pool)
        name = f"CHOSEN, {known}: {chosen.method}, strength {chosen.strength:g}"
        found[name] = prepare_backend(chosen.method, task.source, pool).at(chosen.strength)
    return found


def measure(task: Task, num_replicates: int) -> list[Row]:
    backends = references(task) | adapted_backends(task)
    scores = {name: task.score(backend) for name, backend in backends.items()}
    baseline = scores["cosine, centred on the pool"]
    truth = task.truth
    rows = []
    for name, values in scores.items():
        test = compare_paired(
            baseline,
            values,
            truth.is_target,
            truth.enrol_speakers,
            truth.test_speakers,
            EER,
            num_replicates=num_replicates,
        )
        low, high = 100 * test.interval.low, 100 * test.interval.high
        label = f"{task.name}: {name} (change {100 * test.difference:+.2f} [{low:+.2f}, {high:+.2f}])"
        ours, peer, bound = 100 * test.second, 100 * test.first, 100 * LINEAR_CEILING[task.name]
        rows.append(Row(label, ours, peer, bound, "EER %", ours / peer, ours / bound))
    return rows


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    names = ["campplus"] if arguments.quick else list(LINEAR_CEILING)
    rows = [row for name in names for row in measure(load_task(name), 200 if arguments.quick else 1000)]
    publish("Adapted backends on wuw2 (lower is better)", rows, arguments.json)


if __name__ == "__main__":
    main()
