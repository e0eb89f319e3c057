"""Self-supervised losses of two views of each crop: SimCLR, MoCo and DINO.

Views are as a rule two crops of one recording, or one crop through two channels. The momentum encoder of MoCo and
DINO is `teacher.EmaTeacher`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.directions import check_batch, check_equal_batches, check_positive, unit
from spkadapt.align.recordings import check_recordings, same_recording_contrastive_loss
from spkadapt.errors import InputError

_EMPTY, _UNKNOWN = -2, -1  # in place of a key's recording: no key yet, and a key of none that is known


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views (SimCLR, Chen et al. 2020, equation 1).

        L = −mean over the 2n views i of log [exp(cos(i, j(i)) / τ) / Σ_{k ≠ i} exp(cos(i, k) / τ)]

    with j(i) the other view of i's crop. It is `same_recording_contrastive_loss` where each crop is a recording;
    where crops share recordings, use that, which does not push them apart. Computed in at least float32 whatever
    the input and autocast.

    Shape: `(batch, dim)` each, row by row views of the same crop → scalar

    Raises:
        InputError: batches that are not such, or that differ in shape or device; a `temperature` that is not
            positive.
    """
    first, second = check_equal_batches(first, second, ("first", "second"))
    crops = torch.arange(len(first), device=first.device).repeat(2)
    return same_recording_contrastive_loss(torch.cat([first, second]), crops, temperature)


