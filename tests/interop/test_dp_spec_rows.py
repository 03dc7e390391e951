"""Reference values of the specification that no other test holds: MNIST figures, the discrete Gaussian, skip bounds."""

import math

import mpmath
import numpy as np
import pytest
from ledgers import MASKED, Judge
from scipy import special

from privfl.dp import Everyone, Plan, Poisson, PrivacyUnit, Release, Slot
from privfl.dp.accounting.comparison import _MOMENT, gap
from privfl.dp.accounting.comparison import NAME as COMPARED
from privfl.dp.accounting.compose import discrete_gaussian_epsilon
from privfl.dp.draws import round_turn


def what(units, length, **settings):
    slots = (Slot("update", length, float(units), 1.0),)
    plan = Plan(placement="distributed", slots=slots, **settings)
    report = plan.report(1e-5)
    central = Plan(**settings).epsilon(1e-5)
    return report, central


@pytest.mark.parametrize(
    ("units", "figure", "limit"), [(2**17, 7.99878, 7.99879), (2**14, 7.99882, 7.9990), (2**10, 8.0097, 8.010)]
)
def test_mnist_under_distributed_noise(units, figure, limit):
    report, central = what(units, 7850, sampling=Poisson(0.1), noise_multiplier=0.936, rounds=100)
    assert central == pytest.approx(7.99878, abs=1e-5)
    assert report.epsilon == pytest.approx(figure, abs=1e-4)
    assert central < report.epsilon <= limit
    assert report.accountant == COMPARED
    renyi = report.cross_checks["RDP of the integer mechanism (Agarwal et al. 2021)"]
    assert renyi == pytest.approx(8.984, abs=0.01)


@pytest.mark.parametrize(("units", "figure"), [(2**16, 7.999956), (2**12, 8.000250)])
def test_everyone_in_a_million_entries(units, figure):
    report, central = what(units, 10**6, sampling=Everyone(), noise_multiplier=1.8981, rounds=10)
    assert central == pytest.approx(7.999954, abs=1e-6)
    assert report.epsilon == pytest.approx(figure, abs=1e-6)


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace_one"])
@pytest.mark.parametrize("sampling", [Everyone(), Poisson(0.2)], ids=["everyone", "poisson"])
def test_every_sampling_and_adjacency_that_the_gaussian_has(sampling, adjacency):
    settings = {"sampling": sampling, "noise_multiplier": 2.0, "rounds": 20}
    report, _ = what(2**16, 1000, **settings, unit=PrivacyUnit("client", adjacency))
    plain = Plan(**settings, unit=PrivacyUnit("client", adjacency)).epsilon(1e-5)
    assert plain < report.epsilon < 1.002 * plain
    assert report.accountant == COMPARED


def release(law, stddev, length, placement="central"):
    return Release(
        round=0, placement=placement, law=law, secure=True, declared_stddev=stddev, realized_stddev=stddev,
        norm_bound=stddev, length=length, sampling=Everyone(), views=MASKED, participants=(1,),
    )  # fmt: skip


@pytest.mark.parametrize(("stddev", "length"), [(256.0, 1), (4096.0, 1), (4096.0, 1000), (2.0**20, 10**6)])
def test_the_discrete_gaussian_through_the_comparison(stddev, length):
    report = Judge(PrivacyUnit(), 1e-5).report([release("discrete_gaussian", stddev, length)])
    assert report.accountant == COMPARED
    assert 4.377178 < report.epsilon < 4.377178 * (1.02 if stddev < 1000 else 1.0005)
    if length == 1:
        exact = discrete_gaussian_epsilon(stddev, int(stddev), 1e-5) if stddev < 1000 else 4.377178
        assert exact < report.epsilon
    small = Judge(PrivacyUnit(), 1e-5).report([release("discrete_gaussian", 8.0, length)])
    assert small.accountant.startswith("RDP")  # variance below 1024


