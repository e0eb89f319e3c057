"""Losses of same-recording pairs against loops straight from their definitions, and in every corner."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.recordings import (
    AngularPrototypicalLoss,
    RecordingPrototypes,
    SameRecordingContrastiveLoss,
    angular_prototypical_loss,
    nearest_recordings,
    same_recording_contrastive_loss,
)
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
LOSSES = [same_recording_contrastive_loss, angular_prototypical_loss]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(seed: int, high: int, num: int) -> Tensor:
    return torch.randint(high, (num,), generator=torch.Generator().manual_seed(seed))


def random_pairs(seed: int, num: int) -> Tensor:
    upper = torch.rand(num, num, generator=torch.Generator().manual_seed(seed)).triu(1) > 0.6
    return upper | upper.T


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / (x.square().sum().sqrt() * y.square().sum().sqrt())


def direct_contrastive(
    embeddings: Tensor, recordings: Tensor, temperature: float, similar: Tensor | None = None
) -> Tensor:
    """Khosla et al.'s equation 2, row by row."""
    losses = []
    for i, own in enumerate(recordings.tolist()):
        others = [a for a in range(len(embeddings)) if a != i]
        positives = [p for p in others if recordings[p] == own]
        if not positives:
            continue
        kept = [a for a in others if similar is None or not similar[own, recordings[a]]]
        scores = {a: (cosine(embeddings[i], embeddings[a]) / temperature).exp() for a in others}
        total = sum(scores[a] for a in kept)
        losses.append(-sum((scores[p] / total).log() for p in positives) / len(positives))
    return sum(losses) / len(losses) if losses else torch.zeros(())


def direct_prototypical(
    embeddings: Tensor, recordings: Tensor, scale: float, similar: Tensor | None = None
) -> Tensor:
    rows_of: dict[int, list[Tensor]] = {}
    for row, number in zip(embeddings, recordings.tolist(), strict=True):
        rows_of.setdefault(number, []).append(row)
    rows_of = {number: rows for number, rows in rows_of.items() if len(rows) > 1}
    prototypes = {number: sum(rows[1:]) / (len(rows) - 1) for number, rows in rows_of.items()}
    losses = []
    for j, rows in rows_of.items():
        scores = {
            k: (scale * cosine(rows[0], prototype)).exp()
            for k, prototype in prototypes.items()
            if similar is None or not similar[j, k]
        }
        losses.append(-(scores[j] / sum(scores.values())).log())
    return sum(losses) / len(losses) if losses else torch.zeros(())


DIRECT: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    same_recording_contrastive_loss: direct_contrastive,
    angular_prototypical_loss: direct_prototypical,
}


@pytest.mark.parametrize("loss", LOSSES)
@given(seeds, st.integers(1, 14), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.floats(0.1, 8))
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_equal_the_definition(
    loss: Callable[..., Tensor],
    seed: int,
    num_rows: int,
    num_recordings: int,
    dim: int,
    leaves_out: bool,
    parameter: float,
) -> None:
    ours, theirs = (normal(seed, num_rows, dim).requires_grad_() for _ in range(2))
    recordings = integers(seed, num_recordings, num_rows)
    similar = random_pairs(seed, num_recordings) if leaves_out else None
    value, twin = loss(ours, recordings, parameter, similar), DIRECT[loss](theirs, recordings, parameter, similar)
    assert value.item() == pytest.approx(twin.item(), rel=1e-9, abs=1e-12)
    value.backward()
    if twin.requires_grad:
        twin.backward()
    torch.testing.assert_close(
        ours.grad, torch.zeros_like(ours) if theirs.grad is None else theirs.grad, rtol=1e-8, atol=1e-10
    )


def test_contrastive_in_closed_form() -> None:
    # Two recordings, each twice the same direction, at right angles: the sum has one e^{1/τ} and two e⁰.
    embeddings, recordings = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert same_recording_contrastive_loss(embeddings, recordings, 0.5).item() == pytest.approx(expected, rel=1e-6)
    # Left out, the other recording is gone from the sum, and nothing is left to tell apart.
    assert same_recording_contrastive_loss(embeddings, recordings, 0.5, ~torch.eye(2).bool()).item() == 0


