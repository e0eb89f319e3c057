"""Scores against a loop in float64, for blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.score import score_all_pairs, score_cosine

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def naive_cosine(
    enrol: np.ndarray, test: np.ndarray, enrol_rows: np.ndarray, test_rows: np.ndarray
) -> list[float]:
    scores = []
    for row, column in zip(enrol_rows, test_rows, strict=True):
        x, y = enrol[row].astype(np.float64), test[column].astype(np.float64)
        scores.append(float(x @ y / (x @ x) ** 0.5 / (y @ y) ** 0.5))
    return scores


def make_problem(
    num_enrol: int, num_test: int, num_trials: int, dim: int = 16, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    enrol = random.normal(size=(num_enrol, dim)).astype(np.float32)
    test = random.normal(size=(num_test, dim)).astype(np.float32)
    return enrol, test, random.integers(num_enrol, size=num_trials), random.integers(num_test, size=num_trials)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_trials", [0, 1, 40, 6000])
@pytest.mark.parametrize("block_size", [1, 7, 64, 1000])
def test_cosine_matches_a_loop_for_any_block(num_trials: int, block_size: int, device: str) -> None:
    """40 trials of 60 × 90 are gathered, 6,000 multiplied, and small blocks mix the two."""
    problem = make_problem(60, 90, num_trials)
    scores = score_cosine(*problem, block_size=block_size, device=device)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive_cosine(*problem), atol=3e-7)


@settings(max_examples=60, deadline=None)
@given(
    num_enrol=st.integers(1, 40),
    num_test=st.integers(1, 40),
    num_trials=st.integers(0, 80),
    block_size=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_cosine_keeps_the_order_of_trials(
    num_enrol: int, num_test: int, num_trials: int, block_size: int, seed: int
) -> None:
    enrol, test, enrol_rows, test_rows = make_problem(num_enrol, num_test, num_trials, dim=3, seed=seed)
    scores = score_cosine(enrol, test, enrol_rows, test_rows, block_size=block_size)
    np.testing.assert_allclose(scores, naive_cosine(enrol, test, enrol_rows, test_rows), atol=3e-7)
    dense = score_all_pairs(enrol, test, block_size=block_size)
    np.testing.assert_allclose(dense[enrol_rows, test_rows], scores, atol=3e-7)


def test_both_routes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost rule: with a gathered score free nothing is multiplied; by default a dense list is."""
    problem = make_problem(50, 50, 2000)
    products: list[tuple[int, ...]] = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda x, y: (products.append((len(x), y.shape[1])), matmul(x, y))[1]
    )
    dense = score_cosine(*problem, block_size=32)
    assert sorted(products) == [(18, 18), (18, 32), (32, 18), (32, 32)]
    products.clear()
    monkeypatch.setattr("spkadapt.score.blocks._GATHER_COST", 0)
    sparse = score_cosine(*problem, block_size=32)
    assert products == []
    np.testing.assert_allclose(sparse, dense, atol=3e-7)


def test_only_embeddings_that_a_trial_names_are_read() -> None:
    enrol, test, _, _ = make_problem(6, 6, 0)
    enrol[5], test[0] = np.nan, 0.0
    assert np.isfinite(score_cosine(enrol, test, np.array([0, 4]), np.array([1, 5]))).all()
    with pytest.raises(InputError, match="only zeros"):
        score_cosine(enrol, test, np.array([0]), np.array([0]))


def test_tensors_score_as_arrays_do() -> None:
    enrol, test, enrol_rows, test_rows = make_problem(9, 9, 30)
    expected = score_cosine(enrol, test, enrol_rows, test_rows)
    tensors = torch.from_numpy(enrol).requires_grad_(), torch.from_numpy(test)
    np.testing.assert_array_equal(
        score_cosine(*tensors, torch.from_numpy(enrol_rows), torch.from_numpy(test_rows)), expected
    )
    np.testing.assert_array_equal(score_all_pairs(*tensors), score_all_pairs(enrol, test))


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_all_pairs_matches_a_loop(block_size: int) -> None:
    enrol, test, _, _ = make_problem(7, 11, 0)
    pairs = np.divmod(np.arange(77), 11)
    expected = np.reshape(naive_cosine(enrol, test, *pairs), (7, 11))
    np.testing.assert_allclose(score_all_pairs(enrol, test, block_size=block_size), expected, atol=3e-7)


def test_scoring_refuses() -> None:
    enrol, test, rows, columns = make_problem(5, 5, 4)

    def refusal(*args: np.ndarray, **options: int) -> str:
        with pytest.raises(InputError) as caught:
            score_cosine(*args, **options)
        return str(caught.value)

    assert "of one dim, found shapes" in refusal(enrol, test[:, :3], rows, columns)
    assert "found 4 enrol_rows, 3 test_rows" in refusal(enrol, test, rows, columns[1:])
    assert "expected test_rows from 0 to 4, found 5 to 5" in refusal(enrol, test, np.array([0]), np.array([5]))
    assert "expected enrol_rows from 0 to 4, found -1 to -1" in refusal(enrol, test, np.array([-1]), np.array([0]))
    assert "enrol_rows to be integers" in refusal(enrol, test, rows.astype(float), columns)
    assert "block_size of at least 1, found 0" in refusal(enrol, test, rows, columns, block_size=0)
    with pytest.raises(InputError, match="of one dim"):
        score_all_pairs(enrol, test[:, :3])
