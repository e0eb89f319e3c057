"""Four ways to train a frame classifier, alike in all but what they are compared for.

    "supervised"         all layers from random weights, with labels
    "frozen"             pretrained hidden layers stay as they are; the output layer is trained
    "finetune"           pretrained hidden layers, then all layers trained
    "greedy_supervised"  each hidden layer trained in turn with labels, under an output layer that is thrown away,
                         then all layers trained: the control of Bengio et al. (2007), which shows what layer-wise
                         training does without being unsupervised

With one seed all four see the labelled frames in the same order, start from the same output layer and take the
same steps. Every random choice has a generator of its own, of the seed and of what is drawn: a hidden layer starts
from the same weights whatever lies above it. The first layers of a deep greedy stack are therefore those of a
shallow one, as they are of a stacked autoencoder or DBN, and one pretrained stack serves all depths.

Source: Y. Bengio, P. Lamblin, D. Popovici & H. Larochelle, "Greedy layer-wise training of deep networks", NIPS
2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import DivergenceError, InputError, suggest
from spkadapt.pretrain.frames import TensorFrames, check_frames, index_batches
from spkadapt.pretrain.interface import ACTIVATIONS, DIVERGED_ABOVE, PretrainConfig, linear_from, xavier_linear

STRATEGIES = ("supervised", "frozen", "finetune", "greedy_supervised")

# What a generator is for; each also takes the number of the layer.
_HIDDEN, _OUTPUT, _ORDER, _GREEDY_OUTPUT, _GREEDY_ORDER = range(5)
_FRAMES_AT_ONCE = 4096


@dataclass(frozen=True)
class ClassifierConfig(PretrainConfig):
    """How a frame classifier is trained: gradient descent with momentum on the mean cross-entropy.

    A parameter θ with gradient g moves by Δθ ← momentum · Δθ − learning_rate · (g + weight_decay · θ).

    Attributes:
        learning_rate: the same for every layer and strategy.
        num_epochs: passes over the labelled frames; none is chosen afterwards.
        batch_size: frames per update.
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        momentum: from the first step on.
        weight_decay: L2 penalty's coefficient, on weights and not on biases.
        num_greedy_epochs: passes for each hidden layer of "greedy_supervised", before those of all layers.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.05
    num_epochs: int = 20
    momentum: float = 0.9
    weight_decay: float = 0.0
    num_greedy_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("momentum", 0 <= self.momentum < 1, "a number from 0 to below 1")
        self.require("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0")
        self.require("num_greedy_epochs", self.num_greedy_epochs >= 0, "a whole number of at least 0")


@dataclass(frozen=True)
class ClassifierProgress:
    """One epoch.

    Attributes:
        epoch: 1 for the first.
        loss: cross-entropy in nats, mean over the epoch's frames, each before the step that it took part in.
        gradient_norms: ‖∂loss/∂W‖ of the weights of each layer that is trained, bottom first, the output layer
            last; mean over the epoch's steps.
    """

    epoch: int
    loss: float
    gradient_norms: tuple[float, ...]


class FrameClassifier(nn.Module):
    """log p(class | x) = log softmax(U h_L + d), h_k = s(W_k h_{k−1} + b_k), h_0 = x.

    Attributes:
        hidden: the hidden layers, bottom first.
        output: the output layer, U and d.
        history: one `ClassifierProgress` per epoch; of "greedy_supervised", those of all layers together.
    """

    def __init__(self, hidden: Sequence[nn.Linear], output: nn.Linear, activation: str) -> None:
        super().__init__()
        self.hidden, self.output, self.activation = nn.ModuleList(hidden), output, activation
        self.history: list[ClassifierProgress] = []

    def forward(self, frames: Tensor) -> Tensor:
        """The logits `(n, num_classes)` of `frames (n, dim)`."""
        for layer in self.hidden:
            frames = ACTIVATIONS[self.activation](layer(frames))
        return self.output(frames)

    def layers(self) -> list[nn.Linear]:
        """The hidden layers, bottom first, and the output layer: themselves, not copies."""
        return [layer for layer in (*self.hidden, self.output) if isinstance(layer, nn.Linear)]

    @torch.no_grad()
    def log_probabilities(self, frames: Tensor) -> Tensor:
        """log p(class | frame), `(n, num_classes)`, of `frames (n, dim)`; sum them to decide on an utterance."""
        return torch.cat([F.log_softmax(self(part), dim=1) for part in frames.split(_FRAMES_AT_ONCE)])

    @torch.no_grad()
    def accuracy(self, frames: Tensor, labels: Tensor) -> float:
        """Fraction of `frames (n, dim)` whose most probable class is that of `labels (n,)`."""
        parts = zip(frames.split(_FRAMES_AT_ONCE), labels.split(_FRAMES_AT_ONCE), strict=True)
        return sum(int((self(part).argmax(dim=1) == own).sum()) for part, own in parts) / len(labels)


