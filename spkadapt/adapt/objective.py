"""The multi-task objective: min l(D, θ) + Σ λ Ω(θ).

l is the speaker classification loss on labelled source-domain crops; each Ω is a term that looks at unlabelled
target-domain crops too, λ its weight with a schedule. Each term has a name and is reported by it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from spkadapt.adapt.config import AdaptConfig
from spkadapt.adapt.outputs import Encoded, StepOutputs, on_sphere, whole_lengths
from spkadapt.adapt.registry import build_term
from spkadapt.adapt.terms import Term, TermContext
from spkadapt.align import adapt_batch_norm, convert_batch_norm, extract_domain, gradient_conflict, use_domains
from spkadapt.align.batch_norm import check_domain
from spkadapt.batches import SourceBatch, TargetDomainBatch
from spkadapt.errors import InputError
from spkadapt.heads import SpeakerHead
from spkadapt.model import SpeakerModel

# Numbers of the domains, where batch normalisation keeps them apart.
SOURCE_DOMAIN, TARGET_DOMAIN = 0, 1


class MultiTaskObjective(nn.Module):
    """The speaker loss, and the weighted terms that join it.

    Args:
        model: maps features to embeddings.
        head: maps embeddings and speaker numbers to the speaker loss.
        config: which terms, and how the target domain takes part.
        num_recordings: recordings of the target domain's pool, for the terms that tell them apart.

    Raises:
        InputError: an unknown term, options that it does not have, or one that compares domains where the source
            is absent.
    """

    def __init__(
        self, model: SpeakerModel, head: SpeakerHead, config: AdaptConfig, num_recordings: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.config = config
        self.source_model = copy.deepcopy(model).requires_grad_(False) if config.source == "frozen" else None
        if config.source != "trained":
            head.requires_grad_(False)
        # Built last: terms with weights of their own must not shift the draws that model and head start from.
        context = TermContext(model, head.num_speakers, num_recordings, config.source != "absent")
        self.terms = nn.ModuleDict(
            {name: build_term(name, term, context) for name, term in config.active_terms.items()}
        )
        self._outputs: StepOutputs | None = None
        self._active: list[str] = []
        if config.batch_norm == "per_domain":
            if any(term.has_teacher for term in self._own_terms()):
                raise InputError("batch_norm is per_domain; a term that keeps a teacher needs shared statistics")
            convert_batch_norm(model)
            check_domain(model, TARGET_DOMAIN)

    def train(self, mode: bool = True) -> MultiTaskObjective:
        """Training mode, but for what is frozen."""
        super().train(mode)
        if self.source_model is not None:
            self.source_model.eval()
        return self

    def weights(self, progress: float) -> dict[str, float]:
        """λ of each term when a fraction `progress` of the training is done."""
        return {name: term.weight_at(progress) for name, term in self.config.active_terms.items()}

    def forward(
        self,
        source: SourceBatch | None,
        target_domain: TargetDomainBatch | None,
        weights: Mapping[str, float],
    ) -> dict[str, Tensor]:
        """The terms of the objective by name, each a scalar; `total` is what is minimised.

        Both domains go through the network in one batch, so that batch normalisation sees in training the
        mixture whose statistics it will use afterwards, unless it is to keep them apart. Where every λ is 0 there
        is no target-domain batch, and the step is the source-only step, bit for bit.

        Args:
            source: labelled crops; None where the source is absent.
            target_domain: unlabelled crops; None where every λ is zero.
            weights: λ of each term.
        """
        values: dict[str, Tensor] = {}
        self._outputs = None
        self._active = [name for name, weight in weights.items() if weight > 0]
        if target_domain is None:
            assert source is not None
            values["speaker"] = self.head(self._encode(source.features).embeddings, source.speakers)
            return {**values, "total": values["speaker"]}
        self._outputs = outputs = self._outputs_of(source, target_domain)
        if outputs.source is not None and self.config.source == "trained":
            values["speaker"] = self.head(outputs.source.embeddings, outputs.speakers)
        for name in self._active:
            values[name] = self.terms[name](outputs)
        total = sum(weights.get(name, 1.0) * value for name, value in values.items())
        return {**values, "total": torch.as_tensor(total)}

    def after_step(self) -> None:
        """Let the terms of this step follow the network, once the optimiser has moved it."""
        if self._outputs is not None:
            for name in self._active:
                term = self.terms[name]
                assert isinstance(term, Term)
                term.after_step(self.model, self._outputs)

    @property
    def remembers_source(self) -> bool:
        """Whether some term takes in the source domain before the first step."""
        return any(term.remembers_source for term in self._own_terms())

    @torch.no_grad()
    def remember_source(self, batches: Iterable[SourceBatch]) -> None:
        """Show the source domain, as the network sees it now, to the terms that ask for it."""
        self.model.eval()
        for batch in batches:
            embeddings = on_sphere(self._encode(batch.to(self._device).features).embeddings)
            for term in self._own_terms():
                term.remember_source(embeddings)
        self.model.train()

    @property
    def has_rounds(self) -> bool:
        """Whether some term looks at the whole pool from time to time."""
        return any(term.has_rounds for term in self._own_terms())

    @torch.no_grad()
    def start_round(self, pool: Iterable[TargetDomainBatch]) -> None:
        """Show the whole pool, as the network sees it now, to the terms that ask for it."""
        self.model.eval()
        seen = []
        for batch in pool:
            batch = batch.to(self._device)
            encoded = self._encode(batch.features, domains=TARGET_DOMAIN)
            seen.append((on_sphere(encoded.embeddings), batch.recordings))
        self.model.train()
        embeddings, recordings = (torch.cat(parts) for parts in zip(*seen, strict=True))
        for term in self._own_terms():
            term.start_round(embeddings, recordings)

    def conflicts(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Cosines between the gradients, in the network's weights, of each pair of terms (Yu et al. 2020).

        Below zero, a step that lowers one raises the other. The graph of the terms is kept.
        """
        terms = {name: value for name, value in values.items() if name != "total" and value.requires_grad}
        if len(terms) < 2:
            return {}
        found = gradient_conflict(terms, list(self.model.parameters()))
        return {f"conflict/{one}/{other}": cosine for (one, other), cosine in found.cosines.items()}

    def adapted_model(self, pool: Iterable[TargetDomainBatch]) -> SpeakerModel:
        """The network as it is to be used on the target domain, its batch normalisation as the recipe says."""
        if self.config.batch_norm == "adabn":
            features = [batch.to(self._device).features for batch in pool]
            adapt_batch_norm(self.model, [(batch, whole_lengths(batch)) for batch in features])
        if self.config.batch_norm == "per_domain":
            plain = extract_domain(self.model, TARGET_DOMAIN)
            assert isinstance(plain, SpeakerModel)
            return plain
        return self.model

    @property
    def _device(self) -> torch.device:
        return self.model.feature_mean.device

    def _own_terms(self) -> list[Term]:
        return [term for term in self.terms.values() if isinstance(term, Term)]

    def _outputs_of(self, source: SourceBatch | None, target_domain: TargetDomainBatch) -> StepOutputs:
        none = target_domain.recordings[:0]
        if source is None:
            of_source, of_target = None, self._encode(target_domain.features, domains=TARGET_DOMAIN)
        elif self.source_model is not None:
            with torch.no_grad():
                of_source = self._encode(source.features, self.source_model)
            of_target = self._encode(target_domain.features, domains=TARGET_DOMAIN)
        else:
            of_speakers = torch.full_like(source.speakers, SOURCE_DOMAIN)
            domains = torch.cat([of_speakers, torch.full_like(target_domain.recordings, TARGET_DOMAIN)])
            both = self._encode(torch.cat([source.features, target_domain.features]), domains=domains)
            of_source, of_target = both.split(len(source.features))
        return StepOutputs(
            source=of_source,
            speakers=none if source is None else source.speakers,
            source_domains=none if source is None else source.domains,
            source_features=target_domain.features[:0] if source is None else source.features,
            target_domain=of_target,
            features=target_domain.features,
            recordings=target_domain.recordings,
            head=self.head,
        )

    def _encode(
        self, features: Tensor, model: SpeakerModel | None = None, domains: int | Tensor = SOURCE_DOMAIN
    ) -> Encoded:
        model = model or self.model
        keep_apart = self.config.batch_norm == "per_domain" and model is self.model
        with use_domains(model, domains) if keep_apart else nullcontext():
            frames, kept = model.encode_frames(features, whole_lengths(features))
            return Encoded(frames, model.pool_frames(frames, kept))