def test_prototypical_in_closed_form() -> None:
    embeddings, recordings = torch.eye(3).repeat(2, 1), torch.tensor([7, 2, 5, 7, 2, 5])
    expected = math.log(math.exp(4) + 2) - 4
    assert angular_prototypical_loss(embeddings, recordings, 4.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(seeds)
@settings(max_examples=20, deadline=None)
def test_invariances(loss: Callable[..., Tensor], seed: int) -> None:
    embeddings, recordings = normal(seed, 12, 4), integers(seed, 4, 12)
    value = loss(embeddings, recordings).item()
    lengths = 1 + integers(seed + 1, 5, 12)[:, None]
    renamed = torch.tensor([9, 3, 11, 0])[recordings]
    assert loss(7 * embeddings, recordings).item() == pytest.approx(value, rel=1e-9)
    assert loss(embeddings, renamed).item() == pytest.approx(value, rel=1e-9)
    if loss is same_recording_contrastive_loss:  # prototypes are means of embeddings, and know the first
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        assert loss(lengths * embeddings, recordings).item() == pytest.approx(value, rel=1e-9)
        assert loss(embeddings[order], recordings[order]).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("loss", [*LOSSES, "prototypes"])
def test_a_recording_is_never_left_out_of_its_own(loss: Callable[..., Tensor] | str) -> None:
    embeddings, recordings = normal(0, 12, 4), torch.arange(12) % 4
    if loss == "prototypes":
        loss = RecordingPrototypes(4, 4)
        loss.update(embeddings, recordings)
    similar = random_pairs(0, 4)
    assert similar.any()
    with_itself = similar | torch.eye(4, dtype=torch.bool)
    assert torch.equal(
        loss(embeddings, recordings, similar=with_itself), loss(embeddings, recordings, similar=similar)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_descending_it_gathers_recordings(loss: Callable[..., Tensor]) -> None:
    embeddings, recordings = normal(0, 20, 6).requires_grad_(), torch.arange(5).repeat(4)
    for step in range(200):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(step))
        (gradient,) = torch.autograd.grad(loss(embeddings[order], recordings[order]), embeddings)
        embeddings = (embeddings - gradient).detach().requires_grad_()
    directions = torch.nn.functional.normalize(embeddings.detach())
    cosines, same = directions @ directions.T, recordings[:, None] == recordings
    assert cosines[same].min() > cosines[~same].max()  # which no random start comes near


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_recordings", [1, 3])
def test_gradcheck(loss: Callable[..., Tensor], num_recordings: int) -> None:
    recordings = torch.arange(7) % num_recordings
    assert torch.autograd.gradcheck(lambda x: loss(x, recordings), normal(0, 7, 3).requires_grad_())


@pytest.mark.parametrize("loss", [*LOSSES, AngularPrototypicalLoss(), "prototypes"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "alone", "one recording", "constant", "zero", "duplicates", "large"])
def test_gradient_is_finite_in_corners(loss: Callable[..., Tensor] | str, dtype: torch.dtype, corner: str) -> None:
    embeddings, recordings = {
        "single": (torch.randn(1, 6), torch.tensor([3])),
        "alone": (torch.randn(3, 6), torch.tensor([0, 1, 2])),
        "one recording": (torch.randn(3, 6), torch.tensor([1, 1, 1])),
        "constant": (torch.full((4, 6), 0.1), torch.tensor([0, 0, 1, 1])),
        "zero": (torch.zeros(4, 6), torch.tensor([0, 0, 1, 1])),
        "duplicates": (torch.randn(2, 6).repeat(3, 1), torch.tensor([0, 1, 0, 1, 1, 0])),
        "large": (1e4 * torch.randn(4, 6), torch.tensor([0, 0, 1, 1])),
    }[corner]
    embeddings = embeddings.to(dtype).requires_grad_()
    if loss == "prototypes":
        loss = RecordingPrototypes(6, 4)
        loss.update(embeddings, recordings)
    everything_else = ~torch.eye(4, dtype=torch.bool)
    for similar in (None, everything_else):
        value = loss(embeddings, recordings, similar=similar)
        (gradient,) = torch.autograd.grad(value, embeddings)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite()
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()
        if corner in ("single", "alone") and not isinstance(loss, RecordingPrototypes):
            assert value.item() == 0
            assert not gradient.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: Callable[..., Tensor]) -> None:
    embeddings, recordings = torch.randn(8, 6), torch.arange(8) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embeddings, recordings)
    assert torch.equal(inside, loss(embeddings, recordings))