def train_classifier(
    strategy: str,
    frames: Tensor,
    labels: Tensor,
    num_classes: int,
    hidden_dims: Sequence[int],
    activation: str,
    config: ClassifierConfig,
    *,
    seed: int,
    pretrained: Sequence[nn.Linear] | None = None,
) -> FrameClassifier:
    """Train a classifier of labelled frames by one of the four strategies.

    Args:
        strategy: one of `STRATEGIES`.
        frames: `(n, dim)`, of floating point; the model lives on their device and in their precision.
        labels: `(n,)`, whole numbers from 0 to below `num_classes`.
        num_classes: at least 2.
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid" or "relu".
        config: how to train.
        seed: the same seed gives all strategies the same order of frames and the same output layer to start from.
        pretrained: hidden layers, bottom first, e.g. `Pretrainer.hidden_layers()`; of more than there are
            `hidden_dims` the first are taken. Needed by "frozen" and "finetune". Of "greedy_supervised", what
            `train_greedy_layers` gave with the same frames, config and seed; trained anew where None.

    Raises:
        InputError: an unknown strategy or activation, frames, labels or pretrained layers that do not fit.
        DivergenceError: the training diverged.
    """
    if strategy not in STRATEGIES:
        raise InputError(f'unknown strategy "{strategy}"; {suggest(strategy, STRATEGIES)}')
    _check_data(frames, labels, num_classes, hidden_dims, activation)
    if strategy == "supervised":
        if pretrained is not None:
            raise InputError('strategy "supervised" starts from random weights; leave out the pretrained layers')
        hidden = draw_hidden_layers(frames.shape[1], hidden_dims, activation, seed=seed)
    elif pretrained is not None:
        hidden = _check_layers(pretrained, frames.shape[1], hidden_dims)
    elif strategy == "greedy_supervised":
        hidden = train_greedy_layers(frames, labels, num_classes, hidden_dims, activation, config, seed=seed)
    else:
        raise InputError(f'strategy "{strategy}" needs pretrained layers; found none')
    hidden = [linear_from(layer.weight.to(frames), layer.bias.to(frames)) for layer in hidden]
    output = xavier_linear(hidden_dims[-1], num_classes, _generator(seed, _OUTPUT)).to(frames)
    classifier, order = FrameClassifier(hidden, output, activation), _generator(seed, _ORDER)
    if strategy == "frozen":
        classifier.hidden.requires_grad_(False)
        top = FrameClassifier([], output, activation)
        _descend(top, _encode(hidden, activation, frames), labels, config, config.num_epochs, order)
        classifier.history = top.history
    else:
        _descend(classifier, frames, labels, config, config.num_epochs, order)
    return classifier


def train_greedy_layers(
    frames: Tensor,
    labels: Tensor,
    num_classes: int,
    hidden_dims: Sequence[int],
    activation: str,
    config: ClassifierConfig,
    *,
    seed: int,
) -> list[nn.Linear]:
    """Hidden layers trained one after another with labels, as in "greedy_supervised"; see `train_classifier`.

    Layer k is the hidden layer of a network that sees the codes of the finished layers below and whose output
    layer is then thrown away (Bengio et al. 2007). Those of a shallower stack are the first of a deeper one.
    """
    _check_data(frames, labels, num_classes, hidden_dims, activation)
    hidden = draw_hidden_layers(frames.shape[1], hidden_dims, activation, seed=seed)
    for number, layer in enumerate(hidden):
        output = xavier_linear(layer.out_features, num_classes, _generator(seed, _GREEDY_OUTPUT, number))
        network, order = FrameClassifier([layer], output, activation), _generator(seed, _GREEDY_ORDER, number)
        network.to(frames)
        _descend(network, frames, labels, config, config.num_greedy_epochs, order)
        frames = _encode([layer], activation, frames)
    return hidden


def draw_hidden_layers(dim: int, hidden_dims: Sequence[int], activation: str, *, seed: int) -> list[nn.Linear]:
    """The random hidden layers that "supervised" and "greedy_supervised" start from, bottom first.

    Zero biases; uniform weights after Glorot & Bengio (2010) for sigmoid, He et al. (2015) for rectified units.
    """
    layers = []
    for number, (num_inputs, num_outputs) in enumerate(pairwise((dim, *hidden_dims))):
        generator = _generator(seed, _HIDDEN, number)
        layer = xavier_linear(num_inputs, num_outputs, generator)
        if activation == "relu":
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        layers.append(layer)
    return layers


