"""What a run starts from: the parts of its corpus, their audio checked, their features computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spkadapt.audio import check_audio, inspect_audio
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore, extract_features
from spkadapt.features import FeatureConfig, check_length
from spkadapt.files import write_json
from spkadapt.manifest import Manifest, Recording, UnlabelledPool, load_manifest
from spkadapt.progress import Progress
from spkadapt.recipe import Recipe, Selection
from spkadapt.run_folder import trial_truth
from spkadapt.trials import Trials, load_trials
from spkadapt.vad import VadConfig


@dataclass(frozen=True, eq=False)
class Corpus:
    """The recordings of a run, by the part they play in it."""

    source: Manifest
    target_domain: UnlabelledPool
    evaluation: Manifest
    trials: Trials

    def recordings(self) -> list[Recording]:
        """Every recording, once."""
        items: Iterable[Recording] = (*self.source, *self.target_domain.recordings, *self.evaluation)
        return list({item.utterance_id: item for item in items}.values())

    def without(self, utterance_ids: set[str]) -> Corpus:
        """The corpus less some recordings and the trials that name them."""
        if not utterance_ids:
            return self
        kept = [
            number
            for number, pair in enumerate(zip(self.trials.enrol_ids, self.trials.test_ids, strict=True))
            if utterance_ids.isdisjoint(pair)
        ]
        return Corpus(
            Manifest(tuple(item for item in self.source if item.utterance_id not in utterance_ids)),
            UnlabelledPool(
                tuple(item for item in self.target_domain.recordings if item.utterance_id not in utterance_ids)
            ),
            Manifest(tuple(item for item in self.evaluation if item.utterance_id not in utterance_ids)),
            self.trials.select(kept),
        )


def load_corpus(recipe: Recipe) -> Corpus:
    """Read the manifests and trials of a recipe, and check that they fit together.

    Raises:
        InputError: what the readers raise; a source utterance without a speaker; a trial that names an unknown
            utterance or has no label; an utterance of the evaluation that is also in another part; a pool smaller
            than a batch.
    """

    def load(selection: Selection) -> Manifest:
        path = recipe.path(selection.manifest)
        try:
            return load_manifest(path).where(selection.where)
        except InputError as error:
            raise error if error.path else InputError(str(error), path=path) from error

    sections = recipe.corpus
    source, evaluation = load(sections.source), load(sections.evaluation)
    pool = load(sections.target_domain).unlabelled()
    trials_path = recipe.path(sections.evaluation.trials)
    trials = load_trials(trials_path)
    trials.check_ids([item.utterance_id for item in evaluation], path=trials_path)
    corpus = Corpus(source, pool, evaluation, trials)
    trial_truth(trials, evaluation)
    source.speakers()
    _check_apart(corpus)
    if recipe.adapt.uses_target_domain and len(pool) < recipe.train.batch_size:
        raise InputError(
            f"corpus.target_domain has {len(pool)} utterances, fewer than a batch of "
            f"train.batch_size={recipe.train.batch_size}; give more recordings or a smaller batch"
        )
    return corpus


def _check_apart(corpus: Corpus) -> None:
    """No utterance plays two parts: above all, nothing that scores a run may train it."""
    parts = {
        "corpus.source": {item.utterance_id for item in corpus.source},
        "corpus.target_domain": {item.utterance_id for item in corpus.target_domain.recordings},
        "corpus.evaluation": {item.utterance_id for item in corpus.evaluation},
    }
    names = list(parts)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        shared = sorted(parts[names[first]] & parts[names[second]])
        if shared:
            raise InputError(
                f"{len(shared)} utterances are in both {names[first]} and {names[second]}, the first is "
                f"{shared[0]}; select disjoint parts with `where`"
            )


def prepare_features(
    recordings: Sequence[Recording],
    features: FeatureConfig,
    vad: VadConfig | None,
    cache: Path,
    progress: Progress,
    *,
    skip_bad: bool,
    device: str,
) -> tuple[FeatureStore, dict[str, str]]:
    """Check all audio, then compute the features of what is sound, or find them in the cache.

    Returns:
        The features, and why each recording that was left out was left out.

    Raises:
        InputError: listing all bad recordings, unless `skip_bad`.
    """
    key = fingerprint([_identity(item) for item in recordings], asdict(features), vad and asdict(vad))
    folder = cache / f"features-{key}"
    if not (folder / "audio.json").is_file():
        write_json(folder / "audio.json", _check_recordings(recordings, features, progress))
    problems: dict[str, str] = json.loads((folder / "audio.json").read_text(encoding="utf-8"))
    if problems and not skip_bad:
        errors = [InputError(message) for message in problems.values()]
        hint = "mend or remove them, or set corpus.on_bad_audio=skip"
        raise InputError.together(errors, summary=f"{len(errors)} of {len(recordings)} recordings are bad; {hint}")
    sound = [item for item in recordings if item.utterance_id not in problems]
    with progress.task("features", len(sound)) as update:
        store = extract_features(sound, folder, features, vad, device=device, on_progress=lambda n: update(n, ""))
    return store, problems


def _identity(recording: Recording) -> list[Any]:
    """What changes when the audio behind an utterance does."""
    if not recording.path.is_file():
        return [recording.utterance_id, str(recording.path)]
    status = recording.path.stat()
    stretch = [recording.start, recording.duration] if recording.start is not None else []
    return [recording.utterance_id, str(recording.path.resolve()), status.st_size, status.st_mtime_ns, *stretch]


def _check_recordings(
    recordings: Sequence[Recording], features: FeatureConfig, progress: Progress
) -> dict[str, str]:
    """Decode every file once; what is wrong with each recording that has something wrong."""
    paths = list(dict.fromkeys(item.path for item in recordings))
    with progress.task("checking audio", len(paths)) as update:
        errors = check_audio(paths, features.sample_rate, on_progress=lambda done: update(done, ""))
    bad_files = {error.path: str(error) for error in errors}
    problems = {}
    for item in recordings:
        try:
            if item.path in bad_files:
                raise InputError(bad_files[item.path])
            check_length(_num_samples(item, features.sample_rate), features)
        except InputError as error:
            where = "" if item.path in bad_files else f"{item.path}: "
            problems[item.utterance_id] = f"{where}{error}"
    return problems


def _num_samples(recording: Recording, sample_rate: int) -> int:
    """Samples of a recording at the given rate, from the file's header; errs if the segment lies outside."""
    info = inspect_audio(recording.path)
    seconds = info.num_samples / info.sample_rate
    start = recording.start or 0.0
    if recording.start is not None and recording.duration is not None:
        seconds = min(seconds, start + recording.duration)
    if seconds <= start:
        raise InputError(f"the segment starts at {start:g} s, and the file ends at {seconds:g} s")
    return int((seconds - start) * sample_rate)


def fingerprint(*values: Any) -> str:
    """A short name for a combination of settings."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
