"""delta over epsilon of Poisson sampling against exact integrals, beyond every loss that the grid holds."""

import math

import pytest

from privfl.dp import Plan, Poisson, PrivacyCurve

mpmath = pytest.importorskip("mpmath")
mpf, exp, log, sqrt = mpmath.mpf, mpmath.exp, mpmath.log, mpmath.sqrt
CLOSE = 1e-15
"""Above this delta a curve is close; below it is an upper bound."""


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(60):
        yield


def above(x):
    return mpmath.erfc(x / sqrt(2)) / 2


def removed(epsilon, q, z):
    """The hockey stick of (1-q) N(0) + q N(1) over N(0), both of deviation z."""
    epsilon, q, z = mpf(epsilon), mpf(q), mpf(z)
    t = (exp(epsilon) - 1 + q) / q
    if t <= 0:
        return 1 - exp(epsilon)
    x = mpf(1) / 2 + z * z * log(t)
    return (1 - q) * above(x / z) + q * above((x - 1) / z) - exp(epsilon) * above(x / z)


def added(epsilon, q, z):
    """The same with the neighbors exchanged: 0 from -ln(1-q) on, the largest loss of this order."""
    epsilon, q, z = mpf(epsilon), mpf(q), mpf(z)
    t = (exp(-epsilon) - 1 + q) / q
    if t <= 0:
        return mpf(0)
    x = mpf(1) / 2 + z * z * log(t)
    below, below_both = above(-x / z), above((1 - x) / z)
    return below - exp(epsilon) * ((1 - q) * below + q * below_both)


def curve(q, z, rounds):
    return PrivacyCurve(Plan(sampling=Poisson(q), noise_multiplier=z, rounds=rounds).history())


@pytest.mark.parametrize(("q", "z"), [(0.1, 1.0), (0.01, 0.8), (0.5, 2.0), (0.001, 0.6), (0.9, 0.5)])
def test_one_round_in_both_orders(q, z):
    stated, edge = curve(q, z, 1), -math.log1p(-q)  # the largest loss of a client that is added
    for epsilon in (
        0.0,
        0.01,
        0.99 * edge,
        edge,
        1.01 * edge,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        20.0,
        40.0,
        80.0,
        150.0,
        400.0,
    ):
        exact, found = max(removed(epsilon, q, z), added(epsilon, q, z)), stated.delta(epsilon)
        assert found >= exact > 0
        assert exact < CLOSE or found <= exact * mpf("1.0002")


def test_nothing_is_beyond_the_largest_loss_of_one_order():
    for q in (0.1, 0.7):
        assert added(-math.log1p(-q) * 1.000001, q, 1.0) == 0 < added(-math.log1p(-q) * 0.999, q, 1.0)


@pytest.mark.parametrize(("q", "z"), [(0.1, 1.0), (0.4, 1.5)])
def test_two_rounds_by_an_integral(q, z):
    stated, q_, z_ = curve(q, z, 2), mpf(q), mpf(z)

    def density(x):
        both = (1 - q_) * exp(-x * x / (2 * z_**2)) + q_ * exp(-((x - 1) ** 2) / (2 * z_**2))
        return both / (z_ * sqrt(2 * mpmath.pi))

    def loss(x):
        return log(1 - q_ + q_ * exp((2 * x - 1) / (2 * z_**2)))

    with mpmath.workdps(25):
        for epsilon in (0.5, 2.0, 4.0, 7.0):
            pieces = [mpf(n) for n in (-12, -4, 0, 1, 2, 4, 6, 9, 14, 22)]
            exact = mpmath.quad(lambda x, e=epsilon: density(x) * removed(e - loss(x), q, z), pieces)
            found = stated.delta(epsilon)
            assert found >= exact * (1 - mpf("1e-9"))
            assert exact < CLOSE or found <= exact * mpf("1.0002")


def test_without_sampling_a_tail_never_comes_out_as_zero():
    stated = PrivacyCurve(Plan(sampling=Poisson(1.0), noise_multiplier=1.0, rounds=1).history())
    for epsilon in (1.0, 10.0, 30.0, 60.0, 300.0):
        exact = above(mpf(epsilon) - mpf("0.5")) - exp(mpf(epsilon)) * above(mpf(epsilon) + mpf("0.5"))
        assert stated.delta(epsilon) >= exact > 0
        assert exact < 1e-300 or stated.delta(epsilon) <= exact * mpf("1.000001")
