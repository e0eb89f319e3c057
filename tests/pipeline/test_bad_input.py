"""Bad input is one clear message, exit code 2, and nothing half-done."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spkadapt import cli
from spkadapt.features import FeatureConfig
from spkadapt.manifest import Recording
from spkadapt.pipeline.corpus import prepare_features
from spkadapt.progress import Progress


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Call the command line as a user would; its exit code and what it said on standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["spkadapt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus that a test may spoil."""
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def audio_of(corpus: Path, split: str, place: int = 0) -> Path:
    with open(corpus / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return corpus / rows[place]["path"]


def assert_refused(result: tuple[int, str], *parts: str) -> None:
    code, message = result
    assert code == 2
    assert "Traceback" not in message
    for part in parts:
        assert part in message, message


def truncate_flac(path: Path) -> None:
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples, rate, format="FLAC")
    path.write_bytes(path.read_bytes()[:-2000])


def write_nan(path: Path) -> None:
    samples, rate = soundfile.read(path)
    samples[100] = np.nan
    soundfile.write(path, samples, rate, subtype="FLOAT")


def write_stereo(path: Path) -> None:
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.stack([samples, samples], axis=1), rate)


SPOILERS = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    "no audio": (lambda path: path.write_text("hello"), "not readable as audio"),
    "truncated": (truncate_flac, "truncated"),
    "not a number": (write_nan, "NaN"),
    "stereo": (write_stereo, "has 2 channels; expected 1 (mono)"),
    "low rate": (lambda path: soundfile.write(path, np.zeros(4000), 4000), "4000 Hz"),
    "short": (lambda path: soundfile.write(path, np.zeros(30), 8000), "30 samples"),
}


@pytest.mark.parametrize("kind", SPOILERS)
def test_bad_audio(call, corpus, write_recipe, tmp_path, kind) -> None:
    spoil, message = SPOILERS[kind]
    bad = audio_of(corpus, "adapt")
    spoil(bad)
    result = call("run", write_recipe(corpus), "--out", tmp_path / "runs")
    assert_refused(result, "1 of 29 recordings are bad", str(bad), message, "corpus.on_bad_audio=skip")
    assert not list((tmp_path / "runs").rglob("frames.npy"))
    assert not (tmp_path / "runs" / "tiny").exists()


def test_all_bad_audio_is_reported_together(call, corpus, write_recipe, tmp_path) -> None:
    missing, empty, stereo = audio_of(corpus, "train"), audio_of(corpus, "adapt"), audio_of(corpus, "eval")
    missing.unlink()
    empty.write_bytes(b"")
    write_stereo(stereo)
    result = call("run", write_recipe(corpus), "--out", tmp_path / "runs")
    assert_refused(result, "3 of 29 recordings are bad", str(missing), str(empty), str(stereo))


def test_bad_audio_can_be_skipped_and_is_listed(call, corpus, write_recipe, tmp_path) -> None:
    adapted, evaluated = audio_of(corpus, "adapt"), audio_of(corpus, "eval")
    adapted.unlink()
    write_stereo(evaluated)
    num_trials = len((corpus / "trials_eval.txt").read_text().splitlines())
    recipe = write_recipe(corpus)
    assert_refused(call("run", recipe, "--out", tmp_path / "runs"), "or set corpus.on_bad_audio=skip")
    code = call("run", recipe, "--out", tmp_path / "runs", "--set", "corpus.on_bad_audio=skip")[0]
    assert code == 0  # what the message said to do works
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert set(results["skipped_audio"]["tiny"]) == {adapted.stem, evaluated.stem}
    row = results["rows"][0]
    num_skipped = results["num_skipped_trials"]["tiny"]
    assert num_skipped > 0
    assert row["num_targets"] + row["num_nontargets"] == num_trials - num_skipped
    left_out = (tmp_path / "runs" / "tiny" / "skipped_trials.txt").read_text().splitlines()
    assert len(left_out) == num_skipped
    assert all(evaluated.stem in line.split() for line in left_out)
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert adapted.stem in page
    assert evaluated.stem in page


def test_a_segment_beyond_the_end_is_bad_audio_too(call, corpus, write_recipe, tmp_path) -> None:
    path = corpus / "manifest.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if row["split"] == "adapt")
    row["start"], row["duration"] = "0.1", "5.0"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    empty = audio_of(corpus, "eval")
    empty.write_bytes(b"")
    result = call("run", write_recipe(corpus), "--out", tmp_path / "runs")
    assert_refused(result, "2 of 29 recordings are bad", "5 s from 0.1 s end at 5.1 s", str(empty))


