"""The multi-task objective: its terms, their weights, their gradients, and what each looks at."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from spkadapt.adapt import SCHEDULES, TERMS, AdaptConfig, MultiTaskObjective, TermConfig, parse_terms
from spkadapt.adapt.outputs import FRAMES_PER_CROP
from spkadapt.adapt.recording_terms import PrototypeTerm, PseudoSpeakerTerm
from spkadapt.adapt.terms import Term
from spkadapt.align import (
    SourceMomentsLoss,
    coral_loss,
    energy_distance_loss,
    entropy_loss,
    mmd_loss,
    within_covariance_loss,
)
from spkadapt.backbone import DnnConfig, TdnnConfig
from spkadapt.batches import SourceBatch, TargetDomainBatch
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig
from spkadapt.heads import AamHead, SoftmaxHead
from spkadapt.model import ModelDescription, SpeakerModel

DIM, NUM_SPEAKERS, NUM_RECORDINGS = 6, 4, 5
PAIR_TERMS = [name for name in TERMS if name in ("coral", "mmd", "cmd", "energy", "dann", "sliced_wasserstein")]
TARGET_TERMS = [
    "entropy", "class_confusion", "information", "contrastive", "prototypical", "calls", "mean_teacher", "simclr",
    "moco", "dino",
]  # fmt: skip


def make_model(backbone: str = "dnn") -> SpeakerModel:
    shape = {
        "dnn": DnnConfig(
            hidden_dims=(8,), left_context=1, right_context=1, embedding_dim=DIM, frame_subsampling=1
        ),
        "tdnn": TdnnConfig(channels=7, pooled_channels=9, embedding_dim=DIM),
    }[backbone]
    return SpeakerModel(ModelDescription(FeatureConfig(), None, 5, backbone, shape))


def make_objective(
    config: AdaptConfig | None = None, backbone: str = "dnn", **terms: TermConfig
) -> MultiTaskObjective:
    torch.manual_seed(3)
    head = SoftmaxHead(DIM, NUM_SPEAKERS)
    objective = MultiTaskObjective(make_model(backbone), head, config or AdaptConfig(terms), NUM_RECORDINGS)
    return objective.double()


def make_batches() -> tuple[SourceBatch, TargetDomainBatch]:
    draw = torch.Generator().manual_seed(1)
    source = torch.randn(6, 9, 5, generator=draw, dtype=torch.float64)
    target_domain = torch.randn(4, 9, 5, generator=draw, dtype=torch.float64) + 1
    return (
        SourceBatch(source, torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])),
        TargetDomainBatch(target_domain, torch.tensor([2, 2, 4, 4])),
    )


SOURCE, TARGET = make_batches()
SOURCE_PARTS = SOURCE.features, SOURCE.speakers, SOURCE.domains


def on_sphere(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True) * math.sqrt(rows.shape[1])


def embed(objective: MultiTaskObjective) -> tuple[torch.Tensor, torch.Tensor]:
    """Both domains through the network in one batch."""
    features = torch.cat([SOURCE.features, TARGET.features])
    return objective.model(features, torch.full((10,), 9)).split([6, 4])


# What a term is ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"), [("coral", coral_loss), ("mmd", mmd_loss), ("energy", energy_distance_loss)]
)
def test_terms_are_what_their_names_say(name: str, loss: Any) -> None:
    objective = make_objective(**{name: TermConfig(0.7)})
    source, target = embed(objective)
    terms = objective(SOURCE, TARGET, {name: 0.7})
    assert list(terms) == ["speaker", name, "total"]
    torch.testing.assert_close(terms[name].double(), loss(on_sphere(source), on_sphere(target)))
    torch.testing.assert_close(terms["speaker"], objective.head(source, SOURCE.speakers))
    torch.testing.assert_close(terms["total"], terms["speaker"] + 0.7 * terms[name])


def test_several_terms_add_up() -> None:
    objective = make_objective(coral=TermConfig(2.0), calls=TermConfig(0.5))
    terms = objective(SOURCE, TARGET, objective.weights(0.3))
    assert list(terms) == ["speaker", "coral", "calls", "total"]
    torch.testing.assert_close(terms["total"], terms["speaker"] + 2.0 * terms["coral"] + 0.5 * terms["calls"])


def test_terms_that_know_speakers_and_recordings() -> None:
    objective = make_objective(within_covariance=TermConfig())
    source, target = embed(objective)
    expected = within_covariance_loss(on_sphere(source), SOURCE.speakers, on_sphere(target), TARGET.recordings)
    torch.testing.assert_close(
        objective(SOURCE, TARGET, {"within_covariance": 1.0})["within_covariance"], expected
    )


def test_terms_that_know_predictions() -> None:
    objective = make_objective(entropy=TermConfig())
    _, target = embed(objective)
    expected = entropy_loss(objective.head.logits(target))
    torch.testing.assert_close(objective(SOURCE, TARGET, {"entropy": 1.0})["entropy"], expected)


def test_calls_join_the_speakers_in_one_classification() -> None:
    objective = make_objective(calls=TermConfig(options={"margin": 0.1, "scale": 8.0}))
    source, target = embed(objective)
    calls = objective.terms["calls"].head
    of_source = torch.cat([objective.head.logits(source), calls.logits(source)], dim=1)
    of_target = torch.cat([objective.head.logits(target), calls.training_logits(target, TARGET.recordings)], dim=1)
    expected = nn.functional.cross_entropy(of_source, SOURCE.speakers)
    expected = expected + nn.functional.cross_entropy(of_target, NUM_SPEAKERS + TARGET.recordings)
    torch.testing.assert_close(objective(SOURCE, TARGET, {"calls": 1.0})["total"], expected)


def test_calls_can_be_classified_by_themselves() -> None:
    objective = make_objective(calls=TermConfig(options={"margin": 0.1, "scale": 8.0, "joint": False}))
    _, target = embed(objective)
    head = AamHead(DIM, NUM_RECORDINGS, 0.1, 8.0).double()
    head.load_state_dict(objective.terms["calls"].head.state_dict())
    found = objective(SOURCE, TARGET, {"calls": 1.0})["calls"]
    torch.testing.assert_close(found, head(target, TARGET.recordings))


def test_frames_are_compared_where_the_recipe_says_so() -> None:
    def value(level: str) -> torch.Tensor:
        objective = make_objective(mmd=TermConfig(level=level))
        return objective(SOURCE, TARGET, {"mmd": 1.0})["mmd"]

    objective = make_objective()
    features = torch.cat([SOURCE.features, TARGET.features])
    frames, _ = objective.model.encode_frames(features, torch.full((10,), 9))
    assert frames.shape[1] <= FRAMES_PER_CROP  # so all of them are compared
    rows = [on_sphere(part.flatten(0, 1)) for part in frames.split([6, 4])]
    torch.testing.assert_close(value("frame"), mmd_loss(*rows))
    torch.testing.assert_close(value("both"), (value("frame") + value("embedding")) / 2)


def test_each_source_domain_can_be_aligned_by_itself() -> None:
    objective = make_objective(mmd=TermConfig(per_source_domain=True))
    source, target = (on_sphere(rows) for rows in embed(objective))
    expected = (mmd_loss(source[:3], target) + mmd_loss(source[3:], target)) / 2
    torch.testing.assert_close(objective(SOURCE, TARGET, {"mmd": 1.0})["mmd"], expected)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_every_term_gives_a_finite_gradient(name: str) -> None:
    objective = make_objective(**{name: TermConfig(options={"num_nearest": 1} if name == "prototypes" else {})})
    if objective.has_rounds:
        objective.start_round([TARGET, TargetDomainBatch(SOURCE.features, torch.tensor([0, 0, 1, 1, 3, 3]))])
    if objective.remembers_source:
        objective.remember_source([SOURCE])
    objective(SOURCE, TARGET, {name: 1.0})
    objective.after_step()  # which fills MoCo's queue and the prototypes
    other = TargetDomainBatch(TARGET.features.flip(1), torch.tensor([1, 1, 0, 0]))
    objective(SOURCE, other, {name: 1.0})
    objective.after_step()
    terms = objective(SOURCE, TARGET, {name: 1.0})
    assert terms[name].shape == ()
    gradients = torch.autograd.grad(terms[name], list(objective.model.parameters()), allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    assert reached
    assert all(gradient.isfinite().all() for gradient in reached)
    assert any(gradient.abs().max() > 0 for gradient in reached)
    objective.after_step()


@pytest.mark.parametrize("name", [*PAIR_TERMS, "calls"])
def test_the_gradient_is_that_of_the_weighted_sum(name: str) -> None:
    objective = make_objective(**{name: TermConfig(2.5)})
    parameters = list(objective.model.parameters())

    def gradient(term: str) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)  # sliced_wasserstein draws its directions
        value = objective(SOURCE, TARGET, {name: 2.5})[term]
        return torch.autograd.grad(value, parameters)

    for speaker, term, total in zip(gradient("speaker"), gradient(name), gradient("total"), strict=True):
        torch.testing.assert_close(total, speaker + 2.5 * term, rtol=1e-9, atol=1e-12)


def test_longer_embeddings_do_not_change_the_alignment() -> None:
    """The network cannot make the alignment loss small by shrinking what it puts out."""
    objective = make_objective(coral=TermConfig())
    before = objective(SOURCE, TARGET, {"coral": 1.0})["coral"]
    with torch.no_grad():
        objective.model.backbone.embedding.weight.mul_(0.01)
        objective.model.backbone.embedding.bias.mul_(0.01)
    torch.testing.assert_close(before, objective(SOURCE, TARGET, {"coral": 1.0})["coral"])


def test_without_a_target_domain_batch_there_is_one_term() -> None:
    terms = make_objective(mmd=TermConfig())(SOURCE, None, {"mmd": 0.0})
    assert list(terms) == ["speaker", "total"]
    assert terms["total"] is terms["speaker"]


def test_no_weight_builds_no_term() -> None:
    config = AdaptConfig({"dann": TermConfig(0.0)})
    objective = make_objective(config)
    assert len(objective.terms) == 0
    assert objective.weights(0.5) == {}
    assert not config.uses_target_domain


def test_terms_with_weights_shift_no_draw_of_the_others() -> None:
    with_adversary, without = make_objective(dann=TermConfig(), calls=TermConfig()), make_objective()
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_adversary.state_dict()[name]), name


# Teachers and rounds ------------------------------------------------------------------


def test_the_mean_teacher_sees_the_other_crop_and_follows() -> None:
    objective = make_objective(mean_teacher=TermConfig(options={"decay": 0.5}))
    term = objective.terms["mean_teacher"]
    with torch.no_grad():
        for parameter in term.teacher.model.parameters():
            parameter.add_(0.1)
    theirs = term.teacher(TARGET.features, torch.full((4,), 9))[[1, 0, 3, 2]]
    _, ours = embed(objective)
    found = objective(SOURCE, TARGET, {"mean_teacher": 1.0})["mean_teacher"]
    torch.testing.assert_close(found, 1 - nn.functional.cosine_similarity(ours, theirs).mean())
    ours, theirs = (model.backbone.embedding.weight for model in (objective.model, term.teacher.model))
    objective.after_step()  # the first of all means is the network itself
    torch.testing.assert_close(theirs, ours)
    with torch.no_grad():
        ours.add_(1.0)
    objective.after_step()
    torch.testing.assert_close(theirs, ours - 0.5)


@pytest.mark.parametrize("name", ["moco", "dino"])
def test_the_teachers_of_network_and_head_both_follow(name: str) -> None:
    objective = make_objective(**{name: TermConfig(options={"decay": 0.5})})
    term = objective.terms[name]
    pupils = objective.model.backbone.embedding.weight, next(term.head.parameters())
    teachers = term.teacher.model.backbone.embedding.weight, next(term.teacher_head.model.parameters())
    objective(SOURCE, TARGET, {name: 1.0})
    objective.after_step()  # the first of all means is the pupil itself
    with torch.no_grad():
        for pupil in pupils:
            pupil.add_(1.0)
    objective(SOURCE, TARGET, {name: 1.0})
    objective.after_step()
    for pupil, teacher in zip(pupils, teachers, strict=True):
        torch.testing.assert_close(teacher, pupil - 0.5)


def test_lmmd_does_not_move_the_classifier_that_it_asks() -> None:
    """The target domain's posteriors are weights there, and constants: only the network can lower the loss."""
    objective = make_objective(lmmd=TermConfig())
    value = objective(SOURCE, TARGET, {"lmmd": 1.0})["lmmd"]
    gradients = torch.autograd.grad(value, list(objective.head.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def round_of(term: Term, embeddings: torch.Tensor, recordings: torch.Tensor) -> None:
    with torch.no_grad():
        term.start_round(embeddings, recordings)


def five_speakers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings of twenty recordings, four of each speaker, and the recording and the speaker of each."""
    draw = torch.Generator().manual_seed(0)
    recordings = torch.arange(20).repeat_interleave(4)
    speakers = recordings % 5
    return 3 * torch.eye(5)[speakers] + 0.3 * torch.randn(80, 5, generator=draw), recordings, speakers


CLUSTERINGS = [{"clustering": "agglomerative"}, {"clustering": "kmeans", "share": 0.25}, {"clustering": "infomap"}]


@pytest.mark.parametrize("options", CLUSTERINGS)
def test_pseudo_speakers_are_found_and_the_classifier_starts_from_them(options: dict[str, Any]) -> None:
    embeddings, recordings, speakers = five_speakers()
    term = PseudoSpeakerTerm(5, 20, gated=False, **options)
    round_of(term, embeddings, recordings)
    found = term.labels[recordings]
    assert torch.equal(found[:, None] == found, speakers[:, None] == speakers)
    logits = term.head.logits(embeddings)
    assert logits.shape == (80, 5)  # classes that this round lacks are no rivals
    assert torch.equal(logits.argmax(dim=1), found)


def test_what_a_domain_has_in_common_makes_no_two_recordings_one_speaker() -> None:
    """Two speakers that differ along the domain's shift alone point one way until it is taken off."""
    recordings = torch.arange(12).repeat_interleave(2)
    speakers = recordings % 3
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    embeddings = centres[speakers] + 0.1 * torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    term = PseudoSpeakerTerm(2, 12, clustering="kmeans", share=0.25, gated=False)
    round_of(term, embeddings + torch.tensor([30.0, 0.0]), recordings)
    found = term.labels[recordings]
    assert torch.equal(found[:, None] == found, speakers[:, None] == speakers)


def test_the_gate_leaves_out_recordings_whose_labels_do_not_fit() -> None:
    """Two recordings of the first speaker come to sound like the second."""
    embeddings, recordings, speakers = five_speakers()
    term = PseudoSpeakerTerm(5, 20, clustering="kmeans", share=0.25)
    round_of(term, embeddings, recordings)
    assert term.is_reliable.all()
    moved = (recordings == 0) | (recordings == 5)
    embeddings[moved] = embeddings[speakers == 1][: int(moved.sum())]
    round_of(term, embeddings, recordings)
    assert term.is_reliable.tolist() == [number not in (0, 5) for number in range(20)]


def test_prototypes_do_not_part_recordings_that_are_near() -> None:
    embeddings, recordings, _ = five_speakers()
    term = PrototypeTerm(5, 20, num_nearest=3)
    round_of(term, embeddings, recordings)
    expected = torch.arange(20)[:, None] % 5 == torch.arange(20) % 5
    assert torch.equal(term.similar, expected & ~torch.eye(20, dtype=torch.bool))


def test_adda_moves_each_player_by_its_own_loss() -> None:
    objective = make_objective(AdaptConfig({"adda": TermConfig()}, source="frozen"))
    with torch.no_grad():
        objective.model.backbone.embedding.bias.add_(1.0)
    classifier = objective.terms["adda"].classifier
    value = objective(SOURCE, TARGET, {"adda": 1.0})["adda"]
    players = [list(classifier.parameters()), list(objective.model.parameters())]
    found = [torch.autograd.grad(value, player, retain_graph=True) for player in players]
    source = on_sphere(objective.source_model(SOURCE.features, torch.full((6,), 9)))
    target = on_sphere(objective.model(TARGET.features, torch.full((4,), 9)))
    softplus = nn.functional.softplus
    discriminator = (softplus(classifier(source)).mean() + softplus(-classifier(target.detach())).mean()) / 2
    mapper = softplus(classifier(target)).mean()
    for gradients, loss, player in zip(found, (discriminator, mapper), players, strict=True):
        expected = torch.autograd.grad(loss, player, retain_graph=True)
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_conflicts_are_cosines_between_gradients() -> None:
    objective = make_objective(mmd=TermConfig(), calls=TermConfig())
    terms = objective(SOURCE, TARGET, {"mmd": 1.0, "calls": 1.0})
    parameters = list(objective.model.parameters())

    def gradient(name: str) -> torch.Tensor:
        found = torch.autograd.grad(terms[name], parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    conflicts = objective.conflicts(terms)
    assert list(conflicts) == ["conflict/speaker/mmd", "conflict/speaker/calls", "conflict/mmd/calls"]
    expected = nn.functional.cosine_similarity(gradient("speaker"), gradient("calls"), dim=0)
    assert conflicts["conflict/speaker/calls"] == pytest.approx(float(expected))
    assert objective.conflicts(make_objective()(SOURCE, None, {})) == {}


# How the target domain takes part ------------------------------------------------------------------


def test_a_frozen_source_teaches_nothing_and_moves_nothing() -> None:
    objective = make_objective(AdaptConfig({"coral": TermConfig()}, source="frozen")).train()
    assert not objective.source_model.training
    before = copy.deepcopy(objective.source_model.state_dict())
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(1.1)
    terms = objective(SOURCE, TARGET, {"coral": 1.0})
    assert list(terms) == ["coral", "total"]
    source = objective.source_model(SOURCE.features, torch.full((6,), 9))
    target = objective.model(TARGET.features, torch.full((4,), 9))
    torch.testing.assert_close(terms["coral"], coral_loss(on_sphere(source), on_sphere(target)))
    assert all(torch.equal(value, before[name]) for name, value in objective.source_model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in objective.head.parameters())


def test_without_a_source_terms_of_the_target_domain_are_all() -> None:
    objective = make_objective(AdaptConfig({"information": TermConfig(2.0)}, source="absent"))
    terms = objective(None, TARGET, {"information": 2.0})
    assert list(terms) == ["information", "total"]
    torch.testing.assert_close(terms["total"], 2 * terms["information"])
    assert not any(parameter.requires_grad for parameter in objective.head.parameters())


def test_the_source_is_remembered_as_the_initial_network_sees_it() -> None:
    config = AdaptConfig({"source_moments": TermConfig()}, source="absent")
    objective = make_objective(config, "tdnn").train()
    initial = copy.deepcopy(objective.model).eval()
    objective.remember_source(
        [SourceBatch(*(part[rows] for part in SOURCE_PARTS)) for rows in ([0, 1, 2], [3, 4, 5])]
    )
    assert objective.model.training
    assert all(torch.equal(*pair) for pair in zip(objective.model.buffers(), initial.buffers(), strict=True))
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(1.1)
    objective.eval()
    expected = SourceMomentsLoss(DIM)
    expected.add(on_sphere(initial(SOURCE.features, torch.full((6,), 9))))
    target = on_sphere(objective.model(TARGET.features, torch.full((4,), 9)))
    terms = objective(None, TARGET, {"source_moments": 1.0})
    assert list(terms) == ["source_moments", "total"]
    torch.testing.assert_close(terms["total"], expected(target))


def test_features_are_reconstructed_from_embeddings_on_average_over_time() -> None:
    objective = make_objective()
    objective.model.feature_mean.fill_(0.5)
    objective.model.feature_std.fill_(2.0)
    terms = MultiTaskObjective(
        objective.model, objective.head, AdaptConfig({"reconstruction": TermConfig()}), NUM_RECORDINGS
    ).double()
    decoder = terms.terms["reconstruction"].loss.decoder
    losses = []
    for embeddings, features in zip(embed(terms), (SOURCE.features, TARGET.features), strict=True):
        scaled = (features - 0.5) / 2
        means = scaled.mean(dim=1)
        deviations = (scaled - means[:, None]).square().mean(dim=1).sqrt()
        errors = decoder(on_sphere(embeddings)) - torch.cat([means, deviations], dim=1)
        losses.append(errors.square().mean())
    found = terms(SOURCE, TARGET, {"reconstruction": 1.0})["reconstruction"]
    torch.testing.assert_close(found, (losses[0] + losses[1]) / 2)


def test_domains_may_have_batch_normalisations_of_their_own() -> None:
    objective = make_objective(AdaptConfig({"calls": TermConfig()}, batch_norm="per_domain"), "tdnn").train()
    objective(SOURCE, TARGET, {"calls": 1.0})
    plain, lengths = objective.adapted_model([TARGET]), torch.full((4,), 9)
    alone = make_objective(backbone="tdnn").train()
    alone.model(TARGET.features, lengths)  # a batch of the target domain moves the same statistics
    assert plain.state_dict().keys() == alone.model.state_dict().keys()
    torch.testing.assert_close(
        plain.eval()(TARGET.features, lengths), alone.model.eval()(TARGET.features, lengths)
    )


def test_rounds_see_the_pool_by_its_own_batch_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AdaptConfig({"prototypes": TermConfig()}, batch_norm="per_domain")
    objective = make_objective(settings, "tdnn").train()
    for _ in range(3):
        objective(SOURCE, TARGET, {"prototypes": 1.0})
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(objective.terms["prototypes"], "start_round", lambda rows, recordings: seen.append(rows))
    objective.start_round([TARGET])
    plain = objective.adapted_model([TARGET]).eval()
    torch.testing.assert_close(seen[0], on_sphere(plain(TARGET.features, torch.full((4,), 9))))


def test_adabn_takes_the_statistics_of_the_pool() -> None:
    objective = make_objective(AdaptConfig(batch_norm="adabn"), "tdnn")
    features = TARGET.features.clone()
    layer = objective.adapted_model([TARGET]).backbone.norms[0]
    first = torch.relu(objective.model.backbone.convolutions[0](features.transpose(1, 2)))
    torch.testing.assert_close(layer.running_mean, first.mean(dim=(0, 2)))
    torch.testing.assert_close(layer.running_var, first.var(dim=(0, 2), correction=1))


# Settings ------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_schedules(progress: float) -> None:
    assert SCHEDULES["constant"](progress) == 1.0
    assert SCHEDULES["linear"](progress) == progress
    assert SCHEDULES["decay"](progress) == 1 - progress
    assert SCHEDULES["sigmoid"](progress) == pytest.approx(2 / (1 + math.exp(-10 * progress)) - 1)
    expected = 0 if progress <= 0.25 else 1 if progress >= 0.75 else math.sin(math.pi * (progress - 0.25)) ** 2
    assert SCHEDULES["cosine"](progress) == pytest.approx(expected)
    objective = make_objective(mmd=TermConfig(3.0, "linear"))
    assert objective.weights(progress) == {"mmd": pytest.approx(3.0 * progress)}


def test_terms_of_a_command_line() -> None:
    assert parse_terms(["coral=50", "dann=1.5:sigmoid"]) == {
        "coral": TermConfig(50.0),
        "dann": TermConfig(1.5, "sigmoid"),
    }
    for text in ("coral", "coral=", "coral=x", "coral:2"):
        with pytest.raises(InputError, match=f'found the term "{text}"; expected NAME=WEIGHT'):
            parse_terms([text])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "konstant"}, 'unknown schedule "konstant"; did you mean "constant"?'),
        ({"level": "frames"}, 'unknown level "frames"; did you mean "frame"?'),
        ({"weight": float("nan")}, "the weight λ is nan; expected a number ≥ 0"),
        ({"weight": float("inf")}, "the weight λ is inf"),
    ],
)
def test_bad_terms(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        TermConfig(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": {"corl": TermConfig()}}, 'there is no term "corl"; did you mean "coral"?'),
        (
            {"terms": {"mmd": TermConfig(options={"unbised": True})}},
            'mmd: there is no option "unbised"; did you mean "unbiased"?',
        ),
        ({"terms": {"mmd": TermConfig(options={"bandwidths": [-1.0]})}}, "mmd: MMD bandwidths are [-1.0]"),
        (
            {"terms": {"calls": TermConfig(level="frame")}},
            "calls: level is frame, and this term compares embeddings",
        ),
        ({"terms": {"calls": TermConfig(per_source_domain=True)}}, "calls: per_source_domain is set"),
        (
            {"terms": {"coral": TermConfig()}, "source": "absent"},
            "coral: compares the target domain with the source",
        ),
        ({"source": "frozen"}, "source is frozen and no term has a weight above 0"),
        ({"source": "gone"}, 'unknown source "gone"; choose from: trained, frozen, absent'),
        ({"batch_norm": "own"}, 'unknown batch_norm "own"'),
        (
            {"batch_norm": "per_domain"},
            "per_domain and no term has a weight above 0: the target domain would not be",
        ),
        ({"rounds": 0}, "rounds is 0; expected at least 1"),
        ({"terms": {"mean_teacher": TermConfig()}, "batch_norm": "per_domain"}, "a term that keeps a teacher"),
        (
            {"terms": {"mean_teacher": TermConfig(options={"compares": "logits"})}},
            'unknown choice of what it compares "logits"',
        ),
        (
            {"terms": {"pseudo_speakers": TermConfig(options={"clustering": "means"})}},
            'pseudo_speakers: unknown clustering "means"; did you mean "kmeans"?',
        ),
        ({"terms": {"pseudo_speakers": TermConfig(options={"share": 0.0})}}, "share is 0.0; expected above 0"),
        ({"terms": {"prototypes": TermConfig(options={"num_nearest": 9})}}, "num_nearest is 9 of 5 recordings"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        make_objective(AdaptConfig(**settings), "tdnn")
    assert message in str(refused.value)
