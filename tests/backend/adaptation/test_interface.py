"""What all adaptations promise: ends, sweeps of one decomposition, soundness, and invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg

from spkadapt.backend.adaptation import (
    ADAPTATIONS,
    FEATURE_ADAPTATIONS,
    MODEL_ADAPTATIONS,
    Cip,
    Coral,
    Dicn,
    FeatureMaps,
    KaldiAdaptation,
    Lip,
    SameRecording,
    SourceStatistics,
    TargetStatistics,
)
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.errors import InputError

# The plain and regularised forms, and both ways to guess the target domain's model.
MODELS = [
    *(method() for method in MODEL_ADAPTATIONS.values()),
    *(kind(in_domain=SameRecording(), regularised=regularised) for kind in (Lip, Cip) for regularised in (0, 1)),
    Lip(regularised=True),
    Cip(regularised=True),
]
FEATURES = [*(method() for method in FEATURE_ADAPTATIONS.values()), Coral(ridge=0.0)]
EVERY_MODEL = pytest.mark.parametrize("method", MODELS, ids=repr)
EVERY_FEATURE = pytest.mark.parametrize("method", FEATURES, ids=repr)
FIELDS = ("mean", "between", "within")


def prepare(method: Any, domains: Any) -> Any:
    return method.prepare(domains.source if method in FEATURES else domains.model, domains.target_domain)


def assert_close(first: TwoCovariance, second: TwoCovariance, tolerance: float = 1e-9) -> None:
    for field in FIELDS:
        a, b = getattr(first, field), getattr(second, field)
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()), err_msg=field)


def assert_sound(model: TwoCovariance) -> None:
    for part in (model.between, model.within):
        assert np.isfinite(part).all()
        np.testing.assert_allclose(part, part.T, atol=1e-12 * np.abs(part).max())
        assert np.linalg.eigvalsh(part)[0] > -1e-9 * np.linalg.norm(part)
    assert np.isfinite(model.mean).all()


def test_registry() -> None:
    assert {**MODEL_ADAPTATIONS, **FEATURE_ADAPTATIONS} == ADAPTATIONS
    assert len(ADAPTATIONS) == len(MODEL_ADAPTATIONS) + len(FEATURE_ADAPTATIONS)


@EVERY_MODEL
def test_model_ends_and_what_lies_between(method: Any, domains: Any) -> None:
    prepared = prepare(method, domains)
    assert prepared.at(0) is domains.model
    assert type(method)(strength=0).adapt(domains.model, domains.target_domain) is domains.model
    full = method.full_model(domains.model, domains.target_domain)
    for field in FIELDS:
        start, end = getattr(domains.model, field), getattr(full, field)
        np.testing.assert_array_equal(getattr(prepared.at(1), field), end)
        np.testing.assert_allclose(getattr(prepared.at(0.25), field), 0.75 * start + 0.25 * end, rtol=1e-12)
        assert np.abs(end - start).max() > 1e-3


@EVERY_FEATURE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_feature_ends_and_what_lies_between(method: Any, dtype: type, domains: Any) -> None:
    prepared = prepare(method, domains)
    embeddings = domains.embeddings.astype(dtype)
    for maps in (prepared.at(0), type(method)(strength=0).adapt(domains.source, domains.target_domain)):
        assert maps.transform_source(embeddings) is embeddings
        assert maps.transform_target_domain(embeddings) is embeddings
    full, part = prepared.at(1), prepared.at(0.25)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for name in ("transform_source", "transform_target_domain"):
        end, between = getattr(full, name)(embeddings), getattr(part, name)(embeddings)
        assert end.dtype == between.dtype == dtype
        np.testing.assert_allclose(between, 0.75 * embeddings + 0.25 * end, rtol=tolerance, atol=tolerance)
    assert np.abs(full.transform_source(embeddings) - embeddings).max() > 1e-3


@pytest.mark.parametrize("method", [*MODELS, *FEATURES], ids=repr)
def test_a_sweep_decomposes_once(method: Any, domains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return function(*arguments, **options)

        return call

    names = ("eigh", "svd", "inv", "cholesky", "eigvalsh", "pinv", "solve")
    for module in (scipy.linalg, np.linalg):
        for name in (name for name in names if hasattr(module, name)):
            monkeypatch.setattr(module, name, counted(getattr(module, name)))
    prepared = prepare(method, domains)
    once = count
    assert once > 0
    for strength in np.linspace(0, 1, 21):
        prepared.at(strength)
    assert count == once


@EVERY_MODEL
@pytest.mark.parametrize("per_session", [2, 5])
@pytest.mark.parametrize(("dim", "num_embeddings"), [(4, 60), (12, 10), (30, 10)])
def test_models_are_sound_with_few_embeddings(
    method: Any, dim: int, num_embeddings: int, per_session: int, make_domains: Any
) -> None:
    for seed in range(3):
        prepared = prepare(method, make_domains(seed, dim, num_embeddings, per_session))
        for strength in (0.5, 1):
            assert_sound(prepared.at(strength))
        assert np.linalg.eigvalsh(prepared.at(0.5).within)[0] > 0


@EVERY_FEATURE
@pytest.mark.parametrize(("dim", "num_embeddings", "num_source"), [(12, 10, 80), (12, 10, 6), (4, 1, 1)])
def test_maps_are_finite_with_few_embeddings(
    method: Any, dim: int, num_embeddings: int, num_source: int, make_domains: Any
) -> None:
    domains = make_domains(0, dim, num_embeddings, 5, num_source)
    maps = prepare(method, domains).at(1)
    for mapped in (maps.transform_source(domains.embeddings), maps.transform_target_domain(domains.embeddings)):
        assert np.isfinite(mapped).all()
        assert np.abs(mapped).max() < 1e3


@pytest.mark.parametrize("method", [*MODELS, *FEATURES], ids=repr)
def test_constant_dimensions_and_duplicates(method: Any, domains: Any) -> None:
    embeddings = np.repeat(domains.embeddings, 2, axis=0)
    embeddings[:, 1] = 0.0
    embeddings[:, 2] = embeddings[:, 3]
    target_domain = TargetStatistics.from_embeddings(embeddings, np.repeat(domains.sessions, 2))
    if method in MODELS:
        assert_sound(method.prepare(domains.model, target_domain).at(1))
    else:
        maps = method.prepare(SourceStatistics.from_embeddings(embeddings), target_domain).at(1)
        assert np.isfinite(maps.transform_source(embeddings)).all()


@pytest.mark.parametrize("method", [m for m in MODELS if "ClusterRetraining" not in repr(m)], ids=repr)
def test_models_of_equal_domains_stay(method: Any, equal_domains: Any) -> None:
    """But for clusters, which are another guess at the classes than what the domains agree on."""
    assert_close(prepare(method, equal_domains).at(1), equal_domains.model)


@pytest.mark.parametrize("method", [m for m in FEATURES if not isinstance(m, Dicn)], ids=repr)
def test_maps_of_equal_domains_do_nothing(method: Any, equal_domains: Any) -> None:
    """But for DICN, which whitens whatever the domains."""
    maps = prepare(method, equal_domains).at(1)
    embeddings = np.random.default_rng(0).normal(size=(9, 4))
    np.testing.assert_allclose(maps.transform_source(embeddings), embeddings, atol=1e-9)
    np.testing.assert_allclose(maps.transform_target_domain(embeddings), embeddings, atol=1e-9)


@pytest.mark.parametrize("method", [*MODELS, *FEATURES], ids=repr)
def test_the_order_of_embeddings_and_the_names_of_sessions_do_not_matter(method: Any, domains: Any) -> None:
    order = np.random.default_rng(1).permutation(len(domains.embeddings))
    names = np.array([f"call-{(session * 7) % 12}" for session in domains.sessions[order]])
    shuffled = domains._replace(target_domain=TargetStatistics.from_embeddings(domains.embeddings[order], names))
    first, second = prepare(method, domains).at(1), prepare(method, shuffled).at(1)
    if method in MODELS:
        assert_close(first, second)
    else:
        probe = domains.embeddings
        np.testing.assert_allclose(first.transform_source(probe), second.transform_source(probe), atol=1e-9)


@pytest.mark.parametrize(
    "method",
    [KaldiAdaptation(), SameRecording(), Lip(in_domain=SameRecording(), regularised=True)],
    ids=repr,
)
def test_models_follow_linear_maps(method: Any, domains: Any) -> None:
    mixing, shift = np.random.default_rng(3).normal(size=(4, 4)), np.arange(4.0)

    def moved(model: TwoCovariance) -> TwoCovariance:
        between, within = (mixing @ part @ mixing.T for part in (model.between, model.within))
        return TwoCovariance(mixing @ model.mean + shift, between, within)

    target_domain = TargetStatistics.from_embeddings(domains.embeddings @ mixing.T + shift, domains.sessions)
    adapted = method.prepare(domains.model, domains.target_domain).at(0.7)
    assert_close(method.prepare(moved(domains.model), target_domain).at(0.7), moved(adapted))


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_out_of_range(strength: float, domains: Any) -> None:
    for method in (KaldiAdaptation(), Coral()):
        with pytest.raises(InputError, match=f"expected a strength from 0 to 1, found {strength}"):
            prepare(method, domains).at(strength)
    for method_type in ADAPTATIONS.values():
        message = f"{method_type.__name__}: strength is {strength}; expected a number from 0 to 1"
        with pytest.raises(InputError, match=message):
            method_type(strength=strength)


@pytest.mark.parametrize("method", [*MODELS, *FEATURES], ids=repr)
def test_other_dimensions(method: Any, domains: Any, make_domains: Any) -> None:
    mixed = domains._replace(target_domain=make_domains(0, dim=3).target_domain)
    message = "embeddings of one extractor, found 4 dimensions in the source and 3 in the target domain"
    with pytest.raises(InputError, match=message):
        prepare(method, mixed)


def test_no_maps_do_nothing() -> None:
    embeddings = np.array([[-0.0, 1.0]])
    assert FeatureMaps().transform_source(embeddings) is embeddings
