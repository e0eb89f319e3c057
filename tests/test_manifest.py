"""Manifests: round trips, every refusal with its file and line, and what an unlabelled pool cannot hold."""

from __future__ import annotations

import string
from dataclasses import fields, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.manifest import COLUMNS, Manifest, Recording, UnlabelledPool, Utterance, load_manifest

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# What stands in cells: commas, quotes and inner blanks included; blanks at the ends are stripped.
CELL = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1).filter(lambda s: s.strip() == s)
WORD = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)
MICROSECONDS = st.integers(0, 10**10).map(lambda count: count / 10**6)


def manifests(cell: st.SearchStrategy[str]) -> st.SearchStrategy[Manifest]:
    """Manifests of up to six utterances; each field but the first two may be unknown."""
    name = st.text(string.ascii_letters + "é_-. ", min_size=1, max_size=8).filter(lambda s: s.strip(" .") == s)
    known = {column: st.none() | cell for column in COLUMNS[4:]}
    utterance = st.builds(
        Utterance,
        utterance_id=WORD,
        path=name.map(lambda name: Path("/corpus") / name),
        start=st.none() | MICROSECONDS,
        duration=st.none() | MICROSECONDS,
        **known,
    )
    items = st.lists(utterance, min_size=1, max_size=6, unique_by=lambda item: item.utterance_id)
    return items.map(lambda items: Manifest(tuple(items)))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def refusal(path: Path) -> str:
    """The message of loading `path`, less the folder of the test."""
    with pytest.raises(InputError) as caught:
        load_manifest(path)
    assert caught.value.path is not None
    folder = path if path.is_dir() else path.parent
    assert str(caught.value).startswith(f"{folder}/")
    return str(caught.value).removeprefix(f"{folder}/")


# CSV ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(manifest=manifests(CELL))
def test_csv_round_trip(tmp_path: Path, manifest: Manifest) -> None:
    manifest.save_csv(tmp_path / "m.csv")
    assert load_manifest(tmp_path / "m.csv") == manifest


