"""Domain separation and reconstruction: the terms by brute force, their corners, and what training does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.reconstruction import (
    DomainSeparationLoss,
    ReconstructionLoss,
    difference_loss,
    scale_invariant_mse,
)
from spkadapt.align.variational import normal_kl
from spkadapt.errors import InputError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Difference


@given(st.integers(0, 2**31), st.integers(2, 8), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_difference_equals_brute_force(seed: int, num_rows: int, dim: int) -> None:
    shared, private = normal(seed, num_rows, dim) + 1, normal(seed + 1, num_rows, dim)
    directions = []
    for rows in (shared, private):
        centred = [row - sum(rows) / num_rows for row in rows]
        directions.append([(row / math.sqrt((row @ row).item())).tolist() for row in centred])
    expected = 0.0
    for i in range(dim):
        for j in range(dim):
            expected += (sum(u[i] * v[j] for u, v in zip(*directions, strict=True)) / num_rows) ** 2
    loss = difference_loss(shared, private)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert 0 <= loss.item() <= 1 + 1e-12
    assert difference_loss(private, shared).item() == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert difference_loss(3 * shared + 7, private - 2).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert difference_loss(shared.repeat(2, 1), private.repeat(2, 1)).item() == pytest.approx(expected, abs=1e-9)


def test_difference_of_codes_without_and_with_one_direction_in_common() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    first, second = signs[:, :1], signs[:, 1:]
    assert difference_loss(first, second).item() == 0
    assert difference_loss(first, -first).item() == 1
    # On a plane: the shared code along x, the private along y, but for one that leans.
    flat = torch.zeros(4, 1)
    assert difference_loss(torch.cat([first, flat], 1), torch.cat([flat, second], 1)).item() == 0
    leaning = torch.cat([first, second], 1)
    assert difference_loss(torch.cat([first, flat], 1), leaning).item() == pytest.approx(0.5)


@pytest.mark.parametrize("num_rows", [2, 5])
def test_gradcheck(num_rows: int) -> None:
    inputs = normal(0, num_rows, 3).requires_grad_(), normal(1, num_rows, 3).requires_grad_()
    for function in (difference_loss, scale_invariant_mse):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


# Scale-invariant error


def test_scale_invariant_mse_equals_the_formula() -> None:
    outputs, inputs = normal(0, 4, 5), normal(1, 4, 5)
    expected = 0.0
    for row in (outputs - inputs).tolist():
        expected += (sum(e * e for e in row) / 5 - sum(row) ** 2 / 25) / 4
    assert scale_invariant_mse(outputs, inputs).item() == pytest.approx(expected, rel=1e-12)
    assert scale_invariant_mse(outputs + normal(2, 4, 1), inputs).item() == pytest.approx(expected, rel=1e-12)
    assert scale_invariant_mse(inputs + 3, inputs).item() == pytest.approx(0, abs=1e-15)
    assert scale_invariant_mse(outputs[:, :1], inputs[:, :1]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "zero", "large", "small"])
@pytest.mark.parametrize("function", [difference_loss, scale_invariant_mse])
def test_functions_are_finite_in_corners(function, corner: str, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    rows = corner_batch(corner).to(dtype).requires_grad_()
    others = rows.detach().flip(0).requires_grad_()
    loss = function(rows, others)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.isfinite()
    for batch in (rows, others):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        assert batch.grad.isfinite().all()
    if corner in ("single", "constant", "zero"):  # no two rows differ
        assert loss.item() == 0
        assert rows.grad is not None
        assert not rows.grad.any()


def corner_batch(corner: str) -> Tensor:
    return {
        "single": torch.randn(1, 6),
        "identical": torch.randn(4, 6),
        "constant": torch.full((7, 6), 0.1),
        "zero": torch.zeros(4, 6),
        "large": 1e4 * torch.randn(4, 6),
        "small": 1e-4 * torch.randn(4, 6),
    }[corner]


# The module


@pytest.mark.parametrize("kl_weight", [0.0, 0.7])
def test_domain_separation_is_the_sum_of_its_terms(kl_weight: float) -> None:
    loss = DomainSeparationLoss(5, 3, 7, difference_weight=0.3, kl_weight=kl_weight, noise=1.0).double().eval()
    source, target = normal(0, 6, 5), normal(1, 2, 5) + 1
    expected, codes = 0.0, []
    for rows, encoder in ((source, loss.private[0]), (target, loss.private[1])):
        shared, private = loss.shared(rows), encoder(rows)
        if kl_weight:
            expected += kl_weight / 5 * (normal_kl(*shared) + normal_kl(*private)).mean().item() / 2
            shared, private = shared[0], private[0]
        expected += scale_invariant_mse(loss.decoder(shared + private), rows).item() / 2
        expected += 0.3 * difference_loss(shared, private).item() / 2
        codes.append(shared)
    expected += loss.adversary(*codes).item()
    assert loss(source, target).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(loss.encode(source), codes[0])


def test_noise_and_draws_come_in_training_alone() -> None:
    source, target = normal(0, 6, 5), normal(1, 2, 5)
    for arguments, is_random in (({}, False), ({"noise": 0.5}, True), ({"kl_weight": 1.0}, True)):
        loss = DomainSeparationLoss(5, 3, 7, **arguments).double()  # type: ignore[arg-type]
        first, second = loss(source, target), loss(source, target)
        assert torch.equal(first, second) != is_random
        torch.manual_seed(1)
        first = loss(source, target)
        torch.manual_seed(1)
        assert torch.equal(first, loss(source, target))
        loss.eval()
        assert torch.equal(loss(source, target), loss(source, target))


def test_noise_is_relative_to_the_rows() -> None:
    loss = DomainSeparationLoss(50, noise=0.5)
    rows = torch.full((400, 50), 6.0)
    torch.manual_seed(0)
    errors = loss._noisy(rows) - rows
    assert errors.std().item() == pytest.approx(3, rel=0.03)
    assert errors.mean().item() == pytest.approx(0, abs=0.1)


def test_every_network_learns_and_only_its_own_domain() -> None:
    loss = DomainSeparationLoss(5, 3, 7)
    source, target = torch.randn(6, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    loss(source, target).backward()
    for tensor in (source, target, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.any()
    (from_source,) = torch.autograd.grad(loss(source, target), loss.private[0][2].bias)
    (again,) = torch.autograd.grad(loss(source, target.detach() + 100), loss.private[0][2].bias)
    torch.testing.assert_close(from_source, again)


def test_what_is_to_be_reconstructed_is_a_constant() -> None:
    loss = DomainSeparationLoss(5, 3, 7)
    for network in (loss.shared, *loss.private):
        torch.nn.init.zeros_(network[0].weight)
    source = torch.randn(4, 5, requires_grad=True)
    loss(source, torch.randn(2, 5)).backward()
    assert source.grad is not None
    assert not source.grad.any()


def train(scale: float) -> tuple[float, float]:
    """How often the classifier tells the domain by the shared code, and the relative error of reconstruction."""
    torch.manual_seed(0)
    source, target = torch.randn(150, 3), torch.randn(100, 3)
    source[:, 0], target[:, 0] = -1.5, 1.5
    loss = DomainSeparationLoss(3, 2, 16, scale=scale)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        loss(source, target).backward()
        optimizer.step()
    codes = loss.encode(source)
    error = scale_invariant_mse(loss.decoder(codes + loss.private[0](source)), source)
    accuracy = loss.adversary.accuracy(codes, loss.encode(target))
    return accuracy, (error / scale_invariant_mse(torch.zeros_like(source), source)).item()


def test_training_keeps_the_domain_out_of_the_shared_code() -> None:
    assert train(scale=0.0)[0] > 0.95
    accuracy, error = train(scale=1.0)
    assert accuracy < 0.75
    assert error < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "zero", "large", "small"])
@pytest.mark.parametrize("arguments", [{}, {"noise": 0.3, "kl_weight": 1.0}])
def test_gradient_is_finite_in_corners(arguments: dict[str, float], corner: str, dtype: torch.dtype) -> None:
    source = corner_batch(corner).to(dtype).requires_grad_()
    target = torch.cat([source.detach(), source.detach()]).requires_grad_()
    loss = DomainSeparationLoss(6, **arguments)  # type: ignore[arg-type]
    value = loss(source, target)
    value.backward()
    assert value.isfinite()
    for tensor in (source, target, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


# Decoding embeddings


def test_reconstruction_is_the_balanced_mean_squared_error() -> None:
    loss = ReconstructionLoss(3, 4, 6).double()
    source, source_inputs, target, target_inputs = (
        normal(0, 5, 3),
        normal(1, 5, 4),
        normal(2, 2, 3),
        normal(3, 2, 4),
    )
    expected = 0.0
    for rows, inputs in ((source, source_inputs), (target, target_inputs)):
        for row, given_input in zip(rows, inputs, strict=True):
            errors = (loss.decoder(row) - given_input).tolist()
            expected += sum(e * e for e in errors) / 4 / len(rows) / 2
    assert loss(source, source_inputs, target, target_inputs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_reconstruction_reaches_the_embeddings_alone(dtype: torch.dtype) -> None:
    rows = [torch.randn(n, d).to(dtype).requires_grad_() for n, d in ((1, 3), (1, 4), (5, 3), (5, 4))]
    value = ReconstructionLoss(3, 4)(*rows)
    value.backward()
    assert value.isfinite()
    for batch in rows[::2]:
        assert batch.grad is not None
        assert batch.grad.isfinite().all()
        assert batch.grad.any()
    assert rows[1].grad is None
    assert rows[3].grad is None


def test_autocast_changes_nothing() -> None:
    rows = [torch.randn(n, 6) for n in (4, 4, 3, 3)]
    separation, reconstruction = DomainSeparationLoss(6), ReconstructionLoss(6, 6)
    calls = [
        lambda: separation(rows[0], rows[2]),
        lambda: separation.encode(rows[0]),
        lambda: reconstruction(*rows),
        lambda: difference_loss(rows[0], rows[1]),
        lambda: scale_invariant_mse(rows[0], rows[1]),
    ]
    for call in calls:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = call()
        assert torch.equal(inside, call())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim of the domain separation is 0; expected at least 1"),
        ({"code_dim": 0}, "code_dim of the domain separation is 0; expected at least 1"),
        ({"hidden_dim": 0}, "hidden_dim of the domain separation is 0; expected at least 1"),
        ({"scale": -1.0}, r"scale of the reversed gradient is -1\.0; expected zero or more"),
        ({"noise": -1.0}, r"noise of the domain separation is -1\.0; expected zero or more, and finite"),
        ({"kl_weight": math.inf}, "kl_weight of the domain separation is inf; expected zero or more, and finite"),
        ({"difference_weight": math.nan}, "difference_weight of the domain separation is nan; expected zero or"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DomainSeparationLoss(**{"dim": 3, **arguments})  # type: ignore[arg-type]


def test_bad_batches() -> None:
    loss = DomainSeparationLoss(3)
    for call in (lambda x: loss(x, x), loss.encode):
        with pytest.raises(InputError, match="rows have dim 2; the domain separation has 3"):
            call(torch.ones(2, 2))
    with pytest.raises(InputError, match="source has dim 3 and target_domain has dim 2"):
        loss(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(InputError, match=r"shared has shape \(2, 3\) .* private has shape \(3, 3\)"):
        difference_loss(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(InputError, match=r"outputs has shape \(2, 3\) .* inputs has shape \(2, 4\)"):
        scale_invariant_mse(torch.ones(2, 3), torch.ones(2, 4))


def test_bad_reconstruction() -> None:
    for name in ("dim", "num_outputs", "hidden_dim"):
        with pytest.raises(InputError, match=f"{name} of the decoder is 0; expected at least 1"):
            ReconstructionLoss(**{"dim": 3, "num_outputs": 4, name: 0})
    loss, x, y = ReconstructionLoss(3, 4), torch.ones(2, 3), torch.ones(2, 4)
    with pytest.raises(InputError, match="embeddings have dim 4; the decoder has 3"):
        loss(y, y, y, y)
    with pytest.raises(InputError, match=r"source_inputs has shape \(2, 3\); expected \(2, 4\), a row of each"):
        loss(x, x, x, y)
    with pytest.raises(InputError, match=r"target_inputs has shape \(1, 4\); expected \(2, 4\), a row of each"):
        loss(x, y, x, y[:1])
    with pytest.raises(InputError, match=r"target_inputs holds torch\.int64; expected floating point"):
        loss(x, y, x, y.long())
