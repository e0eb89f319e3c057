"""CD-1 on an RBM: samples per second beside scikit-learn, beside plain PyTorch, and beside the bare products.

The bound is the five matrix products that CD-1 cannot do without (up, down, up, and one for each side's
statistics), into buffers that lie ready. It draws no noise and updates nothing, so 1 cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import Row, compare, parse_arguments, publish
from sklearn.neural_network import BernoulliRBM
from torch import Tensor, nn

from spkadapt.pretrain import Rbm, RbmConfig

LEARNING_RATE = 0.001  # Gaussian units diverge at 0.01 on such noise, as they should


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


def bare_products(num_frames: int, num_visible: int, num_hidden: int, batch_size: int) -> Callable[[], None]:
    """The matrix products of one epoch of CD-1, and nothing else."""
    weight, gradient = torch.randn(num_hidden, num_visible), torch.empty(num_hidden, num_visible)
    v, chain = torch.rand(batch_size, num_visible), torch.rand(batch_size, num_visible)
    h, probabilities = torch.rand(batch_size, num_hidden), torch.rand(batch_size, num_hidden)

    def epoch() -> None:
        for _ in range(num_frames // batch_size):
            torch.mm(v, weight.T, out=h)
            torch.mm(h, weight, out=chain)
            torch.mm(chain, weight.T, out=probabilities)
            torch.mm(h.T, v, out=gradient)
            gradient.addmm_(probabilities.T, chain, alpha=-1)

    return epoch


def benchmark(num_visible: int, num_hidden: int, visible: str, batch_size: int, quick: bool) -> list[Row]:
    num_frames, repeats = batch_size * max(1, (1024 if quick else 5120) // batch_size), 5 if quick else 9
    generator = torch.Generator().manual_seed(0)
    if visible == "gaussian":
        frames = torch.randn(num_frames, num_visible, generator=generator)
    else:
        frames = torch.rand(num_frames, num_visible, generator=generator).round_()
    config = RbmConfig(learning_rate=LEARNING_RATE, num_epochs=1, batch_size=batch_size)
    rbm = Rbm(num_visible, num_hidden, visible, generator=generator)
    plain = PlainRbm(num_visible, num_hidden, visible)
    peers: dict[str, Callable[[], object]] = {"PyTorch": lambda: plain.fit_one_epoch(frames, batch_size)}
    if visible == "bernoulli":
        theirs = BernoulliRBM(
            num_hidden, learning_rate=LEARNING_RATE, batch_size=batch_size, n_iter=1, random_state=0
        )
        array = frames.numpy()
        peers["scikit-learn"] = lambda: theirs.fit(array)
    bound = bare_products(num_frames, num_visible, num_hidden, batch_size)
    return [
        compare(
            f"CD-1 {visible} {num_visible}×{num_hidden}, batches of {batch_size}, beside {name}",
            num_frames,
            "samples/s",
            ours=lambda: rbm.fit(frames, config, seed=0),
            peer=peer,
            bound=bound,
            repeats=repeats,
        )
        for name, peer in peers.items()
    ]


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    rows: list[Row] = []
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
