"""Utterances to embeddings: the set of them that every later stage reads."""

from __future__ import annotations

from spkadapt.embed.compute import compute_embeddings
from spkadapt.embed.embedding_set import EmbeddingSet

__all__ = ["EmbeddingSet", "compute_embeddings"]
