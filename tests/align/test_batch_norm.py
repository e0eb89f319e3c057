"""Statistics of a new domain against those of all its values at once; layers that keep domains apart."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from spkadapt.align.batch_norm import (
    DomainBatchNorm,
    adapt_batch_norm,
    convert_batch_norm,
    extract_domain,
    use_domains,
)
from spkadapt.errors import InputError


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Network(nn.Module):
    """Two layers over frames and one over their means; one that is never called, and one without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)  # called last, registered first
        self.first = nn.BatchNorm1d(4)
        self.convolution = nn.Conv1d(4, 5, 1)
        self.second = nn.BatchNorm1d(5)
        self.linear = nn.Linear(5, 3)
        self.unused = nn.BatchNorm1d(2)
        self.stateless = nn.BatchNorm1d(3, track_running_stats=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, frames: Tensor) -> Tensor:
        hidden = self.second(torch.relu(self.convolution(self.first(frames))))
        return self.last(self.dropout(self.linear(hidden.mean(dim=2))))


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    model = Network().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


def inputs_of(model: nn.Module, layers: list[nn.Module], batch: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in layers]
    model(batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("sizes", [[12], [1, 11], [5, 5, 2], [1] * 12])
def test_statistics_are_those_of_all_values_however_they_are_cut(sizes: list[int]) -> None:
    model, data = network(), 5 + 3 * normal(0, 12, 4, 7)
    before = copy.deepcopy(model.state_dict())
    adapt_batch_norm(model, [(batch,) for batch in data.split(sizes)])
    model.eval()
    layers = [model.first, model.second, model.last]
    for layer, values in zip(layers, inputs_of(model, layers, data), strict=True):
        rows = values.transpose(0, 1).flatten(start_dim=1)
        torch.testing.assert_close(layer.running_mean, rows.mean(dim=1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.running_var, rows.var(dim=1), rtol=1e-10, atol=1e-12)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        f"{name}.running_{what}" for name in ("first", "second", "last") for what in ("mean", "var")
    }


def test_one_layer_and_one_batch_is_pytorchs_own() -> None:
    ours, theirs = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=1.0).train()
    data = 5 + 3 * torch.randn(9, 4)
    adapt_batch_norm(ours, [(data,)])
    theirs(data)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_pooling_keeps_digits_far_from_zero() -> None:
    data = 1e6 + torch.randn(500, 1, dtype=torch.float64)
    layer = nn.BatchNorm1d(1).double()
    adapt_batch_norm(layer, [(batch,) for batch in data.split(7)])
    assert layer.running_var.item() == pytest.approx(data.var().item(), rel=1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_modes_and_gradients_are_as_they_were(training: bool) -> None:
    model = network().train(training)
    model.second.eval()
    modes = [module.training for module in model.modules()]
    adapt_batch_norm(model, [(normal(0, 6, 4, 7),)])
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError):  # the model's own error; its modes are put back all the same
        adapt_batch_norm(model, [(normal(0, 6, 3, 7),)])
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_shift_of_the_domain_is_undone() -> None:
    """Features scaled and moved per channel give the embeddings that they gave before, once adapted to."""
    model, data = network().eval(), normal(0, 40, 4, 7)
    adapt_batch_norm(model, [(data,)])
    expected = model(data)
    moved = data * torch.tensor([2.0, 0.5, 3.0, 1.0])[:, None] + torch.tensor([1.0, -5.0, 0.0, 9.0])[:, None]
    assert (model(moved) - expected).abs().max() > 0.5
    adapt_batch_norm(model, [(batch,) for batch in moved.split(9)])
    torch.testing.assert_close(model(moved), expected, rtol=1e-3, atol=1e-3)  # ε is not scaled


def test_what_cannot_be_adapted() -> None:
    batches = [(normal(0, 6, 4, 7),)]
    with pytest.raises(InputError, match="no batches of the target domain to take statistics from"):
        adapt_batch_norm(network(), [])
    with pytest.raises(InputError, match="the model calls no batch normalisation that keeps statistics"):
        adapt_batch_norm(nn.Conv1d(4, 2, 1).double(), batches)
    with pytest.raises(InputError, match="the batches are used up after one pass; give a list"):
        adapt_batch_norm(network(), iter(batches * 3))
    with pytest.raises(
        InputError, match="a batch normalisation saw one value a channel; its variance needs at least"
    ):
        adapt_batch_norm(nn.BatchNorm1d(4).double(), [(normal(0, 1, 4),)])


def converted() -> tuple[nn.Module, nn.Module]:
    model = network()
    return model, convert_batch_norm(copy.deepcopy(model))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("domain", [None, 0, 1])
