"""The command line. Every command is one call of the API; its options are that call's arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spkadapt import __version__, pipeline
from spkadapt.adapt import AdaptConfig, parse_terms
from spkadapt.errors import InputError
from spkadapt.pipeline import DEFAULT_CACHE
from spkadapt.progress import Progress
from spkadapt.train import TrainConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Speaker recognition in a recording domain that has no speaker labels.",
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the recipe.")]
Out = Annotated[Path, typer.Option(help="Where runs are kept.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Cache = Annotated[Path, typer.Option(help="Where features are kept.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad recordings out and list them.")]

PTargets = Annotated[list[float], typer.Option("--p-target", help="Operating point of minDCF.")]
BackendFile = Annotated[Path | None, typer.Option(help="What adapt-backend wrote; cosine if not given.")]
Domains = Annotated[Path | None, typer.Option(help="Recording domain of each utterance: table or manifest.")]


def _progress() -> Progress:
    console = Console()
    # A log file has no width; rich would fold the tables at 80 columns.
    return Progress(console if console.is_terminal else Console(width=120))


@app.command()
def run(recipes: list[Path], overrides: Set = [], out: Out = Path("runs")) -> None:
    """Run recipes, or go on with runs that were interrupted; compare them with the first.

    Example: spkadapt run recipes/phone/source_only.yaml recipes/phone/mmd.yaml --set corpus.root=../shared/corpora
    """
    pipeline.run_recipes(recipes, overrides, out, _progress())


@app.command()
def check(recipes: list[Path], overrides: Set = []) -> None:
    """Check recipes and the files they name, and run nothing.

    Example: spkadapt check recipes/phone/mmd.yaml --set corpus.root=../shared/corpora
    """
    for recipe in recipes:
        pipeline.check_recipe(recipe, overrides, _progress())


@app.command()
def prepare(
    corpus: str,
    root: Path,
    out: Annotated[
        Path | None, typer.Option(help="Where to write manifest and trials; ROOT if not given.")
    ] = None,
) -> None:
    """Write a corpus' manifest.csv and trials_eval.txt; make the corpus first if it is `synthetic`.

    Example: spkadapt prepare synthetic runs/corpora/synthetic
    """
    pipeline.prepare_corpus(corpus, root, out, _progress())


@app.command()
def adapt(
    model: Path,
    unlabelled: Annotated[Path, typer.Option(help="Manifest of target-domain recordings; speakers are not read.")],
    out: Annotated[Path, typer.Option(help="The adapted model.")],
    source: Annotated[
        Path | None, typer.Option(help="Labelled source manifest; the model's own if not given.")
    ] = None,
    term: Annotated[
        list[str], typer.Option(help="What joins the speaker loss, and λ: coral=50, dann=1:sigmoid. Repeatable.")
    ] = ["calls=1"],
    num_steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Pull a trained model towards a recording domain of which only recordings are known.

    Example: spkadapt adapt model.safetensors --unlabelled calls.csv --term calls=1 --out adapted.safetensors
    """
    adaptation = AdaptConfig(terms=parse_terms(term))
    training = TrainConfig(num_steps=num_steps, batch_size=batch_size, learning_rate=learning_rate, device=device)
    pipeline.adapt_model(
        model, unlabelled, out, _progress(),
        source=source, adaptation=adaptation, training=training, seed=seed, skip_bad=skip_bad,
        cache=cache,
    )  # fmt: skip