@pytest.mark.parametrize(("num_samples", "is_sound"), [(398, False), (399, True), (400, True)])
def test_the_shortest_recording_that_has_a_frame(tmp_path, num_samples, is_sound) -> None:
    """A frame is 200 samples at 8 kHz, which 399 samples at 16 kHz become: the check and the features agree."""
    recordings = [Recording("long", tmp_path / "long.wav"), Recording("short", tmp_path / "short.wav")]
    for recording, length in zip(recordings, (1600, num_samples), strict=True):
        soundfile.write(recording.path, np.linspace(-0.5, 0.5, length), 16000)
    features = FeatureConfig(sample_rate=8000, num_mel_bins=12, snip_edges=True)
    store, problems = prepare_features(
        recordings, features, None, tmp_path / "cache", Progress(), skip_bad=True, device="cpu"
    )
    assert store.utterance_ids == (("long", "short") if is_sound else ("long",))
    assert set(problems) == (set() if is_sound else {"short"})
    again, _ = prepare_features(
        recordings[::-1], features, None, tmp_path / "cache", Progress(), skip_bad=True, device="cpu"
    )
    assert (again.name, len(list((tmp_path / "cache").iterdir()))) == (store.name, 1)  # whatever their order


def test_too_little_left_after_skipping(call, corpus, write_recipe, tmp_path) -> None:
    for place in range(8):
        audio_of(corpus, "adapt", place).unlink()
    recipe = write_recipe(corpus, corpus={"on_bad_audio": "skip"}, adapt={"terms": {"mmd": {}}})
    result = call("run", recipe, "--out", tmp_path / "runs")
    assert_refused(result, "corpus.target_domain has no utterances")
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize(("kept", "found"), [("target", "0 non-targets"), ("nontarget", "0 targets")])
def test_trials_of_one_kind(call, corpus, write_recipe, kept, found) -> None:
    path = corpus / "trials_eval.txt"
    lines = [line for line in path.read_text().splitlines() if line.endswith(f" {kept}")]
    path.write_text("\n".join(lines) + "\n")
    assert_refused(call("check", write_recipe(corpus)), "corpus.evaluation.trials has", found, "some of each")


def test_a_source_of_one_speaker(call, corpus, write_recipe) -> None:
    path = corpus / "manifest.csv"
    with open(path, newline="") as file:
        speaker = next(row["speaker_id"] for row in csv.DictReader(file) if row["split"] == "train")
    where = {"split": "train", "speaker_id": speaker}
    recipe = write_recipe(corpus, corpus={"source": {"manifest": "manifest.csv", "where": where}})
    assert_refused(call("check", recipe), "corpus.source has 1 speakers; training needs at least 2")


@pytest.mark.parametrize(
    ("share", "found"),
    [
        ("0.1", "corpus.target_domain.held_out: a share of 0.1 is 0 of 4 sessions; hold out some, not all"),
        ("0.9", "corpus.target_domain.held_out: a share of 0.9 is 4 of 4 sessions; hold out some, not all"),
        ("1", "corpus.target_domain.held_out: found 1; Input should be less than 1"),
        ("-0.5", "corpus.target_domain.held_out: found -0.5; Input should be greater than or equal to 0"),
    ],
)
def test_a_share_that_cannot_be_held_out(call, corpus, write_recipe, share, found) -> None:
    result = call("check", write_recipe(corpus), "--set", f"corpus.target_domain.held_out={share}")
    assert_refused(result, found)


def test_calls_that_are_not_known_cannot_be_held_out(call, corpus, write_recipe) -> None:
    lines = (corpus / "manifest.csv").read_text().splitlines()
    column = lines[0].split(",").index("session_id")
    cells = [line.split(",") for line in lines]
    for row in cells[1:]:
        row[column] = ""
    (corpus / "manifest.csv").write_text("\n".join(map(",".join, cells)) + "\n")
    result = call("check", write_recipe(corpus), "--set", "corpus.target_domain.held_out=0.5")
    assert_refused(result, f"{corpus / 'manifest.csv'}: corpus.target_domain.held_out: some recordings have no")