@pytest.mark.parametrize("variance", [1024, 3000, 16384, 2**20, 2**30])
def test_the_constants_again_in_mpmath(variance):
    """The second moment sqrt(26)/24 with its term 57/m, the bound 33/96 on -l, and both gaps of ten coordinates."""
    with mpmath.workdps(40):
        m = mpmath.mpf(variance)

        def moment(p):  # of (x^4 - 7x^2 + 4)/24 under a standard normal, with the Skellam law's cumulants
            kurtosis = {0: 1, 2: 1, 4: 3, 6: 15, 8: 105}
            extra = {4: 1, 6: 15 + 1 / m, 8: 210 + 63 / m + 1 / m**2}  # of x^4, x^6, x^8 times 1/m, for Skellam
            return kurtosis[p] + (extra.get(p, 0) / m if p > 2 else 0)

        square = moment(8) - 14 * moment(6) + 57 * moment(4) - 56 * moment(2) + 16
        assert abs(square - 26 - 57 / m) < 300 / m**2
        assert mpmath.sqrt(square) / 24 < _MOMENT
        assert mpmath.sqrt(26) / 24 == pytest.approx(0.21246, abs=1e-5)
        worst = max(-(x2**2 - 7 * x2 + 4) / 24 for x2 in (mpmath.mpf(n) / 100 for n in range(2500)))
        assert worst == pytest.approx(33 / 96)
        assert worst < mpmath.mpf(3) / 8
        epsilon, delta, n = mpmath.mpf("4.5"), mpmath.mpf("1e-5"), 10
        uneven, share = mpmath.mpf(2) ** -49, mpmath.mpf(2) ** -20
        second = n * (mpmath.mpf("0.22") / m + uneven) ** 2
        t1 = mpmath.log(share * delta)
        cut = mpmath.mpf("2.1") * (mpmath.log(4 * n) - t1)
        bounds = cut**2 / (24 * m) + uneven * cut, 3 / (8 * m) + 2 * uneven + 2048 * m * uneven**2

        def bernstein(b, log):
            return b * log / 3 + mpmath.sqrt((b * log / 3) ** 2 + 2 * second * log)

        expected = (
            second + mpmath.exp(t1) + bernstein(bounds[0], mpmath.log(2) - t1),
            second + bernstein(bounds[1], epsilon - t1),
        )
        found = gap([(n, float(variance))], float(epsilon), float(delta))
        if cut > m / 4:
            assert found is None
        else:
            assert (found.g1, found.g2) == pytest.approx([float(value) for value in expected], rel=1e-12)


def test_the_moments_of_the_exact_law():
    for variance in (1024, 4096):
        k = np.arange(-int(14 * math.sqrt(variance)), int(14 * math.sqrt(variance)) + 1)
        weight, x2 = special.ive(np.abs(k), variance), k**2 / variance
        square = float(np.dot(weight, (x2**2 - 7 * x2 + 4) ** 2))
        assert square == pytest.approx(26 + 57 / variance, abs=400 / variance**2)


@pytest.mark.parametrize(
    ("q", "rounds", "turn", "bound"),
    [(0.1, 500, 1.4506e-9, 7.253e-8), (0.05, 500, 2.0611e-5, 5.153e-4), (0.05, 500, 2.9211e-10, 7.303e-9)],
)
def test_what_skipped_rounds_take_of_delta(q, rounds, turn, bound):
    assert rounds * q * turn == pytest.approx(bound, rel=1e-3)
    plan = Plan(sampling=Poisson(q), noise_multiplier=1.0, rounds=rounds, turn=turn)
    assert bound < plan.history().turn < 1.01 * bound  # a ledger keeps three digits, rounded up
    counted = plan.report(1e-5)
    kept = bound <= 1e-5 / 2
    assert any("sampling is not counted" in caveat for caveat in counted.caveats) != kept


def test_a_sum_that_opens_whatever_arrives_turns_nothing():
    assert round_turn(Poisson(0.1), 1000, lambda size: 0.0) == 0.0
