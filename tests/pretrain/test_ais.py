"""Annealed importance sampling against enumeration, from both sides, on random small RBMs."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch

from spkadapt.errors import InputError
from spkadapt.pretrain.ais import AisEstimate, ais_log_partition, raise_log_likelihood, reverse_ais_log_partition
from spkadapt.pretrain.likelihood import (
    binary_states,
    exact_log_likelihood,
    exact_log_partition,
    sample_exactly,
)
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_path import RbmPath

NUM_MODELS = 60
CONFIDENCE = 0.95


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(visible: str, seed: int, num_visible: int = 8, num_hidden: int = 6, scale: float = 1.0) -> Rbm:
    rbm = Rbm(num_visible, num_hidden, visible, learn_variances=visible == "gaussian").double()
    noise = generator(seed)
    with torch.no_grad():
        for name, parameter in rbm.named_parameters():
            spread = scale * (0.5 if visible == "gaussian" or name != "weight" else 1.0)
            parameter.copy_(spread * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return rbm


@cache
def bracket(visible: str, seed: int) -> tuple[float, AisEstimate, AisEstimate]:
    """Exact log Z, and the two estimates, of a random RBM with a base from frames that it made."""
    rbm = random_rbm(visible, seed)
    noise = generator(1000 + seed)
    path = RbmPath.from_frames(rbm, sample_exactly(rbm, 200, noise))
    forward = ais_log_partition(path, num_chains=300, num_temperatures=25, confidence=CONFIDENCE, seed=seed)
    samples = sample_exactly(rbm, 300, noise)
    reverse = reverse_ais_log_partition(path, samples, num_temperatures=25, confidence=CONFIDENCE, seed=seed)
    return exact_log_partition(rbm).item(), forward, reverse


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_exact_log_partition_lies_within_the_interval_as_often_as_it_should(
    visible: str, direction: str
) -> None:
    misses, scores, widths = 0, [], []
    for seed in range(NUM_MODELS):
        exact, forward, reverse = bracket(visible, seed)
        estimate = forward if direction == "forward" else reverse
        misses += not estimate.low <= exact <= estimate.high
        width = estimate.high - estimate.low
        scores.append((estimate.log_partition - exact) / (width / 2 / scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)))
        widths.append(width)
    # Misses are binomial (60, 0.05): more than 13 have a probability below 1e-5.
    assert misses <= scipy.stats.binom.ppf(1 - 1e-5, NUM_MODELS, 1 - CONFIDENCE) == 12
    # Nor are the intervals too wide: squared errors over squared standard errors are χ² of 60 degrees.
    assert (
        scipy.stats.chi2.ppf(1e-5, NUM_MODELS)
        < np.square(scores).sum()
        < scipy.stats.chi2.ppf(1 - 1e-5, NUM_MODELS)
    )
    assert max(widths) < 0.5


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_each_run_errs_to_its_own_side_and_so_brackets_the_truth(visible: str) -> None:
    below, above = [], []
    for seed in range(NUM_MODELS):
        exact, forward, reverse = bracket(visible, seed)
        below.append(forward.log_partitions.numpy() - exact)
        above.append(reverse.log_partitions.numpy() - exact)
        # Jensen's inequality holds of each model, to within the error of a mean of 300.
        assert below[-1].mean() < 4 * below[-1].std() / math.sqrt(300)
        assert above[-1].mean() > -4 * above[-1].std() / math.sqrt(300)
    # And is strict: over all models the two sides are apart by many standard errors.
    for runs, side in ((np.array(below), -1), (np.array(above), 1)):
        assert side * runs.mean() > 5 * runs.std() / math.sqrt(runs.size)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_weights_are_unbiased_on_a_path_of_a_single_step(visible: str) -> None:
    """Where no transition helps, all depends on Z₀, the base's samples and the log-ratio: E[w] = Z / Z₀."""
    rbm = random_rbm(visible, 3, num_visible=3, num_hidden=2, scale=0.6)
    path = RbmPath(rbm, torch.tensor([0.2, -0.4, 0.1]), torch.tensor([0.3, 0.5, 0.4]))
    exact = exact_log_partition(rbm).item()
    forward = ais_log_partition(path, num_chains=30_000, num_temperatures=1, seed=0)
    samples = sample_exactly(rbm, 30_000, generator())
    reverse = reverse_ais_log_partition(path, samples, num_temperatures=1, seed=0)
    for estimate in (forward, reverse):
        assert abs(estimate.log_partition - exact) < 5 * (estimate.high - estimate.low) / 4
        assert estimate.high - estimate.low < 0.1


