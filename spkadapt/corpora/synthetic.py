"""A small corpus that the package makes itself: *synthetic* voices, two domains, and the truth about both.

Studio: 16 kHz, wide band, nearly clean, speakers labelled. Telephone: other speakers, each call through a handset
of its own, with room noise, 300-3400 Hz and μ-law, saved at 8 kHz. The voices come from `spkadapt.simulate.voice`:
what holds on them shows that code works and that there is a shift to adapt to; it says nothing about real speech.

    manifest.csv      splits train (studio, labelled), adapt (telephone, no speakers), eval (telephone, labelled)
    trials_eval.txt   Kaldi's order; targets are one speaker's utterances from different calls
    wav/SPLIT/*.wav   16-bit PCM
    corpus.json       written last: that this is synthetic, the configuration, a checksum over all of the above
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal
from scipy.io import wavfile

from spkadapt.errors import InputError
from spkadapt.files import sha256, write_json
from spkadapt.manifest import Manifest, Utterance, load_manifest
from spkadapt.simulate.channel import Handset, Waveform, add_noise, mulaw, telephone_band
from spkadapt.simulate.voice import Voice, random_utterance, render
from spkadapt.trials import Trials, load_trials

_MODEL_VERSION = 1  # raised whenever the same configuration would give other sound
_SPLITS = ("train", "adapt", "eval")
_PEAK = 0.95  # louder peaks are scaled down to this


@dataclass(frozen=True)
class SyntheticConfig:
    """How much to make, and of what.

    Attributes:
        num_source_speakers: labelled studio speakers (split `train`).
        num_source_sessions: studio sessions a speaker.
        num_source_utterances: utterances a studio session.
        num_adapt_speakers: unlabelled telephone speakers (split `adapt`).
        num_adapt_sessions: calls a speaker.
        num_adapt_utterances: utterances a call.
        num_eval_speakers: telephone speakers for scoring (split `eval`).
        num_eval_sessions: calls a speaker; at least 2, since targets are across calls.
        num_eval_utterances: utterances a call.
        num_nontargets_per_target: non-target trials for each target trial, half of them of one gender, as far
            as there are so many.
        duration: mean duration of an utterance, seconds; single ones vary by 20 %.
        studio_sample_rate: Hz; voices are made at this rate.
        telephone_sample_rate: Hz.
        seed: the same seed gives the same corpus, bit for bit, with the same NumPy and SciPy on the same machine.
    """

    num_source_speakers: int = 60
    num_source_sessions: int = 2
    num_source_utterances: int = 5
    num_adapt_speakers: int = 40
    num_adapt_sessions: int = 2
    num_adapt_utterances: int = 4
    num_eval_speakers: int = 30
    num_eval_sessions: int = 3
    num_eval_utterances: int = 3
    num_nontargets_per_target: int = 10
    duration: float = 2.5
    studio_sample_rate: int = 16000
    telephone_sample_rate: int = 8000
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"num_eval_speakers": 2, "num_eval_sessions": 2, "seed": 0, "telephone_sample_rate": 7200}
        for field in fields(self):
            value, bound = getattr(self, field.name), least.get(field.name, 1)
            if field.name != "duration" and (type(value) is not int or value < bound):
                raise InputError(f"{field.name} is {value!r}; expected a whole number, at least {bound}")
        if not self.duration >= 0.5:
            raise InputError(f"duration is {self.duration!r}; expected at least 0.5 seconds")
        if self.studio_sample_rate < self.telephone_sample_rate:
            raise InputError(
                f"studio_sample_rate {self.studio_sample_rate} is below telephone_sample_rate "
                f"{self.telephone_sample_rate}; expected the wider band in the studio"
            )

    def count(self, split: str) -> tuple[int, int, int]:
        """Speakers, sessions a speaker, and utterances a session of one split."""
        name = "source" if split == "train" else split
        speakers, sessions, utterances = (
            getattr(self, f"num_{name}_{unit}") for unit in ("speakers", "sessions", "utterances")
        )
        return speakers, sessions, utterances

    def generator(self, *key: int) -> np.random.Generator:
        """The random stream of one part of the corpus: the same whatever else is drawn, and in which order."""
        return np.random.default_rng((self.seed, *key))


@dataclass(frozen=True)
class Session:
    """One sitting of one speaker: the voice as it was that day, and the way to the recorder.

    Attributes:
        voice: the speaker's voice, with the day's shift of F0, tilt and breath.
        level: RMS of the recording, dB re full scale.
        snr: room noise, dB below the speech.
        handset: what a call was spoken into; None in the studio.
    """

    voice: Voice
    level: float
    snr: float
    handset: Handset | None

    @classmethod
    def sample(cls, voice: Voice, domain: str, generator: np.random.Generator) -> Session:
        """A random session of a speaker in the `studio` or on the `telephone`."""
        voice = replace(
            voice,
            f0=float(voice.f0 * np.exp(generator.normal(0.0, 0.03))),
            tilt=max(0.5, voice.tilt + generator.normal(0.0, 1.0)),
            aspiration=voice.aspiration + generator.normal(0.0, 1.5),
        )
        if domain == "studio":
            return cls(voice, generator.uniform(-28.0, -22.0), generator.uniform(35.0, 50.0), None)
        return cls(voice, generator.uniform(-30.0, -18.0), generator.uniform(8.0, 25.0), Handset.sample(generator))

    def record(self, duration: float, config: SyntheticConfig, generator: np.random.Generator) -> Waveform:
        """One random utterance as the recorder hears it, (samples,), at the sample rate of its domain."""
        tracks = random_utterance(self.voice, duration, generator)
        waveform = render(self.voice, tracks, config.studio_sample_rate, generator)
        waveform = add_noise(waveform, self.snr, generator, exponent=1.0)
        if self.handset is None:
            return _set_level(waveform, self.level)
        waveform = self.handset.apply(waveform, config.studio_sample_rate)
        waveform = telephone_band(waveform, config.studio_sample_rate)
        common = math.gcd(config.telephone_sample_rate, config.studio_sample_rate)
        up, down = config.telephone_sample_rate // common, config.studio_sample_rate // common
        return mulaw(_set_level(signal.resample_poly(waveform, up, down), self.level))


def _set_level(waveform: Waveform, level: float) -> Waveform:
    scale = 10 ** (level / 20) / np.sqrt(np.mean(waveform**2))
    return (waveform * min(scale, _PEAK / np.max(np.abs(waveform)))).astype(np.float32)


def sample_voice(config: SyntheticConfig, split: str, speaker: int) -> Voice:
    """The voice of the `speaker`-th speaker of a split; even ones are men.

    This is the corpus's known truth: the same voice can be recorded in either domain through `Session`.
    """
    gender = "m" if speaker % 2 == 0 else "f"
    return Voice.sample(gender, config.generator(_SPLITS.index(split), speaker))


def prepare(root: str | Path, config: SyntheticConfig | None = None) -> tuple[Manifest, Trials]:
    """Make the synthetic corpus in the folder `root`, or find it there.

    A finished corpus of the same configuration, whose checksum still holds, is used as it is. One that was
    interrupted or damaged is made anew from its start (the default size takes half a minute).

    Args:
        root: a folder; made where it is missing.
        config: the default one if None.

    Returns:
        the manifest of all splits, to be told apart by `where({"split": "train"})`, and the trials of `eval`.

    Raises:
        InputError: `root` is a file, or holds a synthetic corpus of another configuration.
    """
    root, config = Path(root), config or SyntheticConfig()
    if root.exists() and not root.is_dir():
        raise InputError("is a file; expected a folder to put the synthetic corpus in", path=root)
    if not _is_finished(root, config):
        manifest = Manifest(
            tuple(utterance for split in _SPLITS for utterance in _make_split(root, split, config))
        )
        manifest.save_csv(root / "manifest.csv")
        _draw_trials(manifest.where({"split": "eval"}), config).save(root / "trials_eval.txt")
        write_json(root / "corpus.json", {**_identity(config), "checksum": _checksum(root, manifest)})
    return load_manifest(root / "manifest.csv"), load_trials(root / "trials_eval.txt")


def _identity(config: SyntheticConfig) -> dict[str, Any]:
    return {
        "synthetic": True,
        "description": "Synthetic speech made by spkadapt.corpora.synthetic; no human voice is in it.",
        "model_version": _MODEL_VERSION,
        "config": asdict(config),
    }


def _is_finished(root: Path, config: SyntheticConfig) -> bool:
    """Whether `root` holds this corpus, whole.

    Raises:
        InputError: it holds another one.
    """
    path = root / "corpus.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        made_from = {**found["config"], "model_version": found["model_version"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "is not the corpus.json of a synthetic corpus; expected another folder", path=path
        ) from None
    wanted = {**asdict(config), "model_version": _MODEL_VERSION}
    for name in wanted:
        if made_from.get(name) != wanted[name]:
            raise InputError(
                f"the corpus here has {name} {made_from.get(name)!r}, not the {wanted[name]!r} asked for; "
                "choose another folder, or delete this one",
                path=path,
            )
    try:
        return bool(_checksum(root, load_manifest(root / "manifest.csv")) == found.get("checksum"))
    except (InputError, FileNotFoundError):
        return False


def _checksum(root: Path, manifest: Manifest) -> str:
    """SHA-256 over the SHA-256 of every file, in the manifest's order."""
    paths = [root / "manifest.csv", root / "trials_eval.txt", *(utterance.path for utterance in manifest)]
    return hashlib.sha256("".join(sha256(path) for path in paths).encode()).hexdigest()


