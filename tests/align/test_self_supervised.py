"""SimCLR, MoCo and DINO against loops straight from their papers, their queues and centres, and corners."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.self_supervised import (
    DinoHead,
    DinoLoss,
    MomentumContrastLoss,
    NtXentLoss,
    ProjectionHead,
    nt_xent_loss,
)
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / (x.square().sum().sqrt() * y.square().sum().sqrt())


def direct_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Algorithm 1 of Chen et al.: the 2n views in one list, each with its other view."""
    views, n = [*first, *second], len(first)
    losses = []
    for i, view in enumerate(views):
        scores = [(cosine(view, other) / temperature).exp() for other in views]
        losses.append(-(scores[(i + n) % (2 * n)] / sum(s for k, s in enumerate(scores) if k != i)).log())
    return sum(losses) / len(losses)


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.floats(0.1, 2))
@settings(max_examples=30, deadline=None)
def test_nt_xent(seed: int, num: int, dim: int, temperature: float) -> None:
    ours, theirs = ([normal(seed + i, num, dim).requires_grad_() for i in range(2)] for _ in range(2))
    value, twin = nt_xent_loss(*ours, temperature), direct_nt_xent(*theirs, temperature)
    assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-12)
    value.backward()
    twin.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-10)


def test_nt_xent_in_closed_form() -> None:
    # Both views equal, crops at right angles: e^{1/τ} against it and 2 (n − 1) e⁰.
    expected = math.log(math.exp(1 / 0.5) + 2 * 3) - 1 / 0.5
    assert nt_xent_loss(torch.eye(4), torch.eye(4)).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(NtXentLoss(0.2)(torch.eye(4), torch.eye(4)), nt_xent_loss(torch.eye(4), torch.eye(4), 0.2))


@pytest.mark.parametrize("knows_recordings", [False, True])
def test_momentum_contrast(knows_recordings: bool) -> None:
    module = MomentumContrastLoss(3, queue_size=5, temperature=0.3).double()
    queue: list[tuple[Tensor, int]] = []
    for step, num in enumerate((2, 2, 3, 7, 1)):
        queries, keys = normal(step, num, 3).requires_grad_(), normal(100 + step, num, 3).requires_grad_()
        recordings = torch.randint(3, (num,), generator=torch.Generator().manual_seed(step))
        given_recordings = recordings if knows_recordings else None
        value = module(queries, keys, given_recordings)
        losses = []
        for query, key, recording in zip(queries, keys, recordings.tolist(), strict=True):
            own = (cosine(query, key) / 0.3).exp()
            others = [
                (cosine(query, other) / 0.3).exp()
                for other, its_recording in queue
                if not knows_recordings or its_recording != recording
            ]
            losses.append(-(own / (own + sum(others))).log())
        twin = sum(losses) / len(losses)
        assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-12)
        expected, expected_of_keys = torch.autograd.grad(twin, (queries, keys))
        value.backward()
        torch.testing.assert_close(queries.grad, expected, rtol=1e-8, atol=1e-10)
        assert keys.grad is None
        assert step == 0 or expected_of_keys.any()  # there was a gradient to keep away
        module.update(keys, given_recordings)
        queue = (queue + list(zip(keys.detach(), recordings.tolist(), strict=True)))[-5:]


def test_an_empty_queue_costs_nothing() -> None:
    queries = torch.randn(3, 4, requires_grad=True)
    value = MomentumContrastLoss(4)(queries, torch.randn(3, 4))
    value.backward()
    assert value.item() == 0
    assert not queries.grad.any()


def test_a_resumed_queue_goes_on_exactly() -> None:
    module, again = (MomentumContrastLoss(4, queue_size=6) for _ in range(2))
    module.update(torch.randn(4, 4), torch.arange(4))
    again.load_state_dict(module.state_dict())
    keys = torch.randn(4, 4)
    for one in (module, again):
        one.update(keys)
    assert torch.equal(again.keys, module.keys)
    assert not module.keys.eq(0).all(dim=1).any()
    views = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 9])
    assert torch.equal(again(*views), module(*views))


