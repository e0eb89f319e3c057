"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from speechbrain.utils.importutils import LazyModule

# Hypothesis asks each loaded module for its file; SpeechBrain's lazy ones would then import what is not installed.
LazyModule.__file__ = None

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and published figures; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared recordings and figures, and {SHARED} is absent")
    return SHARED


@pytest.fixture(autouse=True)
def _single_seed() -> None:
    """Start every test from the same random state, so that no test depends on another."""
    torch.manual_seed(0)