def test_the_estimate_is_exact_where_base_and_model_are_one() -> None:
    rbm = random_rbm("bernoulli", 0)
    with torch.no_grad():
        rbm.weight.zero_()
        rbm.hidden_bias.zero_()
    estimate = ais_log_partition(RbmPath(rbm), num_chains=3, num_temperatures=4, seed=0)
    exact = exact_log_partition(rbm).item()
    assert [estimate.log_partition, estimate.low, estimate.high] == pytest.approx([exact] * 3, rel=1e-12)
    assert estimate.effective_sample_size == pytest.approx(3)


def test_the_base_has_the_frames_moments() -> None:
    frames = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    path = RbmPath.from_frames(Rbm(2, 3).double(), frames)
    # With half a frame of each kind more.
    torch.testing.assert_close(path.base_bias.sigmoid(), torch.tensor([1.5 / 4, 3.5 / 4]).double())
    real = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    path = RbmPath.from_frames(Rbm(2, 3, "gaussian").double(), real)
    torch.testing.assert_close(path.base_bias, torch.tensor([2.0, 5.0]).double())
    torch.testing.assert_close(path.base_log_variance.exp(), torch.tensor([(2 * 1 + 1) / 3, 1 / 3]).double())
    sample = path.sample_base(50_000, generator())
    spread = path.base_log_variance.exp().sqrt()
    assert ((sample.mean(dim=0) - path.base_bias).abs() < 5 * spread / math.sqrt(50_000)).all()
    assert ((sample.std(dim=0) / spread - 1).abs() < 5 / math.sqrt(100_000)).all()


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_a_move_leaves_its_distribution_as_it_is(visible: str) -> None:
    """One transition at β of exact samples of p_β, which is an RBM itself where base and model share variances."""
    rbm = random_rbm(visible, 5, num_visible=3, num_hidden=2)
    base, beta = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64), 0.6
    between = random_rbm(visible, 5, num_visible=3, num_hidden=2)
    with torch.no_grad():
        between.weight.mul_(beta)
        between.hidden_bias.mul_(beta)
        between.visible_bias.mul_(beta).add_((1 - beta) * base)
        samples = sample_exactly(between, 50_000, generator())
        _, moved = RbmPath(rbm, base).move(samples, 0.5, beta, generator(1))
    fresh = sample_exactly(between, 50_000, generator(2))
    for column in range(3):
        assert scipy.stats.ks_2samp(moved[:, column], fresh[:, column]).pvalue > 1e-6
    # Products tell what margins do not.
    for pair in ((0, 1), (0, 2), (1, 2)):
        both = [part[:, pair].prod(dim=1) for part in (moved, fresh)]
        error = math.sqrt(sum(product.var().item() / 50_000 for product in both))
        assert abs(both[0].mean() - both[1].mean()) < 5 * error


def test_log_likelihood_is_bracketed_from_both_sides() -> None:
    """Its mean under the model: RAISE below and the forward run's −F(v) − log Ẑ above, nearer on a finer path."""
    rbm = random_rbm("bernoulli", 1, scale=1.5)
    v = binary_states(0, 256, 8).double()
    log_likelihood = exact_log_likelihood(rbm, v).detach()
    probabilities = log_likelihood.exp()
    path = RbmPath(rbm, torch.linspace(-3, 3, 8))
    exact = probabilities @ log_likelihood
    gaps = []
    for num_temperatures in (2, 100):
        lower = probabilities @ raise_log_likelihood(
            path, v, num_chains=20, num_temperatures=num_temperatures, seed=0
        )
        forward = ais_log_partition(path, num_chains=2000, num_temperatures=num_temperatures, seed=0)
        upper = probabilities @ -rbm.free_energy(v).detach() - forward.low
        assert lower < exact < upper
        gaps.append(upper - lower)
    assert gaps[1] < gaps[0] / 4
    assert gaps[1] < 0.2


