"""Stacked sparse coding: exact codes, descending dictionaries, planted ones found, and the network it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import sparse_encode
from torch import Tensor, nn

from spkadapt.backbone import DnnConfig, FrameDnn
from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain import sparse_stack
from spkadapt.pretrain.interface import PretrainProgress
from spkadapt.pretrain.sparse import SparseCoding, SparseConfig, StackedSparseCoding

both_signs = pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_frames(num_frames: int = 300, dim: int = 12) -> Tensor:
    mixed = torch.randn(num_frames, dim, generator=generator(1)) @ torch.randn(dim, dim, generator=generator(2))
    return ((mixed - mixed.mean(dim=0)) / mixed.std(dim=0)).double()


def random_layer(num_visible: int, num_atoms: int, penalty: float = 0.5, **options: Any) -> SparseCoding:
    layer = SparseCoding(num_visible, num_atoms, penalty, **options).double()
    layer.start_from(torch.randn(num_atoms, num_visible, generator=generator(3)).double(), generator())
    return layer


@both_signs
def test_codes_are_those_of_scikit_learn(nonnegative: bool) -> None:
    layer, x = random_layer(12, 30, nonnegative=nonnegative), random_frames(40)
    atoms = layer.dictionary.numpy()
    theirs = sparse_encode(
        x.numpy(), atoms, algorithm="lasso_lars", alpha=0.5, positive=nonnegative, max_iter=10**5
    )
    ours = layer.encode(x, num_iterations=5000, tolerance=1e-9)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)


@both_signs
@pytest.mark.parametrize(("num_visible", "num_atoms"), [(12, 30), (12, 5)])
def test_the_objective_never_increases_under_exact_alternation(
    nonnegative: bool, num_visible: int, num_atoms: int
) -> None:
    layer, x = random_layer(num_visible, num_atoms, nonnegative=nonnegative), random_frames(200)
    values = []
    for _ in range(15):
        codes = layer.encode(x, num_iterations=3000, tolerance=1e-9)
        values.append(layer.objective(x, codes).sum().item())
        layer.update(x, codes, 1.0)
        values.append(layer.objective(x, codes).sum().item())
        torch.testing.assert_close(layer.dictionary.norm(dim=1), torch.ones(num_atoms).double())
    assert (np.diff(values) < 1e-7 * values[0]).all()
    assert values[-1] < 0.95 * values[0]


def test_atoms_of_codes_that_do_not_meet_go_to_the_mean_of_their_samples() -> None:
    """A is diagonal then, and one step reaches the minimum."""
    layer, x = random_layer(4, 3), random_frames(30, 4)
    unused = layer.dictionary[2].clone()
    codes = torch.zeros(30, 3, dtype=torch.float64)
    codes[:10, 0], codes[10:, 1] = 2.0, torch.linspace(0.1, 3, 20, dtype=torch.float64)
    layer.update(x, codes, 1.0)
    expected = F.normalize(codes[:, :2].T @ x, dim=1)
    torch.testing.assert_close(layer.dictionary[:2].detach(), expected)
    torch.testing.assert_close(layer.dictionary[2].detach(), unused, rtol=0, atol=1e-15)


def test_moments_are_a_plain_mean_at_first_and_a_running_one_later() -> None:
    layer, x = random_layer(12, 5), random_frames(60)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    crossed = torch.zeros(5, 12, dtype=torch.float64)
    for batch, weight in zip(x.split(10), (1, 1 / 2, 1 / 3, 0.3, 0.3, 0.3), strict=True):
        codes = layer.encode(batch)
        expected = (1 - weight) * expected + weight * torch.einsum("ni,nj->ij", codes, codes) / 10
        crossed = (1 - weight) * crossed + weight * torch.einsum("ni,nj->ij", codes, batch) / 10
        layer.update(batch, codes, 0.3)
        torch.testing.assert_close(layer.code_moments, expected)
        torch.testing.assert_close(layer.cross_moments, crossed)


@both_signs
def test_a_planted_dictionary_is_found_up_to_order_and_sign(nonnegative: bool) -> None:
    num_atoms, num_active = 24, 3
    draw = generator(4)
    planted = F.normalize(torch.randn(num_atoms, 20, generator=draw), dim=1)
    chosen = torch.rand(2000, num_atoms, generator=draw).topk(num_active, dim=1).indices
    values = torch.rand(2000, num_active, generator=draw) + 1
    if not nonnegative:
        values *= torch.randint(2, values.shape, generator=draw) * 2 - 1
    x = torch.zeros(2000, num_atoms).scatter_(1, chosen, values) @ planted
    layer = SparseCoding(20, num_atoms, 0.2, 30, nonnegative=nonnegative)
    layer.start_from(x[:num_atoms], draw)
    similar = planted @ layer.dictionary.T
    assert ((similar if nonnegative else similar.abs()).amax(dim=1) > 0.98).float().mean() < 0.5
    for _ in range(15):
        for batch in x[torch.randperm(2000, generator=draw)].split(100):
            layer.step(batch, 0.2)
    similar = planted @ layer.dictionary.T
    similar = similar if nonnegative else similar.abs()
    assert (similar.amax(dim=1) > 0.98).float().mean() > 0.95
    assert len(similar.argmax(dim=1).unique()) > 0.95 * num_atoms


def test_a_step_reports_the_losses_before_the_update() -> None:
    layer, x = random_layer(12, 30), random_frames(50)
    codes = layer.encode(x)
    objective = layer.objective(x, codes).mean().item() / 12
    error = F.mse_loss(layer.decode(codes), x).item()
    by_hand = [
        (frame - sum(z * d for z, d in zip(row, layer.dictionary, strict=True))).square().sum() / 2
        + 0.5 * row.sum()
        for frame, row in zip(x[:3], codes[:3], strict=True)
    ]
    torch.testing.assert_close(layer.objective(x, codes)[:3], torch.stack(by_hand))
    losses = layer.step(x, 0.1)
    assert losses["sparse_objective"].item() == pytest.approx(objective, rel=1e-12)
    assert losses["reconstruction_error"].item() == pytest.approx(error, rel=1e-12)


def test_a_rectified_unit_is_the_first_step_towards_the_code() -> None:
    layer, x = random_layer(12, 30), random_frames(50)
    one_step = torch.relu(layer.hidden_layer()(x)).detach()
    _, lipschitz = layer.gram()
    assert (one_step > 0).any()
    assert (one_step == 0).any()
    torch.testing.assert_close(one_step / lipschitz, layer.encode(x, num_iterations=1))


def test_a_rectified_unit_is_the_code_where_atoms_are_orthonormal() -> None:
    layer, x = SparseCoding(12, 8, 0.5).double(), random_frames(50)
    layer.dictionary.copy_(torch.linalg.qr(torch.randn(12, 12, generator=generator()).double())[0][:8])
    codes = layer.encode(x, num_iterations=5000, tolerance=1e-13)
    torch.testing.assert_close(torch.relu(layer.hidden_layer()(x)).detach(), codes, rtol=0, atol=1e-10)


def test_a_hidden_layer_becomes_a_dictionary_and_back() -> None:
    linear = nn.Linear(12, 7).double()
    layer = SparseCoding.from_hidden_layer(linear, penalty=0.3)
    back = layer.hidden_layer()
    assert (back.in_features, back.out_features, layer.penalty) == (12, 7, 0.3)
    torch.testing.assert_close(back.weight * linear.weight.norm(dim=1, keepdim=True), linear.weight)
    assert back.bias.tolist() == [-0.3] * 7
    again = SparseCoding.from_hidden_layer(back, penalty=0.3)
    torch.testing.assert_close(again.dictionary, layer.dictionary)


def fitted(hidden_dims: tuple[int, ...] = (20, 10, 6), **config: Any) -> tuple[StackedSparseCoding, Tensor]:
    frames = random_frames()
    settings = SparseConfig(**{"num_epochs": 2, "penalty": 0.4, **config})
    return StackedSparseCoding(hidden_dims, "relu", settings).fit(frames, seed=0), frames


def standardised(x: Tensor) -> Tensor:
    scale = x.std(dim=0, correction=0)
    return (x - x.mean(dim=0)) / torch.where(scale > 0, scale, 1.0)


def test_each_layer_codes_the_standardised_codes_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_stack, "MOMENTS_BATCH", 64)  # several batches, the last a smaller one
    stack, frames = fitted()
    codes = frames
    for number, layer in enumerate(stack.layers):
        codes = layer.encode(standardised(codes) if number else codes)
    torch.testing.assert_close(stack.encode(frames), codes)
    assert (codes == 0).any()
    assert (codes > 0).any()


def test_the_network_has_one_step_for_each_minimisation() -> None:
    stack, frames = fitted()
    codes = frames
    for number, layer in enumerate(stack.layers):
        assert isinstance(layer, SparseCoding)
        codes = torch.relu((standardised(codes) if number else codes) @ layer.dictionary.T - 0.4)
    torch.testing.assert_close(stack.transform(frames), codes)
    assert [layer.out_features for layer in stack.hidden_layers()] == [20, 10, 6]


def test_decoding_undoes_each_layer() -> None:
    """In the order of the layers, each code is scaled back to what the layer below gave."""
    stack, frames = fitted((20, 10))
    first, second = stack.layers
    below = first.encode(frames)
    codes = stack.encode(frames)
    mean, scale = below.mean(dim=0), below.std(dim=0, correction=0)
    expected = first.decode(second.decode(codes) * torch.where(scale > 0, scale, 1.0) + mean)
    torch.testing.assert_close(stack.decode(codes), expected)


def test_the_network_takes_the_layers() -> None:
    stack = StackedSparseCoding((16, 12), "relu", SparseConfig(num_epochs=1)).fit(random_frames().float(), seed=0)
    config = DnnConfig(left_context=1, right_context=1, hidden_dims=(16, 12), activation="relu")
    network = FrameDnn(4, config)
    network.load_hidden_layers(stack.hidden_layers())
    assert torch.equal(network.hidden[1].weight, stack.hidden_layers()[1].weight)


def test_units_that_never_fire_leave_everything_finite() -> None:
    stack, frames = fitted((20, 10), penalty=1e3)
    assert not stack.encode(frames).any()
    assert not stack.transform(frames).any()
    assert all(torch.isfinite(layer.weight).all() for layer in stack.hidden_layers())


def test_more_atoms_than_frames_and_frames_of_zero_still_start_apart() -> None:
    layer = SparseCoding(6, 9)
    layer.start_from(torch.zeros(4, 6), generator())
    torch.testing.assert_close(layer.dictionary.norm(dim=1), torch.ones(9))
    similar = layer.dictionary @ layer.dictionary.T
    assert (similar - torch.eye(9)).max() < 0.99
    frame = torch.ones(1, 6)
    layer.start_from(frame, generator())
    assert F.cosine_similarity(layer.dictionary[:1], frame).item() > 0.98
    assert F.cosine_similarity(layer.dictionary[1:], frame).max().item() < 0.98


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("num_reports", [1, 3, 4])
def test_an_interrupted_training_ends_with_the_same_bits(num_reports: int, tmp_path: Path) -> None:
    whole, frames = fitted((20, 10))
    seen: list[PretrainProgress] = []

    def interrupt(progress: PretrainProgress) -> None:
        seen.append(progress)
        if len(seen) == num_reports:
            raise Interrupted

    config = SparseConfig(num_epochs=2, penalty=0.4)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        StackedSparseCoding((20, 10), "relu", config).fit(frames, seed=0, checkpoint=path, on_epoch=interrupt)
    resumed = StackedSparseCoding((20, 10), "relu", config).fit(frames, seed=0, checkpoint=path)
    assert resumed.history == whole.history
    assert torch.equal(resumed.encode(frames), whole.encode(frames))
    assert torch.equal(resumed.transform(frames), whole.transform(frames))


def test_the_seed_decides_every_bit() -> None:
    (first, frames), (again, _) = fitted((20, 10)), fitted((20, 10))
    assert torch.equal(first.encode(frames), again.encode(frames))
    other = StackedSparseCoding((20, 10), "relu", first.config).fit(frames, seed=1)
    assert not torch.equal(first.encode(frames), other.encode(frames))


def test_frames_far_from_standardised_are_told_of() -> None:
    with pytest.raises(DivergenceError, match=r"at layer 1, epoch 1, step 1: sparse_objective is .*standardise"):
        StackedSparseCoding((20,), "relu", SparseConfig()).fit(1e6 * random_frames(), seed=0)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", 1.5, "at most 1, a whole step"),
        ("penalty", 0.0, "a number above 0"),
        ("penalty", float("nan"), "a number above 0"),
        ("num_iterations", 0, "a whole number of at least 1"),
    ],
)
def test_bad_settings_are_named(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=rf"SparseConfig\.{field} is {value}; expected {expected}"):
        SparseConfig(**{field: value})


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r'activation "relu"; found "sigmoid" \(choose "dae", "dbn" or "vae"'):
        StackedSparseCoding([4], "sigmoid", SparseConfig())
    with pytest.raises(InputError, match="found 0 codes; sparse coding needs at least 1"):
        SparseCoding(3, 0)
    with pytest.raises(InputError, match="found 0 iterations"):
        SparseCoding(3, 2, num_iterations=0)
    with pytest.raises(InputError, match=r"penalty is -1\.0; expected a number above 0"):
        SparseCoding(3, 2, -1.0)
    with pytest.raises(InputError, match="these codes have a sign, and rectified units cannot give it"):
        SparseCoding(3, 2, nonnegative=False).hidden_layer()
    linear = nn.Linear(3, 2)
    nn.init.zeros_(linear.weight[1].detach())
    with pytest.raises(InputError, match="the weights of unit 1 have norm 0; an atom needs a direction"):
        SparseCoding.from_hidden_layer(linear)
    stack = StackedSparseCoding([4], "relu", SparseConfig(num_epochs=1))
    for call in (stack.encode, stack.decode, stack.transform):
        with pytest.raises(InputError, match="has no layers yet; call fit first"):
            call(torch.zeros(2, 3))
    stack.fit(random_frames(), seed=0)
    with pytest.raises(InputError, match=r"shape \(4, 3\); expected \(n, 12\) as in fit"):
        stack.encode(torch.zeros(4, 3))
