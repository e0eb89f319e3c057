"""What a run leaves on disk, and how it is read back.

::

    NAME/                      the recipe's name
      recipe.json              the recipe as it was run, with every default written out
      source.csv               the labelled utterances of the source domain
      target_domain.csv        the unlabelled pool
      held_out.csv             what of it no training saw; absent where that is none
      evaluation.csv           the utterances of the trials, with their speakers, for scoring only
      trials.txt               the trials that were scored
      skipped.json             recordings left out because their audio was bad
      skipped_trials.txt       trials left out with them; absent where there are none
      inputs.json              checksums of the above and the name of the features, to notice if they change
      seed-N/
        pretraining.pt         only while pretraining
        checkpoint.pt          only while training
        model.safetensors      the trained model
        training.json          what was logged, and how long it took
        embeddings.npz         of source, target-domain pool and evaluation
        backend.safetensors    the adapted backend, which `spkadapt score` takes
        scores_plain.txt, scores_centred.txt, scores_adapted.txt
        seed.json              training.json with the time of scoring and how the adapted backend was chosen;
                               written last: all of the above is there
      results.json, results.md, report.html
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import sha256, write_json
from spkadapt.manifest import Manifest, UnlabelledPool, load_manifest
from spkadapt.report.results import BACKENDS, Run, SeedRun, TrialTruth
from spkadapt.score import align_scores, load_scores
from spkadapt.trials import Trials, load_trials


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def seed(self, seed: int) -> Path:
        """The folder of one training."""
        return self.path / f"seed-{seed}"

    def claim(self, recipe: dict[str, Any]) -> None:
        """Make the folder this recipe's, or find that it already is. Raises as `check_free` does."""
        self.check_free(recipe)
        write_json(self.path / "recipe.json", recipe)

    def check_free(self, recipe: dict[str, Any]) -> None:
        """Find, without changing anything, that the folder holds no run yet, or one of this recipe.

        Raises:
            InputError: it holds a run of another recipe.
        """
        path = self.path / "recipe.json"
        if not path.is_file():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        # Written and read back once, so that tuples compare as the lists that JSON has.
        wanted = json.loads(json.dumps(recipe))
        if found != wanted:
            raise InputError(
                f"this folder holds a run with other settings ({_first_difference(found, wanted)}); "
                "give another --out or --set name=…, or remove the folder",
                path=self.path,
            )

    def save_inputs(
        self,
        source: Manifest,
        target_domain: UnlabelledPool,
        held_out: UnlabelledPool,
        evaluation: Manifest,
        trials: Trials,
        skipped: dict[str, str],
        skipped_trials: Trials,
        features: str,
    ) -> None:
        """Keep what the run starts from; if it already ran for a while, find that it is still the same.

        Args:
            source, target_domain, held_out, evaluation, trials: the parts of the corpus.
            skipped: why each recording that is left out is left out.
            skipped_trials: the trials that name one of these.
            features: the name of the feature store, which changes with the audio behind it.

        Raises:
            InputError: the recordings or trials have changed since the run began.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".inputs-") as name:
            scratch = Path(name)
            source.save_csv(scratch / "source.csv")
            target_domain.as_manifest().save_csv(scratch / "target_domain.csv")
            if len(held_out):
                held_out.as_manifest().save_csv(scratch / "held_out.csv")
            evaluation.save_csv(scratch / "evaluation.csv")
            trials.save(scratch / "trials.txt")
            write_json(scratch / "skipped.json", skipped)
            if len(skipped_trials):
                skipped_trials.save(scratch / "skipped_trials.txt")
            inputs = {"features": features, **{path.name: sha256(path) for path in sorted(scratch.iterdir())}}
            if (self.path / "inputs.json").is_file():
                self._check_inputs(inputs)
                return
            for path in scratch.iterdir():
                path.replace(self.path / path.name)
        write_json(self.path / "inputs.json", inputs)

    def _check_inputs(self, inputs: dict[str, str]) -> None:
        begun_with = self.load_inputs()
        changed = [name for name in inputs if inputs[name] != begun_with.get(name)]
        if changed:
            raise InputError(
                f"the corpus has changed since this run began ({', '.join(changed)}); "
                "remove the folder, or run under another name with --set name=…",
                path=self.path,
            )

    def has_seed(self, seed: int) -> bool:
        """Whether this training has ended."""
        return (self.seed(seed) / "seed.json").is_file()

    def has_scores(self, seed: int) -> bool:
        """Whether it has ended and been scored with every backend, of which earlier versions had fewer."""
        scored = [self.seed(seed) / f"scores_{backend}.txt" for backend in BACKENDS]
        return self.has_seed(seed) and all(path.is_file() for path in scored)

    def load_recipe(self) -> dict[str, Any]:
        """The recipe that was run.

        Raises:
            InputError: there is no run here.
        """
        path = self.path / "recipe.json"
        if not path.is_file():
            raise InputError("this folder holds no run: it has no recipe.json", path=self.path)
        return json.loads(path.read_text(encoding="utf-8"))

    def load_skipped(self) -> dict[str, str]:
        """Why each recording that was left out was left out."""
        return json.loads((self.path / "skipped.json").read_text(encoding="utf-8"))

    def load_skipped_trials(self) -> Trials:
        """The trials that were left out because one of their recordings was."""
        path = self.path / "skipped_trials.txt"
        return load_trials(path) if path.is_file() else Trials((), ())

    def load_inputs(self) -> dict[str, str]:
        """Checksums of what the run started from."""
        return json.loads((self.path / "inputs.json").read_text(encoding="utf-8"))

    def load_choices(self) -> dict[int, dict[str, Any]]:
        """The adapted backend of each training: its method and strength, why, and what else was tried."""
        return {seed: self._load_record(seed)["backend"]["choice"] for seed in self.load_recipe()["seeds"]}

    def load_trials(self) -> Trials:
        """The trials that were scored."""
        return load_trials(self.path / "trials.txt")

    def load_parts(self) -> list[Manifest]:
        """Source, unlabelled pool, what of it was held out if there is any, and evaluation."""
        pool = ("target_domain", "held_out") if self.has_held_out else ("target_domain",)
        return [self._load_part(name) for name in ("source", *pool, "evaluation")]

    def load_source(self) -> Manifest:
        """The labelled domain."""
        return self._load_part("source")

    @property
    def has_held_out(self) -> bool:
        """Whether some of the unlabelled pool was held out of training."""
        return (self.path / "held_out.csv").is_file()

    def load_chosen_by(self) -> UnlabelledPool:
        """What a choice without labels goes by: what was held out, if anything, or the pool."""
        return self._load_part("held_out" if self.has_held_out else "target_domain").unlabelled()

    def _load_part(self, name: str) -> Manifest:
        return load_manifest(self.path / f"{name}.csv")

    def load_truth(self) -> TrialTruth:
        """What the scores are held against."""
        return trial_truth(self.load_trials(), self._load_part("evaluation"))

    def load_run(self) -> Run:
        """Every training of the run.

        Raises:
            InputError: the run has not ended yet.
        """
        recipe = self.load_recipe()
        unfinished = [seed for seed in recipe["seeds"] if not self.has_scores(seed)]
        if unfinished:
            raise InputError(
                f"the run has not ended: seeds {unfinished} are missing; run it again", path=self.path
            )
        trials = self.load_trials()
        seeds = [self._load_seed(seed, trials) for seed in recipe["seeds"]]
        return Run(recipe["name"], self.path, recipe["corpus"]["synthetic"], seeds)

    def _load_seed(self, seed: int, trials: Trials) -> SeedRun:
        folder = self.seed(seed)
        scores = {
            backend: align_scores(load_scores(folder / f"scores_{backend}.txt"), trials.enrol_ids, trials.test_ids)
            for backend in BACKENDS
        }
        record = self._load_record(seed)
        return SeedRun(seed, record["seconds"], scores, record["training"])

    def _load_record(self, seed: int) -> dict[str, Any]:
        return json.loads((self.seed(seed) / "seed.json").read_text(encoding="utf-8"))


def trial_truth(trials: Trials, evaluation: Manifest) -> TrialTruth:
    """Look up each side of each trial; utterances of the evaluation that no trial names do not matter.

    Raises:
        InputError: the trials have no labels, or name an utterance that is unknown or has no speaker.
    """
    if trials.is_target is None:
        raise InputError("the trials say nothing of which are targets; evaluation needs `target` or `nontarget`")
    trials.check_ids([item.utterance_id for item in evaluation])
    named = set(trials.utterance_ids())
    evaluation = Manifest(tuple(item for item in evaluation if item.utterance_id in named))
    speaker = dict(zip((item.utterance_id for item in evaluation), evaluation.speakers(), strict=True))
    domain = {item.utterance_id: item.domain for item in evaluation}

    def look_up(table: dict[str, Any], ids: Sequence[str]) -> np.ndarray:
        return np.array([table[name] for name in ids])

    known = all(domain.values())
    same = look_up(domain, trials.enrol_ids) == look_up(domain, trials.test_ids) if known else None
    return TrialTruth(
        trials.is_target, look_up(speaker, trials.enrol_ids), look_up(speaker, trials.test_ids), same
    )


def _first_difference(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    """The first dotted key whose values differ, with both values."""
    for key in {**found, **wanted}:
        old, new = found.get(key, "nothing"), wanted.get(key, "nothing")
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _first_difference(old, new, f"{prefix}{key}.")
        return f"{prefix}{key} is {old!r} there and {new!r} now"
    return "none"