def test_raise_is_the_probability_under_the_annealing_run() -> None:
    """Of two steps by enumeration: v₀ ~ p₀, v₁ ~ T_½, v₂ ~ T₁; what RAISE estimates is p(v₂)."""
    rbm = random_rbm("bernoulli", 5, num_visible=2, num_hidden=2, scale=2.5)
    path = RbmPath(rbm, torch.tensor([2.0, -2.0]))

    def mass(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """P(each of `states`), one row for each row of `logits`."""
        return torch.distributions.Bernoulli(logits=logits[:, None]).log_prob(states).sum(dim=-1).exp()

    states = binary_states(0, 4, 2).double()
    with torch.no_grad():
        distribution = mass(path.base_bias[None], states)[0]
        for beta in (0.5, 1.0):
            inputs = beta * (path.bias + states @ rbm.weight) + (1 - beta) * path.base_bias
            distribution = distribution @ mass(beta * rbm.hidden_inputs(states), states) @ mass(inputs, states)
        exact = exact_log_likelihood(rbm, states)
    found = raise_log_likelihood(path, states, num_chains=20_000, num_temperatures=2, seed=0)
    assert (distribution.log() - exact).abs().max() > 0.3  # the run is not yet the RBM
    torch.testing.assert_close(found, distribution.log(), rtol=0, atol=0.1)


def test_an_interval_that_reaches_zero_weight_is_open_at_one_end() -> None:
    rbm = random_rbm("bernoulli", 1, scale=20.0)
    path = RbmPath(rbm)
    forward = ais_log_partition(path, num_chains=2, num_temperatures=1, seed=0)
    assert forward.effective_sample_size < 1.5
    assert forward.low == -math.inf
    assert forward.log_partition < forward.high < math.inf
    reverse = reverse_ais_log_partition(path, torch.eye(8)[:2].double(), num_temperatures=1, seed=0)
    assert reverse.high == math.inf
    assert -math.inf < reverse.low < reverse.log_partition


def test_the_interval_widens_with_its_confidence() -> None:
    path = RbmPath(random_rbm("bernoulli", 1))
    narrow, wide = (
        ais_log_partition(path, num_chains=200, num_temperatures=20, confidence=confidence, seed=0)
        for confidence in (0.5, 0.999)
    )
    assert narrow.log_partition == wide.log_partition
    ratio = (math.expm1(wide.high - wide.log_partition)) / math.expm1(narrow.high - narrow.log_partition)
    assert ratio == pytest.approx(scipy.stats.norm.ppf(0.9995) / scipy.stats.norm.ppf(0.75))


def test_bad_arguments_are_named() -> None:
    path = RbmPath(random_rbm("bernoulli", 0))
    with pytest.raises(InputError, match="has 1 chains; expected at least 2"):
        ais_log_partition(path, num_chains=1, seed=0)
    with pytest.raises(InputError, match="num_temperatures is 0; expected at least 1"):
        reverse_ais_log_partition(path, torch.zeros(2, 8).double(), num_temperatures=0, seed=0)
    with pytest.raises(InputError, match="confidence is 95; expected a number between 0 and 1"):
        ais_log_partition(path, confidence=95, seed=0)
    with pytest.raises(InputError, match="num_temperatures is -1"):
        raise_log_likelihood(path, torch.zeros(2, 8).double(), num_temperatures=-1, seed=0)
    with pytest.raises(InputError, match=r"annealing is for Bernoulli hidden .* found rectified hidden"):
        RbmPath(Rbm(2, 2, hidden="rectified"))
    with pytest.raises(InputError, match="frames have 3 dimensions; this RBM has 8 visible units"):
        RbmPath.from_frames(path.rbm, torch.zeros(2, 3))
    with pytest.raises(InputError, match="frame 1 holds nan"):
        RbmPath.from_frames(path.rbm, torch.tensor([[0.0] * 8, [math.nan] * 8]))
