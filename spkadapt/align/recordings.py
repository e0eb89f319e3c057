"""Crops of one recording share a speaker: supervision that every unlabelled pool has.

A recording is a call, or whatever else has one speaker. Recordings are numbered from 0 over the whole pool. Calls
of one caller come more than once, so that two recordings need not differ in speaker: every loss takes `similar`,
the pairs of recordings that it must not push apart, which `nearest_recordings` finds.

The classifier of all recordings with weights of its own is `heads.AamHead`; here are the losses without.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.directions import check_batch, check_positive, unit
from spkadapt.errors import InputError


def same_recording_contrastive_loss(
    embeddings: Tensor, recordings: Tensor, temperature: float = 0.1, similar: Tensor | None = None
) -> Tensor:
    """Supervised contrastive loss with recordings as classes (Khosla et al. 2020, equation 2, "L_out").

        L = −mean over i of mean over p ∈ P(i) of log [exp(cos(i, p) / τ) / Σ_{a ∈ A(i)} exp(cos(i, a) / τ)]

    P(i) are the other rows of i's recording, A(i) all rows but i itself and those of recordings similar to i's.
    The mean is over rows with some positive; where there is none, the loss and its gradient are zero. Computed in
    at least float32 whatever the input and autocast, and the gradient is finite everywhere.

    Shape:
        embeddings: `(batch, dim)`
        recordings: `(batch,)`, int64
        similar: `(num_recordings, num_recordings)`, bool; `similar[j, k]` leaves recording k out of the sums of j
        returns a scalar

    Raises:
        InputError: other shapes or dtypes than these, or a `temperature` that is not positive.
    """
    embeddings = check_batch(embeddings)
    check_recordings(recordings, len(embeddings))
    check_positive(temperature, "temperature")
    same = recordings[:, None] == recordings
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    positive = same & ~itself
    anchors = positive.any(dim=1).nonzero().squeeze(1)
    if not len(anchors):
        return (embeddings * 0).sum()
    left_out = itself | _pairs(similar, recordings, recordings)
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = unit(embeddings)
        logits = directions[anchors] @ directions.T / temperature
        normaliser = logits.masked_fill(left_out[anchors], -math.inf).logsumexp(dim=1)
        positive = positive[anchors]
        own = (logits * positive).sum(dim=1) / positive.sum(dim=1)
        return (normaliser - own).mean()


class SameRecordingContrastiveLoss(nn.Module):
    """`same_recording_contrastive_loss` as a module.

    Raises:
        InputError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def forward(self, embeddings: Tensor, recordings: Tensor, similar: Tensor | None = None) -> Tensor:
        """`(batch, dim)`, `(batch,)` → scalar loss."""
        return same_recording_contrastive_loss(embeddings, recordings, self.temperature, similar)


def angular_prototypical_loss(
    embeddings: Tensor, recordings: Tensor, scale: float | Tensor = 10.0, similar: Tensor | None = None
) -> Tensor:
    """Angular prototypical loss with recordings as classes (Chung et al. 2020, "In defence of metric learning").

        L = −mean over j of log [exp(w cos(q_j, c_j)) / Σ_k exp(w cos(q_j, c_k))]

    q_j is recording j's first row in the batch and c_j the mean of its others. Recordings with a single row are
    left out; where all are, the loss and its gradient are zero. The paper's bias b, which cancels, is absent.
    Computed in at least float32 whatever the input and autocast.

    Shape:
        embeddings: `(batch, dim)`
        recordings: `(batch,)`, int64
        scale: w, a number or a tensor that learns
        similar: as in `same_recording_contrastive_loss`
        returns a scalar

    Raises:
        InputError: other shapes or dtypes than these, or a `scale`, where it is a number, that is not positive.
    """
    embeddings = check_batch(embeddings)
    check_recordings(recordings, len(embeddings))
    if not isinstance(scale, Tensor):
        check_positive(scale, "scale")
    numbers, class_of, counts = recordings.unique(return_inverse=True, return_counts=True)
    kept = counts > 1
    if not kept.any():
        return (embeddings * 0).sum()
    order = class_of.argsort(stable=True)
    is_query = torch.zeros_like(class_of, dtype=torch.bool)
    is_query[order[counts.cumsum(0) - counts]] = True
    with torch.autocast(embeddings.device.type, enabled=False):
        others = torch.where(is_query[:, None], 0, embeddings)
        sums = embeddings.new_zeros(len(numbers), embeddings.shape[1]).index_add(0, class_of, others)
        queries = embeddings[is_query][class_of[is_query].argsort()][kept]
        logits = scale * (unit(queries) @ unit(sums[kept]).T)
        logits = logits.masked_fill(_pairs(similar, numbers[kept], numbers[kept]), -math.inf)
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


