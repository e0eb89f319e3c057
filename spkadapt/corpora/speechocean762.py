"""speechocean762: English read by 250 Mandarin natives, microphone, 16 kHz (OpenSLR 101; Zhang et al., 2021).

Free for commercial and non-commercial use. It has speaker labels and one session a speaker: a source domain.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spkadapt.errors import InputError
from spkadapt.manifest import Manifest, Utterance, load_manifest
from spkadapt.trials import Trials

SPLITS = ("train", "test")


def prepare(root: Path) -> tuple[Manifest, Trials | None]:
    """The corpus' manifest; it comes with no trials.

    Args:
        root: the unpacked download (with `train/wav.scp`, `test/wav.scp` and `WAVE/`), or a folder with a
            `manifest.csv` of it.

    Raises:
        InputError: neither of the two is there.
    """
    if (root / "manifest.csv").is_file():
        return load_manifest(root / "manifest.csv"), None
    missing = [split for split in SPLITS if not (root / split / "wav.scp").is_file()]
    if missing:
        raise InputError(
            f"expected manifest.csv, or train/wav.scp and test/wav.scp as unpacked from OpenSLR 101; "
            f"{' and '.join(f'{split}/wav.scp' for split in missing)} not found",
            path=root,
        )
    return Manifest(tuple(item for split in SPLITS for item in _load_split(root, split))), None


def _load_split(root: Path, split: str) -> list[Utterance]:
    """The corpus gives its splits as Kaldi data directories with audio paths relative to its root."""
    return [
        replace(item, path=root / item.path, split=split, session_id="1", domain="microphone", language="en")
        for item in load_manifest(root / split)
    ]
