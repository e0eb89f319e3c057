"""Training a restricted Boltzmann machine: schedules, sparsity, precision, signs of overfitting and divergence."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.interface import (
    FrameSource,
    OnEpoch,
    PretrainConfig,
    PretrainProgress,
    as_frame_source,
    check_frames,
    draw_seed,
    run_epochs,
)
from spkadapt.pretrain.rbm_gradients import CdGradients, PersistentChains, TemperedChains
from spkadapt.pretrain.rbm_path import RbmPath, require_binary_hidden

if TYPE_CHECKING:
    from spkadapt.pretrain.rbm import Rbm

# One visible unit then saturates σ in float32 several times over; only a diverging model gets there.
LARGEST_WEIGHT = 100.0


@dataclass(frozen=True)
class RbmConfig(PretrainConfig):
    """How an RBM is trained. Defaults follow Hinton's practical guide (2010) unless said otherwise.

    A parameter θ with gradient g moves by Δθ ← momentum · Δθ + learning_rate · g.

    Attributes:
        learning_rate: 0.1 suits Bernoulli visible units (Hinton & Salakhutdinov 2006). Gaussian and rectified
            ones need one or two orders of magnitude less (guide, §13.2): nothing bounds a reconstruction.
        num_epochs: passes over the frames.
        batch_size: frames per update (guide, §4: 10 to 100).
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        final_learning_rate_factor: the last epoch's learning rate over the first's. Persistent chains want a
            rate that falls to near 0 (Tieleman 2008).
        learning_rate_decay: how it gets there from epoch to epoch, "linear" or "exponential".
        initial_momentum: momentum while the weights still find their direction (guide, §9).
        final_momentum: momentum from then on.
        num_initial_epochs: epochs at `initial_momentum`.
        weight_decay: L2 penalty's coefficient, on weights and not on biases (guide, §10).
        negative_phase: "contrastive" divergence (Hinton 2002), "persistent" (Tieleman 2008), or "tempered":
            parallel tempering (Desjardins et al. 2010).
        num_gibbs_steps: k: Gibbs steps per update, of whichever chain.
        num_chains: persistent chains, or ladders of tempered ones (Tieleman 2008: as many as a batch's frames).
        num_temperatures: rungs of a tempered ladder (10 to 50 in Desjardins et al. 2010).
        sparsity_target: mean activity wanted of Bernoulli hidden units (guide, §11: 0.01 to 0.1); None for no
            such penalty.
        sparsity_cost: weight of the penalty, the cross-entropy between target and mean activity.
        sparsity_decay: of the running mean activity, per update (guide, §11: 0.9 to 0.99).
        precision: of sampling and matrix products: "full", which is the frames', or "bfloat16" with parameters
            and updates in full, for CPUs and GPUs that multiply it faster.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.1
    final_learning_rate_factor: float = 1.0
    learning_rate_decay: Literal["linear", "exponential"] = "linear"
    initial_momentum: float = 0.5
    final_momentum: float = 0.9
    num_initial_epochs: int = 5
    weight_decay: float = 2e-4
    negative_phase: Literal["contrastive", "persistent", "tempered"] = "contrastive"
    num_gibbs_steps: int = 1
    num_chains: int = 100
    num_temperatures: int = 10
    sparsity_target: float | None = None
    sparsity_cost: float = 0.01
    sparsity_decay: float = 0.9
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        factor, target = self.final_learning_rate_factor, self.sparsity_target
        decays = ("linear", "exponential")
        self.require("learning_rate_decay", self.learning_rate_decay in decays, '"linear" or "exponential"')
        lowest_is_open = self.learning_rate_decay == "exponential"
        self.require(
            "final_learning_rate_factor",
            0 <= factor < math.inf and not (lowest_is_open and factor == 0),
            "a number above 0" + ("" if lowest_is_open else ", or 0"),
        )
        for field in ("initial_momentum", "final_momentum", "sparsity_decay"):
            self.require(field, 0 <= getattr(self, field) < 1, "a number from 0 to below 1")
        self.require("num_initial_epochs", self.num_initial_epochs >= 0, "a whole number of at least 0")
        for field in ("weight_decay", "sparsity_cost"):
            self.require(field, 0 <= getattr(self, field) < math.inf, "a number of at least 0")
        phases = ("contrastive", "persistent", "tempered")
        self.require("negative_phase", self.negative_phase in phases, '"contrastive", "persistent" or "tempered"')
        for field in ("num_gibbs_steps", "num_chains"):
            self.require(field, getattr(self, field) >= 1, "a whole number of at least 1")
        self.require("num_temperatures", self.num_temperatures >= 2, "a whole number of at least 2")
        self.require("sparsity_target", target is None or 0 < target < 1, "a number between 0 and 1, or none")
        self.require("precision", self.precision in ("full", "bfloat16"), '"full" or "bfloat16"')

    def momentum(self, epoch: int) -> float:
        """The momentum in `epoch`, counted from 1."""
        return self.initial_momentum if epoch <= self.num_initial_epochs else self.final_momentum

    def scheduled_learning_rate(self, epoch: int) -> float:
        """The learning rate in `epoch`, counted from 1."""
        progress = (epoch - 1) / max(1, self.num_epochs - 1)
        if self.learning_rate_decay == "exponential":
            return self.learning_rate * self.final_learning_rate_factor**progress
        return self.learning_rate * (1 - progress * (1 - self.final_learning_rate_factor))


def train_rbm(
    rbm: Rbm,
    frames: Tensor | FrameSource,
    config: RbmConfig,
    *,
    seed: int,
    layer: int,
    held_out: Tensor | None,
    on_epoch: OnEpoch | None,
    checkpoint: Checkpoint | None,
) -> list[PretrainProgress]:
    """Train `rbm` on from its present weights; see `Rbm.fit`."""
    source = as_frame_source(frames)
    _check_dim(source.dim, rbm, "frames")
    if isinstance(frames, Tensor):
        _check_range(frames, rbm, "frames")
    if config.sparsity_target is not None and rbm.hidden != "bernoulli":
        raise InputError(f"a sparsity_target is for Bernoulli hidden units; these are {rbm.hidden}")
    if config.negative_phase == "tempered":
        require_binary_hidden(rbm, "parallel tempering")
    rbm.to(source.take(torch.tensor([0])))
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator(rbm.weight.device).manual_seed(draw_seed(order))
    evaluate = None if held_out is None else _free_energy_gap(rbm, source, held_out, seed)
    trainer = _Trainer(rbm, config, noise, layer)
    history = run_epochs(
        source,
        trainer.step,
        config,
        order,
        layer=layer,
        on_epoch=on_epoch,
        evaluate=evaluate,
        state={"rbm": rbm, "trainer": trainer, "noise": noise},
        checkpoint=checkpoint,
    )
    rbm.zero_grad()
    return history


class _Trainer:
    """Gradient ascent with momentum, one mini-batch after another."""

    def __init__(self, rbm: Rbm, config: RbmConfig, noise: torch.Generator, layer: int) -> None:
        self.rbm, self.config, self.noise, self.layer = rbm, config, noise, layer
        self.num_steps = 0
        self.chains: PersistentChains | None = None
        self.mean_activity: Tensor | None = None
        # In low precision the sampling is done by a copy, whose parameters follow each update.
        self.sampler = copy.deepcopy(rbm).to(torch.bfloat16) if config.precision == "bfloat16" else rbm
        biases = [p for p in (rbm.visible_bias, rbm.hidden_bias, rbm.log_variance) if p is not None]
        groups: list[dict[str, Any]] = [
            {"params": [rbm.weight], "weight_decay": config.weight_decay},
            {"params": biases},
        ]
        self.ascent = torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum(1), maximize=True, fused=True
        )

    def step(self, v: Tensor, epoch: int) -> dict[str, Tensor]:
        """One update; the losses before it."""
        config, gradients = self.config, self._gradients(v)
        losses = {"reconstruction_error": gradients.reconstruction_error}
        if config.sparsity_target is not None and gradients.hidden_activity is not None:
            losses["hidden_activity"] = gradients.hidden_activity.mean()
            gradients = self._with_sparsity(gradients, v, gradients.hidden_activity, config.sparsity_target)
        for name in ("weight", "visible_bias", "hidden_bias", "log_variance"):
            parameter = getattr(self.rbm, name)
            if parameter is not None:
                parameter.grad = getattr(gradients, name).to(parameter.dtype)
        for group in self.ascent.param_groups:
            group["momentum"], group["lr"] = config.momentum(epoch), config.scheduled_learning_rate(epoch)
        self.ascent.step()
        self.num_steps += 1
        self._check_weights(epoch)
        return losses

    @torch.no_grad()
    def _gradients(self, v: Tensor) -> CdGradients:
        config, sampler = self.config, self.sampler
        if sampler is not self.rbm:
            for low, full in zip(sampler.parameters(), self.rbm.parameters(), strict=True):
                low.copy_(full)
            v = v.to(torch.bfloat16)
        if config.negative_phase == "contrastive":
            return sampler.contrastive_divergence(v, config.num_gibbs_steps, self.noise)
        if self.chains is None:
            starts = v[torch.arange(config.num_chains, device=v.device) % len(v)]
            path = RbmPath.from_frames(sampler, v) if config.negative_phase == "tempered" else None
            self.chains = self._build_chains(starts, path)
        return self.chains.gradients(v, config.num_gibbs_steps, self.noise)

    def _build_chains(self, starts: Tensor, path: RbmPath | None) -> PersistentChains:
        if path is None:
            return PersistentChains(self.sampler, starts)
        return TemperedChains(path, starts, self.config.num_temperatures)

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step but for the RBM itself."""
        return {
            "num_steps": self.num_steps,
            "mean_activity": self.mean_activity,
            "ascent": self.ascent.state_dict(),
            "chains": None if self.chains is None else self.chains.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to such a state."""
        device = self.rbm.weight.device
        activity, chains = state_dict["mean_activity"], state_dict["chains"]
        self.num_steps = state_dict["num_steps"]
        self.mean_activity = None if activity is None else activity.to(device)
        self.ascent.load_state_dict(state_dict["ascent"])
        if chains is not None:
            tempered = self.config.negative_phase == "tempered"
            path = RbmPath(self.sampler, chains["base_bias"], chains["base_log_variance"]) if tempered else None
            self.chains = self._build_chains(chains["states"][: self.config.num_chains].to(device), path)
            self.chains.load_state_dict(chains)

    @torch.no_grad()
    def _with_sparsity(self, gradients: CdGradients, v: Tensor, activity: Tensor, target: float) -> CdGradients:
        """Less the penalty's gradient, in its simple form (Hinton 2010, §11).

        With q the running mean activity and p the target, the cross-entropy −p log q − (1 − p) log(1 − q) has the
        derivative q − p in a logistic unit's total input. It reaches the bias as it is and the weights times the
        mean of what they carry.
        """
        decay, carried = self.config.sparsity_decay, v.mean(dim=0)
        if self.mean_activity is not None:
            activity = decay * self.mean_activity + (1 - decay) * activity
        self.mean_activity = activity
        slope = self.config.sparsity_cost * (activity - target)
        if self.rbm.log_variance is not None:
            carried = carried * self.rbm.log_variance.neg().exp()
        return gradients._replace(
            weight=gradients.weight - torch.outer(slope, carried), hidden_bias=gradients.hidden_bias - slope
        )

    def _check_weights(self, epoch: int) -> None:
        """Bernoulli units hide divergence: their reconstruction stays in [0, 1] whatever the weights."""
        if self.rbm.visible != "bernoulli":
            return
        low, high = self.rbm.weight.detach().aminmax()
        largest = max(-low.item(), high.item())
        if not largest <= LARGEST_WEIGHT:  # also where it is NaN
            raise DivergenceError(
                f"pretraining diverged at layer {self.layer}, epoch {epoch}, update {self.num_steps}: a weight "
                f"has reached {largest:.3g}, where its units no longer change; use a learning rate below "
                f"{self.config.learning_rate:g}, or a weight_decay above {self.config.weight_decay:g}"
            )


