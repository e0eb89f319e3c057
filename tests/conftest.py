"""What every test may ask for."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from speechbrain.utils.importutils import LazyModule

from spkadapt.score.distributed import Ranks, join_ranks

# Hypothesis asks each loaded module for its file; SpeechBrain's lazy ones would then import what is not installed.
LazyModule.__file__ = None

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The same examples every time, so that a change is judged by what it changed and not by luck.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and published figures; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared recordings and figures, and {SHARED} is absent")
    return SHARED


@pytest.fixture
def run_ranks() -> Callable[[int, Callable[[Ranks], None]], None]:
    """What does work in processes of their own, as torchrun starts them."""
    return _run_ranks


def _run_ranks(num_ranks: int, work: Callable[[Ranks], None]) -> None:
    """Do the work in processes of their own, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            torch.set_num_threads(1)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
            with join_ranks() as ranks:
                assert ranks == Ranks(rank, num_ranks, "cpu")
                work(ranks)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * num_ranks


@pytest.fixture(autouse=True)
def _single_seed() -> None:
    """Start every test from the same random state, so that no test depends on another."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def recipe_scripts(request: pytest.FixtureRequest) -> Iterator[None]:
    """The scripts of the module's FOLDER, which import one another by bare names, as when they are run."""
    folder: Path = request.module.FOLDER
    names = {path.stem for path in folder.glob("*.py")}
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def study(recipe_scripts: None) -> ModuleType:
    """The folder's `study.py`."""
    return importlib.import_module("study")


@pytest.fixture(scope="module")
def tables(recipe_scripts: None) -> ModuleType:
    """The folder's `tables.py`."""
    return importlib.import_module("tables")
