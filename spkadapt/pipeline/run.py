"""A run from recipe to scores: pretraining → co-training → embeddings → trials."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from spkadapt.adapt import MultiTaskObjective
from spkadapt.backbone import FrameDnn
from spkadapt.backend.normalise import MeanSubtraction
from spkadapt.batches import SourceBatches, SplicedFrames, TargetDomainBatches, frame_statistics
from spkadapt.embed import EmbeddingSet, compute_embeddings
from spkadapt.feature_store import FeatureStore
from spkadapt.files import atomic_path, write_json
from spkadapt.heads import build_head
from spkadapt.model import ModelDescription, SpeakerModel, load_model, save_model
from spkadapt.pipeline.corpus import Corpus, fingerprint, load_corpus, prepare_features
from spkadapt.pretrain import PRETRAINERS, PretrainProgress
from spkadapt.progress import Progress
from spkadapt.recipe import Recipe
from spkadapt.run_folder import RunFolder
from spkadapt.score import Scores, save_scores, score_cosine
from spkadapt.train import train
from spkadapt.trials import Trials


def run_recipe(recipe: Recipe, out: Path, progress: Progress) -> RunFolder:
    """Run a recipe, or go on with a run of it that was interrupted.

    Args:
        recipe: what to run.
        out: the run's folder is `out / recipe.name`; features and pretrained layers are kept in `out / "cache"`,
            where other runs find them.
        progress: where to show how far it has come.

    Raises:
        InputError: bad input; all bad recordings are listed together before anything long starts.
    """
    corpus = load_corpus(recipe)
    folder = RunFolder(out / recipe.name)
    folder.claim(recipe.model_dump(mode="json"))
    store, skipped = prepare_features(
        corpus.recordings(), recipe.features, recipe.vad, out / "cache", progress,
        skip_bad=recipe.corpus.on_bad_audio == "skip", device=recipe.train.device,
    )  # fmt: skip
    corpus = corpus.without(set(skipped))
    write_json(folder.path / "skipped.json", skipped)
    corpus.source.save_csv(folder.path / "source.csv")
    corpus.target_domain.as_manifest().save_csv(folder.path / "target_domain.csv")
    corpus.evaluation.save_csv(folder.path / "evaluation.csv")
    corpus.trials.save(folder.path / "trials.txt")
    for seed in recipe.seeds:
        if not (folder.seed(seed) / "seed.json").is_file():
            _run_seed(recipe, corpus, store, seed, folder.seed(seed), out / "cache", progress)
    return folder


def _run_seed(
    recipe: Recipe, corpus: Corpus, store: FeatureStore, seed: int, folder: Path, cache: Path, progress: Progress
) -> None:
    """Pretrain, train, embed and score once; `seed.json`, written last, says that all of it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    label = f"{recipe.name} seed {seed}"
    if not (folder / "model.safetensors").is_file():
        _train_seed(recipe, corpus, store, seed, folder, cache, progress, label)
    model, _ = load_model(folder / "model.safetensors")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    start = time.monotonic()
    ids = [item.utterance_id for item in corpus.recordings()]
    with progress.task(f"{label}: embeddings", len(ids)) as update:
        embeddings = compute_embeddings(
            model, store, store.rows(ids).tolist(), device=recipe.train.device, on_progress=lambda n: update(n, "")
        )
    embeddings.save(folder / "embeddings.npz")
    pool = embeddings.select([item.utterance_id for item in corpus.target_domain.recordings])
    for backend, transformed in apply_backends(embeddings, pool).items():
        scores = score_trials(transformed, corpus.trials, device=recipe.train.device)
        save_scores(folder / f"scores_{backend}.txt", scores)
    record["seconds"] += time.monotonic() - start
    write_json(folder / "seed.json", record)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def apply_backends(embeddings: EmbeddingSet, pool: EmbeddingSet) -> dict[str, EmbeddingSet]:
    """The embeddings as they are, and less the mean of the target domain's unlabelled pool."""
    centre = MeanSubtraction().fit(pool.embeddings)
    return {
        "plain": embeddings,
        "centred": replace(embeddings, embeddings=centre.transform(embeddings.embeddings)),
    }


def score_trials(
    embeddings: EmbeddingSet, trials: Trials, *, device: str = "cpu", path: str | Path | None = None
) -> Scores:
    """Cosine scores of a trial list. Raises `InputError` listing ids without an embedding; `path` is theirs."""
    enrol = embeddings.rows(trials.enrol_ids, path)
    test = embeddings.rows(trials.test_ids, path)
    values = score_cosine(embeddings.embeddings, embeddings.embeddings, enrol, test, device=device)
    return Scores(trials.enrol_ids, trials.test_ids, values)


