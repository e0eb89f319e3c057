"""A speaker model: what it computes from audio, its network, and the one file that holds both.

A model file is a safetensors file. Its tensors are the weights; its metadata is JSON that says which
features the network reads, which backbone it is, and what it was trained on. Loading one runs no code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from spkadapt.backbone import BACKBONES, BackboneConfig
from spkadapt.errors import InputError, suggest
from spkadapt.features import FeatureConfig
from spkadapt.files import atomic_path
from spkadapt.vad import VadConfig

FORMAT = 1


@dataclass(frozen=True)
class ModelDescription:
    """What it takes, besides weights, to build a model and to use it on audio.

    Attributes:
        features: the features that the network reads.
        vad: which frames are dropped first, if any.
        num_features: size of one frame.
        backbone: a name in `BACKBONES`.
        config: that backbone's shape.
        speaker_ids: the source domain's speakers, in the order of the classifier's outputs.
        history: what the model was trained on and how, for people to read and for `adapt` to go on from.
    """

    features: FeatureConfig
    vad: VadConfig | None
    num_features: int
    backbone: str
    config: BackboneConfig
    speaker_ids: tuple[str, ...] = ()
    history: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The description as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelDescription:
        """The description that `to_json` wrote.

        Raises:
            InputError: another format, an unknown backbone, missing or unknown fields.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise InputError(f"the model is of another format than {FORMAT}, the one this version reads")
            name = values.pop("backbone")
            if name not in BACKBONES:
                raise InputError(f'unknown backbone "{name}"; {suggest(name, BACKBONES)}')
            vad = values.pop("vad")
            return cls(
                features=FeatureConfig(**values.pop("features")),
                vad=None if vad is None else VadConfig(**vad),
                backbone=name,
                config=BACKBONES[name][1](**_tuples(values.pop("config"))),
                speaker_ids=tuple(values.pop("speaker_ids")),
                **values,
            )
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise InputError(f"the model's description cannot be read ({error})") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


class SpeakerModel(nn.Module):
    """Features standardised by fixed statistics, then a backbone.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, description: ModelDescription) -> None:
        super().__init__()
        self.description = description
        self.register_buffer("feature_mean", torch.zeros(description.num_features))
        self.register_buffer("feature_std", torch.ones(description.num_features))
        self.backbone: nn.Module = BACKBONES[description.backbone][0](description.num_features, description.config)

    @property
    def embedding_dim(self) -> int:
        """The size of an embedding."""
        return int(self.backbone.embedding_dim)  # type: ignore[arg-type]

    @property
    def frame_dim(self) -> int:
        """The width of the backbone's last frame layer."""
        return int(self.backbone.frame_dim)  # type: ignore[arg-type]

    def encode_frames(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The backbone's last frame layer `(batch, frames, frame_dim)`, and how many of its frames are real."""
        return self.backbone.encode_frames((features - self.feature_mean) / self.feature_std, lengths)  # type: ignore[operator]

    def pool_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embeddings of what `encode_frames` gave."""
        return self.backbone.pool_frames(frames, lengths)  # type: ignore[operator]

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))


def save_model(path: str | Path, model: SpeakerModel, head: nn.Module | None = None) -> None:
    """Write the model, and the speaker classifier it was trained with, to one file, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if head is not None:
        tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata={"spkadapt": model.description.to_json()})


def load_model(path: str | Path) -> tuple[SpeakerModel, dict[str, torch.Tensor]]:
    """Read a model in evaluation mode, and the state of its speaker classifier (empty when it has none).

    Raises:
        InputError: no such file, not a model file of ours, or one whose tensors do not fit its description.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such model file", path=path)
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get("spkadapt")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"not a whole safetensors file ({error})", path=path) from error
    if description is None:
        raise InputError("a safetensors file, but not a spkadapt model: it has no description", path=path)
    try:
        model = SpeakerModel(ModelDescription.from_json(description))
        model.load_state_dict(_under("model.", tensors))
    except InputError as error:
        raise InputError(str(error), path=path) from error
    except (RuntimeError, TypeError) as error:
        raise InputError(f"its tensors do not fit its description ({error})", path=path) from error
    return model.eval(), _under("head.", tensors)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
