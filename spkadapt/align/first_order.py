"""A value whose gradient was found along with it: what a loss needs that writes its own derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.name = name
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # or the second derivative would silently be zero
            raise RuntimeError(f"{ctx.name} has no second derivative; call without create_graph")
        return None, None, None, *(grad_output * gradient for gradient in ctx.saved_tensors)


def needs_gradient(*inputs: Tensor) -> bool:
    """Whether anything will be asked of the gradient, so that a loss may save itself the trouble."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def attach_gradient(name: str, value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value`, a scalar found outside autograd, as a function of `inputs` with the given `gradients`.

    Args:
        name: of the loss, for the error.
        value: a scalar without a graph.
        inputs: what it is a function of.
        gradients: of `value` in each of the inputs, in their shapes; may be empty where `needs_gradient` is False.

    Raises:
        RuntimeError: on the way back under `create_graph`, as the gradients are constants.
    """
    return _FirstOrder.apply(name, value, gradients, *inputs) if needs_gradient(*inputs) else value
