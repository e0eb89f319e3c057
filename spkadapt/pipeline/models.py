"""Models that training goes on from, with the speaker classifier they were trained with."""

from __future__ import annotations

from pathlib import Path

from spkadapt.errors import InputError
from spkadapt.heads import HeadConfig, SpeakerHead, build_head
from spkadapt.model import ModelDescription, SpeakerModel, load_model
from spkadapt.run_folder import RunFolder


def load_with_head(path: Path) -> tuple[SpeakerModel, SpeakerHead]:
    """A model and the speaker classifier it was trained with.

    Raises:
        InputError: what `load_model` raises, or a model without a classifier.
    """
    model, state = load_model(path)
    if not state:
        raise InputError("this model has no speaker classifier to go on training with", path=path)
    description = model.description
    head = build_head(HeadConfig(**description.history["head"]), model.embedding_dim, len(description.speaker_ids))
    head.load_state_dict(state)
    return model, head


def find_initial(out: Path, name: str, seed: int) -> Path:
    """Where the model of another run is, whose folder is `out / name`.

    Raises:
        InputError: that run has no model of this seed.
    """
    path = RunFolder(out / name).seed(seed) / "model.safetensors"
    if not path.is_file():
        raise InputError("no such model: run the recipe that `initial` names first, with this seed", path=path)
    return path


def load_initial(path: Path, expected: ModelDescription) -> tuple[SpeakerModel, SpeakerHead]:
    """The model of another run, which must be what this run's recipe describes.

    Raises:
        InputError: what `load_with_head` raises, or its features, backbone, speakers or head are others.
    """
    model, head = load_with_head(path)
    found = model.description
    for name in ("features", "vad", "backbone", "config", "speaker_ids"):
        if getattr(found, name) != getattr(expected, name):
            raise InputError(f"the initial model's {name} is not the recipe's", path=path)
    ours, theirs = expected.history["head"], found.history["head"]
    if theirs != ours:
        raise InputError(f"the initial model's head is {theirs}, the recipe's {ours}", path=path)
    model.description = expected
    return model, head
