"""What a run starts from: the parts of its corpus, their audio checked, their features computed."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spkadapt.audio import check_audio, inspect_audio
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore, WaveformChange, extract_features
from spkadapt.features import FeatureConfig, check_length
from spkadapt.files import write_json
from spkadapt.manifest import Manifest, Recording, UnlabelledPool, load_manifest
from spkadapt.progress import Progress, Update
from spkadapt.recipe import Recipe, Selection
from spkadapt.run_folder import trial_truth
from spkadapt.simulate.call import SIMULATION_VERSION
from spkadapt.trials import Trials, load_trials
from spkadapt.vad import VadConfig

Simulation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Corpus:
    """The recordings of a run, by the part they play in it.

    Attributes:
        source: the labelled domain.
        target_domain: the unlabelled pool, less what is held out.
        held_out: recordings of the pool that no training sees, for choosing by.
        evaluation, trials: what scores the run.
    """

    source: Manifest
    target_domain: UnlabelledPool
    held_out: UnlabelledPool
    evaluation: Manifest
    trials: Trials

    def recordings(self) -> list[Recording]:
        """Every recording, once."""
        items: Iterable[Recording] = (*self.source, *self.whole_pool().recordings, *self.evaluation)
        return list({item.utterance_id: item for item in items}.values())

    def whole_pool(self) -> UnlabelledPool:
        """All of the unlabelled pool, what is held out last."""
        return UnlabelledPool(self.target_domain.recordings + self.held_out.recordings)

    def trials_with(self, utterance_ids: Container[str]) -> list[int]:
        """The places of the trials that name one of the recordings."""
        pairs = zip(self.trials.enrol_ids, self.trials.test_ids, strict=True)
        return [place for place, pair in enumerate(pairs) if any(name in utterance_ids for name in pair)]

    def without(self, utterance_ids: Container[str]) -> Corpus:
        """The corpus less some recordings and the trials that name them."""
        dropped = set(self.trials_with(utterance_ids))
        source, evaluation = (
            Manifest(tuple(item for item in part if item.utterance_id not in utterance_ids))
            for part in (self.source, self.evaluation)
        )
        pool, held_out = (
            UnlabelledPool(tuple(item for item in part.recordings if item.utterance_id not in utterance_ids))
            for part in (self.target_domain, self.held_out)
        )
        trials = self.trials.select([place for place in range(len(self.trials)) if place not in dropped])
        return Corpus(source, pool, held_out, evaluation, trials)


def load_corpus(recipe: Recipe) -> Corpus:
    """Read the manifests and trials of a recipe, and check that they fit together.

    Raises:
        InputError: what the readers raise; a source utterance without a speaker; a trial that names an unknown
            utterance or has no label; an utterance of the evaluation that is also in another part; too little of
            some part; sessions that cannot be held out.
    """

    def load(selection: Selection) -> Manifest:
        path = recipe.path(selection.manifest)
        try:
            return load_manifest(path).where(selection.where)
        except InputError as error:
            raise error if error.path else InputError(str(error), path=path) from error

    sections = recipe.corpus
    source, evaluation = load(sections.source), load(sections.evaluation)
    pool, held_out = load(sections.target_domain).unlabelled(), UnlabelledPool(())
    if sections.target_domain.held_out > 0:
        try:
            pool, held_out = pool.hold_out(sections.target_domain.held_out)
        except InputError as error:
            message = f"corpus.target_domain.held_out: {error}"
            raise InputError(message, path=recipe.path(sections.target_domain.manifest)) from error
    trials_path = recipe.path(sections.evaluation.trials)
    trials = load_trials(trials_path)
    trials.check_ids([item.utterance_id for item in evaluation], path=trials_path)
    corpus = Corpus(source, pool, held_out, evaluation, trials)
    trial_truth(trials, evaluation)
    source.speakers()
    _check_apart(corpus)
    check_sizes(corpus, recipe)
    return corpus


def _check_apart(corpus: Corpus) -> None:
    """No utterance plays two parts, under one id or two: above all, nothing that scores a run may train it."""
    parts: dict[str, Sequence[Recording]] = {
        "corpus.source": corpus.source.utterances,
        "corpus.target_domain": corpus.target_domain.recordings,
        "what is held out of corpus.target_domain": corpus.held_out.recordings,
        "corpus.evaluation": corpus.evaluation.utterances,
    }
    for (first, items), (second, others) in itertools.combinations(parts.items(), 2):
        ids = {item.utterance_id for item in others}
        audio = {_stretch(item) for item in others}
        shared = [item for item in items if item.utterance_id in ids or _stretch(item) in audio]
        if shared:
            raise InputError(
                f"{len(shared)} utterances are in both {first} and {second}, the first is "
                f"{shared[0].utterance_id} ({shared[0].path}); select disjoint parts with `where`"
            )


def _stretch(recording: Recording) -> tuple[Path, float]:
    """Which audio it is, whatever it is called."""
    return recording.path.resolve(), recording.start or 0.0


def check_sizes(corpus: Corpus, recipe: Recipe) -> None:
    """Raise `InputError` unless there is enough of each part to train on and to measure."""
    num_speakers, num_pooled = len(set(corpus.source.speakers())), len(corpus.target_domain)
    if num_speakers < 2:
        raise InputError(f"corpus.source has {num_speakers} speakers; training needs at least 2")
    if num_pooled == 0:
        raise InputError("corpus.target_domain has no utterances")
    num_targets = 0 if corpus.trials.is_target is None else int(corpus.trials.is_target.sum())
    if not 0 < num_targets < len(corpus.trials):
        raise InputError(
            f"corpus.evaluation.trials has {num_targets} targets and {len(corpus.trials) - num_targets} "
            "non-targets; measuring needs some of each"
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

    What is left out is said.

    Returns:
        The features, and why each recording that was left out was left out.

    Raises:
        InputError: listing all bad recordings, unless `skip_bad`.
    """
    # In an order of their own, so that runs of the same recordings find them, whatever part each plays there.
    recordings = sorted(recordings, key=lambda item: item.utterance_id)
    key = fingerprint([_identity(item) for item in recordings], asdict(features), vad and asdict(vad))
    folder = cache / f"features-{key}"
    if not (folder / "audio.json").is_file():
        write_json(folder / "audio.json", _check_recordings(recordings, features, progress))
    problems: dict[str, str] = json.loads((folder / "audio.json").read_text(encoding="utf-8"))
    if problems and not skip_bad:
        errors = [InputError(message) for message in problems.values()]
        hint = "mend or remove them, or set corpus.on_bad_audio=skip"
        raise InputError.together(errors, summary=f"{len(errors)} of {len(recordings)} recordings are bad; {hint}")
    for message in problems.values():
        progress.say(f"skipped: {message}")
    sound = [item for item in recordings if item.utterance_id not in problems]
    with progress.task("features", len(sound)) as update:
        store = extract_features(sound, folder, features, vad, device=device, on_progress=lambda n: update(n, ""))
    return store, problems


