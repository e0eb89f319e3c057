"""Centring and length normalisation against loops in float64, and the published gains on real calls."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction, length_normalise
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.metrics import compute_error_counts

RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.normal(size=(30, 4)) + 5
DOMAINS = [("landline", "cell", "speaker")[i % 3] for i in range(30)]


def test_global_mean() -> None:
    centring = MeanSubtraction().fit(EMBEDDINGS)
    np.testing.assert_allclose(centring.means_, [EMBEDDINGS.sum(axis=0) / 30], rtol=1e-14)
    assert centring.domains_ is None
    np.testing.assert_allclose(centring.transform(EMBEDDINGS[:7]), EMBEDDINGS[:7] - EMBEDDINGS.mean(axis=0))


def test_domain_means_match_a_loop_whatever_the_order() -> None:
    centring = MeanSubtraction().fit(EMBEDDINGS, DOMAINS)
    assert centring.domains_ == ("cell", "landline", "speaker")
    asked = ["speaker", "landline", "speaker"]
    expected = [
        x - np.mean([e for e, other in zip(EMBEDDINGS, DOMAINS, strict=True) if other == domain], axis=0)
        for x, domain in zip(EMBEDDINGS, asked, strict=False)
    ]
    np.testing.assert_allclose(centring.transform(EMBEDDINGS[:3], asked), expected, atol=1e-14)


def test_means_are_taken_in_float64() -> None:
    """In float32 a sum of this many ones beside a large value would stand still."""
    embeddings = np.ones((1000, 1), dtype=np.float32)
    embeddings[0] = 2.0**25
    centring = MeanSubtraction()
    assert centring.fit(embeddings).means_[0, 0] == (2.0**25 + 999) / 1000
    assert centring.fit(embeddings, ["a"] * 1000).means_[0, 0] == (2.0**25 + 999) / 1000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_type_and_input_are_kept(dtype: type) -> None:
    embeddings = EMBEDDINGS.astype(dtype)
    before = embeddings.copy()
    assert MeanSubtraction().fit(embeddings).transform(embeddings).dtype == dtype
    assert length_normalise(embeddings).dtype == dtype
    np.testing.assert_array_equal(embeddings, before)


def test_length_normalise_matches_a_loop_at_any_scale() -> None:
    # 1e30 squared is beyond float32: lengths taken in float32 would be infinite or zero.
    for scale in (1e-30, 1.0, 1e30):
        embeddings = (EMBEDDINGS * scale).astype(np.float32)
        expected = [[float(v) / sum(float(u) ** 2 for u in row) ** 0.5 for v in row] for row in embeddings]
        np.testing.assert_allclose(length_normalise(embeddings), expected, rtol=1e-6)
    for scale in (1e-300, 1e300):
        np.testing.assert_allclose(length_normalise(EMBEDDINGS * scale), length_normalise(EMBEDDINGS), rtol=1e-14)


def test_length_normalisation_as_a_step() -> None:
    embeddings = EMBEDDINGS.astype(np.float32)
    for length, expected in (("one", 1.0), ("sqrt-dim", 2.0)):
        scaled = LengthNormalisation(length).fit(embeddings).transform(embeddings)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, expected * length_normalise(embeddings), rtol=1e-6)


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    fit, centring = MeanSubtraction().fit, MeanSubtraction().fit(EMBEDDINGS)
    by_domain = MeanSubtraction().fit(EMBEDDINGS, DOMAINS)
    assert "at least one embedding" in refusal(fit, EMBEDDINGS[:0])
    assert "float64 of shape (4,)" in refusal(fit, EMBEDDINGS[0])
    assert "29 domains for 30 embeddings" in refusal(fit, EMBEDDINGS, DOMAINS[1:])
    assert "call fit first" in refusal(MeanSubtraction().transform, EMBEDDINGS)
    assert "4 dimensions as in fit, found 3" in refusal(centring.transform, EMBEDDINGS[:, :3])
    assert "fitted without domains, so transform with them" in refusal(centring.transform, EMBEDDINGS, DOMAINS)
    assert "fitted with domains, so transform without them" in refusal(by_domain.transform, EMBEDDINGS)
    unseen = refusal(by_domain.transform, EMBEDDINGS[:1], ["landlines"])
    assert unseen == 'no mean for domain "landlines": did you mean "landline"?'
    assert "2 domains for 1 embeddings" in refusal(by_domain.transform, EMBEDDINGS[:1], ["cell", "cell"])
    zeros = np.vstack([EMBEDDINGS, np.zeros((2, 4))])
    assert "2 of 32 embeddings to unit length: row 30 holds only zeros" in refusal(length_normalise, zeros)
    assert "hold NaN or infinity, first row 1" in refusal(length_normalise, np.array([[1.0], [np.nan]]))
    assert "hold NaN or infinity, first row 0" in refusal(length_normalise, np.array([[np.inf]]))
    assert "hold NaN or infinity, first row 3" in refusal(fit, np.insert(EMBEDDINGS, 3, np.nan, axis=0))
    assert "int64 of shape (1, 1)" in refusal(length_normalise, np.ones((1, 1), dtype=int))
    unknown = refusal(LengthNormalisation("sqrt_dim").transform, EMBEDDINGS)
    assert unknown == 'no length "sqrt_dim": did you mean "sqrt-dim"?'


@pytest.mark.parametrize(
    ("model", "published"), [("campplus", [12.09, 10.88, 10.15]), ("resemblyzer", [21.05, 18.15, 17.45])]
)
def test_published_gains_of_centring_on_real_calls(shared: Path, model: str, published: list[float]) -> None:
    """EER (%) of plain cosine, minus the adapt pool's mean, minus the mean of the call's phone type.

    These figures were published as the mean of P_miss and P_fa at the operating point where the two are nearest.
    """
    embeddings = EmbeddingSet.load(shared / f"corpora/embeddings/wuw2_{model}.npz")
    with open(shared / "corpora/wuw2/manifest.csv") as file:
        rows = {row["utterance_id"]: row for row in csv.DictReader(file)}
    domains = [rows[name]["domain"] for name in embeddings.utterance_ids]
    adapt = np.array([rows[name]["split"] == "adapt" for name in embeddings.utterance_ids])
    trials = [line.split() for line in (shared / "corpora/wuw2/trials_eval.txt").read_text().splitlines()]
    enrol, test = (embeddings.rows([trial[side] for trial in trials]) for side in (0, 1))
    is_target = np.array([trial[2] == "target" for trial in trials])

    pool = embeddings.embeddings[adapt]
    by_domain = MeanSubtraction().fit(pool, [domain for domain, kept in zip(domains, adapt, strict=True) if kept])
    candidates = (
        embeddings.embeddings,
        MeanSubtraction().fit(pool).transform(embeddings.embeddings),
        by_domain.transform(embeddings.embeddings, domains),
    )
    eers = []
    for x in candidates:
        unit = length_normalise(x)
        counts = compute_error_counts(np.einsum("nd,nd->n", unit[enrol], unit[test]), is_target)
        nearest = np.abs(counts.p_miss - counts.p_false_alarm).argmin()
        eers.append(50 * (counts.p_miss + counts.p_false_alarm)[nearest])
    np.testing.assert_allclose(eers, published, atol=0.0051)
