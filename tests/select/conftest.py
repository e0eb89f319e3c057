"""Two domains small enough to check by hand, and one like the real thing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spkadapt.select import SelectionData


@pytest.fixture
def domains() -> SelectionData:
    """12 source speakers of 4 utterances; 30 calls of 15 callers, 4 utterances a call, in a shifted domain."""
    return _make_domains()


@pytest.fixture
def make_domains() -> Callable[..., SelectionData]:
    """What makes such domains with more noise, another shift, or of more callers."""
    return _make_domains


def _make_domains(seed: int = 0, noise: float = 0.5, shift: float = 0.5, num_callers: int = 15) -> SelectionData:
    random = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(12), 4)
    source = random.normal(size=(12, 10))[speakers] + noise * random.normal(size=(48, 10))
    calls = np.repeat(np.arange(2 * num_callers), 4)
    voices = random.normal(size=(num_callers, 10))[calls // 2]
    pool = voices + noise * random.normal(size=(len(calls), 10)) + shift
    return SelectionData(source, speakers, pool, np.char.add("call", calls.astype(str)))
