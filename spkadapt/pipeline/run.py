"""A run from recipe to scores: pretraining → co-training → embeddings → trials."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from spkadapt.adapt import MultiTaskObjective
from spkadapt.backbone import FrameDnn
from spkadapt.batches import SourceBatches, SplicedFrames, TargetDomainBatches, frame_statistics
from spkadapt.embed import compute_embeddings
from spkadapt.feature_store import FeatureStore
from spkadapt.files import atomic_path, write_json
from spkadapt.heads import SpeakerHead, build_head
from spkadapt.model import ModelDescription, SpeakerModel, load_model, save_model
from spkadapt.pipeline.corpus import (
    Corpus,
    check_sizes,
    fingerprint,
    load_corpus,
    prepare_features,
    prepare_versions,
)
from spkadapt.pipeline.models import find_initial, load_initial
from spkadapt.pipeline.run_backends import ADAPTED, fit_backends, score_corpus
from spkadapt.pretrain import PRETRAINERS, PretrainProgress
from spkadapt.progress import Progress
from spkadapt.recipe import Recipe
from spkadapt.run_folder import RunFolder
from spkadapt.score import save_scores
from spkadapt.simulate.call import at_speed, relay_call, simulate_call
from spkadapt.train import train


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
    whole = load_corpus(recipe)
    folder, settings = RunFolder(out / recipe.name), recipe.model_dump(mode="json")
    folder.check_free(settings)
    for seed in recipe.seeds:
        if recipe.initial is not None and not folder.has_seed(seed):
            find_initial(out, recipe.initial, seed)
    store, skipped = prepare_features(
        whole.recordings(), recipe.features, recipe.vad, out / "cache", progress,
        skip_bad=recipe.corpus.on_bad_audio == "skip", device=recipe.train.device,
    )  # fmt: skip
    corpus = whole.without(skipped)
    check_sizes(corpus, recipe)
    folder.claim(settings)
    folder.save_inputs(
        corpus.source, corpus.target_domain, corpus.held_out, corpus.evaluation, corpus.trials,
        skipped, whole.trials.select(whole.trials_with(skipped)), store.name,
    )  # fmt: skip
    for seed in recipe.seeds:
        if not folder.has_scores(seed):
            _SeedRun(recipe, corpus, store, seed, folder.seed(seed), out / "cache", progress).run()
    return folder


def show_terms(terms: Mapping[str, float]) -> str:
    """Named losses in one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in terms.items())


