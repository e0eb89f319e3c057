"""Adaptations of a model against brute-force twins from the papers' equations, and known shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg

from spkadapt.backend.adaptation import (
    Cip,
    ClusterRetraining,
    CoralPlus,
    KaldiAdaptation,
    Lip,
    SameRecording,
    TargetStatistics,
)
from spkadapt.backend.adaptation.regularise import shrink
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.errors import InputError


def gamma_max(covariance: np.ndarray, base: np.ndarray) -> np.ndarray:
    """base + B⁻ᵀ · max(0, Λ − I) · B⁻¹, in the order of the paper: whiten base, then rotate (Lee et al., 2019)."""
    values, q = np.linalg.eigh(base)
    whiten = q / np.sqrt(values)
    eigenvalues, p = np.linalg.eigh(whiten.T @ covariance @ whiten)
    back = np.linalg.inv(whiten @ p)
    return base + back.T @ np.diag(np.maximum(0, eigenvalues - 1)) @ back


def coral_matrix(source: np.ndarray, target_domain: np.ndarray) -> np.ndarray:
    return scipy.linalg.sqrtm(target_domain) @ np.linalg.inv(scipy.linalg.sqrtm(source))


def with_total(mean: np.ndarray, total: np.ndarray, num_embeddings: int = 40) -> TargetStatistics:
    """Embeddings that have exactly this mean and total covariance."""
    x = np.random.default_rng(5).normal(size=(num_embeddings, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(scipy.linalg.sqrtm(x.T @ x / num_embeddings)) @ scipy.linalg.sqrtm(total)
    return TargetStatistics.from_embeddings(x.real + mean)


def test_kaldi_is_its_recipe(domains: Any) -> None:
    """In Kaldi's own steps: total to the identity, observed variance to a diagonal, then each entry of it."""
    source, x = domains.model, domains.embeddings
    method = KaldiAdaptation(mean_diff_scale=0.5, within_covar_scale=0.3, between_covar_scale=0.6)
    adapted = method.adapt(source, domains.target_domain)
    difference = x.mean(axis=0) - source.mean
    variance = np.cov(x.T, bias=True) + 0.5 * np.outer(difference, difference)
    psi, vectors = scipy.linalg.eigh(source.between, source.within)
    to_unit_total = vectors.T / np.sqrt(1 + psi)[:, None]
    s, p = np.linalg.eigh(to_unit_total @ variance @ to_unit_total.T)
    combined = p.T @ to_unit_total
    back = np.linalg.inv(combined)
    excess = np.diag([max(value - 1, 0) for value in s])
    within = p.T @ np.diag(1 / (1 + psi)) @ p + 0.3 * excess
    between = p.T @ np.diag(psi / (1 + psi)) @ p + 0.6 * excess
    np.testing.assert_allclose(adapted.within, back @ within @ back.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(adapted.between, back @ between @ back.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(adapted.mean, domains.target_domain.mean)
    assert 0 < np.count_nonzero(s > 1) < len(s) or np.all(s > 1)


def test_kaldi_recovers_added_within_variance(domains: Any) -> None:
    source = domains.model
    added = np.outer([1.0, 2.0, 0.0, -1.0], [1.0, 2.0, 0.0, -1.0])
    method = KaldiAdaptation(within_covar_scale=1.0, between_covar_scale=0.0)
    adapted = method.adapt(source, with_total(source.mean, source.total + added))
    np.testing.assert_allclose(adapted.within, source.within + added, atol=1e-8)
    np.testing.assert_allclose(adapted.between, source.between, atol=1e-8)


def test_coral_plus_is_its_paper(domains: Any) -> None:
    source = domains.model
    adapted = CoralPlus(within_scale=0.3, between_scale=0.6).adapt(source, domains.target_domain)
    matrix = coral_matrix(source.total, domains.target_domain.total)
    for field, scale in (("within", 0.3), ("between", 0.6)):
        before = getattr(source, field)
        after = before + scale * (gamma_max(matrix @ before @ matrix.T, before) - before)
        np.testing.assert_allclose(getattr(adapted, field), after, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(adapted.mean, domains.target_domain.mean)


@pytest.mark.parametrize("growth", [4.0, 0.25])
def test_coral_plus_recovers_growth_and_refuses_to_shrink(growth: float, domains: Any) -> None:
    source = domains.model
    full = CoralPlus(within_scale=1.0, between_scale=1.0)
    adapted = full.adapt(source, with_total(source.mean, growth * source.total))
    for field in ("within", "between"):
        expected = max(growth, 1) * getattr(source, field)
        np.testing.assert_allclose(getattr(adapted, field), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("regularised", [False, True])
@pytest.mark.parametrize("kind", [Lip, Cip])
@pytest.mark.parametrize("in_domain", [SameRecording(), ClusterRetraining()], ids=["sessions", "clusters"])
def test_interpolations_are_their_papers(kind: type, regularised: bool, in_domain: Any, domains: Any) -> None:
    source, inside = domains.model, in_domain.full_model(domains.model, domains.target_domain)
    matrix = coral_matrix(source.total, domains.target_domain.total) if kind is Cip else np.eye(4)
    adapted = kind(in_domain=in_domain, weight=0.3, regularised=regularised).adapt(source, domains.target_domain)
    for field in ("between", "within"):
        phi = getattr(inside, field)
        out = matrix @ getattr(source, field) @ matrix.T
        other = gamma_max(out, phi + 1e-13 * np.eye(4)) if regularised else out
        np.testing.assert_allclose(getattr(adapted, field), 0.3 * phi + 0.7 * other, rtol=1e-6, atol=1e-6)


def test_same_recording_is_its_definition(domains: Any) -> None:
    x, sessions = domains.embeddings, domains.sessions
    adapted = SameRecording(shrinkage=0.0).adapt(domains.model, domains.target_domain)
    residuals = np.array([v - x[sessions == s].mean(axis=0) for v, s in zip(x, sessions, strict=True)])
    within = residuals.T @ residuals / (60 - 12)
    np.testing.assert_allclose(adapted.within, within, rtol=1e-10)
    between = gamma_max(np.cov(x.T, bias=True), within) - within
    np.testing.assert_allclose(adapted.between, between, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(adapted.mean, domains.target_domain.mean)


def test_same_recording_shrinks_each_covariance_by_what_it_was_taken_over(domains: Any) -> None:
    """Within: 60 embeddings less 12 session means; total: 12 sessions less the mean."""
    source, statistics = domains.model, domains.target_domain
    adapted = SameRecording().adapt(source, statistics)
    within = shrink(statistics.within_session, source.within, 48)
    total = shrink(statistics.total, source.total, 11)
    np.testing.assert_allclose(adapted.within, within, rtol=1e-10)
    np.testing.assert_allclose(adapted.between, gamma_max(total, within) - within, rtol=1e-7, atol=1e-8)


def test_same_recording_recovers_the_model_of_the_target_domain() -> None:
    """One session a speaker, and a source whose covariances have other shapes."""
    generator = np.random.default_rng(0)
    truth = TwoCovariance(np.arange(3.0), np.diag([3.0, 1.0, 0.5]), np.diag([0.5, 1.0, 2.0]))
    speakers = np.repeat(np.arange(4000), 4)
    y = truth.mean + generator.normal(size=(4000, 3)) * np.sqrt(np.diag(truth.between))
    x = y[speakers] + generator.normal(size=(16000, 3)) * np.sqrt(np.diag(truth.within))
    source = TwoCovariance(np.zeros(3), np.eye(3), np.diag([2.0, 1.0, 0.5]))
    adapted = SameRecording().adapt(source, TargetStatistics.from_embeddings(x, speakers))
    np.testing.assert_allclose(adapted.mean, truth.mean, atol=0.1)
    np.testing.assert_allclose(adapted.within, truth.within, atol=0.05)
    np.testing.assert_allclose(adapted.between, truth.between, atol=0.2)


def test_few_sessions_are_shrunk_towards_the_source(make_domains: Any) -> None:
    """Two embeddings tell less than the source: with so few, its shape prevails; with many, theirs."""
    few = make_domains(0, num_embeddings=4, per_session=2)
    within = SameRecording().full_model(few.model, few.target_domain).within
    ratios = scipy.linalg.eigvalsh(within, few.model.within)  # the residuals of two sessions have rank 2 of 4
    assert ratios[-1] < 2.5 * ratios[0]
    many = make_domains(0, num_embeddings=5000)
    within = SameRecording().full_model(many.model, many.target_domain).within
    np.testing.assert_allclose(within, many.target_domain.within_session, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", [SameRecording(), Lip(in_domain=SameRecording())], ids=repr)
def test_sessions_of_one_embedding(method: Any, domains: Any) -> None:
    lone = TargetStatistics.from_embeddings(domains.embeddings)
    with pytest.raises(InputError, match="expected sessions of two or more embeddings, found 60 of one each"):
        method.prepare(domains.model, lone)
    weak = type(method)(strength=0)
    assert weak.adapt(domains.model, lone) is domains.model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KaldiAdaptation(mean_diff_scale=-1), "KaldiAdaptation: mean_diff_scale is -1; .* at least 0"),
        (
            lambda: KaldiAdaptation(within_covar_scale=-1),
            "within_covar_scale is -1; expected a number of at least 0",
        ),
        (lambda: KaldiAdaptation(between_covar_scale=-1), "between_covar_scale is -1; expected a number"),
        (lambda: CoralPlus(within_scale=-1), "CoralPlus: within_scale is -1; expected a number of at least 0"),
        (lambda: CoralPlus(between_scale=-1), "between_scale is -1; expected a number of at least 0"),
        (lambda: Lip(weight=1.5), "Lip: weight is 1.5; expected a number from 0 to 1"),
        (lambda: Cip(weight=-1), "Cip: weight is -1; expected a number from 0 to 1"),
        (
            lambda: SameRecording(shrinkage=2),
            "SameRecording: shrinkage is 2; expected a number from 0 to 1, or None",
        ),
        (
            lambda: ClusterRetraining(num_iterations=-1),
            "num_iterations is -1; expected a whole number of at least 0",
        ),
        (lambda: ClusterRetraining(floor=0), "ClusterRetraining: floor is 0; expected a number between 0 and 1"),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
