"""Skellam and discrete Gaussian draws against their laws."""

import math

import numpy as np
import pytest
from scipy import stats

from privfl.dp.noise import lattice
from privfl.dp.noise.discrete_gaussian import _sampler as gaussian_sampler
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import seeded_entropy
from privfl.dp.noise.skellam import _bessel_ratios, _Exact, _Fast, skellam, skellam_reach
from privfl.dp.noise.skellam import _sampler as skellam_sampler
from privfl.errors import ConfigError


def assert_follows(draws, cdf, stddev):
    """Pearson's chi-square with at most about 200 cells, failing about once in a million seeds."""
    edges = np.unique(np.round(np.linspace(-4 * stddev, 4 * stddev, 201)))
    counts = np.diff(np.concatenate([[0], np.searchsorted(np.sort(draws), edges, side="right"), [len(draws)]]))
    expected = np.diff(np.concatenate([[0.0], cdf(edges), [1.0]])) * len(draws)
    keep = expected >= 5
    statistic, freedom = float(((counts - expected) ** 2 / expected)[keep].sum()), int(keep.sum()) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 4.9 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("variance", [0.3, 9.0, 4000.0, 4096.0, 1e6])
def test_skellam_on_two_million_draws(variance):
    draws = skellam(variance, 2_000_000, entropy=seeded_entropy(11, int(variance)))
    assert_follows(draws, lambda k: stats.skellam.cdf(k, variance / 2, variance / 2), math.sqrt(variance))
    n = len(draws)
    fourth = (3 + 1 / variance) * variance**2
    assert abs(draws.mean()) < 5 * math.sqrt(variance / n)
    assert abs((draws.astype(float) ** 2).mean() - variance) < 5 * math.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize("sigma", [0.5, 5.0, 63.0, 64.0, 1e4])
def test_discrete_gaussian_on_two_million_draws(sigma):
    draws = discrete_gaussian(sigma, 2_000_000, entropy=seeded_entropy(12, int(sigma)))
    support = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    weights = np.exp(-0.5 * (support / sigma) ** 2)
    cumulative = np.cumsum(weights) / weights.sum()
    assert_follows(draws, lambda k: cumulative[(k - support[0]).astype(int)], sigma)


def test_sums_of_skellam_shares_are_skellam():
    shares = [skellam(700.0, 200_000, entropy=seeded_entropy(13, i)) for i in range(10)]
    assert_follows(sum(shares), lambda k: stats.skellam.cdf(k, 3500, 3500), math.sqrt(7000))


def test_the_expansion_agrees_with_the_recurrence():
    variance = 3 * 4096.0
    exact, fast, ratios = _Exact(variance), _Fast(variance), _bessel_ratios(variance)
    for k in (0, 1, 7, 100, 600):
        reference = lattice.CONTEXT.ln(lattice.CONTEXT.divide(ratios[k], ratios[0]))
        assert abs(exact(k) - reference) < 1e-50
        assert abs(float(reference) - fast(np.array([float(k)]))[0]) < 1e-13


@pytest.mark.parametrize("make", [lambda: skellam_sampler(1e6), lambda: gaussian_sampler(1000.0)])
def test_the_hat_is_nowhere_below_the_law(make):
    hat = make()
    k = np.arange(0, 20_000)
    ln_hat = np.where(k < hat._half, 0.0, hat._a - hat._b * (k - hat._half))
    assert (ln_hat >= hat._law.fast(k.astype(float))).all()


class _Doubting(lattice.Hat):
    """Finds every proposal undecided, so that decimals decide it."""

    def _propose(self, count, entropy):
        stream = entropy(25 * count)
        words = np.frombuffer(stream, np.uint64, 3 * count).reshape(3, count)
        side = np.frombuffer(stream, np.uint8, count, 24 * count) & 1
        found = [self._settle(*map(int, words[:, i]), bool(side[i]), entropy) for i in range(count)]
        return np.array([k for k in found if k is not None], np.int64)


@pytest.mark.parametrize("make", [lambda: skellam_sampler(1e6), lambda: gaussian_sampler(1000.0)])
def test_decimals_and_floats_decide_alike(make):
    fast = make()
    slow = _Doubting(fast._law)
    assert np.array_equal(fast._propose(300, seeded_entropy(5)), slow._propose(300, seeded_entropy(5)))


class _Words:
    """An entropy of given 64-bit words, then of zeros."""

    def __init__(self, *words):
        self.data = b"".join(w.to_bytes(8, "little") for w in words)

    def __call__(self, count):
        part, self.data = self.data[:count], self.data[count:]
        return part.ljust(count, b"\0")


def test_a_table_draws_more_bits_where_64_do_not_decide():
    table = skellam_sampler(9.0)
    at = len(table._words) // 2
    word = int(table._words[at])
    low = table.draw(1, _Words(word, 0))[0]
    high = table.draw(1, _Words(word, 2**64 - 1))[0]
    assert high == low + 1
    assert table.draw(1, _Words(2**64 - 1, 2**64 - 1, 2**64 - 1))[0] > 30  # ten deviations


def test_an_undecided_piece_and_an_unbounded_tail_are_settled():
    hat = skellam_sampler(1e6)
    k = hat._settle(int(hat._center_word), 5, 0, True, _Words(2**64 - 1))
    assert k is None or abs(k) >= hat._half  # the upper half of that word's interval is the tail
    assert hat._steps(lattice.Decimal(0), lattice.Decimal("1e-20")) is None
    assert hat._settle(2**64 - 1, 0, 2**64 - 1, True, _Words()) is None


def test_reach_bounds_the_tail():
    for variance in (0.5, 50.0, 1e6):
        reach = skellam_reach(variance)
        assert stats.skellam.sf(reach, variance / 2, variance / 2) < 1e-50
        assert np.abs(skellam(variance, 10_000)).max() < reach


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 2.0**90])
def test_bad_variances_are_refused(bad):
    with pytest.raises(ConfigError):
        skellam(bad, 1)