def prepare_versions(
    recordings: Sequence[Recording],
    store: FeatureStore,
    recipe: Recipe,
    cache: Path,
    progress: Progress,
    changes: Mapping[str, Simulation],
) -> list[FeatureStore]:
    """Features of the recordings when each is changed in some ways, or found in the cache.

    Args:
        recordings: whose audio is sound.
        store: their features as they are.
        recipe: says what features.
        cache: where they are kept.
        progress: where to show how far it has come.
        changes: by a name that tells them apart, each a function of the waveform and a generator that depends on
            this name, the simulation's seed and the utterance.
    """
    stores = []
    for name, change in changes.items():
        ids = [item.utterance_id for item in recordings]
        key = fingerprint(store.name, ids, name, recipe.simulate.seed, SIMULATION_VERSION)
        with progress.task(name, len(recordings)) as update:

            def on_progress(done: int, update: Update = update) -> None:
                update(done, "")

            changed = extract_features(
                recordings, cache / f"features-{key}", recipe.features, recipe.vad, device=recipe.train.device,
                change=_seeded(change, name, recipe.simulate.seed), on_progress=on_progress,
            )  # fmt: skip
        stores.append(changed)
    return stores


def _seeded(simulate: Simulation, name: str, seed: int) -> WaveformChange:
    """A change of waveforms whose draws depend on its name, the seed and the utterance alone."""

    def change(recording: Recording, waveform: torch.Tensor) -> torch.Tensor:
        generator = np.random.default_rng([seed, *f"{name}: {recording.utterance_id}".encode()])
        # Silence stays silence: no noise has a ratio to it.
        return torch.from_numpy(simulate(waveform.numpy(), generator)) if waveform.any() else waveform

    return change


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
            # Files and segments name themselves in their errors, lengths do not.
            named = str(error).startswith(str(item.path))
            problems[item.utterance_id] = str(error) if named else f"{item.path}: {error}"
    return problems


def _num_samples(recording: Recording, sample_rate: int) -> int:
    """Samples that the recording has once it is loaded at the given rate; errs if its segment lies outside."""
    start, duration = (0.0, None) if recording.start is None else (recording.start, recording.duration)
    info = inspect_audio(recording.path, start=start, duration=duration)
    return -(-info.num_samples * sample_rate // info.sample_rate)


def fingerprint(*values: Any) -> str:
    """A short name for a combination of settings."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
