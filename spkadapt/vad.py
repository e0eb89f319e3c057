"""Which frames hold speech, by their energy alone: Kaldi's `compute-vad`.

It works beside any feature kind: from the C0 of MFCCs computed with `use_energy`, or from `log_energy`, which are
the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig, frame_log_energy, frame_waveform
from spkadapt.frames import is_padding


@dataclass(frozen=True)
class VadConfig:
    """When a frame counts as speech. The defaults are those of Kaldi's speaker recognition recipes.

    Args:
        energy_threshold: constant part of the log-energy threshold, for waveforms of 16-bit scale.
        energy_mean_scale: the utterance's mean log-energy times this is added to the threshold.
        frames_context: frames to each side that vote on a frame.
        proportion_threshold: share of those frames, itself included, that must lie above the threshold.
    """

    energy_threshold: float = 5.5
    energy_mean_scale: float = 0.5
    frames_context: int = 2
    proportion_threshold: float = 0.12

    def __post_init__(self) -> None:
        if self.energy_mean_scale < 0:
            raise InputError(f"energy_mean_scale is {self.energy_mean_scale}; expected at least 0")
        if self.frames_context < 0:
            raise InputError(f"frames_context is {self.frames_context}; expected at least 0")
        if not 0 < self.proportion_threshold < 1:
            raise InputError(f"proportion_threshold is {self.proportion_threshold}; expected between 0 and 1")


def log_energy(waveform: torch.Tensor, lengths: torch.Tensor, config: FeatureConfig) -> torch.Tensor:
    """The natural log of each frame's energy, before pre-emphasis and window: Kaldi's raw log-energy.

    Args:
        waveform: (batch, samples) in [-1, 1).
        lengths: (batch,) samples of each utterance.
        config: of the features it stands beside, so that their frames are the same.

    Returns:
        (batch, frames), zero beyond each utterance's end.

    Raises:
        InputError: an utterance is too short for one frame, or longer than the waveform.
    """
    frames, frame_lengths = frame_waveform(waveform, lengths, config)
    energy = frame_log_energy(frames)
    return energy.masked_fill(is_padding(frame_lengths, energy.shape[1]), 0)


def energy_vad(log_energy: torch.Tensor, lengths: torch.Tensor, config: VadConfig) -> torch.Tensor:
    """Mark the frames that hold speech.

    A frame is loud if its log-energy exceeds energy_threshold + energy_mean_scale · (mean over the utterance).
    It is speech if at least proportion_threshold of the frames within frames_context of it are loud; at an
    utterance's ends only the frames that exist are counted.

    Args:
        log_energy: (batch, frames).
        lengths: (batch,) frames of each utterance.
        config: the thresholds.

    Returns:
        (batch, frames), bool; false beyond each utterance's end, and false all through if nothing is loud enough.
    """
    padding = is_padding(lengths.to(log_energy.device), log_energy.shape[1])
    lengths = lengths.to(log_energy.device)[:, None]
    mean = log_energy.double().masked_fill(padding, 0).sum(1, keepdim=True) / lengths
    loud = (log_energy > config.energy_threshold + config.energy_mean_scale * mean) & ~padding

    frame = torch.arange(log_energy.shape[1], device=log_energy.device)
    first = (frame - config.frames_context).clamp(min=0).expand_as(padding)
    past = torch.minimum(frame + config.frames_context + 1, lengths)
    # An utterance's padding would count backwards; keep its indices in order, the mask below drops it.
    past = torch.maximum(past, first)
    num_loud_before = torch.nn.functional.pad(loud.long().cumsum(1), (1, 0))
    num_loud = num_loud_before.gather(1, past) - num_loud_before.gather(1, first)
    return (num_loud >= config.proportion_threshold * (past - first)) & ~padding