@app.command()
def embed(
    model: Path,
    manifest: Path,
    out: Annotated[Path, typer.Option(help="The npz file to write.")],
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Embed every utterance of a manifest.

    Example: spkadapt embed adapted.safetensors data/eval --out eval.npz
    """
    pipeline.embed_manifest(model, manifest, out, _progress(), device=device, skip_bad=skip_bad, cache=cache)


@app.command()
def adapt_backend(
    source: Path,
    target_domain: Path,
    labels: Annotated[Path, typer.Option(help="Speaker of each source utterance: utt2spk, or a manifest.")],
    out: Annotated[Path, typer.Option(help="The backend file to write.")],
    sessions: Annotated[
        Path | None, typer.Option(help="Call of each target utterance: table or manifest.")
    ] = None,
    domains: Annotated[
        Path | None, typer.Option(help="Recording domain of each target utterance: table or manifest.")
    ] = None,
    method: Annotated[str, typer.Option(help="auto, none, same_recording_wccn, or a PLDA adaptation.")] = "auto",
    strength: Annotated[float | None, typer.Option(help="From 0 to 1; chosen if not given.")] = None,
    seed: int = 0,
) -> None:
    """Make a backend for embeddings of a domain without speaker labels, chosen without labels.

    Example: spkadapt adapt-backend source.npz --labels utt2spk calls.npz --sessions utt2call --out adapted.backend
    """
    pipeline.adapt_backend(
        source, target_domain, labels, out, _progress(),
        sessions=sessions, domains=domains, method=method, strength=strength, seed=seed,
    )  # fmt: skip


@app.command()
def score(
    embeddings: Path,
    trials: Path,
    out: Annotated[Path, typer.Option(help="The score file to write: text, .npz or .parquet.")],
    backend: BackendFile = None,
    centre: Annotated[Path | None, typer.Option(help="Unlabelled embeddings; their mean is subtracted.")] = None,
    domains: Annotated[
        Path | None, typer.Option(help="Recording domain of each utterance, for the backend.")
    ] = None,
    enrolment: Annotated[Path | None, typer.Option(help="Utterances of each model: spk2utt, or NIST's.")] = None,
    device: Device = "cpu",
) -> None:
    """Score trials by cosine or with a backend.

    Example: spkadapt score eval.npz trials.txt --backend adapted.backend --out scores.txt
    """
    pipeline.score_file(
        embeddings, trials, out, _progress(),
        backend=backend, centre=centre, domains=domains, enrolment=enrolment, device=device,
    )  # fmt: skip


@app.command()
def measure(
    enrol: Path,
    test: Path,
    speakers: Annotated[Path, typer.Option(help="Speaker of each utterance: utt2spk, or a manifest.")],
    backend: BackendFile = None,
    domains: Annotated[
        Path | None, typer.Option(help="Recording domain of each utterance, for the backend.")
    ] = None,
    p_targets: Annotated[list[float], typer.Option("--p-target", help="Operating point of minDCF.")] = [
        0.01,
        0.05,
    ],
    device: Device = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
) -> None:
    """Measure every pair of two sets of embeddings, exactly, without keeping a score.

    Example: spkadapt measure enrol.npz test.npz --speakers utt2spk --backend adapted.backend
    """
    result = pipeline.measure_all_pairs(
        enrol, test, speakers, Progress(Console(stderr=True)),
        backend=backend, domains=domains, p_targets=p_targets, device=device, json_file=json_file,
    )  # fmt: skip
    _print_result(result)


@app.command()
def evaluate(
    scores: Path,
    trials: Path,
    p_targets: Annotated[list[float], typer.Option("--p-target", help="Operating point of minDCF.")] = [
        0.01,
        0.05,
    ],
    evaluation: Annotated[str | None, typer.Option(help="Also its primary cost, such as sre16 or voxsrc.")] = None,
    llr: Annotated[bool, typer.Option("--llr", help="Scores are calibrated: also actDCF and Cllr.")] = False,
    manifest: Annotated[Path | None, typer.Option(help="Names the speakers: gives intervals by speaker.")] = None,
    by: Annotated[list[str], typer.Option(help="Also by condition: domain, gender or language.")] = [],
    against: Annotated[Path | None, typer.Option(help="Scores of another system, to test the difference.")] = None,
    num_bootstrap: int = 1000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
) -> None:
    """Measure scores: EER, ROCCH-EER, minDCF, minCllr, AUC, and more where asked.

    Example: spkadapt evaluate scores.txt trials.txt --manifest eval.csv --by domain --json result.json
    """
    result = pipeline.evaluate_file(
        scores, trials, p_targets=p_targets, evaluation=evaluation, llr=llr, manifest=manifest, by=by,
        against=against, num_bootstrap=num_bootstrap, json_file=json_file,
    )  # fmt: skip
    _print_result(result)


@app.command()
def calibrate(
    scores: list[Path],
    out: Annotated[Path, typer.Option(help="The file of log-likelihood ratios to write.")],
    trials: Annotated[Path | None, typer.Option(help="Labelled trials to learn from.")] = None,
    training_scores: Annotated[list[Path], typer.Option(help="The systems' scores of these, one file each.")] = [],
    p_target: Annotated[float, typer.Option(help="The prior to be best at.")] = 0.5,
) -> None:
    """Turn scores into log-likelihood ratios; several systems' scores are fused.

    Example: spkadapt calibrate scores.txt --trials dev.txt --training-scores dev_scores.txt --out llrs.txt
    """
    pipeline.calibrate_files(
        scores, out, _progress(), trials=trials, training_scores=training_scores, p_target=p_target
    )


@app.command()
def report(
    runs: list[Path],
    out: Annotated[Path | None, typer.Option(help="Folder for report.html and results.json.")] = None,
) -> None:
    """Write report.html and results.json of runs that have ended, compared with the first.

    Example: spkadapt report runs/phone/source_only runs/phone/mmd --out runs/phone
    """
    pipeline.report_runs(runs, out, _progress())


@app.command()
def select(
    runs: list[Path],
    baseline: Annotated[
        Path | None, typer.Option(help="The run that was not adapted; the first if not given.")
    ] = None,
    validator: Annotated[
        str | None, typer.Option(help="Rank by this validator instead of by the rule, or show `all`.")
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            help="Embeddings of the pool by another extractor: which calls are of one speaker is as it says."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
) -> None:
    """Choose among runs that have ended, or none of them, without labels of the target domain.

    Example: spkadapt select runs/phone/source_only runs/phone/mmd --validator all --json choice.json
    """
    pipeline.select_runs(
        runs, _progress(), baseline=baseline, validator=validator, judge=judge, json_file=json_file
    )


def _print_result(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False))  # noqa: T201


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)  # noqa: T201
        raise typer.Exit


def main() -> None:
    """Run the command line; bad input is one message on standard error and exit code 2.

    So is a file or folder that the system will not let us read or write.
    """
    try:
        app()
    except (InputError, OSError) as error:
        print(f"spkadapt: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
