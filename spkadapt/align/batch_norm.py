"""Batch normalisation in a new domain: statistics recomputed there (AdaBN), or kept for each domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spkadapt.errors import InputError

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def adapt_batch_norm(model: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Replace every batch normalisation's statistics by those of the target domain (AdaBN, Li et al. 2017).

    The statistics of a layer depend on how the layers before it normalise. They are therefore found one layer
    after another, in the order in which the layers are called, each from all batches with the new statistics of
    those before it: as many passes as there are layers, for which some hundred crops are enough. So the result
    depends on the data alone, not on how it was cut into batches, and every layer's output, before its scale and
    shift, has over all of it a mean of zero and a variance of one (but for the layer's ε). Mean and variance (over
    n − 1, as PyTorch's) are pooled in float64.

    Layers that are not called, or keep no statistics, stay as they are. Modes are put back. Padding counts like
    anything else: give crops of one length, or one recording a batch.

    Args:
        model: changed in place; called as `model(*batch)` in evaluation mode.
        batches: gone over several times, so a list or the like, and no iterator.

    Raises:
        InputError: no batches, or none left at a second pass; no layer with statistics is called; or one sees a
            single value a channel.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for layer in _called_layers(model, batches):
            pooled = _PooledStatistics(layer)
            _run(model, batches, [layer], pooled.add)
            pooled.give_to(layer)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _called_layers(model: nn.Module, batches: Iterable[tuple[Any, ...]]) -> list[_BatchNorm]:
    """The layers with statistics that the first batch calls, in that order."""
    called: dict[_BatchNorm, None] = {}
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    ]
    first = next(iter(batches), None)
    if first is None:
        raise InputError("no batches of the target domain to take statistics from")
    _run(model, [first], layers, lambda layer, _: called.setdefault(layer))
    if not called:
        raise InputError("the model calls no batch normalisation that keeps statistics; there is nothing to adapt")
    return list(called)


def _run(
    model: nn.Module,
    batches: Iterable[tuple[Any, ...]],
    layers: Iterable[_BatchNorm],
    see: Callable[[_BatchNorm, Tensor], None],
) -> None:
    """Call the model on all batches, and `see` with each of the layers that is called and its input."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        see(layer, inputs[0])  # type: ignore[arg-type]

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        for batch in batches:
            model(*batch)
    finally:
        for handle in handles:
            handle.remove()