def test_modules_are_the_functions() -> None:
    embeddings, recordings, similar = torch.randn(8, 6), torch.arange(8) % 3, random_pairs(3, 3)
    module = SameRecordingContrastiveLoss(0.3)
    expected = same_recording_contrastive_loss(embeddings, recordings, 0.3, similar)
    assert torch.equal(module(embeddings, recordings, similar), expected)
    prototypical = AngularPrototypicalLoss(4.0)
    expected = angular_prototypical_loss(embeddings, recordings, 4.0, similar)
    torch.testing.assert_close(prototypical(embeddings, recordings, similar), expected)
    prototypical(embeddings, recordings).backward()
    assert prototypical.log_scale.grad is not None
    assert prototypical.log_scale.grad != 0


def test_prototypes_against_their_definition() -> None:
    module = RecordingPrototypes(3, 5, temperature=0.2, decay=0.75).double()
    batches = [(normal(i, 6, 3), integers(i, 4, 6)) for i in range(3)]
    twin: dict[int, Tensor] = {}
    for embeddings, recordings in batches:
        module.update(embeddings, recordings)
        for number in recordings.unique().tolist():
            rows = embeddings[recordings == number]
            mean = (rows / rows.square().sum(dim=1, keepdim=True).sqrt()).mean(dim=0)
            twin[number] = 0.75 * twin[number] + 0.25 * mean if number in twin else mean
    assert module.is_known.tolist() == [number in twin for number in range(5)]
    for number, mean in twin.items():
        torch.testing.assert_close(module.means[number], mean, rtol=1e-12, atol=1e-15)

    embeddings, recordings = normal(9, 7, 3), torch.tensor([0, 1, 2, 3, 4, 0, 1])  # 4 was never seen
    similar = torch.zeros(5, 5, dtype=torch.bool)
    similar[0, 1] = similar[1, 0] = True
    for mask in (None, similar):
        losses = []
        for row, own in zip(embeddings, recordings.tolist(), strict=True):
            scores = {k: (cosine(row, twin[k]) / 0.2).exp() for k in twin if mask is None or not mask[own, k]}
            if own in twin:
                losses.append(-(scores[own] / sum(scores.values())).log())
        expected = sum(losses) / len(losses)
        assert module(embeddings, recordings, mask).item() == pytest.approx(expected.item(), rel=1e-12)


def test_prototypes_learn_by_updates_alone_and_are_kept() -> None:
    module = RecordingPrototypes(4, 3)
    embeddings, recordings = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 1, 0, 2])
    nothing = module(embeddings, recordings)
    nothing.backward()
    assert nothing.item() == 0
    assert not embeddings.grad.any()
    module.update(embeddings, recordings)
    assert not list(module.parameters())
    assert not module.means.requires_grad
    again = RecordingPrototypes(4, 3)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(embeddings, recordings), module(embeddings, recordings))


