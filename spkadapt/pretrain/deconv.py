"""Deconvolutional networks: convolutional sparse coding of time-frequency patches (Zeiler et al. 2010)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.sparse_stack import SparseConfig, SparseLayer, SparseStack

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class DeconvConfig(SparseConfig):
    """How a deconvolutional network is built and trained.

    Attributes:
        patch_shape: channels, frames and bins of a patch. A spliced frame of 11 × 40 filterbanks is (1, 11, 40).
        num_filters: feature maps of each layer, bottom first.
        kernels: frames and bins of each layer's filters.

    All else is as in `SparseConfig`; `penalty` is for a filter as it is there for a whole frame.

    Raises:
        InputError: a value out of its range, or a filter that is larger than what it is laid over.
    """

    patch_shape: Shape = (1, 11, 40)
    num_filters: tuple[int, ...] = (16,)
    kernels: tuple[tuple[int, int], ...] = ((5, 8),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, sizes, length in (("patch_shape", self.patch_shape, 3), ("num_filters", self.num_filters, None)):
            proper = len(sizes) == length or (length is None and len(sizes) > 0)
            count = "one whole number or more" if length is None else f"{length} whole numbers"
            self.require(name, proper and min(sizes) >= 1, f"{count} of at least 1")
        proper = all(len(kernel) == 2 and min(kernel) >= 1 for kernel in self.kernels)
        self.require(
            "kernels",
            proper and len(self.kernels) == len(self.num_filters),
            f"frames and bins, of at least 1, for each of {len(self.num_filters)} layers",
        )
        for layer, ((_, frames, bins), kernel) in enumerate(zip(self.shapes, self.kernels, strict=False), start=1):
            if kernel[0] > frames or kernel[1] > bins:
                raise InputError(
                    f"DeconvConfig.kernels: {kernel[0]} × {kernel[1]} of layer {layer} is larger than its input "
                    f"of {frames} × {bins} frames and bins"
                )

    @property
    def shapes(self) -> list[Shape]:
        """Channels, frames and bins of the patch and of each layer's codes, bottom first."""
        sizes = zip(self.num_filters, self.kernels, strict=True)

        def above(shape: Shape, size: tuple[int, tuple[int, int]]) -> Shape:
            return codes_shape(shape, *size)

        return list(accumulate(sizes, above, initial=self.patch_shape))


def codes_shape(patch_shape: Shape, num_filters: int, kernel: tuple[int, int]) -> Shape:
    """Channels, frames and bins of the codes: a map for each filter, of its places within the patch."""
    _, frames, bins = patch_shape
    return num_filters, frames - kernel[0] + 1, bins - kernel[1] + 1