def _make_split(root: Path, split: str, config: SyntheticConfig) -> list[Utterance]:
    """Record all sessions of one split, on all cores, and describe them."""
    num_speakers, num_sessions, _ = config.count(split)
    sittings = [(speaker, session) for speaker in range(num_speakers) for session in range(num_sessions)]
    if split == "adapt":
        # In random order and named by number, so that neither tells which calls are of one speaker.
        order = config.generator(len(_SPLITS)).permutation(len(sittings))
        sittings = [sittings[index] for index in order]
    (root / "wav" / split).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda item: _make_session(root, split, config, *item), enumerate(sittings))
        return [utterance for utterances in made for utterance in utterances]


def _make_session(
    root: Path, split: str, config: SyntheticConfig, call: int, sitting: tuple[int, int]
) -> list[Utterance]:
    """Record and describe one session; of an unlabelled one the manifest gets neither speaker nor gender."""
    domain = "studio" if split == "train" else "telephone"
    sample_rate = config.studio_sample_rate if domain == "studio" else config.telephone_sample_rate
    voice = sample_voice(config, split, sitting[0])
    speaker_id = None if split == "adapt" else f"{split}-spk{sitting[0]:03d}"
    session_id = f"adapt-call{call:03d}" if speaker_id is None else f"{speaker_id}-s{sitting[1]}"
    session = Session.sample(voice, domain, config.generator(_SPLITS.index(split), *sitting))
    utterances = []
    for index in range(config.count(split)[2]):
        generator = config.generator(_SPLITS.index(split), *sitting, index)
        waveform = session.record(config.duration * generator.uniform(0.8, 1.2), config, generator)
        path = root / "wav" / split / f"{session_id}-u{index}.wav"
        wavfile.write(path, sample_rate, np.round(waveform * 32768).astype(np.int16))
        utterances.append(
            Utterance(
                utterance_id=path.stem,
                path=path,
                duration=len(waveform) / sample_rate,
                session_id=session_id,
                domain=domain,
                speaker_id=speaker_id,
                gender=None if speaker_id is None else voice.gender,
                split=split,
            )
        )
    return utterances


def _draw_trials(manifest: Manifest, config: SyntheticConfig) -> Trials:
    """All pairs of one speaker across sessions, and random pairs of two speakers, half of them of one gender."""
    items = manifest.utterances
    first, second = np.triu_indices(len(items), k=1)

    def differ(column: str) -> np.ndarray:
        values = np.array([getattr(item, column) for item in items])
        return values[first] != values[second]

    targets = np.flatnonzero(~differ("speaker_id") & differ("session_id"))
    generator = config.generator(len(_SPLITS) + 1)
    wanted = config.num_nontargets_per_target * len(targets) // 2
    same_gender = np.flatnonzero(differ("speaker_id") & ~differ("gender"))
    cross_gender = np.flatnonzero(differ("gender"))
    nontargets = [
        generator.choice(pool, min(wanted, len(pool)), replace=False) for pool in (same_gender, cross_gender)
    ]
    chosen = np.concatenate([targets, *map(np.sort, nontargets)])
    return Trials(
        enrol_ids=tuple(items[index].utterance_id for index in first[chosen]),
        test_ids=tuple(items[index].utterance_id for index in second[chosen]),
        is_target=np.arange(len(chosen)) < len(targets),
    )
