"""Sums of log(1 + exp(x)) that depend on no order and no blocks: what Cllr adds up."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch

from spkadapt.errors import InputError

# Sums are whole numbers of this many to a nat.
UNITS_PER_NAT = 1 << 56
_SERIES_GRID = 1 << 53  # to a nat; what is added to a constant of the table is rounded so
_STEPS = 1 << 10  # of the table, to a nat
_HALF = 64 * _STEPS  # of the table, which has as many steps below 0 as from 0 up
_REACH = 63  # of its use; beyond, log(1 + exp(x)) is 0 or x to within exp(-63) < 2⁻⁹⁰
# A double to which 1.5·2⁵²·g is added becomes a multiple of g, and its last bits say which.
_TO_STEP = 1.5 * 2**52 / _STEPS
_TO_GRID = 1.5 * 2**52 / _SERIES_GRID
_TO_GRID_BITS = int(np.float64(_TO_GRID).view(np.int64))
# A CPU chunk's five arrays of doubles stay near the core. The series is below 2⁻¹¹ nats, or 2⁴² on its grid, so
# that sums over either chunk fit 64 bits.
_CPU_CHUNK, _DEVICE_CHUNK = 1 << 15, 1 << 20


def sum_softplus(scores: np.ndarray | torch.Tensor) -> int:
    """The sum of log(1 + exp(x)) over all scores, in nats times `UNITS_PER_NAT`: the same in any order and blocks.

    Every term is a whole number of units, and these are added without error. With c the nearest multiple of
    1/1024, r = x - c, p = 1/(1 + exp(-c)) and v = p·r, a term is the Taylor series, rounded to 2⁻⁵³ nats,

        log(1 + exp(c)) + v + w·(1/2 + (r - 2v)/6),    w = v·(r - v) = p·(1 - p)·r²

    whose next member is below r⁴/192 < 3·10⁻¹⁶. The constant and p come from a table. All else is sums and
    products of doubles, one at a time, each of which IEEE 754 rounds in one way: a term is a function of x alone,
    on whatever device, in whatever lane of a vector. (The table is made once in long double; two machines whose
    long doubles or C libraries differ may differ in its last place.) From |x| = 63 on a term is x or 0.

    Shape:
        scores: any; float32 or float64

    Raises:
        InputError: where a score is not finite.
    """
    flat, total = scores.reshape(-1), 0
    workspace = _Workspace(flat)
    for start in range(0, len(flat), workspace.size):
        chunk = flat[start : start + workspace.size]
        least, most = float(chunk.min()), float(chunk.max())
        if least > -_REACH and most < _REACH:
            total += workspace.sum_terms(chunk)
        elif np.isfinite([least, most]).all():
            total += workspace.sum_terms(chunk[(chunk > -_REACH) & (chunk < _REACH)])
            total += _sum_large(chunk[chunk >= _REACH])
        else:
            raise InputError(f"expected finite scores, found {most if np.isfinite(least) else least}")
    return total


def cllr_of_sums(target_sum: int, nontarget_sum: int, num_targets: int, num_nontargets: int) -> float:
    """Cllr, in bits, of `sum_softplus` of the targets' -llrs and of the non-targets' llrs."""
    targets = target_sum / (num_targets * UNITS_PER_NAT)
    nontargets = nontarget_sum / (num_nontargets * UNITS_PER_NAT)
    return float((targets + nontargets) / (2 * np.log(2)))


class _Workspace:
    """Arrays for one chunk after another, and the tables, of NumPy or of torch, which name operations alike."""

    def __init__(self, scores: Any) -> None:
        if isinstance(scores, torch.Tensor):
            self.xp: Any = torch
            self.take: Any = torch.take
            self.tables: Any = _tables_on(scores.device)
            like: dict[str, Any] = {"device": scores.device}
            self.size = _CPU_CHUNK if scores.device.type == "cpu" else _DEVICE_CHUNK
        else:
            self.xp, self.take = np, partial(np.take, mode="wrap")
            self.tables = _tables()
            like, self.size = {}, _CPU_CHUNK
        self.doubles = [self.xp.empty(self.size, dtype=self.xp.float64, **like) for _ in range(3)]
        self.integers = [self.xp.empty(self.size, dtype=self.xp.int64, **like) for _ in range(2)]

    def sum_terms(self, scores: Any) -> int:
        """The sum of terms of |x| < 63."""
        xp, num_scores = self.xp, len(scores)
        r, w, v = (array[:num_scores] for array in self.doubles)
        step, constant = (array[:num_scores] for array in self.integers)
        r[:] = scores
        xp.add(r, _TO_STEP, out=w)
        # Negative steps come out modulo the table's length, and so does the table.
        xp.bitwise_and(w.view(xp.int64), 2 * _HALF - 1, out=step)
        xp.subtract(w, _TO_STEP, out=w)
        xp.subtract(r, w, out=r)
        self.take(self.tables[0], step, out=constant)
        self.take(self.tables[1], step, out=v)
        xp.multiply(v, r, out=v)
        xp.subtract(r, v, out=r)
        xp.multiply(v, r, out=w)
        xp.subtract(r, v, out=r)
        xp.multiply(r, 1 / 6, out=r)
        xp.add(r, 0.5, out=r)
        xp.multiply(r, w, out=r)
        xp.add(r, v, out=r)
        xp.add(r, _TO_GRID, out=r)
        # Σ(bits of 1.5·2⁵²·g + multiple of g), modulo 2⁶⁴, less the former.
        series = (int(r.view(xp.int64).sum()) - num_scores * _TO_GRID_BITS + 2**63) % 2**64 - 2**63
        return _sum_int64(constant, xp) + series * (UNITS_PER_NAT // _SERIES_GRID)


def _sum_int64(values: Any, xp: Any) -> int:
    """The exact sum of at most 2³¹ non-negative integers, which may exceed 64 bits; overwrites them."""
    total = int(values.sum())
    xp.bitwise_right_shift(values, 32, out=values)
    high = int(values.sum()) << 32
    return high + (total - high) % 2**64


def _sum_large(scores: np.ndarray | torch.Tensor) -> int:
    """The exact sum of numbers from 63 up: their mantissas, added by exponent."""
    doubles: np.ndarray = scores.cpu().numpy() if isinstance(scores, torch.Tensor) else scores
    mantissas, exponents = np.frexp(doubles.astype(np.float64))
    whole, total = (mantissas * 2.0**53).astype(np.int64), 0
    for exponent in np.unique(exponents).tolist():
        total += (_sum_int64(whole[exponents == exponent], np) * UNITS_PER_NAT << exponent) >> 53
    return total


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """log(1 + exp(c)), in units, and 1/(1 + exp(-c)), for c = 0, 1/1024, …, 64, -64, …, -1/1024."""
    points = np.roll(np.arange(-_HALF, _HALF), _HALF).astype(np.longdouble) / _STEPS
    constants = np.rint(np.logaddexp(np.longdouble(0), points) * UNITS_PER_NAT).astype(np.int64)
    return constants, (1 / (1 + np.exp(-points))).astype(np.float64)


@cache
def _tables_on(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    constants, slopes = _tables()
    return torch.from_numpy(constants).to(device), torch.from_numpy(slopes).to(device)
