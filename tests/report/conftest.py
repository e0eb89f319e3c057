"""Small runs that a report can be made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spkadapt.report.results import Run, SeedRun, TrialTruth


@pytest.fixture(scope="session")
def truth() -> TrialTruth:
    """Every pair of 24 utterances: 8 speakers, three utterances each, the last of them in another domain."""
    speakers = np.repeat([f"s{number}" for number in range(8)], 3)
    domains = np.tile(["studio", "studio", "phone"], 8)
    first, second = np.triu_indices(24, 1)
    same_domain = domains[first] == domains[second]
    return TrialTruth(speakers[first] == speakers[second], speakers[first], speakers[second], same_domain)


@pytest.fixture(scope="session")
def make_run(truth: TrialTruth) -> Callable[..., Run]:
    """Make a run whose target scores are on average `gap` standard deviations above the others."""

    def make(
        name: str, gap: float, *, seeds: tuple[int, ...] = (0, 1), synthetic: bool = False, term: str = "coral"
    ) -> Run:
        trained = []
        for seed in seeds:
            noise = np.random.default_rng(seed).normal(size=(2, len(truth.is_target)))
            plain, centred = (noise + gap * truth.is_target).astype(np.float32)
            training = [{"step": step, "speaker": 9 - step / 10 + seed, term: 1 / step} for step in (20, 40, 60)]
            trained.append(SeedRun(seed, 10.0 + seed, {"plain": plain, "centred": centred}, training))
        return Run(name, Path("runs") / "any", synthetic, trained)

    return make
