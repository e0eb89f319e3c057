"""speechocean762: as it is shared here, and as it comes from OpenSLR."""

from __future__ import annotations

from pathlib import Path

import pytest

from spkadapt.corpora import CORPORA, speechocean762
from spkadapt.errors import InputError
from spkadapt.manifest import Utterance


def test_the_corpus(shared: Path) -> None:
    manifest, trials = speechocean762.prepare(shared / "corpora/speechocean762")
    assert trials is None
    assert len(manifest) == 2000
    speakers = manifest.speakers()
    assert len(set(speakers)) == 250
    assert {speakers.count(name) for name in set(speakers)} == {8}
    assert {(item.domain, item.language) for item in manifest} == {("microphone", "en")}
    assert all(item.path.is_file() for item in manifest)


def test_as_openslr_packs_it(tmp_path: Path) -> None:
    """Two Kaldi data directories whose audio paths start at the corpus' root."""
    for split, number in (("train", 1), ("test", 2)):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "wav.scp").write_text(f"00{number}\tWAVE/SPEAKER000{number}/00{number}.WAV\n")
        (folder / "utt2spk").write_text(f"00{number}\t000{number}\n")
        (folder / "spk2gender").write_text(f"000{number}\tm\n")
    manifest, trials = CORPORA["speechocean762"](tmp_path)
    assert trials is None
    assert manifest.utterances == tuple(
        Utterance(
            f"00{number}",
            tmp_path / f"WAVE/SPEAKER000{number}/00{number}.WAV",
            session_id="1",
            domain="microphone",
            language="en",
            speaker_id=f"000{number}",
            gender="m",
            split=split,
        )
        for split, number in (("train", 1), ("test", 2))
    )


@pytest.mark.parametrize(
    ("there", "missing"),
    [([], "train/wav.scp and test/wav.scp"), (["train"], "test/wav.scp"), (["test"], "train/wav.scp")],
)
def test_what_is_missing_is_named(tmp_path: Path, there: list[str], missing: str) -> None:
    for split in there:
        (tmp_path / split).mkdir()
        (tmp_path / split / "wav.scp").write_text("u1 a.wav\n")
    with pytest.raises(InputError) as caught:
        speechocean762.prepare(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected manifest.csv, or train/wav.scp and test/wav.scp as unpacked from OpenSLR 101; "
        f"{missing} not found"
    )