@dataclass(frozen=True)
class _SeedRun:
    """One training of a recipe, from pretraining to scores."""

    recipe: Recipe
    corpus: Corpus
    store: FeatureStore
    seed: int
    folder: Path
    cache: Path
    progress: Progress

    @property
    def label(self) -> str:
        return f"{self.recipe.name} seed {self.seed}"

    def run(self) -> None:
        """Pretrain, train, embed and score; `seed.json`, written last, says that all of it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "model.safetensors").is_file():
            self.train()
        record = json.loads((self.folder / "training.json").read_text(encoding="utf-8"))
        start = time.monotonic()
        record["backend"] = self.score()
        record["seconds"] += time.monotonic() - start
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        write_json(self.folder / "seed.json", record)

    def train(self) -> None:
        """Leave `training.json` and, last, `model.safetensors` in the folder."""
        torch.manual_seed(self.seed)
        model, head, pretraining = self.build_model()
        adapt, config = self.recipe.adapt, self.recipe.train
        source, target_domain = self.batches()
        objective = MultiTaskObjective(model, head, adapt, target_domain.num_recordings)
        with self.progress.task(self.label, config.num_steps) as update:
            outcome = train(
                objective, source, target_domain, config,
                seed=self.seed, folder=self.folder, on_step=lambda step, terms: update(step, show_terms(terms)),
            )  # fmt: skip
        model = objective.adapted_model(target_domain.whole_pool())
        seconds = outcome.seconds + pretraining.get("seconds", 0.0)
        training = [{"step": logged.step, **logged.terms} for logged in outcome.history]
        record = {"seconds": seconds, "training": training, "pretraining": pretraining}
        write_json(self.folder / "training.json", record)
        save_model(self.folder / "model.safetensors", model, head)

    def batches(self) -> tuple[SourceBatches, TargetDomainBatches]:
        """Where the crops of both domains come from, simulated calls among them if the recipe asks for some."""
        config, simulation = self.recipe.train, self.recipe.simulate
        size = {"batch_size": config.batch_size, "num_frames": config.crop_frames, "seed": self.seed}
        labelled, pool = self.corpus.source, self.corpus.target_domain
        prepare = partial(
            prepare_versions, store=self.store, recipe=self.recipe, cache=self.cache, progress=self.progress
        )
        calls = {f"simulated call {copy}": simulate_call for copy in range(1, simulation.source_copies + 1)}
        relays = {f"relayed call {copy}": relay_call for copy in range(1, simulation.target_domain_copies + 1)}
        speeds = {f"speed {speed:g}": at_speed(speed) for speed in simulation.target_domain_speeds}
        source = [self.store, *prepare(labelled.utterances, changes=calls)]
        as_recorded = [self.store, *prepare(pool.recordings, changes=relays)]
        voices = [as_recorded, *([other] for other in prepare(pool.recordings, changes=speeds))]
        labels = SourceBatches(source, labelled, crops_per_speaker=config.crops_per_speaker, **size)
        return labels, TargetDomainBatches(voices, pool, **size)

    def score(self) -> dict[str, Any]:
        """Leave the embeddings, the adapted backend and one score file a backend in the folder.

        Returns:
            How the adapted backend was chosen.
        """
        model, _ = load_model(self.folder / "model.safetensors")
        device = self.recipe.train.device
        ids = [item.utterance_id for item in self.corpus.recordings()]
        rows = self.store.rows(ids).tolist()
        with self.progress.task(f"{self.label}: embeddings", len(ids)) as update:
            embeddings = compute_embeddings(
                model, self.store, rows, device=device, on_progress=lambda done: update(done, "")
            )
        embeddings.save(self.folder / "embeddings.npz")
        backends = fit_backends(
            embeddings, self.corpus, seed=self.seed, progress=self.progress, label=f"{self.label}: backends"
        )
        backends[ADAPTED].save(self.folder / "backend.safetensors")
        for name, backend in backends.items():
            scores = score_corpus(backend, embeddings, self.corpus, device=device)
            save_scores(self.folder / f"scores_{name}.txt", scores)
        return dict(backends[ADAPTED].history)

    def build_model(self) -> tuple[SpeakerModel, SpeakerHead, dict[str, Any]]:
        """What training starts from: another run's model, or a new one; and how that was pretrained, if it was."""
        if self.recipe.initial is not None:
            path = find_initial(self.cache.parent, self.recipe.initial, self.seed)
            return *load_initial(path, self.describe_model()), {}
        model, pretraining = self.build_new_model()
        head = build_head(self.recipe.head, model.embedding_dim, len(model.description.speaker_ids))
        return model, head, pretraining

    def build_new_model(self) -> tuple[SpeakerModel, dict[str, Any]]:
        """A model with its feature statistics and, where the recipe says so, pretrained hidden layers.

        Both come from the frames that are first trained on: of both domains with pretraining, which uses no
        labels, and of the source domain without it.
        """
        recipe = self.recipe
        model = SpeakerModel(self.describe_model())
        pretrains = recipe.pretrain.strategy != "none"
        pool = self.corpus.target_domain.recordings if pretrains else ()
        rows = self.store.rows([item.utterance_id for item in (*self.corpus.source, *pool)])
        mean, std = frame_statistics(self.store, rows)
        model.feature_mean.copy_(mean)
        model.feature_std.copy_(std)
        if not pretrains or not isinstance(model.backbone, FrameDnn):
            return model, {}
        layers, record = self.pretrain(rows, mean, std)
        model.backbone.load_hidden_layers(layers)
        if recipe.pretrain.strategy == "frozen":
            model.backbone.freeze_hidden_layers()
        return model, record

    def describe_model(self) -> ModelDescription:
        """What the model file will say of the model."""
        recipe, source = self.recipe, self.recipe.corpus.source
        history = {
            "recipe": recipe.name,
            "seed": self.seed,
            "head": asdict(recipe.head),
            "source": {"manifest": str(recipe.path(source.manifest).resolve()), "where": source.where},
        }
        return ModelDescription(
            recipe.features,
            recipe.vad,
            self.store.num_features,
            recipe.backbone.name,
            recipe.backbone.config,
            tuple(sorted(set(self.corpus.source.speakers()))),
            history,
        )

    def pretrain(
        self, rows: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
    ) -> tuple[list[nn.Linear], dict[str, Any]]:
        """Pretrained hidden layers and how they came about, from the cache if another run has made them."""
        method, config, shape = self.recipe.pretrain.method, self.recipe.pretrain.config, self.recipe.backbone.dnn
        key = fingerprint(asdict(config), asdict(shape), self.store.name, rows.tolist(), self.seed)
        path = self.cache / f"pretrain-{method}-{key}.safetensors"
        if path.is_file():
            return _load_layers(path)
        frames = SplicedFrames(
            self.store,
            rows,
            left_context=shape.left_context,
            right_context=shape.right_context,
            mean=mean,
            std=std,
            device=self.recipe.train.device,
        )
        trainer = PRETRAINERS[method](shape.hidden_dims, shape.activation, config)
        epochs, checkpoint = itertools.count(1), self.folder / "pretraining.pt"
        with self.progress.task(f"{self.label}: {method}", trainer.num_epochs) as update:

            def on_epoch(epoch: PretrainProgress) -> None:
                update(next(epochs), show_terms(epoch.losses))

            trainer.fit(frames, seed=self.seed, on_epoch=on_epoch, checkpoint=checkpoint)
        history = [asdict(epoch) for epoch in trainer.history]
        _save_layers(
            path,
            trainer.hidden_layers(),
            {"method": method, "seconds": trainer.seconds, "history": history},
        )
        checkpoint.unlink()
        return _load_layers(path)


def _save_layers(path: Path, layers: Sequence[nn.Linear], record: dict[str, Any]) -> None:
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"record": json.dumps(record)})


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
