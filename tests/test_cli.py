"""The command line is the API: the same names, the same defaults, an example that works."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import fields

import pytest
import typer.main

from spkadapt import cli, pipeline
from spkadapt.train import TrainConfig

GROUP = typer.main.get_command(cli.app)
CALLS = {
    "run": pipeline.run_recipes,
    "check": pipeline.check_recipe,
    "prepare": pipeline.prepare_corpus,
    "adapt": pipeline.adapt_model,
    "adapt-backend": pipeline.adapt_backend,
    "embed": pipeline.embed_manifest,
    "score": pipeline.score_file,
    "measure": pipeline.measure_all_pairs,
    "evaluate": pipeline.evaluate_file,
    "calibrate": pipeline.calibrate_files,
    "report": pipeline.report_runs,
    "select": pipeline.select_runs,
}
# Where a command says one thing and the call another, and why.
RENAMED = {
    "recipes": "paths",  # several files on the command line
    "corpus": "name",
    "runs": "folders",
    "model": "model_path",
}
FROM_CONFIGS = {"num_steps", "batch_size", "learning_rate"}


def test_every_command_is_compared() -> None:
    assert set(GROUP.commands) == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_options_mirror_the_arguments_of_the_call(name: str) -> None:
    options = inspect.signature(getattr(cli, name.replace("-", "_"))).parameters
    arguments = inspect.signature(CALLS[name]).parameters
    for option, parameter in options.items():
        if name == "adapt" and option in FROM_CONFIGS | {"device", "term"}:
            continue
        argument = RENAMED.get(option, option)
        if name == "check" and option == "recipes":
            argument = "path"  # the command checks several, the call one
        assert argument in arguments, f"{name} has an option {option} that its call does not know"
        default = arguments[argument].default
        if default is not inspect.Parameter.empty:
            ours = parameter.default
            assert (tuple(ours) if isinstance(ours, list) else ours) == default, option
    ours = {RENAMED.get(option, option) for option in options}
    unreachable = set(arguments) - ours - {"progress", "path", "adaptation", "training"}
    assert not unreachable, f"{name} has no option for {unreachable}"


def test_the_options_of_adapt_are_fields_of_its_settings() -> None:
    known = {field.name: field.default for config in (TrainConfig,) for field in fields(config)}
    options = inspect.signature(cli.adapt).parameters
    for option in FROM_CONFIGS:
        assert option in known
    assert options["batch_size"].default == known["batch_size"]


@pytest.mark.parametrize("name", CALLS)
def test_help_ends_in_an_example_that_parses(name: str) -> None:
    command = GROUP.commands[name]
    example = re.search(r"Example: spkadapt (.+)", command.help)
    assert example, f"{name} has no example"
    found, *arguments = shlex.split(example.group(1))
    assert found == name
    command.make_context(name, arguments)


@pytest.mark.parametrize("name", CALLS)
def test_help_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        GROUP.main([name, "--help"])
    assert ended.value.code == 0
    assert "Example: spkadapt" in " ".join(capsys.readouterr().out.split())
