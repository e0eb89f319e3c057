"""A run, written down: a YAML file, checked as a whole before anything starts.

Recipes are data: YAML is read safely and validated into frozen, typed sections that follow the order in
which the data flows. A recipe may extend one other and then holds only its differences.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spkadapt.adapt import AdaptConfig, check_terms
from spkadapt.backbone import (
    BackboneConfig,
    DnnConfig,
    EcapaConfig,
    ResidualTdnnConfig,
    ResnetConfig,
    TdnnConfig,
)
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig
from spkadapt.heads import HeadConfig
from spkadapt.pretrain import DaeConfig, DbmConfig, DbnConfig, PretrainConfig, SparseConfig, VaeConfig
from spkadapt.simulate.call import CALL_SAMPLE_RATE, SimulateConfig
from spkadapt.train import TrainConfig
from spkadapt.vad import VadConfig

# The units that a pretraining method makes, where it makes but one kind.
NEEDED_ACTIVATIONS = {"dbm": "sigmoid", "dbn": "sigmoid", "sparse": "relu"}


class Section(BaseModel):
    """What all sections share: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Selection(Section):
    """Some utterances of a manifest: those whose columns hold the values in `where`."""

    manifest: Path
    where: dict[str, str | list[str]] = {}


class TargetDomain(Selection):
    """The unlabelled pool, of whose sessions a share is kept out of training, for choosing by."""

    held_out: float = Field(default=0.0, ge=0, lt=1)


class Evaluation(Selection):
    """The utterances and trials that score a run, and that nothing else may use."""

    trials: Path


class CorpusSection(Section):
    """Which recordings. Relative paths start at `root`, and `root` where the command is run."""

    root: Path = Path()
    source: Selection
    target_domain: TargetDomain
    evaluation: Evaluation
    synthetic: bool = False
    on_bad_audio: Literal["stop", "skip"] = "stop"


class PretrainSection(Section):
    """Which member of the family pretrains the frame network, and what becomes of its layers."""

    strategy: Literal["none", "frozen", "finetune"] = "none"
    method: Literal["dae", "dbm", "dbn", "sparse", "vae"] = "dae"
    dae: DaeConfig = DaeConfig()
    dbm: DbmConfig = DbmConfig()
    dbn: DbnConfig = DbnConfig()
    sparse: SparseConfig = SparseConfig()
    vae: VaeConfig = VaeConfig()

    @property
    def config(self) -> PretrainConfig:
        """The chosen method's settings."""
        return getattr(self, self.method)


class BackboneSection(Section):
    """Which network, and the shape of each."""

    name: Literal["dnn", "tdnn", "residual_tdnn", "ecapa", "resnet"] = "dnn"
    dnn: DnnConfig = DnnConfig()
    tdnn: TdnnConfig = TdnnConfig()
    residual_tdnn: ResidualTdnnConfig = ResidualTdnnConfig()
    ecapa: EcapaConfig = EcapaConfig()
    resnet: ResnetConfig = ResnetConfig()

    @property
    def config(self) -> BackboneConfig:
        """The chosen network's shape."""
        return getattr(self, self.name)


class MetricsSection(Section):
    """What is reported of the scores."""

    p_target: float = Field(default=0.05, gt=0, lt=1)
    num_bootstrap: int = Field(default=1000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)


