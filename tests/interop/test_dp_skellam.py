"""Distributed Skellam noise: its proved epsilon beside the central Gaussian's at the same noise."""

import math

import numpy as np
import pytest
from ledgers import MASKED, PLAIN, Judge
from scipy import special

from privfl.dp import (
    Everyone,
    FixedSize,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Slot,
    what_if,
)
from privfl.dp.accounting.events import Noise
from privfl.dp.accounting.rdp import renyi
from privfl.errors import ConfigError, PrivacyError, UnsupportedRelease

UNIT = PrivacyUnit()
# MNIST softmax: 7850 entries, clip 0.3, 2^10 units per 1.0.
SEGMENTS = [Slot("update", 7850, 1024.0, 0.3)]


def plan(z, placement="distributed"):
    return Mechanism(placement, z).plan(SEGMENTS, cohort=150, min_survivors=60)


def releases(z, rounds, sampling, placement="distributed", sees=MASKED):
    chosen = plan(z, placement)
    return [
        chosen.worst_case(round=i, sampling=sampling, views=sees, cohort=range(100 * i, 100 * i + 100))
        for i in range(rounds)
    ]


@pytest.mark.parametrize(("z", "central"), [(0.9360, 8.0), (2.2478, 2.0), (3.9417, 1.0)])
def test_at_most_a_fifth_above_the_central_gaussian(z, central):
    ours = Judge(UNIT, 1e-5).report(releases(z, 100, Poisson(0.1)))
    gaussian = what_if(sampling=Poisson(0.1), noise_multiplier=z, rounds=100, delta=1e-5)
    assert gaussian.epsilon == pytest.approx(central, abs=0.002)
    assert gaussian.epsilon < ours.epsilon < 1.2 * gaussian.epsilon
    assert ours.accountant.startswith("RDP")
    # The integer mechanism costs next to nothing beyond the conversion from Renyi divergences.
    assert ours.epsilon == pytest.approx(gaussian.cross_checks["RDP (dp-accounting)"], rel=1e-3)


def test_the_server_sees_the_noisy_sum_and_knows_the_cohort():
    rounds = releases(5.0, 3, Poisson(0.1))
    server = Judge(UNIT, 1e-5, observer="server").report(rounds)
    outsider = Judge(UNIT, 1e-5).report(rounds)
    assert outsider.epsilon < server.epsilon < math.inf
    assert Judge(UNIT, 1e-5, observer="server").report(releases(5.0, 3, Poisson(0.1), sees=PLAIN)).epsilon == math.inf


def shifted_skellam_renyi(order, shift, variance):
    """D_a of a shifted Skellam from an unshifted one, summed directly."""
    k = np.arange(-2000, 2001)
    p, q = special.ive(np.abs(k), variance), special.ive(np.abs(k - shift), variance)
    keep = (p > 0) & (q > 0)
    return special.logsumexp(order * np.log(q[keep]) - (order - 1) * np.log(p[keep])) / (order - 1)


@pytest.mark.parametrize("variance", [0.5, 2.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("order", [2, 3, 8, 20])
def test_the_bound_holds_for_one_coordinate(order, shift, variance):
    look = Noise("skellam", math.sqrt(variance) / shift, float(shift), float(shift))
    true = shifted_skellam_renyi(order, shift, variance)
    assert true <= renyi(look, order, 1) * (1 + 1e-9)


def test_the_sampled_direction_that_is_bounded_is_the_larger_one():
    q, variance, shift = 0.2, 4.0, 2
    k = np.arange(-100, 101)
    p, moved = (np.log(special.ive(np.abs(k - s), variance)) for s in (0, shift))
    mixed = np.logaddexp(math.log(1 - q) + p, math.log(q) + moved)
    for order in (2, 5, 12):
        there = special.logsumexp(order * mixed - (order - 1) * p)
        back = special.logsumexp(order * p - (order - 1) * mixed)
        assert there >= back


def test_shares_that_survive_reach_the_declared_noise():
    chosen = plan(2.0)
    zeros = np.zeros(7850, np.int64)
    total = sum(chosen.contribute(zeros) for _ in range(59))
    assert total.std() == pytest.approx(chosen.noise_stddev, rel=0.05)
    assert chosen.realized_stddev(60) >= chosen.noise_stddev
    settled = chosen.release(round=0, sampling=Poisson(0.1), views=MASKED, survivors=range(80))
    assert settled.realized_stddev > settled.declared_stddev
    with pytest.raises(PrivacyError, match="surviving noise"):
        chosen.release(round=0, sampling=Poisson(0.1), views=MASKED, survivors=range(59))


def test_colluders_are_counted_out():
    one = Mechanism("distributed", 2.0).plan(SEGMENTS, cohort=10, min_survivors=6)
    two = Mechanism("distributed", 2.0, colluders=3).plan(SEGMENTS, cohort=10, min_survivors=6)
    assert two.share_stddev == pytest.approx(one.share_stddev * math.sqrt(5 / 2))
    with pytest.raises(ConfigError, match="survivors"):
        Mechanism("distributed", 2.0, colluders=3).plan(SEGMENTS, cohort=10, min_survivors=4)


@pytest.mark.parametrize("sampling", [FixedSize(100, 1000)])
def test_integer_noise_under_other_sampling_is_refused(sampling):
    with pytest.raises(UnsupportedRelease):
        Judge(PrivacyUnit("client", "zero_out"), 1e-5).report(releases(1.0, 1, sampling))
    with pytest.raises(UnsupportedRelease, match="add_remove and zero_out"):
        Judge(PrivacyUnit("client", "replace_one"), 1e-5).report(releases(1.0, 1, Poisson(0.1)))


def test_replace_one_without_sampling_doubles_the_sensitivity():
    single = Judge(PrivacyUnit("client", "replace_one"), 1e-5).report(releases(2.0, 1, Everyone())).epsilon
    assert single == pytest.approx(Judge(UNIT, 1e-5).report(releases(1.0, 1, Everyone())).epsilon, rel=1e-4)