def test_audio_inside_the_folder_moves_with_it_and_other_audio_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inside, outside = Utterance("in", Path("corpus/audio/a.wav")), Utterance("out", Path("elsewhere/b.wav"))
    Manifest((inside, outside)).save_csv("corpus/m.csv")
    lines = Path("corpus/m.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["audio/a.wav", str(tmp_path / "elsewhere/b.wav")]
    assert [item.path for item in load_manifest("corpus/m.csv")] == [inside.path, tmp_path / outside.path]
    Path("corpus").rename("moved")
    assert [item.path for item in load_manifest("moved/m.csv")] == [
        Path("moved/audio/a.wav"),
        tmp_path / outside.path,
    ]


def test_a_link_inside_the_folder_is_inside_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/audio").symlink_to(tmp_path / "disk")
    Manifest((Utterance("u1", tmp_path / "corpus/audio/a.wav"),)).save_csv(tmp_path / "corpus/m.csv")
    assert "u1,audio/a.wav," in (tmp_path / "corpus/m.csv").read_text()


def test_csv_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    """A byte-order mark, Windows line ends, blanks around cells, blank lines, and columns we do not know."""
    text = 'age, utterance_id ,path,start\r\n7,u1, a.wav ,1.5\r\n\r\n8,u2,"/b, c.wav",\r\n'
    manifest = load_manifest(write(tmp_path / "m.csv", text, "utf-8-sig"))
    assert manifest.utterances == (
        Utterance("u1", tmp_path / "a.wav", start=1.5),
        Utterance("u2", Path("/b, c.wav")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '1: the column "utterance_id" is missing; found: an empty file'),
        ("utterance_id,speaker_id\n", '1: the column "path" is missing; found: utterance_id, speaker_id'),
        ("utterance_id,path,path\n", '1: the column "path" is there 2 times'),
        ("utterance_id,path\n", " holds no utterances"),
        ("utterance_id,path\nu1,\n", '2: the cell of column "path" is empty'),
        ("utterance_id,path\nu1,a\n\n ,a\n", '4: the cell of column "utterance_id" is empty'),
        ("utterance_id,path\nu1\n", "2: found 1 cells; the header has 2"),
        ("utterance_id,path\nu1,a,b.wav\n", "2: found 3 cells; the header has 2"),
        ("utterance_id,path\nu 1,a\n", '2: utterance_id "u 1" has white space; expected one word'),
        ("utterance_id,path\nu1,a\nu2,b\nu1,c\n", '4: "u1" stands already in line 2'),
        ("utterance_id,path,start\nu1,a,x\n", '2: start is "x"; expected a number of seconds ≥ 0'),
        ("utterance_id,path,start\nu1,a,-1\n", '2: start is "-1"; expected a number of seconds ≥ 0'),
        ("utterance_id,path,duration\nu1,a,nan\n", '2: duration is "nan"; expected a number of seconds ≥ 0'),
        ("utterance_id,path,duration\nu1,a,inf\n", '2: duration is "inf"; expected a number of seconds ≥ 0'),
        ('utterance_id,path\nu1,"a\nu2,b\n', "3: not readable as CSV (unexpected end of data)"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "m.csv", text)
    assert refusal(path) == f"m.csv:{message}"


def test_no_manifest_and_no_text(tmp_path: Path) -> None:
    missing = "no such manifest; expected a CSV file or a Kaldi data directory"
    assert refusal(tmp_path / "none.csv") == f"none.csv: {missing}"
    path = write(tmp_path / "m.csv", "utterance_id,path\né,a\n", "latin-1")
    assert refusal(path).startswith("m.csv: expected a text file in UTF-8, found: ")


# Kaldi data directories ---------------------------------------------------------------------------------------


@PROPERTY
@given(manifest=manifests(WORD))
def test_kaldi_round_trip(tmp_path: Path, manifest: Manifest) -> None:
    """What Kaldi's tables can hold comes back: order by id, and an utterance of unknown speaker is its own."""
    segmented = any(item.start is not None for item in manifest)
    items = [item for item in manifest if item.start is None or item.duration is None or item.duration > 0]
    if not items:
        return
    (tmp_path / "segments").unlink(missing_ok=True)
    Manifest(tuple(items)).save_kaldi(tmp_path)
    assert (tmp_path / "segments").is_file() == any(item.start is not None for item in items) <= segmented
    expected = []
    for item in sorted(items, key=lambda item: item.utterance_id):
        segment = {"start": None, "duration": None}
        if (tmp_path / "segments").is_file():
            segment = {"start": item.start or 0.0, "duration": None if item.start is None else item.duration}
        expected.append(
            Utterance(item.utterance_id, item.path, **segment, speaker_id=item.speaker_id or item.utterance_id)
        )
    assert list(load_manifest(tmp_path)) == expected


def test_kaldi_files_as_kaldi_writes_them(tmp_path: Path) -> None:
    items = (Utterance("u2", Path("/a.wav"), speaker_id="s1"), Utterance("u1", Path("/b c.wav"), speaker_id="s1"))
    Manifest((*items, Utterance("u3", Path("/d.wav"), start=1.5, duration=0.25))).save_kaldi(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "wav.scp": "u1 /b c.wav\nu2 /a.wav\nu3 /d.wav\n",
        "utt2spk": "u1 s1\nu2 s1\nu3 u3\n",
        "spk2utt": "s1 u1 u2\nu3 u3\n",
        "segments": "u1 u1 0.000000 -1\nu2 u2 0.000000 -1\nu3 u3 1.500000 1.750000\n",
    }


def test_kaldi_as_others_write_it(tmp_path: Path) -> None:
    """Tabs, Windows line ends, paths relative to the working directory, genders, ends of -1."""
    write(tmp_path / "wav.scp", "r1\tdata/a b.wav\r\nr2  /c.wav\r\n")
    write(tmp_path / "segments", "u1 r1 0 1.25\nu2\tr1\t1.25\t-1.00\nu3 r2 0.5 2\n")
    write(tmp_path / "utt2spk", "u1 s1\nu3\ts2\n")
    write(tmp_path / "spk2gender", "s1 f\n")
    assert load_manifest(tmp_path).utterances == (
        Utterance("u1", Path("data/a b.wav"), 0.0, 1.25, speaker_id="s1", gender="f"),
        Utterance("u2", Path("data/a b.wav"), 1.25, None),
        Utterance("u3", Path("/c.wav"), 0.5, 1.5, speaker_id="s2"),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "wav.scp: no such file; a Kaldi data directory needs it"),
        ({"wav.scp": ""}, "wav.scp: holds no utterances"),
        ({"wav.scp": "u1 a\n\n"}, 'wav.scp:2: found ""; expected a key and a value'),
        ({"wav.scp": "u1 a\nu2 \n"}, 'wav.scp:2: found "u2"; expected a key and a value'),
        ({"wav.scp": "u1 a\nu1 b\n"}, 'wav.scp:2: "u1" stands already in line 1'),
        (
            {"wav.scp": "u1 rm -rf / | \n"},
            'wav.scp:1: "rm -rf / |" is a command, and commands are not run; expected a file name',
        ),
        ({"utt2spk": "u1 s1\nu1 s2\n"}, 'utt2spk:2: "u1" stands already in line 1'),
        ({"spk2gender": "s1\n"}, 'spk2gender:1: found "s1"; expected a key and a value'),
        ({"segments": ""}, "segments: holds no utterances"),
        ({"segments": "s u1 0\n"}, "segments:1: found 3 columns; expected utterance, recording, start, end"),
        ({"segments": "s u1 0 1 A\n"}, "segments:1: found 5 columns; expected utterance, recording, start, end"),
        ({"segments": "s u1 0 1\nt u2 0 1\n"}, 'segments:2: recording "u2" is not in wav.scp'),
        ({"segments": "s u1 1 1\n"}, "segments:1: the segment ends at 1 s, not after its start"),
        ({"segments": "s u1 2 1.5\n"}, "segments:1: the segment ends at 1.5 s, not after its start"),
        ({"segments": "s u1 x 1\n"}, 'segments:1: start is "x"; expected a number of seconds ≥ 0'),
        ({"segments": "s u1 0 -2\n"}, 'segments:1: end is "-2"; expected a number of seconds ≥ 0'),
        ({"segments": "s u1 0 1\ns u1 1 2\n"}, 'segments:2: "s" stands already in line 1'),
    ],
)
def test_bad_kaldi(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in ({"wav.scp": "u1 a\n", **files} if files else {}).items():
        write(tmp_path / name, text)
    assert refusal(tmp_path) == message


def test_kaldi_cannot_hold_a_speaker_of_two_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='speaker_id "Ann Lee" has white space, which Kaldi cannot hold'):
        Manifest((Utterance("u1", Path("a"), speaker_id="Ann Lee"),)).save_kaldi(tmp_path)
    assert not list(tmp_path.iterdir())


