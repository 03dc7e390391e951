"""Skellam noise judged as the Gaussian: the facts it rests on, its reference values, and exact figures below it."""

import math

import mpmath
import numpy as np
import pytest
from scipy import special, stats

from privfl.dp.accounting.comparison import compared_epsilon, gap
from privfl.dp.accounting.gaussian import gaussian_epsilon

TABLE = [
    (2**16, 10, 4.42809872, (4.11637989e-2, 1.57036061e-4), 5.87028437, (7.97638551e-2, 1.90764595e-4)),
    (2**16, 10**4, 4.45769936, (6.31485327e-2, 2.65425051e-3), 5.91273339, (1.13404577e-1, 3.00736023e-3)),
    (2**24, 10**3, 4.37744819, (2.15828399e-4, 3.4379101e-6), 5.77656996, (3.96487921e-4, 3.91930007e-6)),
    (2**28, 10**6, 4.37721109, (2.12372535e-5, 6.35296802e-6), 5.77614739, (3.51920383e-5, 7.17972456e-6)),
    (2**32, 10**8, 4.3771881, (4.53478562e-6, 3.96288919e-6), 5.77611037, (5.62741717e-6, 4.47745833e-6)),
    (2**40, 10**9, 4.37717865, (4.94953049e-8, 4.93776313e-8), 5.77610425, (5.75634958e-8, 5.578808e-8)),
]


def gaussian(mu):
    return lambda delta: gaussian_epsilon(1 / mu, delta)


def flat():
    for m, n, *rest in TABLE:
        for delta, (epsilon, pair) in zip((1e-5, 1e-8), (rest[:2], rest[2:]), strict=True):
            yield pytest.param(m, n, delta, epsilon, pair, id=f"{m}-{n}-{delta}")


@pytest.mark.parametrize(("m", "n", "delta", "epsilon", "pair"), list(flat()))
def test_reference_values(m, n, delta, epsilon, pair):
    found = gap([(n, m)], gaussian_epsilon(1.0, delta / 2), delta)
    assert (found.g1, found.g2) == pytest.approx(pair, rel=1e-6)
    assert compared_epsilon(gaussian(1.0), [(n, m)], delta) == pytest.approx(epsilon, rel=2e-9)


def exact_epsilon(m, shift, rounds, delta):
    """Epsilon of `rounds` Skellam releases of one coordinate, by convolving the losses, rounded to a fine grid."""
    width = int(14 * math.sqrt(m))
    k = np.arange(-width, width + shift + 1)
    log_p, log_q = (np.log(special.ive(np.abs(k - s), m)) for s in (shift, 0))
    keep = np.isfinite(log_p) & np.isfinite(log_q)
    losses, p = (log_p - log_q)[keep], np.exp(log_p[keep])
    if rounds == 1:
        return root(losses, p, delta)
    h = 1e-4
    index = np.rint(losses / h).astype(int)
    total = np.zeros(index.max() - index.min() + 1)
    np.add.at(total, index - index.min(), p)
    size = 1 << math.ceil(math.log2(rounds * len(total)))
    composed = np.fft.irfft(np.fft.rfft(total, size) ** rounds, size)
    grid = h * (rounds * index.min() + np.arange(size))
    return root(grid, np.maximum(composed - 1e-18, 0), delta)


def root(losses, p, delta):
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = losses > middle
        value = np.dot(p[above], -np.expm1(middle - losses[above]))
        low, high = (middle, high) if value > delta else (low, middle)
    return low


@pytest.mark.parametrize(
    ("m", "rounds", "shift", "truth", "recipe"),
    [
        (2**16, 1, 256, 4.3770048674, 4.4203379995),
        (2**16, 10, 81, 4.3800208670, 4.4309644886),
        (2**20, 1, 1024, 4.3771671006, 4.3798764263),
        (2**20, 10, 324, 4.3800375240, 4.3832224832),
        (2**28, 1, 2**14, 4.3771780531, 4.3771890797),
    ],
)
def test_never_below_the_exact_figure_of_one_coordinate(m, rounds, shift, truth, recipe):
    figure = compared_epsilon(gaussian(math.sqrt(rounds) * shift / math.sqrt(m)), [(rounds, m)], 1e-5)
    assert figure == pytest.approx(recipe, rel=1e-9)
    assert figure > truth
    if m <= 2**20:  # exactly computed again; the largest variance is taken from the table
        assert exact_epsilon(m, shift, rounds, 1e-5) == pytest.approx(truth, rel=1e-9 if rounds == 1 else 1e-6)


def log_skellam(k, m):
    """ln of e^-m I_k(m), by the trapezoidal rule on a contour through the saddle point; no cancellation."""
    root = mpmath.sqrt(m**2 + mpmath.mpf(k) ** 2)
    step = mpmath.mpf(1) / 8 / mpmath.sqrt(root)
    terms = [
        mpmath.exp(-root * (1 - mpmath.cos(h))) * mpmath.cos(k * (h - mpmath.sin(h)))
        for h in (j * step for j in range(-112, 113))
    ]
    return root - m - k * mpmath.asinh(k / m) + mpmath.log(step * mpmath.fsum(terms) / (2 * mpmath.pi))


def test_the_contour_gives_the_bessel_function():
    with mpmath.workdps(40):
        for k in (0, 3, 200, 448):
            direct = mpmath.log(mpmath.besseli(k, 1024)) - 1024
            assert abs(log_skellam(k, mpmath.mpf(1024)) - direct) < mpmath.mpf(10) ** -30


