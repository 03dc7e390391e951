"""Other judges next to ours: the discrete Gaussian's own law, and three sums of one mechanism."""

import math

import pytest
from ledgers import MASKED, SUMS, Judge, noise_of, worst_case

from privfl.dp import Everyone, Mechanism, Poisson, PrivacyUnit, Slot
from privfl.dp.accounting.compose import discrete_gaussian_epsilon

SEGMENTS = [Slot("update", 100, 64.0, 1.0)]


# One coordinate; dp-accounting's distribution of the discrete Gaussian. The Gaussian's epsilon is 4.377178.
@pytest.mark.parametrize(("sigma", "epsilon"), [(2, 4.4079), (10, 4.377701)])
def test_the_discrete_gaussian_is_not_covered_by_the_gaussian(sigma, epsilon):
    found = discrete_gaussian_epsilon(sigma, sigma, 1e-5)
    assert found == pytest.approx(epsilon, abs=5e-5)
    assert found > 4.377178
    plan = noise_of(Mechanism("central", 1.0, discrete=True), SEGMENTS, cohort=3, min_survivors=2)
    release = worst_case(plan, round=0, sampling=Everyone(), views=MASKED, cohort=[1])
    report = Judge(PrivacyUnit(), 1e-5).report([release])
    assert report.epsilon > found
    assert report.accountant.startswith("RDP")


@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
@pytest.mark.parametrize("observer", ["outsider", "participant"])
def test_equal_placement_is_worth_the_same_through_every_sum(placement, observer):
    plan = noise_of(Mechanism(placement, 2.0), SEGMENTS, cohort=30, min_survivors=20)
    figures = {
        sees: Judge(PrivacyUnit(), 1e-5, observer=observer)
        .report(
            [
                worst_case(plan, round=i, sampling=Poisson(0.1), views=SUMS[sees], cohort=range(i, 25 + i))
                for i in range(5)
            ]
        )
        .epsilon
        for sees in SUMS
    }
    if (placement, observer) == ("central", "participant"):
        # Who takes part in an encrypted sum holds its key, from which the noise is derived.
        assert figures.pop("ckks") == math.inf
    assert len(set(figures.values())) == 1
    assert 0 < figures["masked"] < 10
