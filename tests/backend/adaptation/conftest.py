"""A source model, and unlabelled embeddings of a target domain that differ from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from spkadapt.backend.adaptation import SourceStatistics, TargetStatistics
from spkadapt.backend.covariance import ClassStatistics, TwoCovariance


class Domains(NamedTuple):
    """What the methods are tried on."""

    model: TwoCovariance
    source: SourceStatistics
    embeddings: np.ndarray
    sessions: np.ndarray
    target_domain: TargetStatistics


def random_covariance(generator: np.random.Generator, dim: int, rank: int | None = None) -> np.ndarray:
    factor = generator.normal(size=(dim, dim if rank is None else rank))
    return factor @ factor.T / dim


def make_domains(
    seed: int, dim: int = 4, num_embeddings: int = 60, per_session: int = 5, num_source: int = 80
) -> Domains:
    generator = np.random.default_rng(seed)
    model = TwoCovariance(
        generator.normal(size=dim),
        random_covariance(generator, dim),
        random_covariance(generator, dim) + 0.1 * np.eye(dim),
    )
    sessions = np.arange(num_embeddings) // per_session
    shared = generator.normal(size=(num_embeddings, dim))[sessions] @ generator.normal(size=(dim, dim))
    embeddings = shared + generator.normal(size=(num_embeddings, dim)) * generator.uniform(0.2, 2, dim) + 1
    source = generator.normal(size=(num_source, dim)) @ generator.normal(size=(dim, dim)) - 1
    subsets = generator.integers(3, size=num_source)
    return Domains(
        model,
        SourceStatistics.from_embeddings(source, subsets),
        embeddings,
        sessions,
        TargetStatistics.from_embeddings(embeddings, sessions),
    )


@pytest.fixture(scope="session", name="make_domains")
def _make_domains() -> Callable[..., Domains]:
    return make_domains


@pytest.fixture(scope="session")
def domains() -> Domains:
    return make_domains(0)


@pytest.fixture(scope="session")
def equal_domains() -> Domains:
    """A target domain whose statistics are exactly the source's: mean, total, and within as within sessions."""
    model = make_domains(1).model
    generator = np.random.default_rng(2)
    counts = np.full(12, 5)
    scatter = model.within * 48
    between = model.total - scatter / 60
    means = generator.normal(size=(12, 4))
    means -= means.mean(axis=0)
    means = means @ np.linalg.inv(np.linalg.cholesky(means.T @ means / 12)).T @ np.linalg.cholesky(between).T
    statistics = ClassStatistics(counts, means + model.mean, scatter)
    whole = SourceStatistics(ClassStatistics(np.array([60]), model.mean[None], model.total * 60))
    return Domains(model, whole, np.empty((0, 4)), np.empty(0), TargetStatistics(statistics))