def test_a_converted_model_computes_what_it_did(training: bool, domain: int | None) -> None:
    model = network().train(training)
    model.dropout.eval()
    domains = convert_batch_norm(copy.deepcopy(model))
    assert {module.training for module in domains.first.modules()} == {training}
    batch = normal(0, 6, 4, 7)
    with nullcontext() if domain is None else use_domains(domains, domain):
        assert torch.equal(domains(batch), model(batch))
    assert not any(type(module) is nn.BatchNorm1d for module in domains.children())


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_each_row_is_normalised_within_its_domain(shape: tuple[int, ...]) -> None:
    layer = DomainBatchNorm(nn.BatchNorm1d(3), num_domains=3).double()
    plain = [copy.deepcopy(norm) for norm in layer.norms]
    for number, (ours, theirs) in enumerate(zip(layer.norms, plain, strict=True)):
        for norm in (ours, theirs):
            nn.init.constant_(norm.weight, number + 1)
    which = torch.tensor([2, 0, 0, 2, 0, 2, 2])
    batch, twin = (normal(0, 7, *shape).requires_grad_() for _ in range(2))
    with use_domains(layer, which):
        output = layer(batch)
    expected = torch.empty_like(output)
    for domain in (0, 2):
        expected[which == domain] = plain[domain](twin[which == domain])
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(layer.norms, plain, strict=True):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)
    assert layer.norms[1].num_batches_tracked == 0  # no row was of it
    weight = normal(1, *output.shape)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(batch.grad, twin.grad, rtol=1e-10, atol=1e-12)


def test_an_extracted_domain_is_a_plain_model() -> None:
    model, domains = converted()
    with use_domains(domains.train(), torch.tensor([0, 0, 0, 1, 1, 1])):
        for seed in range(3):
            domains(torch.cat([normal(seed, 3, 4, 7), 4 + 2 * normal(seed + 9, 3, 4, 7)]))
    domains.eval()
    for domain in (0, 1):
        plain = extract_domain(domains, domain)
        assert list(plain.state_dict()) == list(model.state_dict())
        assert not any(isinstance(module, DomainBatchNorm) or module.training for module in plain.modules())
        again = network(7).eval()
        again.load_state_dict(plain.state_dict())
        batch = normal(40, 5, 4, 7)
        with use_domains(domains, domain):
            assert torch.equal(again(batch), domains(batch))
    apart = extract_domain(domains, 0).first.running_mean - extract_domain(domains, 1).first.running_mean
    assert apart.abs().min() > 0.5
    nn.init.zeros_(plain.first.weight)
    assert domains.first.norms[1].weight.any()  # a copy


def test_a_layer_alone_is_converted_too() -> None:
    layer = convert_batch_norm(nn.BatchNorm1d(3), 4)
    assert isinstance(layer, DomainBatchNorm)
    assert len(layer.norms) == 4
    assert type(extract_domain(layer, 3)) is nn.BatchNorm1d


def test_images_are_normalised_by_domain_too() -> None:
    layer, batch = convert_batch_norm(nn.BatchNorm2d(3)), torch.randn(5, 3, 4, 2)
    with use_domains(layer, torch.tensor([0, 1, 0, 1, 0])):
        output = layer(batch)
    for rows in ([0, 2, 4], [1, 3]):
        torch.testing.assert_close(output[rows], nn.BatchNorm2d(3)(batch[rows]))


def test_domains_are_put_back() -> None:
    _, domains = converted()
    with use_domains(domains, 1), use_domains(domains, 0):
        pass
    with (
        pytest.raises(InputError, match="the domains of 3 rows are known, and the batch has 6"),
        use_domains(domains, torch.tensor([0, 1, 1])),
    ):
        domains(normal(0, 6, 4, 7))
    assert all(m.domains == 0 for m in domains.modules() if isinstance(m, DomainBatchNorm))


def test_bad_arguments() -> None:
    model, domains = converted()
    with pytest.raises(InputError, match="num_domains is 0; expected at least 1"):
        convert_batch_norm(model, 0)
    with pytest.raises(InputError, match="the model has no batch normalisation; there is nothing to convert"):
        convert_batch_norm(nn.Linear(2, 2))

    def enter(model: nn.Module, which: int | Tensor) -> None:
        with use_domains(model, which):
            pass

    with pytest.raises(InputError, match="the model keeps no domains apart; convert it with convert_batch_norm"):
        enter(model, 0)
    with pytest.raises(InputError, match="the model keeps no domains apart"):
        extract_domain(model, 0)
    with pytest.raises(InputError, match="domains run from 2 to 2; expected numbers from 0 to 1"):
        extract_domain(domains, 2)
    with pytest.raises(InputError, match="domains run from -1 to 1; expected numbers from 0 to 1"):
        enter(domains, torch.tensor([0, 1, -1]))
    message = r"domains are torch.float32 of shape \(2,\); expected a number, or torch.int64 of shape \(batch,\)"
    with pytest.raises(InputError, match=message):
        enter(domains, torch.ones(2))
    message = "domain 1 has one value a channel in this batch; training needs at least two"
    with pytest.raises(InputError, match=message), use_domains(domains.train(), torch.tensor([0, 0, 1])):
        domains.last(normal(0, 3, 3))
