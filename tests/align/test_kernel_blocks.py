"""Weighted sums over pairs: weights of any kind, products over layers, memory, and gradients without waste."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spkadapt.align import kernel_blocks
from spkadapt.align.first_order import attach_gradient
from spkadapt.align.kernel_blocks import gaussian_mixture, kernel_sum, polynomial, two_sample_weights


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("block_rows", [1, 3, 1024])
@pytest.mark.parametrize("own_pairs", [False, True])
def test_any_weights_and_any_mix_of_layers(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, own_pairs: bool
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    factors = normal(2, 9, 3)
    layers, twins = ([normal(0, 9, 4).requires_grad_(), normal(1, 9, 2).requires_grad_()] for _ in range(2))
    kernels = [gaussian_mixture(torch.tensor([2.0, 5.0]).double()), polynomial(3, 0.5, 1.0)]
    loss = kernel_sum("a", layers, kernels, 5, lambda i, j: factors[i] @ factors[j].T, own_pairs)

    distances = (twins[0][:, None] - twins[0]).square().sum(dim=2)
    gaussian = ((-distances / 2).exp() + (-distances / 5).exp()) / 2
    pairs = factors @ factors.T * gaussian * (0.5 * twins[1] @ twins[1].T + 1) ** 3
    twin = pairs.sum() if own_pairs else (pairs - pairs.diag().diag()).sum()
    assert loss.item() == pytest.approx(twin.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, layers), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_two_sample_weights_sum_to_the_means(unbiased: bool) -> None:
    weights = two_sample_weights(3, 5, unbiased)
    source, target_domain = slice(0, 3), slice(3, 8)
    assert weights(source, source) == pytest.approx(1 / 6 if unbiased else 1 / 9)
    assert weights(slice(4, 5), target_domain) == pytest.approx(1 / 20 if unbiased else 1 / 25)
    assert weights(source, target_domain) == weights(target_domain, source) == pytest.approx(-1 / 15)


def test_blocks_of_rows_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", 16)
    seen: list[tuple[int, ...]] = []
    plain = kernel_blocks.squared_distances

    def watched(left: Tensor, right: Tensor) -> Tensor:
        seen.append((len(left), len(right)))
        return plain(left, right)

    monkeypatch.setattr(kernel_blocks, "squared_distances", watched)
    kernel_sum("a", [normal(0, 90, 2)], [gaussian_mixture(torch.ones(1))], 40, two_sample_weights(40, 50))
    # Blocks of 16, 16, 8 and 16, 16, 16, 2 rows: each of the 28 pairs of the seven once.
    assert len(seen) == 28
    assert max(map(max, seen)) == 16


def test_attached_gradient() -> None:
    x = normal(0, 3).requires_grad_()
    value = torch.tensor(2.0).double()
    (gradient,) = torch.autograd.grad(5 * attach_gradient("a", value, [x], [torch.ones(3).double()]), x)
    assert torch.equal(gradient, torch.full((3,), 5.0).double())
    with torch.no_grad():
        assert attach_gradient("a", value, [x], []) is value
    with pytest.raises(RuntimeError, match="the loss has no second derivative; call without create_graph"):
        torch.autograd.grad(
            attach_gradient("the loss", value, [x], [torch.ones(3).double()]), x, create_graph=True
        )
