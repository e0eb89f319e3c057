"""ADDA's two losses against their definitions, and a target encoder that learns to be taken for the source's."""

from __future__ import annotations

import math

import pytest
import torch

from spkadapt.align import DomainClassifier
from spkadapt.align.two_encoders import adda_discriminator_loss, adda_mapper_loss
from spkadapt.errors import InputError


def log_probability(logit: float) -> float:
    return -math.log1p(math.exp(-logit))


def test_losses_are_the_papers() -> None:
    source, target = [0.3, -2.0, 1.0], [0.5, 4.0]
    expected = -sum(log_probability(-x) for x in source) / 6 - sum(log_probability(x) for x in target) / 4
    loss = adda_discriminator_loss(torch.tensor(source), torch.tensor(target))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    inverted = -sum(log_probability(-x) for x in target) / 2
    assert adda_mapper_loss(torch.tensor(target)).item() == pytest.approx(inverted, rel=1e-6)


def test_nothing_known_is_log_two() -> None:
    assert adda_discriminator_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))
    assert adda_mapper_loss(torch.zeros(5)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_push_the_right_way_and_do_not_vanish(dtype: torch.dtype) -> None:
    source = torch.tensor([0.0, 300.0, -300.0], dtype=dtype, requires_grad=True)
    target = torch.tensor([0.0, 300.0], dtype=dtype, requires_grad=True)
    in_source, in_target = torch.autograd.grad(adda_discriminator_loss(source, target), (source, target))
    assert in_source.tolist() == pytest.approx([1 / 12, 1 / 6, 0], rel=1e-2)
    assert in_target.tolist() == pytest.approx([-1 / 8, 0], rel=1e-2)
    # Where the discriminator is sure, the mapper's gradient is largest.
    (in_mapped,) = torch.autograd.grad(adda_mapper_loss(target), target)
    assert in_mapped.tolist() == pytest.approx([1 / 4, 1 / 2], rel=1e-2)
    assert in_mapped.dtype == dtype
    assert adda_mapper_loss(target).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_mapper_learns_to_be_taken_for_the_source() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(256, 2), torch.randn(200, 2) + torch.tensor([2.0, 0.0])
    discriminator, bias = DomainClassifier(2, 16), torch.zeros(2, requires_grad=True)
    of_discriminator = torch.optim.SGD(discriminator.parameters(), 0.1)
    of_mapper = torch.optim.SGD([bias], 0.1)
    for _ in range(300):
        of_discriminator.zero_grad()
        adda_discriminator_loss(discriminator(source), discriminator((target + bias).detach())).backward()
        of_discriminator.step()
        of_mapper.zero_grad()
        adda_mapper_loss(discriminator(target + bias)).backward()
        of_mapper.step()
    assert abs(bias[0].item() + 2) < 1
    assert abs(bias[1].item()) < 1


@pytest.mark.parametrize("bad", [torch.ones(2, 1), torch.ones(0), torch.ones(3).long()])
def test_bad_logits(bad: torch.Tensor) -> None:
    with pytest.raises(
        InputError, match=r"source_logits has shape .* and holds .*; expected \(batch,\), at least one"
    ):
        adda_discriminator_loss(bad, torch.ones(2))
    for call in (lambda: adda_discriminator_loss(torch.ones(2), bad), lambda: adda_mapper_loss(bad)):
        with pytest.raises(InputError, match=r"target_logits has shape .* and holds .*; expected \(batch,\)"):
            call()
