"""Sums of log(1 + exp(x)) that depend on no order and no blocks: what Cllr adds up."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from spkadapt.errors import InputError

# Sums are whole numbers of this many to a nat. The six is the least common denominator of the series below.
UNITS_PER_NAT = 6 << 51
STEPS = 1 << 10  # of the table, to a nat
_HALF = 64 * STEPS  # of the table, which has as many steps below 0 as from 0 up
REACH = 63  # of its use; beyond, log(1 + exp(x)) is 0 or x to within exp(-63) < 2⁻⁹⁰
# A float of m bits, to which 1.5·2ᵐ·g is added, becomes a multiple of g, and its last bits say which.
_TO_STEP = {4: 1.5 * 2**23 / STEPS, 8: 1.5 * 2**52 / STEPS}  # by the bytes of a float
_TO_UNIT = 1.5 * 2**52 * 6 / UNITS_PER_NAT
_TO_UNIT_BITS = int(np.float64(_TO_UNIT).view(np.int64))
# A CPU chunk's arrays stay near the core. The series is below 2⁻¹¹ nats, or 2⁴³ units, so that sums over either
# chunk fit 64 bits.
_CPU_CHUNK, _DEVICE_CHUNK = 1 << 15, 1 << 19


def sum_softplus(scores: np.ndarray | torch.Tensor) -> int:
    """The sum of log(1 + exp(x)) over all scores, in nats times `UNITS_PER_NAT`: the same in any order and blocks.

    Every term is a whole number of units, and these are added without error. With c the nearest multiple of
    1/1024, r = x - c, p = 1/(1 + exp(-c)) and v = p·r, a term is the Taylor series, rounded to units,

        log(1 + exp(c)) + v·(6 + (r - v)·(3 + r - 2v)) / 6

    whose next member is below r⁴/192 < 3·10⁻¹⁶. The constant and p come from a table. All else is sums and
    products of floats, one at a time, each of which IEEE 754 rounds in one way: a term is a function of x alone,
    on whatever device, in whatever lane of a vector. (In the precision of x, c and r are exact; from v on all are
    doubles. The table is made once in long double; two machines whose long doubles or C libraries differ may
    differ in its last place.) From |x| = 63 on a term is x or 0.

    Shape:
        scores: any; float32 or float64

    Raises:
        InputError: where a score is not finite.
    """
    if isinstance(scores, np.ndarray):
        scores = torch.from_numpy(np.require(scores, requirements=["C", "W"]))
    flat, total = scores.reshape(-1), 0
    workspace = _Workspace(flat)
    for chunk in flat.split(workspace.size):
        least, most = (float(end) for end in torch.aminmax(chunk)) if len(chunk) else (0.0, 0.0)
        if least > -REACH and most < REACH:
            total += workspace.sum_terms(chunk)
        elif np.isfinite([least, most]).all():
            total += workspace.sum_terms(chunk[(chunk > -REACH) & (chunk < REACH)])
            total += _sum_large(chunk[chunk >= REACH].cpu().numpy())
        else:
            raise InputError(f"expected finite scores, found {most if np.isfinite(least) else least}")
    return total


def sum_softplus_compiled(scores: np.ndarray) -> int:
    """What `sum_softplus` gives, of float32 scores on a CPU, several times as fast; the first time takes a second.

    Shape:
        scores: any; float32

    Raises:
        InputError: where a score is not finite.
    """
    from spkadapt.metrics import kernels

    flat = np.require(scores, requirements=["C", "A"]).reshape(-1)
    high, low, largest = kernels.sum_terms(flat, *_tables())
    if largest >= _float32_bits(np.inf):
        raise InputError(f"expected finite scores, found {flat[~np.isfinite(flat)][0]}")
    total = (high << 32) + low
    return total + _sum_large(flat[flat >= REACH]) if largest >= _float32_bits(REACH) else total


def cllr_of_sums(target_sum: int, nontarget_sum: int, num_targets: int, num_nontargets: int) -> float:
    """Cllr, in bits, of `sum_softplus` of the targets' -llrs and of the non-targets' llrs."""
    targets = target_sum / (num_targets * UNITS_PER_NAT)
    nontargets = nontarget_sum / (num_nontargets * UNITS_PER_NAT)
    return float((targets + nontargets) / (2 * np.log(2)))


class _Workspace:
    """Tensors for one chunk after another, and the tables, on the device of the scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        device, num_bytes = scores.device, scores.dtype.itemsize
        self.constants, self.slopes = _tables_on(device)
        self.size = _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK
        self.to_step = _TO_STEP[num_bytes]
        self.bits = torch.int32 if num_bytes == 4 else torch.int64
        self.floats = torch.empty(2, self.size, dtype=scores.dtype, device=device)
        self.residuals = torch.empty(self.size, dtype=torch.float64, device=device)
        self.integers = torch.empty(2, self.size, dtype=torch.int64, device=device)

    def sum_terms(self, scores: torch.Tensor) -> int:
        """The sum of terms of |x| < 63."""
        num_scores = len(scores)
        shifted, residual = self.floats[:, :num_scores]
        r, (step, constant) = self.residuals[:num_scores], self.integers[:, :num_scores]
        torch.add(scores, self.to_step, out=shifted)
        torch.sub(shifted, self.to_step, out=residual)
        torch.sub(scores, residual, out=residual)
        r.copy_(residual)
        # Negative steps come out modulo the table's length, and so does the table.
        step.copy_(shifted.view(self.bits).bitwise_and_(2 * _HALF - 1))
        torch.take(self.constants, step, out=constant)
        constants = _sum_int64(constant)
        v, w = constant.view(torch.float64), step.view(torch.float64)  # once more, the same memory
        torch.take(self.slopes, step, out=v)
        v.mul_(r)
        r.sub_(v)
        torch.sub(r, v, out=w)
        w.add_(3).mul_(r).add_(6).mul_(v).add_(_TO_UNIT)
        # Σ(bits of 1.5·2⁵²·g + multiple of g), modulo 2⁶⁴, less the former.
        return constants + (int(step.sum()) - num_scores * _TO_UNIT_BITS + 2**63) % 2**64 - 2**63


