"""What pulls two domains together, and what else unlabelled recordings can teach: losses on embeddings.

Losses between domains take `source (num_source, dim)` and `target_domain (num_target, dim)`, of unequal sizes if
need be, and give a scalar; those that know classes, predictions, recordings or two views take these besides. They
are torch only and know nothing of audio or speakers. Half precision is computed in float32. Most come twice, as a
function and as a module of the same arguments.
"""

from __future__ import annotations

from spkadapt.align.adversarial import (
    DomainAdversarialLoss,
    DomainClassifier,
    domain_cross_entropy,
    reverse_gradient,
)
from spkadapt.align.batch_norm import (
    DomainBatchNorm,
    adapt_batch_norm,
    convert_batch_norm,
    extract_domain,
    use_domains,
)
from spkadapt.align.class_covariance import (
    BetweenCovarianceLoss,
    WithinCovarianceLoss,
    between_covariance_loss,
    within_covariance_loss,
)
from spkadapt.align.conditional import JointMmdLoss, LmmdLoss, joint_mmd_loss, lmmd_loss
from spkadapt.align.conditional_adversarial import ConditionalDomainAdversarialLoss, certainty
from spkadapt.align.confusion import (
    EntropyLoss,
    InformationMaximisationLoss,
    MinimumClassConfusionLoss,
    entropy_loss,
    information_maximisation_loss,
    minimum_class_confusion_loss,
)
from spkadapt.align.coral import CoralLoss, LogCoralLoss, coral_loss, log_coral_loss
from spkadapt.align.critic import WassersteinCriticLoss, between, lengths
from spkadapt.align.energy import EnergyDistanceLoss, energy_distance_loss
from spkadapt.align.gradient_conflict import GradientConflict, gradient_conflict
from spkadapt.align.mmd import (
    LinearMmdLoss,
    MmdLoss,
    PolynomialMmdLoss,
    linear_mmd_loss,
    mmd_loss,
    polynomial_mmd_loss,
)
from spkadapt.align.moments import CmdLoss, HommLoss, MeanLoss, cmd_loss, homm_loss, mean_loss
from spkadapt.align.random_features import RandomFeatureMmdLoss, draw_frequencies, random_feature_mmd_loss
from spkadapt.align.reconstruction import (
    DomainSeparationLoss,
    ReconstructionLoss,
    difference_loss,
    scale_invariant_mse,
)
from spkadapt.align.recordings import (
    AngularPrototypicalLoss,
    RecordingPrototypes,
    SameRecordingContrastiveLoss,
    angular_prototypical_loss,
    nearest_recordings,
    same_recording_contrastive_loss,
)
from spkadapt.align.self_supervised import (
    DinoHead,
    DinoLoss,
    MomentumContrastLoss,
    NtXentLoss,
    ProjectionHead,
    nt_xent_loss,
)
from spkadapt.align.source_free import SourceMomentsLoss
from spkadapt.align.spectral import (
    BatchNuclearNormLoss,
    BatchSpectralPenalty,
    batch_nuclear_norm_loss,
    batch_spectral_penalty,
)
from spkadapt.align.teacher import (
    CosineConsistencyLoss,
    EmaTeacher,
    KlConsistencyLoss,
    SquaredConsistencyLoss,
    cosine_consistency_loss,
    kl_consistency_loss,
    squared_consistency_loss,
    update_ema,
)
from spkadapt.align.transport import (
    MaxSlicedWassersteinLoss,
    SinkhornLoss,
    SlicedWassersteinLoss,
    draw_projections,
    max_sliced_wasserstein_loss,
    sinkhorn_loss,
    sliced_wasserstein_loss,
)
from spkadapt.align.two_encoders import adda_discriminator_loss, adda_mapper_loss
from spkadapt.align.variational import (
    GaussianEncoder,
    InfoVdannLoss,
    VdannLoss,
    balanced_mean,
    normal_kl,
    normal_mmd_loss,
    two_layers,
)

__all__ = [
    "AngularPrototypicalLoss",
    "BatchNuclearNormLoss",
    "BatchSpectralPenalty",
    "BetweenCovarianceLoss",
    "CmdLoss",
    "ConditionalDomainAdversarialLoss",
    "CoralLoss",
    "CosineConsistencyLoss",
    "DinoHead",
    "DinoLoss",
    "DomainAdversarialLoss",
    "DomainBatchNorm",
    "DomainClassifier",
    "DomainSeparationLoss",
    "EmaTeacher",
    "EnergyDistanceLoss",
    "EntropyLoss",
    "GaussianEncoder",
    "GradientConflict",
    "HommLoss",
    "InfoVdannLoss",
    "InformationMaximisationLoss",
    "JointMmdLoss",
    "KlConsistencyLoss",
    "LinearMmdLoss",
    "LmmdLoss",
    "LogCoralLoss",
    "MaxSlicedWassersteinLoss",
    "MeanLoss",
    "MinimumClassConfusionLoss",
    "MmdLoss",
    "MomentumContrastLoss",
    "NtXentLoss",
    "PolynomialMmdLoss",
    "ProjectionHead",
    "RandomFeatureMmdLoss",
    "ReconstructionLoss",
    "RecordingPrototypes",
    "SameRecordingContrastiveLoss",
    "SinkhornLoss",
    "SlicedWassersteinLoss",
    "SourceMomentsLoss",
    "SquaredConsistencyLoss",
    "VdannLoss",
    "WassersteinCriticLoss",
    "WithinCovarianceLoss",
    "adapt_batch_norm",
    "adda_discriminator_loss",
    "adda_mapper_loss",
    "angular_prototypical_loss",
    "balanced_mean",
    "batch_nuclear_norm_loss",
    "batch_spectral_penalty",
    "between",
    "between_covariance_loss",
    "certainty",
    "cmd_loss",
    "convert_batch_norm",
    "coral_loss",
    "cosine_consistency_loss",
    "difference_loss",
    "domain_cross_entropy",
    "draw_frequencies",
    "draw_projections",
    "energy_distance_loss",
    "entropy_loss",
    "extract_domain",
    "gradient_conflict",
    "homm_loss",
    "information_maximisation_loss",
    "joint_mmd_loss",
    "kl_consistency_loss",
    "lengths",
    "linear_mmd_loss",
    "lmmd_loss",
    "log_coral_loss",
    "max_sliced_wasserstein_loss",
    "mean_loss",
    "minimum_class_confusion_loss",
    "mmd_loss",
    "nearest_recordings",
    "normal_kl",
    "normal_mmd_loss",
    "nt_xent_loss",
    "polynomial_mmd_loss",
    "random_feature_mmd_loss",
    "reverse_gradient",
    "same_recording_contrastive_loss",
    "scale_invariant_mse",
    "sinkhorn_loss",
    "sliced_wasserstein_loss",
    "squared_consistency_loss",
    "two_layers",
    "update_ema",
    "use_domains",
    "within_covariance_loss",
]