class Recipe(Section):
    """One run.

    `initial` names another run, of the same output folder, whose model of the same seed training starts from.
    """

    name: str = Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    description: str = ""
    corpus: CorpusSection
    simulate: SimulateConfig = SimulateConfig()
    features: FeatureConfig = FeatureConfig()
    vad: VadConfig | None = VadConfig()
    pretrain: PretrainSection = PretrainSection()
    backbone: BackboneSection = BackboneSection()
    head: HeadConfig = HeadConfig()
    initial: str | None = None
    adapt: AdaptConfig = AdaptConfig()
    train: TrainConfig = TrainConfig()
    metrics: MetricsSection = MetricsSection()
    seeds: tuple[int, ...] = (0, 1, 2)

    @model_validator(mode="after")
    def _check_combination(self) -> Recipe:
        problems = []
        if self.pretrain.strategy != "none" and self.backbone.name != "dnn":
            problems.append(
                f"pretrain.strategy: {self.pretrain.strategy} hands its layers to the frame network, and "
                f"backbone.name is {self.backbone.name}; use backbone.name=dnn or pretrain.strategy=none"
            )
        needed = NEEDED_ACTIVATIONS.get(self.pretrain.method, self.backbone.dnn.activation)
        if self.pretrain.strategy != "none" and self.backbone.dnn.activation != needed:
            problems.append(
                f"backbone.dnn.activation: {self.pretrain.method} makes {needed} units; use {needed}, "
                "or another pretrain.method"
            )
        if self.initial is not None and self.pretrain.strategy != "none":
            problems.append(f"initial: {self.initial} is a trained model; pretrain.strategy must then be none")
        if self.adapt.source != "trained" and self.initial is None:
            problems.append(f"adapt.source: {self.adapt.source} needs the name of a trained run as `initial`")
        copies = self.simulate.source_copies + self.simulate.target_domain_copies
        if copies and self.features.sample_rate != CALL_SAMPLE_RATE:
            problems.append(
                f"simulate: calls are made at {CALL_SAMPLE_RATE} Hz, and features.sample_rate is "
                f"{self.features.sample_rate}"
            )
        problems += [f"adapt.terms: {problem}" for problem in check_terms(self.adapt)]
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            problems.append(f"seeds: found {list(self.seeds)}; expected one or more distinct numbers ≥ 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def path(self, path: Path) -> Path:
        """A path of the corpus section, seen from where the command is run."""
        return self.corpus.root / path


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file; its `extends`, if any, names another one relative to its own folder.
        overrides: `section.key=value`, where the value is read as YAML.

    Raises:
        InputError: listing all that is wrong: unknown keys (with the nearest valid one), wrong types, values out
            of range, impossible combinations, files that are not there.
    """
    path = Path(path)
    values = _read_extended(path)
    for override in overrides:
        _apply_override(values, override)
    not_finite = [InputError(f"{name}: found {value}; expected a number") for name, value in _not_finite(values)]
    if not_finite:
        raise InputError.together(not_finite, summary=f"{path}: {_count(len(not_finite))}")
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = [InputError(_explain(problem)) for problem in error.errors()]
        raise InputError.together(problems, summary=f"{path}: {_count(len(problems))}") from error
    missing = [
        InputError(f"{name}: there is no {file}") for name, file in _files(recipe).items() if not file.exists()
    ]
    if missing:
        hint = "; is corpus.root right? It is set with --set corpus.root=FOLDER"
        raise InputError.together(missing, summary=f"{path}: {_count(len(missing))}{hint}")
    return recipe


def _not_finite(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every NaN and infinity, by its dotted path."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _not_finite(inner, f"{path}.{key}" if path else str(key))


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"


def _files(recipe: Recipe) -> dict[str, Path]:
    """Every file the recipe names, by its dotted path."""
    corpus = recipe.corpus
    return {
        "corpus.source.manifest": recipe.path(corpus.source.manifest),
        "corpus.target_domain.manifest": recipe.path(corpus.target_domain.manifest),
        "corpus.evaluation.manifest": recipe.path(corpus.evaluation.manifest),
        "corpus.evaluation.trials": recipe.path(corpus.evaluation.trials),
    }


def _read_extended(path: Path) -> dict[str, Any]:
    values = _read_yaml(path)
    if "extends" not in values:
        return values
    base_path = path.parent / str(values.pop("extends"))
    base = _read_yaml(base_path)
    if "extends" in base:
        raise InputError(
            f"extends {base['extends']}, and is itself extended by {path}; one level is all", path=base_path
        )
    return _merge(base, values)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        siblings = [item.name for item in path.parent.glob("*.yaml")]
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise InputError("no such recipe" + (f'; did you mean "{near[0]}"?' if near else ""), path=path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(f"not readable as plain YAML: {error.problem}", path=path, line=line) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as plain YAML: {error}", path=path) from error
    if not isinstance(values, dict):
        raise InputError("holds no sections; expected a mapping such as `corpus:`", path=path)
    return values


def _merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `difference` in place of its own."""
    merged = dict(base)
    for key, value in difference.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise InputError(f'--set {override}: expected section.key=value, as in "train.num_steps=500"')
    *sections, key = dotted.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    try:
        values[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not readable as YAML") from error


def _explain(problem: Any) -> str:
    """One pydantic problem in the recipe's own words."""
    dotted = ".".join(str(part) for part in problem["loc"])
    found = problem["input"]
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        choices = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), choices, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose from: {', '.join(choices)}"
        return f"{dotted}: there is no such key; {hint}"
    if problem["type"] == "missing":
        return f"{dotted}: this key is needed and is not there"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    if problem["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        near = difflib.get_close_matches(str(found), choices, n=1)
        message += f'; did you mean "{near[0]}"?' if near else ""
    return f"{dotted}: found {found!r}; {message}"


def _keys_at(location: Sequence[Any]) -> list[str]:
    """The valid keys of the section at a location."""
    section: Any = Recipe
    for part in location:
        if _is_mapping(section):  # whose keys are names
            section = get_args(section)[1]
            continue
        annotation = _fields(section)[part]
        options = [
            option for option in (annotation, *get_args(annotation)) if _fields(option) or _is_mapping(option)
        ]
        section = options[0]
    return list(_fields(section))


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) in (dict, Mapping)


def _fields(section: Any) -> dict[str, Any]:
    """Field names and types of a pydantic model or a dataclass; none of anything else."""
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return get_type_hints(section) if is_dataclass(section) else {}