def _sum_int64(values: np.ndarray | torch.Tensor) -> int:
    """The exact sum of at most 2³⁴ integers from 0 to below 2⁶⁰, which may exceed 64 bits."""
    in_eights = len(values) // 8 * 8
    sums = values[:in_eights].reshape(8, -1).sum(0)
    total, high = int(sums.sum()), int((sums >> 32).sum()) << 32
    return high + (total - high) % 2**64 + sum(values[in_eights:].tolist())


def _sum_large(scores: np.ndarray) -> int:
    """The exact sum of numbers from 63 up: their mantissas, added by exponent."""
    mantissas, exponents = np.frexp(scores.astype(np.float64))
    whole, total = (mantissas * 2.0**53).astype(np.int64), 0
    for exponent in np.unique(exponents).tolist():
        total += (_sum_int64(whole[exponents == exponent]) * UNITS_PER_NAT << exponent) >> 53
    return total


def _float32_bits(number: float) -> int:
    return int(np.float32(number).view(np.int32))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """log(1 + exp(c)), in units, and 1/(1 + exp(-c)), for c = 0, 1/1024, …, 64, -64, …, -1/1024."""
    points = np.roll(np.arange(-_HALF, _HALF), _HALF).astype(np.longdouble) / STEPS
    constants = np.rint(np.logaddexp(np.longdouble(0), points) * UNITS_PER_NAT).astype(np.int64)
    return constants, (1 / (1 + np.exp(-points))).astype(np.float64)


@cache
def _tables_on(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    constants, slopes = _tables()
    return torch.from_numpy(constants).to(device), torch.from_numpy(slopes).to(device)
