"""FISTA against enumerated solutions, its own convergence bound, and scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode
from torch import Tensor

from spkadapt.pretrain.fista import CHECK_EVERY, fista, kkt_violation, largest_eigenvalue, shrink

both_signs = pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])


def problem(num_samples: int, num_visible: int, num_codes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A = DᵀD and b = Dᵀx of random samples and a coherent dictionary of unit atoms, in float64."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(num_codes, num_visible, generator=generator, dtype=torch.float64) + 0.5
    atoms /= atoms.norm(dim=1, keepdim=True)
    x = 2 * torch.randn(num_samples, num_visible, generator=generator, dtype=torch.float64)
    return atoms @ atoms.T, x @ atoms.T


def objective(matrix: Tensor, correlation: Tensor, codes: Tensor, penalty: float) -> Tensor:
    """F less its constant, (n,)."""
    return ((codes @ matrix) * codes).sum(1) / 2 - (correlation * codes).sum(1) + penalty * codes.abs().sum(1)


def enumerated_codes(matrix: Tensor, correlation: Tensor, penalty: float, nonnegative: bool) -> Tensor:
    """The minimum over all patterns of signs: on each, a linear system; kept where its signs are the pattern's."""
    num_codes = len(matrix)
    best, lowest = torch.zeros_like(correlation), torch.zeros(len(correlation), dtype=torch.float64)
    for pattern in itertools.product((0, 1) if nonnegative else (-1, 0, 1), repeat=num_codes):
        signs = torch.tensor(pattern, dtype=torch.float64)
        support = signs != 0
        if not 0 < support.sum() <= torch.linalg.matrix_rank(matrix):
            continue
        codes = torch.zeros_like(correlation)
        right = correlation[:, support] - penalty * signs[support]
        codes[:, support] = torch.linalg.solve(matrix[support][:, support], right.T).T
        consistent = (codes.sign() == signs).all(dim=1)
        value = torch.where(consistent, objective(matrix, correlation, codes, penalty), np.inf)
        best = torch.where((value < lowest)[:, None], codes, best)
        lowest = torch.minimum(value, lowest)
    return best


def solve(matrix: Tensor, correlation: Tensor, penalty: float, **options: Any) -> Tensor:
    lipschitz = torch.linalg.eigvalsh(matrix)[-1].item()
    return fista(lambda z: z @ matrix, correlation, penalty, lipschitz, **options)


@both_signs
@pytest.mark.parametrize("restart", [False, True])
def test_it_finds_the_enumerated_minimum(nonnegative: bool, restart: bool) -> None:
    matrix, correlation = problem(40, 4, 6)
    exact = enumerated_codes(matrix, correlation, 0.4, nonnegative)
    assert 0.1 < (exact == 0).double().mean() < 0.9
    found = solve(matrix, correlation, 0.4, nonnegative=nonnegative, num_iterations=3000, restart=restart)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)
    gap = objective(matrix, correlation, found, 0.4) - objective(matrix, correlation, exact, 0.4)
    assert gap.abs().max() < 1e-12


@both_signs
def test_it_meets_its_convergence_bound_at_every_step(nonnegative: bool) -> None:
    matrix, correlation = problem(40, 4, 6, seed=1)
    exact = enumerated_codes(matrix, correlation, 0.4, nonnegative)
    lowest = objective(matrix, correlation, exact, 0.4)
    scale = 2 * torch.linalg.eigvalsh(matrix)[-1] * exact.square().sum(dim=1)
    for steps in range(1, 60):
        found = solve(matrix, correlation, 0.4, nonnegative=nonnegative, num_iterations=steps, restart=False)
        gap = objective(matrix, correlation, found, 0.4) - lowest
        assert (gap <= scale / (steps + 1) ** 2 + 1e-12).all(), steps


def test_it_meets_the_bound_where_plain_gradient_steps_do_not() -> None:
    """Nesterov's chain, on which first-order methods are slowest. All its codes are active: z* is linear."""
    size, penalty = 200, 1e-5
    matrix = 2 * torch.eye(size, dtype=torch.float64)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    correlation = torch.zeros(1, size, dtype=torch.float64)
    correlation[0, 0] = 1
    exact = torch.linalg.solve(matrix, correlation[0] - penalty)[None]
    assert (exact > 0).all()
    lowest, lipschitz = objective(matrix, correlation, exact, penalty), torch.linalg.eigvalsh(matrix)[-1].item()
    plain = torch.zeros_like(exact)
    exceeded = 0
    for steps in range(1, 400):
        plain = torch.relu(plain - (plain @ matrix - correlation + penalty) / lipschitz)
        bound = 2 * lipschitz * exact.square().sum() / (steps + 1) ** 2
        exceeded += bool(objective(matrix, correlation, plain, penalty) - lowest > bound)
        if steps % 20 == 0:
            found = solve(matrix, correlation, penalty, nonnegative=True, num_iterations=steps, restart=False)
            assert objective(matrix, correlation, found, penalty) - lowest <= bound, steps
    assert exceeded > 100


