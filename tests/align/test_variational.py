"""VDANN and InfoVDANN: closed forms, the papers' objectives term by term, and what training does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from spkadapt.align.mmd import mmd_loss
from spkadapt.align.variational import (
    GaussianEncoder,
    InfoVdannLoss,
    VdannLoss,
    normal_kl,
    normal_mmd_loss,
)
from spkadapt.errors import InputError

both = pytest.mark.parametrize("build", [VdannLoss, InfoVdannLoss])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# KL


def test_kl_equals_torchs() -> None:
    mean, deviation = normal(0, 5, 3), normal(1, 5, 3).exp()
    prior = Independent(Normal(torch.zeros(5, 3).double(), torch.ones(5, 3).double()), 1)
    expected = kl_divergence(Independent(Normal(mean, deviation), 1), prior)
    torch.testing.assert_close(normal_kl(mean, deviation), expected)


def test_kl_by_hand() -> None:
    assert normal_kl(torch.zeros(1, 4), torch.ones(1, 4)).item() == 0
    assert normal_kl(torch.tensor([[3.0]]), torch.tensor([[2.0]])).item() == pytest.approx(
        (9 + 4 - 1) / 2 - math.log(2)
    )


# MMD to the normal


@pytest.mark.parametrize("bandwidths", [[2.0], [0.7, 5.0], None])
def test_normal_mmd_equals_quadrature(bandwidths: list[float] | None) -> None:
    # One dimension: the two expectations by the trapezium rule, which is exact to rounding for a Gaussian.
    latents = normal(0, 6, 1) + 0.5
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi) * 0.02
    expected = 0.0
    gammas = bandwidths or [multiple * 2 for multiple in (0.25, 0.5, 1.0, 2.0, 4.0)]
    for gamma in gammas:
        own = torch.exp(-(latents - latents.T).square() / gamma).mean()
        across = (torch.exp(-(latents - grid).square() / gamma) @ density).mean()
        prior = density @ torch.exp(-(grid[:, None] - grid).square() / gamma) @ density
        expected += (own - 2 * across + prior).item() / len(gammas)
    assert normal_mmd_loss(latents, bandwidths).item() == pytest.approx(expected, rel=1e-9)


def test_normal_mmd_is_the_limit_of_mmd_with_drawn_rows() -> None:
    latents, gammas = normal(0, 40, 3) * 0.5 + 1, [2.0, 6.0]
    drawn = normal(1, 4000, 3)
    assert normal_mmd_loss(latents, gammas).item() == pytest.approx(
        mmd_loss(latents, drawn, gammas).item(), rel=0.02
    )


def test_normal_mmd_of_normal_rows_falls_with_their_number() -> None:
    # Of n rows of the prior itself the expectation is (1 − E k(y, y')) / n.
    dim, gamma = 4, 8.0
    expected = (1 - (gamma / (gamma + 4)) ** (dim / 2)) / 50
    values = [normal_mmd_loss(normal(seed, 50, dim), [gamma]).item() for seed in range(200)]
    assert sum(values) / 200 == pytest.approx(expected, rel=0.1)
    assert min(values) > 0
    assert normal_mmd_loss(normal(0, 50, dim) + 1, [gamma]) > 5 * max(values)
    assert normal_mmd_loss(torch.zeros(50, dim), [gamma]) > 5 * max(values)


@pytest.mark.parametrize("num_rows", [1, 5])
def test_normal_mmd_gradient(num_rows: int) -> None:
    latents = normal(0, num_rows, 3).requires_grad_()
    assert torch.autograd.gradcheck(normal_mmd_loss, [latents])
    with pytest.raises(RuntimeError, match="normal_mmd_loss has no second derivative"):
        torch.autograd.grad(normal_mmd_loss(latents), latents, create_graph=True)


# The encoder


def test_encoder_draws_from_its_gaussian_in_training_only() -> None:
    torch.manual_seed(0)
    encoder, rows = GaussianEncoder(3, 4, 2), torch.randn(1, 3)
    mean, deviation = encoder(rows)
    assert deviation.min() > 0
    drawn, divergences = encoder.draw(rows.expand(20_000, 3))
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), deviation[0], atol=0.03, rtol=0)
    torch.testing.assert_close(divergences[:1], normal_kl(mean, deviation))
    torch.testing.assert_close(encoder.eval().draw(rows)[0], mean)


# The objectives


def expected_terms(loss: VdannLoss, source: Tensor, target: Tensor) -> tuple[float, float, list[Tensor]]:
    """Squared errors and KL, each the mean of both domains' means, and the latents; outside training."""
    errors, divergences, latents = [], [], []
    for rows in (source, target):
        mean, deviation = loss.encoder(rows)
        errors.append(sum(((row - loss.decoder(z)) ** 2).sum().item() for row, z in zip(rows, mean, strict=True)))
        errors[-1] /= len(rows)
        divergences.append(normal_kl(mean, deviation).mean().item())
        latents.append(mean)
    return sum(errors) / 2, sum(divergences) / 2, latents


