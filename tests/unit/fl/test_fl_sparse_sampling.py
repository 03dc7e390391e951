"""Sparse sampling has the law of a coin for each client, to the last bit of a probability."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from privfl.fl.sampling import (
    FixedSizeSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
    sampled,
    secret_uniforms,
    seeded_uniforms,
)
from privfl.fl.sparse_sampling import Absence, Coins, power_bounds, sparse_subset, uniform_subset

ONE = 1 << 53


def coins(seed: int) -> Coins:
    return Coins(np.random.default_rng(seed).random)


def deviation(seen: Counter, law: dict, draws: int) -> float:
    """Chi square of these counts as a normal deviation (Wilson and Hilferty)."""
    square = math.fsum((seen[key] - draws * p) ** 2 / (draws * p) for key, p in law.items())
    freedom = len(law) - 1
    return ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


@pytest.mark.parametrize("q", [0.02, 0.3, 0.5, 0.97])
def test_every_subset_has_the_probability_of_independent_coins(q: float) -> None:
    size, draws, stream = (6 if 0.1 < q < 0.9 else 2), 20_000, coins(int(q * 100))
    law = {
        tuple(np.flatnonzero(pattern).tolist()): math.prod(q if taken else 1 - q for taken in pattern)
        for pattern in itertools.product((False, True), repeat=size)
    }
    seen = Counter(tuple(sparse_subset(size, q, stream)) for _ in range(draws))
    assert seen.keys() <= law.keys()
    assert deviation(seen, law, draws) < 5


def test_everybody_is_sampled_with_certainty_and_the_smallest_probability_ends() -> None:
    assert list(sparse_subset(5, 1.0, coins(0))) == [0, 1, 2, 3, 4]
    assert not list(sparse_subset(10**6, 2.0**-53, coins(0)))


@pytest.mark.parametrize("secret", [False, True])
def test_a_large_population_has_binomial_cohorts_and_equal_clients(secret: bool) -> None:
    population, q, draws = 1 << 16, 2.0**-13, 1500
    counts, places = Counter[int](), np.zeros(16)
    for round in range(draws):
        stream = secret_uniforms(b"k" * 32, round) if secret else seeded_uniforms(5, round)
        cohort = sampled(PoissonSampler(q), population, stream, private=True)
        counts[min(len(cohort), 16)] += 1
        places += np.bincount(np.array(cohort, int) * 16 // population, minlength=16)
    law = {k: math.comb(population, k) * q**k * (1 - q) ** (population - k) for k in range(2, 16)}
    low = sum(math.comb(population, k) * q**k * (1 - q) ** (population - k) for k in range(2))
    seen = Counter({k: counts[k] for k in range(2, 16)} | {"low": counts[0] + counts[1], "high": counts[16]})
    assert deviation(seen, law | {"low": low, "high": 1 - low - math.fsum(law.values())}, draws) < 5
    expected = draws * population * q / 16
    assert ((places - expected) ** 2 / expected).sum() < 50  # chi square of 16 degrees at 2e-5


def test_a_cap_takes_a_uniform_part_of_a_cohort_that_is_too_large() -> None:
    population, sampler, places = 1 << 16, TruncatedPoissonSampler(2.0**-13, 3), np.zeros(8)
    sizes = Counter[int]()
    for round in range(1500):
        cohort = sampled(sampler, population, seeded_uniforms(9, round))
        assert list(cohort) == sorted(set(cohort))
        sizes[len(cohort)] += 1
        places += np.bincount(np.array(cohort, int) * 8 // population, minlength=8)
    assert max(sizes) == 3
    assert sizes[3] / 1500 == pytest.approx(1 - math.exp(-8) * (1 + 8 + 32), abs=0.01)
    expected = places.sum() / 8
    assert ((places - expected) ** 2 / expected).sum() < 33
    subsets = Counter(uniform_subset((3, 5, 6, 9, 12), 2, stream) for stream in [coins(1)] for _ in range(10_000))
    law = dict.fromkeys(itertools.combinations((3, 5, 6, 9, 12), 2), 0.1)
    assert subsets.keys() == law.keys()
    assert deviation(subsets, law, 10_000) < 5


def test_powers_are_between_their_bounds() -> None:
    for base, exponent, bits in itertools.product((0, 1, ONE // 3, ONE - 1, ONE), (0, 1, 2, 7, 1000), (53, 106, 212)):
        low, high = power_bounds(base, exponent, bits)
        exact = Fraction(base, ONE) ** exponent * (1 << bits)
        assert low <= exact <= high
        assert high - low <= 2 * exponent + 2


def test_floats_and_integers_decide_alike() -> None:
    """With a margin of 1 every coin is compared in integers: the same coins sample the same clients."""
    for seed, q in itertools.product(range(20), (1e-3, 0.2, 1 / 3)):
        assert list(sparse_subset(3000, q, coins(seed))) == list(sparse_subset(3000, q, coins(seed), margin=1.0))


def test_a_coin_at_the_border_is_decided_by_its_further_bits() -> None:
    """(1-p)^2 for p = 2^-53 lies between two coins: the next coin decides, at the right place."""
    threshold, border = 1, ONE - 2  # (1-p)^2 = 1 - 2^-52 + 2^-106
    rest = (Fraction(ONE - 1, ONE) ** 2 * ONE - border) * ONE  # what is left of it, in units of the next coin

    def with_bits(values: Iterator[int]) -> Absence:
        return Absence(threshold, Coins(lambda count: np.array([next(values) / ONE for _ in range(count)])))

    assert rest == 1
    assert with_bits(itertools.chain([border, 0], itertools.repeat(0))).happens(2)
    assert not with_bits(itertools.chain([border, 1], itertools.repeat(0))).happens(2)
    assert with_bits(itertools.repeat(border - 1)).happens(2)
    assert not with_bits(itertools.repeat(border + 1)).happens(2)


def test_the_coins_follow_the_cohort_and_not_the_population() -> None:
    for sampler in (PoissonSampler(2e-5), TruncatedPoissonSampler(2e-5, 10), FixedSizeSampler(20)):
        taken = []

        def counted(count: int, taken: list[int] = taken) -> np.ndarray:
            taken.append(count)
            return np.random.default_rng(len(taken)).random(count)

        sampled(sampler, 10**6, counted)
        assert sum(taken) < 500


def test_secret_coins_go_on_after_the_first_call() -> None:
    stream, again = secret_uniforms(b"a" * 32, 1), secret_uniforms(b"a" * 32, 1)
    first, second = stream(64), stream(64)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.stack([again(64), again(64)]), np.stack([first, second]))