def direct_dino(student: list[Tensor], teacher: list[Tensor], centre: Tensor, loss: DinoLoss) -> Tensor:
    """Algorithm 1 of Caron et al., entry by entry."""

    def entropy(t: Tensor, s: Tensor) -> Tensor:
        rows = []
        for x, y in zip(t, s, strict=True):
            p, q = ((x - centre) / loss.teacher_temperature).exp(), (y / loss.student_temperature).exp()
            rows.append(-(p / p.sum() * (q / q.sum()).log()).sum())
        return sum(rows) / len(rows)

    return entropy(teacher[0], student[1]) / 2 + entropy(teacher[1], student[0]) / 2


@given(seeds, st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_dino(seed: int, num: int, num_outputs: int) -> None:
    loss = DinoLoss(num_outputs, 0.5, 0.2, decay=0.8).double()
    ours, theirs = ([normal(seed + i, num, num_outputs).requires_grad_() for i in range(2)] for _ in range(2))
    teacher = [normal(seed + 2 + i, num, num_outputs).requires_grad_() for i in range(2)]
    centre = torch.zeros(num_outputs, dtype=torch.float64)
    for _ in range(2):
        value, twin = loss(tuple(ours), tuple(teacher)), direct_dino(theirs, teacher, centre, loss)
        assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-12)
        loss.update(tuple(teacher))
        centre = 0.8 * centre + 0.2 * sum(row.detach() for view in teacher for row in view) / (2 * num)
        torch.testing.assert_close(loss.centre, centre, rtol=1e-12, atol=1e-15)
    value.backward()
    twin_gradients = torch.autograd.grad(twin, theirs)
    for mine, expected in zip(ours, twin_gradients, strict=True):
        torch.testing.assert_close(mine.grad, expected, rtol=1e-8, atol=1e-10)
    assert teacher[0].grad is None


def test_centring_levels_and_sharpening_sharpens() -> None:
    outputs = torch.tensor([[3.0, 0.0, 0.0]]).repeat(4, 1)
    loss = DinoLoss(3, student_temperature=1.0, teacher_temperature=1.0, decay=0.0)
    loss.update((outputs, outputs))
    # The teacher's constant output is levelled: cross-entropy of the uniform distribution with an even student.
    even = torch.zeros(4, 3)
    assert loss((even, even), (outputs, outputs)).item() == pytest.approx(math.log(3), rel=1e-6)
    best = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    sharp = DinoLoss(3, student_temperature=1.0, teacher_temperature=0.5)
    expected = -sum(p * math.log(p) for p in (2 / 3, 1 / 6, 1 / 6))  # 0.5 : 0.25 : 0.25, squared, as 4 : 1 : 1
    student = torch.log(torch.tensor([[2 / 3, 1 / 6, 1 / 6]]))
    assert sharp((student, student), (best, best)).item() == pytest.approx(expected, rel=1e-6)


def test_gradcheck() -> None:
    first, second = normal(0, 3, 4).requires_grad_(), normal(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent_loss, (first, second))
    contrast, dino = MomentumContrastLoss(4, 8).double(), DinoLoss(4).double()
    contrast.update(normal(2, 5, 4))
    assert torch.autograd.gradcheck(lambda x: contrast(x, normal(1, 3, 4)), first)
    teacher = normal(3, 3, 4), normal(4, 3, 4)
    assert torch.autograd.gradcheck(lambda x, y: dino((x, y), teacher), (first, second))


def call_nt_xent(first: Tensor, second: Tensor) -> Tensor:
    return nt_xent_loss(first, second)


def call_contrast(first: Tensor, second: Tensor) -> Tensor:
    loss = MomentumContrastLoss(6, queue_size=8)
    loss.update(second)
    return loss(first, second)


def call_dino(first: Tensor, second: Tensor) -> Tensor:
    loss = DinoLoss(6)
    loss.update((second, first))
    return loss((first, second), (second, first))


