"""Quality measures, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spkadapt.backend.calibration import embedding_magnitudes, log_durations, pair_quality
from spkadapt.errors import InputError


def test_measures_by_hand() -> None:
    np.testing.assert_allclose(log_durations([1, np.e, 60]), [0, 1, np.log(60)])
    found = embedding_magnitudes(np.array([[3, 4], [0, 0]], dtype=np.float32))
    assert (found.tolist(), found.dtype) == ([5, 0], np.float64)
    np.testing.assert_array_equal(pair_quality([1, 5, 2], [3, 4, 2]), [[1, 3], [4, 5], [2, 2]])
    np.testing.assert_array_equal(pair_quality([1, 5, 2], [3, 4, 2]), pair_quality([3, 4, 2], [1, 5, 2]))


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_refuses_durations(bad: float) -> None:
    with pytest.raises(InputError, match=f"expected durations above 0, found {float(bad)} s for recording 1"):
        log_durations([1, bad])


def test_refuses_sides_that_do_not_pair() -> None:
    with pytest.raises(InputError, match=r"for each side of each trial, found \(1,\) and \(2,\)"):
        pair_quality([1], [1, 2])
    with pytest.raises(InputError, match=r"embeddings to be floats of shape"):
        embedding_magnitudes(np.ones(3))
