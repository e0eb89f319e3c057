"""Reconstruction as a task that both domains have: what a network keeps of its input needs no label.

Domain separation splits rows into a part that both domains share and a part private to each; a decoder of
embeddings is the plain form, in which the backbone is the encoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spkadapt.align.adversarial import DomainAdversarialLoss
from spkadapt.align.directions import check_batch, check_equal_batches, unit
from spkadapt.align.pair import check_pair
from spkadapt.align.variational import GaussianEncoder, balanced_mean, check_sizes, two_layers
from spkadapt.errors import InputError


def difference_loss(shared: Tensor, private: Tensor) -> Tensor:
    """How much two codes of the same rows have in common, linearly (Bousmalis et al. 2016).

        L = ‖mean over rows of u vᵀ‖²_F,   u = (s − s̄) / ‖s − s̄‖,   v = (p − p̄) / ‖p − p̄‖

    Zero where no direction of one correlates with any of the other, and at most 1. Centring and unit lengths are
    those of the authors' code: without them small codes would do. The mean in place of their sum makes the loss
    independent of the batch size. A single row has nothing in common with anything.

    Shape:
        shared, private: `(batch, dim)`, the same of both
        returns a scalar

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, or the shapes differ.
    """
    shared, private = check_equal_batches(shared, private, ("shared", "private"))
    with torch.autocast(shared.device.type, enabled=False):
        first, second = _centred_directions(shared), _centred_directions(private)
        return (first.T @ second / len(first)).square().sum()


def scale_invariant_mse(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Mean squared error that an offset common to all dimensions of a row does not change (Eigen et al. 2014).

        L = mean over rows of [‖e‖² / k − (Σ e)² / k²],   e = output − input

    as in domain separation networks (Bousmalis et al. 2016): the variance of a row's k errors. On
    logarithms, such as a filter bank's, an offset is a change of scale.

    Shape:
        outputs, inputs: `(batch, dim)`, the same of both
        returns a scalar

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, or the shapes differ.
    """
    outputs, inputs = check_equal_batches(outputs, inputs, ("outputs", "inputs"))
    with torch.autocast(outputs.device.type, enabled=False):
        return _variances(outputs - inputs).mean()


def _centred_directions(rows: Tensor) -> Tensor:
    """Unit vectors of the rows about their mean, which is summed in float64: equal rows are exactly zero."""
    return unit(rows - rows.mean(dim=0, dtype=torch.float64).to(rows.dtype))


def _variances(errors: Tensor) -> Tensor:
    """The variance of each row's numbers, `(batch, dim)` → `(batch,)`."""
    return (errors - errors.mean(dim=1, keepdim=True)).square().mean(dim=1)