class ConvolutionalSparseCoding(SparseLayer):
    """One layer: x_c ≈ Σ_k z_k ∗ f_{k,c}, ‖f_k‖ = 1: every filter at every place is an atom.

    The convolution is a full one, so that maps are smaller than the patch and each atom lies wholly within it: all
    atoms have norm 1, and Dᵀ is the valid correlation. (Zeiler et al. have maps larger than the image, so that
    filters reach over its edge: pad the patches to have that.) Every filter sees every channel. Their penalty is
    |z|^p at a weight of 1 with λ/2 before the squares; here p = 1 and λ is before the codes, as it is in `sparse`.

    Args:
        patch_shape: channels C, frames and bins of x.
        num_filters: K.
        kernel: frames and bins of a filter.
        penalty: λ.
        num_iterations: steps of FISTA.
        nonnegative: whether z ≥ 0.

    Attributes:
        filters: (K, C, frames, bins)

    Raises:
        InputError: an empty dimension, a filter larger than the patch, a penalty that is not above 0, or no
            iteration.
    """

    def __init__(
        self,
        patch_shape: Shape,
        num_filters: int,
        kernel: tuple[int, int],
        penalty: float = SparseConfig.penalty,
        num_iterations: int = SparseConfig.num_iterations,
        *,
        nonnegative: bool = True,
    ) -> None:
        self.patch_shape, self.codes_shape = patch_shape, codes_shape(patch_shape, num_filters, kernel)
        if min(*patch_shape, *self.codes_shape, *kernel) < 1:
            raise InputError(
                f"{num_filters} filters of {kernel[0]} × {kernel[1]} do not lie within a patch of "
                f"{' × '.join(map(str, patch_shape))} channels, frames and bins"
            )
        super().__init__(
            prod(patch_shape), prod(self.codes_shape), penalty, num_iterations, nonnegative=nonnegative
        )
        filters = torch.full((num_filters, patch_shape[0], *kernel), (patch_shape[0] * prod(kernel)) ** -0.5)
        self.filters = nn.Parameter(filters, requires_grad=False)

    @torch.no_grad()
    def start_from(self, examples: Tensor, generator: torch.Generator) -> None:
        """Set the filters to random parts of `examples (m, num_visible)`; see `SparseLayer.start_from`."""
        filters = torch.randn(self.filters.shape, generator=generator).to(self.filters) / 10
        _, frames, bins = filters.shape[1:]
        patches = examples[: len(filters)].unflatten(1, self.patch_shape)
        windows = patches.unfold(2, frames, 1).unfold(3, bins, 1)  # (m, C, places, places, frames, bins)
        height, width = windows.shape[2:4]
        place = torch.randint(height * width, (len(windows),), generator=generator).to(examples.device)
        chosen = windows.flatten(2, 3).movedim(2, 1)[torch.arange(len(windows)), place]
        filters[: len(chosen)] += chosen
        self.filters.copy_(_unit_norm(filters))

    def correlate(self, x: Tensor) -> Tensor:
        """Dᵀx, (n, num_codes): the valid correlation of `x (n, num_visible)` with each filter."""
        return F.conv2d(x.unflatten(1, self.patch_shape), self.filters).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Dz, (n, num_visible): the full convolution of `codes (n, num_codes)` with the filters, summed."""
        return F.conv_transpose2d(codes.unflatten(1, self.codes_shape), self.filters).flatten(1)

    def gram(self) -> tuple[Callable[[Tensor], Tensor], float]:
        """z → DᵀDz by both convolutions, and the bound on its eigenvalues by the Fourier transform.

        On a circle of the patch's size, to which the maps are filled up by zeros, the same convolution is diagonal
        in frequency: ‖Dz‖² ≤ L‖z‖² where L is the greatest squared singular value of any of the (C, K) matrices of
        the filters' transforms.
        """
        transforms = torch.fft.rfft2(self.filters, s=self.patch_shape[1:]).flatten(2).permute(2, 1, 0)
        smaller = transforms if transforms.shape[1] <= transforms.shape[2] else transforms.mT
        eigenvalues = torch.linalg.eigvalsh(smaller @ smaller.mH)
        # The last bits are lost to rounding, on the side that a step of 1/L must not err on.
        return lambda codes: self.correlate(self.decode(codes)), 1.001 * eigenvalues.max().item()

    def share(self, values: Tensor) -> Tensor:
        """The mean of `values (num_codes,)` over each map: what stands above a map is the same at all places."""
        maps = values.unflatten(0, self.codes_shape)
        return maps.mean(dim=(1, 2), keepdim=True).expand_as(maps).flatten()

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor, weight: float) -> None:
        """One projected gradient step on this mini-batch's F, with a step size of its own for each filter.

            f_k ← normalise(f_k − weight / r_k · ∂F/∂f_k),    r_k = max over the taps of f_k of (H1)_k

        where H is the Hessian of F with the absolute values of the codes for the codes: diag(H1) lies above the
        true one, as in `SparseCoding.update`, so that with a weight of at most 1 the step does not increase F.
        """
        patches = (x - self.decode(codes)).unflatten(1, self.patch_shape)
        maps = codes.unflatten(1, self.codes_shape)
        descent = _taps(maps, patches)
        covered = F.conv_transpose2d(maps.abs(), torch.ones_like(self.filters[:, :1]))
        # All channels have the same curvature; a channel's filter meets the others' only in the norm.
        curvature = _taps(maps.abs(), covered).amax(dim=(1, 2, 3), keepdim=True)
        inverse = torch.where(curvature > 0, weight / curvature, 0)
        self.filters.copy_(_unit_norm(self.filters + descent * inverse))


def _taps(maps: Tensor, patches: Tensor) -> Tensor:
    """What lies under each tap of filter k, times map k, summed over samples and places.

    Shape: maps (n, K, places) and patches (n, C, frames, bins) → (K, C, frames and bins of a filter).
    """
    return F.conv2d(patches.transpose(0, 1), maps.transpose(0, 1)).transpose(0, 1)


def _unit_norm(filters: Tensor) -> Tensor:
    return F.normalize(filters.flatten(1), dim=1).view_as(filters)


class DeconvNetwork(SparseStack):
    """Layers of `ConvolutionalSparseCoding`, each on the feature maps of the one below; see `SparseStack`.

    Its layers are those of a rectifier network on flattened patches, e.g. spliced frames: each filter at each
    place is a unit. Their number follows from the shapes, so that `hidden_dims` is an outcome here, and
    `PRETRAINERS`, which are built for a given one, do not hold this class; all else is as in any `Pretrainer`.
    Mean and deviation of the codes are taken over a map.

    Args:
        config: how to build and train.

    Attributes:
        hidden_dims: codes of each layer, bottom first: maps × frames × bins.
    """

    config: DeconvConfig

    def __init__(self, config: DeconvConfig) -> None:
        super().__init__(tuple(map(prod, config.shapes[1:])), "relu", config)

    def fit_patches(self, patches: Tensor, *, seed: int) -> DeconvNetwork:
        """Train on `patches (n, channels, frames, bins)`; as `fit` on the same patches, flattened.

        Raises:
            InputError: patches of another shape than the configuration's.
        """
        return self.fit(self._flatten(patches, self.config.shapes[0]), seed=seed)

    def encode_patches(self, patches: Tensor, *, tolerance: float = 0.0) -> Tensor:
        """The top layer's feature maps (n, maps, frames, bins), by FISTA; see `encode`.

        Raises:
            InputError: called before `fit`, or patches of another shape than the configuration's.
        """
        flat = self._flatten(patches, self.config.shapes[0])
        return self.encode(flat, tolerance=tolerance).unflatten(1, self.config.shapes[-1])

    def decode_patches(self, maps: Tensor) -> Tensor:
        """The patches (n, channels, frames, bins) that the top layer's `maps` stand for; see `decode`.

        Raises:
            InputError: called before `fit`, or maps of another shape than the top layer's.
        """
        flat = self._flatten(maps, self.config.shapes[-1])
        return self.decode(flat).unflatten(1, self.config.shapes[0])

    @staticmethod
    def _flatten(patches: Tensor, shape: Shape) -> Tensor:
        if patches.shape[1:] != shape:
            raise InputError(
                f"found patches of shape {tuple(patches.shape)}; expected (n, {', '.join(map(str, shape))})"
            )
        return patches.flatten(1)

    def _build_layer(self, layer: int, num_visible: int) -> ConvolutionalSparseCoding:
        config = self.config
        shape = config.shapes[layer - 1]
        if num_visible != prod(shape):
            raise InputError(
                f"frames have {num_visible} dimensions; expected {prod(shape)}, those of patches of {shape}"
            )
        return ConvolutionalSparseCoding(
            shape, config.num_filters[layer - 1], config.kernels[layer - 1], config.penalty, config.num_iterations
        )