def test_what_is_held_out_is_counted(corpus, write_recipe, capsys, monkeypatch) -> None:
    arguments = ["spkadapt", "check", str(write_recipe(corpus)), "--set", "corpus.target_domain.held_out=0.25"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "6 unlabelled ones and 2 held out, " in " ".join(capsys.readouterr().out.split())


def test_a_folder_of_another_recipe_stops_all_runs_before_they_start(call, write_recipe, tmp_path) -> None:
    taken, runs = write_recipe(file="taken.yaml", name="taken"), tmp_path / "runs"
    assert call("run", taken, "--out", runs)[0] == 0
    other, changed = write_recipe(), write_recipe(file="taken.yaml", name="taken", seeds=[1])
    assert_refused(
        call("run", other, changed, "--out", runs), str(runs / "taken"), "seeds is [0] there and [1] now"
    )
    assert not (runs / "tiny").exists()


def test_an_out_that_is_a_file(call, write_recipe, tmp_path) -> None:
    recipe = write_recipe()
    assert_refused(call("run", recipe, "--out", recipe), str(recipe))


@pytest.mark.parametrize("command", ["embed", "score"])
def test_an_unknown_device(call, tmp_path, command) -> None:
    result = call(command, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c", "--device", "gpu")
    assert_refused(result, 'there is no device "gpu"; expected cpu, cuda')


def test_duplicate_id(call, corpus, write_recipe, tmp_path) -> None:
    path = corpus / "manifest.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]) + "\n")
    result = call("run", write_recipe(corpus), "--out", tmp_path / "runs")
    assert_refused(result, f"{path}:{len(lines) + 1}:", "stands already in line 4")
    assert not (tmp_path / "runs").exists()


def test_missing_column(call, corpus, write_recipe, tmp_path) -> None:
    path = corpus / "manifest.csv"
    path.write_text(path.read_text().replace("utterance_id,", "utterance,", 1))
    result = call("check", write_recipe(corpus))
    assert_refused(result, f'{path}:1: the column "utterance_id" is missing; found: utterance, path')


def test_unknown_id_in_a_trial(call, corpus, write_recipe) -> None:
    path = corpus / "trials_eval.txt"
    lines = path.read_text().splitlines()
    lines[4] = f"{lines[4].split()[0]} nobody-knows target"
    path.write_text("\n".join(lines) + "\n")
    assert_refused(call("check", write_recipe(corpus)), f"{path}:5:", '"nobody-knows"')


def test_unlabelled_source(call, corpus, write_recipe) -> None:
    recipe = write_recipe(corpus, corpus={"source": {"manifest": "manifest.csv", "where": {"split": "adapt"}}})
    assert_refused(call("check", recipe), "8 of 8 utterances have no speaker_id")


def test_divergence_is_told_with_a_remedy(call, write_recipe, tmp_path) -> None:
    recipe = write_recipe(train={"learning_rate": 1e30, "max_gradient_norm": 1e30, "num_steps": 40})
    result = call("run", recipe, "--out", tmp_path / "runs")
    assert_refused(result, "training diverged at step", "lower train.learning_rate (1e+30)")


def test_no_gpu(call, write_recipe) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert_refused(call("check", write_recipe(train={"device": "cuda"})), "train", 'use "cpu"')


@pytest.mark.parametrize("command", ["embed", "adapt"])
def test_a_file_that_is_no_model(call, corpus, tmp_path, command) -> None:
    fake = tmp_path / "model.safetensors"
    fake.write_bytes(b"\x80\x04\x95 a pickle, perhaps")
    option = [corpus / "manifest.csv"] if command == "embed" else ["--unlabelled", corpus / "manifest.csv"]
    result = call(command, fake, *option, "--out", tmp_path / "out.npz")
    assert_refused(result, str(fake), "not a whole safetensors file")
    assert not (tmp_path / "out.npz").exists()


def test_scores_that_lack_a_trial(call, corpus, tmp_path) -> None:
    trials = (corpus / "trials_eval.txt").read_text().splitlines()
    scores = tmp_path / "scores.txt"
    scores.write_text("".join(f"{' '.join(line.split()[:2])} 0.5\n" for line in trials[1:]))
    result = call("evaluate", scores, corpus / "trials_eval.txt", "--json", tmp_path / "result.json")
    assert_refused(result, trials[0].split()[0])
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("text", ["a b high\n", "a b 0.5\nc d\n", "a b nan\n"])
def test_scores_that_are_none(call, corpus, tmp_path, text) -> None:
    scores = tmp_path / "scores.txt"
    scores.write_text(text)
    result = call("evaluate", scores, corpus / "trials_eval.txt")
    assert_refused(result, f"{scores}:{len(text.splitlines())}:")


def test_a_folder_without_a_run(call, tmp_path) -> None:
    assert_refused(call("report", tmp_path), "this folder holds no run: it has no recipe.json")


def test_an_unknown_corpus(call, tmp_path) -> None:
    assert_refused(call("prepare", "speechocean", tmp_path), 'did you mean "speechocean762"?')
