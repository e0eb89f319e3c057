"""Convolutional sparse coding against its dense form, and the network of rectified units that it makes."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d
from sklearn.decomposition import sparse_encode
from torch import Tensor

from spkadapt.backbone import DnnConfig, FrameDnn
from spkadapt.errors import InputError
from spkadapt.pretrain.deconv import ConvolutionalSparseCoding, DeconvConfig, DeconvNetwork
from spkadapt.pretrain.sparse import SparseCoding

# Patches (channels, frames, bins), filters, kernels: odd and even, one channel or more, as large as the patch.
GEOMETRIES = [
    ((1, 6, 7), 3, (3, 2)),
    ((2, 5, 8), 4, (2, 5)),
    ((3, 4, 5), 2, (1, 1)),
    ((1, 4, 6), 5, (4, 6)),
    ((2, 1, 9), 3, (1, 4)),
]
every_geometry = pytest.mark.parametrize(("patch_shape", "num_filters", "kernel"), GEOMETRIES)
both_signs = pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def build(
    patch_shape: tuple[int, int, int], num_filters: int, kernel: tuple[int, int], **options: Any
) -> ConvolutionalSparseCoding:
    layer = ConvolutionalSparseCoding(patch_shape, num_filters, kernel, 0.5, **options).double()
    layer.start_from(draw(num_filters, prod(patch_shape), seed=1), generator())
    return layer


def placed_filters(layer: ConvolutionalSparseCoding) -> Tensor:
    """Every filter at every place, as rows (num_codes, num_visible): the Toeplitz matrix, entry by entry."""
    num_filters, channels, frames, bins = layer.filters.shape
    _, height, width = layer.codes_shape
    rows = []
    for k in range(num_filters):
        for top in range(height):
            for left in range(width):
                atom = torch.zeros(layer.patch_shape, dtype=torch.float64)
                for c in range(channels):
                    for i in range(frames):
                        for j in range(bins):
                            atom[c, top + i, left + j] = layer.filters[k, c, i, j]
                rows.append(atom.flatten())
    return torch.stack(rows)


@every_geometry
def test_convolution_and_correlation_are_adjoint(
    patch_shape: tuple[int, int, int], num_filters: int, kernel: tuple[int, int]
) -> None:
    """⟨Dz, x⟩ = ⟨z, Dᵀx⟩ for any z and x."""
    layer = build(patch_shape, num_filters, kernel)
    for seed in range(5):
        codes, x = draw(4, layer.num_codes, seed=seed), draw(4, layer.num_visible, seed=seed + 10)
        there, back = (layer.decode(codes) * x).sum(dim=1), (codes * layer.correlate(x)).sum(dim=1)
        torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-12)


@every_geometry
def test_both_are_products_with_the_toeplitz_matrix(
    patch_shape: tuple[int, int, int], num_filters: int, kernel: tuple[int, int]
) -> None:
    layer = build(patch_shape, num_filters, kernel)
    atoms = placed_filters(layer)
    codes, x = draw(4, layer.num_codes), draw(4, layer.num_visible, seed=1)
    torch.testing.assert_close(layer.dense(), atoms, rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.decode(codes), codes @ atoms)
    torch.testing.assert_close(layer.correlate(x), x @ atoms.T)
    apply, lipschitz = layer.gram()
    torch.testing.assert_close(apply(codes), codes @ atoms @ atoms.T)
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(layer.num_codes).double())
    assert torch.linalg.matrix_norm(atoms, 2).square().item() <= lipschitz <= 1.001 * num_filters * prod(kernel)


def test_decoding_is_the_full_convolution_of_scipy() -> None:
    layer = build((2, 5, 8), 4, (2, 5))
    codes = draw(1, layer.num_codes)
    maps, filters = codes.view(layer.codes_shape).numpy(), layer.filters.numpy()
    expected = [sum(convolve2d(maps[k], filters[k, c]) for k in range(4)) for c in range(2)]
    np.testing.assert_allclose(layer.decode(codes).view(2, 5, 8).numpy(), np.stack(expected), rtol=0, atol=1e-13)


def test_the_bound_on_the_eigenvalues_is_near_for_large_patches_and_exact_without_overlap() -> None:
    layer = build((1, 24, 24), 2, (3, 3))
    exact = torch.linalg.matrix_norm(layer.dense(), 2).square().item()
    assert exact <= layer.gram()[1] <= 1.05 * exact
    pointwise = build((3, 4, 5), 2, (1, 1))
    exact = torch.linalg.matrix_norm(pointwise.filters.flatten(1), 2).square().item()
    assert pointwise.gram()[1] == pytest.approx(1.001 * exact, rel=1e-9)


@both_signs
def test_codes_are_those_of_scikit_learn_on_the_toeplitz_matrix(nonnegative: bool) -> None:
    layer = build((2, 5, 8), 4, (2, 5), nonnegative=nonnegative)
    x = draw(20, layer.num_visible, seed=4)
    atoms = placed_filters(layer).numpy()
    theirs = sparse_encode(x.numpy(), atoms, algorithm="lasso_lars", alpha=0.5, positive=nonnegative)
    ours = layer.encode(x, num_iterations=5000, tolerance=1e-9)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)


def test_a_filter_of_the_patchs_size_is_an_atom_of_a_dense_dictionary() -> None:
    layer = build((1, 4, 6), 5, (4, 6))
    dense = SparseCoding(24, 5, 0.5).double()
    dense.dictionary.copy_(layer.filters.flatten(1))
    x = draw(20, 24, seed=4)
    options = {"num_iterations": 5000, "tolerance": 1e-10}
    torch.testing.assert_close(layer.encode(x, **options), dense.encode(x, **options), rtol=0, atol=1e-8)


@every_geometry
def test_the_update_is_a_scaled_gradient_step_onto_the_sphere(
    patch_shape: tuple[int, int, int], num_filters: int, kernel: tuple[int, int]
) -> None:
    """The gradient by autograd; one scale for each filter, no less than the exact curvature needs."""
    layer = build(patch_shape, num_filters, kernel, nonnegative=False)
    x = draw(3, layer.num_visible, seed=4)
    codes = layer.encode(x)
    filters = layer.filters.clone()

    def squared(free: Tensor) -> Tensor:
        maps = codes.unflatten(1, layer.codes_shape)
        return (x.unflatten(1, patch_shape) - F.conv_transpose2d(maps, free)).square().sum() / 2

    def of_absolute_codes(free: Tensor) -> Tensor:
        return F.conv_transpose2d(codes.abs().unflatten(1, layer.codes_shape), free).square().sum() / 2

    gradient = torch.autograd.functional.jacobian(squared, filters).flatten(1)
    hessian = torch.autograd.functional.hessian(squared, filters).view(filters.numel(), -1)
    layer.update(x, codes, 0.3)
    moved, before = layer.filters.flatten(1), filters.flatten(1)
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(num_filters).double())
    # moved ∝ before − (0.3 / r) gradient: solve for the two factors, of which the second over the first is 0.3 / r
    curvature = []
    for k in range(num_filters):
        basis = torch.stack((before[k], -gradient[k]), dim=1)
        factors = torch.linalg.lstsq(basis, moved[k]).solution
        torch.testing.assert_close(basis @ factors, moved[k])
        curvature.append(0.3 * factors[0] / factors[1])
    above = torch.stack(curvature).repeat_interleave(before.shape[1])
    lowest = torch.linalg.eigvalsh(torch.diag(above) - hessian)[0].item()
    assert -1e-9 * above.max().item() <= lowest < above.max().item()
    rows = torch.autograd.functional.hessian(of_absolute_codes, filters).view(filters.numel(), -1).sum(dim=1)
    torch.testing.assert_close(torch.stack(curvature), rows.view(num_filters, -1).amax(dim=1))


@both_signs
def test_the_objective_never_increases_under_exact_alternation(nonnegative: bool) -> None:
    layer = build((2, 5, 8), 4, (2, 5), nonnegative=nonnegative)
    x = draw(40, layer.num_visible, seed=4)
    values = []
    for _ in range(10):
        codes = layer.encode(x, num_iterations=2000, tolerance=1e-8)
        values.append(layer.objective(x, codes).sum().item())
        layer.update(x, codes, 1.0)
        values.append(layer.objective(x, codes).sum().item())
    assert (np.diff(values) < 1e-7 * values[0]).all()
    assert values[-1] < 0.98 * values[0]


def test_unused_filters_stay_where_they_are() -> None:
    layer = build((1, 6, 7), 3, (3, 2))
    before = layer.filters.clone()
    x = draw(5, layer.num_visible)
    codes = torch.zeros(5, layer.num_codes, dtype=torch.float64)
    codes[:, 0] = 1.0
    layer.update(x, codes, 1.0)
    torch.testing.assert_close(layer.filters[1:].detach(), before[1:], rtol=0, atol=1e-15)
    # map 0 is 1 at its first place and 0 elsewhere: one whole step goes to the mean of what lies there
    under = x.view(5, 6, 7)[:, :3, :2].mean(dim=0)
    assert F.cosine_similarity(layer.filters[0].flatten(), under.flatten(), dim=0) > F.cosine_similarity(
        before[0].flatten(), under.flatten(), dim=0
    )


def test_filters_start_as_parts_of_patches() -> None:
    """Of ramps that tell their place: each filter is the window at one of the places, but for the noise."""
    layer = ConvolutionalSparseCoding((1, 6, 7), 3, (3, 2)).double()
    ramp = 10 * torch.arange(42, dtype=torch.float64).square()
    layer.start_from(ramp.expand(3, -1), generator())
    windows = F.unfold(ramp.view(1, 1, 6, 7), (3, 2))[0].T
    similar = F.normalize(layer.filters.flatten(1), dim=1) @ F.normalize(windows, dim=1).T
    assert (similar.amax(dim=1) > 1 - 1e-4).all()
    assert len(set(similar.argmax(dim=1).tolist())) == 3


def test_planted_filters_are_found_up_to_order_and_place() -> None:
    """From noise alone. Filters one larger than the planted ones may hold them shifted."""
    planted = F.normalize(torch.randn(3, 9, generator=generator(3)), dim=1).view(3, 1, 3, 3)
    draws = generator(5)
    maps = torch.rand(200, 3, 6, 6, generator=draws) + 1
    maps *= torch.rand(maps.shape, generator=draws) < 0.02
    x = F.conv_transpose2d(F.pad(maps, (1, 1, 1, 1)), planted).flatten(1)
    layer = ConvolutionalSparseCoding((1, 10, 10), 3, (4, 4), 0.1, 30)
    layer.start_from(torch.zeros(3, 100), draws)

    def similar() -> Tensor:
        """Greatest inner product of each planted filter with each found one, over all shifts."""
        return F.conv2d(F.pad(layer.filters.detach(), (2, 2, 2, 2)), planted).flatten(2).amax(dim=2)

    assert (similar().amax(dim=0) < 0.9).all()
    for _ in range(15):
        for batch in x[torch.randperm(200, generator=draws)].split(50):
            layer.step(batch, 1.0)
    assert (similar().amax(dim=0) > 0.95).all()
    assert sorted(similar().argmax(dim=0).tolist()) == [0, 1, 2]


CONFIG = DeconvConfig(
    patch_shape=(1, 6, 7), num_filters=(4, 3), kernels=((3, 2), (2, 3)), penalty=0.4, num_epochs=2, batch_size=50
)


def fitted(seed: int = 0, config: DeconvConfig = CONFIG) -> tuple[DeconvNetwork, Tensor]:
    patches = torch.randn(150, *config.patch_shape, generator=generator(6), dtype=torch.float64)
    return DeconvNetwork(config).fit_patches(patches, seed=seed), patches


def standardised(maps: Tensor) -> Tensor:
    """Each map over samples and places."""
    dims = (0, 2, 3)
    return (maps - maps.mean(dims, keepdim=True)) / maps.std(dims, correction=0, keepdim=True)


def test_its_layers_are_the_convolutions_of_a_rectifier_network() -> None:
    network, patches = fitted()
    first, second = network.layers
    assert isinstance(first, ConvolutionalSparseCoding)
    assert isinstance(second, ConvolutionalSparseCoding)
    maps = torch.relu(F.conv2d(patches, first.filters) - 0.4)
    maps = torch.relu(F.conv2d(standardised(maps), second.filters) - 0.4)
    assert maps.shape == (150, 3, 3, 4)
    torch.testing.assert_close(network.transform(patches.flatten(1)), maps.flatten(1))
    assert network.hidden_dims == (96, 36)


def test_each_layer_codes_the_standardised_maps_below() -> None:
    network, patches = fitted()
    first, second = network.layers
    maps = standardised(first.encode(patches.flatten(1)).unflatten(1, (4, 4, 6)))
    expected = second.encode(maps.flatten(1)).unflatten(1, (3, 3, 4))
    torch.testing.assert_close(network.encode_patches(patches), expected)
    assert 0.1 < (expected == 0).double().mean() < 0.95


def test_decoding_gives_patches_back() -> None:
    """With a penalty near zero and more codes than dimensions, the code loses next to nothing."""
    config = DeconvConfig(patch_shape=(1, 4, 5), num_filters=(12,), kernels=((2, 2),), penalty=1e-3, num_epochs=3)
    network, patches = fitted(config=config)
    back = network.decode_patches(network.encode_patches(patches, tolerance=1e-6))
    assert back.shape == patches.shape
    assert (back - patches).square().mean() < 0.1 * patches.square().mean()


def test_the_frame_network_takes_the_layers_over_spliced_frames() -> None:
    config = DeconvConfig(patch_shape=(1, 3, 4), num_filters=(5,), kernels=((2, 3),), num_epochs=1)
    network = DeconvNetwork(config).fit(torch.randn(60, 12, generator=generator()), seed=0)
    assert network.hidden_dims == (20,)
    shape = DnnConfig(left_context=1, right_context=1, hidden_dims=(20,), activation="relu", frame_subsampling=1)
    backbone = FrameDnn(4, shape)
    backbone.load_hidden_layers(network.hidden_layers())
    features = torch.randn(1, 3, 4, generator=generator(1))
    units: list[Tensor] = []
    backbone.hidden[0].register_forward_hook(lambda module, inputs, output: units.append(torch.relu(output)))
    with torch.no_grad():
        backbone.eval()(features, torch.tensor([3]))
    layer = network.layers[0]
    assert isinstance(layer, ConvolutionalSparseCoding)
    expected = torch.relu(F.conv2d(features[:, None], layer.filters) - config.penalty)
    torch.testing.assert_close(units[0][0, 1], expected.flatten())  # the middle frame sees all three


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, patches = fitted()
    num_left = [3]

    def interrupt(progress: object) -> None:
        num_left[0] -= 1
        if not num_left[0]:
            raise Interrupted

    flat, path = patches.flatten(1), tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        DeconvNetwork(CONFIG).fit(flat, seed=0, checkpoint=path, on_epoch=interrupt)
    resumed = DeconvNetwork(CONFIG).fit(flat, seed=0, checkpoint=path)
    assert resumed.history == whole.history
    assert torch.equal(resumed.encode_patches(patches), whole.encode_patches(patches))
    other, _ = fitted(seed=1)
    assert not torch.equal(other.encode_patches(patches), whole.encode_patches(patches))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_shape": (11, 40)}, r"patch_shape is \(11, 40\); expected 3 whole numbers of at least 1"),
        ({"patch_shape": (1, 0, 40)}, r"patch_shape is \(1, 0, 40\)"),
        ({"num_filters": ()}, r"num_filters is \(\); expected one whole number or more of at least 1"),
        ({"num_filters": (4, 2)}, "kernels is .*expected frames and bins, of at least 1, for each of 2 layers"),
        ({"kernels": ((0, 2),)}, "kernels is .*of at least 1"),
        ({"kernels": ((12, 8),)}, "12 × 8 of layer 1 is larger than its input of 11 × 40 frames and bins"),
        (
            {"num_filters": (4, 4), "kernels": ((10, 8), (3, 3))},
            "3 × 3 of layer 2 is larger than its input of 2 × 33 frames and bins",
        ),
        ({"penalty": -1.0}, r"DeconvConfig\.penalty is -1\.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeconvConfig(**settings)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="3 filters of 5 × 2 do not lie within a patch of 1 × 4 × 4 channels"):
        ConvolutionalSparseCoding((1, 4, 4), 3, (5, 2))
    with pytest.raises(InputError, match=r"found patches of shape \(9, 1, 7, 6\); expected \(n, 1, 6, 7\)"):
        DeconvNetwork(CONFIG).fit_patches(torch.zeros(9, 1, 7, 6), seed=0)
    with pytest.raises(
        InputError, match=r"frames have 40 dimensions; expected 42, those of patches of \(1, 6, 7\)"
    ):
        DeconvNetwork(CONFIG).fit(torch.zeros(9, 40), seed=0)
    with pytest.raises(InputError, match="this DeconvNetwork has no layers yet; call fit first"):
        DeconvNetwork(CONFIG).encode_patches(torch.zeros(9, 1, 6, 7))
    with pytest.raises(InputError, match="these codes have a sign"):
        build((1, 6, 7), 3, (3, 2), nonnegative=False).hidden_layer()
