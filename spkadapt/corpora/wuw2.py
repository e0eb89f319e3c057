"""WUW Corpus II: real telephone calls in English, 8 kHz μ-law (CC BY-SA 4.0): a target domain.

Its `adapt` split has calls and no speakers; its `eval` split has speakers, for scoring only.
"""

from __future__ import annotations

from pathlib import Path

from spkadapt.errors import InputError
from spkadapt.manifest import Manifest, load_manifest
from spkadapt.trials import Trials, load_trials


def prepare(root: Path) -> tuple[Manifest, Trials | None]:
    """The corpus' manifest and its evaluation trials.

    Args:
        root: a folder with `manifest.csv` (splits `adapt` and `eval`) and `trials_eval.txt`.

    Raises:
        InputError: a file or a split is missing, the `adapt` split has speaker labels, or a trial names an
            utterance outside the `eval` split.
    """
    path = root / "manifest.csv"
    manifest = load_manifest(path)
    try:
        adapt, evaluation = manifest.where({"split": "adapt"}), manifest.where({"split": "eval"})
    except InputError as error:
        raise InputError(str(error), path=path) from None
    labelled = [item.utterance_id for item in adapt if item.speaker_id is not None]
    if labelled:
        raise InputError(
            f"{len(labelled)} utterances of the adapt split have a speaker_id, the first is {labelled[0]}; "
            "the pool that adaptation sees must have none",
            path=path,
        )
    trials = load_trials(root / "trials_eval.txt")
    trials.check_ids([item.utterance_id for item in evaluation], path=root / "trials_eval.txt")
    return manifest, trials
