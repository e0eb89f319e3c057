"""Speed of batched fbank features on two threads, in seconds of speech per second of work (× real time).

Ours: `FeatureExtractor` on a padded batch. Peers, which take one utterance at a time: torchaudio's
`compliance.kaldi.fbank` (on torch's own two threads) and kaldi-native-fbank's `OnlineFbank` (two utterances at a
time). The bound: one real FFT, |·|² and the product with the mel filterbank, on frames that are already cut and
padded to the FFT's size, in chunks of 1,024 frames; no framing, mirroring, mean, pre-emphasis, window or
logarithm, and the result thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import kaldi_native_fbank
import numpy as np
import torch
import torchaudio
from harness import Row, compare, parse_arguments, publish

from spkadapt.features import INTEGER_SCALE, FeatureConfig, FeatureExtractor, frame_waveform, mel_filterbank

NUM_THREADS = 2
SECONDS = 6.0


def torchaudio_fbank(waveform: torch.Tensor, config: FeatureConfig) -> Callable[[], object]:
    scaled = waveform * INTEGER_SCALE

    def run() -> list[torch.Tensor]:
        return [
            torchaudio.compliance.kaldi.fbank(
                row[None],
                sample_frequency=config.sample_rate,
                num_mel_bins=config.num_mel_bins,
                low_freq=config.low_freq,
                high_freq=config.high_freq,
                snip_edges=config.snip_edges,
            )
            for row in scaled
        ]

    return run


def native_fbank(waveform: torch.Tensor, config: FeatureConfig) -> Callable[[], object]:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = config.snip_edges
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = config.low_freq
    options.mel_opts.high_freq = config.high_freq
    rows = list((waveform * INTEGER_SCALE).numpy())

    def compute(row: np.ndarray) -> np.ndarray:
        fbank = kaldi_native_fbank.OnlineFbank(options)
        fbank.accept_waveform(config.sample_rate, row)
        fbank.input_finished()
        return np.stack([fbank.get_frame(t) for t in range(fbank.num_frames_ready)])

    pool = ThreadPoolExecutor(NUM_THREADS)
    return lambda: list(pool.map(compute, rows))


def bare_fft_and_mel(waveform: torch.Tensor, lengths: torch.Tensor, config: FeatureConfig) -> Callable[[], object]:
    frames, _ = frame_waveform(waveform, lengths, config)
    padded = torch.nn.functional.pad(frames.flatten(0, 1), (0, config.fft_size - config.frame_samples))
    chunks = padded.split(1024)
    weights = mel_filterbank(config).float().repeat_interleave(2, dim=0)

    def run() -> None:
        for chunk in chunks:
            torch.view_as_real(torch.fft.rfft(chunk)).flatten(-2).square_() @ weights

    return run


def rows_at(sample_rate: int, high_freq: float, batch: int, repeats: int) -> list[Row]:
    config = FeatureConfig(sample_rate=sample_rate, high_freq=high_freq)
    waveform = torch.rand(batch, int(SECONDS * sample_rate)) - 0.5
    lengths = torch.full((batch,), waveform.shape[1])
    extractor = FeatureExtractor(config)
    peers = {
        "torchaudio": torchaudio_fbank(waveform, config),
        "kaldi-native-fbank": native_fbank(waveform, config),
    }
    features = extractor(waveform, lengths)[0]
    for peer, run in peers.items():
        difference = np.abs(np.stack(run()) - features.numpy()).max()
        print(f"{sample_rate} Hz: the largest difference from {peer} is {difference:.1e}")
    return [
        compare(
            f"fbank {sample_rate} Hz, {batch} × {SECONDS:g} s, against {peer}",
            batch * SECONDS,
            "× real time",
            ours=lambda: extractor(waveform, lengths),
            peer=run,
            bound=bare_fft_and_mel(waveform, lengths, config),
            repeats=repeats,
        )
        for peer, run in peers.items()
    ]


def main() -> None:
    arguments = parse_arguments(__doc__)
    torch.manual_seed(0)
    torch.set_num_threads(NUM_THREADS)
    repeats = 9 if arguments.quick else 21
    rows = rows_at(8000, 3700.0, 32, repeats) + rows_at(16000, 7600.0, 32, repeats)
    publish(f"Features on {NUM_THREADS} threads", rows, arguments.json)


if __name__ == "__main__":
    main()
