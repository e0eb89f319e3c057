"""What backends refuse."""

from __future__ import annotations

import numpy as np
import pytest

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions, require_repeated
from spkadapt.errors import InputError


def test_embeddings_come_back_in_float64() -> None:
    given = np.array([[1.5, 2]], dtype=np.float32)
    assert check_embeddings(given, 2).dtype == np.float64
    np.testing.assert_array_equal(check_embeddings(given), given)


def test_embeddings_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(num_embeddings, dim\), found int64 of shape \(1, 1\)"):
        check_embeddings(np.ones((1, 1), dtype=int))
    with pytest.raises(InputError, match=r"found float64 of shape \(3,\)"):
        check_embeddings(np.ones(3))
    with pytest.raises(InputError, match="embeddings of 3 dimensions as in fit, found 2"):
        check_embeddings(np.ones((1, 2)), 3)
    with pytest.raises(InputError, match="2 of 3 embeddings hold NaN or infinity, first row 1"):
        check_embeddings(np.array([[1.0], [np.nan], [-np.inf]]))


def test_unfitted_is_named() -> None:
    with pytest.raises(InputError, match="ndarray is not fitted yet: call fit first"):
        check_fitted(np.ones(1), "mean_")
    check_fitted(np.ones(1), "shape")


def test_sessions_are_counted() -> None:
    models, counts = count_sessions(np.array([1, 0, 1]), 3)
    assert (models.tolist(), counts.tolist()) == ([1, 0, 1], [1, 2])
    models, counts = count_sessions(None, 2)
    assert (models.tolist(), counts.tolist()) == ([0, 1], [1, 1])


@pytest.mark.parametrize("wrong", [np.array([0, 1]), np.array([0.0, 1, 1]), np.array([0, -1, 1])])
def test_model_numbers_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="a model number, from 0, for each of 3 embeddings, found "):
        count_sessions(wrong, 3)


def test_model_without_utterances_is_named() -> None:
    with pytest.raises(InputError, match="no utterance enrols model 1 of 3"):
        count_sessions(np.array([0, 2, 2]), 3)


def test_classes_refused() -> None:
    with pytest.raises(InputError, match="at least two classes, found 1"):
        require_repeated(np.array([4]))
    with pytest.raises(InputError, match="two or more embeddings, found 2 of one each"):
        require_repeated(np.array([1, 1]))
    require_repeated(np.array([1, 2]))