def test_vdann_is_the_sum_of_its_terms() -> None:
    loss = VdannLoss(5, 3, 7, elbo_weight=0.3, noise=2.0).double().eval()
    source, target = normal(0, 6, 5), normal(1, 2, 5) + 1
    error, divergence, latents = expected_terms(loss, source, target)
    expected = loss.adversary(*latents).item() + 0.3 / 5 * (error / (2 * 4) + divergence)
    assert loss(source, target).item() == pytest.approx(expected, rel=1e-12)


def test_infovdann_is_the_sum_of_its_terms() -> None:
    loss = InfoVdannLoss(5, 3, 7, elbo_weight=0.3, noise=2.0, information=0.8, prior_weight=4.0).double().eval()
    source, target = normal(0, 6, 5), normal(1, 2, 5) + 1
    error, divergence, latents = expected_terms(loss, source, target)
    discrepancy = sum(normal_mmd_loss(z).item() for z in latents) / 2
    elbo = error / (2 * 4) + 0.2 * divergence + 3.8 * discrepancy
    assert loss(source, target).item() == pytest.approx(
        loss.adversary(*latents).item() + 0.3 / 5 * elbo, rel=1e-12
    )


def test_infovdann_without_information_is_vdann() -> None:
    info = InfoVdannLoss(5, 3, 7, information=0.0, prior_weight=1.0).double()
    plain = VdannLoss(5, 3, 7).double()
    plain.load_state_dict(info.state_dict())
    values = []
    for loss in (info, plain):
        torch.manual_seed(3)
        values.append(loss(normal(0, 6, 5), normal(1, 2, 5)).item())
    assert values[0] == values[1]


def test_encoder_ascends_the_domain_loss_that_the_classifier_descends() -> None:
    loss = VdannLoss(5, 3, 7, scale=0.5, elbo_weight=1e-30).double().eval()
    source, target = normal(0, 6, 5).requires_grad_(), normal(1, 2, 5)
    parameter = loss.encoder.layers[0].weight
    ours = torch.autograd.grad(loss(source, target), [source, parameter])
    logits = loss.adversary.classifier(torch.cat([loss.encode(source), loss.encode(target)]))
    plain = (
        torch.nn.functional.softplus(logits[:6]).mean() / 2 + torch.nn.functional.softplus(-logits[6:]).mean() / 2
    )
    for gradient, twin in zip(ours, torch.autograd.grad(plain, [source, parameter]), strict=True):
        assert twin.abs().max() > 0
        torch.testing.assert_close(gradient, -0.5 * twin)


def test_what_is_to_be_reconstructed_is_a_constant() -> None:
    # Without the adversary, and with an encoder that sees nothing, embeddings receive no gradient.
    loss = VdannLoss(5, 3, 7, scale=0.0)
    torch.nn.init.zeros_(loss.encoder.layers[0].weight)
    source = torch.randn(4, 5, requires_grad=True)
    loss(source, torch.randn(2, 5)).backward()
    assert source.grad is not None
    assert not source.grad.any()
    assert all(p.grad is not None for p in loss.parameters())


def train(build: type[VdannLoss], **arguments: float) -> tuple[float, float]:
    """Distance of the domains' latents in standard deviations, and their correlation with what no domain tells.

    One coordinate is the domain, another of a smaller variance all else; the latent has room for one of them.
    """
    torch.manual_seed(0)
    source, target = torch.randn(150, 2), torch.randn(100, 2)
    source[:, 0], target[:, 0] = -1.2, 1.2
    loss = build(2, 1, 16, noise=0.5, elbo_weight=0.1, **arguments)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss(source, target).backward()
        optimizer.step()
    rows = torch.cat([source, target])
    codes = loss.encode(rows)[:, 0].detach()
    gap = (codes[:150].mean() - codes[150:].mean()).abs() / codes.std()
    return gap.item(), torch.corrcoef(torch.stack([codes, rows[:, 1]]))[0, 1].abs().item()