@given(seeds, st.integers(2, 8), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_nearest_recordings(seed: int, num: int, num_nearest: int) -> None:
    num_nearest = min(num_nearest, num - 1)
    prototypes = normal(seed, num, 3)
    prototypes[0] = 0
    expected = torch.zeros(num, num, dtype=torch.bool)
    for j in range(1, num):
        others = [k for k in range(1, num) if k != j]
        others.sort(key=lambda k: -cosine(prototypes[j], prototypes[k]).item())
        for k in others[:num_nearest]:
            expected[j, k] = expected[k, j] = True
    assert torch.equal(nearest_recordings(prototypes, num_nearest), expected)


def test_prototypes_know_their_nearest() -> None:
    module = RecordingPrototypes(2, 4)
    module.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 1, 2]))
    pairs = {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert {tuple(pair) for pair in module.similar(1).nonzero().tolist()} == pairs


@pytest.mark.parametrize("loss", [*LOSSES, RecordingPrototypes(2, 3)])
def test_bad_batches(loss: Callable[..., Tensor]) -> None:
    rows, good = torch.ones(3, 2), torch.tensor([0, 1, 0])
    if isinstance(loss, RecordingPrototypes):
        loss.update(rows, good)
    with pytest.raises(InputError, match=r"embeddings has shape \(3,\); expected two dimensions"):
        loss(torch.ones(3), good)
    message = r"recordings have shape \(2,\) and hold torch.int64; expected \(3,\) of torch.int64"
    with pytest.raises(InputError, match=message):
        loss(rows, good[:2])
    with pytest.raises(InputError, match=r"hold torch.float32; expected"):
        loss(rows, good.float())
    with pytest.raises(InputError, match="recordings run from -1 to 1; expected numbers from 0"):
        loss(rows, torch.tensor([0, 1, -1]))
    message = r"similar has shape \(3, 2\) and holds torch.bool; expected \(num_recordings, num_recordings\) of"
    with pytest.raises(InputError, match=message):
        loss(rows, good, similar=torch.ones(3, 2).bool())
    with pytest.raises(InputError, match=r"and holds torch.float32; expected"):
        loss(rows, good, similar=torch.ones(3, 3))
    with pytest.raises(InputError, match="similar knows 1 recordings; the batch has number "):
        loss(rows, torch.tensor([2, 2, 0]), similar=torch.zeros(1, 1).bool())


def test_bad_arguments() -> None:
    rows, recordings = torch.ones(3, 2), torch.tensor([0, 1, 0])
    for build in (
        lambda: same_recording_contrastive_loss(rows, recordings, 0.0),
        lambda: SameRecordingContrastiveLoss(0),
    ):
        with pytest.raises(InputError, match=r"temperature is 0.*; expected a positive, finite number"):
            build()
    for build in (
        lambda: angular_prototypical_loss(rows, recordings, -1.0),
        lambda: AngularPrototypicalLoss(-1.0),
    ):
        with pytest.raises(InputError, match=r"scale is -1\.0; expected a positive, finite number"):
            build()
    with pytest.raises(InputError, match="dim of the recording prototypes is 0; expected at least 1"):
        RecordingPrototypes(0, 4)
    with pytest.raises(InputError, match="num_recordings of the recording prototypes is 0; expected at least 1"):
        RecordingPrototypes(4, 0)
    with pytest.raises(InputError, match="temperature is nan"):
        RecordingPrototypes(4, 4, temperature=math.nan)
    for decay in (-0.1, 1.0, math.nan):
        with pytest.raises(
            InputError, match=f"decay of the recording prototypes is {decay}; expected 0 ≤ decay < 1"
        ):
            RecordingPrototypes(4, 4, decay=decay)
    module = RecordingPrototypes(2, 2)
    with pytest.raises(InputError, match="recordings run from 0 to 2; expected numbers from 0 to 1"):
        module.update(rows, torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="embeddings have dim 3; the prototypes have 2"):
        module(torch.ones(3, 3), recordings)
    for num_nearest in (-1, 3):
        with pytest.raises(InputError, match=f"num_nearest is {num_nearest} of 3 recordings; expected 0 or more"):
            nearest_recordings(rows, num_nearest)
