"""Kaldi's files: archives of embeddings, LDA matrices and PLDA models."""

from __future__ import annotations

from spkadapt.kaldi_io.archives import read_ark, write_ark
from spkadapt.kaldi_io.models import read_kaldi_matrix, read_kaldi_plda, write_kaldi_matrix, write_kaldi_plda
from spkadapt.kaldi_io.scripts import read_scp, write_scp

__all__ = [
    "read_ark",
    "read_kaldi_matrix",
    "read_kaldi_plda",
    "read_scp",
    "write_ark",
    "write_kaldi_matrix",
    "write_kaldi_plda",
    "write_scp",
]
