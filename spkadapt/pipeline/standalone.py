"""Single stages on files, each useful alone: adapt, embed, score, evaluate, prepare."""

from __future__ import annotations

import shutil
from collections.abc import Container, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from spkadapt.adapt import AdaptConfig, MultiTaskObjective
from spkadapt.batches import SourceBatches, TargetDomainBatches
from spkadapt.corpora import CORPORA
from spkadapt.embed import compute_embeddings
from spkadapt.errors import InputError, shorten, suggest
from spkadapt.files import sha256
from spkadapt.manifest import Manifest, UnlabelledPool, load_manifest
from spkadapt.model import ModelDescription, load_model, save_model
from spkadapt.pipeline.corpus import fingerprint, prepare_features
from spkadapt.pipeline.models import load_with_head
from spkadapt.pipeline.run import show_terms
from spkadapt.progress import Progress
from spkadapt.train import TrainConfig, check_device, train

DEFAULT_CACHE = Path("runs/cache")


def prepare_corpus(name: str, root: Path, out: Path | None, progress: Progress) -> Path:
    """Read or make a corpus, and write its `manifest.csv` and, where it has trials, `trials_eval.txt`.

    Args:
        name: a name in `CORPORA`.
        root: where the corpus is, or for `synthetic` where to make it.
        out: folder for the two files; `root` when None.
        progress: where to say what was done.

    Raises:
        InputError: an unknown corpus, or what its `prepare` raises.
    """
    if name not in CORPORA:
        raise InputError(f'there is no corpus "{name}"; {suggest(name, CORPORA)}')
    progress.say(f"{name}: {'making' if name == 'synthetic' else 'reading'} {root} …")
    manifest, trials = CORPORA[name](root)
    out = out or root
    manifest.save_csv(out / "manifest.csv")
    if trials is not None:
        trials.save(out / "trials_eval.txt")
    speakers = len({item.speaker_id for item in manifest if item.speaker_id is not None})
    progress.say(
        f"{name}: {len(manifest)} utterances, {speakers} labelled speakers, "
        f"{0 if trials is None else len(trials)} trials → {out / 'manifest.csv'}"
    )
    return out / "manifest.csv"


