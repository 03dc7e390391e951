"""Distributed Skellam noise: its proved epsilon beside the central Gaussian's at the same noise."""

import math

import numpy as np
import pytest
from ledgers import MASKED, PLAIN, Judge, noise_of, realized, worst_case
from scipy import special

from privfl.dp import (
    Everyone,
    FixedSize,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Release,
    Slot,
    TruncatedPoisson,
    what_if,
)
from privfl.dp.accounting.events import Look
from privfl.dp.accounting.rdp import renyi
from privfl.errors import ConfigError, PrivacyError, UnsupportedRelease

UNIT = PrivacyUnit()
# MNIST softmax: 7850 entries, clip 0.3, 2^10 units per 1.0.
SEGMENTS = [Slot("update", 7850, 1024.0, 0.3)]


def plan(z, placement="distributed"):
    return noise_of(Mechanism(placement, z), SEGMENTS, cohort=150, min_survivors=60)


def releases(z, rounds, sampling, placement="distributed", sees=MASKED):
    chosen = plan(z, placement)
    return [
        worst_case(chosen, round=i, sampling=sampling, views=sees, cohort=range(100 * i, 100 * i + 100))
        for i in range(rounds)
    ]


@pytest.mark.parametrize(("z", "central"), [(0.9360, 8.0), (2.2478, 2.0), (3.9417, 1.0)])
def test_at_most_a_fifth_above_the_central_gaussian(z, central):
    ours = Judge(UNIT, 1e-5).report(releases(z, 100, Poisson(0.1)))
    gaussian = what_if(sampling=Poisson(0.1), noise_multiplier=z, rounds=100, delta=1e-5)
    assert gaussian.epsilon == pytest.approx(central, abs=0.002)
    assert gaussian.epsilon < ours.epsilon < 1.2 * gaussian.epsilon
    assert ours.accountant == "comparison with Gaussian noise"
    # The Renyi bound costs next to nothing beyond the conversion from Renyi divergences.
    (renyi_figure,) = ours.cross_checks.values()
    assert renyi_figure == pytest.approx(gaussian.cross_checks["RDP (dp-accounting)"], rel=1e-3)
    assert ours.epsilon < renyi_figure


# The clip norm of MNIST's softmax in integer units, and what 100 rounds may cost at 0.9360.
@pytest.mark.parametrize(("units", "limit"), [(2**10, 8.010), (2**14, 7.9990), (2**17, 7.9988)])
def test_the_price_of_the_central_gaussian(units, limit):
    slots = [Slot("update", 7850, units / 0.3, 0.3)]
    common = {"sampling": Poisson(0.1), "noise_multiplier": 0.9360, "rounds": 100, "delta": 1e-5}
    central = what_if(**common, cross_checks=False).epsilon
    ours = what_if(**common, placement="distributed", slots=slots)
    assert central == pytest.approx(7.99878, abs=2e-5)
    assert central < ours.epsilon <= limit
    (renyi_figure,) = ours.cross_checks.values()
    assert renyi_figure == pytest.approx(8.984, abs=1e-3)


@pytest.mark.parametrize(("units", "truth"), [(2**16, 7.999956), (2**12, 8.000250)])
def test_a_million_entries_in_ten_rounds_of_everyone(units, truth):
    slots = [Slot("update", 10**6, float(units), 1.0)]
    ours = what_if(
        sampling=Everyone(), noise_multiplier=1.8981, rounds=10, delta=1e-5, placement="distributed", slots=slots
    )
    assert ours.epsilon == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(
    ("sampling", "unit"),
    [
        (Everyone(), PrivacyUnit("client", "replace_one")),
        (Poisson(0.05), PrivacyUnit("client", "replace_one")),
        (FixedSize(100, 1000), PrivacyUnit("client", "replace_one")),
        (FixedSize(100, 1000), PrivacyUnit("client", "zero_out")),
        (TruncatedPoisson(0.05, 70, 1000), UNIT),
        (Poisson(0.05), PrivacyUnit("example", "add_remove")),
    ],
    ids=str,
)
def test_every_sampling_and_adjacency_of_the_gaussian(sampling, unit):
    common = {"sampling": sampling, "noise_multiplier": 4.0, "rounds": 10, "delta": 1e-6, "unit": unit}
    central = what_if(**common, cross_checks=False).epsilon
    slots = [Slot("update", 1000, 2.0**16, 1.0)]
    ours = what_if(**common, placement="distributed", slots=slots, cross_checks=False).epsilon
    assert central < ours < central * (1 + 1e-3)


