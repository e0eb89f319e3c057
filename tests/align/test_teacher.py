"""The teacher against closed forms of its running means, and the consistency losses against their definitions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spkadapt.align.teacher import (
    CosineConsistencyLoss,
    EmaTeacher,
    KlConsistencyLoss,
    SquaredConsistencyLoss,
    cosine_consistency_loss,
    kl_consistency_loss,
    squared_consistency_loss,
    update_ema,
)
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
LOSSES = [squared_consistency_loss, cosine_consistency_loss, kl_consistency_loss]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_squared(student: Tensor, teacher: Tensor) -> Tensor:
    terms = [(a - b) ** 2 for x, y in zip(student, teacher, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(terms) / len(terms)


def direct_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    cosines = [(x @ y) / (x @ x).sqrt() / (y @ y).sqrt() for x, y in zip(student, teacher, strict=True)]
    return sum(1 - cosine for cosine in cosines) / len(cosines)


def direct_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for x, y in zip((student / temperature).exp(), (teacher / temperature).exp(), strict=True):
        for p, q in zip(x / x.sum(), y / y.sum(), strict=True):
            total = total + q * (q / p).log()
    return temperature**2 * total / len(student)


DIRECT = dict(zip(LOSSES, [direct_squared, direct_cosine, direct_kl], strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@given(seeds, st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_value_and_gradient_equal_the_definition(
    loss: Callable[..., Tensor], seed: int, num: int, dim: int
) -> None:
    ours, theirs = (normal(seed, num, dim).requires_grad_() for _ in range(2))
    teacher = normal(seed + 1, num, dim)
    value, twin = loss(ours, teacher), DIRECT[loss](theirs, teacher)
    assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-14)
    value.backward()
    twin.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_temperature(seed: int, temperature: float) -> None:
    student, teacher = normal(seed, 4, 3), normal(seed + 1, 4, 3)
    expected = direct_kl(student, teacher, temperature).item()
    assert kl_consistency_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(
        KlConsistencyLoss(temperature)(student, teacher), kl_consistency_loss(student, teacher, temperature)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_at_equality_alone_and_gradcheck(loss: Callable[..., Tensor]) -> None:
    student, teacher = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3).requires_grad_()
    assert loss(student, student).item() == 0
    assert loss(student, teacher).item() > 0.01
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
    loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_cosine_keeps_its_digits_near_equality() -> None:
    angle = 1e-3
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle)]])
    assert cosine_consistency_loss(student, teacher).item() == pytest.approx(1 - math.cos(angle), rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "zero", "large"])
def test_gradient_is_finite_in_corners(loss: Callable[..., Tensor], dtype: torch.dtype, corner: str) -> None:
    drawn = torch.randn(4, 6)
    student, teacher = {
        "single": (drawn[:1], drawn[1:2]),
        "identical": (drawn, drawn),
        "constant": (torch.full((4, 6), 0.1), torch.full((4, 6), 0.7)),
        "zero": (torch.zeros(4, 6), drawn),
        "large": (1e4 * drawn, -1e4 * drawn),
    }[corner]
    student = student.to(dtype).requires_grad_()
    value = loss(student, teacher.to(dtype))
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: Callable[..., Tensor]) -> None:
    student, teacher = torch.randn(8, 6), torch.randn(8, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(student, teacher)
    assert torch.equal(inside, loss(student, teacher))


def test_modules_are_the_functions() -> None:
    student, teacher = torch.randn(8, 6), torch.randn(8, 6)
    modules = (SquaredConsistencyLoss(), CosineConsistencyLoss(), KlConsistencyLoss())
    for module, loss in zip(modules, LOSSES, strict=True):
        assert torch.equal(module(student, teacher), loss(student, teacher))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def randomise(model: nn.Module, seed: int) -> None:
    for number, value in enumerate(model.state_dict().values()):
        value.copy_(normal(seed + number, *value.shape) if value.is_floating_point() else torch.tensor(seed))


def test_running_means_in_closed_form() -> None:
    """After n updates θ = dⁿ θ₀ + (1 − d) Σ d^(n − k) θ_k, of parameters and of batch normalisation's buffers."""
    teacher, student = network(), network()
    randomise(teacher, 0)
    history = [copy.deepcopy(teacher.state_dict())]
    for number in range(1, 6):
        randomise(student, 100 * number)
        history.append(copy.deepcopy(student.state_dict()))
        update_ema(teacher, student, 0.7)
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            later = sum(0.3 * 0.7 ** (5 - k) * history[k][name] for k in range(1, 6))
            torch.testing.assert_close(value, 0.7**5 * history[0][name] + later, rtol=1e-13, atol=1e-14)
        else:
            assert name == "1.num_batches_tracked"
            assert value.item() == 500


