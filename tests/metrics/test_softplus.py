"""Sums of softplus against fifty decimal digits, and the same bit for bit in any order."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.metrics import compute_cllr, softplus
from spkadapt.metrics.softplus import UNITS_PER_NAT, sum_softplus, sum_softplus_compiled


def exact_softplus(x: float) -> Decimal:
    with localcontext() as context:
        context.prec = 50
        return (1 + Decimal(x).exp()).ln()


def error(x: float) -> float:
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(sum_softplus(np.array([x]))) / UNITS_PER_NAT - exact_softplus(x))


def test_each_term_is_within_what_is_promised() -> None:
    random = np.random.default_rng(0)
    # Halfway between steps of the table the series is at its worst, and is worst of all where p·(1 - p) is.
    halves = (np.arange(-40, 40) + 0.5) / 1024
    everywhere = np.concatenate([random.normal(size=200) * 8, random.uniform(-64, 64, 100), halves])
    ends = [0.0, -0.0, 5e-324, -1e-40, 62.9999, -62.9999, 63.0, -63.0, 63.9999, 64.0, 700.0, -700.0]
    assert max(abs(error(float(x))) for x in [*everywhere, *ends]) < 4e-16


def test_large_terms_are_exact() -> None:
    large = np.array([3.4e38, 64.25, 1e20, -3.4e38, 1000], np.float32)
    assert sum_softplus(large) == sum(int(x * 4) for x in large.tolist() if x > 0) * UNITS_PER_NAT // 4
    assert sum_softplus(np.array([1.7e308, 1.7e308])) == 2 * int(1.7e308) * UNITS_PER_NAT
    assert sum_softplus_compiled(large) == sum_softplus(large)
    assert sum_softplus(np.append(large, np.float32(0.5))) == sum_softplus(large) + sum_softplus(np.array([0.5]))


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(-70, 70, width=32), min_size=1, max_size=60),
    length=st.integers(1, 17),
    seed=st.integers(0, 9),
)
def test_neither_order_nor_blocks_nor_precision_nor_compiler_matter(
    scores: list[float], length: int, seed: int
) -> None:
    array = np.array(scores, np.float32)
    total = sum_softplus(array)
    shuffled = np.random.default_rng(seed).permutation(array)
    for sum_up in (sum_softplus, sum_softplus_compiled):
        assert sum(sum_up(shuffled[i : i + length]) for i in range(0, len(array), length)) == total
        assert sum_up(np.repeat(array, 2)[::2].reshape(1, -1)) == total
    assert sum_softplus(array.astype(np.float64)) == total
    assert sum_softplus(torch.from_numpy(shuffled)) == total


def test_compiled_terms_are_those_of_operations_for_floats_of_every_size() -> None:
    """A product and a sum that were rounded as one, or in another order, would show in one of these terms."""
    random = np.random.default_rng(0)
    anything = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    anything = anything[np.isfinite(anything)]
    border = np.nextafter(np.float32(63), np.array([0, 99], np.float32))
    ends = np.array([0, -0.0, 1e-45, -1e-45, 63, -63, *border, *-border, 3.4e38, -3.4e38], np.float32)
    near = np.concatenate([random.normal(size=300_000) * scale for scale in (0.1, 3, 30)]).astype(np.float32)
    for scores in (anything, ends, near, near[:1], near[:0]):
        scores.flags.writeable = False
        assert sum_softplus_compiled(scores) == sum_softplus(scores)
    askew = np.frombuffer(b"-" + near.tobytes(), np.float32, offset=1)
    assert sum_softplus_compiled(askew) == sum_softplus(near)
    for x in [*ends, *near[:300]]:
        assert sum_softplus_compiled(np.array([x])) == sum_softplus(torch.tensor([x]))


@pytest.mark.parametrize("x", [62.99, 20 + 1 / 2049, 20 - 1 / 2049, -62.99])
@pytest.mark.parametrize("chunk", [softplus._CPU_CHUNK, softplus._DEVICE_CHUNK])
def test_full_chunks_do_not_overflow(x: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms of the table at their largest, and the series at its largest of either sign, in each chunk."""
    monkeypatch.setattr(softplus, "_CPU_CHUNK", chunk)
    assert sum_softplus(np.full(chunk + 3, x)) == (chunk + 3) * sum_softplus(np.array([x]))
    single = np.full(chunk + 3, x, np.float32)
    assert sum_softplus_compiled(single) == (chunk + 3) * sum_softplus(single[:1])


def test_cllr_is_what_the_formula_in_doubles_says() -> None:
    random = np.random.default_rng(0)
    llrs, is_target = random.normal(size=100_000) * 6, random.random(100_000) < 0.1
    expected = np.logaddexp(0, -llrs[is_target]).mean() + np.logaddexp(0, llrs[~is_target]).mean()
    assert compute_cllr(llrs, is_target) == pytest.approx(expected / (2 * np.log(2)), rel=1e-14)
    order = random.permutation(len(llrs))
    assert compute_cllr(llrs[order], is_target[order]) == compute_cllr(llrs, is_target)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(broken: float) -> None:
    scores = np.array([0, broken, 1, 70], np.float32)
    for refuse in (
        lambda: sum_softplus(scores),
        lambda: sum_softplus(scores.astype(np.float64)),
        lambda: sum_softplus(torch.from_numpy(scores)),
        lambda: sum_softplus_compiled(scores),
    ):
        with pytest.raises(InputError, match=f"expected finite scores, found {broken}"):
            refuse()


def test_nothing_sums_to_nothing() -> None:
    nothing = np.empty(0, np.float32)
    assert sum_softplus(nothing) == sum_softplus(torch.from_numpy(nothing)) == sum_softplus_compiled(nothing) == 0