@both_signs
def test_the_minimum_is_a_fixed_point_and_meets_the_conditions(nonnegative: bool) -> None:
    matrix, correlation = problem(40, 4, 6, seed=2)
    exact = enumerated_codes(matrix, correlation, 0.4, nonnegative)
    gradient = exact @ matrix - correlation
    assert kkt_violation(gradient, exact, 0.4, nonnegative=nonnegative).max() < 1e-12
    lipschitz = 1.3 * torch.linalg.eigvalsh(matrix)[-1].item()
    moved = shrink(exact - gradient / lipschitz, 0.4 / lipschitz, nonnegative=nonnegative)
    torch.testing.assert_close(moved, exact, rtol=0, atol=1e-13)
    away = torch.where(exact == 0, 0.1, exact + 0.1)
    assert (kkt_violation(away @ matrix - correlation, away, 0.4, nonnegative=nonnegative) > 1e-3).all()


def test_the_violation_is_what_its_docstring_says() -> None:
    codes = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    gradient = torch.tensor([[-0.75, 0.5, 0.25], [0.75, 0.5, -0.25]])
    assert kkt_violation(gradient, codes, 0.5, nonnegative=False).tolist() == [0.25, 0.25]
    assert kkt_violation(gradient, codes.abs(), 0.5, nonnegative=True).tolist() == [1.0, 0.0]
    assert kkt_violation(-gradient, torch.zeros(2, 3), 0.25, nonnegative=True).tolist() == [0.25, 0.5]


@both_signs
def test_shrinking_is_the_proximal_map(nonnegative: bool) -> None:
    grid = torch.linspace(0 if nonnegative else -3, 3, 6001, dtype=torch.float64)
    values = torch.tensor([-2.2, -0.7, -0.3, 0.0, 0.4, 0.701, 2.5], dtype=torch.float64)
    nearest = grid[((grid - values[:, None]).square() / 2 + 0.7 * grid.abs()).argmin(dim=1)]
    torch.testing.assert_close(shrink(values, 0.7, nonnegative=nonnegative), nearest, rtol=0, atol=6e-4)


def spectra() -> dict[str, Tensor]:
    crowded = torch.cat((torch.ones(1), torch.full((99,), 0.97)))
    return {
        "flat": torch.ones(50),
        "one": torch.cat((torch.ones(1), torch.zeros(49))),
        "crowded": crowded,
        "falling": 1 / torch.arange(1.0, 201.0),
        "linear": torch.linspace(0, 1, 500),
    }


@pytest.mark.parametrize("name", list(spectra()))
def test_the_power_method_bounds_the_largest_eigenvalue(name: str) -> None:
    values = spectra()[name].double()
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    for scale in (1e-6, 1.0, 1e6):
        found = largest_eigenvalue(scale * (basis * values) @ basis.T)
        assert scale <= found <= 1.0501 * scale


def test_a_matrix_of_zeros_has_no_norm() -> None:
    assert largest_eigenvalue(torch.zeros(4, 4)) == 0


def test_the_tolerance_ends_it_and_is_met() -> None:
    matrix, correlation = problem(30, 12, 20)
    calls = []

    def apply(codes: Tensor) -> Tensor:
        calls.append(1)
        return codes @ matrix

    lipschitz = torch.linalg.eigvalsh(matrix)[-1].item()
    found = fista(apply, correlation, 0.5, lipschitz, nonnegative=False, num_iterations=5000, tolerance=1e-6)
    assert kkt_violation(found @ matrix - correlation, found, 0.5, nonnegative=False).max() <= 1e-6
    assert len(calls) % CHECK_EVERY == 0
    assert 0 < len(calls) < 1000
    fewer = solve(matrix, correlation, 0.5, nonnegative=False, num_iterations=len(calls) - CHECK_EVERY)
    assert kkt_violation(fewer @ matrix - correlation, fewer, 0.5, nonnegative=False).max() > 1e-6


def test_restarts_end_the_ripples() -> None:
    matrix, correlation = problem(30, 12, 20)
    violations = []
    for restart in (True, False):
        found = solve(matrix, correlation, 0.5, nonnegative=False, num_iterations=300, restart=restart)
        violation = kkt_violation(found @ matrix - correlation, found, 0.5, nonnegative=False)
        violations.append(violation.max().item())
    assert violations[0] < 1e-3 * violations[1]


def test_every_sample_is_a_problem_of_its_own() -> None:
    matrix, correlation = problem(7, 12, 20)
    options = {"nonnegative": True, "num_iterations": 37}
    together = solve(matrix, correlation, 0.5, **options)
    alone = torch.cat([solve(matrix, row[None], 0.5, **options) for row in correlation])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_codes_have_any_shape() -> None:
    matrix, correlation = problem(7, 12, 24)
    options = {"nonnegative": True, "num_iterations": 37}
    lipschitz = torch.linalg.eigvalsh(matrix)[-1].item()

    def apply(maps: Tensor) -> Tensor:
        return (maps.flatten(1) @ matrix).view_as(maps)

    maps = fista(apply, correlation.view(7, 2, 3, 4), 0.5, lipschitz, **options)
    assert torch.equal(maps.flatten(1), solve(matrix, correlation, 0.5, **options))


@both_signs
@pytest.mark.parametrize("algorithm", ["lasso_cd", "lasso_lars"])
def test_parity_with_scikit_learn(nonnegative: bool, algorithm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(30, 15, generator=generator, dtype=torch.float64), dim=1)
    x = torch.randn(40, 15, generator=generator, dtype=torch.float64)
    theirs = sparse_encode(
        x.numpy(), atoms.numpy(), algorithm=algorithm, alpha=0.6, positive=nonnegative, max_iter=100_000
    )
    ours = solve(atoms @ atoms.T, x @ atoms.T, 0.6, nonnegative=nonnegative, num_iterations=2000, tolerance=1e-10)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)
