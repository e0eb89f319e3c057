"""Backbones: an embedding is of its own utterance alone, whatever batch and padding it comes in."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from spkadapt.backbone import (
    BACKBONES,
    DnnConfig,
    EcapaConfig,
    FrameDnn,
    ResidualTdnn,
    ResidualTdnnConfig,
    ResnetConfig,
    Tdnn,
    TdnnConfig,
)
from spkadapt.backbone.pooling import AttentiveStatisticsPooling, statistics_pooling
from spkadapt.embed import compute_embeddings
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.features import FeatureConfig
from spkadapt.frames import splice_frames
from spkadapt.model import ModelDescription, SpeakerModel
from spkadapt.pretrain import Dbn, DbnConfig, Vae, VaeConfig

NUM_FEATURES = 5
CONFIGS: dict[str, Any] = {
    "dnn": DnnConfig(left_context=2, right_context=1, hidden_dims=(16, 12), embedding_dim=6, frame_subsampling=3),
    "tdnn": TdnnConfig(channels=8, pooled_channels=12, embedding_dim=6),
    "strided tdnn": TdnnConfig(channels=8, pooled_channels=12, embedding_dim=6, frame_subsampling=3),
    "residual_tdnn": ResidualTdnnConfig(channels=8, pooled_channels=12, attention_dim=4, embedding_dim=6),
    "strided residual_tdnn": ResidualTdnnConfig(8, (2,), 12, 4, embedding_dim=6, frame_subsampling=2),
    "ecapa": EcapaConfig(channels=16, embedding_dim=6),
    "resnet": ResnetConfig(channels=3, embedding_dim=6),
}


def make_backbone(name: str) -> Any:
    """In evaluation mode, its batch normalisation away from where it starts."""
    backbone = BACKBONES[name.split()[-1]][0](NUM_FEATURES, CONFIGS[name])
    backbone.train()
    with torch.no_grad():
        for _ in range(3):
            backbone(2 * torch.randn(8, 40, NUM_FEATURES) + 1, torch.full((8,), 40))
    return backbone.eval()


def make_utterances(lengths: list[int]) -> list[torch.Tensor]:
    return [2 * torch.randn(length, NUM_FEATURES) + 1 for length in lengths]


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_gradients(name: str) -> None:
    backbone = BACKBONES[name.split()[-1]][0](NUM_FEATURES, CONFIGS[name]).train()
    embeddings = backbone(torch.randn(4, 30, NUM_FEATURES), torch.full((4,), 30))
    assert embeddings.shape == (4, backbone.embedding_dim) == (4, 6)
    assert embeddings.dtype == torch.float32
    embeddings.square().sum().backward()
    for label, parameter in backbone.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "ecapa"])
@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4), padding=st.integers(0, 20))
def test_padding_changes_no_embedding(name: str, lengths: list[int], padding: int) -> None:
    backbone = make_backbone(name)
    assert backbone.ignores_padding
    utterances = make_utterances(lengths)
    padded = pad_sequence([*utterances, torch.zeros(max(lengths) + padding, NUM_FEATURES)], batch_first=True)[:-1]
    counts = torch.tensor(lengths)
    padded[torch.arange(padded.shape[1]) >= counts[:, None]] = 100.0  # what lies beyond the end is not looked at
    with torch.no_grad():
        together = backbone(padded, counts)
        for row, utterance in enumerate(utterances):
            alone = backbone(utterance[None], counts[row : row + 1])[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_embeddings_do_not_depend_on_the_batch(name: str, batch_size: int) -> None:
    lengths = [30, 1, 4, 30, 17, 5, 6, 30, 2]
    utterances = make_utterances(lengths)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    store = FeatureStore("store", tuple(map(str, range(9))), offsets, torch.cat(utterances))
    features = FeatureConfig(num_mel_bins=NUM_FEATURES)
    model = SpeakerModel(ModelDescription(features, None, NUM_FEATURES, name.split()[-1], CONFIGS[name]))
    model.feature_mean.copy_(torch.randn(NUM_FEATURES))
    model.feature_std.copy_(torch.rand(NUM_FEATURES) + 1)
    model.backbone = make_backbone(name)
    rows = [8, 0, 3, 1, 4, 2, 7, 5]
    done: list[int] = []
    embeddings = compute_embeddings(model, store, rows, batch_size=batch_size, on_progress=done.append)
    assert embeddings.utterance_ids == tuple(map(str, rows))
    assert done == sorted(done)
    assert done[-1] == len(rows)
    for found, row in zip(embeddings.embeddings, rows, strict=True):
        with torch.no_grad():
            alone = model(utterances[row][None], torch.tensor([lengths[row]]))[0]
        np.testing.assert_allclose(found, alone.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_frames_is_seen_and_other_utterances_are_not(name: str) -> None:
    """What ties the twins above to the network: frames matter, and a neighbour's do not."""
    backbone = make_backbone(name)
    features, lengths = torch.randn(2, 20, NUM_FEATURES), torch.tensor([20, 20])
    with torch.no_grad():
        embeddings = backbone(features, lengths)
        shuffled = backbone(features[:, torch.randperm(20)], lengths)
        features[1] += 1
        neighbour = backbone(features, lengths)
    assert not torch.allclose(embeddings, shuffled, atol=1e-4)
    assert not torch.allclose(embeddings[1], neighbour[1], atol=1e-4)
    torch.testing.assert_close(embeddings[0], neighbour[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_few_frames_are_enough(name: str, length: int) -> None:
    backbone = BACKBONES[name.split()[-1]][0](NUM_FEATURES, CONFIGS[name]).train()
    features = torch.randn(3, length, NUM_FEATURES, requires_grad=True)
    backbone(features, torch.full((3,), length)).square().sum().backward()
    assert features.grad is not None
    for gradient in [features.grad, *(item.grad for item in backbone.parameters())]:
        assert gradient is not None
        assert gradient.isfinite().all()


def test_ecapa_repeats_what_is_too_short() -> None:
    backbone = make_backbone("ecapa")
    (utterance,) = make_utterances([3])
    with torch.no_grad():
        short = backbone(utterance[None], torch.tensor([3]))
        repeated = backbone(utterance[[0, 1, 2, 0, 1]][None], torch.tensor([5]))
    assert torch.equal(short, repeated)


# Pooling ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), padding=st.integers(0, 4))
def test_statistics_pooling_matches_the_definition(lengths: list[int], padding: int) -> None:
    frames = torch.randn(len(lengths), max(lengths) + padding, 3, dtype=torch.float64)
    pooled = statistics_pooling(frames, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        for dimension in range(3):
            values = frames[row, :length, dimension].tolist()
            mean = math.fsum(values) / length
            variance = math.fsum((value - mean) ** 2 for value in values) / length
            assert pooled[row, dimension].item() == pytest.approx(mean, abs=1e-12)
            assert pooled[row, 3 + dimension].item() == pytest.approx(max(variance, 1e-5) ** 0.5, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), padding=st.integers(0, 4))
def test_attentive_pooling_matches_the_definition(lengths: list[int], padding: int) -> None:
    frames = torch.randn(len(lengths), max(lengths) + padding, 3, dtype=torch.float64)
    pooling = AttentiveStatisticsPooling(3, 2).double().requires_grad_(False)
    first, _, second = pooling.attention
    pooled = pooling(frames, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        hidden = [torch.tanh(first.weight @ frame + first.bias) for frame in frames[row, :length]]
        for dimension in range(3):
            energies = [math.exp(second.weight[dimension] @ one + second.bias[dimension]) for one in hidden]
            values = frames[row, :length, dimension].tolist()
            weighted = list(zip([energy / math.fsum(energies) for energy in energies], values, strict=True))
            mean = math.fsum(weight * value for weight, value in weighted)
            variance = math.fsum(weight * (value - mean) ** 2 for weight, value in weighted)
            assert pooled[row, dimension].item() == pytest.approx(mean, abs=1e-12)
            assert pooled[row, 3 + dimension].item() == pytest.approx(max(variance, 1e-5) ** 0.5, abs=1e-12)


def test_attention_that_prefers_no_frame_is_statistics_pooling() -> None:
    pooling, frames, lengths = AttentiveStatisticsPooling(3, 2), torch.randn(2, 9, 3), torch.tensor([9, 4])
    nn.init.zeros_(pooling.attention[2].weight)
    torch.testing.assert_close(pooling(frames, lengths), statistics_pooling(frames, lengths))


POOLINGS = {"statistics": statistics_pooling, "attentive": AttentiveStatisticsPooling(2, 3)}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("frames", [torch.zeros(1, 1, 2), torch.full((1, 7, 2), 3.0)])
def test_gradients_of_constant_frames_are_finite(name: str, frames: torch.Tensor) -> None:
    frames = frames.clone().requires_grad_()
    POOLINGS[name](frames, torch.tensor([frames.shape[1]])).sum().backward()
    assert frames.grad is not None
    torch.testing.assert_close(frames.grad, torch.full_like(frames, 1 / frames.shape[1]))  # of the mean alone


@pytest.mark.parametrize("name", POOLINGS)
def test_half_precision_is_pooled_in_single(name: str) -> None:
    frames = (torch.randn(1, 300, 2) + 50).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = POOLINGS[name](frames, torch.tensor([300]))
    assert pooled.dtype == torch.float32
    assert pooled[0, :2].tolist() == pytest.approx([50, 50], abs=0.5)
    assert pooled[0, 2:].tolist() == pytest.approx([1, 1], abs=0.3)


# Pretrained layers --------------------------------------------------------------------------------------------


DNN = CONFIGS["dnn"]
DIM = NUM_FEATURES * 4


@pytest.mark.parametrize(
    "pretrainer",
    [Dbn((16, 12), "sigmoid", DbnConfig(num_epochs=1)), Vae((16, 12), "sigmoid", VaeConfig(num_epochs=1))],
    ids=["dbn", "vae"],
)
def test_the_network_starts_as_the_pretrainers_transform(pretrainer: Dbn | Vae) -> None:
    """Its pooled statistics are those of the codes that the pretrainer gives the same spliced frames."""
    pretrainer.fit(torch.randn(200, DIM), seed=0)
    network = FrameDnn(NUM_FEATURES, DNN)
    network.load_hidden_layers(pretrainer.hidden_layers())
    pooled: list[torch.Tensor] = []
    network.pooled_norm.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    features, lengths = torch.randn(2, 11, NUM_FEATURES), torch.tensor([11, 7])
    with torch.no_grad():
        network.eval()(features, lengths)
    for row, length in enumerate(lengths.tolist()):
        spliced = splice_frames(features[row : row + 1, :length], lengths[row : row + 1], 2, 1)[0]
        codes = pretrainer.transform(spliced[::3])
        expected = torch.cat([codes.mean(dim=0), codes.var(dim=0, correction=0).clamp_min(1e-5).sqrt()])
        torch.testing.assert_close(pooled[0][row], expected, rtol=0, atol=1e-6)


def test_loading_copies_the_layers() -> None:
    layers = [nn.Linear(DIM, 16), nn.Linear(16, 12)]
    network = FrameDnn(NUM_FEATURES, DNN)
    network.load_hidden_layers(layers)
    for loaded, layer in zip(network.hidden, layers, strict=True):
        assert torch.equal(loaded.weight, layer.weight)
        assert torch.equal(loaded.bias, layer.bias)
        assert loaded.weight.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize("dims", [(DIM, 16), (DIM, 16, 13), (DIM + 1, 16, 12), (DIM, 16, 12, 12)])
def test_layers_of_another_shape(dims: tuple[int, ...]) -> None:
    network = FrameDnn(NUM_FEATURES, DNN)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        network.load_hidden_layers([nn.Linear(*pair) for pair in itertools.pairwise(dims)])
    theirs = [(outputs, inputs) for inputs, outputs in itertools.pairwise(dims)]
    assert (
        str(caught.value) == f"the pretrained layers have shapes {theirs}; the network needs [(16, 20), (12, 16)]"
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_layers_stay_as_they_are(frozen: bool) -> None:
    network = FrameDnn(NUM_FEATURES, DNN).train()
    if frozen:
        network.freeze_hidden_layers()
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.randn(4, 9, NUM_FEATURES), torch.full((4,), 9)).square().sum().backward()
        optimizer.step()
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == (frozen and name.startswith("hidden")), name


# Configurations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DnnConfig(activation="tanh"), 'unknown activation "tanh"; choose from: sigmoid, relu'),
        (lambda: DnnConfig(activation="Relu"), 'unknown activation "Relu"; did you mean "relu"?'),
        (lambda: DnnConfig(left_context=-1), "contexts must be ≥ 0 and frame_subsampling ≥ 1"),
        (lambda: DnnConfig(frame_subsampling=0), "contexts must be ≥ 0 and frame_subsampling ≥ 1"),
        (lambda: DnnConfig(hidden_dims=()), "hidden_dims needs at least one layer, and every size must be ≥ 1"),
        (
            lambda: DnnConfig(hidden_dims=(4, 0)),
            "hidden_dims needs at least one layer, and every size must be ≥ 1",
        ),
        (lambda: DnnConfig(embedding_dim=0), "hidden_dims needs at least one layer, and every size must be ≥ 1"),
        (
            lambda: TdnnConfig(channels=0),
            "channels, pooled_channels, embedding_dim and frame_subsampling must be ≥ 1",
        ),
        (
            lambda: TdnnConfig(embedding_dim=-1),
            "channels, pooled_channels, embedding_dim and frame_subsampling must be ≥ 1",
        ),
        (lambda: ResidualTdnnConfig(channels=0), "channels is 0; expected at least 1"),
        (lambda: ResidualTdnnConfig(attention_dim=0), "attention_dim is 0; expected at least 1"),
        (lambda: ResidualTdnnConfig(dilations=()), "dilations are []; expected at least one, each at least 1"),
        (
            lambda: ResidualTdnnConfig(dilations=(1, 0)),
            "dilations are [1, 0]; expected at least one, each at least 1",
        ),
        (lambda: EcapaConfig(channels=12), "channels is 12; ECAPA's Res2Net blocks need a multiple of 8"),
        (lambda: EcapaConfig(channels=0), "channels is 0; ECAPA's Res2Net blocks need a multiple of 8"),
        (lambda: EcapaConfig(embedding_dim=0), "embedding_dim is 0; expected at least 1"),
    ],
)
def test_bad_configurations(make: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


def test_the_tdnn_is_that_of_the_paper() -> None:
    """Table 1 of Snyder et al. (2018): a frame sees 7 to each side; layers of 5, 3, 3, 1 and 1 frames."""
    network = Tdnn(24, TdnnConfig(channels=512, pooled_channels=1500, embedding_dim=512))
    shapes = [tuple(layer.weight.shape) for layer in network.convolutions]
    assert shapes == [(512, 24, 5), (512, 512, 3), (512, 512, 3), (512, 512, 1), (1500, 512, 1)]
    assert sum(layer.dilation[0] * (layer.kernel_size[0] - 1) // 2 for layer in network.convolutions) == 7
    assert network.embedding.weight.shape == (512, 3000)


def test_the_residual_tdnn_is_what_its_docstring_says() -> None:
    """Without padding: convolutions in series, each block's input added to its output."""
    network, features = make_backbone("residual_tdnn"), torch.randn(2, 32, NUM_FEATURES)

    def layer(one: Any, maps: torch.Tensor) -> torch.Tensor:
        return one.norm(torch.relu(one.convolution(maps)))

    with torch.no_grad():
        maps = layer(network.entry, features.transpose(1, 2))
        for block in network.blocks:
            maps = maps + layer(block.mixing, layer(block.context, maps))
        lengths = torch.full((2,), 32)
        pooled = network.pooled_norm(network.pooling(layer(network.exit, maps).transpose(1, 2), lengths))
        torch.testing.assert_close(network(features, lengths), network.embedding(pooled))


def test_the_residual_tdnn_sees_as_far_as_its_dilations_reach() -> None:
    network, features = (
        ResidualTdnn(NUM_FEATURES, ResidualTdnnConfig(dilations=(1, 4))).eval(),
        torch.randn(1, 41, 5),
    )
    changed = features.clone()
    changed[0, 20] += 1
    with torch.no_grad():
        frames, others = (network.encode_frames(some, torch.tensor([41]))[0][0] for some in (features, changed))
    differs = (frames != others).any(dim=1).nonzero().flatten().tolist()
    assert (differs[0], differs[-1]) == (20 - 7, 20 + 7)  # 2 of the first convolution, 1 and 4 of the blocks


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_are_of_the_frames(name: str) -> None:
    backbone, features, lengths = make_backbone(name), torch.randn(3, 31, NUM_FEATURES), torch.tensor([31, 20, 9])
    with torch.no_grad():
        frames, kept = backbone.encode_frames(features, lengths)
        assert frames.shape[2] == backbone.frame_dim
        assert kept.max() == frames.shape[1]
        torch.testing.assert_close(backbone.pool_frames(frames, kept), backbone(features, lengths))


def test_ecapa_is_speechbrains() -> None:
    backbone, features, lengths = make_backbone("ecapa"), torch.randn(2, 31, NUM_FEATURES), torch.tensor([31, 20])
    with torch.no_grad():
        expected = backbone.network(features, lengths / 31).squeeze(1)
        assert torch.equal(backbone(features, lengths), expected)


def test_resnet_is_what_the_paper_draws() -> None:
    """Without padding: convolutions in series, each block's input added to its output."""
    resnet, features = make_backbone("resnet"), torch.randn(2, 32, NUM_FEATURES)
    with torch.no_grad():
        maps = torch.relu(resnet.entry_norm(resnet.entry(features.transpose(1, 2)[:, None])))
        for block in resnet.blocks:
            inner = block.second_norm(block.second(torch.relu(block.first_norm(block.first(maps)))))
            maps = torch.relu(inner + block.shortcut(maps))
        rows = maps.flatten(1, 2)
        pooled = torch.cat([rows.mean(dim=2), rows.var(dim=2, correction=0).clamp_min(1e-5).sqrt()], dim=1)
        torch.testing.assert_close(resnet(features, torch.full((2,), 32)), resnet.embedding(pooled))
