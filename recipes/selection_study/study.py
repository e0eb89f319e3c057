"""How well a model is chosen without labels: regret of validators and of the rule, over shifts of known truth.

    python recipes/selection_study/study.py synthetic|telephone|wuw2 [--out FOLDER] [--shared FOLDER]
    python recipes/selection_study/study.py tables [--out FOLDER]

Killed, it goes on where it stood. What has ended is in PART.jsonl, one line a shift and seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from candidates import CANDIDATES, SOURCE_ONLY
from domains import SHIFTS, Truth, draw_synthetic

from spkadapt.embed import EmbeddingSet
from spkadapt.manifest import load_manifest
from spkadapt.select import VALIDATORS, Model, SelectionData, choose_model
from spkadapt.trials import load_trials

SYNTHETIC_SEEDS = range(4)  # the rule was made on seeds from 1000
TELEPHONE_SPLITS = range(5)
EXTRACTORS = ("campplus", "resemblyzer")


def run_case(data: SelectionData, truth: Truth, shown: tuple[str, ...]) -> dict[str, Any]:
    """Fit every candidate, ask the validators, choose, and only then measure the truth."""
    maps = {name: fit(data) for name, fit in CANDIDATES.items()}
    models = [
        Model(name, (replace(data, source=of_source(data.source), pool=of_target(data.pool)),))
        for name, (of_source, of_target) in maps.items()
    ]
    choice = choose_model(models, baseline=SOURCE_ONLY, shown=shown)
    eers = {name: truth.measure(of_target(truth.embeddings)) for name, (_, of_target) in maps.items()}
    return {
        "eers": eers,
        "chosen": choice.chosen,
        "best": choice.best,
        "values": {one.validator: one.values for one in choice.judgements},
        "ranks": {one.validator: one.ranks for one in choice.judgements},
        "gate": None if choice.gate is None else asdict(choice.gate),
    }


def synthetic_cases() -> Iterator[tuple[str, int, SelectionData, Truth]]:
    """Every shift of `SHIFTS`, and seed."""
    for seed in SYNTHETIC_SEEDS:
        for shift in SHIFTS:
            yield shift.name, seed, *draw_synthetic(shift, seed)


def telephone_cases(path: Path) -> Iterator[tuple[str, int, SelectionData, Truth]]:
    """Every line of `telephone.py`, and split of its callers: half make the pool, of whom half call but once."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    calls = arrays.pop("calls")
    source, source_speakers, speakers = (arrays.pop(name) for name in ("source", "source_speakers", "speakers"))
    names = np.unique(speakers)
    for split in TELEPHONE_SPLITS:
        order = np.random.default_rng(split).permutation(names)
        pooled = np.isin(speakers, order[: len(names) // 2])
        once = np.isin(speakers, order[: len(names) // 4])
        in_pool = pooled & ~(once & (calls % 2 == 1))
        for line, embeddings in arrays.items():
            data = SelectionData(source, source_speakers, embeddings[in_pool], calls[in_pool])
            yield line, split, data, Truth.across_calls(embeddings[~pooled], speakers[~pooled], calls[~pooled])


def wuw2_cases(shared: Path) -> Iterator[tuple[str, int, SelectionData, Truth]]:
    """wuw2 as two extractors embed it; its evaluation trials are read here and nowhere else in this study."""
    corpora = shared / "corpora"
    source = load_manifest(corpora / "speechocean762/manifest.csv")
    corpus = load_manifest(corpora / "wuw2/manifest.csv")
    pool, trials = corpus.where({"split": "adapt"}).unlabelled(), load_trials(corpora / "wuw2/trials_eval.txt")
    for extractor in EXTRACTORS:
        sets = [
            EmbeddingSet.load(corpora / "embeddings" / f"{name}_{extractor}.npz")
            for name in ("speechocean762", "wuw2")
        ]
        both = EmbeddingSet(
            sets[0].utterance_ids + sets[1].utterance_ids, np.concatenate([one.embeddings for one in sets])
        )
        yield extractor, 0, SelectionData.from_parts(both, source, pool), Truth.of_trials(sets[1], trials)


def main() -> None:
    """Run one part, or make tables and the picture of all that has been run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["synthetic", "telephone", "wuw2", "tables"])
    parser.add_argument("--out", type=Path, default=Path("runs/selection_study"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    arguments = parser.parse_args()
    out = arguments.out
    if arguments.part == "tables":
        from tables import write_tables

        write_tables(out)
        return
    cases = {
        "synthetic": synthetic_cases,
        "telephone": lambda: telephone_cases(out / "telephone.npz"),
        "wuw2": lambda: wuw2_cases(arguments.shared),
    }[arguments.part]()
    path = out / f"{arguments.part}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = (
        {(one["shift"], one["seed"]) for one in map(json.loads, path.read_text().splitlines())}
        if path.is_file()
        else set()
    )
    for shift, seed, data, truth in cases:
        if (shift, seed) in done:
            continue
        # On wuw2 only the rule is asked, so that its trials can say nothing of other validators.
        shown = () if arguments.part == "wuw2" else tuple(VALIDATORS)
        start = time.process_time()
        record = {"part": arguments.part, "shift": shift, "seed": seed, **run_case(data, truth, shown)}
        record["seconds"] = round(time.process_time() - start, 2)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
