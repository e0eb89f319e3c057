"""The registry: which way each validator points, and what it is of no account to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from spkadapt.align.coral import coral_loss
from spkadapt.align.mmd import mmd_loss
from spkadapt.align.transport import sliced_wasserstein_loss
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer
from spkadapt.select import VALIDATORS, SelectionData, find_validator, unit_rows
from spkadapt.select.validators import (
    compute_coral,
    compute_mmd,
    compute_same_recording_eer,
    compute_sliced_wasserstein,
    compute_source_eer,
)

Make = Callable[..., SelectionData]
DISCREPANCIES = ("proxy_a_distance", "coral", "mmd", "sliced_wasserstein")
OF_CALLS = ("pseudo_speaker_eer", "same_recording_eer", "silhouette", "calinski_harabasz")


def badness(name: str, data: SelectionData) -> float:
    """The validator's value, the lower the better."""
    validator = VALIDATORS[name]
    return -validator.compute(data) if validator.higher_is_better else validator.compute(data)


@pytest.mark.parametrize("name", VALIDATORS)
def test_every_validator_gives_a_number_and_is_deterministic(name: str, domains: SelectionData) -> None:
    value = VALIDATORS[name].compute(domains)
    assert np.isfinite(value)
    assert VALIDATORS[name].compute(replace(domains)) == value
    assert VALIDATORS[name].name == name


@pytest.mark.parametrize("name", VALIDATORS)
def test_the_scale_of_embeddings_is_of_no_account(name: str, domains: SelectionData) -> None:
    scaled = replace(domains, source=64 * domains.source, pool=64 * domains.pool)
    assert VALIDATORS[name].compute(scaled) == pytest.approx(VALIDATORS[name].compute(domains), rel=1e-9)


@pytest.mark.parametrize("name", DISCREPANCIES)
def test_discrepancies_prefer_domains_that_agree(name: str, make_domains: Make) -> None:
    near, far = make_domains(shift=0.0), make_domains(shift=2.0)
    assert badness(name, near) < badness(name, far)


@pytest.mark.parametrize("name", OF_CALLS)
def test_validators_of_calls_prefer_less_noise(name: str, make_domains: Make) -> None:
    assert badness(name, make_domains(noise=0.4)) < badness(name, make_domains(noise=1.0))


@pytest.mark.parametrize("name", OF_CALLS)
def test_validators_of_calls_say_that_they_need_calls(name: str, domains: SelectionData) -> None:
    with pytest.raises(InputError, match="name the sessions"):
        VALIDATORS[name].compute(replace(domains, pool_sessions=None))


def test_source_eer_is_that_of_all_pairs(domains: SelectionData) -> None:
    units = unit_rows(domains.source)
    first, second = np.triu_indices(48, 1)
    is_target = domains.source_speakers[first] == domains.source_speakers[second]
    assert compute_source_eer(domains) == compute_eer((units @ units.T)[first, second], is_target)
    for speakers in (np.arange(48), np.zeros(48)):
        with pytest.raises(InputError, match="two source speakers, and two utterances of some speaker"):
            compute_source_eer(replace(domains, source_speakers=speakers))


def test_a_channel_in_every_call_flatters_same_recording_eer(make_domains: Make) -> None:
    data = make_domains(noise=1.0)
    channels = np.random.default_rng(5).normal(size=(30, 10))[np.repeat(np.arange(30), 4)]
    flattered = replace(data, pool=data.pool + 2 * channels)
    assert compute_same_recording_eer(flattered) < 0.5 * compute_same_recording_eer(data)


def test_discrepancies_are_those_of_align(domains: SelectionData) -> None:
    source, pool = (torch.from_numpy(unit_rows(rows)) for rows in (domains.source, domains.pool))
    assert compute_coral(domains) == float(coral_loss(source, pool))
    assert compute_mmd(domains) == float(mmd_loss(source, pool, unbiased=True))
    directions = torch.randn(128, 10, generator=torch.Generator().manual_seed(0))
    expected = float(sliced_wasserstein_loss(source, pool, directions))
    assert compute_sliced_wasserstein(domains) == pytest.approx(expected, rel=1e-6)


def test_an_unknown_validator_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r'there is no validator "silhouete"; did you mean "silhouette"\?'):
        find_validator("silhouete")
