"""A pretraining that is interrupted anywhere and started again ends with the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain import PRETRAINER_CONFIGS, PRETRAINERS, Pretrainer, PretrainProgress
from spkadapt.pretrain import checkpoint as checkpoint_module
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.dbm_training import DbmTrainingConfig
from spkadapt.pretrain.dbn_up_down import UpDownConfig
from spkadapt.pretrain.interface import PretrainConfig, TensorFrames, run_epochs

# Whatever has a state of its own: momentum, Adam's moments, chains, running activities, schedules by epoch.
MEMBERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dae": ("dae", "relu", {}),
    "dae, salt and pepper": ("dae", "sigmoid", {"corruption_kind": "salt_and_pepper", "tied": False}),
    "dbn": ("dbn", "sigmoid", {"num_initial_epochs": 1, "final_learning_rate_factor": 0.1}),
    "dbn, persistent": ("dbn", "sigmoid", {"negative_phase": "persistent", "sparsity_target": 0.1}),
    "dbn, tempered": ("dbn", "sigmoid", {"negative_phase": "tempered", "num_temperatures": 3}),
    "dbn, bfloat16": ("dbn", "sigmoid", {"precision": "bfloat16", "negative_phase": "persistent"}),
    "dbn, up-down": ("dbn", "sigmoid", {"up_down": UpDownConfig(num_epochs=2, batch_size=25)}),
    "dbm": ("dbm", "sigmoid", {"joint": DbmTrainingConfig(num_epochs=2, batch_size=25)}),
    "vae": ("vae", "sigmoid", {"num_latent": 3, "beta_warmup_epochs": 1}),
}
every_member = pytest.mark.parametrize("member", list(MEMBERS))


def noisy_frames() -> Tensor:
    return torch.randn(60, 6, generator=torch.Generator().manual_seed(1))


def build(member: str, **config: Any) -> Pretrainer:
    method, activation, own = MEMBERS[member]
    settings = {"num_epochs": 2, "batch_size": 25, **own, **config}
    return PRETRAINERS[method]([5, 4], activation, PRETRAINER_CONFIGS[method](**settings))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


class Failing(TensorFrames):
    """Frames that cannot be taken more than so many times."""

    def __init__(self, frames: Tensor, num_left: int) -> None:
        super().__init__(frames)
        self.num_left = num_left

    def take(self, indices: Tensor) -> Tensor:
        self.num_left -= 1
        if self.num_left < 0:
            raise Interrupted
        return super().take(indices)


def assert_same_bits(pretrainer: Pretrainer, other: Pretrainer) -> None:
    assert pretrainer.history == other.history
    for layer, same in zip(pretrainer.hidden_layers(), other.hidden_layers(), strict=True):
        assert torch.equal(layer.weight, same.weight)
        assert torch.equal(layer.bias, same.bias)


@every_member
@pytest.mark.parametrize("seconds_between_saves", [0.0, 1e9])
def test_interrupted_again_and_again_it_ends_with_the_same_bits(
    member: str, seconds_between_saves: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved after every step it goes on within an epoch; else at the end of one."""
    monkeypatch.setattr(checkpoint_module, "SAVE_EVERY_SECONDS", seconds_between_saves)
    frames, path = noisy_frames(), tmp_path / "checkpoint.pt"
    unbroken = build(member).fit(frames, seed=3)
    num_runs = 0
    while True:
        torch.manual_seed(num_runs)  # nothing may hang on it
        pretrainer = build(member)
        try:
            # Each process takes the digest, a frame or two to see their type, and then gets a few steps.
            pretrainer.fit(Failing(frames, 3 + num_runs), seed=3, checkpoint=path)
            break
        except Interrupted:
            num_runs += 1
    assert num_runs >= 2
    assert_same_bits(pretrainer, unbroken)


@every_member
def test_keeping_a_checkpoint_changes_nothing(member: str, tmp_path: Path) -> None:
    frames = noisy_frames()
    path = tmp_path / "new" / "checkpoint.pt"
    assert_same_bits(build(member).fit(frames, seed=3, checkpoint=path), build(member).fit(frames, seed=3))
    assert os.listdir(path.parent) == ["checkpoint.pt"]


@every_member
def test_a_pretraining_that_has_ended_takes_no_step(member: str, tmp_path: Path) -> None:
    frames, path = noisy_frames(), tmp_path / "checkpoint.pt"
    ended = build(member).fit(frames, seed=3, checkpoint=path)
    written = path.stat().st_mtime_ns
    reports: list[PretrainProgress] = []
    again = build(member).fit(Failing(frames, 5), seed=3, checkpoint=path, on_epoch=reports.append)
    assert_same_bits(again, ended)
    assert reports == ended.history
    assert path.stat().st_mtime_ns == written


def test_epochs_that_a_checkpoint_holds_are_reported_first(tmp_path: Path) -> None:
    frames, path = noisy_frames(), tmp_path / "checkpoint.pt"
    seen: list[PretrainProgress] = []

    def interrupt(progress: PretrainProgress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        build("dae").fit(frames, seed=3, checkpoint=path, on_epoch=interrupt)
    reports: list[PretrainProgress] = []
    resumed = build("dae").fit(frames, seed=3, checkpoint=path, on_epoch=reports.append)
    assert [(report.layer, report.epoch) for report in reports] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert reports == resumed.history
    assert reports[:3] == seen


def test_the_seconds_of_all_processes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: float(next(clock)))
    path = tmp_path / "checkpoint.pt"
    pretrainer = build("dae")
    assert pretrainer.seconds == 0
    pretrainer.fit(noisy_frames(), seed=3, checkpoint=path)
    first = pretrainer.seconds
    again = build("dae").fit(noisy_frames(), seed=3, checkpoint=path)
    assert again.seconds > first - 5 > 0