class AngularPrototypicalLoss(nn.Module):
    """`angular_prototypical_loss` with a scale w > 0 that learns, kept as its logarithm.

    Args:
        scale: w at the start.

    Raises:
        InputError: `scale` is not positive.
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        check_positive(scale, "scale")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, embeddings: Tensor, recordings: Tensor, similar: Tensor | None = None) -> Tensor:
        """`(batch, dim)`, `(batch,)` → scalar loss."""
        return angular_prototypical_loss(embeddings, recordings, self.log_scale.exp(), similar)


class RecordingPrototypes(nn.Module):
    """A running mean of each recording's directions, and the softmax over all of them as a loss.

        L = −mean over i of log [exp(cos(e_i, c_own) / τ) / Σ_k exp(cos(e_i, c_k) / τ)]

    The non-parametric classifier of Wu et al. (2018), with one entry for a recording instead of one for an image.
    k runs over the recordings seen so far, without those similar to i's own. Only the embeddings get a gradient;
    `update` moves the prototypes, c ← decay · c + (1 − decay) · mean direction of the recording's rows in a batch,
    and the first rows of a recording are its first prototype. A row of a recording not seen yet adds nothing.

    Args:
        dim: dimension of the embeddings.
        num_recordings: of the whole pool.
        temperature: τ.
        decay: at least 0 and less than 1.

    Raises:
        InputError: an argument is outside its range.
    """

    means: Tensor
    is_known: Tensor

    def __init__(self, dim: int, num_recordings: int, temperature: float = 0.1, decay: float = 0.9) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("num_recordings", num_recordings)):
            if value < 1:
                raise InputError(f"{name} of the recording prototypes is {value}; expected at least 1")
        check_positive(temperature, "temperature")
        if not 0 <= decay < 1:
            raise InputError(f"decay of the recording prototypes is {decay}; expected 0 ≤ decay < 1")
        self.temperature = temperature
        self.decay = decay
        self.register_buffer("means", torch.zeros(num_recordings, dim))
        self.register_buffer("is_known", torch.zeros(num_recordings, dtype=torch.bool))

    def forward(self, embeddings: Tensor, recordings: Tensor, similar: Tensor | None = None) -> Tensor:
        """`(batch, dim)`, `(batch,)` int64 → scalar loss; `similar` as in `same_recording_contrastive_loss`.

        Raises:
            InputError: other shapes or dtypes than these.
        """
        embeddings = self._check(embeddings, recordings)
        rows = self.is_known[recordings].nonzero().squeeze(1)
        if not len(rows):
            return (embeddings * 0).sum()
        embeddings, recordings = embeddings[rows], recordings[rows]
        everything = torch.arange(len(self.means), device=recordings.device)
        left_out = ~self.is_known | _pairs(similar, recordings, everything)
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = unit(embeddings) @ unit(self.means).to(embeddings.dtype).T
            return F.cross_entropy((cosines / self.temperature).masked_fill(left_out, -math.inf), recordings)

    @torch.no_grad()
    def update(self, embeddings: Tensor, recordings: Tensor) -> None:
        """Move the prototypes of the batch's recordings towards its rows. Raises what `forward` raises."""
        directions = unit(self._check(embeddings, recordings)).to(self.means.dtype)
        counts = torch.bincount(recordings, minlength=len(self.means))[:, None]
        sums = torch.zeros_like(self.means).index_add(0, recordings, directions)
        weight = torch.where(self.is_known[:, None], 1 - self.decay, 1.0) * (counts > 0)
        self.means.lerp_(sums / counts.clamp_min(1), weight.to(self.means.dtype))
        self.is_known |= counts.squeeze(1) > 0

    def similar(self, num_nearest: int) -> Tensor:
        """`nearest_recordings` of the prototypes; a recording not seen yet is similar to none."""
        return nearest_recordings(self.means, num_nearest)

    def _check(self, embeddings: Tensor, recordings: Tensor) -> Tensor:
        embeddings = check_batch(embeddings)
        if embeddings.shape[1] != self.means.shape[1]:
            raise InputError(
                f"embeddings have dim {embeddings.shape[1]}; the prototypes have {self.means.shape[1]}"
            )
        check_recordings(recordings, len(embeddings), len(self.means))
        return embeddings


