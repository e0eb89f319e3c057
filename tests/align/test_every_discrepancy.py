"""What every loss of two batches promises: finite gradients in every corner, one precision, module = function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from spkadapt.align.adversarial import DomainAdversarialLoss
from spkadapt.align.class_covariance import (
    BetweenCovarianceLoss,
    WithinCovarianceLoss,
    between_covariance_loss,
    within_covariance_loss,
)
from spkadapt.align.conditional import JointMmdLoss, LmmdLoss, joint_mmd_loss, lmmd_loss
from spkadapt.align.coral import CoralLoss, LogCoralLoss, coral_loss, log_coral_loss
from spkadapt.align.energy import EnergyDistanceLoss, energy_distance_loss
from spkadapt.align.mmd import (
    LinearMmdLoss,
    MmdLoss,
    PolynomialMmdLoss,
    linear_mmd_loss,
    mmd_loss,
    polynomial_mmd_loss,
)
from spkadapt.align.moments import CmdLoss, HommLoss, MeanLoss, cmd_loss, homm_loss, mean_loss
from spkadapt.align.random_features import RandomFeatureMmdLoss, draw_frequencies, random_feature_mmd_loss
from spkadapt.align.spectral import BatchSpectralPenalty, batch_spectral_penalty
from spkadapt.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]
DIM = 6


@dataclass(frozen=True)
class Case:
    """A loss and its module with an argument that is not the default, as functions of the two batches alone."""

    function: Loss
    module: Loss
    default: Loss
    module_default: Loss
    least_rows: int = 1
    is_discrepancy: bool = True  # zero between equal batches
    first_order: bool = True


def classes(batch: Tensor) -> Tensor:
    return torch.arange(len(batch)) % 2


def probabilities(batch: Tensor) -> Tensor:
    """Nearly one-hot, so that equal batches have the classes of `classes` alike."""
    return torch.eye(3)[classes(batch)]


def with_classes(loss: Callable[..., Tensor]) -> Loss:
    return lambda source, target: loss(source, classes(source), target, classes(target))


def with_probabilities(loss: Callable[..., Tensor]) -> Loss:
    return lambda source, target: loss(source, target, classes(source), probabilities(target))


def with_layers(loss: Callable[..., Tensor]) -> Loss:
    return lambda source, target: loss([source, source[:, :2].tanh()], [target, target[:, :2].tanh()])


def random_feature(**arguments: object) -> Loss:
    return lambda source, target: random_feature_mmd_loss(
        source,
        target,
        draw_frequencies(source.shape[1], 20, 3),
        **arguments,  # type: ignore[arg-type]
    )


CASES = {
    "coral": Case(coral_loss, CoralLoss(), coral_loss, CoralLoss(), first_order=False),
    "mmd": Case(lambda s, t: mmd_loss(s, t, [2.0]), MmdLoss([2.0]), mmd_loss, MmdLoss()),
    "unbiased_mmd": Case(
        lambda s, t: mmd_loss(s, t, [2.0], unbiased=True),
        MmdLoss([2.0], unbiased=True),
        lambda s, t: mmd_loss(s, t, unbiased=True),
        MmdLoss(unbiased=True),
        least_rows=2,
        is_discrepancy=False,
    ),
    "log_coral": Case(lambda s, t: log_coral_loss(s, t, 0.1), LogCoralLoss(0.1), log_coral_loss, LogCoralLoss()),
    "mean": Case(mean_loss, MeanLoss(), mean_loss, MeanLoss(), first_order=False),
    "cmd": Case(
        lambda s, t: cmd_loss(s, t, 3, (0.0, 1.0)), CmdLoss(3, (0.0, 1.0)), cmd_loss, CmdLoss(), first_order=False
    ),
    "homm": Case(lambda s, t: homm_loss(s, t, 4), HommLoss(4), homm_loss, HommLoss()),
    "polynomial_mmd": Case(
        lambda s, t: polynomial_mmd_loss(s, t, 2, 0.3, 0.7),
        PolynomialMmdLoss(2, 0.3, 0.7),
        polynomial_mmd_loss,
        PolynomialMmdLoss(),
    ),
    "unbiased_polynomial_mmd": Case(
        lambda s, t: polynomial_mmd_loss(s, t, unbiased=True),
        PolynomialMmdLoss(unbiased=True),
        lambda s, t: polynomial_mmd_loss(s, t, unbiased=True),
        PolynomialMmdLoss(unbiased=True),
        least_rows=2,
        is_discrepancy=False,
    ),
    "linear_mmd": Case(
        lambda s, t: linear_mmd_loss(s, t, [2.0]),
        LinearMmdLoss([2.0]),
        linear_mmd_loss,
        LinearMmdLoss(),
        least_rows=2,
        is_discrepancy=False,
        first_order=False,
    ),
    "energy_distance": Case(
        energy_distance_loss, EnergyDistanceLoss(), energy_distance_loss, EnergyDistanceLoss()
    ),
    "random_feature_mmd": Case(
        random_feature(bandwidths=[2.0]),
        RandomFeatureMmdLoss(DIM, 20, [2.0], seed=3),
        random_feature(),
        RandomFeatureMmdLoss(DIM, 20, seed=3),
    ),
    "lmmd": Case(
        with_probabilities(lambda *a: lmmd_loss(*a, bandwidths=[2.0])),
        with_probabilities(LmmdLoss([2.0])),
        with_probabilities(lmmd_loss),
        with_probabilities(LmmdLoss()),
    ),
    "joint_mmd": Case(
        with_layers(lambda *a: joint_mmd_loss(*a, bandwidths=[[2.0], None])),
        with_layers(JointMmdLoss([[2.0], None])),
        with_layers(joint_mmd_loss),
        with_layers(JointMmdLoss()),
    ),
    "batch_spectral_penalty": Case(
        lambda s, t: batch_spectral_penalty(s, t, 2),
        BatchSpectralPenalty(2),
        batch_spectral_penalty,
        BatchSpectralPenalty(),
        is_discrepancy=False,
    ),
    "within_covariance": Case(
        with_classes(within_covariance_loss),
        with_classes(WithinCovarianceLoss()),
        with_classes(within_covariance_loss),
        with_classes(WithinCovarianceLoss()),
        first_order=False,
    ),
    "between_covariance": Case(
        with_classes(between_covariance_loss),
        with_classes(BetweenCovarianceLoss()),
        with_classes(between_covariance_loss),
        with_classes(BetweenCovarianceLoss()),
        first_order=False,
    ),
}
ONE_FORM = {
    "coral",
    "mean",
    "energy_distance",
    "unbiased_polynomial_mmd",
    "within_covariance",
    "between_covariance",
}
every_loss = pytest.mark.parametrize("name", CASES)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def corner_batches(corner: str) -> tuple[Tensor, Tensor]:
    rows = drawn(0, 6, DIM)
    return {
        "single": (rows[:1], rows[1:2]),
        "single source": (rows[:1], rows[1:]),
        "single target": (rows[1:], rows[:1]),
        "identical": (rows, rows.clone()),
        "constant": (torch.full((3, DIM), 0.1), torch.full((5, DIM), 0.1)),
        "two constants": (torch.full((3, DIM), 0.1), torch.full((5, DIM), 0.7)),
        "zero": (torch.zeros(3, DIM), torch.zeros(4, DIM)),
        "one constant": (torch.full((3, DIM), 0.1), rows),
        "constant feature": (rows * torch.eye(DIM)[0], rows[:4] * torch.eye(DIM)[0]),
        "duplicates": (rows[:2].repeat(3, 1), rows[:2].repeat(2, 1)),
        "small": (1e-3 * rows, 2e-3 * rows[:4]),
        "large": (200 * rows, 200 * rows.flip(0) + 300),
    }[corner]


CORNERS = [
    "single", "single source", "single target", "identical", "constant", "two constants", "zero", "one constant",
    "constant feature", "duplicates", "small", "large",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", CORNERS)
@every_loss
def test_gradient_is_finite_in_corners(name: str, corner: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    batches = [batch.to(dtype).requires_grad_() for batch in corner_batches(corner)]
    if min(map(len, batches)) < case.least_rows:
        with pytest.raises(InputError, match=r"rows; expected at least two of each"):
            case.default(*batches)
        return
    loss = case.default(*batches)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.isfinite()
    for batch in batches:
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        # A large gradient may itself exceed what half precision can hold.
        assert batch.grad.isfinite().all() or (corner == "large" and dtype == torch.float16)
    if corner in ("identical", "constant", "zero") and case.is_discrepancy:
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert max(batch.grad.abs().max().item() for batch in batches if batch.grad is not None) < 1e-3


@every_loss
def test_both_domains_receive_a_gradient_from_unequal_batches(name: str) -> None:
    batches = drawn(0, 9, DIM).requires_grad_(), (1 + 2 * drawn(1, 6, DIM)).requires_grad_()
    CASES[name].default(*batches).backward()
    for batch in batches:
        assert batch.grad is not None
        assert batch.grad.abs().max() > 1e-5


@every_loss
def test_gradient_of_one_domain_alone(name: str) -> None:
    source, target_domain = drawn(0, 9, DIM).requires_grad_(), 1 + 2 * drawn(1, 6, DIM)
    (alone,) = torch.autograd.grad(CASES[name].default(source, target_domain), source)
    both = torch.autograd.grad(
        CASES[name].default(source, target_domain.requires_grad_()), (source, target_domain)
    )
    assert torch.equal(alone, both[0])
    with torch.no_grad():
        assert not CASES[name].default(source, target_domain).requires_grad


@every_loss
def test_gradcheck_of_the_batches(name: str) -> None:
    # The loss with fixed bandwidths: those of the median are constants to the gradient alone.
    inputs = drawn(0, 6, 4).double().requires_grad_(), (1 + 2 * drawn(1, 5, 4)).double().requires_grad_()
    fixed = CASES[name].function
    if name == "joint_mmd":
        fixed = with_layers(lambda *a: joint_mmd_loss(*a, bandwidths=[[2.0], [3.0, 1.0]]))
    assert torch.autograd.gradcheck(fixed, inputs)


@every_loss
def test_second_derivative_is_right_or_refused(name: str) -> None:
    inputs = drawn(0, 6, 4).double().requires_grad_(), (1 + 2 * drawn(1, 5, 4)).double().requires_grad_()
    if CASES[name].first_order:
        loss = CASES[name].function(*inputs)
        with pytest.raises(RuntimeError, match=r"has no second derivative; call without create_graph"):
            torch.autograd.grad(loss, inputs, create_graph=True)
    else:
        assert torch.autograd.gradgradcheck(CASES[name].function, inputs)


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    source, target_domain = drawn(0, 8, DIM).requires_grad_(), drawn(1, 9, DIM)
    outside = CASES[name].default(source, target_domain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = CASES[name].default(source, target_domain)
    assert torch.equal(inside, outside)
    assert torch.equal(torch.autograd.grad(inside, source)[0], torch.autograd.grad(outside, source)[0])


@every_loss
def test_module_is_the_function(name: str) -> None:
    case, batches = CASES[name], (drawn(0, 8, DIM), 1 + drawn(1, 9, DIM))
    assert torch.equal(case.module(*batches), case.function(*batches))
    assert torch.equal(case.module_default(*batches), case.default(*batches))
    if name not in ONE_FORM:
        assert not torch.equal(case.module(*batches), case.module_default(*batches))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_loss
def test_a_diverged_batch_shows(name: str, value: float) -> None:
    source = drawn(0, 4, DIM)
    source[1, 1] = value
    assert not CASES[name].default(source.requires_grad_(), drawn(1, 5, DIM)).isfinite()


@pytest.mark.parametrize(
    ("source", "target_domain", "message"),
    [
        (torch.ones(3), torch.ones(3, 2), r"source has shape \(3,\); expected two dimensions, \(batch, dim\)"),
        (torch.ones(3, 2), torch.ones(1, 3, 2), r"target_domain has shape \(1, 3, 2\); expected two dimensions"),
        (
            torch.ones(0, 2),
            torch.ones(3, 2),
            r"source has shape \(0, 2\); expected at least one row and one column",
        ),
        (
            torch.ones(3, 0),
            torch.ones(3, 0),
            r"source has shape \(3, 0\); expected at least one row and one column",
        ),
        (torch.ones(3, 2).long(), torch.ones(3, 2), r"source holds torch.int64; expected floating point"),
        (
            torch.ones(3, 2),
            torch.ones(3, 4),
            "source has dim 2 and target_domain has dim 4; expected the same dim",
        ),
        (
            torch.ones(3, 2),
            torch.ones(3, 2, device="meta"),
            "source is on cpu and target_domain on meta; expected one",
        ),
    ],
)
@pytest.mark.parametrize("name", [*CASES, "dann"])
def test_bad_batches(name: str, source: Tensor, target_domain: Tensor, message: str) -> None:
    of_two_columns: dict[str, Loss] = {
        "dann": DomainAdversarialLoss(2),
        "random_feature_mmd": RandomFeatureMmdLoss(2),
        "joint_mmd": lambda s, t: joint_mmd_loss([s], [t]),
    }
    loss = of_two_columns.get(name) or CASES[name].default
    with pytest.raises(InputError, match=message):
        loss(source, target_domain)


def test_no_module_has_weights_but_the_frequencies() -> None:
    modules = [LogCoralLoss(), CmdLoss(), HommLoss(), EnergyDistanceLoss(), LmmdLoss(), JointMmdLoss()]
    assert not any(list(module.state_dict()) for module in modules if isinstance(module, nn.Module))
    random_features = RandomFeatureMmdLoss(DIM)
    assert not list(random_features.parameters())
    assert list(random_features.state_dict()) == ["frequencies"]
