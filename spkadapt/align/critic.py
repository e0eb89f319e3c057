"""A critic that measures the Wasserstein distance between two domains, and features that reduce it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spkadapt.align.adversarial import DomainClassifier, check_reversal, check_width, reverse_gradient
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


class WassersteinCriticLoss(nn.Module):
    """Wasserstein distance by a critic with a gradient penalty (WDGRL, Shen et al. 2018; Gulrajani et al. 2017).

        L = −(mean f(s) − mean f(t)) + γ · mean over x of (‖∇f(x)‖ − 1)²

    The difference of the means is the 1-Wasserstein distance for the best f whose slope is nowhere above one. The
    penalty asks a slope of one at the rows themselves and at random points between random pairs of a row of each
    domain, as many as the larger batch has rows. It trains the critic alone.

    A gradient reversal stands before the critic, so that a loop that minimises the loss trains the critic to raise
    the distance and the features to reduce it. The papers give the critic five or more steps to each of the
    features; here it has one, and wants a higher learning rate in turn. The loss itself, that of the critic, is
    about minus the distance. The points are drawn from torch's default generator on the CPU. Computed in the
    critic's own precision whatever the input and autocast.

    Args:
        dim: dimension of the embeddings.
        hidden_dim: hidden units of the critic.
        scale: strength of the reversed gradient that the features receive, relative to the critic's own.
        penalty: γ.

    Raises:
        InputError: a dimension is less than one, `scale` is negative, or `penalty` is negative or infinite.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, scale: float = 1.0, penalty: float = 10.0) -> None:
        super().__init__()
        check_reversal(scale)
        if not 0 <= penalty < math.inf:
            raise InputError(f"penalty of the critic is {penalty}; expected zero or more, and finite")
        self.critic = DomainClassifier(dim, hidden_dim)
        self.scale = scale
        self.penalty = penalty

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss.

        Raises:
            InputError: a batch is not `(batch, dim)` or is empty, or its `dim` is not the critic's.
        """
        source, target_domain = self._check(source, target_domain)
        with torch.autocast(source.device.type, enabled=False):
            rows = torch.cat([source, target_domain])
            values = self.critic(reverse_gradient(rows, self.scale))
            points = torch.cat([rows, between(source, target_domain)]).detach()
            penalty = (lengths(self.critic.slopes(points)) - 1).square().mean()
            return self.penalty * penalty - (values[: len(source)].mean() - values[len(source) :].mean())

    @torch.no_grad()
    def distance(self, source: Tensor, target_domain: Tensor) -> float:
        """mean f(s) − mean f(t): the critic's estimate of the distance; raises what `forward` raises."""
        source, target_domain = self._check(source, target_domain)
        with torch.autocast(source.device.type, enabled=False):
            return (self.critic(source).mean() - self.critic(target_domain).mean()).item()

    def _check(self, source: Tensor, target_domain: Tensor) -> tuple[Tensor, Tensor]:
        source, target_domain = check_pair(source, target_domain)
        check_width(source, self.critic)
        dtype = self.critic.hidden.weight.dtype
        return source.to(dtype), target_domain.to(dtype)


def between(source: Tensor, target_domain: Tensor) -> Tensor:
    """Random points on the lines between random pairs of a row of each domain, as many as the larger has rows.

    Shape:
        source: `(num_source, dim)`
        target_domain: `(num_target, dim)`
        returns `(max(num_source, num_target), dim)`
    """
    num_points = max(len(source), len(target_domain))
    places = [torch.randint(len(rows), (num_points,)).to(rows.device) for rows in (source, target_domain)]
    position = torch.rand(num_points, 1).to(source)
    return torch.lerp(source[places[0]], target_domain[places[1]], position)


def lengths(vectors: Tensor) -> Tensor:
    """‖x‖ of each row; the derivative at zero, where there is none, is zero."""
    squares = vectors.square().sum(dim=1)
    is_zero = squares == 0
    return torch.where(is_zero, 0, torch.where(is_zero, 1, squares).sqrt())
