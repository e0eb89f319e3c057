"""Which recordings there are, and what is known of each.

A `Manifest` is read from a CSV file or a Kaldi data directory and written back to either. The unlabelled
pool of the target domain is a type of its own, `UnlabelledPool`, whose members have no speaker field: what
is not there cannot leak into training.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from spkadapt.errors import InputError, shorten, suggest
from spkadapt.files import read_text, write_text


@dataclass(frozen=True)
class Recording:
    """One utterance of unknown speaker.

    Attributes:
        utterance_id: unique within a manifest; no white space.
        path: the audio file.
        start: where the utterance begins within the file, in seconds; None means that the whole file is it.
        duration: its length in seconds. With a `start` it says where the utterance ends (None: where the file
            ends); without one it is a note, and audio is read to its end whatever it says.
        session_id: the call or recording session, if known.
        domain: the recording condition, such as `microphone` or `cellphone`, if known.
        language: a language code, if known.
    """

    utterance_id: str
    path: Path
    start: float | None = None
    duration: float | None = None
    session_id: str | None = None
    domain: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Utterance(Recording):
    """A recording together with what a labelled corpus knows of it."""

    speaker_id: str | None = None
    gender: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class UnlabelledPool:
    """All that adaptation may see of the target domain: recordings, and no speakers."""

    recordings: tuple[Recording, ...]

    def __post_init__(self) -> None:
        if not all(type(recording) is Recording for recording in self.recordings):
            raise TypeError("an UnlabelledPool holds plain Recordings; Manifest.unlabelled() strips labels")

    def __len__(self) -> int:
        return len(self.recordings)

    def sessions(self) -> list[str] | None:
        """The session of every recording, in order; None where that of any is unknown."""
        sessions = [item.session_id for item in self.recordings if item.session_id is not None]
        return sessions if len(sessions) == len(self) else None

    def hold_out(self, share: float) -> tuple[UnlabelledPool, UnlabelledPool]:
        """The pool in two, by sessions: what is left, and about the given share of the sessions.

        Sessions are drawn by a hash of their names, so that the same are held out in every run.

        Raises:
            InputError: some recording's session is not known, or the share is that of no session or of all.
        """
        sessions = self.sessions()
        if sessions is None:
            raise InputError("some recordings have no session_id; only whole sessions can be held out")
        names = sorted(set(sessions), key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = set(names[: round(share * len(names))])
        if not 0 < len(held_out) < len(names):
            raise InputError(
                f"a share of {share:g} is {len(held_out)} of {len(names)} sessions; hold out some, not all"
            )
        parts = [
            tuple(item for item in self.recordings if (item.session_id in held_out) == wanted)
            for wanted in (False, True)
        ]
        return UnlabelledPool(parts[0]), UnlabelledPool(parts[1])

    def as_manifest(self) -> Manifest:
        """The recordings as a manifest in which no speaker is known, for writing to a file."""
        return Manifest(tuple(Utterance(**vars(recording)) for recording in self.recordings))


COLUMNS = tuple(field.name for field in fields(Utterance))
NEEDED_COLUMNS = ("utterance_id", "path")


@dataclass(frozen=True)
class Manifest:
    """A corpus: utterances in a fixed order, with unique ids."""

    utterances: tuple[Utterance, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def where(self, conditions: Mapping[str, str | Sequence[str]]) -> Manifest:
        """The utterances whose columns hold the given values (or one of several values).

        Raises:
            InputError: an unknown column, or conditions that no utterance meets.
        """
        kept = self.utterances
        for column, wanted in conditions.items():
            if column not in COLUMNS:
                raise InputError(f'there is no column "{column}" to select by; {suggest(column, COLUMNS)}')
            values = {wanted} if isinstance(wanted, str) else set(wanted)
            present = sorted({str(getattr(utterance, column)) for utterance in kept})
            kept = tuple(utterance for utterance in kept if str(getattr(utterance, column)) in values)
            if not kept:
                raise InputError(f"no utterance has {column} in {sorted(values)}; found: {shorten(present)}")
        return Manifest(kept)

    def unlabelled(self) -> UnlabelledPool:
        """The same recordings without their speakers, genders and splits."""
        names = [field.name for field in fields(Recording)]
        stripped = (Recording(**{name: getattr(item, name) for name in names}) for item in self.utterances)
        return UnlabelledPool(tuple(stripped))

    def speakers(self) -> list[str]:
        """The speaker of every utterance, in order.

        Raises:
            InputError: some utterance has no speaker label.
        """
        unknown = [item.utterance_id for item in self.utterances if item.speaker_id is None]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(self)} utterances have no speaker_id, the first is {unknown[0]}; "
                "this needs a labelled corpus"
            )
        return [str(item.speaker_id) for item in self.utterances]

    def save_csv(self, path: str | Path) -> None:
        """Write the manifest as CSV, audio inside its folder by relative path, other audio by absolute path."""
        path = Path(path)
        folder = path.parent.absolute()
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for utterance in self.utterances:
            row = {name: getattr(utterance, name) for name in COLUMNS}
            audio = utterance.path.absolute()
            row["path"] = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
            writer.writerow("" if row[name] is None else row[name] for name in COLUMNS)
        write_text(path, text.getvalue())

    def save_kaldi(self, folder: str | Path) -> None:
        """Write a Kaldi data directory: wav.scp, utt2spk, spk2utt and, where needed, segments.

        An utterance without a speaker is given its own id as speaker, which is Kaldi's convention.

        Raises:
            InputError: a speaker id with white space, which would be two columns.
        """
        for speaker in {item.speaker_id for item in self.utterances if item.speaker_id is not None}:
            if speaker.split() != [speaker]:
                raise InputError(f'speaker_id "{speaker}" has white space, which Kaldi cannot hold', path=folder)
        items = sorted(self.utterances, key=lambda item: item.utterance_id)
        segmented = any(item.start is not None for item in items)
        speakers = {item.utterance_id: item.speaker_id or item.utterance_id for item in items}
        by_speaker: dict[str, list[str]] = {}
        for utterance_id, speaker in speakers.items():
            by_speaker.setdefault(speaker, []).append(utterance_id)
        files = {
            "wav.scp": [f"{item.utterance_id} {item.path.resolve()}" for item in items],
            "utt2spk": [f"{utterance_id} {speaker}" for utterance_id, speaker in speakers.items()],
            "spk2utt": [f"{speaker} {' '.join(ids)}" for speaker, ids in sorted(by_speaker.items())],
        }
        if segmented:
            files["segments"] = [_segment_line(item) for item in items]
        for name, lines in files.items():
            write_text(Path(folder) / name, "\n".join(lines) + "\n")


def _segment_line(item: Utterance) -> str:
    """Utterance, recording (here of the same name), start and end; an end of -1 means the recording's."""
    start = item.start or 0.0
    to_the_end = item.start is None or item.duration is None
    end = "-1" if to_the_end else f"{start + (item.duration or 0.0):.6f}"
    return f"{item.utterance_id} {item.utterance_id} {start:.6f} {end}"


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest from a CSV file or a Kaldi data directory.

    CSV: needs the columns `utterance_id` and `path` (relative to the CSV's folder, or absolute); the other
    fields of `Utterance` are read where present, columns unknown to us are left alone, empty cells are None.
    Kaldi: `wav.scp` (plain file names, relative to the working directory or absolute; commands are refused) and,
    where present, `utt2spk`, `segments`, `spk2gender`. A segment's end of -1 means to the end of the recording.

    Raises:
        InputError: naming the file and line: a missing file or column, a line of more or fewer cells than the
            header, a bad number, an id with white space, a duplicate id, no utterances at all.
    """
    path = Path(path)
    if path.is_dir():
        return _load_kaldi(path)
    if not path.is_file():
        raise InputError("no such manifest; expected a CSV file or a Kaldi data directory", path=path)
    return _load_csv(path)


def _load_csv(path: Path) -> Manifest:
    reader = csv.reader(StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(f"not readable as CSV ({error})", path=path, line=reader.line_num) from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    for column in NEEDED_COLUMNS:
        if column not in header:
            found = ", ".join(header) or "an empty file"
            raise InputError(f'the column "{column}" is missing; found: {found}', path=path, line=1)
    for column in COLUMNS:
        if header.count(column) > 1:
            raise InputError(f'the column "{column}" is there {header.count(column)} times', path=path, line=1)
    items = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"found {len(cells)} cells; the header has {len(header)}", path=path, line=line)
        items.append((line, _utterance_from_row(path, line, dict(zip(header, cells, strict=True)))))
    _check_unique(path, ((line, item.utterance_id) for line, item in items))
    return _manifest_of(path, [item for _, item in items])


def _utterance_from_row(path: Path, line: int, row: Mapping[str, str]) -> Utterance:
    cells = {name: row.get(name, "").strip() or None for name in COLUMNS}
    for column in NEEDED_COLUMNS:
        if cells[column] is None:
            raise InputError(f'the cell of column "{column}" is empty', path=path, line=line)
    utterance_id = str(cells["utterance_id"])
    if len(utterance_id.split()) != 1:
        raise InputError(f'utterance_id "{utterance_id}" has white space; expected one word', path=path, line=line)
    return Utterance(
        utterance_id=utterance_id,
        path=path.parent / str(cells["path"]),
        start=_seconds(cells["start"], "start", path, line),
        duration=_seconds(cells["duration"], "duration", path, line),
        session_id=cells["session_id"],
        domain=cells["domain"],
        language=cells["language"],
        speaker_id=cells["speaker_id"],
        gender=cells["gender"],
        split=cells["split"],
    )


def _seconds(cell: str | None, column: str, path: Path, line: int) -> float | None:
    if cell is None:
        return None
    try:
        seconds = float(cell)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f'{column} is "{cell}"; expected a number of seconds ≥ 0', path=path, line=line)
    return seconds


def _check_unique(path: Path, ids: Iterable[tuple[int, str]]) -> None:
    first_line: dict[str, int] = {}
    for line, name in ids:
        if name in first_line:
            raise InputError(f'"{name}" stands already in line {first_line[name]}', path=path, line=line)
        first_line[name] = line


def _manifest_of(path: Path, items: Sequence[Utterance]) -> Manifest:
    if not items:
        raise InputError("holds no utterances", path=path)
    return Manifest(tuple(items))


def _load_kaldi(folder: Path) -> Manifest:
    paths = _read_scp(folder / "wav.scp")
    speakers = _read_optional(folder / "utt2spk")
    genders = _read_optional(folder / "spk2gender")

    def utterance(name: str, path: Path, start: float | None, duration: float | None) -> Utterance:
        speaker = speakers.get(name)
        gender = genders.get(speaker) if speaker else None
        return Utterance(name, path, start, duration, speaker_id=speaker, gender=gender)

    segments = folder / "segments"
    if segments.is_file():
        return _manifest_of(segments, [utterance(*segment) for segment in _read_segments(segments, paths)])
    return _manifest_of(folder / "wav.scp", [utterance(name, path, None, None) for name, path in paths.items()])


def _read_scp(path: Path) -> dict[str, Path]:
    """Where the audio of each recording is."""
    rows = _read_table(path)
    for line, _, location in rows:
        if location.endswith("|"):
            raise InputError(
                f'"{location}" is a command, and commands are not run; expected a file name', path=path, line=line
            )
    return {recording: Path(location) for _, recording, location in rows}


def _read_segments(
    path: Path, recordings: Mapping[str, Path]
) -> Iterator[tuple[str, Path, float | None, float | None]]:
    for line, name, rest in _read_table(path):
        cells = rest.split()
        if len(cells) != 3:
            raise InputError(
                f"found {len(cells) + 1} columns; expected utterance, recording, start, end", path=path, line=line
            )
        if cells[0] not in recordings:
            raise InputError(f'recording "{cells[0]}" is not in wav.scp', path=path, line=line)
        start = _seconds(cells[1], "start", path, line) or 0.0
        end = None if re.fullmatch(r"-1(\.0*)?", cells[2]) else _seconds(cells[2], "end", path, line)
        if end is not None and end <= start:
            raise InputError(f"the segment ends at {end:g} s, not after its start", path=path, line=line)
        yield name, recordings[cells[0]], start, None if end is None else round(end - start, 6)


def _read_table(path: Path) -> list[tuple[int, str, str]]:
    """The lines of a Kaldi text table: (line number, key, rest), each key once."""
    if not path.is_file():
        raise InputError("no such file; a Kaldi data directory needs it", path=path)
    rows = []
    for line, text in enumerate(StringIO(read_text(path)), start=1):
        cells = text.strip().split(maxsplit=1)
        if len(cells) != 2:
            raise InputError(f'found "{text.strip()}"; expected a key and a value', path=path, line=line)
        rows.append((line, cells[0], cells[1]))
    _check_unique(path, ((line, key) for line, key, _ in rows))
    return rows


def _read_optional(path: Path) -> dict[str, str]:
    return {key: rest for _, key, rest in _read_table(path)} if path.is_file() else {}
