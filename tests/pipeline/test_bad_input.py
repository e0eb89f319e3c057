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
    assert not list((tmp_path / "runs").rglob("seed-*"))


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
    code = call("run", recipe, "--out", tmp_path / "runs", "--set", "corpus.on_bad_audio=skip")[0]
    assert code == 0
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert set(results["skipped_audio"]["tiny"]) == {adapted.stem, evaluated.stem}
    row = results["rows"][0]
    assert 0 < row["num_targets"] + row["num_nontargets"] < num_trials
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert adapted.stem in page
    assert evaluated.stem in page


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


def test_pool_smaller_than_a_batch(call, write_recipe, tmp_path) -> None:
    recipe = write_recipe(adapt={"method": "mmd"}, train={"batch_size": 9})
    result = call("run", recipe, "--out", tmp_path / "runs")
    assert_refused(result, "corpus.target_domain has 8 utterances, fewer than a batch of train.batch_size=9")
    assert not (tmp_path / "runs").exists()


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