def laws(m, reach):
    """(k, ln M, ln G) for |k| <= reach sqrt(m), in mpmath."""
    m = mpmath.mpf(m)
    steps = sorted({round(float(x) * math.sqrt(m)) for x in np.linspace(0, reach, 60)})
    for k in steps:
        log_m = log_skellam(k, m)
        ends = [(k - mpmath.mpf(1) / 2) / mpmath.sqrt(m), (k + mpmath.mpf(1) / 2) / mpmath.sqrt(m)]
        log_g = mpmath.log(mpmath.ncdf(-ends[0]) - mpmath.ncdf(-ends[1]))
        yield k, log_m, log_g


@pytest.mark.parametrize("m", [1024, 1500, 4096, 65536, 1048576])
def test_the_facts(m):
    with mpmath.workdps(40):
        for k, log_m, log_g in laws(m, min(14, math.sqrt(m) / 2)):
            x2 = mpmath.mpf(k) ** 2 / m
            middle = (x2**2 - 7 * x2 + 4) / (24 * m)
            loss = log_m - log_g
            assert middle - (x2**3 / 80 + 0.29 * x2 + 0.05) / m**2 <= loss
            assert loss <= middle + (0.127 * x2**2 + 0.075) / m**2
            assert -loss <= mpmath.mpf(3) / (8 * m)
            if x2 >= 9:
                assert abs(loss) <= x2**2 / (24 * m)


@pytest.mark.parametrize("m", [1024, 4096, 65536])
def test_moments_and_tails(m):
    k = np.arange(0, int(12 * math.sqrt(m)))
    ends = np.array([k - 0.5, k + 0.5]) / math.sqrt(m)
    # The difference of two logarithms loses digits; its series does not, and `test_the_facts` bounds the rest of it.
    x2 = k**2 / m
    loss = (x2**2 - 7 * x2 + 4) / (24 * m)
    rest = (x2**3 / 80 + 0.29 * x2**2 + 0.29 * x2 + 0.08) / m**2
    skellam = special.ive(k, m)
    rounded = stats.norm.sf(ends[0]) - stats.norm.sf(ends[1])
    for p in (skellam, rounded):
        weight = np.where(k == 0, p, 2 * p)
        assert weight.sum() == pytest.approx(1.0, abs=1e-9)
        assert math.sqrt(np.dot(weight, (np.abs(loss) + rest) ** 2)) <= 0.22 / m
        assert abs(np.dot(weight, loss)) <= (0.22 / m) ** 2 + np.dot(weight, rest)
        for cut in (3.0, 5.0, 8.0):
            assert weight[k > cut * math.sqrt(m)].sum() <= 2 * math.exp(-(cut**2) / 2.1)


@pytest.mark.parametrize("m", [1024, 4096, 65536])
def test_the_discrete_gaussian_keeps_the_facts(m):
    k = np.arange(0, int(10 * math.sqrt(m)))
    x = k / math.sqrt(m)
    with mpmath.workdps(40):
        norm = mpmath.sqrt(2 * mpmath.pi * m)  # Poisson's summation formula: the rest is below e^(-2 pi^2 m)
        losses = []
        for j in k[:: max(1, len(k) // 60)]:
            ends = [(int(j) + half) / mpmath.sqrt(m) for half in (mpmath.mpf(-1) / 2, mpmath.mpf(1) / 2)]
            log_g = mpmath.log(mpmath.ncdf(-ends[0]) - mpmath.ncdf(-ends[1]))
            losses.append(float(-(mpmath.mpf(int(j)) ** 2) / (2 * m) - mpmath.log(norm) - log_g))
    x = x[:: max(1, len(k) // 60)]
    assert losses == pytest.approx(list(-(x**2 - 1) / (24 * m)), abs=float(np.max(x**4)) / (900 * m**2) + 1 / m**2)
    assert max(-np.array(losses)[x < 3]) <= 3 / (8 * m)
    assert all(abs(loss) <= max(v, 3.0) ** 4 / (24 * m) for loss, v in zip(losses, x, strict=True))


def test_where_the_comparison_cannot_be_used():
    assert compared_epsilon(gaussian(1.0), [(10, 1023.0)], 1e-5) == math.inf
    assert compared_epsilon(gaussian(1.0), [(10, 1e9), (10, 1000.0)], 1e-5) == math.inf
    assert compared_epsilon(gaussian(1.0), [(10**12, 1024.0)], 1e-5) == math.inf  # g1 is large
    assert compared_epsilon(gaussian(60.0), [(10, 2.0**40)], 1e-5) == math.inf  # epsilon above 600
    assert compared_epsilon(gaussian(1.0), [(10, 2.0**40)], 1e-28) == math.inf  # below what the samplers promise
    assert gap([(10, 100.0)], 1.0, 1e-5) is None


def test_more_coordinates_and_less_variance_cost_more():
    def figure(n, m, shares=True):
        return compared_epsilon(gaussian(1.0), [(n, m)], 1e-5, shares=shares)

    by_length = [figure(n, 2.0**20) for n in (1, 10, 10**3, 10**5, 10**7)]
    by_variance = [figure(1000, 2.0**bits) for bits in (40, 30, 24, 20, 16)]
    assert by_length == sorted(by_length)
    assert by_variance == sorted(by_variance)
    assert by_variance[0] > gaussian_epsilon(1.0, 1e-5)
    assert figure(10**9, 2.0**40, shares=False) < figure(10**9, 2.0**40)
    two = compared_epsilon(gaussian(1.0), [(500, 2.0**20), (500, 2.0**20)], 1e-5)
    assert two == pytest.approx(figure(1000, 2.0**20), rel=1e-12)