def adapt_model(
    model_path: Path,
    unlabelled: Path,
    out: Path,
    progress: Progress,
    *,
    source: Path | None = None,
    adaptation: AdaptConfig,
    training: TrainConfig,
    seed: int = 0,
    skip_bad: bool = False,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Go on training a model, now pulled towards a target domain of which only recordings are known.

    The speaker loss is computed on the labelled source corpus that the model was trained on, the alignment
    loss between it and the unlabelled recordings; speaker columns of the latter are not read. When killed, the
    same call goes on from a checkpoint in a hidden folder beside `out`.

    Args:
        model_path: a model that `run` or `adapt` wrote, with its speaker classifier.
        unlabelled: a manifest of target-domain recordings.
        out: the adapted model's file.
        progress: where to show how far it has come.
        source: the source domain's manifest; None takes the one that the model remembers.
        adaptation, training: which terms join the speaker loss, with what weights, and how to train.
        seed: of all draws.
        skip_bad: leave bad recordings out, and say which, instead of stopping.
        cache: where features are kept.

    Raises:
        InputError: an alignment that does nothing; a model without a speaker classifier; a source corpus that is
            gone, lacks the model's speakers or shares ids with the unlabelled recordings; what the stages raise.
    """
    _check_settings(adaptation, seed)
    model, head = load_with_head(model_path)
    labelled, pool = _load_domains(source, unlabelled, model_path, model.description)
    store, skipped = prepare_features(
        [*labelled, *pool.recordings], model.description.features, model.description.vad, cache, progress,
        skip_bad=skip_bad, device=training.device,
    )  # fmt: skip
    labelled, pool = _without(labelled, pool, skipped)
    _check_speakers(labelled, model.description, source)
    torch.manual_seed(seed)
    size = {"batch_size": training.batch_size, "num_frames": training.crop_frames, "seed": seed}
    target_domain = TargetDomainBatches([[store]], pool, **size)
    source_domain = SourceBatches([store], labelled, crops_per_speaker=training.crops_per_speaker, **size)
    objective = MultiTaskObjective(model, head, adaptation, target_domain.num_recordings)
    settings = {"adapt": asdict(adaptation), "train": asdict(training), "seed": seed}
    checkpoints = out.parent / f".{out.stem}-{fingerprint(sha256(model_path), store.name, settings)}"
    with progress.task(f"adapting with {', '.join(adaptation.active_terms)}", training.num_steps) as update:
        train(
            objective, source_domain, target_domain, training, seed=seed, folder=checkpoints,
            on_step=lambda step, terms: update(step, show_terms(terms)),
        )  # fmt: skip
    model = objective.adapted_model(target_domain.whole_pool())
    model.description = _remember(model.description, model_path, unlabelled, source, settings)
    save_model(out, model, head)
    shutil.rmtree(checkpoints)
    progress.say(f"adapted model → {out}")


def _without(labelled: Manifest, pool: UnlabelledPool, skipped: Container[str]) -> tuple[Manifest, UnlabelledPool]:
    return (
        Manifest(tuple(item for item in labelled if item.utterance_id not in skipped)),
        UnlabelledPool(tuple(item for item in pool.recordings if item.utterance_id not in skipped)),
    )


def _check_settings(adaptation: AdaptConfig, seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed is {seed}; expected a number ≥ 0")
    if not adaptation.uses_target_domain:
        raise InputError("no term has a weight above 0, which leaves the model as it is; give --term NAME=WEIGHT")


def _remember(
    description: ModelDescription, model: Path, unlabelled: Path, source: Path | None, settings: Mapping[str, Any]
) -> ModelDescription:
    """The description with one adaptation more, and the source corpus it was made with."""
    adapted = {"from": str(model.resolve()), "unlabelled": str(unlabelled.resolve()), **settings}
    history = {**description.history, "adapted": [*description.history.get("adapted", []), adapted]}
    if source is not None:
        history["source"] = {"manifest": str(source.resolve()), "where": {}}
    return replace(description, history=history)


def _load_domains(
    source: Path | None, unlabelled: Path, model_path: Path, description: ModelDescription
) -> tuple[Manifest, UnlabelledPool]:
    labelled = _source_manifest(source, model_path, description)
    pool = load_manifest(unlabelled).unlabelled()
    _check_apart(labelled, pool, unlabelled)
    return labelled, pool


def _source_manifest(source: Path | None, model_path: Path, description: ModelDescription) -> Manifest:
    """The labelled corpus to go on with: of the speakers that the model's classifier knows."""
    known = set(description.speaker_ids)
    if source is not None:
        manifest = load_manifest(source)
    else:
        remembered = description.history.get("source", {"manifest": "of which it says nothing", "where": {}})
        if not Path(remembered["manifest"]).exists():
            raise InputError(
                f"the source corpus it was trained on, {remembered['manifest']}, is not there; "
                "name it with --source",
                path=model_path,
            )
        manifest = load_manifest(remembered["manifest"]).where(remembered["where"])
    return Manifest(tuple(item for item in manifest if item.speaker_id in known))


def _check_apart(labelled: Manifest, pool: UnlabelledPool, path: Path) -> None:
    shared = {item.utterance_id for item in labelled} & {item.utterance_id for item in pool.recordings}
    if shared:
        raise InputError(
            f"{len(shared)} utterance ids are those of source recordings too: {shorten(sorted(shared))}", path=path
        )


def _check_speakers(labelled: Manifest, description: ModelDescription, path: Path | None) -> None:
    missing = sorted(set(description.speaker_ids) - set(labelled.speakers()))
    if missing:
        raise InputError(
            f"the source corpus lacks {len(missing)} of the {len(description.speaker_ids)} speakers that the "
            f"model was trained on: {shorten(missing)}",
            path=path,
        )


def embed_manifest(
    model_path: Path,
    manifest: Path,
    out: Path,
    progress: Progress,
    *,
    device: str = "cpu",
    skip_bad: bool = False,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Embed every utterance of a manifest into an npz file.

    Args:
        model_path: a model that `run` or `adapt` wrote.
        manifest: the recordings.
        out: the npz file.
        progress: where to show how far it has come.
        device: where to compute.
        skip_bad: leave bad recordings out, and say which, instead of stopping.
        cache: where features are kept.

    Raises:
        InputError: a bad model or manifest; all bad recordings at once, unless `skip_bad`.
    """
    check_device(device)
    model, _ = load_model(model_path)
    description = model.description
    store, _ = prepare_features(
        load_manifest(manifest).utterances, description.features, description.vad, cache, progress,
        skip_bad=skip_bad, device=device,
    )  # fmt: skip
    rows = range(len(store.utterance_ids))
    with progress.task("embeddings", len(rows)) as update:
        embeddings = compute_embeddings(
            model, store, rows, device=device, on_progress=lambda done: update(done, "")
        )
    embeddings.save(out)
    progress.say(f"{len(rows)} embeddings of {model.embedding_dim} dimensions → {out}")
