"""Run folders: whose run it is, whether it has ended, and what its scores are held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.files import sha256, write_json
from spkadapt.manifest import Manifest, Recording, UnlabelledPool, Utterance
from spkadapt.run_folder import RunFolder, trial_truth
from spkadapt.score import Scores, save_scores
from spkadapt.trials import Trials

RECIPE = {"name": "mmd", "seeds": [0, 1], "corpus": {"synthetic": True}, "adapt": {"weight": 0.5, "dims": (2, 3)}}
SOURCE = Manifest(
    (Utterance("a", Path("/a.wav"), speaker_id="s1"), Utterance("b", Path("/b.wav"), speaker_id="s2"))
)
POOL = Manifest((Utterance("p", Path("/p.wav"), speaker_id="secret", gender="f", split="adapt"),)).unlabelled()
NOTHING = UnlabelledPool(())
EVALUATION = Manifest(
    tuple(
        Utterance(name, Path(f"/{name}.wav"), speaker_id=speaker, domain=domain)
        for name, speaker, domain in (
            ("e1", "t1", "cellphone"),
            ("e2", "t1", "landline"),
            ("e3", "t2", "cellphone"),
            ("e4", None, None),  # in no trial
        )
    )
)
TRIALS = Trials(("e1", "e1", "e2"), ("e2", "e3", "e3"), np.array([True, False, False]))
SKIPPED = {"bad": "bad.wav: no such file"}
SKIPPED_TRIALS = Trials(("bad",), ("e1",), np.array([False]))


def make_run(path: Path) -> RunFolder:
    """A run of two seeds that has ended."""
    run = RunFolder(path)
    run.claim(RECIPE)
    run.save_inputs(SOURCE, POOL, NOTHING, EVALUATION, TRIALS, SKIPPED, SKIPPED_TRIALS, "features-1")
    for seed in (0, 1):
        for backend, shift in (("plain", 0.0), ("centred", 0.25), ("adapted", 0.5)):
            # In another order than the trials, with one more.
            scores = Scores(
                ("e3", "e2", "e1", "e1"), ("e3", "e3", "e3", "e2"), np.array([9, 3, 2, 1]) + seed + shift
            )
            save_scores(run.seed(seed) / f"scores_{backend}.txt", scores)
        choice = {"method": "centred", "strength": 0.0, "reason": f"seed {seed}"}
        record = {"seconds": 2.5 + seed, "training": [{"step": 1, "total": 0.5}], "backend": {"choice": choice}}
        write_json(run.seed(seed) / "seed.json", record)
    return run


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    return str(caught.value)


# Whose run it is ----------------------------------------------------------------------------------------------


def test_claiming_twice_is_going_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "mmd")
    run.claim(RECIPE)
    before = (tmp_path / "mmd/recipe.json").read_bytes()
    run.claim(RECIPE)
    assert (tmp_path / "mmd/recipe.json").read_bytes() == before
    assert run.load_recipe() == json.loads(json.dumps(RECIPE))


@pytest.mark.parametrize(
    ("recipe", "difference"),
    [
        ({**RECIPE, "seeds": [0]}, "seeds is [0, 1] there and [0] now"),
        ({**RECIPE, "adapt": {"weight": 1.0, "dims": (2, 3)}}, "adapt.weight is 0.5 there and 1.0 now"),
        ({**RECIPE, "adapt": {"weight": 0.5, "dims": (2, 4)}}, "adapt.dims is [2, 3] there and [2, 4] now"),
        ({**RECIPE, "vad": None}, "vad is 'nothing' there and None now"),
        (
            {key: RECIPE[key] for key in ("name", "seeds", "corpus")},
            "is {'weight': 0.5, 'dims': [2, 3]} there and",
        ),
    ],
)
def test_a_folder_of_another_recipe(tmp_path: Path, recipe: dict[str, Any], difference: str) -> None:
    RunFolder(tmp_path).claim(RECIPE)
    message = refusal(RunFolder(tmp_path).claim, recipe)
    assert message.startswith(f"{tmp_path}: this folder holds a run with other settings (")
    assert difference in message
    assert message.endswith("give another --out or --set name=…, or remove the folder")
    assert RunFolder(tmp_path).load_recipe()["adapt"]["weight"] == 0.5


def test_looking_changes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "mmd").check_free(RECIPE)
    assert not list(tmp_path.iterdir())
    RunFolder(tmp_path).claim(RECIPE)
    RunFolder(tmp_path).check_free(RECIPE)
    assert "seeds is [0, 1] there" in refusal(RunFolder(tmp_path).check_free, {**RECIPE, "seeds": [2]})


def test_no_run(tmp_path: Path) -> None:
    message = refusal(RunFolder(tmp_path).load_recipe)
    assert message == f"{tmp_path}: this folder holds no run: it has no recipe.json"
    assert refusal(RunFolder(tmp_path).load_run) == message


# What it started from -----------------------------------------------------------------------------------------


def test_the_parts_come_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.load_parts() == [SOURCE, POOL.as_manifest(), EVALUATION]
    assert run.load_skipped() == SKIPPED
    for loaded, saved in ((run.load_trials(), TRIALS), (run.load_skipped_trials(), SKIPPED_TRIALS)):
        assert (loaded.enrol_ids, loaded.test_ids) == (saved.enrol_ids, saved.test_ids)
        np.testing.assert_array_equal(loaded.is_target, saved.is_target)
    tables = ("source.csv", "target_domain.csv", "evaluation.csv")
    names = (*tables, "trials.txt", "skipped.json", "skipped_trials.txt")
    assert run.load_inputs() == {"features": "features-1", **{name: sha256(tmp_path / name) for name in names}}
    assert not list(tmp_path.glob(".*"))


def test_what_is_held_out_is_kept_apart(tmp_path: Path) -> None:
    held_out = UnlabelledPool((Recording("h", Path("/h.wav"), session_id="call"),))
    run = make_run(tmp_path / "none")
    assert (run.load_chosen_by(), run.has_held_out) == (POOL, False)
    run = RunFolder(tmp_path / "some")
    run.save_inputs(SOURCE, POOL, held_out, EVALUATION, TRIALS, {}, Trials((), ()), "features-1")
    assert (run.load_chosen_by(), run.has_held_out) == (held_out, True)
    assert run.load_source() == SOURCE
    assert run.load_parts() == [SOURCE, POOL.as_manifest(), held_out.as_manifest(), EVALUATION]
    more = UnlabelledPool((*POOL.recordings, *held_out.recordings))
    message = refusal(run.save_inputs, SOURCE, more, NOTHING, EVALUATION, TRIALS, {}, Trials((), ()), "features-1")
    assert "the corpus has changed since this run began (target_domain.csv)" in message


@pytest.mark.parametrize("part", ["source", "target_domain", "evaluation"])
def test_a_part_that_is_gone(tmp_path: Path, part: str) -> None:
    run = make_run(tmp_path)
    (tmp_path / f"{part}.csv").unlink()
    assert refusal(run.load_parts) == (
        f"{tmp_path / part}.csv: no such manifest; expected a CSV file or a Kaldi data directory"
    )


def test_nothing_was_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save_inputs(SOURCE, POOL, NOTHING, EVALUATION, TRIALS, {}, Trials((), ()), "features-1")
    assert run.load_skipped() == {}
    assert len(run.load_skipped_trials()) == 0
    assert "skipped_trials.txt" not in run.load_inputs()


def test_the_pool_is_kept_without_its_labels(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert "secret" not in (tmp_path / "target_domain.csv").read_text()


def test_a_corpus_that_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    run.save_inputs(SOURCE, POOL, NOTHING, EVALUATION, TRIALS, SKIPPED, SKIPPED_TRIALS, "features-1")
    fewer = TRIALS.select([0, 1])
    message = refusal(
        run.save_inputs, EVALUATION, POOL, NOTHING, EVALUATION, fewer, SKIPPED, SKIPPED_TRIALS, "features-2"
    )
    assert message == (
        f"{tmp_path}: the corpus has changed since this run began (features, source.csv, trials.txt); "
        "remove the folder, or run under another name with --set name=…"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


# What it ended in ---------------------------------------------------------------------------------------------


def test_a_run_that_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mmd").load_run()
    assert (run.name, run.folder, run.synthetic) == ("mmd", tmp_path / "mmd", True)
    assert [seed.seed for seed in run.seeds] == [0, 1]
    assert [seed.seconds for seed in run.seeds] == [2.5, 3.5]
    for seed in run.seeds:
        assert seed.training == [{"step": 1, "total": 0.5}]
        assert seed.scores["plain"].tolist() == [1 + seed.seed, 2 + seed.seed, 3 + seed.seed]
        assert seed.scores["centred"].tolist() == [1.25 + seed.seed, 2.25 + seed.seed, 3.25 + seed.seed]
        assert seed.scores["adapted"].tolist() == [1.5 + seed.seed, 2.5 + seed.seed, 3.5 + seed.seed]


def test_how_the_adapted_backends_were_chosen(tmp_path: Path) -> None:
    choices = make_run(tmp_path).load_choices()
    assert {seed: choice["reason"] for seed, choice in choices.items()} == {0: "seed 0", 1: "seed 1"}


def test_a_run_that_has_not_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.seed(1) / "seed.json").unlink()
    assert (run.has_seed(0), run.has_seed(1)) == (True, False)
    assert refusal(run.load_run) == f"{tmp_path}: the run has not ended: seeds [1] are missing; run it again"


def test_a_run_of_an_earlier_version_that_had_fewer_backends(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.seed(0) / "scores_adapted.txt").unlink()
    assert (run.has_seed(0), run.has_scores(0), run.has_scores(1)) == (True, False, True)
    assert "the run has not ended: seeds [0] are missing; run it again" in refusal(run.load_run)


def test_scores_that_lack_a_trial(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save_scores(run.seed(0) / "scores_plain.txt", Scores(("e1",), ("e2",), np.zeros(1)))
    assert "no score for 2 of 3 trials: e1 e3, e2 e3" in refusal(run.load_run)


# What scores are held against ---------------------------------------------------------------------------------


def test_truth_by_trial(tmp_path: Path) -> None:
    for truth in (trial_truth(TRIALS, EVALUATION), make_run(tmp_path).load_truth()):
        assert truth.is_target.tolist() == [True, False, False]
        assert truth.enrol_speakers.tolist() == ["t1", "t1", "t1"]
        assert truth.test_speakers.tolist() == ["t1", "t2", "t2"]
        assert truth.same_domain is not None
        assert truth.same_domain.tolist() == [False, True, False]


def test_domains_count_only_where_all_are_known() -> None:
    trials = Trials(("e1", "e1"), ("e2", "e5"), np.array([True, False]))
    more = Manifest((*EVALUATION, Utterance("e5", Path("/e5.wav"), speaker_id="t3")))
    assert trial_truth(trials, more).same_domain is None


def test_truth_that_is_not_to_be_had() -> None:
    assert refusal(trial_truth, Trials(("e1",), ("e2",)), EVALUATION) == (
        "the trials say nothing of which are targets; evaluation needs `target` or `nontarget`"
    )
    unknown = Trials(("e1",), ("e9",), np.array([True]))
    assert refusal(trial_truth, unknown, EVALUATION) == 'utterance "e9" is not among the 4 known ones'
    unlabelled = Trials(("e1",), ("e4",), np.array([True]))
    assert refusal(trial_truth, unlabelled, EVALUATION) == (
        "1 of 2 utterances have no speaker_id, the first is e4; this needs a labelled corpus"
    )
