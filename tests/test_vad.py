"""Energy VAD: Kaldi's decisions, the definition frame by frame, and its edges."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.audio import load_audio
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig, FeatureExtractor
from spkadapt.vad import VadConfig, energy_vad, log_energy


def brute_force_vad(energy: list[float], config: VadConfig) -> list[bool]:
    """One frame at a time, from the definition."""
    threshold = config.energy_threshold + config.energy_mean_scale * math.fsum(energy) / len(energy)
    voiced = []
    for t in range(len(energy)):
        votes = [energy[u] > threshold for u in range(len(energy)) if abs(u - t) <= config.frames_context]
        voiced.append(sum(votes) >= config.proportion_threshold * len(votes))
    return voiced


def test_kaldi_decisions_on_kaldi_energies(shared: Path) -> None:
    with np.load(shared / "fixtures/kaldi/features.npz", allow_pickle=False) as kaldi:
        ids = [key.removeprefix("vad/") for key in kaldi.files if key.startswith("vad/")]
        energies = [torch.from_numpy(kaldi[f"mfcc/{utterance}"][:, 0]) for utterance in ids]
        decisions = [kaldi[f"vad/{utterance}"] for utterance in ids]
    lengths = torch.tensor([len(energy) for energy in energies])
    padded = torch.nn.utils.rnn.pad_sequence(energies, batch_first=True, padding_value=99.0)
    mask = energy_vad(padded, lengths, VadConfig())
    assert len(ids) == 8
    for row, decision in enumerate(decisions):
        np.testing.assert_array_equal(mask[row, : lengths[row]].numpy(), decision == 1)
        assert not mask[row, lengths[row] :].any()


def test_log_energy_of_a_waveform_is_kaldis_c0(shared: Path) -> None:
    with open(shared / "corpora/wuw2/manifest.csv", encoding="utf-8", newline="") as file:
        paths = {row["utterance_id"]: shared / "corpora/wuw2" / row["path"] for row in csv.DictReader(file)}
    with np.load(shared / "fixtures/kaldi/features.npz", allow_pickle=False) as kaldi:
        expected = kaldi["mfcc/wuw00083-name"][:, 0]
    waveform = load_audio(paths["wuw00083-name"], 8000)[None]
    energy = log_energy(waveform, torch.tensor([waveform.shape[1]]), FeatureConfig())
    np.testing.assert_allclose(energy[0].numpy(), expected, atol=1e-5)


@settings(deadline=None)
@given(
    energies=st.lists(st.lists(st.integers(-10, 30), min_size=1, max_size=12), min_size=1, max_size=3),
    context=st.integers(0, 4),
    threshold=st.sampled_from([-3.25, 0.25, 5.5]),
    mean_scale=st.sampled_from([0.0, 0.5]),
    proportion=st.sampled_from([0.12, 0.3, 0.45, 0.97]),
)
def test_padded_batches_agree_with_the_definition(
    energies: list[list[int]], context: int, threshold: float, mean_scale: float, proportion: float
) -> None:
    config = VadConfig(threshold, mean_scale, context, proportion)
    lengths = torch.tensor([len(energy) for energy in energies])
    rows = [torch.tensor(energy, dtype=torch.float64) for energy in energies]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1000.0)
    mask = energy_vad(padded, lengths, config)
    for row, energy in enumerate(energies):
        assert mask[row, : len(energy)].tolist() == brute_force_vad([float(value) for value in energy], config)
        assert not mask[row, len(energy) :].any()


def test_nothing_voiced_is_an_all_false_mask() -> None:
    silence = torch.zeros(1, 8000)
    energy = log_energy(silence, torch.tensor([8000]), FeatureConfig())
    assert torch.equal(energy, torch.full((1, 100), math.log(torch.finfo(torch.float32).eps)))
    assert not energy_vad(energy, torch.tensor([100]), VadConfig()).any()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_log_energy_is_c0_of_mfcc_and_zero_in_padding(snip_edges: bool) -> None:
    config = FeatureConfig(kind="mfcc", use_energy=True, snip_edges=snip_edges)
    waveform = torch.rand(2, 4000) - 0.3  # a mean well off zero
    lengths = torch.tensor([4000, 2500])
    features, frame_lengths = FeatureExtractor(config)(waveform, lengths)
    energy = log_energy(waveform, lengths, config)
    torch.testing.assert_close(energy, features[:, :, 0], atol=1e-5, rtol=0)
    assert energy[1, frame_lengths[1] :].eq(0).all()


def test_log_energy_is_around_the_mean_and_of_16_bit_scale() -> None:
    square = torch.tensor([1.0, -1.0]).repeat(2000)[None] * 100 / 32768 + 0.25
    energy = log_energy(square, torch.tensor([4000]), FeatureConfig(snip_edges=True))
    torch.testing.assert_close(energy, torch.full_like(energy, math.log(200 * 100.0**2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("energy_mean_scale", -0.5, "at least 0"),
        ("frames_context", -1, "at least 0"),
        ("proportion_threshold", 0.0, "between 0 and 1"),
        ("proportion_threshold", 1.0, "between 0 and 1"),
    ],
)
def test_bad_settings(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"{field} is {value}; expected {expected}"):
        VadConfig(**{field: value})  # type: ignore[arg-type]
