"""Within- and between-class covariances brought together: what PLDA and other speaker backends assume of a domain.

The classes of the source are speakers. Those of the target domain are recordings, whose speakers are unknown but
one each: crops of one call share theirs. What differs between the calls of a speaker counts as between classes
there, so the between-class covariances agree only as far as that is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spkadapt.align.classes import check_classes
from spkadapt.align.linear_algebra import covariance_distance
from spkadapt.align.pair import check_pair


@dataclass(frozen=True)
class _Scatter:
    """Sums of squares of a batch of classes, and what a covariance divides them by."""

    within: Tensor
    between: Tensor
    num_rows: int
    counts: Tensor

    @property
    def within_degrees(self) -> int:
        return self.num_rows - len(self.counts)

    @property
    def between_degrees(self) -> int:
        return len(self.counts) - 1

    def within_covariance(self) -> Tensor:
        return self.within / self.within_degrees

    def between_covariance(self) -> Tensor:
        """The between-class sum of squares expects (C − 1) W + (n − Σ n_c² / n) B, which is solved for B."""
        rows_of_between = self.num_rows - self.counts.square().sum() / self.num_rows
        return (self.between - self.between_degrees * self.within_covariance()) / rows_of_between


def within_covariance_loss(
    source: Tensor, source_classes: Tensor, target_domain: Tensor, target_classes: Tensor
) -> Tensor:
    """Squared distance between the within-class covariances of two domains.

        L = ‖W_s − W_t‖²_F / (4 d²),   W = Σ_c Σ_{i in c} (x_i − x̄_c)(x_i − x̄_c)ᵀ / (n − C)

    with the pooled unbiased estimator of n rows in C classes, to which classes of one row add nothing. In CORAL's
    measure (Sun & Saenko 2016); matching W across domains without target speakers follows Glembek et al. 2014
    ("Domain adaptation via within-class covariance correction"). The means and the between-class covariances play
    no part. Where a domain has no class of two rows, the loss is zero and so is its gradient.

    Computed in at least float32 whatever the input and autocast; the gradient is finite everywhere.

    Args:
        source: `(num_source, dim)`.
        source_classes: `(num_source,)`, integers; speakers.
        target_domain: `(num_target, dim)`.
        target_classes: `(num_target,)`, integers; recordings. They have nothing to do with the source's numbers.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or the classes are not one
            non-negative integer a row.
    """
    source, target_domain = _check(source, source_classes, target_domain, target_classes)
    with torch.autocast(source.device.type, enabled=False):
        first, second = _scatter(source, source_classes), _scatter(target_domain, target_classes)
        if min(first.within_degrees, second.within_degrees) < 1:
            return _zero(source, target_domain)
        return covariance_distance(first.within_covariance(), second.within_covariance())


def between_covariance_loss(
    source: Tensor, source_classes: Tensor, target_domain: Tensor, target_classes: Tensor
) -> Tensor:
    """Squared distance between the between-class covariances of two domains.

        L = ‖B_s − B_t‖²_F / (4 d²),   B = (Σ_c n_c (x̄_c − x̄)(x̄_c − x̄)ᵀ − (C − 1) W) / (n − Σ_c n_c² / n)

    with W of `within_covariance_loss` and B the unbiased analysis-of-variance estimator of the covariance of class
    means, for classes of any sizes (Searle, Casella & McCulloch 1992, section 3.6). The spread within classes is
    taken off, so domains with more or fewer rows a class compare; B may be indefinite. Where a domain has a single
    class or no class of two rows, the loss is zero and so is its gradient. Arguments and precision are as in
    `within_covariance_loss`.

    Args:
        source: `(num_source, dim)`.
        source_classes: `(num_source,)`, integers; speakers.
        target_domain: `(num_target, dim)`.
        target_classes: `(num_target,)`, integers; recordings.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: as `within_covariance_loss`.
    """
    source, target_domain = _check(source, source_classes, target_domain, target_classes)
    with torch.autocast(source.device.type, enabled=False):
        first, second = _scatter(source, source_classes), _scatter(target_domain, target_classes)
        degrees = [(part.within_degrees, part.between_degrees) for part in (first, second)]
        if min(map(min, degrees)) < 1:
            return _zero(source, target_domain)
        return covariance_distance(first.between_covariance(), second.between_covariance())


def _check(
    source: Tensor, source_classes: Tensor, target_domain: Tensor, target_classes: Tensor
) -> tuple[Tensor, Tensor]:
    source, target_domain = check_pair(source, target_domain)
    check_classes("source_classes", source_classes, len(source))
    check_classes("target_classes", target_classes, len(target_domain))
    return source, target_domain


def _scatter(batch: Tensor, classes: Tensor) -> _Scatter:
    _, index, counts = classes.unique(return_inverse=True, return_counts=True)
    counts = counts.to(batch.dtype)
    centred = batch - batch.mean(dim=0)
    means = centred.new_zeros(len(counts), batch.shape[1]).index_add(0, index, centred) / counts[:, None]
    within = centred - means[index]
    weighted = means * counts.sqrt()[:, None]
    return _Scatter(within.T @ within, weighted.T @ weighted, len(batch), counts)


def _zero(source: Tensor, target_domain: Tensor) -> Tensor:
    """Zero with a gradient of zero, for a batch without degrees of freedom in a run that goes on."""
    return 0 * (source.sum() + target_domain.sum())


class WithinCovarianceLoss(nn.Module):
    """`within_covariance_loss` as a module."""

    def forward(
        self, source: Tensor, source_classes: Tensor, target_domain: Tensor, target_classes: Tensor
    ) -> Tensor:
        """`(num_source, dim)`, `(num_source,)`, `(num_target, dim)`, `(num_target,)` → scalar loss."""
        return within_covariance_loss(source, source_classes, target_domain, target_classes)


class BetweenCovarianceLoss(nn.Module):
    """`between_covariance_loss` as a module."""

    def forward(
        self, source: Tensor, source_classes: Tensor, target_domain: Tensor, target_classes: Tensor
    ) -> Tensor:
        """`(num_source, dim)`, `(num_source,)`, `(num_target, dim)`, `(num_target,)` → scalar loss."""
        return between_covariance_loss(source, source_classes, target_domain, target_classes)