# Selecting and stripping --------------------------------------------------------------------------------------


MANIFEST = Manifest(
    (
        Utterance("u1", Path("a"), domain="cellphone", speaker_id="s1", gender="f", split="eval"),
        Utterance("u2", Path("b"), domain="landline", speaker_id="s2", split="eval"),
        Utterance("u3", Path("c"), 1.0, 2.0, "call", "landline", "en", split="adapt"),
    )
)


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        ({}, ["u1", "u2", "u3"]),
        ({"split": "eval"}, ["u1", "u2"]),
        ({"domain": ["cellphone", "landline"], "split": ["adapt"]}, ["u3"]),
        ({"utterance_id": ("u3", "u1")}, ["u1", "u3"]),
        ({"start": "1.0"}, ["u3"]),
    ],
)
def test_where(conditions: dict[str, str | list[str]], ids: list[str]) -> None:
    assert [item.utterance_id for item in MANIFEST.where(conditions)] == ids


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"splt": "eval"}, 'there is no column "splt" to select by; did you mean "split"?'),
        ({"split": "dev"}, "no utterance has split in ['dev']; found: adapt, eval"),
        ({"split": "adapt", "domain": ["b", "a"]}, "no utterance has domain in ['a', 'b']; found: landline"),
        # One word is one value, and not its letters.
        ({"gender": "ef"}, "no utterance has gender in ['ef']; found: None, f"),
    ],
)
def test_where_nothing_is(conditions: dict[str, str | list[str]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        MANIFEST.where(conditions)
    assert str(caught.value) == message


def test_speakers() -> None:
    assert MANIFEST.where({"split": "eval"}).speakers() == ["s1", "s2"]
    with pytest.raises(InputError) as caught:
        MANIFEST.speakers()
    message = "1 of 3 utterances have no speaker_id, the first is u3; this needs a labelled corpus"
    assert str(caught.value) == message


def pool_of(sessions: list[str | None]) -> UnlabelledPool:
    return UnlabelledPool(
        tuple(Recording(f"u{place}", Path("/a.wav"), session_id=name) for place, name in enumerate(sessions))
    )


@PROPERTY
@given(
    sessions=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30).filter(
        lambda names: len({*names}) > 1
    ),
    share=st.floats(0, 1),
    order=st.randoms(use_true_random=False),
)
def test_whole_sessions_are_held_out(sessions: list[str], share: float, order: Random) -> None:
    pool, number = pool_of(list(sessions)), round(share * len(set(sessions)))
    if not 0 < number < len(set(sessions)):
        with pytest.raises(
            InputError, match=f"is {number} of {len(set(sessions))} sessions; hold out some, not all"
        ):
            pool.hold_out(share)
        return
    left, held_out = pool.hold_out(share)
    assert len({item.session_id for item in held_out.recordings}) == number
    assert not {item.session_id for item in left.recordings} & {item.session_id for item in held_out.recordings}
    places = [pool.recordings.index(item) for part in (left, held_out) for item in part.recordings]
    assert sorted(places) == list(range(len(pool)))
    assert places == sorted(places[: len(left)]) + sorted(places[len(left) :])  # each in the pool's order
    shuffled = order.sample(pool.recordings, len(pool))
    assert {*UnlabelledPool(tuple(shuffled)).hold_out(share)[1].recordings} == {*held_out.recordings}


def test_a_larger_share_holds_out_what_a_smaller_one_did() -> None:
    pool = pool_of([f"call{number}" for number in range(40)])
    small, large = (set(pool.hold_out(share)[1].recordings) for share in (0.2, 0.5))
    assert small < large
    assert [item.session_id for item in pool.hold_out(0.5)[1].recordings[:3]] != ["call0", "call1", "call2"]


def test_sessions_that_are_not_known_cannot_be_held_out() -> None:
    message = "some recordings have no session_id; only whole sessions can be held out"
    with pytest.raises(InputError, match=message):
        pool_of(["a", "b", None]).hold_out(0.5)


def test_an_unlabelled_pool_has_no_field_for_labels() -> None:
    pool = MANIFEST.unlabelled()
    assert {field.name for field in fields(Utterance)} - {field.name for field in fields(Recording)} == {
        "speaker_id",
        "gender",
        "split",
    }
    for recording, item in zip(pool.recordings, MANIFEST, strict=True):
        assert type(recording) is Recording
        assert not vars(recording).keys() & {"speaker_id", "gender", "split"}
        assert all(getattr(recording, name) == getattr(item, name) for name in vars(recording))
    with pytest.raises(TypeError, match="plain Recordings"):
        UnlabelledPool(MANIFEST.utterances)


def test_pools_of_corpora_that_differ_in_labels_alone_are_equal() -> None:
    relabelled = [replace(item, speaker_id="x", gender="m", split="train") for item in MANIFEST]
    assert Manifest(tuple(relabelled)).unlabelled() == MANIFEST.unlabelled()
    stripped = [replace(item, speaker_id=None, gender=None, split=None) for item in MANIFEST]
    assert list(MANIFEST.unlabelled().as_manifest()) == stripped
    assert len(MANIFEST.unlabelled()) == 3


def test_sessions_of_a_pool_are_all_known_or_none_is() -> None:
    named = [replace(item, session_id=f"call{number}") for number, item in enumerate(MANIFEST)]
    assert Manifest(tuple(named)).unlabelled().sessions() == ["call0", "call1", "call2"]
    assert Manifest((*named[:2], replace(named[2], session_id=None))).unlabelled().sessions() is None