def judged(releases, observer="outsider", delta=1e-6):
    return Judge(UNIT, delta, observer=observer).report(releases)


def test_the_comparison_covers_the_skellam_releases_among_gaussian_ones():
    fine = [Slot("update", 1000, 2.0**16, 1.0)]

    def rounds(placement, numbers):
        chosen = noise_of(Mechanism(placement, 3.0), fine, cohort=20, min_survivors=10)
        return [worst_case(chosen, round=i, sampling=Poisson(0.1), views=MASKED, cohort=range(20)) for i in numbers]

    both = judged([*rounds("central", range(30)), *rounds("distributed", range(30, 60))])
    central = judged(rounds("central", range(60)))
    distributed = judged(rounds("distributed", range(60)))
    assert both.accountant == distributed.accountant == "comparison with Gaussian noise"
    assert central.accountant != both.accountant
    assert central.epsilon < both.epsilon < distributed.epsilon
    server = judged(rounds("distributed", range(5)), observer="server")
    assert server.accountant == "comparison with Gaussian noise"


def test_little_noise_keeps_the_renyi_bound():
    coarse = [Slot("update", 10, 8.0, 1.0)]
    ours = what_if(
        sampling=Poisson(0.1), noise_multiplier=2.0, rounds=5, delta=1e-5, placement="distributed", slots=coarse
    )
    assert ours.accountant.startswith("RDP")
    assert list(ours.cross_checks.values()) == [ours.epsilon]


@pytest.mark.parametrize("length", [1, 1000])
def test_the_discrete_gaussian_is_compared_too(length):
    release = Release(
        round=0,
        placement="central",
        law="discrete_gaussian",
        secure=True,
        declared_stddev=2.0**12,
        realized_stddev=2.0**12,
        norm_bound=2.0**12,
        length=length,
        sampling=Everyone(),
        views=MASKED,
        participants=(1, 2, 3),
    )
    found = judged([release], delta=1e-5)
    assert found.accountant == "comparison with Gaussian noise"
    assert 4.3771780957 < found.epsilon < 4.3775


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
    look = Look("skellam", math.sqrt(variance) / shift, float(shift), float(shift))
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
    settled = realized(chosen, round=0, sampling=Poisson(0.1), views=MASKED, survivors=range(80))
    assert settled.realized_stddev > settled.declared_stddev
    with pytest.raises(PrivacyError, match="surviving noise"):
        realized(chosen, round=0, sampling=Poisson(0.1), views=MASKED, survivors=range(59))


def test_colluders_are_counted_out():
    one = noise_of(Mechanism("distributed", 2.0), SEGMENTS, cohort=10, min_survivors=6)
    two = noise_of(Mechanism("distributed", 2.0, colluders=3), SEGMENTS, cohort=10, min_survivors=6)
    assert two.share_stddev == pytest.approx(one.share_stddev * math.sqrt(5 / 2))
    with pytest.raises(ConfigError, match="at least 5 vectors"):
        noise_of(Mechanism("distributed", 2.0, colluders=3), SEGMENTS, cohort=10, min_survivors=4)


def test_integer_noise_that_is_too_coarse_is_refused_under_other_sampling():
    coarse = [Slot("update", 10, 8.0, 1.0)]
    for sampling, unit in (
        (FixedSize(100, 1000), PrivacyUnit("client", "zero_out")),
        (Poisson(0.1), PrivacyUnit("client", "replace_one")),
    ):
        with pytest.raises(UnsupportedRelease, match="at least 32 integer units"):
            what_if(
                sampling=sampling,
                noise_multiplier=1.0,
                rounds=1,
                delta=1e-5,
                unit=unit,
                placement="distributed",
                slots=coarse,
            )


def test_replace_one_without_sampling_doubles_the_sensitivity():
    single = Judge(PrivacyUnit("client", "replace_one"), 1e-5).report(releases(2.0, 1, Everyone())).epsilon
    # Twice the noise has four times the variance, so it is nearer to the Gaussian's 4.3772.
    assert 4.3771780957 < single < Judge(UNIT, 1e-5).report(releases(1.0, 1, Everyone())).epsilon < 4.45