@pytest.mark.parametrize("num_steps", [7, 5])
def test_a_model_trained_on_in_a_later_phase_is_kept_as_each_left_it(tmp_path: Path, num_steps: int) -> None:
    """Of two phases on one model the second is interrupted: it must not have overwritten how the first ended.

    In its first epoch, before anything of it was kept, the order of frames goes on from the first phase's too.
    """
    config, source = PretrainConfig(num_epochs=2, batch_size=30), TensorFrames(noisy_frames())

    def train(path: Path | None, num_steps: int) -> Tensor:
        model, order = nn.Linear(6, 1), torch.Generator().manual_seed(0)
        nn.init.zeros_(model.weight)
        saved, left = Checkpoint(path, {}, {}), [num_steps]

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
            with torch.no_grad():
                model.weight += batch.mean(dim=0) * (1 + model.weight.square().sum())
            return {"loss": torch.zeros(())}

        after = []
        for layer in (1, None):
            run_epochs(
                source, step, config, order, layer=layer, on_epoch=None, state={"model": model}, checkpoint=saved
            )
            after.append(model.weight.detach().clone())
        return torch.stack(after)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train(path, num_steps)  # in the last epoch of the second phase, or the first
    assert torch.equal(train(path, 9 - num_steps), train(None, 8))


def test_what_a_step_draws_from_the_generator_of_the_order_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SAVE_EVERY_SECONDS", 0.0)
    config, source = PretrainConfig(num_epochs=2, batch_size=20), TensorFrames(noisy_frames())

    def train(path: Path | None, num_steps: int) -> Tensor:
        model, order, left = nn.Linear(6, 1), torch.Generator().manual_seed(0), [num_steps]
        nn.init.zeros_(model.weight)

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
            with torch.no_grad():
                model.weight += torch.rand((), generator=order) * batch.mean(dim=0)
            return {"loss": torch.zeros(())}

        saved = Checkpoint(path)
        run_epochs(
            source, step, config, order, layer=None, on_epoch=None, state={"model": model}, checkpoint=saved
        )
        return model.weight

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train(path, 2)  # of three in the first epoch
    assert torch.equal(train(path, 4), train(None, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate is 0.001 there and 0.5 now"),
        ({"num_epochs": 3}, r"num_epochs is 2 there and 3 now"),
        ({"corruption": 0.0}, r"corruption is 0.25 there and 0.0 now"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    build("dae").fit(noisy_frames(), seed=3, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=rf"checkpoint.pt: .*another pretraining \({message}\); give another path"
    ):
        build("dae", **change).fit(noisy_frames(), seed=3, checkpoint=path)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_seed_method_or_shape_is_refused(tmp_path: Path) -> None:
    path, frames = tmp_path / "checkpoint.pt", noisy_frames()
    build("dae").fit(frames, seed=3, checkpoint=path)
    with pytest.raises(InputError, match="seed is 3 there and 4 now"):
        build("dae").fit(frames, seed=4, checkpoint=path)
    with pytest.raises(InputError, match="pretrainer is StackedAutoencoder there and Vae now"):
        build("vae").fit(frames, seed=3, checkpoint=path)
    with pytest.raises(InputError, match=r"hidden_dims is \[5, 4\] there and \[5\] now"):
        PRETRAINERS["dae"]([5], "relu", PRETRAINER_CONFIGS["dae"](num_epochs=2, batch_size=25)).fit(
            frames, seed=3, checkpoint=path
        )


@pytest.mark.parametrize("change", ["value", "length", "type"])
def test_a_checkpoint_of_other_frames_is_refused(change: str, tmp_path: Path) -> None:
    path, frames = tmp_path / "checkpoint.pt", noisy_frames()
    build("dae").fit(frames, seed=3, checkpoint=path)
    others = {"length": frames[:-1], "type": frames.double()}.get(change, frames.clone())
    if change == "value":
        others[41, 2] += 1e-6
    with pytest.raises(InputError, match=r"of another pretraining \(the frames are others\)"):
        build("dae").fit(others, seed=3, checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path, frames = tmp_path / "checkpoint.pt", noisy_frames()
    build("dae").fit(frames, seed=3, checkpoint=path)
    whole = path.read_bytes()
    for content in (b"", b"half of a fi", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"checkpoint\.pt: expected a checkpoint of pretraining"):
            build("dae").fit(frames, seed=3, checkpoint=path)
    for other in ({"step": 3}, torch.zeros(2)):
        torch.save(other, path)
        with pytest.raises(
            InputError, match="expected a checkpoint of pretraining; this file is not one, or not whole"
        ):
            build("dae").fit(frames, seed=3, checkpoint=path)


class RunsCode:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    path, made = tmp_path / "checkpoint.pt", tmp_path / "made"
    torch.save({"format": checkpoint_module.FORMAT, "settings": RunsCode(made)}, path)
    with pytest.raises(InputError, match="expected a checkpoint"):
        build("dae").fit(noisy_frames(), seed=3, checkpoint=path)
    assert not made.exists()


def test_states_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    first = Checkpoint(path, {}, {})
    first.begin({"model": nn.Linear(2, 3)})
    first.save({"epoch": 1})
    for state in ({"model": nn.Linear(2, 4)}, {"network": nn.Linear(2, 3)}):
        with pytest.raises(InputError, match=r"(?s)does not fit what is trained now \(.*\); remove it"):
            Checkpoint(path, {}, {}).begin(state)
    assert Checkpoint(path, {}, {}).begin({"model": nn.Linear(2, 3)}) == {"epoch": 1}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    saved = Checkpoint(path, {}, {})
    saved.begin({})
    saved.save({"epoch": 1})
    before = path.read_bytes()

    def fail(value: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        saved.save({"epoch": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
