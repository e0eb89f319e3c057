"""Model files: every bit comes back, and what is no model is refused with one message."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spkadapt.backbone import DnnConfig, EcapaConfig, ResidualTdnnConfig, TdnnConfig
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig
from spkadapt.heads import AamHead
from spkadapt.model import ModelDescription, SpeakerModel, load_model, save_model
from spkadapt.vad import VadConfig

DESCRIPTION = ModelDescription(
    features=FeatureConfig(num_mel_bins=8),
    vad=VadConfig(energy_mean_scale=0.25),
    num_features=8,
    backbone="dnn",
    config=DnnConfig(left_context=1, right_context=1, hidden_dims=(7, 6), embedding_dim=5),
    speaker_ids=("Zoë", "s1", "s2"),
    history={"recipe": "a", "seed": 3, "head": {"name": "aam"}},
)
OTHERS = {
    "no vad": replace(DESCRIPTION, vad=None, speaker_ids=(), history={}),
    "tdnn": replace(DESCRIPTION, backbone="tdnn", config=TdnnConfig(4, 6, 5)),
    "residual_tdnn": replace(
        DESCRIPTION, backbone="residual_tdnn", config=ResidualTdnnConfig(4, (1, 2), 6, 3, embedding_dim=5)
    ),
    "ecapa": replace(DESCRIPTION, backbone="ecapa", config=EcapaConfig(8, 5)),
}


def make_model(description: ModelDescription = DESCRIPTION) -> SpeakerModel:
    """Its statistics and its batch normalisation away from where they start."""
    model = SpeakerModel(description)
    model.feature_mean.copy_(torch.randn(8))
    model.feature_std.copy_(torch.rand(8) + 0.5)
    model.train()(torch.randn(4, 20, 8), torch.full((4,), 20))
    return model


@pytest.mark.parametrize("description", [DESCRIPTION, *OTHERS.values()], ids=["dnn", *OTHERS])
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, description: ModelDescription) -> None:
    model, head = make_model(description), AamHead(5, 3)
    save_model(tmp_path / "new" / "m.safetensors", model, head)
    loaded, head_state = load_model(tmp_path / "new" / "m.safetensors")
    assert loaded.description == description
    assert not loaded.training
    assert loaded.embedding_dim == 5
    for found, kept in ((loaded.state_dict(), model.state_dict()), (head_state, head.state_dict())):
        assert found.keys() == kept.keys()
        for name, value in kept.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value), name
    AamHead(5, 3).load_state_dict(head_state)
    features, lengths = torch.randn(2, 12, 8), torch.tensor([12, 12])
    with torch.no_grad():
        assert torch.equal(loaded(features, lengths), model.eval()(features, lengths))


def test_a_model_may_have_no_head(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", make_model())
    assert load_model(tmp_path / "m.safetensors")[1] == {}


def test_features_are_standardised_before_the_backbone() -> None:
    model = make_model().eval()
    features, lengths = torch.randn(2, 12, 8), torch.tensor([12, 9])
    with torch.no_grad():
        expected = model.backbone((features - model.feature_mean) / model.feature_std, lengths)
        assert torch.equal(model(features, lengths), expected)
        other = model(features + 1, lengths)
    assert not torch.allclose(other, expected)


def test_saving_replaces_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, make_model())
    before = path.read_bytes()

    def write_half(tensors: object, target: Path, metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("spkadapt.model.save_file", write_half)
    with pytest.raises(KeyboardInterrupt):
        save_model(path, make_model())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# What is refused ----------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert refusal(path) == refusal(tmp_path) == "no such model file"
    for data in (b"", b"RIFF", b"\xff" * 100):
        path.write_bytes(data)
        assert refusal(path).startswith("not a whole safetensors file (")
    save_model(path, make_model())
    whole = path.read_bytes()
    for size in (7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(path).startswith("not a whole safetensors file (")
    path.write_bytes(whole + b"\0")
    assert refusal(path).startswith("not a whole safetensors file (")
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        assert refusal(path) == "a safetensors file, but not a spkadapt model: it has no description"


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_not_run(tmp_path: Path, write: Any) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    write(Bomb(), tmp_path / "m.safetensors")
    assert refusal(tmp_path / "m.safetensors").startswith("not a whole safetensors file (")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "the model is of another format than 1, the one this version reads"),
        ({"format": None}, "the model is of another format than 1, the one this version reads"),
        ({"backbone": "tdn"}, 'unknown backbone "tdn"; did you mean "tdnn"?'),
        ({"backbone": ["dnn"]}, "the model's description cannot be read (unhashable type: 'list')"),
        (
            {"config": {"width": 3}},
            "the model's description cannot be read (DnnConfig.__init__() got an unexpected",
        ),
        ({"config": {"hidden_dims": ["a"]}}, "the model's description cannot be read ("),
        ({"config": None}, "the model's description cannot be read ("),
        ({"config": {"hidden_dims": []}}, "hidden_dims needs at least one layer, and every size must be ≥ 1"),
        ({"features": {"kind": "fbnk"}}, 'kind is "fbnk"; did you mean "fbank"?'),
        ({"features": {"frame_length": float("inf")}}, "the model's description cannot be read ("),
        ({"features": {"sample_rate": float("nan")}}, "the model's description cannot be read ("),
        ({"features": 3}, "the model's description cannot be read ("),
        ({"vad": {"proportion_threshold": 2.0}}, "proportion_threshold is 2.0; expected between 0 and 1"),
        ({"speaker_ids": None}, "the model's description cannot be read ("),
        (
            {"colour": "red"},
            "the model's description cannot be read (ModelDescription.__init__() got an unexpected",
        ),
        ({"num_features": 9}, "its tensors do not fit its description ("),
        ({"num_features": -1}, "its tensors do not fit its description ("),
        ({"num_features": "eight"}, "its tensors do not fit its description ("),
        ({"backbone": "tdnn", "config": {"channels": 8}}, "its tensors do not fit its description ("),
    ],
)
def test_altered_descriptions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, make_model())
    text = json.dumps({**json.loads(DESCRIPTION.to_json()), **change})
    save_file(load_file(path), path, metadata={"spkadapt": text})
    assert refusal(path).startswith(message)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}"])
def test_descriptions_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="the model's description cannot be read"):
        ModelDescription.from_json(text)


@pytest.mark.parametrize(
    "name", ["features", "vad", "num_features", "backbone", "config", "speaker_ids", "format"]
)
def test_every_field_is_needed(name: str) -> None:
    values = json.loads(DESCRIPTION.to_json())
    del values[name]
    with pytest.raises(InputError, match=rf"the model's description cannot be read \(.*{name}.*\)"):
        ModelDescription.from_json(json.dumps(values))


@pytest.mark.parametrize("kind", ["missing", "surplus", "of another shape"])
def test_tensors_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, make_model())
    tensors = load_file(path)
    name = "model.backbone.embedding.bias"
    if kind == "missing":
        del tensors[name]
    elif kind == "surplus":
        tensors["model.backbone.other"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(6)
    save_file(tensors, path, metadata={"spkadapt": DESCRIPTION.to_json()})
    assert refusal(path).startswith("its tensors do not fit its description (")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_clear_error_or_a_model(tmp_path: Path, data: st.DataObject) -> None:
    """Any byte of the header changed, or the file cut anywhere: never another exception than `InputError`."""
    path = tmp_path / "m.safetensors"
    save_model(path, make_model())
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    message = f"{path}: "
    try:
        load_model(path)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
