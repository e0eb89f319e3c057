"""Mean teacher: a model that follows the student, and the losses that hold the student to it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.directions import check_equal_batches, check_positive, unit
from spkadapt.errors import InputError

_NAMES = ("student", "teacher")


def squared_consistency_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two batches of embeddings (mean teacher, Tarvainen & Valpola 2017).

        L = mean over i and d of (student − teacher)²

    No gradient reaches `teacher`. Computed in at least float32 whatever the input and autocast.

    Shape: `(batch, dim)` each → scalar

    Raises:
        InputError: batches that are not such, or that differ in shape or device.
    """
    student, teacher = check_equal_batches(student, teacher, _NAMES)
    return (student - teacher.detach()).square().mean()


def cosine_consistency_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos of a row and its teacher's, averaged: what counts where embeddings are scored by cosine.

        L = mean over i of 1 − cos(student_i, teacher_i) = mean over i of ‖u_i − v_i‖² / 2,   u, v of unit length

    Computed in the latter form, which is exactly zero at equality and keeps its digits near it, in at least
    float32 whatever the input and autocast. No gradient reaches `teacher`.

    Shape: `(batch, dim)` each → scalar

    Raises:
        InputError: batches that are not such, or that differ in shape or device.
    """
    student, teacher = check_equal_batches(student, teacher, _NAMES)
    return (unit(student) - unit(teacher.detach())).square().sum(dim=1).mean() / 2


def kl_consistency_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """How far the student's class posteriors are from the teacher's (distillation, Hinton et al. 2015).

        L = T² · mean over i of KL(softmax(teacher_i / T) ‖ softmax(student_i / T))

    T² keeps the gradient's size when T changes. No gradient reaches `teacher_logits`. Computed in at least float32
    whatever the input and autocast.

    Shape: `(batch, num_classes)` each → scalar

    Raises:
        InputError: batches that are not such, or that differ in shape or device; a `temperature` that is not
            positive.
    """
    names = ("student_logits", "teacher_logits")
    student, teacher = check_equal_batches(student_logits, teacher_logits, names)
    check_positive(temperature, "temperature")
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean()


class SquaredConsistencyLoss(nn.Module):
    """`squared_consistency_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`(batch, dim)` each → scalar loss."""
        return squared_consistency_loss(student, teacher)


class CosineConsistencyLoss(nn.Module):
    """`cosine_consistency_loss` as a module."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`(batch, dim)` each → scalar loss."""
        return cosine_consistency_loss(student, teacher)


class KlConsistencyLoss(nn.Module):
    """`kl_consistency_loss` as a module.

    Raises:
        InputError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """`(batch, num_classes)` each → scalar loss."""
        return kl_consistency_loss(student_logits, teacher_logits, self.temperature)


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move every parameter and buffer of the teacher towards the student's.

        θ_teacher ← decay · θ_teacher + (1 − decay) · θ_student

    Buffers of whole numbers, such as batch normalisation's count of batches, are copied. Where both have the same
    value it stays that, to the last bit.

    Raises:
        InputError: `decay` is not between 0 and 1, or the modules' states differ in names or shapes.
    """
    if not 0 <= decay <= 1:
        raise InputError(f"decay is {decay}; expected 0 to 1")
    theirs, ours = student.state_dict(), teacher.state_dict()
    if [(name, value.shape) for name, value in ours.items()] != [(name, v.shape) for name, v in theirs.items()]:
        raise InputError("teacher and student have states of other names or shapes; expected those of one model")
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name].to(value), 1 - decay)
        else:
            value.copy_(theirs[name])


class EmaTeacher(nn.Module):
    """A copy of a model whose parameters and buffers are running means of the model's (Tarvainen & Valpola 2017).

    `update`, called after each step of the optimiser, moves it by `update_ema`, with a decay of
    min(decay, 1 − 1 / n) at the nth call: the plain mean of all students so far until that reaches `decay`, so
    that the random weights it began with are forgotten at once.

    It stays in evaluation mode, whatever mode is set, so that nothing but `update` changes it; none of its
    parameters asks for a gradient. Its state is in `state_dict`, with the number of updates.

    Args:
        student: the model; it is copied, not kept.
        decay: at least 0 and less than 1.

    Raises:
        InputError: `decay` is out of range.
    """

    num_updates: Tensor

    def __init__(self, student: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"decay of the teacher is {decay}; expected 0 ≤ decay < 1")
        self.decay = decay
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.train(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """What the teacher makes of the student's inputs; no gradient flows back."""
        return self.model(*inputs)

    def update(self, student: nn.Module) -> None:
        """Follow the student by one step. Raises what `update_ema` raises."""
        self.num_updates += 1
        update_ema(self.model, student, min(self.decay, 1 - 1 / int(self.num_updates)))

    def train(self, mode: bool = True) -> EmaTeacher:
        """Evaluation mode, always."""
        return super().train(False)
