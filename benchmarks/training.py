"""Training steps: utterances per second, against SpeechBrain's x-vector and the bare matrix products.

Each step is forward, backward and optimiser on crops of 200 frames of 40 features, 250 speakers, as in
`recipes/phone`. The peer of the TDNN is SpeechBrain's Xvector of the same widths with its own AAM loss. The
bound is the products of the linear layers or convolutions alone, forward and both backward ones, as one matrix
product each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from harness import Row, compare, parse_arguments, publish
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

from spkadapt.adapt import AlignmentConfig, MultiTaskObjective
from spkadapt.backbone import BACKBONES, DnnConfig
from spkadapt.backbone.tdnn import LAYERS, TdnnConfig
from spkadapt.features import FeatureConfig
from spkadapt.heads import AamHead
from spkadapt.model import ModelDescription, SpeakerModel

NUM_FEATURES, NUM_FRAMES, NUM_SPEAKERS = 40, 200, 250


def our_step(backbone: str, batch: int, alignment: str, precision: torch.dtype) -> Callable[[], None]:
    """One step of the training loop, without reading data."""
    config = BACKBONES[backbone][1]()
    model = SpeakerModel(ModelDescription(FeatureConfig(), None, NUM_FEATURES, backbone, config))
    head = AamHead(model.embedding_dim, NUM_SPEAKERS)
    objective = MultiTaskObjective(model, head, AlignmentConfig(alignment)).train()
    optimizer = torch.optim.AdamW(objective.parameters())
    source, speakers = torch.randn(batch, NUM_FRAMES, NUM_FEATURES), torch.randint(NUM_SPEAKERS, (batch,))
    target_domain = torch.randn(batch, NUM_FRAMES, NUM_FEATURES) if alignment != "none" else None

    def step() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = objective(source, speakers, target_domain, 1.0)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def speechbrain_step(batch: int) -> Callable[[], None]:
    """The same step with SpeechBrain's x-vector and loss."""
    shape = TdnnConfig()
    widths = [shape.channels] * (len(LAYERS) - 1) + [shape.pooled_channels]
    kernels, dilations = zip(*LAYERS, strict=True)
    network = Xvector(
        "cpu",
        tdnn_blocks=len(LAYERS),
        tdnn_channels=widths,
        tdnn_kernel_sizes=list(kernels),
        tdnn_dilations=list(dilations),
        lin_neurons=shape.embedding_dim,
        in_channels=NUM_FEATURES,
    ).train()
    weight = torch.nn.Parameter(torch.randn(NUM_SPEAKERS, shape.embedding_dim))
    loss_function = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=30.0))
    optimizer = torch.optim.AdamW([*network.parameters(), weight])
    features, speakers = torch.randn(batch, NUM_FRAMES, NUM_FEATURES), torch.randint(NUM_SPEAKERS, (batch, 1))

    def step() -> None:
        normalise = torch.nn.functional.normalize
        cosines = normalise(network(features), dim=-1) @ normalise(weight).T
        loss = loss_function(cosines, speakers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def layer_shapes(backbone: str) -> tuple[int, list[tuple[int, int]]]:
    """Frames of a crop that reach the layers, and (inputs, outputs) of each layer seen as a matrix product."""
    if backbone == "dnn":
        shape = DnnConfig()
        context = shape.left_context + 1 + shape.right_context
        dims = [NUM_FEATURES * context, *shape.hidden_dims]
        return -(-NUM_FRAMES // shape.frame_subsampling), list(itertools.pairwise(dims))
    tdnn = TdnnConfig()
    widths = [NUM_FEATURES, *[tdnn.channels] * (len(LAYERS) - 1), tdnn.pooled_channels]
    pairs = zip(itertools.pairwise(widths), LAYERS, strict=True)
    return NUM_FRAMES, [(inputs * kernel, outputs) for (inputs, outputs), (kernel, _) in pairs]


def bare_products(backbone: str, batch: int, precision: torch.dtype) -> Callable[[], None]:
    """Forward, input-gradient and weight-gradient products of every layer, and nothing else."""
    num_frames, shapes = layer_shapes(backbone)
    rows = batch * num_frames

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=precision)

    operands = [(draw(rows, inputs), draw(inputs, outputs), draw(rows, outputs)) for inputs, outputs in shapes]

    def products() -> None:
        for x, weight, gradient in operands:
            torch.mm(x, weight)
            torch.mm(gradient, weight.T)
            torch.mm(x.T, gradient)

    return products


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    batch, repeats = (32, 3) if arguments.quick else (64, 10)
    rows: list[Row] = []
    for precision in (torch.float32, torch.bfloat16):
        name = str(precision).removeprefix("torch.")
        for backbone, alignment in (("dnn", "none"), ("dnn", "mmd"), ("tdnn", "none")):
            has_peer = backbone == "tdnn" and precision is torch.float32
            crops = batch * (2 if alignment != "none" else 1)
            rows.append(
                compare(
                    f"{backbone}, {alignment if alignment != 'none' else 'source only'}, {name}, batch {batch}",
                    crops,
                    "utterances/s",
                    ours=our_step(backbone, batch, alignment, precision),
                    peer=speechbrain_step(batch) if has_peer else None,
                    bound=bare_products(backbone, crops, precision),
                    repeats=repeats,
                )
            )
    publish("Training steps (peer: SpeechBrain Xvector; bound: bare matrix products)", rows, arguments.json)


if __name__ == "__main__":
    main()
