"""Estimators of a variational autoencoder's bound, of its gradient, and of the log-likelihood itself.

The bound on log p(x) is E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)). The divergence of two Gaussians is known in
closed form; what must be sampled is the expectation, and how its gradient in the encoder's parameters φ is sampled
decides how noisy the training is:

    reparameterised   ∇_φ log p(x | m_φ + s_φ ⊙ ε)
    score function    (log p(x | z) − b) ∇_φ log q_φ(z | x)

Both are unbiased; the second needs no derivative of log p in z, and pays for it with variance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.vae_network import VariationalAutoencoder, draw_noise, reparameterise

ESTIMATORS = ("reparameterised", "score_function", "score_function_baseline")

# What one pass of `importance_weighted_bound` decodes at most: so many rows of z.
ROWS_AT_ONCE = 16384


def expected_log_likelihood(
    network: VariationalAutoencoder, x: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor, estimator: str
) -> Tensor:
    """An estimate of E_q[log p(x | z)], a mean over K samples of z, whose gradient is that of `estimator`.

    The value is the same for every estimator, and so is the gradient in the decoder's parameters; in the encoder's
    it is

        "reparameterised"          (1/K) Σ_k ∇ log p(x | z_k), through z_k = m + s ⊙ ε_k (Kingma & Welling 2014)
        "score_function"           (1/K) Σ_k f_k ∇ log q(z_k | x), f_k = log p(x | z_k), z_k held fixed
                                   (Williams 1992; Paisley, Blei & Jordan 2012)
        "score_function_baseline"  (1/K) Σ_k (f_k − b_k) ∇ log q(z_k | x), b_k the mean of the other samples' f:
                                   it does not depend on z_k and so leaves no bias (Mnih & Rezende 2016)

    At the optimum of a linear model with one latent dimension and K = 2, the score function's gradient in m and
    log s² has 21 times the variance of the reparameterised one for 4 visible dimensions, 1500 times for 40; with
    the baseline, 3.7 and 3.6 times (`tests/pretrain/test_vae_estimators.py`).

    Args:
        network: the model.
        x: (n, num_visible)
        mean: m, (n, num_latent), as `network.encode` gives it.
        log_variance: log s², likewise.
        noise: ε ~ N(0, I), (K, n, num_latent), independent for each frame and sample.
        estimator: one of `ESTIMATORS`.

    Returns:
        (n,), in nats.

    Raises:
        InputError: a baseline of other samples, and there is but one.
    """
    if estimator == "reparameterised":
        return network.log_likelihood(x, reparameterise(mean, log_variance, noise)).mean(dim=0)
    num_samples = len(noise)
    with torch.no_grad():
        z = reparameterise(mean, log_variance, noise)
    likelihood = network.log_likelihood(x, z)
    learning_signal = likelihood.detach()
    if estimator == "score_function_baseline":
        if num_samples < 2:
            raise InputError("the score function's baseline is the mean of the other samples; num_samples is 1")
        # f_k − Σ_{j≠k} f_j/(K − 1) = (f_k − mean f) · K/(K − 1)
        learning_signal = (learning_signal - learning_signal.mean(dim=0)) * (num_samples / (num_samples - 1))
    log_q = log_posterior(z, mean, log_variance)
    # A term of value 0 that carries the score function's gradient.
    return (likelihood + learning_signal * (log_q - log_q.detach())).mean(dim=0)


def log_posterior(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log q(z | x) in nats, (..., n), of `z (..., n, num_latent)`; `mean` and `log_variance` (n, num_latent)."""
    squared = (z - mean).square() * log_variance.neg().exp()
    return -(squared + log_variance + math.log(2 * math.pi)).sum(dim=-1) / 2


def weighted_bound(expected: Tensor, divergences: Tensor, beta: float, free_bits: float) -> Tensor:
    """(1/n) Σ_n E_q[log p(x | z)] − β Σ_j max(λ, (1/n) Σ_n KL_j), a scalar: what training ascends.

    β weighs the divergence (Higgins et al. 2017; rising from 0: Bowman et al. 2016, Sønderby et al. 2016). Below λ
    nats, on average over the batch, a latent dimension's divergence costs nothing more: free bits (Kingma et al.
    2016), which keep dimensions from being given up early. With β = 1 and λ = 0 this is the bound itself.

    Args:
        expected: E_q[log p(x | z)], (n,).
        divergences: KL of each latent dimension (n, num_latent).
        beta: β.
        free_bits: λ, in nats.
    """
    return expected.mean() - beta * divergences.mean(dim=0).clamp(min=free_bits).sum()


@torch.no_grad()
def importance_weighted_bound(
    network: VariationalAutoencoder, x: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:
    """log (1/K) Σ_k p(x, z_k) / q(z_k | x) with z_k ~ q(z | x) (Burda, Grosse & Salakhutdinov 2016).

    Its expectation is the variational bound for K = 1, never falls as K grows, and tends to log p(x). Memory does
    not grow with K.

    Args:
        network: the model.
        x: (n, num_visible)
        num_samples: K; the paper evaluates with 5000.
        generator: of the samples, on the device of `x`.

    Returns:
        (n,), in nats.

    Raises:
        InputError: no sample.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; an importance-weighted bound takes at least 1")
    parts = x.split(ROWS_AT_ONCE)
    return torch.cat([_importance_weighted_bound(network, part, num_samples, generator) for part in parts])


def _importance_weighted_bound(
    network: VariationalAutoencoder, x: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:
    mean, log_variance = network.encode(x)
    total = x.new_full((len(x),), -math.inf)
    left, at_once = num_samples, ROWS_AT_ONCE // len(x)
    while left > 0:
        noise = draw_noise(mean, generator, min(left, at_once))
        z = reparameterise(mean, log_variance, noise)
        # log N(z; 0, I) − log q(z | x), where the constants cancel and (z − m)/s is the noise
        log_ratio = (noise.square() + log_variance - z.square()).sum(dim=-1) / 2
        log_weights = network.log_likelihood(x, z) + log_ratio
        total = torch.logaddexp(total, log_weights.logsumexp(dim=0))
        left -= len(noise)
    return total - math.log(num_samples)