@torch.no_grad()
def nearest_recordings(prototypes: Tensor, num_nearest: int) -> Tensor:
    """Pairs of recordings that may be of one speaker: one is among the other's nearest by cosine.

    Either way is enough, since a pair of one caller pushed apart costs more than one of two callers left alone.
    A fixed number of each recording, rather than all pairs above some cosine, keeps the few recordings that are
    near everything (Radovanović et al. 2010, "hubs") from taking all places.

    Shape:
        prototypes: `(num_recordings, dim)`, for instance the mean of each recording's embeddings; zeros where
            nothing is known of a recording, which then is near none
        returns `(num_recordings, num_recordings)`, bool, symmetric, with a false diagonal

    Raises:
        InputError: prototypes that are not such a batch, or `num_nearest` negative or not less than the number of
            recordings.
    """
    directions = unit(check_batch(prototypes, "prototypes"))
    if not 0 <= num_nearest < len(directions):
        raise InputError(
            f"num_nearest is {num_nearest} of {len(directions)} recordings; expected 0 or more, and fewer"
        )
    unknown = ~directions.any(dim=1)
    cosines = (directions @ directions.T).masked_fill_(unknown | unknown[:, None], -math.inf)
    values, places = cosines.fill_diagonal_(-math.inf).topk(num_nearest, dim=1)
    near = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, places, values > -math.inf)
    return near | near.T


def check_recordings(recordings: Tensor, num_rows: int, num_recordings: int | None = None) -> None:
    """Check the recording of each row; on the CPU also that the numbers are in range.

    Raises:
        InputError: not int64 `(num_rows,)`, or a number below zero or not below `num_recordings`.
    """
    if recordings.shape != (num_rows,) or recordings.dtype != torch.int64:
        raise InputError(
            f"recordings have shape {tuple(recordings.shape)} and hold {recordings.dtype}; "
            f"expected ({num_rows},) of torch.int64"
        )
    if recordings.device.type != "cpu":  # looking at numbers would hold up an accelerator's queue
        return
    lowest, highest = int(recordings.min()), int(recordings.max())
    if lowest < 0 or (num_recordings is not None and highest >= num_recordings):
        most = "" if num_recordings is None else f" to {num_recordings - 1}"
        raise InputError(f"recordings run from {lowest} to {highest}; expected numbers from 0{most}")


def _pairs(similar: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """Which pairs of a row's and a column's recording are similar, `(num_rows, num_columns)`; none with itself.

    Raises:
        InputError: `similar` is not bool, not square, or (on the CPU) smaller than the recordings' numbers ask.
    """
    if similar is None:
        return torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    if similar.ndim != 2 or similar.shape[0] != similar.shape[1] or similar.dtype != torch.bool:
        raise InputError(
            f"similar has shape {tuple(similar.shape)} and holds {similar.dtype}; "
            "expected (num_recordings, num_recordings) of torch.bool"
        )
    if rows.device.type == "cpu" and max(int(rows.max()), int(columns.max())) >= len(similar):
        highest = max(int(rows.max()), int(columns.max()))
        raise InputError(f"similar knows {len(similar)} recordings; the batch has number {highest}")
    return similar[rows][:, columns] & (rows[:, None] != columns)
