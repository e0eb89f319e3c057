"""What is done to finished feature frames: deltas, splicing, mean and variance normalisation, all as Kaldi does.

Everything here takes padded `features (batch, frames, num_features)` and `lengths (batch,)`, the absolute count of
frames of each utterance: what lies beyond them is padding, never changes a frame, and comes out as zero.

Source: D. Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; parity with its `add-deltas` and
`apply-cmvn-sliding` is tested.
"""

from __future__ import annotations

import torch
from torch import nn

_VARIANCE_FLOOR = 1e-10


def is_padding(lengths: torch.Tensor, num_columns: int) -> torch.Tensor:
    """(batch, num_columns), bool: true at and beyond each of `lengths` (batch,)."""
    return torch.arange(num_columns, device=lengths.device) >= lengths[:, None]


def mask_padding(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Features (batch, frames, num_features) with zeros beyond `lengths` (batch,) frames, whatever stood there."""
    padding = is_padding(lengths.to(features.device), features.shape[1])
    return features.masked_fill(padding[:, :, None], 0)


def _replicate_edges(features: torch.Tensor, lengths: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """(batch, left + frames + right, num_features): each utterance's own first and last frame go on for ever."""
    index = torch.arange(-left, features.shape[1] + right, device=features.device).clamp(min=0)
    index = torch.minimum(index, lengths.to(features.device)[:, None] - 1)
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))


def compute_deltas(features: torch.Tensor, lengths: torch.Tensor, order: int, window: int) -> torch.Tensor:
    """Append time derivatives up to `order`, each the regression slope over `window` frames to each side.

    Δx(t) = Σⱼ j · x(t + j) / Σⱼ j² for j from −window to window. As in Kaldi, the filter of a higher order is this
    one convolved with itself, and the edges of `features` (not of Δx) are replicated.

    Features (batch, frames, num_features) and lengths (batch,) in frames give (batch, frames, (1 + order) ·
    num_features): the features, Δ, ΔΔ, …
    """
    slope = torch.arange(-window, window + 1, dtype=torch.float64)
    slope /= slope.square().sum()
    reach = order * window
    replicated = _replicate_edges(features, lengths, reach, reach)
    num = features.shape[1]
    taps = torch.ones(1, dtype=torch.float64)
    outputs = [features]
    for _ in range(order):
        taps = nn.functional.conv1d(taps[None, None], slope.flip(0)[None, None], padding=2 * window)[0, 0]
        delta = torch.zeros_like(features)
        for shift, tap in enumerate(taps.tolist(), start=reach - len(taps) // 2):
            delta.add_(replicated[:, shift : shift + num], alpha=tap)
        outputs.append(delta)
    return mask_padding(torch.cat(outputs, dim=-1), lengths)


def splice_frames(
    features: torch.Tensor, lengths: torch.Tensor, left: int, right: int, subsampling: int = 1
) -> torch.Tensor:
    """Join each frame with `left` frames before and `right` after it, an utterance's edge frames repeated.

    Features (batch, frames, num_features) and lengths (batch,) in frames give (batch, ⌈frames / subsampling⌉,
    (left + 1 + right) · num_features), the earliest frame first. Of the frames, every `subsampling`-th is kept.
    """
    num = features.shape[1]
    replicated = _replicate_edges(features, lengths, left, right)
    shifted = [replicated[:, shift : shift + num : subsampling] for shift in range(left + 1 + right)]
    return mask_padding(torch.cat(shifted, dim=-1), -(-lengths // subsampling))


def sliding_cmn(
    features: torch.Tensor, lengths: torch.Tensor, window: int, norm_vars: bool = False
) -> torch.Tensor:
    """Subtract from each frame the mean of the `window` frames around it (Kaldi's `--center=true`).

    The window of frame t starts at t − ⌊window/2⌋, is moved to lie inside the utterance, and is the whole
    utterance where that is shorter. `norm_vars` divides by the standard deviation within the window as well.
    Features (batch, frames, num_features) keep their shape; lengths (batch,) are in frames. Sums are in float64.
    """
    last = lengths.to(features.device)[:, None]
    frame = torch.arange(features.shape[1], device=features.device)
    start = torch.minimum(frame - window // 2, last - window).clamp(min=0)
    end = torch.minimum(start + window, last)
    values = mask_padding(features, lengths).double()

    def window_mean(values: torch.Tensor) -> torch.Tensor:
        sums = nn.functional.pad(values.cumsum(1), (0, 0, 1, 0))
        first, past = (edge[:, :, None].expand(-1, -1, values.shape[2]) for edge in (start, end))
        return (sums.gather(1, past) - sums.gather(1, first)) / (end - start)[:, :, None]

    mean = window_mean(values)
    normalised = values - mean
    if norm_vars:
        variance = window_mean(values.square()) - mean.square()
        normalised /= variance.clamp(min=_VARIANCE_FLOOR).sqrt()
    return mask_padding(normalised.to(features.dtype), lengths)


def utterance_cmvn(features: torch.Tensor, lengths: torch.Tensor, norm_vars: bool = False) -> torch.Tensor:
    """Subtract from each frame its utterance's mean; where `norm_vars`, divide by the standard deviation too.

    Features (batch, frames, num_features) keep their shape; lengths (batch,) are in frames.
    """
    count = lengths.to(features.device)[:, None, None]
    features = mask_padding(features, lengths)
    centred = mask_padding(features - features.sum(1, keepdim=True) / count, lengths)
    if not norm_vars:
        return centred
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / variance.clamp(min=_VARIANCE_FLOOR).sqrt()
