"""The four strategies differ in what they are compared for and in nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain import DaeConfig, Dbn, DbnConfig, StackedAutoencoder, strategies
from spkadapt.pretrain.interface import linear_from
from spkadapt.pretrain.strategies import (
    STRATEGIES,
    ClassifierConfig,
    FrameClassifier,
    draw_hidden_layers,
    train_classifier,
    train_greedy_layers,
)

DIMS = (7, 5)
CONFIG = ClassifierConfig(num_epochs=3, batch_size=16, num_greedy_epochs=2, weight_decay=0.01)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_activation = pytest.mark.parametrize("activation", ["sigmoid", "relu"])


def labelled_frames(num_frames: int = 90, dim: int = 6, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Three clouds."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(num_frames) % num_classes
    means = 2 * torch.randn(num_classes, dim, generator=generator)
    return means[labels] + torch.randn(num_frames, dim, generator=generator), labels


def train(strategy: str, activation: str = "sigmoid", *, config: ClassifierConfig = CONFIG, **options: Any):
    frames, labels = labelled_frames()
    arguments = {"seed": 4, "hidden_dims": DIMS, "frames": frames, "labels": labels, "num_classes": 3, **options}
    if strategy in ("frozen", "finetune"):
        arguments.setdefault("pretrained", draw_hidden_layers(6, DIMS, activation, seed=77))
    return train_classifier(strategy, activation=activation, config=config, **arguments)


def assert_same_bits(one: FrameClassifier, other: FrameClassifier) -> None:
    assert one.history == other.history
    for layer, same in zip(one.layers(), other.layers(), strict=True):
        assert torch.equal(layer.weight, same.weight)
        assert torch.equal(layer.bias, same.bias)


@every_activation
def test_where_pretraining_does_nothing_the_strategies_coincide_bit_for_bit(activation: str) -> None:
    supervised = train("supervised", activation)
    untouched = draw_hidden_layers(6, DIMS, activation, seed=4)
    assert_same_bits(train("finetune", activation, pretrained=untouched), supervised)
    assert_same_bits(train("greedy_supervised", activation, pretrained=untouched), supervised)
    no_greedy_epochs = ClassifierConfig(num_epochs=3, batch_size=16, num_greedy_epochs=0, weight_decay=0.01)
    assert_same_bits(train("greedy_supervised", activation, config=no_greedy_epochs), supervised)
    assert train("greedy_supervised", activation).history != supervised.history


def test_all_strategies_see_the_same_frames_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def record(*arguments: Any) -> Any:
        for indices in strategies_index_batches(*arguments):
            seen.append(indices)
            yield indices

    strategies_index_batches = strategies.index_batches
    monkeypatch.setattr(strategies, "index_batches", record)
    orders = []
    for strategy in STRATEGIES:
        seen.clear()
        train(strategy)
        orders.append(torch.cat(seen[-3 * 6 :]))  # three epochs of six batches; before them the greedy layers'
        assert len(seen) == 18 + (2 * 2 * 6 if strategy == "greedy_supervised" else 0)
    assert len(orders[0]) == 3 * 90
    assert not torch.equal(orders[0][:90], orders[0][90:180])
    for order in orders[1:]:
        assert torch.equal(order, orders[0])


@every_activation
def test_frozen_layers_stay_and_the_output_layer_is_trained_on_their_codes(activation: str) -> None:
    pretrained = draw_hidden_layers(6, DIMS, activation, seed=77)
    classifier = train("frozen", activation, pretrained=pretrained)
    for layer, before in zip(classifier.hidden, pretrained, strict=True):
        assert torch.equal(layer.weight, before.weight)
        assert torch.equal(layer.bias, before.bias)
        assert not layer.weight.requires_grad
    assert all(len(progress.gradient_norms) == 1 for progress in classifier.history)
    assert classifier.history[-1].loss < classifier.history[0].loss


def test_the_pretrained_layers_themselves_are_left_alone() -> None:
    pretrained = draw_hidden_layers(6, DIMS, "sigmoid", seed=77)
    before = [layer.weight.clone() for layer in pretrained]
    classifier = train("finetune", pretrained=pretrained)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(pretrained, before, strict=True))
    assert not torch.equal(classifier.layers()[0].weight, before[0])


@every_activation
@pytest.mark.parametrize("strategy", ["supervised", "frozen"])
def test_training_is_gradient_descent_with_momentum_as_stated(strategy: str, activation: str) -> None:
    """Against a twin in NumPy, float64, that differentiates by hand: weights, losses and gradient norms."""
    frames, labels = (item for item in labelled_frames())
    pretrained = draw_hidden_layers(6, DIMS, activation, seed=4)
    options = {"pretrained": pretrained} if strategy == "frozen" else {}
    classifier = train(strategy, activation, frames=frames.double(), **options)
    untrained = train(strategy, activation, frames=frames.double(), config=ClassifierConfig(
        num_epochs=1, batch_size=90, learning_rate=1e-300), **options)  # fmt: skip
    weights = [layer.weight.detach().numpy().copy() for layer in untrained.layers()]
    biases = [layer.bias.detach().numpy().copy() for layer in untrained.layers()]
    speeds = [np.zeros_like(item) for item in (*weights, *biases)]
    trained = range(2, 3) if strategy == "frozen" else range(3)
    order = strategies._generator(4, strategies._ORDER)
    for epoch in range(3):
        losses, norms = [], []
        for rows in torch.randperm(90, generator=order).split(16):
            codes, onehot = [frames.double().numpy()[rows]], np.eye(3)[labels[rows]]
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                inputs = codes[-1] @ weight.T + bias
                codes.append(1 / (1 + np.exp(-inputs)) if activation == "sigmoid" else np.maximum(inputs, 0))
            logits = codes[-1] @ weights[-1].T + biases[-1]
            probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            losses += (-np.log(probabilities) * onehot).sum(axis=1).tolist()
            delta, gradients = (probabilities - onehot) / len(rows), {}
            for number in (2, 1, 0):
                gradients[number] = (delta.T @ codes[number], delta.sum(axis=0))
                slope = codes[number] * (1 - codes[number]) if activation == "sigmoid" else codes[number] > 0
                delta = (delta @ weights[number]) * slope
            norms.append([np.linalg.norm(gradients[number][0]) for number in trained])
            for number in trained:
                steps = (gradients[number][0] + 0.01 * weights[number], gradients[number][1])
                values = (weights[number], biases[number])
                for place, value, gradient in zip((number, 3 + number), values, steps, strict=True):
                    speeds[place] = 0.9 * speeds[place] + gradient
                    value -= 0.05 * speeds[place]
        progress = classifier.history[epoch]
        assert progress.loss == pytest.approx(np.mean(losses), rel=1e-12)
        assert progress.gradient_norms == pytest.approx(np.mean(norms, axis=0), rel=1e-11)
    for number, layer in enumerate(classifier.layers()):
        np.testing.assert_allclose(layer.weight.detach().numpy(), weights[number], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(layer.bias.detach().numpy(), biases[number], rtol=1e-10, atol=1e-13)


@every_activation
def test_greedy_layers_are_hidden_layers_of_networks_on_the_codes_below(activation: str) -> None:
    """Layer 2 of a stack is layer 1 of a stack on the codes of layer 1, but for what the generators draw."""
    frames, labels = labelled_frames()
    stack = train_greedy_layers(frames, labels, 3, DIMS, activation, CONFIG, seed=4)
    untouched = draw_hidden_layers(6, DIMS, activation, seed=4)
    codes = frames
    for number, (layer, start) in enumerate(zip(stack, untouched, strict=True)):
        output = strategies.xavier_linear(
            layer.out_features, 3, strategies._generator(4, strategies._GREEDY_OUTPUT, number)
        )
        network = FrameClassifier([linear_from(start.weight, start.bias)], output, activation)
        order = strategies._generator(4, strategies._GREEDY_ORDER, number)
        strategies._descend(network, codes, labels, CONFIG, 2, order)
        assert torch.equal(layer.weight, network.layers()[0].weight)
        assert not torch.equal(layer.weight, start.weight)
        linear = codes @ layer.weight.detach().T + layer.bias.detach()
        codes = linear.sigmoid() if activation == "sigmoid" else linear.relu()
        assert network.history[-1].loss < network.history[0].loss


def test_the_first_layers_of_a_deep_stack_are_those_of_a_shallow_one() -> None:
    frames, labels = labelled_frames()

    def greedy(dims: tuple[int, ...]) -> list[Any]:
        return train_greedy_layers(frames, labels, 3, dims, "sigmoid", CONFIG, seed=4)

    def dae(dims: tuple[int, ...]) -> list[Any]:
        return StackedAutoencoder(dims, "sigmoid", DaeConfig(num_epochs=2)).fit(frames, seed=4).hidden_layers()

    def dbn(dims: tuple[int, ...]) -> list[Any]:
        return Dbn(dims, "sigmoid", DbnConfig(num_epochs=2)).fit(frames, seed=4).hidden_layers()

    def drawn(dims: tuple[int, ...]) -> list[Any]:
        return draw_hidden_layers(6, dims, "relu", seed=4)

    for build in (greedy, dae, dbn, drawn):
        deep, shallow = build((7, 5, 4)), build((7, 5))
        for layer, same in zip(deep, shallow):  # noqa: B905, the deep one has one more
            assert torch.equal(layer.weight, same.weight)
            assert torch.equal(layer.bias, same.bias)
    by_prefix = train("finetune", pretrained=dae((7, 5, 4)))
    assert_same_bits(by_prefix, train("finetune", pretrained=dae((7, 5))))
    whole = train("greedy_supervised")
    assert_same_bits(train("greedy_supervised", pretrained=greedy((7, 5, 4))), whole)


@pytest.mark.parametrize(("activation", "bound"), [("sigmoid", (6 / 300) ** 0.5), ("relu", (6 / 200) ** 0.5)])
def test_initial_weights_are_those_of_the_papers(activation: str, bound: float) -> None:
    layers = draw_hidden_layers(200, (100, 100), activation, seed=1)
    weight = layers[0].weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layers[0].bias.any()
    assert not torch.equal(layers[1].weight, draw_hidden_layers(100, (100,), activation, seed=1)[0].weight)


@every_strategy
@every_activation
def test_the_same_seed_gives_the_same_bits_and_leaves_global_state_alone(strategy: str, activation: str) -> None:
    state = torch.get_rng_state()
    first = train(strategy, activation)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert_same_bits(first, train(strategy, activation))
    assert first.history != train(strategy, activation, seed=5).history
    depth = 1 if strategy == "frozen" else 3
    assert [len(progress.gradient_norms) for progress in first.history] == [depth] * 3
    assert [progress.epoch for progress in first.history] == [1, 2, 3]


@every_strategy
def test_separate_classes_are_learnt(strategy: str) -> None:
    frames, labels = labelled_frames()
    config, dims = ClassifierConfig(num_epochs=30, batch_size=16), (40, 30)
    options = (
        {"pretrained": draw_hidden_layers(6, dims, "relu", seed=7)} if strategy in ("frozen", "finetune") else {}
    )
    classifier = train(strategy, "relu", config=config, hidden_dims=dims, **options)
    assert classifier.accuracy(frames, labels) > 0.9
    assert classifier.accuracy(frames, (labels + 1) % 3) < 0.1
    log_probabilities = classifier.log_probabilities(frames)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(90))
    assert torch.equal(log_probabilities.argmax(dim=1), classifier(frames).argmax(dim=1))


def test_the_model_takes_the_precision_of_the_frames() -> None:
    frames, _ = labelled_frames()
    for strategy in STRATEGIES:
        classifier = train(strategy, frames=frames.double())
        assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float64}


@every_strategy
def test_divergence_names_layer_step_and_remedy(strategy: str) -> None:
    config = ClassifierConfig(num_epochs=40, batch_size=16, learning_rate=1e30)
    message = r"labels diverged at (layer \d|the output layer), epoch \d+, step [1-6]: .* rate below 1e\+30, and"
    with pytest.raises(DivergenceError, match=message):
        train(strategy, "relu", config=config)


def test_weights_that_leave_the_finite_numbers_in_the_last_step_are_found() -> None:
    """No loss comes after it."""
    frames, labels = labelled_frames()
    config = ClassifierConfig(num_epochs=1, batch_size=90, learning_rate=3e38, momentum=0.0, weight_decay=100.0)
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1: the loss is \d"):
        train("supervised", "relu", config=config, frames=frames, labels=labels)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("finetuned", {}, 'unknown strategy "finetuned"; did you mean "finetune"'),
        ("supervised", {"activation": "tanh"}, 'unknown activation "tanh"'),
        ("supervised", {"hidden_dims": []}, r"hidden_dims is \[\]; expected at least one layer"),
        ("supervised", {"num_classes": 1}, "num_classes is 1; expected at least 2"),
        ("supervised", {"num_classes": 2}, "labels range from 0 to 2; expected 0 to 1"),
        ("supervised", {"labels": torch.zeros(89).long()}, r"labels have shape \(89,\) .*; expected \(90,\)"),
        ("supervised", {"labels": torch.zeros(90)}, r"type torch.float32; expected \(90,\), .* torch.int64"),
        ("supervised", {"frames": torch.full((90, 6), torch.nan)}, "frames must be finite"),
        ("supervised", {"pretrained": []}, "starts from random weights; leave out the pretrained layers"),
        ("frozen", {"pretrained": None}, 'strategy "frozen" needs pretrained layers; found none'),
        ("finetune", {"pretrained": None}, 'strategy "finetune" needs pretrained layers; found none'),
        (
            "finetune",
            {"pretrained": draw_hidden_layers(6, (7,), "relu", seed=0)},
            r"layers map \[\(6, 7\)\]; expected them to begin with \[\(6, 7\), \(7, 5\)\]",
        ),
    ],
)
def test_bad_input_is_named(strategy: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(strategy, **options)


@pytest.mark.parametrize(
    ("field", "value"), [("momentum", 1.0), ("weight_decay", -1.0), ("num_greedy_epochs", -1), ("num_epochs", 0)]
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"ClassifierConfig\.{field} is {value}; expected"):
        ClassifierConfig(**{field: value})
