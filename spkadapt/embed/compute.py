"""Utterances of a feature store to embeddings, by a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from spkadapt.embed.embedding_set import EmbeddingSet
from spkadapt.feature_store import FeatureStore
from spkadapt.model import SpeakerModel


@torch.inference_mode()
def compute_embeddings(
    model: SpeakerModel,
    store: FeatureStore,
    rows: Sequence[int],
    *,
    device: str = "cpu",
    batch_size: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> EmbeddingSet:
    """Embed utterances of a feature store.

    Utterances go through the network in batches of similar length. A backbone that padding would disturb
    gets batches of equal length, so that an embedding never depends on what else is embedded.

    Args:
        model: put into evaluation mode.
        store: the features, of the kind that the model reads.
        rows: which utterances of the store.
        device: where to compute.
        batch_size: utterances at once, at most.
        on_progress: called with the number of utterances done so far.
    """
    model.to(device).eval()
    lengths = store.lengths[torch.as_tensor(rows)]
    embeddings = np.empty((len(rows), model.embedding_dim), dtype=np.float32)
    done = 0
    for places in _batches_by_length(lengths, batch_size, mixed=bool(model.backbone.ignores_padding)):
        batch = [store.utterance(int(rows[place])) for place in places]
        features = pad_sequence(batch, batch_first=True).to(device)
        embeddings[places] = model(features, lengths[places].to(device)).float().cpu().numpy()
        done += len(places)
        if on_progress is not None:
            on_progress(done)
    return EmbeddingSet(tuple(store.utterance_ids[int(row)] for row in rows), embeddings)


def _batches_by_length(lengths: torch.Tensor, batch_size: int, *, mixed: bool) -> Iterator[list[int]]:
    """Places in order of length, at most `batch_size` together; of one length unless `mixed`."""
    batch: list[int] = []
    for place in torch.argsort(lengths, stable=True).tolist():
        if batch and (len(batch) == batch_size or (not mixed and lengths[place] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
