"""Exact samples, and enumeration's limits. What enumeration says of Z is tested in `test_rbm`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from spkadapt.errors import InputError
from spkadapt.pretrain.likelihood import binary_states, exact_log_likelihood, exact_log_partition, sample_exactly
from spkadapt.pretrain.rbm import Rbm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(num_visible: int, num_hidden: int, visible: str = "bernoulli") -> Rbm:
    rbm = Rbm(num_visible, num_hidden, visible, learn_variances=visible == "gaussian").double()
    with torch.no_grad():
        for seed, parameter in enumerate(rbm.parameters(), start=1):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
    return rbm


@pytest.mark.parametrize(("num_visible", "num_hidden"), [(4, 3), (3, 5)])
def test_exact_samples_have_the_exact_distribution(num_visible: int, num_hidden: int) -> None:
    """Whichever side is enumerated."""
    rbm, num_samples = random_rbm(num_visible, num_hidden), 50_000
    samples = sample_exactly(rbm, num_samples, generator())
    states = binary_states(0, 2**num_visible, num_visible).double()
    exact = exact_log_likelihood(rbm, states).exp().detach().numpy()
    numbers = (samples @ 2.0 ** torch.arange(num_visible, dtype=torch.float64)).long()
    counts = np.bincount(numbers, minlength=2**num_visible)
    statistic = ((counts - num_samples * exact) ** 2 / (num_samples * exact)).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, df=2**num_visible - 1)


def test_exact_samples_of_a_gaussian_rbm_have_its_moments() -> None:
    rbm, num_samples = random_rbm(2, 2, "gaussian"), 100_000
    samples = sample_exactly(rbm, num_samples, generator()).numpy()
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = exact_log_likelihood(rbm, grid).exp().detach() * (axis[1] - axis[0]) ** 2
    assert density.sum().item() == pytest.approx(1, abs=1e-8)
    mean = (density @ grid).numpy()
    spread = np.sqrt((density @ (grid - torch.from_numpy(mean)).square()).numpy())
    assert (np.abs(samples.mean(axis=0) - mean) < 5 * spread / math.sqrt(num_samples)).all()
    kurtosis = scipy.stats.kurtosis(samples, fisher=False)
    error = spread * np.sqrt((kurtosis - 1) / num_samples) / 2
    assert (np.abs(samples.std(axis=0) - spread) < 5 * error).all()


def test_log_partition_and_samples_agree_across_the_chunks_of_enumeration() -> None:
    rbm = random_rbm(16, 15)  # 2 chunks of 2¹⁴ hidden states
    samples = sample_exactly(rbm, 2000, generator())
    v = binary_states(0, 2**16, 16).double()
    probabilities = exact_log_likelihood(rbm, v).exp().detach()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-10)
    spread = (probabilities @ v).mul(1 - probabilities @ v).sqrt()
    assert ((samples.mean(dim=0) - probabilities @ v).abs() < 5 * spread / math.sqrt(2000)).all()


def test_units_that_cannot_be_enumerated_are_named() -> None:
    with pytest.raises(InputError, match=r"2\^26 states of an RBM with 30 visible and 26 hidden"):
        sample_exactly(Rbm(30, 26), 1, generator())
    for rbm, found in (
        (Rbm(2, 2, "rectified"), "bernoulli hidden and rectified"),
        (Rbm(2, 2, hidden="rectified"), ""),
    ):
        with pytest.raises(InputError, match=f"enumeration is for Bernoulli hidden .*; found {found}"):
            exact_log_partition(rbm)
