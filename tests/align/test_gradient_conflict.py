"""Gradients of terms compared, against vectors written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spkadapt.align.gradient_conflict import gradient_conflict
from spkadapt.errors import InputError


def test_gradients_by_hand() -> None:
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)
    frozen = torch.ones(2)
    terms = {
        "first": 3 * x[0] + 4 * y,  # (3, 0 | 4)
        "second": -(x.square().sum()) / 2,  # (−1, −2 | none)
        "opposed": -2 * (3 * x[0] + 4 * y),
        "constant": torch.tensor(7.0),
        "unrelated": (torch.ones(1, requires_grad=True) * 2).sum(),
    }
    found = gradient_conflict(terms, [x, y, frozen])
    assert found.norms == pytest.approx(
        {"first": 5, "second": math.sqrt(5), "opposed": 10, "constant": 0, "unrelated": 0}
    )
    assert list(found.cosines)[:2] == [("first", "second"), ("first", "opposed")]
    assert len(found.cosines) == 10
    assert found.cosines["first", "second"] == pytest.approx(-3 / (5 * math.sqrt(5)))
    assert found.cosines["first", "opposed"] == pytest.approx(-1)
    assert found.cosines["second", "opposed"] == pytest.approx(3 / (5 * math.sqrt(5)))
    assert found.cosines["first", "constant"] == found.cosines["constant", "unrelated"] == 0
    assert x.grad is None


def test_against_flat_gradients_and_the_objective_still_trains() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    outputs = model(torch.randn(6, 4))
    terms = {"a": outputs.square().mean(), "b": outputs.exp().sum()}
    learning = [p for p in model.parameters() if p.requires_grad]
    a, b = (
        torch.cat([g.flatten().double() for g in torch.autograd.grad(term, learning, retain_graph=True)])
        for term in terms.values()
    )
    found = gradient_conflict(terms, model.parameters())
    assert found.norms == pytest.approx({"a": a.norm().item(), "b": b.norm().item()}, rel=1e-12)
    assert found.cosines["a", "b"] == pytest.approx((a @ b / a.norm() / b.norm()).item(), rel=1e-12)
    (terms["a"] + terms["b"]).backward()
    assert model[0].weight.grad is not None


def test_nothing_that_learns() -> None:
    found = gradient_conflict(
        {"a": torch.tensor(1.0), "b": torch.ones(1, requires_grad=True).sum()}, [torch.ones(2)]
    )
    assert found.norms == {"a": 0, "b": 0}
    assert found.cosines == {("a", "b"): 0}


def test_bad_terms() -> None:
    with pytest.raises(InputError, match="a gradient conflict is between terms; found 1, expected two or more"):
        gradient_conflict({"speaker": torch.tensor(1.0)}, [])
    with pytest.raises(InputError, match=r'the term "mmd" has shape \(2,\); expected a scalar'):
        gradient_conflict({"speaker": torch.tensor(1.0), "mmd": torch.ones(2)}, [])