def test_equal_values_stay_to_the_last_bit() -> None:
    student = network().float()
    teacher = copy.deepcopy(student)
    for decay in (0.0, 0.3, 0.9, 0.999, 1.0):
        update_ema(teacher, student, decay)
    for name, value in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value)


def test_a_teacher_begins_as_a_plain_mean() -> None:
    student = network()
    teacher = EmaTeacher(student, decay=0.75)
    seen: list[Tensor] = []
    for number in range(1, 5):  # 1 − 1/n reaches 0.75 at the fourth
        randomise(student, 100 * number)
        seen.append(student[0].weight.detach().clone())
        teacher.update(student)
        torch.testing.assert_close(teacher.model[0].weight, sum(seen) / number, rtol=1e-13, atol=1e-14)
    before = teacher.model[0].weight.clone()
    randomise(student, 900)
    teacher.update(student)
    torch.testing.assert_close(teacher.model[0].weight, 0.75 * before + 0.25 * student[0].weight.detach())
    assert teacher.num_updates.item() == 5


def test_nothing_but_updates_changes_a_teacher() -> None:
    student = network()
    teacher = EmaTeacher(student).train()
    state = copy.deepcopy(teacher.state_dict())
    inputs = normal(0, 5, 3).requires_grad_()
    output = teacher(inputs)
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(output, teacher(inputs))  # no dropout
    assert torch.equal(output, student.eval()(inputs))
    assert not any(module.training for module in nn.Sequential(teacher).train()[0].modules())
    squared_consistency_loss(student.train()(inputs), output).backward()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_resumed_teacher_goes_on_exactly() -> None:
    def follow(teacher: EmaTeacher, numbers: range) -> EmaTeacher:
        student = network()
        for number in numbers:
            randomise(student, 100 * number)
            teacher.update(student)
        return teacher

    unbroken = follow(EmaTeacher(network(), 0.9), range(20))
    first = follow(EmaTeacher(network(), 0.9), range(7))
    second = EmaTeacher(network(), 0.9)
    second.load_state_dict(first.state_dict())
    follow(second, range(7, 20))
    # The first update replaces what the teacher began with, so that both are the same.
    for name, value in unbroken.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_bad_arguments() -> None:
    student = torch.ones(3, 2)
    for loss in (squared_consistency_loss, cosine_consistency_loss):
        with pytest.raises(InputError, match=r"student has shape \(3, 2\) on cpu and teacher has shape \(2, 2\)"):
            loss(student, torch.ones(2, 2))
    with pytest.raises(InputError, match=r"student_logits has shape \(3,\); expected two dimensions"):
        kl_consistency_loss(torch.ones(3), student)
    for build in (lambda: kl_consistency_loss(student, student, 0.0), lambda: KlConsistencyLoss(0.0)):
        with pytest.raises(InputError, match=r"temperature is 0\.0; expected a positive, finite number"):
            build()
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=f"decay is {decay}; expected 0 to 1"):
            update_ema(network(), network(), decay)
    with pytest.raises(InputError, match="decay of the teacher is 1; expected 0 ≤ decay < 1"):
        EmaTeacher(network(), 1)
    for other in (nn.Linear(3, 4), nn.Sequential(nn.Linear(2, 4), *network()[1:])):
        with pytest.raises(InputError, match="teacher and student have states of other names or shapes"):
            update_ema(network(), other, 0.5)
