"""Numbers that say how well a model does in a domain without labels, or hope to; a registry of them.

Each is a function of `SelectionData` alone. They are there to be compared: a discrepancy of zero may come of
embeddings that no longer tell speakers apart, and a call is a channel as well as a speaker. How well each chooses
is measured in `recipes/selection_study`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from spkadapt.align.coral import coral_loss
from spkadapt.align.mmd import mmd_loss
from spkadapt.align.transport import draw_projections, sliced_wasserstein_loss
from spkadapt.errors import InputError, suggest
from spkadapt.metrics import compute_eer
from spkadapt.select.clusters import compute_calinski_harabasz, compute_silhouette
from spkadapt.select.data import SelectionData, spread, thin
from spkadapt.select.domain_classifier import compute_proxy_a_distance
from spkadapt.select.pool_trials import find_pseudo_speakers, pseudo_speaker_trials, same_recording_trials
from spkadapt.select.predictions import (
    compute_deep_embedded_validation,
    compute_entropy,
    compute_information,
    compute_neighbourhood_density,
    compute_nuclear_norm,
)
from spkadapt.select.score_mixture import compute_predicted_eer

_MOST_SPEAKERS, _MOST_UTTERANCES, _MOST_ROWS, _NUM_PROJECTIONS = 250, 6, 2000, 128


@dataclass(frozen=True)
class Validator:
    """One way to judge a model without labels of the target domain.

    Attributes:
        name: in `VALIDATORS`.
        higher_is_better: whether more of it is meant to be better.
        compute: from what may be seen of a model; raises `InputError` where it cannot.
    """

    name: str
    higher_is_better: bool
    compute: Callable[[SelectionData], float]


def compute_source_eer(data: SelectionData) -> float:
    """The EER of all pairs of source utterances, of some of them where they are many.

    Raises:
        InputError: one source speaker, or no two utterances of any.
    """
    rows = thin(data.speaker_numbers, _MOST_SPEAKERS, _MOST_UTTERANCES)
    first, second = np.triu_indices(len(rows), 1)
    units, speakers = data.unit_source[rows], data.speaker_numbers[rows]
    is_target = speakers[first] == speakers[second]
    if not is_target.any() or is_target.all():
        raise InputError("needs two source speakers, and two utterances of some speaker; found fewer")
    return compute_eer((units @ units.T)[first, second], is_target)


def compute_same_recording_eer(data: SelectionData) -> float:
    """The EER of pairs within one call against pairs across. A model that hears the channel does well at it.

    Raises:
        InputError: sessions are not known, fewer than two, or of one utterance each.
    """
    return same_recording_trials(data.session_numbers).eer(data)


def compute_pseudo_speaker_eer(data: SelectionData) -> float:
    """The EER of pairs across calls that are each other's nearest against other pairs across calls.

    `choose_model` has all models agree on pseudo-speakers first; one alone goes by its own judgement.

    Raises:
        InputError: sessions are not known, or too few for pseudo-speakers.
    """
    sessions, agreed = data.session_numbers, data.pseudo_speakers
    pseudo_speakers = find_pseudo_speakers([data.unit_pool], sessions) if agreed is None else agreed
    return pseudo_speaker_trials(sessions, pseudo_speakers).eer(data)


def compute_coral(data: SelectionData) -> float:
    """`align.coral_loss` of embeddings of unit length (Sun & Saenko, 2016)."""
    return float(coral_loss(*_both(data, len(data.source) + len(data.pool))))


def compute_mmd(data: SelectionData) -> float:
    """`align.mmd_loss`, unbiased, of 2,000 embeddings of unit length a domain at most (Gretton et al., 2012)."""
    return float(mmd_loss(*_both(data, _MOST_ROWS), unbiased=True))


def compute_sliced_wasserstein(data: SelectionData) -> float:
    """`align.sliced_wasserstein_loss` of embeddings of unit length, 128 fixed directions (Rabin et al., 2011)."""
    directions = draw_projections(data.pool.shape[1], _NUM_PROJECTIONS, torch.Generator().manual_seed(0))
    return float(sliced_wasserstein_loss(*_both(data, len(data.source) + len(data.pool)), directions))


def _both(data: SelectionData, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    source, pool = (torch.from_numpy(rows[spread(len(rows), most)]) for rows in (data.unit_source, data.unit_pool))
    return source, pool


_ALL = (
    Validator("pseudo_speaker_eer", False, compute_pseudo_speaker_eer),
    Validator("same_recording_eer", False, compute_same_recording_eer),
    Validator("predicted_eer", False, compute_predicted_eer),
    Validator("source_eer", False, compute_source_eer),
    Validator("silhouette", True, compute_silhouette),
    Validator("calinski_harabasz", True, compute_calinski_harabasz),
    Validator("proxy_a_distance", False, compute_proxy_a_distance),
    Validator("coral", False, compute_coral),
    Validator("mmd", False, compute_mmd),
    Validator("sliced_wasserstein", False, compute_sliced_wasserstein),
    Validator("snd", True, compute_neighbourhood_density),
    Validator("dev", False, compute_deep_embedded_validation),
    Validator("entropy", False, compute_entropy),
    Validator("information", True, compute_information),
    Validator("bnm", True, compute_nuclear_norm),
)
VALIDATORS: dict[str, Validator] = {validator.name: validator for validator in _ALL}
"""A validator's name, for the command line → the validator."""


def find_validator(name: str) -> Validator:
    """The validator of that name.

    Raises:
        InputError: there is none.
    """
    if name not in VALIDATORS:
        raise InputError(f'there is no validator "{name}"; {suggest(name, VALIDATORS)}')
    return VALIDATORS[name]
