"""A corpus and a recipe small enough to train on in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spkadapt.corpora import synthetic
from spkadapt.corpora.synthetic import SyntheticConfig
from spkadapt.recipe import Recipe, load_recipe

TINY_CORPUS = SyntheticConfig(
    num_source_speakers=5,
    num_source_sessions=1,
    num_source_utterances=3,
    num_adapt_speakers=4,
    num_adapt_sessions=1,
    num_adapt_utterances=2,
    num_eval_speakers=3,
    num_eval_sessions=2,
    num_eval_utterances=1,
    num_nontargets_per_target=3,
    duration=0.6,
)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wav/, manifest.csv and trials_eval.txt. Shared: tests that change it take a copy."""
    root = tmp_path_factory.mktemp("corpus")
    synthetic.prepare(root, TINY_CORPUS)
    return root


def _recipe_values(root: Path) -> dict[str, Any]:
    """A recipe over such a corpus, as YAML would give it."""
    return {
        "name": "tiny",
        "corpus": {
            "root": str(root),
            "source": {"manifest": "manifest.csv", "where": {"split": "train"}},
            "target_domain": {"manifest": "manifest.csv", "where": {"split": "adapt"}},
            "evaluation": {
                "manifest": "manifest.csv",
                "where": {"split": "eval"},
                "trials": "trials_eval.txt",
            },
            "synthetic": True,
        },
        "features": {"num_mel_bins": 12, "low_freq": 100, "cmvn": "utterance"},
        "pretrain": {
            "strategy": "finetune",
            "method": "dae",
            "dae": {"num_epochs": 1, "max_frames_per_epoch": 300},
            "dbn": {"num_epochs": 1, "max_frames_per_epoch": 300},
            "vae": {"num_epochs": 1, "max_frames_per_epoch": 300, "num_latent": 4},
        },
        "backbone": {
            "dnn": {"hidden_dims": [16, 16], "left_context": 2, "right_context": 2, "embedding_dim": 8},
            "tdnn": {"channels": 8, "pooled_channels": 8, "embedding_dim": 8},
            "ecapa": {"channels": 8, "embedding_dim": 8},
        },
        "train": {"num_steps": 6, "batch_size": 4, "crop_frames": 20, "log_every": 2, "checkpoint_every": 2},
        "metrics": {"num_bootstrap": 100},
        "seeds": [0],
    }


@pytest.fixture(scope="session")
def tiny_recipe_values() -> Callable[[Path], dict[str, Any]]:
    """What makes a recipe of a corpus' folder."""
    return _recipe_values


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_corpus: Path):
    """Write a recipe over the tiny corpus (or another root) to a file."""

    def write(root: Path | None = None, file: str = "recipe.yaml", **sections: Any) -> Path:
        values = _recipe_values(root or tiny_corpus)
        for name, section in sections.items():
            if isinstance(section, dict):
                values[name] = {**values.get(name, {}), **section}
            else:
                values[name] = section
        path = tmp_path / file
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def make_recipe(write_recipe):
    """The recipe itself, with overrides such as `adapt.terms.mmd.weight=1`."""

    def make(*overrides: str, root: Path | None = None) -> Recipe:
        return load_recipe(write_recipe(root), overrides)

    return make
