"""Speaker heads against their definitions and SpeechBrain's losses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from torch import Tensor
from torch.nn import functional as F

from spkadapt.errors import InputError
from spkadapt.heads import HEADS, AamHead, SoftmaxHead, SpeakerHead


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planar_head(margin: float, scale: float = 30.0) -> AamHead:
    """Two speakers in the plane, at angles 0 and π/2."""
    head = AamHead(2, 2, margin, scale).double()
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    return head


def at_angles(degrees: Tensor) -> Tensor:
    return torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)


def own_logit(head: AamHead, embedding: Tensor) -> float:
    """Speaker 0's logit with margin, from the loss: L = log(1 + exp(z_1 − z_0))."""
    loss = head(embedding[None], torch.tensor([0]))
    return (head.logits(embedding[None])[0, 1] - torch.log(torch.expm1(loss))).item()


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.sampled_from([1.0, 30.0]))
@settings(max_examples=30, deadline=None)
def test_aam_equals_speechbrain(seed: int, margin: float, scale: float) -> None:
    head = AamHead(8, 5, margin, scale)
    embeddings = normal(seed, 16, 8).float()
    embeddings[:2] = -head.weight.detach()[:2]  # beyond π − margin
    embeddings.requires_grad_()
    speakers = torch.cat([torch.arange(2), torch.randint(5, (14,))])
    twin = embeddings.detach().clone().requires_grad_()
    cosines = F.linear(F.normalize(twin), F.normalize(head.weight))
    peer = LogSoftmaxWrapper(AdditiveAngularMargin(margin, scale))(cosines[:, None], speakers[:, None])
    loss = head(embeddings, speakers)
    torch.testing.assert_close(loss, peer, rtol=1e-5, atol=1e-6)
    loss.backward()
    peer.backward()
    torch.testing.assert_close(embeddings.grad, twin.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("degrees", [10.0, 60.0, 120.0, 165.0])
def test_aam_adds_the_margin_to_the_own_angle(degrees: float) -> None:
    # In float64 from the angles themselves: own logit at θ + m, the other speaker's at |90° − θ|.
    margin = 0.2
    theta = math.radians(degrees)
    own, other = 3 * math.cos(theta + margin), 3 * math.cos(math.pi / 2 - theta)
    head = planar_head(margin, scale=3.0)
    loss = head(7 * at_angles(torch.tensor([degrees], dtype=torch.float64)), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(other - own)), rel=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_own_logit_falls_all_the_way_to_the_opposite_side(margin: float) -> None:
    head = planar_head(margin, scale=2.0)
    logits = [own_logit(head, row) for row in at_angles(torch.linspace(0.5, 179.5, 360, dtype=torch.float64))]
    assert all(later < earlier for earlier, later in pairwise(logits))


def test_own_logit_beyond_the_turning_point() -> None:
    margin = 0.5
    (embedding,) = at_angles(torch.tensor([175.0], dtype=torch.float64))
    expected = 2 * (math.cos(math.radians(175)) - margin * math.sin(margin))
    assert own_logit(planar_head(margin, scale=2.0), embedding) == pytest.approx(expected, rel=1e-9)


def test_margin_zero_is_softmax_of_cosines() -> None:
    head = AamHead(4, 3, margin=0.0).double()
    embeddings, speakers = normal(0, 6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = F.cross_entropy(30 * F.cosine_similarity(embeddings[:, None], head.weight[None], dim=2), speakers)
    assert head(embeddings, speakers).item() == pytest.approx(expected.item(), rel=1e-9)


def test_softmax_is_the_definition() -> None:
    head = SoftmaxHead(4, 3).double()
    torch.nn.init.normal_(head.bias)
    embeddings, speakers = normal(0, 6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    odds = (embeddings @ head.weight.T + head.bias).exp()
    expected = -(odds[torch.arange(6), speakers] / odds.sum(dim=1)).log().mean()
    assert head(embeddings, speakers).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_gradcheck(name: str) -> None:
    head = HEADS[name](3, 4).double()
    speakers = torch.tensor([0, 3, 1, 2, 2])
    weight = head.weight.detach().clone().requires_grad_()

    def loss(embeddings: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (embeddings, speakers))

    assert torch.autograd.gradcheck(loss, (normal(0, 5, 3).requires_grad_(), weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_is_finite_at_cosine_one(sign: int, dtype: torch.dtype) -> None:
    head = AamHead(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    embeddings = torch.tensor([[sign, 0.0], [0.0, sign]], dtype=dtype, requires_grad=True)
    loss = head(embeddings, torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    for gradient in (embeddings.grad, head.weight.grad):
        assert gradient is not None
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_logits_are_what_accuracy_counts(name: str) -> None:
    head = HEADS[name](4, 3)
    embeddings = torch.randn(50, 4)
    logits = head.logits(embeddings)
    assert logits.shape == (50, 3)
    speakers = logits.argmax(dim=1)
    speakers[:10] = (speakers[:10] + 1) % 3
    assert head.accuracy(embeddings, speakers) == pytest.approx(0.8)


def test_aam_logits_are_scaled_cosines_without_margin() -> None:
    head = planar_head(margin=0.5, scale=4.0)
    logits = head.logits(5 * at_angles(torch.tensor([60.0], dtype=torch.float64)))
    torch.testing.assert_close(logits, torch.tensor([[2.0, 2 * math.sqrt(3)]], dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_training_separates_speakers(name: str) -> None:
    speakers = torch.arange(4).repeat(16)
    embeddings = 3 * torch.eye(4)[speakers] @ torch.randn(4, 6) + 0.1 * torch.randn(64, 6)
    head = HEADS[name](6, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    before = head(embeddings, speakers).item()
    for _ in range(50):
        optimizer.zero_grad()
        head(embeddings, speakers).backward()
        optimizer.step()
    assert head(embeddings, speakers).item() < before / 5
    assert head.accuracy(embeddings, speakers) == 1.0


def test_autocast_keeps_angular_precision() -> None:
    head, embeddings, speakers = AamHead(6, 3), torch.randn(8, 6), torch.randint(3, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(embeddings, speakers)
    assert torch.equal(inside, head(embeddings, speakers))


def test_softmax_under_autocast_gives_its_loss_in_full_precision() -> None:
    head, embeddings, speakers = SoftmaxHead(6, 3), torch.randn(8, 6), torch.randint(3, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(embeddings, speakers)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(head(embeddings, speakers).item(), rel=0.02)


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize(
    ("embeddings", "speakers", "message"),
    [
        (torch.ones(4), torch.zeros(4).long(), r"embeddings have shape \(4,\); expected \(batch, 4\)"),
        (torch.ones(2, 3), torch.zeros(2).long(), r"embeddings have shape \(2, 3\); expected \(batch, 4\)"),
        (torch.ones(0, 4), torch.zeros(0).long(), r"embeddings have shape \(0, 4\); expected \(batch, 4\)"),
        (
            torch.ones(2, 4),
            torch.zeros(3).long(),
            r"speakers have shape \(3,\) and hold torch.int64; expected \(2,\)",
        ),
        (
            torch.ones(2, 4),
            torch.zeros(2),
            r"speakers have shape \(2,\) and hold torch.float32; expected \(2,\) of torch.int64",
        ),
        (torch.ones(2, 4), torch.tensor([0, 3]), "speakers run from 0 to 3; expected numbers from 0 to 2"),
        (torch.ones(2, 4), torch.tensor([-1, 2]), "speakers run from -1 to 2; expected numbers from 0 to 2"),
    ],
)
def test_bad_batches(name: str, embeddings: Tensor, speakers: Tensor, message: str) -> None:
    head: SpeakerHead = HEADS[name](4, 3)
    for call in (head, head.accuracy):
        with pytest.raises(InputError, match=message):
            call(embeddings, speakers)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="dim of the speaker head is 0; expected at least 1"):
        SoftmaxHead(0, 3)
    with pytest.raises(InputError, match="num_speakers of the speaker head is 0; expected at least 1"):
        AamHead(3, 0)
    for margin in (-0.1, math.pi / 2, math.nan):
        with pytest.raises(InputError, match=f"margin is {margin} radians; expected 0 ≤ margin < π/2"):
            AamHead(3, 3, margin=margin)
    for scale in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match=f"scale is {scale}; expected a positive, finite number"):
            AamHead(3, 3, scale=scale)
