"""The multi-task objective: its terms, its weight, its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from spkadapt.adapt import SCHEDULES, AlignmentConfig, MultiTaskObjective
from spkadapt.align import coral_loss, mmd_loss
from spkadapt.backbone import DnnConfig
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig
from spkadapt.heads import SoftmaxHead
from spkadapt.model import ModelDescription, SpeakerModel

DIM = 6


def make_objective(config: AlignmentConfig) -> MultiTaskObjective:
    torch.manual_seed(3)
    shape = DnnConfig(hidden_dims=(8,), left_context=1, right_context=1, embedding_dim=DIM)
    model = SpeakerModel(ModelDescription(FeatureConfig(), None, 5, "dnn", shape))
    return MultiTaskObjective(model, SoftmaxHead(DIM, 4), config).double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    source = torch.randn(6, 9, 5, generator=draw, dtype=torch.float64)
    target_domain = torch.randn(4, 9, 5, generator=draw, dtype=torch.float64) + 1
    return source, torch.tensor([0, 1, 2, 3, 0, 1]), target_domain


def on_sphere(embeddings: torch.Tensor) -> torch.Tensor:
    return embeddings / embeddings.norm(dim=1, keepdim=True) * math.sqrt(DIM)


@pytest.mark.parametrize(("method", "loss"), [("coral", coral_loss), ("mmd", mmd_loss)])
def test_terms_are_what_their_names_say(batch, method, loss) -> None:
    source, speakers, target_domain = batch
    objective = make_objective(AlignmentConfig(method))
    embeddings = objective.model(torch.cat([source, target_domain]), torch.full((10,), 9))
    terms = objective(source, speakers, target_domain, 0.7)
    assert list(terms) == ["speaker", method, "total"]
    expected = loss(on_sphere(embeddings[:6]), on_sphere(embeddings[6:]))
    torch.testing.assert_close(terms[method].double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(terms["speaker"], objective.head(embeddings[:6], speakers))
    torch.testing.assert_close(terms["total"], terms["speaker"] + 0.7 * terms[method])


@pytest.mark.parametrize("method", ["coral", "mmd", "dann"])
def test_the_gradient_is_that_of_the_weighted_sum(batch, method) -> None:
    source, speakers, target_domain = batch
    objective = make_objective(AlignmentConfig(method))
    parameters = list(objective.model.parameters())

    def gradient(term: str, weight: float) -> list[torch.Tensor]:
        value = objective(source, speakers, target_domain, weight)[term]
        return torch.autograd.grad(value, parameters)

    parts = zip(gradient("speaker", 2.5), gradient(method, 2.5), gradient("total", 2.5), strict=True)
    for speaker, alignment, total in parts:
        torch.testing.assert_close(total, speaker + 2.5 * alignment, rtol=1e-9, atol=1e-12)


def test_longer_embeddings_do_not_change_the_alignment(batch) -> None:
    """The network cannot make the alignment loss small by shrinking what it puts out."""
    source, speakers, target_domain = batch
    objective = make_objective(AlignmentConfig("coral"))
    before = objective(source, speakers, target_domain, 1.0)["coral"]
    with torch.no_grad():
        objective.model.backbone.embedding.weight.mul_(0.01)
        objective.model.backbone.embedding.bias.mul_(0.01)
    after = objective(source, speakers, target_domain, 1.0)["coral"]
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-6)


def test_without_a_target_domain_batch_there_is_one_term(batch) -> None:
    source, speakers, _ = batch
    terms = make_objective(AlignmentConfig("mmd"))(source, speakers, None, 0.0)
    assert list(terms) == ["speaker", "total"]
    assert terms["total"] is terms["speaker"]


@pytest.mark.parametrize("config", [AlignmentConfig("none", 1.0), AlignmentConfig("dann", 0.0)])
def test_no_method_or_no_weight_builds_no_alignment(config) -> None:
    objective = make_objective(config)
    assert objective.alignment is None
    assert objective.weight(0.5) == 0.0
    assert not config.uses_target_domain


def test_an_alignment_with_weights_shifts_no_draw_of_the_others() -> None:
    with_adversary, without = make_objective(AlignmentConfig("dann")), make_objective(AlignmentConfig("none"))
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_adversary.state_dict()[name]), name


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_schedules(progress) -> None:
    assert SCHEDULES["constant"](progress) == 1.0
    assert SCHEDULES["linear"](progress) == progress
    assert SCHEDULES["sigmoid"](progress) == pytest.approx(2 / (1 + math.exp(-10 * progress)) - 1)
    objective = make_objective(AlignmentConfig("mmd", weight=3.0, schedule="linear"))
    assert objective.weight(progress) == pytest.approx(3.0 * progress)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "corl"}, 'unknown alignment "corl"; did you mean "coral"?'),
        ({"schedule": "konstant"}, 'unknown schedule "konstant"; did you mean "constant"?'),
        ({"weight": float("nan")}, "the weight λ is nan; expected a number ≥ 0"),
        ({"weight": float("inf")}, "the weight λ is inf"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(InputError) as refused:
        AlignmentConfig(**settings)
    assert message in str(refused.value)
