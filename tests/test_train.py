"""The training loop: it learns, it resumes bit for bit, it stops when a loss is no number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spkadapt.adapt import AdaptConfig, MultiTaskObjective, TermConfig
from spkadapt.backbone import DnnConfig
from spkadapt.batches import SourceBatch, SourceBatches, TargetDomainBatch, TargetDomainBatches
from spkadapt.errors import DivergenceError, InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.features import FeatureConfig
from spkadapt.heads import AamHead
from spkadapt.manifest import Manifest, Recording, UnlabelledPool, Utterance
from spkadapt.model import ModelDescription, SpeakerModel
from spkadapt.train import TrainConfig, check_device, train

NUM_SPEAKERS, NUM_EACH, FRAMES = 4, 3, 30
CONFIG = TrainConfig(
    num_steps=12, batch_size=4, crop_frames=10, log_every=5, checkpoint_every=4, learning_rate=0.01
)


@pytest.fixture(scope="module")
def data() -> tuple[FeatureStore, Manifest, UnlabelledPool]:
    """Speakers that differ in the mean of their features, and a shifted, unlabelled pool."""
    draw = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(NUM_SPEAKERS, 1, 6, generator=draw)
    speakers = torch.arange(NUM_SPEAKERS).repeat_interleave(NUM_EACH)
    source = means[speakers] + torch.randn(len(speakers), FRAMES, 6, generator=draw)
    pool = 1 + torch.randn(6, FRAMES, 6, generator=draw)
    frames = torch.cat([source, pool]).flatten(0, 1)
    ids = [f"s{number}" for number in range(len(source))] + [f"t{number}" for number in range(len(pool))]
    store = FeatureStore("toy", tuple(ids), torch.arange(len(ids) + 1) * FRAMES, frames)
    labelled = [
        Utterance(name, Path(name), speaker_id=str(int(speaker)))
        for name, speaker in zip(ids, speakers, strict=False)
    ]
    return (
        store,
        Manifest(tuple(labelled)),
        UnlabelledPool(tuple(Recording(name, Path(name)) for name in ids[12:])),
    )


def make_model() -> SpeakerModel:
    shape = DnnConfig(hidden_dims=(8,), left_context=1, right_context=1, embedding_dim=5, frame_subsampling=1)
    return SpeakerModel(ModelDescription(FeatureConfig(), None, 6, "dnn", shape))


def run(
    data, folder: Path, config: TrainConfig = CONFIG, term: str | None = "mmd", on_step=None, seed=7, weight=1.0
):
    store, labelled, pool = data
    torch.manual_seed(0)
    model = make_model()
    size = {"batch_size": config.batch_size, "num_frames": config.crop_frames, "seed": seed}
    source, target_domain = SourceBatches([store], labelled, **size), TargetDomainBatches([[store]], pool, **size)
    adapt = AdaptConfig({} if term is None else {term: TermConfig(weight)})
    objective = MultiTaskObjective(model, AamHead(5, NUM_SPEAKERS), adapt, target_domain.num_recordings)
    outcome = train(objective, source, target_domain, config, seed=seed, folder=folder, on_step=on_step)
    return objective, outcome


class Killed(Exception):
    pass


@pytest.mark.parametrize("term", ["mmd", "moco", "pseudo_speakers", "prototypes", "source_moments"])
@pytest.mark.parametrize("killed_after", [4, 6, 11])
def test_a_resumed_run_equals_an_unbroken_one(data, tmp_path, term, killed_after) -> None:
    def kill(step: int, terms: dict[str, float]) -> None:
        if step == killed_after:
            raise Killed

    unbroken, expected = run(data, tmp_path / "unbroken", term=term)
    with pytest.raises(Killed):
        run(data, tmp_path / "broken", on_step=kill, term=term)
    resumed, outcome = run(data, tmp_path / "broken", term=term)
    assert outcome.history == expected.history
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class OnceOnly(SourceBatches):
    """Shows the source as a whole, and no batch of it."""

    def batch(self, step: int) -> SourceBatch:
        raise AssertionError(f"asked for the source at step {step}")


def test_an_absent_source_is_seen_before_the_first_step_alone(data, tmp_path) -> None:
    store, labelled, pool = data
    size = {"batch_size": 4, "num_frames": 10, "seed": 0}
    adapt = AdaptConfig({"source_moments": TermConfig()}, source="absent")
    objective = MultiTaskObjective(make_model(), AamHead(5, NUM_SPEAKERS), adapt, len(pool.recordings))
    source, target_domain = OnceOnly([store], labelled, **size), TargetDomainBatches([[store]], pool, **size)
    train(objective, source, target_domain, CONFIG, seed=0, folder=tmp_path)
    assert objective.terms["source_moments"].loss.count == len(labelled)


class Asked(TargetDomainBatches):
    """Remembers at which steps a batch was asked for."""

    def batch(self, step: int) -> TargetDomainBatch:
        self.steps = [*getattr(self, "steps", []), step]
        return super().batch(step)


def test_the_target_domain_is_asked_only_while_some_weight_is_above_zero(data, tmp_path) -> None:
    store, labelled, pool = data
    size = {"batch_size": 4, "num_frames": 10, "seed": 0}
    adapt = AdaptConfig({"coral": TermConfig(1.0, schedule="linear")})
    objective = MultiTaskObjective(make_model(), AamHead(5, NUM_SPEAKERS), adapt, len(pool.recordings))
    source, target_domain = SourceBatches([store], labelled, **size), Asked([[store]], pool, **size)
    train(objective, source, target_domain, CONFIG, seed=0, folder=tmp_path)
    assert objective.weights(0.0) == {"coral": 0.0}
    assert target_domain.steps == list(range(1, CONFIG.num_steps))


def test_resuming_really_goes_on(data, tmp_path) -> None:
    steps: list[int] = []
    run(data, tmp_path)
    run(data, tmp_path, on_step=lambda step, terms: steps.append(step))
    assert steps == []  # the last checkpoint is of the last step


def test_it_learns(data, tmp_path) -> None:
    config = TrainConfig(num_steps=150, batch_size=4, crop_frames=10, learning_rate=0.02, log_every=10)
    history = run(data, tmp_path, config, None)[1].history
    assert history[-1].terms["speaker"] < 0.2 * history[0].terms["speaker"]


def test_every_term_is_logged_by_name(data, tmp_path) -> None:
    seen: list[int] = []
    outcome = run(data, tmp_path, on_step=lambda step, terms: seen.append(step))[1]
    assert [logged.step for logged in outcome.history] == [5, 10, 12]
    for logged in outcome.history:
        terms = logged.terms
        assert {"speaker", "mmd", "total", "weight/mmd"} == set(terms) - {"conflict/speaker/mmd"}
        assert terms["total"] == pytest.approx(terms["speaker"] + terms["weight/mmd"] * terms["mmd"], rel=1e-5)
    # Conflicts are measured at every fifth step, and the twelfth is none.
    cosines = [logged.terms.get("conflict/speaker/mmd") for logged in outcome.history]
    assert cosines[2] is None
    assert all(-1 <= cosine <= 1 for cosine in cosines[:2])
    assert seen == list(range(1, 13))
    assert outcome.seconds > 0
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_bfloat16_trains_too(data, tmp_path) -> None:
    config = TrainConfig(**{**vars(CONFIG), "precision": "bfloat16"})
    plain, mixed = run(data, tmp_path / "a")[1], run(data, tmp_path / "b", config)[1]
    first, second = plain.history[0].terms["speaker"], mixed.history[0].terms["speaker"]
    assert first != second
    assert second == pytest.approx(first, rel=0.05)  # eight bits of mantissa, five steps


def test_divergence_names_the_step_and_the_remedy(data, tmp_path) -> None:
    config = TrainConfig(**{**vars(CONFIG), "learning_rate": 1e30, "max_gradient_norm": 1e30})
    told = r"training diverged at step \d+: speaker is nan, .*total is nan; lower train.learning_rate \(1e\+30\)"
    with pytest.raises(DivergenceError, match=told):
        run(data, tmp_path, config)


@pytest.mark.parametrize(
    "change", [{"config": TrainConfig(**{**vars(CONFIG), "num_steps": 20})}, {"seed": 8}, {"weight": 2.0}]
)
def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path, change) -> None:
    run(data, tmp_path)
    with pytest.raises(
        InputError, match=r"checkpoint.pt: this checkpoint was made with other settings or another"
    ):
        run(data, tmp_path, **change)


@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0.2), (5, 0.2), (4, 0.25), (2, 0.5), (10, 0.1), (3, 0.01)])
def test_any_number_of_steps_can_be_warmed_up_for(data, tmp_path, num_steps, warmup) -> None:
    """PyTorch's one-cycle schedule alone divides by zero where the warm-up is one step."""
    config = TrainConfig(**{**vars(CONFIG), "num_steps": num_steps, "warmup": warmup})
    assert run(data, tmp_path, config)[1].history[-1].step == num_steps


@pytest.mark.parametrize("device", ["gpu", "", "cpu:1", "cuda:", "cuda:x", "meta"])
def test_unknown_devices(device) -> None:
    with pytest.raises(InputError) as refused:
        check_device(device)
    assert f'there is no device "{device}"; expected cpu, cuda, cuda:1' in str(refused.value)


def test_a_gpu_that_is_not_there() -> None:
    num_gpus = torch.cuda.device_count()
    with pytest.raises(InputError, match=rf"and this machine has (no GPU that PyTorch sees|{num_gpus} GPUs)"):
        check_device(f"cuda:{num_gpus}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "half"}, 'unknown precision "half"'),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"num_steps": 0}, "num_steps is 0; expected at least 1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"batch_size": 1}, "batch normalisation needs at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm is 0.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected a number ≥ 0"),
        ({"crops_per_speaker": 3}, "crops_per_speaker is 3; expected a divisor of 64"),
        ({"warmup": 1.0}, "warmup is 1.0; expected a fraction between 0 and 1"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(InputError) as refused:
        TrainConfig(**settings)
    assert message in str(refused.value)
