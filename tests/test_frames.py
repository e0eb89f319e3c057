"""Deltas, splicing and normalisation: Kaldi's own numbers, and their definitions written out in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from spkadapt.frames import compute_deltas, sliding_cmn, splice_frames, utterance_cmvn


def pad(rows: list[torch.Tensor], value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return pad_sequence(rows, batch_first=True, padding_value=value), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("kind", ["cmn", "deltas"])
def test_what_follows_the_cepstra_is_kaldis_to_the_last_digits(shared: Path, kind: str) -> None:
    with np.load(shared / "fixtures/kaldi/features.npz", allow_pickle=False) as kaldi:
        ids = [key.removeprefix("mfcc/") for key in kaldi.files if key.startswith("mfcc/")]
        cepstra, lengths = pad([torch.from_numpy(kaldi[f"mfcc/{name}"]) for name in ids], 1e4)
        expected = [kaldi[f"{kind}/{name}"] for name in ids]
    found = sliding_cmn(cepstra, lengths, 300) if kind == "cmn" else compute_deltas(cepstra, lengths, 2, 3)
    for row, value in enumerate(expected):
        np.testing.assert_allclose(found[row, : len(value)].numpy(), value, rtol=0, atol=5e-6)


def naive_window(t: int, num: int, window: int) -> tuple[int, int]:
    """Kaldi's rule in its own steps: centre, then push inside from the left, then from the right."""
    start = t - window // 2
    end = start + window
    if start < 0:
        start, end = 0, end - start
    if end > num:
        start, end = max(0, start - (end - num)), num
    return start, end


sequences = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def random_sequences(counts: list[int]) -> list[torch.Tensor]:
    return [torch.randn(count, 2, dtype=torch.float64) * 3 + 5 for count in counts]


@settings(deadline=None, max_examples=50)
@given(counts=sequences, window=st.integers(1, 12), norm_vars=st.booleans())
def test_sliding_cmn_matches_its_definition(counts: list[int], window: int, norm_vars: bool) -> None:
    rows = random_sequences(counts)
    found = sliding_cmn(*pad(rows, math.nan), window, norm_vars)
    for row, values in enumerate(rows):
        for t in range(len(values)):
            inside = values[slice(*naive_window(t, len(values), window))]
            expected = values[t] - inside.mean(0)
            if norm_vars:
                expected /= inside.var(0, correction=0).clamp(min=1e-10).sqrt()
            torch.testing.assert_close(found[row, t], expected, rtol=1e-6, atol=1e-8)
        assert found[row, len(values) :].eq(0).all()


@settings(deadline=None, max_examples=50)
@given(counts=sequences, norm_vars=st.booleans())
def test_utterance_cmvn_matches_its_definition(counts: list[int], norm_vars: bool) -> None:
    rows = random_sequences(counts)
    found = utterance_cmvn(*pad(rows, math.nan), norm_vars)
    for row, values in enumerate(rows):
        expected = values - values.mean(0)
        if norm_vars and len(values) > 1:
            expected /= values.std(0, correction=0)
        torch.testing.assert_close(found[row, : len(values)], expected, rtol=1e-6, atol=1e-8)
        assert found[row, len(values) :].eq(0).all()


@settings(deadline=None, max_examples=50)
@given(counts=sequences, order=st.integers(1, 2), window=st.integers(1, 3))
def test_deltas_match_their_definition(counts: list[int], order: int, window: int) -> None:
    rows = random_sequences(counts)
    found = compute_deltas(*pad(rows, math.nan), order, window)
    norm = sum(j * j for j in range(-window, window + 1))
    for row, values in enumerate(rows):

        def derivative(t: int, level: int, values: torch.Tensor = values) -> torch.Tensor:
            if level == 0:
                return values[min(max(t, 0), len(values) - 1)]
            return sum(j * derivative(t + j, level - 1) for j in range(-window, window + 1)) / norm  # type: ignore[return-value]

        for t in range(len(values)):
            expected = torch.cat([derivative(t, level) for level in range(order + 1)])
            torch.testing.assert_close(found[row, t], expected, rtol=1e-9, atol=1e-9)
        assert found[row, len(values) :].eq(0).all()


def test_delta_of_a_ramp_is_its_slope() -> None:
    ramp = (3.0 * torch.arange(20.0))[None, :, None]
    deltas = compute_deltas(ramp, torch.tensor([20]), order=2, window=2)
    torch.testing.assert_close(deltas[0, 4:-4, 1], torch.full((12,), 3.0))
    torch.testing.assert_close(deltas[0, 4:-4, 2], torch.zeros(12))


@settings(deadline=None, max_examples=50)
@given(counts=sequences, left=st.integers(0, 3), right=st.integers(0, 3))
def test_splicing_repeats_the_edges(counts: list[int], left: int, right: int) -> None:
    rows = random_sequences(counts)
    found = splice_frames(*pad(rows, math.nan), left, right)
    for row, values in enumerate(rows):
        for t in range(len(values)):
            context = [values[min(max(u, 0), len(values) - 1)] for u in range(t - left, t + right + 1)]
            assert torch.equal(found[row, t], torch.cat(context))
        assert found[row, len(values) :].eq(0).all()
