"""The package's own rules: the order of the flow, who may import what, and how long a file or function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "spkadapt"
FLOW = [
    "errors", "files", "parquet", "kaldi_io", "progress", "audio", "simulate", "manifest", "tables", "trials",
    "enrolment", "corpora", "frames", "features", "vad", "feature_store", "batches", "pretrain", "backbone",
    "model", "pseudo_labels", "align", "heads", "adapt", "train", "embed", "backend", "score", "metrics",
    "intervals", "fused", "select", "report", "recipe", "run_folder", "pipeline", "cli",
]  # fmt: skip
# Where each outside library comes in: a module, or a package and all below it.
ENTRANCES = {
    "pyarrow": "parquet",
    "soundfile": "audio",
    "speechbrain": "backbone.ecapa",
    "sklearn": "backend",
    "numba": "metrics.kernels",
    "matplotlib": "report.plots",
    "pydantic": "recipe",
    "yaml": "recipe",
    "typer": "cli",
}
# Read a file with these, and it may run what it likes; kaldiio unpickles, and runs the commands of a script file.
NEVER = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "kaldiio"}
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def module_name(path: Path) -> str:
    """`align.mmd` for spkadapt/align/mmd.py, `align` for its __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)


@cache
def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """The full name of every module imported anywhere in the file, within functions too.

    Of `from spkadapt import a`, the module is `spkadapt.a`.
    """
    found = set()
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import in line {node.lineno}"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if name.removeprefix("spkadapt.") in MODULES}
            found |= modules if modules else {str(node.module)}
    return frozenset(found)


def own_imports(module: str) -> set[str]:
    """The modules of this package that it imports, less the prefix."""
    return {name.removeprefix("spkadapt.") for name in imports(module) if name.startswith("spkadapt.")}


def top(module: str) -> str:
    return module.partition(".")[0]


def is_below(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def test_the_reader_of_imports_reads_them() -> None:
    """Else every rule below would hold of itself: plain, aliased, of a package, and within a function."""
    assert {"pipeline.corpus", "recipe", "report.results"} <= {name for m in MODULES for name in own_imports(m)}
    assert "report.plots" in own_imports("report.html")  # from spkadapt.report import plots
    assert "speechbrain.lobes.models.ECAPA_TDNN" in imports("backbone.ecapa")
    assert {"soundfile", "torchaudio.functional"} <= imports("audio")


def test_every_module_has_its_place_in_the_flow() -> None:
    assert {top(module) for module in MODULES} - {"__init__"} == set(FLOW)
    assert len(set(FLOW)) == len(FLOW)


@EVERY_MODULE
def test_imports_come_from_earlier_in_the_flow(module: str) -> None:
    for imported in own_imports(module):
        if top(imported) != top(module):
            assert FLOW.index(top(imported)) < FLOW.index(top(module)), f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("align", {"errors"}),
        ("pretrain", {"errors"}),
        ("metrics", {"errors"}),
        ("intervals", {"errors", "metrics"}),
        ("files", {"errors"}),
        ("errors", set()),
    ],
)
def test_what_can_be_lifted_out_alone(package: str, others: set[str]) -> None:
    for module in MODULES:
        if is_below(module, package):
            assert {top(name) for name in own_imports(module)} <= {package, *others}, module


@EVERY_MODULE
def test_only_the_ends_of_the_flow_know_recipes(module: str) -> None:
    if top(module) not in ("pipeline", "cli", "recipe"):
        assert "recipe" not in own_imports(module)


@EVERY_MODULE
def test_outside_libraries_come_in_at_one_place(module: str) -> None:
    for imported in imports(module):
        entrance = ENTRANCES.get(top(imported))
        assert entrance is None or is_below(module, entrance), f"{module} imports {imported}"


@EVERY_MODULE
def test_nothing_that_is_loaded_can_run(module: str) -> None:
    assert not NEVER & {top(imported) for imported in imports(module)}


@EVERY_MODULE
def test_what_takes_a_second_to_load_is_imported_where_it_is_needed(module: str) -> None:
    """Within functions, so that no command waits for what it does not use."""
    at_the_top = [node for node in parse(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "kernels" not in {alias.name.rpartition(".")[2] for node in at_the_top for alias in node.names}
    if module in ("metrics.softplus", "metrics.tally"):
        assert "spkadapt.metrics.kernels" in imports(module)


def test_the_entrances_exist() -> None:
    for place in ENTRANCES.values():
        assert any(is_below(module, place) for module in MODULES), place


@EVERY_MODULE
def test_every_module_says_what_it_is(module: str) -> None:
    assert top(module) != "utils"
    assert "utils" not in module.split(".")
    assert ast.get_docstring(parse(module))


@EVERY_MODULE
def test_files_are_short(module: str) -> None:
    num_lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert num_lines <= MOST_LINES, f"{module} has {num_lines} lines"


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@EVERY_MODULE
def test_functions_are_short(module: str) -> None:
    """Counted from `def` to the last line, docstring included."""
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(module)}
    assert {name: length for name, length in lengths.items() if length > MOST_FUNCTION_LINES} == {}
