"""A recipe is checked as a whole, and says what is wrong with it in its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spkadapt.errors import InputError
from spkadapt.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files a recipe names."""
    for name in ("manifest.csv", "trials.txt"):
        (tmp_path / name).touch()
    return tmp_path


def values(folder: Path, **sections: Any) -> dict[str, Any]:
    selection = {"manifest": "manifest.csv"}
    corpus = {
        "root": str(folder),
        "source": selection,
        "target_domain": selection,
        "evaluation": {**selection, "trials": "trials.txt"},
    }
    return {"name": "test", "corpus": corpus, **sections}


def write(folder: Path, content: Any, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as refused:
        load_recipe(path, overrides)
    return str(refused.value)


def test_a_recipe_is_typed_and_complete(folder: Path) -> None:
    recipe = load_recipe(write(folder, values(folder, train={"num_steps": 7, "learning_rate": "1e-4"})))
    assert (recipe.train.num_steps, recipe.train.learning_rate, recipe.train.batch_size) == (7, 1e-4, 64)
    assert recipe.backbone.dnn.hidden_dims == (512, 512, 512)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_recipe_of_ours_is_sound(path: Path, tmp_path: Path) -> None:
    """Held against files that are there, since some corpora are not everywhere."""
    for name in (
        "manifest.csv",
        "trials_eval.txt",
        "speechocean762/manifest.csv",
        "wuw2/manifest.csv",
        "wuw2/trials_eval.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    recipe = load_recipe(path, [f"corpus.root={tmp_path}"])
    assert recipe.name == path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    assert len(recipe.seeds) >= 3


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"trian": {}}, 'trian: there is no such key; did you mean "train"?'),
        ({"train": {"num_step": 3}}, 'train.num_step: there is no such key; did you mean "num_steps"?'),
        (
            {"pretrain": {"dae": {"corupt": 1}}},
            'pretrain.dae.corupt: there is no such key; did you mean "corruption"?',
        ),
        (
            {"vad": {"energy_treshold": 1}},
            'vad.energy_treshold: there is no such key; did you mean "energy_threshold"?',
        ),
        ({"train": {"zzz": 1}}, "train.zzz: there is no such key; choose from: num_steps,"),
        ({"train": {"num_steps": "many"}}, "train.num_steps: found 'many'"),
        (
            {"corpus": {"source": {"manifest": "manifest.csv", "were": {}}}},
            'corpus.source.were: there is no such key; did you mean "where"?',
        ),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: found nan; expected a number"),
        ({"seeds": [0, float("inf")]}, "seeds.1: found inf; expected a number"),
        ({"train": {"device": "gpu"}}, 'train: there is no device "gpu"'),
        ({"adapt": "mmd"}, "adapt: found 'mmd'"),
        ({"train": {"num_steps": 0}}, "train: num_steps is 0; expected at least 1"),
        ({"adapt": {"terms": {"corral": {}}}}, 'adapt.terms: there is no term "corral"; did you mean "coral"?'),
        (
            {"adapt": {"terms": {"coral": {"schedule": "linaer"}}}},
            'adapt.terms.coral: unknown schedule "linaer"; did you mean "linear"?',
        ),
        ({"adapt": {"terms": {"coral": {"weight": -1}}}}, "the weight λ is -1"),
        (
            {"adapt": {"terms": {"coral": {"wieght": 1}}}},
            'adapt.terms.coral.wieght: there is no such key; did you mean "weight"?',
        ),
        (
            {"adapt": {"terms": {"mmd": {"options": {"unbised": True}}}}},
            'adapt.terms: mmd: there is no option "unbised"; did you mean "unbiased"?',
        ),
        ({"initial": "base", "pretrain": {"strategy": "finetune"}}, "pretrain.strategy must then be none"),
        (
            {"adapt": {"source": "absent", "terms": {"calls": {}}}},
            "adapt.source: absent needs the name of a trained run",
        ),
        ({"simulate": {"source_copies": 1}, "features": {"sample_rate": 16000}}, "calls are made at 8000 Hz"),
        ({"simulate": {"target_domain_speeds": [3.0]}}, "speed is 3.0; expected 0.5 to 2"),
        ({"head": {"name": "am"}}, 'unknown speaker head "am"; did you mean "aam"?'),
        ({"pretrain": {"method": "dne"}}, "pretrain.method: found 'dne'"),
        ({"backbone": {"name": "tdn"}}, 'did you mean "tdnn"?'),
        ({"features": {"high_freq": 5000}}, "high_freq"),
        ({"train": {"precision": "float16"}}, "float16 needs a GPU"),
        ({"seeds": [1, 1]}, "seeds: found [1, 1]; expected one or more distinct numbers"),
        ({"seeds": []}, "seeds: found []"),
        ({"name": "../escape"}, "name: found '../escape'"),
        (
            {"pretrain": {"strategy": "frozen"}, "backbone": {"name": "tdnn"}},
            "pretrain.strategy: frozen hands its layers to the frame network, and backbone.name is tdnn",
        ),
        (
            {
                "pretrain": {"strategy": "finetune", "method": "dbn"},
                "backbone": {"dnn": {"activation": "relu"}},
            },
            "backbone.dnn.activation: dbn makes sigmoid units; use sigmoid, or another pretrain.method",
        ),
        (
            {
                "pretrain": {"strategy": "frozen", "method": "dbm"},
                "backbone": {"dnn": {"activation": "relu"}},
            },
            "backbone.dnn.activation: dbm makes sigmoid units; use sigmoid, or another pretrain.method",
        ),
        (
            {"pretrain": {"strategy": "frozen", "method": "sparse"}},
            "backbone.dnn.activation: sparse makes relu units; use relu, or another pretrain.method",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_dotted_path(folder: Path, sections: Any, expected: str) -> None:
    assert expected in message(write(folder, values(folder, **sections)))


def test_all_problems_come_at_once(folder: Path) -> None:
    content = values(folder, trian={}, train={"num_stepz": 1}, adapt={"batch_norm": "nix"})
    del content["corpus"]["source"]
    text = message(write(folder, content))
    assert "4 problems" in text
    for part in ("trian", "train.num_stepz", "unknown batch_norm", "corpus.source: this key is needed"):
        assert part in text


def test_files_that_are_not_there_are_all_named(folder: Path) -> None:
    (folder / "manifest.csv").unlink()
    text = message(write(folder, values(folder)))
    assert "3 problems; is corpus.root right?" in text
    for part in ("corpus.source.manifest", "corpus.target_domain.manifest", "corpus.evaluation.manifest"):
        assert f"{part}: there is no {folder / 'manifest.csv'}" in text


def test_overrides_reach_any_key(folder: Path) -> None:
    path = write(folder, values(folder))
    recipe = load_recipe(path, ["train.num_steps=5", "seeds=[3, 4]", "vad=null", "backbone.dnn.hidden_dims=[8]"])
    assert (recipe.train.num_steps, recipe.seeds, recipe.vad) == (5, (3, 4), None)
    assert recipe.backbone.dnn.hidden_dims == (8,)


@pytest.mark.parametrize("override", ["train.num_steps", "=5", "train.num_steps=[1"])
def test_bad_overrides(folder: Path, override: str) -> None:
    assert f"--set {override}" in message(write(folder, values(folder)), override)


def test_an_override_of_an_unknown_key(folder: Path) -> None:
    assert 'did you mean "num_steps"?' in message(write(folder, values(folder)), "train.num_stps=5")


def test_a_variant_holds_only_its_differences(folder: Path) -> None:
    write(folder, values(folder, adapt={"terms": {"coral": {"weight": 3}}}), "base.yaml")
    variant = write(
        folder, {"extends": "base.yaml", "name": "variant", "adapt": {"terms": {"coral": {"weight": 5}}}}
    )
    recipe = load_recipe(variant)
    assert (recipe.name, recipe.adapt.terms["coral"].weight) == ("variant", 5)


def test_one_level_of_extends_is_all(folder: Path) -> None:
    write(folder, values(folder), "base.yaml")
    write(folder, {"extends": "base.yaml"}, "middle.yaml")
    text = message(write(folder, {"extends": "middle.yaml"}))
    assert "middle.yaml: extends base.yaml" in text
    assert "one level is all" in text


def test_a_missing_recipe_names_its_neighbour(folder: Path) -> None:
    write(folder, values(folder), "coral.yaml")
    assert 'no such recipe; did you mean "coral.yaml"?' in message(folder / "corral.yaml")


def test_reading_a_recipe_runs_nothing(folder: Path) -> None:
    victim = folder / "made"
    path = write(folder, f'name: !!python/object/apply:os.mkdir ["{victim}"]\n')
    assert "recipe.yaml:1: not readable as plain YAML" in message(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [1\nb: 2", ":2: not readable"), ("- a\n", "holds no sections")]
)
def test_what_is_no_recipe(folder: Path, text: str, expected: str) -> None:
    assert expected in message(write(folder, text))
