"""Whether the terms of an objective pull the shared parameters apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from spkadapt.errors import InputError


@dataclass(frozen=True)
class GradientConflict:
    """The gradients of named terms, compared.

    Attributes:
        norms: of each term's gradient.
        cosines: between the gradients of each pair of terms, in the order of the terms; below zero they conflict
            (Yu et al. 2020, "Gradient surgery", definition 1). Zero where a gradient is zero.
    """

    norms: dict[str, float]
    cosines: dict[tuple[str, str], float]


def gradient_conflict(terms: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> GradientConflict:
    """Measure how the terms' gradients with respect to the parameters lie to each other.

    Parameters that are frozen, or that a term does not depend on, add nothing. The graph is kept, and no `.grad`
    is touched, so that the objective can still be minimised. It costs a backward pass a term and memory for one
    gradient a term: for a log now and then, not for every step. Sums run in float64.

    Args:
        terms: scalars, by name; at least two.
        parameters: of what the terms share.

    Raises:
        InputError: fewer than two terms, or one that is no scalar.
    """
    if len(terms) < 2:
        raise InputError(f"a gradient conflict is between terms; found {len(terms)}, expected two or more")
    for name, term in terms.items():
        if term.ndim != 0:
            raise InputError(f'the term "{name}" has shape {tuple(term.shape)}; expected a scalar')
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = {name: _gradients(term, learning) for name, term in terms.items()}
    norms = {name: math.sqrt(_product(own, own)) for name, own in gradients.items()}
    cosines = {}
    for one, other in combinations(terms, 2):
        product, length = _product(gradients[one], gradients[other]), norms[one] * norms[other]
        cosines[one, other] = product / length if length > 0 else 0.0
    return GradientConflict(norms, cosines)


def _gradients(term: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not term.requires_grad or not parameters:
        return (None,) * len(parameters)
    return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)


def _product(left: tuple[Tensor | None, ...], right: tuple[Tensor | None, ...]) -> float:
    pairs = zip(left, right, strict=True)
    products = [(a.double() * b.double()).sum() for a, b in pairs if a is not None and b is not None]
    return float(torch.stack(products).sum()) if products else 0.0