def _train_seed(
    recipe: Recipe,
    corpus: Corpus,
    store: FeatureStore,
    seed: int,
    folder: Path,
    cache: Path,
    progress: Progress,
    label: str,
) -> None:
    """Leave `training.json` and, last, `model.safetensors` in the folder."""
    torch.manual_seed(seed)
    model, pretraining = _build_model(recipe, corpus, store, seed, cache, progress, label)
    head = build_head(recipe.head, model.embedding_dim, len(model.description.speaker_ids))
    objective = MultiTaskObjective(model, head, recipe.adapt)
    size = {"batch_size": recipe.train.batch_size, "num_frames": recipe.train.crop_frames, "seed": seed}
    source = SourceBatches(store, corpus.source, **size)
    uses_target_domain = recipe.adapt.uses_target_domain
    target_domain = TargetDomainBatches(store, corpus.target_domain, **size) if uses_target_domain else None
    with progress.task(label, recipe.train.num_steps) as update:
        outcome = train(
            objective, source, target_domain, recipe.train, seed=seed, folder=folder,
            on_step=lambda step, terms: update(step, show_terms(terms)),
        )  # fmt: skip
    seconds = outcome.seconds + pretraining.get("seconds", 0.0)
    training = [{"step": logged.step, **logged.terms} for logged in outcome.history]
    write_json(folder / "training.json", {"seconds": seconds, "training": training, "pretraining": pretraining})
    save_model(folder / "model.safetensors", model, head)


def show_terms(terms: Mapping[str, float]) -> str:
    """Named losses in one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in terms.items())


def _build_model(
    recipe: Recipe,
    corpus: Corpus,
    store: FeatureStore,
    seed: int,
    cache: Path,
    progress: Progress,
    label: str,
) -> tuple[SpeakerModel, dict[str, Any]]:
    """A model with its feature statistics and, where the recipe says so, pretrained hidden layers.

    Both come from the frames that are first trained on: of both domains with pretraining, which uses no
    labels, and of the source domain without it.
    """
    description = ModelDescription(
        recipe.features,
        recipe.vad,
        store.num_features,
        recipe.backbone.name,
        recipe.backbone.config,
        tuple(sorted(set(corpus.source.speakers()))),
        {
            "recipe": recipe.name,
            "seed": seed,
            "head": asdict(recipe.head),
            "source": {
                "manifest": str(recipe.path(recipe.corpus.source.manifest).resolve()),
                "where": recipe.corpus.source.where,
            },
        },
    )
    model = SpeakerModel(description)
    pretrains = recipe.pretrain.strategy != "none"
    pool = corpus.target_domain.recordings if pretrains else ()
    rows = store.rows([item.utterance_id for item in (*corpus.source, *pool)])
    mean, std = frame_statistics(store, rows)
    model.feature_mean.copy_(mean)
    model.feature_std.copy_(std)
    if not pretrains or not isinstance(model.backbone, FrameDnn):
        return model, {}
    shape = recipe.backbone.dnn
    frames = SplicedFrames(
        store, rows, left_context=shape.left_context, right_context=shape.right_context, mean=mean, std=std
    )
    method = recipe.pretrain.method
    key = fingerprint(asdict(recipe.pretrain.config), asdict(shape), store.name, rows.tolist(), seed)
    path = cache / f"pretrain-{method}-{key}.safetensors"
    layers, record = _pretrain(recipe, frames, seed, path, progress, label)
    model.backbone.load_hidden_layers(layers)
    if recipe.pretrain.strategy == "frozen":
        model.backbone.freeze_hidden_layers()
    return model, record


def _pretrain(
    recipe: Recipe, frames: SplicedFrames, seed: int, path: Path, progress: Progress, label: str
) -> tuple[list[nn.Linear], dict[str, Any]]:
    """Pretrained hidden layers and how they came about, from the cache if another run has made them."""
    if path.is_file():
        return _load_layers(path)
    method, shape = recipe.pretrain.method, recipe.backbone.dnn
    trainer = PRETRAINERS[method](shape.hidden_dims, shape.activation, recipe.pretrain.config)
    start = time.monotonic()
    with progress.task(f"{label}: {method}", trainer.num_epochs) as update:

        def on_epoch(epoch: PretrainProgress) -> None:
            update(len(trainer.history), show_terms(epoch.losses))

        trainer.fit(frames, seed=seed, on_epoch=on_epoch)
    history = [asdict(epoch) for epoch in trainer.history]
    record = {"method": method, "seconds": time.monotonic() - start, "history": history}
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, layer in enumerate(trainer.hidden_layers())
        for name, value in layer.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"record": json.dumps(record)})
    return _load_layers(path)


def _load_layers(path: Path) -> tuple[list[nn.Linear], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
        weights = [file.get_tensor(f"{number}.weight") for number in range(len(file.keys()) // 2)]
        biases = [file.get_tensor(f"{number}.bias") for number in range(len(weights))]
    layers = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers, record
