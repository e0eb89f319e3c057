"""How the learning rates were chosen: for the "supervised" arm, on utterances of the pool, never on the test.

    python recipes/pretraining_study/pilot.py [--corpus FOLDER] [--out FOLDER]

Trained on one utterance a speaker, measured on another of the pool's, which is the sixth and comes into no
training but that of the largest budget. The arms with pretraining take the rate that suits their rival best.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from grid import FULL
from rich.console import Console
from speech_frames import StudyFrames, load_speech_frames
from study import evaluate

from spkadapt.errors import DivergenceError
from spkadapt.pretrain import train_classifier
from spkadapt.progress import Progress

RATES = {"sigmoid": (0.1, 0.3, 1.0), "relu": (0.01, 0.02, 0.05)}
DEPTHS = (1, 3)


def try_rate(frames: StudyFrames, activation: str, depth: int, rate: float) -> str:
    """One row of the pilot's table."""
    config, start = replace(FULL.classifiers[activation], learning_rate=rate), time.process_time()
    dims = [FULL.hidden_dim] * depth
    labelled = frames.labelled(1, seed=0)
    try:
        classifier = train_classifier(
            "supervised", *labelled, frames.num_speakers, dims, activation, config, seed=100
        )
    except DivergenceError as error:
        return f"| {activation} | {depth} | {rate} | {error} | | |"
    found, seconds = evaluate(classifier, frames), time.process_time() - start
    right = np.mean(found["utterances_right"]) / found["utterances_of_each"]
    loss = classifier.history[-1].loss
    return f"| {activation} | {depth} | {rate} | {100 * right:.1f} | {loss:.3f} | {seconds:.1f} |"


def main() -> None:
    """Show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpora/speechocean762"))
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining_study"))
    arguments = parser.parse_args()
    progress = Progress(Console())
    whole = load_speech_frames(
        arguments.corpus, arguments.out / "cache", progress, frames_per_utterance=FULL.frames_per_utterance
    )
    frames = StudyFrames(whole.pool[:, :1], whole.pool[:, -1:], whole.context)
    progress.say("| activation | depth | rate | utterances right, % | loss of training | CPU seconds |")
    progress.say("|---|---|---|---|---|---|")
    for activation, rates in RATES.items():
        for depth in DEPTHS:
            for rate in rates:
                progress.say(try_rate(frames, activation, depth, rate))


if __name__ == "__main__":
    main()
