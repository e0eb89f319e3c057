"""Pseudo-speakers: recordings of the target domain clustered by embedding, and which of the labels to believe.

Works on NumPy embeddings, and sees no speaker label. A round of pseudo-labelling is: embed the pool, take its mean
off, cluster `recording_means`, train on the labels (`majority_labels` where samples were clustered), let the loss
gate say which to believe, and begin anew.
"""

from __future__ import annotations

from spkadapt.pseudo_labels.agglomerative import cluster_agglomerative
from spkadapt.pseudo_labels.embeddings import recording_means
from spkadapt.pseudo_labels.infomap import cluster_infomap, map_equation, mutual_neighbour_graph
from spkadapt.pseudo_labels.kmeans import cluster_kmeans
from spkadapt.pseudo_labels.selection import LossGate, correct_labels, fit_loss_gate, majority_labels

__all__ = [
    "LossGate",
    "cluster_agglomerative",
    "cluster_infomap",
    "cluster_kmeans",
    "correct_labels",
    "fit_loss_gate",
    "majority_labels",
    "map_equation",
    "mutual_neighbour_graph",
    "recording_means",
]