def overfitting_since(history: Sequence[PretrainProgress], num_errors: float = 3.0) -> int | None:
    """The first epoch whose free-energy gap is above the least gap before it by `num_errors` standard errors.

    Held-out frames whose free energy rises beside the training frames' are becoming less probable beside them,
    whatever the partition function: the model learns frames by heart (Hinton 2010, §6).

    Args:
        history: of `Rbm.fit` with `held_out`.
        num_errors: of the difference, each gap's error taken as independent, which is more than it is.

    Returns:
        The epoch; None while there is no such epoch.

    Raises:
        InputError: a history without gaps.
    """
    least: tuple[float, float] | None = None
    for progress in history:
        if "free_energy_gap" not in progress.losses:
            raise InputError(
                f"epoch {progress.epoch} of the history holds no free_energy_gap; call fit with held_out frames"
            )
        gap, error = progress.losses["free_energy_gap"], progress.losses["free_energy_gap_error"]
        if least is not None and gap - least[0] > num_errors * math.hypot(error, least[1]):
            return progress.epoch
        least = (gap, error) if least is None or gap < least[0] else least
    return None


def _free_energy_gap(
    rbm: Rbm, source: FrameSource, held_out: Tensor, seed: int
) -> Callable[[int], Mapping[str, float]]:
    """What measures mean F(held-out) − mean F(training), nats per dimension, on the same frames every time.

    Of the training frames, as many as are held out, drawn from a generator of their own: watching changes nothing.
    """
    check_frames(held_out)
    _check_dim(held_out.shape[1], rbm, "held-out frames")
    _check_range(held_out, rbm, "held-out frames")
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[: len(held_out)]
    held_out = held_out.to(rbm.weight)

    @torch.no_grad()
    def measure(_: int) -> dict[str, float]:
        parts = (
            torch.cat([rbm.free_energy(part) for part in held_out.split(4096)]),
            torch.cat([rbm.free_energy(source.take(indices)) for indices in chosen.split(4096)]),
        )
        means = [part.double().mean().item() / source.dim for part in parts]
        errors = [part.double().std(correction=0).item() / source.dim / math.sqrt(len(part)) for part in parts]
        return {"free_energy_gap": means[0] - means[1], "free_energy_gap_error": math.hypot(*errors)}

    return measure


def _check_dim(dim: int, rbm: Rbm, what: str) -> None:
    if dim != rbm.weight.shape[1]:
        raise InputError(f"{what} have {dim} dimensions; this RBM has {rbm.weight.shape[1]} visible units")


def _check_range(frames: Tensor, rbm: Rbm, what: str) -> None:
    if rbm.visible == "gaussian":
        return
    low, high = (extreme.item() for extreme in frames.aminmax())
    if low < 0 or (rbm.visible == "bernoulli" and high > 1):
        range_of = {"bernoulli": "Bernoulli visible units take values in [0, 1]"}
        raise InputError(
            f"{range_of.get(rbm.visible, 'rectified visible units take values of at least 0')}; found {what} from "
            f'{low:.4g} to {high:.4g} (for standardised real frames choose visible="gaussian")'
        )