@pytest.mark.parametrize("call", [call_nt_xent, call_contrast, call_dino])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "zero", "large"])
def test_gradient_is_finite_in_corners(
    call: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, corner: str
) -> None:
    drawn = torch.randn(4, 6)
    first, second = {
        "single": (drawn[:1], drawn[1:2]),
        "identical": (drawn, drawn.clone()),
        "constant": (torch.full((4, 6), 0.1), torch.full((4, 6), 0.1)),
        "zero": (torch.zeros(4, 6), torch.zeros(4, 6)),
        "large": (1e4 * drawn, 1e4 * drawn.flip(0)),
    }[corner]
    first = first.to(dtype).requires_grad_()
    value = call(first, second.to(dtype))
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert first.grad is not None
    assert first.grad.isfinite().all()


@pytest.mark.parametrize("call", [call_nt_xent, call_contrast, call_dino])
def test_autocast_changes_nothing(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    first, second = torch.randn(5, 6), torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = call(first, second)
    assert torch.equal(inside, call(first, second))


def test_heads() -> None:
    embeddings = torch.randn(5, 6)
    assert ProjectionHead(6, 7, 4)(embeddings).shape == (5, 4)
    head = DinoHead(6, num_outputs=9, hidden_dim=7, bottleneck_dim=3)
    outputs = head(embeddings)
    projected = head.layers(embeddings)
    for i in range(5):
        for k in range(9):
            assert outputs[i, k].item() == pytest.approx(cosine(projected[i], head.prototypes[k]).item(), abs=1e-6)
    outputs.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_bad_arguments() -> None:
    rows = torch.ones(3, 2)
    with pytest.raises(InputError, match=r"first has shape \(3, 2\) on cpu and second has shape \(2, 2\)"):
        nt_xent_loss(rows, torch.ones(2, 2))
    for build in (lambda: nt_xent_loss(rows, rows, -1.0), lambda: NtXentLoss(-1.0)):
        with pytest.raises(InputError, match=r"temperature is -1\.0; expected a positive, finite number"):
            build()
    for name in ("dim", "queue_size"):
        with pytest.raises(InputError, match=f"{name} of momentum contrast is 0; expected at least 1"):
            MomentumContrastLoss(**{"dim": 2, name: 0})
    with pytest.raises(InputError, match="temperature is nan"):
        MomentumContrastLoss(2, temperature=math.nan)
    contrast = MomentumContrastLoss(4, 5)
    for call in (lambda: contrast(rows, rows), lambda: contrast.update(rows)):
        with pytest.raises(InputError, match="keys have dim 2; the queue has 4"):
            call()
    with pytest.raises(InputError, match=r"queries has shape \(3, 2\) on cpu and keys has shape"):
        contrast(rows, torch.ones(2, 2))
    with pytest.raises(InputError, match=r"recordings have shape \(2,\) and hold torch.int64"):
        contrast(torch.ones(3, 4), torch.ones(3, 4), torch.arange(2))
    with pytest.raises(InputError, match="num_outputs of DINO is 0; expected at least 1"):
        DinoLoss(0)
    for name in ("student_temperature", "teacher_temperature"):
        with pytest.raises(InputError, match=f"{name} is 0; expected a positive, finite number"):
            DinoLoss(2, **{name: 0})
    with pytest.raises(InputError, match="decay of the centre is 1; expected 0 ≤ decay < 1"):
        DinoLoss(2, decay=1)
    dino = DinoLoss(3)
    with pytest.raises(InputError, match="student has 2 outputs; the centre has 3"):
        dino((rows, rows), (rows, rows))
    with pytest.raises(InputError, match="teacher has 2 outputs; the centre has 3"):
        dino.update((rows, rows))
    for name in ("dim", "hidden_dim", "output_dim"):
        with pytest.raises(InputError, match=f"{name} of the projection head is 0; expected at least 1"):
            ProjectionHead(**{"dim": 2, name: 0})
    for name in ("dim", "num_outputs", "hidden_dim", "bottleneck_dim"):
        with pytest.raises(InputError, match=f"{name} of the DINO head is 0; expected at least 1"):
            DinoHead(**{"dim": 2, name: 0})