class DomainSeparationLoss(nn.Module):
    """Reconstruction from a shared and a private code (domain separation networks, Bousmalis et al. 2016).

        L = scale_invariant_mse(decoder(c + p), x) + difference_weight · difference_loss(c, p) + L_domain(c)

    with c = E_shared(x), and p = E_source(x) or E_target(x); L_domain is DANN's loss with its gradient reversal.
    The private codes have room for what only one domain has, which the shared code is then free of. Each domain
    weighs half. A speaker loss on the shared code is the caller's (`encode`). The rows to be reconstructed are
    constants to the gradient: else shrinking them would do.

    In training, `noise` makes the encoders see x + noise · rms(x) · N(0, I) and reconstruct x (denoising
    autoencoder, Vincent et al. 2010); `kl_weight` makes the codes Gaussian and adds kl_weight / dim · their KL
    divergence from the standard normal (variational autoencoder, Kingma & Welling 2014). Draws are torch's default
    generator's, on the CPU. Computed in the networks' own precision whatever the input and autocast.

    Args:
        dim: of the rows, embeddings or frames.
        code_dim: of the codes.
        hidden_dim: hidden units of every network.
        scale: strength of the reversed gradient that the shared encoder receives.
        difference_weight: of the difference loss.
        noise: zero leaves the rows as they are.
        kl_weight: zero leaves the codes without a distribution.

    Raises:
        InputError: a dimension is less than one, or another argument is negative or infinite.
    """

    def __init__(
        self,
        dim: int,
        code_dim: int = 64,
        hidden_dim: int = 256,
        scale: float = 1.0,
        difference_weight: float = 1.0,
        noise: float = 0.0,
        kl_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("domain separation", dim=dim, code_dim=code_dim, hidden_dim=hidden_dim)
        for name, value in (
            ("difference_weight", difference_weight), ("noise", noise), ("kl_weight", kl_weight)
        ):  # fmt: skip
            if not 0 <= value < math.inf:
                raise InputError(f"{name} of the domain separation is {value}; expected zero or more, and finite")
        self.dim = dim
        self.difference_weight = difference_weight
        self.noise = noise
        self.kl_weight = kl_weight
        encoder = GaussianEncoder if kl_weight else two_layers
        self.shared = encoder(dim, hidden_dim, code_dim)
        self.private = nn.ModuleList([encoder(dim, hidden_dim, code_dim) for _ in range(2)])
        self.decoder = two_layers(code_dim, hidden_dim, dim)
        self.adversary = DomainAdversarialLoss(code_dim, hidden_dim, scale)

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss.

        Raises:
            InputError: a batch is not `(batch, dim)` or is empty, or its `dim` is not the encoders'.
        """
        source, target_domain = check_pair(source, target_domain)
        with torch.autocast(source.device.type, enabled=False):
            codes, losses = [], []
            for rows, private_encoder in zip((source, target_domain), self.private, strict=True):
                rows = self._check(rows)
                seen = self._noisy(rows)
                (shared, shared_kl), (private, private_kl) = _draw(self.shared, seen), _draw(private_encoder, seen)
                loss = scale_invariant_mse(self.decoder(shared + private), rows.detach())
                loss = loss + self.difference_weight * difference_loss(shared, private)
                losses.append(loss + self.kl_weight / self.dim * (shared_kl + private_kl))
                codes.append(shared)
            return (losses[0] + losses[1]) / 2 + self.adversary(*codes)

    def encode(self, rows: Tensor) -> Tensor:
        """Shared codes `(batch, code_dim)`, of Gaussian ones the means, of `(batch, dim)` of either domain."""
        rows = self._check(check_batch(rows, "rows"))
        with torch.autocast(rows.device.type, enabled=False):
            codes = self.shared(rows)
            return codes[0] if self.kl_weight else codes

    def _noisy(self, rows: Tensor) -> Tensor:
        if not self.noise or not self.training:
            return rows
        size = rows.detach().square().mean().sqrt()
        return rows + self.noise * size * torch.randn(rows.shape).to(rows)

    def _check(self, rows: Tensor) -> Tensor:
        """Rows in the networks' precision, if they are of the right dimension."""
        if rows.shape[1] != self.dim:
            raise InputError(f"rows have dim {rows.shape[1]}; the domain separation has {self.dim}")
        return rows.to(next(self.parameters()).dtype)


def _draw(encoder: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and the mean of their KL divergence from the prior, which is zero of codes without a distribution."""
    if isinstance(encoder, GaussianEncoder):
        codes, divergences = encoder.draw(rows)
        return codes, divergences.mean()
    return encoder(rows), rows.new_zeros(())


class ReconstructionLoss(nn.Module):
    """The inputs of both domains decoded from the embeddings (DRCN, Ghifary et al. 2016).

        L = ½ mean over the source of ‖y − decoder(x)‖² / k + ½ mean over the target domain of the same

    x is an embedding and y its input or a summary of it, such as the mean filter bank of the frames, of k numbers.
    The backbone is the encoder; where it saw y with noise added, this is the denoising autoencoder of the paper,
    which reconstructs the target domain alone. Computed in the decoder's own precision whatever the input and
    autocast.

    Args:
        dim: dimension of the embeddings.
        num_outputs: k.
        hidden_dim: hidden units of the decoder.

    Raises:
        InputError: a size is less than one.
    """

    def __init__(self, dim: int, num_outputs: int, hidden_dim: int = 256) -> None:
        super().__init__()
        check_sizes("decoder", dim=dim, num_outputs=num_outputs, hidden_dim=hidden_dim)
        self.dim, self.num_outputs = dim, num_outputs
        self.decoder = two_layers(dim, hidden_dim, num_outputs)

    def forward(
        self, source: Tensor, source_inputs: Tensor, target_domain: Tensor, target_inputs: Tensor
    ) -> Tensor:
        """Embeddings and inputs of each domain → scalar loss.

        Shape:
            source, source_inputs: `(num_source, dim)`, `(num_source, num_outputs)`
            target_domain, target_inputs: `(num_target, dim)`, `(num_target, num_outputs)`

        Raises:
            InputError: other shapes or dtypes than these.
        """
        source, target_domain = check_pair(source, target_domain)
        if source.shape[1] != self.dim:
            raise InputError(f"embeddings have dim {source.shape[1]}; the decoder has {self.dim}")
        dtype = next(self.parameters()).dtype
        with torch.autocast(source.device.type, enabled=False):
            outputs = self.decoder(torch.cat([source, target_domain]).to(dtype))
            inputs = torch.cat(
                [
                    self._check(source_inputs, len(source), "source_inputs"),
                    self._check(target_inputs, len(target_domain), "target_inputs"),
                ]
            )
            return balanced_mean((outputs - inputs.to(dtype)).square().mean(dim=1), len(source))

    def _check(self, inputs: Tensor, num_rows: int, name: str) -> Tensor:
        inputs = check_batch(inputs, name)
        if inputs.shape != (num_rows, self.num_outputs):
            raise InputError(
                f"{name} has shape {tuple(inputs.shape)}; expected ({num_rows}, {self.num_outputs}), "
                "a row of each embedding and a column of each output"
            )
        return inputs.detach()
