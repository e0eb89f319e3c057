"""Same-recording within-class adaptation: what varies within a call is not the speaker."""

from __future__ import annotations

from dataclasses import dataclass

from spkadapt.backend.adaptation.interface import ModelAdaptation
from spkadapt.backend.adaptation.regularise import covariance_excess, shrink
from spkadapt.backend.adaptation.statistics import TargetStatistics
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SameRecording(ModelAdaptation):
    """Take the sessions of the target domain for classes.

        within  = covariance about the mean of the session, unbiased and shrunk towards the source's within
        between = excess of the total covariance, shrunk towards the source's total, over within

    The excess is total − within, with nothing in the directions in which that is negative. A session hides the
    channel and the mood of the day in `between`, so the full strength may overrate it. Follows invertible linear
    maps of all embeddings.

    Attributes:
        shrinkage: of both covariances, from 0 to 1; None for the oracle approximating shrinkage, which for the
            total takes each session for one sample.

    Raises:
        InputError: a shrinkage out of its range.
    """

    shrinkage: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.shrinkage is None or 0 <= self.shrinkage <= 1
        self.require("shrinkage", valid, "a number from 0 to 1, or None")

    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1.

        Raises:
            InputError: no session of two or more embeddings.
        """
        num_sessions = target_domain.num_sessions
        if target_domain.within_session is None:
            raise InputError(f"expected sessions of two or more embeddings, found {num_sessions} of one each")
        freedom = target_domain.num_embeddings - num_sessions
        within = shrink(target_domain.within_session, source.within, freedom, self.shrinkage)
        total = shrink(target_domain.total, source.total, num_sessions - 1, self.shrinkage)
        return TwoCovariance(target_domain.mean, covariance_excess(total, within), within)