def _descend(
    classifier: FrameClassifier,
    frames: Tensor,
    labels: Tensor,
    config: ClassifierConfig,
    num_epochs: int,
    order: torch.Generator,
) -> None:
    """Train all layers of `classifier` in place."""
    source, layers = TensorFrames(frames), classifier.layers()
    optimizer = torch.optim.SGD(
        [
            {"params": [layer.weight for layer in layers], "weight_decay": config.weight_decay},
            {"params": [layer.bias for layer in layers], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        momentum=config.momentum,
        fused=True,
    )
    for epoch in range(1, num_epochs + 1):
        losses, norms, sizes = [], [], []
        for indices in index_batches(source, config.batch_size, config.max_frames_per_epoch, order):
            indices = indices.to(frames.device)
            optimizer.zero_grad()
            loss = F.cross_entropy(classifier(frames[indices]), labels[indices])
            loss.backward()
            # No number leaves the device before the epoch has ended.
            losses.append(loss.detach())
            norms.append(torch.stack([torch.linalg.vector_norm(layer.weight.grad) for layer in layers]))
            sizes.append(len(indices))
            optimizer.step()
        _check_descent(torch.stack(losses), torch.stack(norms), layers, config, epoch)
        weights = torch.tensor(sizes, dtype=torch.float64)
        mean = (torch.stack(losses).double().cpu() @ weights / weights.sum()).item()
        gradient_norms = tuple(torch.stack(norms).double().mean(dim=0).tolist())
        classifier.history.append(ClassifierProgress(epoch, mean, gradient_norms))
    optimizer.zero_grad()


@torch.no_grad()
def _encode(hidden: Sequence[nn.Linear], activation: str, frames: Tensor) -> Tensor:
    """The codes `(n, units)` of `frames (n, dim)`, which finished layers need not compute again and again."""
    parts = []
    for part in frames.split(_FRAMES_AT_ONCE):
        for layer in hidden:
            part = ACTIVATIONS[activation](layer(part))
        parts.append(part)
    return torch.cat(parts)


def _generator(seed: int, purpose: int, number: int = 0) -> torch.Generator:
    """A generator of its own for each (seed, purpose, number), well mixed by NumPy's SeedSequence."""
    state = np.random.SeedSequence([seed, purpose, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def _check_data(
    frames: Tensor, labels: Tensor, num_classes: int, hidden_dims: Sequence[int], activation: str
) -> None:
    check_frames(frames)
    if activation not in ACTIVATIONS:
        raise InputError(f'unknown activation "{activation}"; {suggest(activation, ACTIVATIONS)}')
    if not hidden_dims or min(hidden_dims) < 1:
        raise InputError(f"hidden_dims is {list(hidden_dims)}; expected at least one layer of at least one unit")
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; expected at least 2")
    if labels.shape != frames.shape[:1] or labels.dtype != torch.int64:
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}; expected ({len(frames)},), one for "
            "each frame, and torch.int64"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= num_classes:
        raise InputError(f"labels range from {low} to {high}; expected 0 to {num_classes - 1}")


def _check_layers(layers: Sequence[nn.Linear], dim: int, hidden_dims: Sequence[int]) -> list[nn.Linear]:
    """The first of `layers`, as many as there are hidden layers, if they fit."""
    found = [(layer.in_features, layer.out_features) for layer in layers]
    expected = list(pairwise((dim, *hidden_dims)))
    if found[: len(expected)] != expected:
        raise InputError(f"the pretrained layers map {found}; expected them to begin with {expected}")
    return list(layers[: len(expected)])


def _check_descent(
    losses: Tensor, norms: Tensor, layers: Sequence[nn.Linear], config: ClassifierConfig, epoch: int
) -> None:
    """Name the first step where a loss exploded, or a gradient or, after the last, a weight is not finite.

    Of several layers the topmost is named: gradients come down from there.
    """
    largest = torch.stack([layer.weight.detach().abs().max() for layer in layers])
    finite = torch.isfinite(torch.cat((norms, largest[None]))).cpu()
    low = torch.cat((losses.cpu() <= DIVERGED_ABOVE, torch.ones(1, dtype=torch.bool)))  # false for NaN
    bad_steps = (~(finite.all(dim=1) & low)).nonzero().flatten().tolist()
    if not bad_steps:
        return
    step = bad_steps[0]
    bad_layers = (~finite[step]).nonzero().flatten().tolist()
    number = bad_layers[-1] + 1 if bad_layers else len(layers)
    name = "the output layer" if number == len(layers) else f"layer {number}"
    last = min(step, len(losses) - 1)
    raise DivergenceError(
        f"training with labels diverged at {name}, epoch {epoch}, step {last + 1}: the loss is "
        f"{losses[last].item():.3g}; use a learning rate below {config.learning_rate:g}, and standardise the "
        "frames (mean 0, variance 1 in each dimension)"
    )