class NtXentLoss(nn.Module):
    """`nt_xent_loss` as a module.

    Raises:
        InputError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """`(batch, dim)` each → scalar loss."""
        return nt_xent_loss(first, second, self.temperature)


class MomentumContrastLoss(nn.Module):
    """Contrast with a queue of earlier keys (MoCo, He et al. 2020, equation 1).

        L = −mean over i of log [e(q_i, k_i) / (e(q_i, k_i) + Σ_j e(q_i, queue_j))],   e(x, y) = exp(cos(x, y) / τ)

    q_i is the student's embedding of one view, k_i the momentum teacher's of another; no gradient reaches keys.
    The queue holds the last `queue_size` keys given to `update`, and begins empty: then the loss is zero. Keys of
    a query's own recording are left out where recordings are given; a small pool has many of them in the queue.

    Args:
        dim: dimension of the embeddings.
        queue_size: number of keys kept.
        temperature: τ.

    Raises:
        InputError: an argument is outside its range.
    """

    keys: Tensor
    recordings: Tensor
    place: Tensor

    def __init__(self, dim: int, queue_size: int = 4096, temperature: float = 0.07) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("queue_size", queue_size)):
            if value < 1:
                raise InputError(f"{name} of momentum contrast is {value}; expected at least 1")
        check_positive(temperature, "temperature")
        self.temperature = temperature
        self.register_buffer("keys", torch.zeros(queue_size, dim))
        self.register_buffer("recordings", torch.full((queue_size,), _EMPTY))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(self, queries: Tensor, keys: Tensor, recordings: Tensor | None = None) -> Tensor:
        """`(batch, dim)` each, and the recordings `(batch,)`, int64 → scalar loss.

        Raises:
            InputError: other shapes or dtypes than these.
        """
        queries, keys = check_equal_batches(queries, keys, ("queries", "keys"))
        self._check(keys, recordings)
        left_out = (self.recordings == _EMPTY).expand(len(queries), -1)
        if recordings is not None:
            left_out = left_out | (self.recordings == recordings[:, None])
        with torch.autocast(queries.device.type, enabled=False):
            directions = unit(queries)
            own = (directions * unit(keys.detach())).sum(dim=1, keepdim=True)
            others = (directions @ self.keys.to(directions.dtype).T).masked_fill(left_out, -math.inf)
            logits = torch.cat([own, others], dim=1) / self.temperature
            return F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64))

    @torch.no_grad()
    def update(self, keys: Tensor, recordings: Tensor | None = None) -> None:
        """Put a batch's keys in place of the oldest; of a batch larger than the queue, the last ones.

        Raises:
            InputError: keys that are not `(batch, dim)`, or recordings that are not int64 `(batch,)`.
        """
        keys = check_batch(keys, "keys")
        self._check(keys, recordings)
        kept = min(len(keys), len(self.keys))
        places = (self.place + torch.arange(kept, device=keys.device)) % len(self.keys)
        self.keys[places] = unit(keys[-kept:]).to(self.keys.dtype)
        self.recordings[places] = _UNKNOWN if recordings is None else recordings[-kept:]
        self.place.copy_((self.place + kept) % len(self.keys))

    def _check(self, keys: Tensor, recordings: Tensor | None) -> None:
        if keys.shape[1] != self.keys.shape[1]:
            raise InputError(f"keys have dim {keys.shape[1]}; the queue has {self.keys.shape[1]}")
        if recordings is not None:
            check_recordings(recordings, len(keys))


class DinoLoss(nn.Module):
    """Self-distillation with no labels (DINO, Caron et al. 2021, algorithm 1), of two views.

        L = ½ [H(P_t(first), P_s(second)) + H(P_t(second), P_s(first))]
        H(a, b) = −mean over i of Σ_k a_ik log b_ik
        P_s = softmax(student / τ_s),   P_t = softmax((teacher − centre) / τ_t)

    No gradient reaches the teacher. τ_t < τ_s sharpens the teacher and the centre, a running mean of its outputs
    that `update` moves, levels it: together they keep the outputs from collapsing. Computed in at least float32
    whatever the input and autocast.

    Args:
        num_outputs: dimension of the outputs, `DinoHead`'s.
        student_temperature, teacher_temperature: τ_s and τ_t.
        decay: of the centre, at least 0 and less than 1.

    Raises:
        InputError: an argument is outside its range.
    """

    centre: Tensor

    def __init__(
        self,
        num_outputs: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        if num_outputs < 1:
            raise InputError(f"num_outputs of DINO is {num_outputs}; expected at least 1")
        check_positive(student_temperature, "student_temperature")
        check_positive(teacher_temperature, "teacher_temperature")
        if not 0 <= decay < 1:
            raise InputError(f"decay of the centre is {decay}; expected 0 ≤ decay < 1")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.decay = decay
        self.register_buffer("centre", torch.zeros(num_outputs))

    def forward(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        """The student's and the teacher's outputs of both views, `(batch, num_outputs)` each → scalar loss.

        Raises:
            InputError: other shapes or dtypes than these.
        """
        return (self._cross_entropy(student[1], teacher[0]) + self._cross_entropy(student[0], teacher[1])) / 2

    @torch.no_grad()
    def update(self, teacher: tuple[Tensor, Tensor]) -> None:
        """centre ← decay · centre + (1 − decay) · mean of the teacher's outputs. Raises what `forward` raises."""
        outputs = torch.cat([self._check(view, "teacher") for view in teacher])
        self.centre.lerp_(outputs.mean(dim=0).to(self.centre.dtype), 1 - self.decay)

    def _cross_entropy(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = check_equal_batches(student, teacher, ("student", "teacher"))
        self._check(student, "student")
        with torch.autocast(student.device.type, enabled=False):
            expected = F.softmax((teacher.detach() - self.centre) / self.teacher_temperature, dim=1)
            return -(expected * F.log_softmax(student / self.student_temperature, dim=1)).sum(dim=1).mean()

    def _check(self, outputs: Tensor, name: str) -> Tensor:
        outputs = check_batch(outputs, name)
        if outputs.shape[1] != len(self.centre):
            raise InputError(f"{name} has {outputs.shape[1]} outputs; the centre has {len(self.centre)}")
        return outputs


class ProjectionHead(nn.Module):
    """What SimCLR and MoCo v2 compare in place of the embedding: one hidden layer (Chen et al. 2020).

    The contrast may then do away with what the embedding should keep.

    Args:
        dim, hidden_dim, output_dim: of the embedding, the hidden layer and the output.

    Shape: `(batch, dim)` → `(batch, output_dim)`

    Raises:
        InputError: a dimension is less than one.
    """

    def __init__(self, dim: int, hidden_dim: int = 512, output_dim: int = 128) -> None:
        super().__init__()
        _check_dims("projection head", dim=dim, hidden_dim=hidden_dim, output_dim=output_dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project each embedding."""
        return self.layers(embeddings)


class DinoHead(nn.Module):
    """DINO's projection (Caron et al. 2021, appendix C): a perceptron, a bottleneck of unit length, prototypes.

    The weights of each output have unit length, so that outputs are cosines with `num_outputs` prototypes.

    Args:
        dim, hidden_dim, bottleneck_dim: of the embedding, the two hidden layers and the bottleneck.
        num_outputs: number of prototypes (the paper uses 65,536; far fewer serve a small pool).

    Shape: `(batch, dim)` → `(batch, num_outputs)`

    Raises:
        InputError: a dimension is less than one.
    """

    def __init__(
        self, dim: int, num_outputs: int = 4096, hidden_dim: int = 512, bottleneck_dim: int = 128
    ) -> None:
        super().__init__()
        dims = {"dim": dim, "num_outputs": num_outputs, "hidden_dim": hidden_dim, "bottleneck_dim": bottleneck_dim}
        _check_dims("DINO head", **dims)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.prototypes = nn.Parameter(unit(torch.randn(num_outputs, bottleneck_dim)))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Cosines of each embedding's projection with the prototypes."""
        return unit(self.layers(embeddings)) @ unit(self.prototypes).T


def _check_dims(owner: str, **dims: int) -> None:
    for name, value in dims.items():
        if value < 1:
            raise InputError(f"{name} of the {owner} is {value}; expected at least 1")
