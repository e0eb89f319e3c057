"""CD-1 on an RBM: samples per second beside scikit-learn, beside plain PyTorch, and beside the bare products.

The bound is the five matrix products that CD-1 cannot do without (up, down, up, and one for each side's
statistics), into buffers that lie ready, in the same precision. It draws no noise and updates nothing, so 1 cannot
be reached; and what it reaches beside a peer is the most that anyone could.

All use as many threads. Each library keeps a pool of its own, whose idle threads spin for some milliseconds: hence
the pause before each call. scikit-learn computes in the precision of the frames it is given; float64 is what NumPy
gives its users.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from harness import Row, compare, parse_arguments, publish
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from spkadapt.pretrain import Rbm, RbmConfig

LEARNING_RATE = 0.001  # Gaussian units diverge at 0.01 on such noise, as they should
PAUSE = 0.05


class PlainRbm(nn.Module):
    """The RBM of the tutorials: `torch.bernoulli`, a free-energy difference, autograd and SGD."""

    def __init__(self, num_visible: int, num_hidden: int, visible: str) -> None:
        super().__init__()
        self.visible = visible
        self.weight = nn.Parameter(0.01 * torch.randn(num_hidden, num_visible))
        self.visible_bias = nn.Parameter(torch.zeros(num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), shape (n,)."""
        hidden_term = F.softplus(F.linear(v, self.weight, self.hidden_bias)).sum(dim=1)
        if self.visible == "gaussian":
            return ((v - self.visible_bias) ** 2).sum(dim=1) / 2 - hidden_term
        return -v @ self.visible_bias - hidden_term

    @torch.no_grad()
    def reconstruct(self, v: Tensor) -> Tensor:
        """One step of Gibbs sampling."""
        h = torch.bernoulli(torch.sigmoid(F.linear(v, self.weight, self.hidden_bias)))
        mean = F.linear(h, self.weight.T, self.visible_bias)
        if self.visible == "gaussian":
            return mean + torch.randn_like(mean)
        return torch.bernoulli(torch.sigmoid(mean))

    def fit_one_epoch(self, frames: Tensor, batch_size: int) -> None:
        """One pass over `frames` with CD-1."""
        optimizer = torch.optim.SGD(self.parameters(), lr=LEARNING_RATE, momentum=0.5, weight_decay=2e-4)
        for indices in torch.randperm(len(frames)).split(batch_size):
            v = frames[indices]
            loss = self.free_energy(v).mean() - self.free_energy(self.reconstruct(v)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def bare_products(
    num_frames: int, num_visible: int, num_hidden: int, batch_size: int, dtype: torch.dtype
) -> Callable[[], None]:
    """The matrix products of one epoch of CD-1, and nothing else."""

    def matrix(num_rows: int, num_columns: int) -> Tensor:
        return torch.rand(num_rows, num_columns).to(dtype)

    weight, gradient = matrix(num_hidden, num_visible), matrix(num_hidden, num_visible)
    v, chain = matrix(batch_size, num_visible), matrix(batch_size, num_visible)
    h, probabilities = matrix(batch_size, num_hidden), matrix(batch_size, num_hidden)

    def epoch() -> None:
        for _ in range(num_frames // batch_size):
            torch.mm(v, weight.T, out=h)
            torch.mm(h, weight, out=chain)
            torch.mm(chain, weight.T, out=probabilities)
            torch.mm(h.T, v, out=gradient)
            gradient.addmm_(probabilities.T, chain, alpha=-1)

    return epoch


def sklearn_epoch(frames: Tensor, num_hidden: int, batch_size: int, dtype: type) -> Callable[[], object]:
    """One pass of scikit-learn's persistent CD-1, which takes the same five products."""
    theirs = BernoulliRBM(num_hidden, learning_rate=LEARNING_RATE, batch_size=batch_size, n_iter=1, random_state=0)
    array = frames.numpy().astype(dtype)
    return lambda: theirs.fit(array)


def benchmark(num_visible: int, num_hidden: int, visible: str, batch_size: int, quick: bool) -> list[Row]:
    num_frames, repeats = batch_size * max(1, (1024 if quick else 5120) // batch_size), 5 if quick else 9
    generator = torch.Generator().manual_seed(0)
    if visible == "gaussian":
        frames = torch.randn(num_frames, num_visible, generator=generator)
    else:
        frames = torch.rand(num_frames, num_visible, generator=generator).round_()
    plain = PlainRbm(num_visible, num_hidden, visible)
    peers: dict[str, Callable[[], object]] = {"PyTorch": lambda: plain.fit_one_epoch(frames, batch_size)}
    if visible == "bernoulli":
        peers["scikit-learn"] = sklearn_epoch(frames, num_hidden, batch_size, np.float32)
        peers["scikit-learn in float64"] = sklearn_epoch(frames, num_hidden, batch_size, np.float64)

    def row(precision: Literal["full", "bfloat16"], name: str, peer: Callable[[], object]) -> Row:
        rbm = Rbm(num_visible, num_hidden, visible, generator=generator)
        config = RbmConfig(learning_rate=LEARNING_RATE, num_epochs=1, batch_size=batch_size, precision=precision)
        dtype = torch.float32 if precision == "full" else torch.bfloat16
        return compare(
            f"CD-1 {visible} {num_visible}×{num_hidden} in {dtype}, batches of {batch_size}, beside {name}",
            num_frames,
            "samples/s",
            ours=lambda: rbm.fit(frames, config, seed=0),
            peer=peer,
            bound=bare_products(num_frames, num_visible, num_hidden, batch_size, dtype),
            repeats=repeats,
            pause=PAUSE,
        )

    rows = [row("full", name, peer) for name, peer in peers.items()]
    # Ours in low precision beside the peer in float32, which is as low as it goes.
    best = "scikit-learn" if visible == "bernoulli" else "PyTorch"
    return [*rows, row("bfloat16", best, peers[best])]


def peak_memory_by_epochs() -> Row:
    """Peak memory of the process after 2 epochs and after 20 more: the peer here is ourselves, earlier."""
    frames = torch.rand(5120, 784)
    rbm = Rbm(784, 500)
    peaks = []
    for num_epochs in (2, 20):
        rbm.fit(frames, RbmConfig(num_epochs=num_epochs, batch_size=512), seed=0)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return Row(
        "peak memory after 20 more epochs, beside 2", peaks[1], peaks[0], None, "MiB", peaks[1] / peaks[0], None
    )


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    rows: list[Row] = [peak_memory_by_epochs()]
    with threadpool_limits(torch.get_num_threads()):
        for num_visible, num_hidden, visible in (
            (784, 500, "bernoulli"),
            (440, 1024, "bernoulli"),
            (440, 1024, "gaussian"),
        ):
            for batch_size in (100, 512):
                rows += benchmark(num_visible, num_hidden, visible, batch_size, arguments.quick)
    publish(f"Pretraining ({torch.get_num_threads()} threads)", rows, arguments.json)


if __name__ == "__main__":
    main()
