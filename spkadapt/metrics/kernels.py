"""Compiled loops over float32 scores: one pass each, no arrays in between, and no lock on the interpreter.

Import this where a long pass begins, not at the top of a module: Numba takes a second to load and compile, and
some 140 MB. What it compiles is not kept on disk: Numba unpickles what it finds there, and names new code in its
index before it writes it, so that a process killed in between leaves the old code under the new name.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int64, njit, types, uint32

from spkadapt.metrics.softplus import REACH, STEPS

# Scores at a time, which stay near the core, and of whose sums below 2⁴⁴ each 64 bits hold the total.
CHUNK = 2048
_LOW = (1 << 32) - 1
_SIGNLESS = np.int32(0x7FFFFFFF)
_REACH_BITS = int(np.float32(REACH).view(np.int32))
_TO_STEP = np.float32(1.5 * 2**23 / STEPS)  # makes a float32 a multiple of a step


def _read_only(dtype: types.Type) -> types.Array:
    """Of which those that can be written are a kind, but not the other way round."""
    return types.Array(dtype, 1, "C", readonly=True)


# All sums and products are rounded one by one, as long as no `fastmath` lets the compiler contract them.
@njit(types.UniTuple(int64, 3)(*map(_read_only, (float32, int64, float64))), nogil=True)
def sum_terms(scores: np.ndarray, constants: np.ndarray, slopes: np.ndarray) -> tuple[int, int, int]:
    """The sum of the terms of `sum_softplus` of |x| < 63, by its tables.

    Returns:
        high, low: of the sum, 2³²·high + low
        largest: the bits of the greatest |x|; those of infinity and then of NaN are beyond all others'
    """
    bits = scores.view(np.int32)
    high, low, largest = 0, 0, np.int32(0)
    for start in range(0, len(scores), CHUNK):
        for i in range(start, min(start + CHUNK, len(scores))):
            magnitude = bits[i] & _SIGNLESS
            largest = max(largest, magnitude)
            is_near = magnitude < _REACH_BITS
            x = scores[i] if is_near else np.float32(0)
            c = (x + _TO_STEP) - _TO_STEP
            # Negative steps come out modulo the table's length, and so does the table. (An index without a sign
            # is used as it is, and several at once.)
            step = np.uint32(np.int32(c * np.float32(STEPS)) & np.int32(len(constants) - 1))
            r = np.float64(x - c)
            v = slopes[step] * r
            r -= v
            series = ((((r - v) + 3) * r + 6) * v + 3) - 3  # to a multiple of 2⁻⁵¹
            constant = constants[step] if is_near else 0
            high += constant >> 32
            low += (constant & _LOW) + np.int64(series * 2.0**51)
        high, low = high + (low >> 32), low & _LOW
    return high, low, np.int64(largest)


@njit(
    types.UniTuple(int64, 3)(
        *map(_read_only, (float32, float32, boolean)), int64[::1], float32[::1], float32[::1], uint32[::1]
    ),
    nogil=True,
)
def count_in_intervals(
    scores: np.ndarray,
    edges: np.ndarray,
    keep: np.ndarray,
    counts: np.ndarray,
    kept: np.ndarray,
    rest: np.ndarray,
    places: np.ndarray,
) -> tuple[int, int, int]:
    """Add to `counts` how many finite scores lie in each interval of `Brackets`; copy those to be kept to `kept`.

    Args:
        edges: those of the brackets, and infinity as often as it takes to be a power of two, and once at least.
        rest, places: to work in.

    Shape:
        edges: `(num_edges,)`
        keep, counts: `(num_intervals,)`
        kept: `(num_scores,)`
        rest, places: `(CHUNK,)`

    Returns:
        num_kept: how many have been copied
        least, most: of all scores, as `order_keys` has them
    """
    bits = scores.view(np.int32)
    num_kept, least, most = 0, _SIGNLESS, ~_SIGNLESS
    # Most trials are non-targets, and most of these lie below all thresholds of interest: what is below the first
    # two edges, and need not be kept, is left behind before the search.
    passes_second = len(keep) > 1 and not (keep[0] or keep[1])
    first = np.float32(-np.inf) if keep[0] else edges[0]
    for start in range(0, len(scores), CHUNK):
        stop, num_rest = min(start + CHUNK, len(scores)), 0
        for i in range(start, stop):
            key = bits[i] ^ ((bits[i] >> 31) & _SIGNLESS)
            least, most = min(least, key), max(most, key)
        for i in range(start, stop):
            rest[num_rest] = scores[i]
            num_rest += scores[i] >= first
        counts[0] += stop - start - num_rest
        if passes_second:
            num_above = 0
            for i in range(num_rest):
                rest[num_above] = score = rest[i]
                num_above += score >= edges[1]
            counts[1] += num_rest - num_above
            num_rest = num_above
        for i in range(num_rest):
            places[i] = 0
        half = len(edges) // 2
        while half:  # a binary search of many at once
            for i in range(num_rest):
                middle = places[i] + np.uint32(half)
                places[i] = middle if edges[middle - np.uint32(1)] <= rest[i] else places[i]
            half //= 2
        for i in range(num_rest):
            counts[places[i]] += 1
            kept[num_kept] = rest[i]
            num_kept += keep[places[i]]
    return num_kept, np.int64(least), np.int64(most)
