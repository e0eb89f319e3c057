"""Which utterances enrol each speaker model, in the forms that Kaldi and NIST write it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import read_text
from spkadapt.trials import foreign_separator, number_ids, refuse_unknown

# The first cell of the header that NIST's enrolment files begin with: modelid, segmentid, and often side.
_NIST_HEADER = "modelid"


@dataclass(frozen=True, eq=False)
class Enrolment:
    """Speaker models and the utterances that enrol them.

    Attributes:
        model_ids: the models, each once.
        utterance_ids: the enrolment utterances, model by model; one may enrol several models.
        model_of: int32 `(len(utterance_ids),)`, which of `model_ids` each utterance enrols; none is left out.
        lines: int32 `(len(utterance_ids),)`, the line that says so, from 1.
        path: the file that they came from.
    """

    model_ids: tuple[str, ...]
    utterance_ids: tuple[str, ...]
    model_of: np.ndarray
    lines: np.ndarray
    path: Path

    def check_utterances(self, known: Sequence[str]) -> None:
        """Raise one `InputError` that lists every utterance which is not among `known`."""
        refuse_unknown(
            "utterance", self.utterance_ids, known, lambda place: int(self.lines[place]), path=self.path
        )

    def number(
        self, model_ids: Sequence[str], *, path: str | Path | None = None
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """The utterances of the models that trials name, and the numbers that `Scorer.enrol_side` takes.

        Args:
            model_ids: the enrolment side of each trial.
            path: the trial list, for the error to name.

        Shape:
            returns utterance ids; int32 `(number of these,)`, the row of the model that each enrols; and int32
            `(len(model_ids),)`, the row of the model of each trial

        Raises:
            InputError: one that names the models which are not in this list.
        """
        refuse_unknown("model", model_ids, self.model_ids, lambda place: place + 1, path=path)
        named, rows = number_ids(model_ids)
        row_of = {name: row for row, name in enumerate(named)}
        rows_of_utterances = np.array([row_of.get(name, -1) for name in self.model_ids], np.int32)[self.model_of]
        kept = np.flatnonzero(rows_of_utterances >= 0)
        return tuple(self.utterance_ids[place] for place in kept.tolist()), rows_of_utterances[kept], rows


def load_enrolment(path: str | Path) -> Enrolment:
    """Read an enrolment list: a model and its utterances on each line, as Kaldi's spk2utt has them.

    A model may come in several lines, so that NIST's `model segment` lines are read too. After NIST's header,
    which begins with `modelid`, the first two columns count, and a third, the side of a call, does not.

    Raises:
        InputError: naming the file and line: a model without an utterance, or one that the same utterance enrols
            twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such enrolment list", path=path)
    rows = [line.split() for line in read_text(path).rstrip().split("\n")]
    has_header = bool(rows[0]) and rows[0][0] == _NIST_HEADER
    first_line = 2 if has_header else 1
    lines_of: dict[tuple[str, str], int] = {}
    for line, cells in enumerate(rows[first_line - 1 :], start=first_line):
        if len(cells) < 2:
            raise _no_utterance(" ".join(cells), path, line)
        for utterance in cells[1:2] if has_header else cells[1:]:
            pair = cells[0], utterance
            if pair in lines_of:
                found = f'found "{utterance}" among the utterances of model "{cells[0]}" again'
                raise InputError(f"{found}, first in line {lines_of[pair]}", path=path, line=line)
            lines_of[pair] = line
    if not lines_of:
        raise InputError("holds no models", path=path)
    models, utterances = zip(*lines_of, strict=True)
    model_ids, model_of = number_ids(models)
    order = np.argsort(model_of, kind="stable")
    lines = np.fromiter(lines_of.values(), np.int32, len(lines_of))
    return Enrolment(
        model_ids, tuple(utterances[row] for row in order.tolist()), model_of[order], lines[order], path
    )


def _no_utterance(found: str, path: Path, line: int) -> InputError:
    mark = foreign_separator(found)
    hint = "" if mark is None else f', parted by blanks or tabs and not by "{mark}"'
    return InputError(f'found "{found}"; expected a model and its utterances{hint}', path=path, line=line)
