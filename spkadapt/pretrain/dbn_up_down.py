"""The up-down algorithm: a deep belief network's layers trained together (Hinton, Osindero & Teh 2006, app. B).

Contrastive wake-sleep. The up-pass draws h₁, …, h_{L−1} from q given a frame, and each generative layer learns to
regenerate the layer below it. The top RBM takes some Gibbs steps from there and learns from the difference. From
where they end, the down-pass draws a fantasy, and each recognition layer learns to recover the layer above it.

    wake:   ∂/∂θ  E_data E_q[log p(h_{k−1} | h_k)]    the bound's gradient in generative weights
    sleep:  ∂/∂φ  E_fantasy[log q(h_k | h_{k−1})]     tends to that of −E_p KL(p(h | v) ‖ q(h | v))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.dbn_net import DeepBeliefNet
from spkadapt.pretrain.interface import (
    FrameSource,
    OnEpoch,
    PretrainConfig,
    PretrainProgress,
    as_frame_source,
    draw_seed,
    run_epochs,
)
from spkadapt.pretrain.rbm_gradients import PersistentChains


@dataclass(frozen=True)
class UpDownConfig(PretrainConfig):
    """How the up-down algorithm trains: θ ← θ + learning_rate · g, all gradients of a step before any update.

    Attributes:
        learning_rate: of all layers; that of the greedy training of Gaussian units (`DbnConfig`), since the bottom
            layer's errors are not bounded either.
        num_epochs: passes over the frames.
        negative_phase: the top RBM's Gibbs chains start at the up-pass ("contrastive"), or go on from update to
            update ("persistent"; Tieleman 2008).
        num_gibbs_steps: of the top RBM, per update; 3, later 6 and 10, in Hinton, Osindero & Teh (2006).
        num_chains: persistent chains.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.002
    negative_phase: Literal["contrastive", "persistent"] = "contrastive"
    num_gibbs_steps: int = 3
    num_chains: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        phases = ("contrastive", "persistent")
        self.require("negative_phase", self.negative_phase in phases, '"contrastive" or "persistent"')
        for field in ("num_gibbs_steps", "num_chains"):
            self.require(field, getattr(self, field) >= 1, "a whole number of at least 1")


def wake_gradients(net: DeepBeliefNet, states: list[Tensor]) -> list[list[Tensor]]:
    """Of each generative layer: the gradient of the mean of log p(h_{k−1} | h_k), as `DirectedLayer.gradients`.

    Args:
        net: the network.
        states: of the up-pass (`DeepBeliefNet.recognise`), bottom first.
    """
    return [layer.gradients(states[k], states[k + 1]) for k, layer in enumerate(net.generative)]


def sleep_gradients(net: DeepBeliefNet, states: list[Tensor]) -> list[list[Tensor]]:
    """Of each recognition layer: the gradient of the mean of log q(h_k | h_{k−1}), as `DirectedLayer.gradients`.

    Args:
        net: the network.
        states: of the down-pass (`DeepBeliefNet.generate`), bottom first.
    """
    return [layer.gradients(states[k + 1], states[k]) for k, layer in enumerate(net.recognition)]


def train_up_down(
    net: DeepBeliefNet,
    frames: Tensor | FrameSource,
    config: UpDownConfig,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[PretrainProgress]:
    """Train `net` on from its present weights; its progress names no layer.

    Args:
        net: on the frames' device and in their precision.
        frames: (n, dim), as for the bottom RBM.
        config: how to train.
        seed: of the order of the frames and of the sampling.
        on_epoch: called after each epoch.
        checkpoint: this training is its next phase.

    Raises:
        InputError: frames that are not finite.
        DivergenceError: the training diverged.
    """
    order = torch.Generator().manual_seed(seed)
    trainer = _Trainer(net, config, torch.Generator(net.top.weight.device).manual_seed(draw_seed(order)))
    return run_epochs(
        as_frame_source(frames),
        trainer.step,
        config,
        order,
        layer=None,
        on_epoch=on_epoch,
        state={"net": net, "trainer": trainer, "noise": trainer.noise},
        checkpoint=checkpoint,
    )


class _Trainer:
    def __init__(self, net: DeepBeliefNet, config: UpDownConfig, noise: torch.Generator) -> None:
        self.net, self.config, self.noise = net, config, noise
        self.chains: PersistentChains | None = None

    @torch.no_grad()
    def step(self, v: Tensor, _: int) -> dict[str, Tensor]:
        """One update; the loss before it: the squared error of E[v | h₁], h₁ of the up-pass."""
        net, rate = self.net, self.config.learning_rate
        states = net.recognise(v, self.noise)
        chains = self._chains(states[-1])
        top = chains.gradients(states[-1], self.config.num_gibbs_steps, self.noise)
        fantasy = net.generate(chains.states, self.noise)
        wake, sleep = wake_gradients(net, states), sleep_gradients(net, fantasy)
        error = F.mse_loss(net.generative[0].mean(states[1]), v) if wake else top.reconstruction_error
        for layer, gradients in zip(net.generative + net.recognition, wake + sleep, strict=True):
            for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
                parameter.add_(gradient, alpha=rate)
        for name, parameter in net.top.named_parameters():
            parameter.add_(getattr(top, name), alpha=rate)
        return {"reconstruction_error": error}

    def _chains(self, h: Tensor) -> PersistentChains:
        if self.config.negative_phase == "contrastive":
            return PersistentChains(self.net.top, h)
        if self.chains is None:
            starts = h[torch.arange(self.config.num_chains, device=h.device) % len(h)]
            self.chains = PersistentChains(self.net.top, starts)
        return self.chains

    def state_dict(self) -> dict[str, Any]:
        """The persistent chains."""
        return {"chains": None if self.chains is None else self.chains.states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such chains."""
        chains = state_dict["chains"]
        self.chains = None if chains is None else PersistentChains(self.net.top, chains.to(self.net.top.weight))