def test_the_adversary_makes_the_latents_drop_the_domain() -> None:
    gap, kept = train(VdannLoss, scale=0.0)
    assert gap > 1.7
    assert kept < 0.3
    gap, kept = train(VdannLoss, scale=1.0)
    assert gap < 1
    assert kept > 0.8


def test_infovdann_keeps_what_is_gaussian() -> None:
    gap, kept = train(InfoVdannLoss, prior_weight=20.0)
    assert gap < 0.1
    assert kept > 0.98


CORNERS = ["single", "identical", "constant", "zero", "large"]


def corner_batch(corner: str) -> Tensor:
    return {
        "single": torch.randn(1, 6),
        "identical": torch.randn(4, 6),
        "constant": torch.full((4, 6), 0.1),
        "zero": torch.zeros(4, 6),
        "large": 1e4 * torch.randn(4, 6),
    }[corner]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", CORNERS)
@both
def test_gradient_is_finite_in_corners(build: type[VdannLoss], corner: str, dtype: torch.dtype) -> None:
    source = corner_batch(corner).to(dtype).requires_grad_()
    target = torch.cat([source.detach(), source.detach()]).requires_grad_()
    loss = build(6)
    value = loss(source, target)
    value.backward()
    assert value.isfinite()
    for tensor in (source, target, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_collapsed_deviation_stays_finite() -> None:
    loss = VdannLoss(3, 2)
    torch.nn.init.constant_(loss.encoder.layers[2].bias, -1e4)
    source = torch.randn(4, 3, requires_grad=True)
    value = loss(source, torch.randn(2, 3))
    value.backward()
    assert value.isfinite()
    assert source.grad is not None
    assert source.grad.isfinite().all()


@both
def test_autocast_changes_nothing(build: type[VdannLoss]) -> None:
    loss, source, target = build(6).eval(), torch.randn(8, 6), torch.randn(9, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, codes = loss(source, target), loss.encode(source)
    assert torch.equal(inside, loss(source, target))
    assert torch.equal(codes, loss.encode(source))
    assert codes.shape == (8, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim of the variational domain adversary is 0; expected at least 1"),
        ({"latent_dim": 0}, "latent_dim of the variational domain adversary is 0; expected at least 1"),
        ({"hidden_dim": 0}, "hidden_dim of the variational domain adversary is 0; expected at least 1"),
        ({"scale": -1.0}, r"scale of the reversed gradient is -1\.0; expected zero or more"),
        ({"elbo_weight": 0.0}, r"elbo_weight is 0\.0; expected a positive, finite number"),
        ({"noise": math.inf}, "noise is inf; expected a positive, finite number"),
    ],
)
@both
def test_bad_arguments(build: type[VdannLoss], arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**{"dim": 3, **arguments})  # type: ignore[arg-type]


def test_bad_information() -> None:
    for information in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=f"information of InfoVDANN is {information}; expected 0 to 1"):
            InfoVdannLoss(3, information=information)
    for prior_weight in (0.4, math.inf, math.nan):
        with pytest.raises(
            InputError, match=rf"prior_weight of InfoVDANN is {prior_weight}; expected at least 0\.5"
        ):
            InfoVdannLoss(3, prior_weight=prior_weight)


def test_bad_batches() -> None:
    loss = VdannLoss(3)
    for call in (lambda x: loss(x, x), loss.encode):
        with pytest.raises(InputError, match="embeddings have dim 2; the variational domain adversary has 3"):
            call(torch.ones(2, 2))
    with pytest.raises(InputError, match="source has dim 3 and target_domain has dim 2"):
        loss(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(InputError, match=r"latents has shape \(3,\); expected two dimensions"):
        normal_mmd_loss(torch.ones(3))
    with pytest.raises(InputError, match=r"MMD bandwidths are \[-1\.0\]; expected one or more positive"):
        normal_mmd_loss(torch.ones(3, 2), [-1.0])
