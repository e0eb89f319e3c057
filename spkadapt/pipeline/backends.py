"""Adapts a backend to a domain of which only embeddings are known: files in, a backend file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from spkadapt import __version__
from spkadapt.backend.adapted import CENTRED, METHODS, NO_ADAPTATION, SourceData, TargetDomainData, prepare_backend
from spkadapt.backend.chain import Backend
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError, shorten, suggest
from spkadapt.files import sha256
from spkadapt.progress import Progress
from spkadapt.select import CHOICE_RULE, Choice, choose_backend
from spkadapt.tables import load_utterance_table, look_up

AUTO = "auto"


def adapt_backend(
    source: Path,
    target_domain: Path,
    labels: Path,
    out: Path,
    progress: Progress,
    *,
    sessions: Path | None = None,
    domains: Path | None = None,
    method: str = AUTO,
    strength: float | None = None,
    seed: int = 0,
) -> Choice:
    """Make a backend for a target domain of which no speaker is known, and write it to a file.

    Args:
        source: embeddings of the labelled domain; those without a label are left out.
        target_domain: embeddings of the unlabelled domain, from the same extractor.
        labels: the speaker of each source utterance: `utt2spk`, or a CSV file with the column `speaker_id`.
        out: the backend file, which `score` takes.
        progress: where to show how far it has come, and what was tried.
        sessions: the call of each target utterance: a table, or a CSV file with the column `session_id`. Without
            it nothing can be chosen, and much less is won.
        domains: the recording condition of each target utterance, such as its kind of telephone: a table, or a CSV
            file with the column `domain`. Scoring then needs it of the utterances it scores.
        method: one of `METHODS`, or `auto`: chosen by `CHOICE_RULE`.
        strength: from 0 to 1; chosen where None, for which sessions must be known.
        seed: of the choice.

    Raises:
        InputError: bad files or settings, utterances without a session or domain (all listed), embeddings of two
            extractors, the same utterance in both domains.
    """
    _check_settings(method, strength)
    source_set, target_set = EmbeddingSet.load(source), EmbeddingSet.load(target_domain)
    shared = set(source_set.utterance_ids) & set(target_set.utterance_ids)
    if shared:
        found = f"{len(shared)} utterances are in both domains: {shorten(sorted(shared))}"
        raise InputError(found, path=target_domain)
    labelled = _load_source(source_set, labels)
    pool = TargetDomainData(
        target_set.embeddings,
        _load_column(target_set, sessions, "session_id"),
        load_domains(target_set, domains),
    )
    choice = _choose(labelled, pool, method, strength, seed, progress)
    files = {"source": source, "labels": labels, "target_domain": target_domain}
    history = {
        "spkadapt": __version__,
        "files": {name: {"path": str(path), "sha256": sha256(path)} for name, path in files.items()},
        "seed": seed,
        "rule": CHOICE_RULE,
        "choice": asdict(choice),
    }
    replace(prepare_backend(choice.method, labelled, pool).at(choice.strength), history=history).save(out)
    progress.say(f"{choice.method} at strength {choice.strength:g}: {choice.reason}")
    progress.say(f"backend → {out}")
    return choice


def choose_showing_progress(
    source: SourceData,
    pool: TargetDomainData,
    methods: Sequence[str],
    seed: int,
    progress: Progress,
    label: str,
    held_out: np.ndarray | None = None,
) -> Choice:
    """`select.choose_backend`, with the number of methods that have been tried in `progress` under a label."""
    with progress.task(label, len(methods)) as update:
        choice = choose_backend(source, pool, held_out=held_out, methods=methods, seed=seed, on_progress=update)
        update(len(methods), "")
    return choice


def load_domains(embeddings: EmbeddingSet, domains: Path | None) -> np.ndarray | None:
    """The recording domain of each embedding, `(num_embeddings,)`; None where none are given."""
    return _load_column(embeddings, domains, "domain")


def transform_set(backend: Backend, embeddings: EmbeddingSet, domains: Path | None) -> EmbeddingSet:
    """The embeddings as the backend's scorer wants them."""
    if domains is not None and backend.domains is None:
        raise InputError("this backend knows no recording domains: it was adapted without them", path=domains)
    return replace(
        embeddings, embeddings=backend.transform(embeddings.embeddings, load_domains(embeddings, domains))
    )


def _check_settings(method: str, strength: float | None) -> None:
    if method != AUTO and method not in METHODS:
        raise InputError(f'there is no method "{method}"; {suggest(method, (AUTO, *METHODS))}')
    if strength is not None and not 0 <= strength <= 1:
        raise InputError(f"strength is {strength:g}; expected a number from 0 to 1")
    if strength is not None and method == AUTO:
        raise InputError(f"a strength of {strength:g} needs a method to go with it")


def _load_source(embeddings: EmbeddingSet, labels: Path) -> SourceData:
    speaker_of = load_utterance_table(labels, "speaker_id")
    known = [name for name in embeddings.utterance_ids if name in speaker_of]
    if not known:
        raise InputError(f"names none of the {len(embeddings.utterance_ids)} source utterances", path=labels)
    rows = embeddings.rows(known)
    return SourceData(embeddings.embeddings[rows], np.array([speaker_of[name] for name in known]))


def _load_column(embeddings: EmbeddingSet, path: Path | None, column: str) -> np.ndarray | None:
    if path is None:
        return None
    table = load_utterance_table(path, column)
    return np.array(look_up(table, embeddings.utterance_ids, column=column, path=path))


def _choose(
    source: SourceData,
    pool: TargetDomainData,
    method: str,
    strength: float | None,
    seed: int,
    progress: Progress,
) -> Choice:
    if strength is not None or method in (NO_ADAPTATION, CENTRED):
        return Choice(method, strength or 0.0, "as asked for")
    methods = METHODS if method == AUTO else (method,)
    choice = choose_showing_progress(source, pool, methods, seed, progress, "backends")
    if choice.candidates:
        progress.show(_render_candidates(choice))
    for one in choice.candidates:
        if one.failure is not None:
            progress.say(f"{one.method}: {one.failure}")
    return choice


def _render_candidates(choice: Choice) -> Table:
    """One row a method: its best strength, and what that gave on pseudo-speakers."""
    table = Table(show_edge=False, pad_edge=False, caption="EER on pseudo-speakers: ranks, and says no more")
    for heading in ("method", "best strength", "pseudo-speaker EER %"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in dict.fromkeys(candidate.method for candidate in choice.candidates):
        tried = [candidate for candidate in choice.candidates if candidate.method == method]
        measured = [(one.pseudo_eer, one.strength) for one in tried if one.pseudo_eer is not None]
        if not measured:
            table.add_row(method, "–", "cannot be fitted")
            continue
        eer, strength = min(measured)
        mark = "  ← chosen" if method == choice.method else ""
        table.add_row(f"{method}{mark}", f"{strength:g}", f"{100 * eer:.2f}")
    return table