class _PooledStatistics:
    """Count, mean and sum of squared deviations of each channel, pooled over batches (Chan et al. 1979)."""

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None
        self._count = 0
        self._mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)

    def add(self, _: _BatchNorm, values: Tensor) -> None:
        """Values `(batch, channels, …)`, the layer's input."""
        rows = values.transpose(0, 1).flatten(start_dim=1).double()
        count, mean = rows.shape[1], rows.mean(dim=1)
        total = self._count + count
        shift = mean - self._mean
        self._squares += (rows - mean[:, None]).square().sum(dim=1) + shift.square() * self._count * count / total
        self._mean += shift * count / total
        self._count = total

    def give_to(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        if self._count == 0:
            raise InputError("the batches are used up after one pass; give a list, or what can be gone over again")
        if self._count == 1:
            raise InputError("a batch normalisation saw one value a channel; its variance needs at least two")
        layer.running_mean.copy_(self._mean)
        layer.running_var.copy_(self._squares / (self._count - 1))


class DomainBatchNorm(nn.Module):
    """Batch normalisation with statistics, scale and shift of its own for each domain (DSBN, Chang et al. 2019).

    `use_domains` says which domain a batch, or each of its rows, is of; where nothing is said, it is domain 0.

    Args:
        norm: what every domain begins with; it is copied.
        num_domains: at least one.

    Shape: as of `norm`, `(batch, channels, …)` → the same

    Raises:
        InputError: `num_domains` is less than one.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, num_domains: int = 2) -> None:
        super().__init__()
        if num_domains < 1:
            raise InputError(f"num_domains is {num_domains}; expected at least 1")
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(num_domains))
        self.domains: int | Tensor = 0

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each row within its domain.

        Raises:
            InputError: the domains of as many rows as there are not; in training, one value a channel of a domain.
        """
        if isinstance(self.domains, int):
            return self._normalise(self.domains, values)
        if len(self.domains) != len(values):
            raise InputError(f"the domains of {len(self.domains)} rows are known, and the batch has {len(values)}")
        parts, places = [], []
        for domain in range(len(self.norms)):
            rows = (self.domains == domain).nonzero().squeeze(1)
            if len(rows):
                parts.append(self._normalise(domain, values[rows]))
                places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _normalise(self, domain: int, values: Tensor) -> Tensor:
        if self.training and values.numel() == values.shape[1]:
            raise InputError(f"domain {domain} has one value a channel in this batch; training needs at least two")
        return self.norms[domain](values)


def convert_batch_norm(model: nn.Module, num_domains: int = 2) -> nn.Module:
    """Give every `BatchNorm1d` and `BatchNorm2d` a copy for each domain, in place; all computes as before.

    Returns:
        The model (or, where it is itself such a layer, what takes its place).

    Raises:
        InputError: there is no such layer, or `num_domains` is less than one.
    """
    if not any(isinstance(module, _KINDS) for module in model.modules()):
        raise InputError("the model has no batch normalisation; there is nothing to convert")
    return _replace(
        model, lambda module: DomainBatchNorm(module, num_domains) if isinstance(module, _KINDS) else None
    )


def extract_domain(model: nn.Module, domain: int) -> nn.Module:
    """A copy of a converted model in which one domain's layers are the plain ones again.

    Its `state_dict` has the names that it had before `convert_batch_norm`, so that it is saved and loaded as ever.

    Raises:
        InputError: the model has no such layers, or they have no such domain.
    """
    check_domain(model, domain)

    def plain(module: nn.Module) -> nn.Module | None:
        return module.norms[domain] if isinstance(module, DomainBatchNorm) else None

    return _replace(copy.deepcopy(model), plain)


@contextmanager
def use_domains(model: nn.Module, domains: int | Tensor) -> Iterator[None]:
    """Within it, the model's layers take batches as of this domain, or each row as of its own.

    Args:
        model: with layers from `convert_batch_norm`.
        domains: a number, or int64 `(batch,)`, one for each row.

    Raises:
        InputError: the model has no such layers, they have no such domain, or domains of another shape or dtype.
    """
    if isinstance(domains, Tensor) and (domains.ndim != 1 or domains.dtype != torch.int64):
        found = f"{domains.dtype} of shape {tuple(domains.shape)}"
        raise InputError(f"domains are {found}; expected a number, or torch.int64 of shape (batch,)")
    layers = check_domain(model, domains)
    before = [layer.domains for layer in layers]
    for layer in layers:
        layer.domains = domains
    try:
        yield
    finally:
        for layer, domain in zip(layers, before, strict=True):
            layer.domains = domain


def check_domain(model: nn.Module, domains: int | Tensor) -> list[DomainBatchNorm]:
    """The layers that keep domains apart; `InputError` where there are none, or none of these domains."""
    layers = [module for module in model.modules() if isinstance(module, DomainBatchNorm)]
    if not layers:
        raise InputError("the model keeps no domains apart; convert it with convert_batch_norm")
    lowest, highest = (domains, domains) if isinstance(domains, int) else (int(domains.min()), int(domains.max()))
    num_domains = len(layers[0].norms)
    if not 0 <= lowest <= highest < num_domains:
        raise InputError(f"domains run from {lowest} to {highest}; expected numbers from 0 to {num_domains - 1}")
    return layers


def _replace(module: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """The module with each of its modules, itself too, replaced by what `make` gives for it, if anything."""
    made = make(module)
    if made is not None:
        return made.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _replace(child, make))
    return module
