"""What all pretrainers promise: one interface, seeds, mini-batches, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain import (
    PRETRAINER_CONFIGS,
    PRETRAINERS,
    DbmConfig,
    FrameSource,
    PretrainConfig,
    Pretrainer,
    PretrainProgress,
    TensorFrames,
)
from spkadapt.pretrain.interface import EncodedFrames, minibatches, run_epochs

METHODS = [
    ("dae", "sigmoid"),
    ("dae", "relu"),
    ("dbn", "sigmoid"),
    ("vae", "sigmoid"),
    ("vae", "relu"),
    ("sparse", "relu"),
]
every_method = pytest.mark.parametrize(("method", "activation"), METHODS)
every_name = pytest.mark.parametrize("method", list(PRETRAINERS))


def structured_frames(num_frames: int = 600, dim: int = 12) -> Tensor:
    """Standardised frames that three latent directions explain almost wholly."""
    generator = torch.Generator().manual_seed(7)
    latent = torch.randn(num_frames, 3, generator=generator)
    frames = latent @ torch.randn(3, dim, generator=generator)
    frames += 0.1 * torch.randn(num_frames, dim, generator=generator)
    return (frames - frames.mean(dim=0)) / frames.std(dim=0)


def build(method: str, activation: str | None = None, **config: Any) -> Pretrainer:
    activation = activation or ("relu" if method == "sparse" else "sigmoid")
    return PRETRAINERS[method]([8, 5], activation, PRETRAINER_CONFIGS[method](**{"num_epochs": 2, **config}))


class Spliced:
    """A frame source that makes its frames when asked: each beside its successor."""

    def __init__(self, frames: Tensor) -> None:
        self.frames, self.dim = frames, 2 * frames.shape[1]

    def __len__(self) -> int:
        return len(self.frames) - 1

    def take(self, indices: Tensor) -> Tensor:
        return torch.cat((self.frames[indices], self.frames[indices + 1]), dim=1)


@every_method
def test_hidden_layers_chained_with_the_activation_are_transform(method: str, activation: str) -> None:
    frames = structured_frames()
    pretrainer = build(method, activation).fit(frames, seed=0)
    layers = pretrainer.hidden_layers()
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(12, 8), (8, 5)]
    codes = frames
    for layer in layers:
        codes = codes @ layer.weight.T + layer.bias
        codes = 1 / (1 + (-codes).exp()) if activation == "sigmoid" else codes.clamp(min=0)
    torch.testing.assert_close(pretrainer.transform(frames), codes, rtol=1e-5, atol=1e-6)
    assert not pretrainer.transform(frames).requires_grad


@every_name
def test_hidden_layers_are_copies_that_can_be_trained(method: str) -> None:
    frames = structured_frames()
    pretrainer = build(method).fit(frames, seed=0)
    before = pretrainer.transform(frames)
    for layer in pretrainer.hidden_layers():
        assert all(parameter.requires_grad for parameter in layer.parameters())
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(pretrainer.transform(frames), before)


@every_method
def test_the_same_seed_gives_the_same_bits_and_leaves_global_state_alone(method: str, activation: str) -> None:
    frames = structured_frames()
    state = torch.get_rng_state()
    first = build(method, activation).fit(frames, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = build(method, activation).fit(frames, seed=3)
    assert torch.equal(first.transform(frames), again.transform(frames))
    assert first.history == again.history
    other = build(method, activation).fit(frames, seed=4)
    assert not torch.equal(first.transform(frames), other.transform(frames))


@every_name
def test_fit_starts_afresh(method: str) -> None:
    frames = structured_frames()
    once = build(method).fit(frames, seed=3)
    twice = build(method).fit(frames, seed=5).fit(frames, seed=3)
    assert torch.equal(once.transform(frames), twice.transform(frames))
    assert once.history == twice.history


@every_name
def test_a_frame_source_trains_to_the_same_bits_as_its_tensor(method: str) -> None:
    source = Spliced(structured_frames())
    assert isinstance(source, FrameSource)
    whole = source.take(torch.arange(len(source)))
    from_source = build(method).fit(source, seed=0)
    from_tensor = build(method).fit(whole, seed=0)
    assert torch.equal(from_source.transform(whole), from_tensor.transform(whole))


@every_name
def test_the_model_takes_the_precision_of_the_frames(method: str) -> None:
    pretrainer = build(method).fit(structured_frames().double(), seed=0)
    assert {layer.weight.dtype for layer in pretrainer.hidden_layers()} == {torch.float64}


@every_name
def test_progress_is_reported_as_it_is_recorded(method: str) -> None:
    reports: list[PretrainProgress] = []
    pretrainer = build(method).fit(structured_frames(), seed=0, on_epoch=reports.append)
    assert reports == pretrainer.history
    layers = [None] if method == "vae" else [1, 2]
    expected = [(layer, epoch) for layer in layers for epoch in (1, 2)]
    if method == "dbm":
        expected += [(None, epoch) for epoch in range(1, DbmConfig().joint.num_epochs + 1)]
    assert [(progress.layer, progress.epoch) for progress in reports] == expected


@every_name
def test_fit_leaves_the_frames_alone(method: str) -> None:
    frames = structured_frames()
    before = frames.clone()
    build(method).fit(frames, seed=0)
    assert torch.equal(frames, before)


@every_method
def test_training_reduces_every_layers_loss(method: str, activation: str) -> None:
    own = {"dbn": {"gaussian_learning_rate": 0.01}, "sparse": {"penalty": 0.3}}
    config = own.get(method, {"learning_rate": 0.01})
    history = build(method, activation, num_epochs=30, **config).fit(structured_frames(), seed=0).history
    for layer in {progress.layer for progress in history}:
        # The first named is what training lowers, where a method reports more.
        losses = [next(iter(progress.losses.values())) for progress in history if progress.layer == layer]
        assert losses[-1] < 0.97 * losses[0], losses


@every_method
def test_bad_frames_are_an_input_error_and_no_divergence(method: str, activation: str) -> None:
    frames = structured_frames()
    frames[17, 3] = float("nan")
    with pytest.raises(InputError, match="frame 17 holds nan in dimension 3") as caught:
        build(method, activation).fit(frames, seed=0)
    assert not isinstance(caught.value, DivergenceError)
    with pytest.raises(InputError, match="frames must be finite; frame") as caught:
        build(method, activation).fit(Spliced(frames), seed=0)
    assert not isinstance(caught.value, DivergenceError)


@pytest.mark.parametrize("method", [name for name in PRETRAINERS if name != "sparse"])  # its steps are safe ones
def test_divergence_names_place_and_remedy(method: str) -> None:
    rate = "gaussian_learning_rate" if method in ("dbm", "dbn") else "learning_rate"
    place = "all layers" if method == "vae" else "layer 1"
    with pytest.raises(DivergenceError, match=rf"at {place}, epoch \d+, step \d+: \w+ is .*rate below 1e\+30"):
        build(method, num_epochs=20, **{rate: 1e30}).fit(structured_frames(), seed=0)


def test_each_epoch_of_a_training_has_an_order_of_its_own() -> None:
    seen: list[Tensor] = []

    def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
        seen.append(batch[:, 0])
        return {"loss": torch.zeros(())}

    config, order = PretrainConfig(num_epochs=2, batch_size=20), torch.Generator().manual_seed(0)
    run_epochs(TensorFrames(torch.arange(60.0)[:, None]), step, config, order, layer=1, on_epoch=None)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


def test_parameters_that_left_the_finite_numbers_behind_a_finite_loss_are_found() -> None:
    """As in the last step of all, whose loss is of the model before it."""
    model, source = nn.Linear(2, 3), TensorFrames(torch.zeros(50, 2))
    config, order = PretrainConfig(num_epochs=2, batch_size=20), torch.Generator().manual_seed(0)
    steps = []

    def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
        steps.append(epoch)
        if len(steps) == 6:
            nn.init.constant_(model.bias, float("inf"))
        return {"loss": torch.ones(())}

    with pytest.raises(
        DivergenceError, match=r'layer 3, epoch 2, step 3: the parameter "bias" of the decoder is not finite; use'
    ):
        run_epochs(source, step, config, order, layer=3, on_epoch=None, state={"decoder": model})


def test_large_parameters_are_no_divergence_though_their_sum_overflows() -> None:
    model, source = nn.Linear(2, 3), TensorFrames(torch.zeros(50, 2))
    nn.init.constant_(model.weight, 3e38)
    config, order = PretrainConfig(num_epochs=1), torch.Generator().manual_seed(0)
    step = {"loss": torch.ones(())}
    history = run_epochs(source, lambda *_: step, config, order, layer=1, on_epoch=None, state={"decoder": model})
    assert len(history) == 1


@every_name
def test_other_bad_input_is_named(method: str) -> None:
    config = PRETRAINER_CONFIGS[method]()
    with pytest.raises(InputError, match=r"hidden_dims is \[\]; expected at least one layer"):
        PRETRAINERS[method]([], "sigmoid", config)
    with pytest.raises(InputError, match=r"hidden_dims is \[8, 0\]"):
        PRETRAINERS[method]([8, 0], "sigmoid", config)
    with pytest.raises(InputError, match='unknown activation "sigmod"; did you mean "sigmoid"'):
        PRETRAINERS[method]([8], "sigmod", config)
    with pytest.raises(InputError, match="has no layers yet; call fit first"):
        build(method).transform(structured_frames())
    fitted = build(method).fit(structured_frames(), seed=0)
    with pytest.raises(InputError, match=r"shape \(4, 3\); expected \(n, 12\) as in fit"):
        fitted.transform(torch.zeros(4, 3))
    with pytest.raises(InputError, match="frame source is empty"):
        build(method).fit(Spliced(torch.zeros(1, 2)), seed=0)


def test_an_epochs_losses_are_means_over_its_frames() -> None:
    """Of batches of 2, 2 and 1 frames."""
    frames = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    history = run_epochs(
        TensorFrames(frames),
        lambda batch, epoch: {"mean": batch.mean()},
        PretrainConfig(num_epochs=2, batch_size=2),
        torch.Generator().manual_seed(0),
        layer=None,
        on_epoch=None,
    )
    assert [progress.losses["mean"] for progress in history] == pytest.approx([31 / 5] * 2)


def test_an_epoch_takes_every_frame_once_and_in_an_order_of_its_own() -> None:
    frames = torch.arange(103.0)[:, None]
    generator = torch.Generator().manual_seed(0)
    config = PretrainConfig(batch_size=25)
    epochs = [list(minibatches(TensorFrames(frames), config, generator)) for _ in range(2)]
    orders = [torch.cat(batches)[:, 0] for batches in epochs]
    assert [len(batch) for batch in epochs[0]] == [25, 25, 25, 25, 3]
    for order in orders:
        assert torch.equal(order.sort().values, frames[:, 0])
        assert not torch.equal(order, frames[:, 0])
    assert not torch.equal(*orders)


def test_a_limited_epoch_takes_a_fresh_subset_without_repeats() -> None:
    frames = torch.arange(1000.0)[:, None]
    generator = torch.Generator().manual_seed(0)
    config = PretrainConfig(batch_size=25, max_frames_per_epoch=60)
    subsets = [
        set(torch.cat(list(minibatches(TensorFrames(frames), config, generator)))[:, 0].tolist()) for _ in "ab"
    ]
    assert [len(subset) for subset in subsets] == [60, 60]
    assert subsets[0] != subsets[1]


def test_tensor_frames_are_not_copied() -> None:
    frames = torch.zeros(5, 2)
    source = TensorFrames(frames)
    assert source.frames.data_ptr() == frames.data_ptr()
    assert (len(source), source.dim) == (5, 2)


def test_large_finite_frames_pass_though_their_sum_overflows() -> None:
    assert len(TensorFrames(torch.full((3, 2), 3e38))) == 3


def test_encoded_frames_encode_what_is_asked_for() -> None:
    source = EncodedFrames(TensorFrames(torch.arange(6.0).reshape(3, 2)), 1, lambda x: x.sum(dim=1, keepdim=True))
    assert source.take(torch.tensor([2, 0])).tolist() == [[9.0], [1.0]]
    assert (len(source), source.dim) == (3, 1)
