"""adapt-backend, score and measure on files: from embeddings of two domains to error rates."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spkadapt import cli
from spkadapt.backend.adapted import COSINE_METHODS, METHODS, SourceData, TargetDomainData, prepare_backend
from spkadapt.backend.chain import Backend
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.manifest import Manifest, UnlabelledPool, Utterance
from spkadapt.metrics import compute_cllr, compute_eer, compute_min_dcf
from spkadapt.pipeline import adapt_backend, measure_all_pairs, score_file
from spkadapt.pipeline.corpus import Corpus
from spkadapt.pipeline.run_backends import fit_backends, score_corpus
from spkadapt.progress import Progress
from spkadapt.score import load_scores
from spkadapt.select import choose_backend
from spkadapt.trials import Trials

DIM = 10


class World:
    """Embeddings of a labelled domain, of unlabelled calls, and of labelled calls to test on, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        random = np.random.default_rng(0)
        self.source = self.write("source", random, num_speakers=20, calls=1, per_call=5)
        self.calls = self.write("calls", random, num_speakers=20, calls=2, per_call=5, shift=3.0)
        self.tested = self.write("test", random, num_speakers=8, calls=2, per_call=3, shift=3.0)
        names = self.tested.utterance_ids
        first, second = np.triu_indices(len(names), 1)
        self.is_target = np.array([names[a][:6] == names[b][:6] for a, b in zip(first, second, strict=True)])
        self.listed = Trials(tuple(names[i] for i in first), tuple(names[i] for i in second), self.is_target)
        self.trials = folder / "trials.txt"
        self.listed.save(self.trials)

    def write(
        self,
        name: str,
        random: np.random.Generator,
        *,
        num_speakers: int,
        calls: int,
        per_call: int,
        shift: float = 0,
    ) -> EmbeddingSet:
        """Utterances `NAMEss-c-u`; beside the npz, the speaker, call and kind of telephone of each."""
        grid = [(s, c, u) for s in range(num_speakers) for c in range(calls) for u in range(per_call)]
        ids = tuple(f"{name[:4]}{s:02d}-{c}-{u}" for s, c, u in grid)
        speakers = random.normal(size=(num_speakers, DIM))
        spread = np.concatenate([np.full(3, 2.0), np.full(DIM - 3, 0.4)])
        kinds = {(s, c): ("cell", "land")[(s + c) % 2] for s, c, _ in grid}
        embeddings = np.array(
            [speakers[s] + shift * (1 if kinds[s, c] == "cell" else -1) for s, c, _ in grid]
        ) + spread * random.normal(size=(len(grid), DIM))
        tables = {
            "utt2spk": [f"{name}{s}" for s, _, _ in grid],
            "utt2call": [f"{name}{s}-{c}" for s, c, _ in grid],
            "utt2domain": [kinds[s, c] for s, c, _ in grid],
        }
        for table, values in tables.items():
            lines = (f"{utterance} {value}\n" for utterance, value in zip(ids, values, strict=True))
            (self.folder / f"{name}.{table}").write_text("".join(lines))
        found = EmbeddingSet(ids, embeddings.astype(np.float32))
        found.save(self.folder / f"{name}.npz")
        return found

    def path(self, name: str) -> Path:
        return self.folder / name

    def adapt(self, out: str = "b", **settings: object) -> object:
        arguments = {"sessions": self.path("calls.utt2call"), "domains": self.path("calls.utt2domain")} | settings
        source, calls, labels = (self.path(name) for name in ("source.npz", "calls.npz", "source.utt2spk"))
        return adapt_backend(source, calls, labels, self.path(out), Progress(), **arguments)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def column(path: Path) -> np.ndarray:
    return np.array([line.split()[1] for line in path.read_text().splitlines()])


def test_the_file_holds_the_backend_of_the_api(world: World) -> None:
    world.adapt(method="coral", strength=0.5)
    source = SourceData(world.source.embeddings, column(world.path("source.utt2spk")))
    pool = TargetDomainData(
        world.calls.embeddings, column(world.path("calls.utt2call")), column(world.path("calls.utt2domain"))
    )
    expected = prepare_backend("coral", source, pool).at(0.5)
    found = Backend.load(world.path("b"))
    domains = column(world.path("test.utt2domain"))
    vectors = [one.transform(world.tested.embeddings, domains) for one in (expected, found)]
    np.testing.assert_array_equal(*vectors)
    assert found.history["choice"]["method"] == "coral"
    assert set(found.history["files"]) == {"source", "labels", "target_domain"}


def test_adapted_scores_are_better_than_cosine(world: World) -> None:
    choice = world.adapt()
    assert choice.candidates  # type: ignore[attr-defined]
    eers = {}
    for backend in (None, world.path("b")):
        domains = None if backend is None else world.path("test.utt2domain")
        score_file(
            world.path("test.npz"), world.trials, world.path("s.txt"), Progress(), backend=backend, domains=domains
        )
        eers[backend] = compute_eer(load_scores(world.path("s.txt")).scores, world.is_target)
    assert eers[world.path("b")] < 0.7 * eers[None]


def test_without_calls_centring_is_all_and_a_strength_must_be_said(world: World) -> None:
    assert world.adapt(sessions=None).method == "centred"  # type: ignore[attr-defined]
    assert world.adapt(sessions=None, method="none").method == "none"  # type: ignore[attr-defined]
    assert world.adapt(sessions=None, method="coral", strength=0.5).strength == 0.5  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no strength can be chosen for coral: say which"):
        world.adapt(sessions=None, method="coral")


def test_labels_of_other_utterances_and_manifests_serve_too(world: World) -> None:
    """Labels of the unlabelled calls among them change nothing, and calls may come from a CSV file."""
    rows = zip(world.calls.utterance_ids, column(world.path("calls.utt2call")), strict=True)
    with open(world.path("calls.csv"), "w", newline="") as file:
        csv.writer(file).writerows([("utterance_id", "session_id"), *rows])
    world.adapt("a", method="kaldi", strength=1.0)
    labels = world.path("source.utt2spk")
    labels.write_text(labels.read_text() + world.path("calls.utt2spk").read_text())
    world.adapt("b", method="kaldi", strength=1.0, sessions=world.path("calls.csv"))
    first, second = (Backend.load(world.path(name)) for name in "ab")
    np.testing.assert_array_equal(first.scorer.cohort_, second.scorer.cohort_)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.scorer.scorer.within_, second.scorer.scorer.within_)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "corall"}, 'no method "corall"; did you mean "coral"'),
        ({"method": "coral", "strength": 1.5}, "strength is 1.5; expected a number from 0 to 1"),
        ({"strength": 0.5}, "a strength of 0.5 needs a method"),
    ],
)
def test_bad_settings_are_refused(world: World, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        world.adapt(**settings)
    assert not world.path("b").exists()


def test_bad_files_are_refused_by_name(world: World) -> None:
    with pytest.raises(InputError, match=r"test.utt2call: no session_id for 200 utterances: call00-0-0"):
        world.adapt(sessions=world.path("test.utt2call"))
    with pytest.raises(InputError, match=r"calls.utt2spk: names none of the 100 source utterances"):
        adapt_backend(
            world.path("source.npz"),
            world.path("calls.npz"),
            world.path("calls.utt2spk"),
            world.path("b"),
            Progress(),
        )
    with pytest.raises(InputError, match=r"source.npz: 100 utterances are in both domains: sour00-0-0"):
        adapt_backend(
            world.path("source.npz"),
            world.path("source.npz"),
            world.path("source.utt2spk"),
            world.path("b"),
            Progress(),
        )


def test_scoring_asks_for_what_the_backend_needs(world: World) -> None:
    world.adapt("plain", method="same_recording_wccn", strength=0.2, domains=None)
    world.adapt("by_kind", method="same_recording_wccn", strength=0.2)
    tested, out = world.path("test.npz"), world.path("s.txt")
    for settings, message in (
        ({"backend": world.path("by_kind")}, "centres by recording domain"),
        (
            {"backend": world.path("plain"), "domains": world.path("test.utt2domain")},
            "test.utt2domain: this backend knows no recording domains",
        ),
        ({"domains": world.path("test.utt2domain")}, "test.utt2domain: only a backend has a use"),
        ({"backend": world.path("plain"), "centre": world.path("calls.npz")}, "not both"),
    ):
        with pytest.raises(InputError, match=message):
            score_file(tested, world.trials, out, Progress(), **settings)
    assert not out.exists()


def test_only_utterances_that_trials_name_need_a_domain(world: World) -> None:
    world.adapt(method="same_recording_wccn", strength=0.2)
    names = world.tested.utterance_ids[:2]
    Trials(names[:1], names[1:]).save(world.path("one"))
    lines = world.path("test.utt2domain").read_text().splitlines(keepends=True)
    world.path("two").write_text("".join(lines[:2]))
    settings = {"backend": world.path("b"), "domains": world.path("two")}
    score_file(world.path("test.npz"), world.path("one"), world.path("s"), Progress(), **settings)
    assert len(load_scores(world.path("s")).scores) == 1
    with pytest.raises(InputError, match=r"two: no domain for 46 utterances: test00-0-2"):
        score_file(world.path("test.npz"), world.trials, world.path("s"), Progress(), **settings)


def test_all_pairs_are_measured_as_listed_ones(world: World) -> None:
    """The two halves of the tested calls against each other, listed, scored and measured in memory."""
    names = np.array(world.tested.utterance_ids)
    sides = [world.tested.select(names[start::2].tolist()) for start in (0, 1)]
    for name, side in zip(("enrol", "other"), sides, strict=True):
        side.save(world.path(f"{name}.ark"))
    world.adapt(method="same_recording_wccn", strength=0.3)
    settings = {"backend": world.path("b"), "domains": world.path("test.utt2domain")}
    found = measure_all_pairs(
        world.path("enrol.ark"), world.path("other.ark"), world.path("test.utt2spk"), Progress(),
        json_file=world.path("r.json"), **settings,
    )  # fmt: skip
    pairs = [(a, b) for a in sides[0].utterance_ids for b in sides[1].utterance_ids]
    Trials(*(tuple(side) for side in zip(*pairs, strict=True))).save(world.path("pairs"))
    score_file(world.path("test.npz"), world.path("pairs"), world.path("s.npz"), Progress(), **settings)
    scores, is_target = load_scores(world.path("s.npz")).scores, np.array([a[:6] == b[:6] for a, b in pairs])
    assert found["num_targets"] == is_target.sum()
    assert found["eer"] == compute_eer(scores, is_target)
    assert found["cllr"] == pytest.approx(compute_cllr(scores, is_target), rel=1e-6)
    assert found["min_dcf"]["0.05"] == compute_min_dcf(scores, is_target, 0.05)
    assert world.path("r.json").is_file()


def test_a_recording_is_not_measured_against_itself(world: World) -> None:
    with pytest.raises(InputError, match=r"48 utterances are on both sides: test00-0-0"):
        measure_all_pairs(world.path("test.npz"), world.path("test.npz"), world.path("test.utt2spk"), Progress())


def test_models_of_several_utterances_are_scored(world: World) -> None:
    """Trials name models; one of a single utterance scores as that utterance does."""
    names = world.tested.utterance_ids
    world.path("enrol").write_text(f"one {names[0]}\nmany {names[1]} {names[2]}\n")
    world.path("t").write_text(f"one {names[-1]}\nmany {names[-1]}\n")
    score_file(world.path("test.npz"), world.path("t"), world.path("s"), Progress(), enrolment=world.path("enrol"))
    units = world.tested.embeddings / np.linalg.norm(world.tested.embeddings, axis=1, keepdims=True)
    mean = units[1] + units[2]
    expected = [units[0] @ units[-1], mean @ units[-1] / np.linalg.norm(mean)]
    np.testing.assert_allclose(load_scores(world.path("s")).scores, expected, atol=1e-6)


def test_the_command_shows_what_it_tried(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        name: str(world.path(name)) for name in ("source.npz", "calls.npz", "source.utt2spk", "calls.utt2call")
    }
    arguments = ["adapt-backend", files["source.npz"], "--labels", files["source.utt2spk"], files["calls.npz"]]
    options = ["--sessions", files["calls.utt2call"], "--out", str(world.path("b"))]
    monkeypatch.setattr(sys, "argv", ["spkadapt", *arguments, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS)
    assert "← chosen" in shown
    assert world.path("b").is_file()


# The backends of a run ----------------------------------------------------------------------------------------


def manifest(world: World, name: str, part: EmbeddingSet, spoilt: bool = False) -> Manifest:
    columns = (column(world.path(f"{name}.{table}")).tolist() for table in ("utt2spk", "utt2call", "utt2domain"))
    return Manifest(
        tuple(
            Utterance(i, Path("a.wav"), session_id=call, domain=kind, speaker_id="x" if spoilt else speaker)
            for i, speaker, call, kind in zip(part.utterance_ids, *columns, strict=True)
        )
    )


def corpus_of(world: World, spoilt: bool = False) -> tuple[Corpus, EmbeddingSet]:
    """The world as a run sees it, and all its embeddings; `spoilt`, every tested speaker has one name."""
    parts = {"source": world.source, "calls": world.calls, "test": world.tested}
    everything = EmbeddingSet(
        tuple(i for part in parts.values() for i in part.utterance_ids),
        np.concatenate([part.embeddings for part in parts.values()]),
    )
    source, calls, tested = (
        manifest(world, name, part, spoilt and name == "test") for name, part in parts.items()
    )
    trials = Trials(world.listed.enrol_ids, world.listed.test_ids) if spoilt else world.listed
    return Corpus(source, calls.unlabelled(), UnlabelledPool(()), tested, trials), everything


def fit(
    embeddings: EmbeddingSet,
    corpus: Corpus,
    seed: int = 0,
    progress: Progress = Progress(),  # noqa: B008
) -> dict[str, Backend]:
    return fit_backends(embeddings, corpus, seed=seed, progress=progress, label="tiny seed 0: backends")


def test_the_choice_is_followed_to_its_end(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    said = StringIO()
    fit(embeddings, corpus, progress=Progress(Console(file=said)))
    lines = said.getvalue().splitlines()
    assert lines[0] == "tiny seed 0: backends: 0/3, 0 s  none"
    assert lines[-1].startswith("tiny seed 0: backends: 3/3, ")


def test_a_run_is_scored_as_the_commands_would(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    backends = fit(embeddings, corpus, seed=3)
    chosen = backends["adapted"].history["choice"]
    wccn = world.adapt(method="same_recording_wccn", seed=3)
    assert (chosen["method"], chosen["strength"]) == ("same_recording_wccn", wccn.strength)  # type: ignore[attr-defined]
    settings = {
        "plain": {},
        "centred": {"centre": world.path("calls.npz")},
        "adapted": {"backend": world.path("b"), "domains": world.path("test.utt2domain")},
    }
    assert list(backends) == list(settings)
    for name, files in settings.items():
        score_file(world.path("test.npz"), world.trials, world.path("s.txt"), Progress(), **files)
        expected = load_scores(world.path("s.txt")).scores
        np.testing.assert_allclose(
            score_corpus(backends[name], embeddings, corpus).scores, expected, rtol=1e-5, atol=1e-6
        )


def test_speakers_of_the_tests_choose_nothing(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    spoilt, _ = corpus_of(world, spoilt=True)
    one, other = (fit(embeddings, part)["adapted"] for part in (corpus, spoilt))
    assert one.history == other.history
    scores = [score_corpus(backend, embeddings, corpus).scores for backend in (one, other)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("change", ["unknown", "other"])
def test_means_are_by_domain_only_where_all_tests_have_one_of_the_pool(world: World, change: str) -> None:
    corpus, embeddings = corpus_of(world)
    assert fit(embeddings, corpus)["adapted"].domains == ("cell", "land")
    first, *others = corpus.evaluation
    strange = replace(first, domain=None if change == "unknown" else "speakerphone")
    changed = replace(corpus, evaluation=Manifest((strange, *others)))
    backend = fit(embeddings, changed)["adapted"]
    assert backend.domains is None
    assert len(score_corpus(backend, embeddings, changed).scores) == len(corpus.trials)


def test_a_pool_whose_calls_are_not_all_known_is_centred(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    first, *others = corpus.target_domain.recordings
    pool = UnlabelledPool((replace(first, session_id=None), *others))
    backend = fit(embeddings, replace(corpus, target_domain=pool))["adapted"]
    assert backend.history["choice"]["method"] == "centred"


def test_calls_held_out_choose_the_backend_that_the_whole_pool_fits(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    whole = corpus.target_domain
    left, held_out = whole.hold_out(0.6)
    divided = replace(corpus, target_domain=left, held_out=held_out)
    backends = fit(embeddings, divided)
    rows = [item.utterance_id for item in (*left.recordings, *held_out.recordings)]
    pool = TargetDomainData(
        embeddings.select(rows).embeddings,
        np.array([*(left.sessions() or ()), *(held_out.sessions() or ())]),
        np.array([item.domain for item in (*left.recordings, *held_out.recordings)]),
    )
    source = SourceData(world.source.embeddings, np.array(corpus.source.speakers()))
    apart = np.arange(len(rows)) >= len(left)
    choice = choose_backend(source, pool, held_out=apart, methods=COSINE_METHODS)
    assert choice.candidates
    assert backends["adapted"].history["choice"] == asdict(choice)
    assert asdict(choice) != fit(embeddings, corpus)["adapted"].history["choice"]
    np.testing.assert_allclose(
        score_corpus(backends["centred"], embeddings, divided).scores,
        score_corpus(fit(embeddings, corpus)["centred"], embeddings, corpus).scores,
        atol=1e-6,
    )


def test_means_are_by_domain_only_where_it_is_known_of_what_is_held_out_too(world: World) -> None:
    corpus, embeddings = corpus_of(world)
    left, held_out = corpus.target_domain.hold_out(0.6)
    divided = replace(corpus, target_domain=left, held_out=held_out)
    assert fit(embeddings, divided)["adapted"].domains == ("cell", "land")
    first, *others = held_out.recordings
    unknown = replace(divided, held_out=UnlabelledPool((replace(first, domain=None), *others)))
    assert fit(embeddings, unknown)["adapted"].domains is None
