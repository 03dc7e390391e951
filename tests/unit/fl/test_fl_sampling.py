"""Samplers: what they draw has the law that they declare."""

import math
import time
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from privfl.dp import Everyone, FixedSize, Poisson, TruncatedPoisson
from privfl.errors import ConfigError
from privfl.fl.sampling import (
    CohortSampler,
    EveryoneSampler,
    FixedSizeSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
    secret_uniforms,
    seeded_uniforms,
)

N = 6
DRAWS = 2500
SAMPLERS: list[tuple[CohortSampler, object, float, int]] = [
    (EveryoneSampler(), Everyone(), 6.0, 6),
    (PoissonSampler(0.4), Poisson(0.4), 2.4, 6),
    (TruncatedPoissonSampler(0.4, 3), TruncatedPoisson(0.4, 3, N), 2.4, 3),
    (TruncatedPoissonSampler(0.9, 3), TruncatedPoisson(0.9, 3, N), 3.0, 3),
    (FixedSizeSampler(2), FixedSize(2, N), 2.0, 2),
]
NAMES = [type(sampler).__name__ for sampler, *_ in SAMPLERS]


def law(sampler: CohortSampler) -> dict[tuple[int, ...], float]:
    """The exact probability of every cohort out of N."""
    subsets = [c for size in range(N + 1) for c in combinations(range(N), size)]
    if isinstance(sampler, EveryoneSampler):
        return {tuple(range(N)): 1.0}
    if isinstance(sampler, FixedSizeSampler):
        return {c: 1.0 / math.comb(N, sampler.size) for c in subsets if len(c) == sampler.size}
    assert isinstance(sampler, PoissonSampler | TruncatedPoissonSampler)
    q = sampler.probability
    whole = {c: q ** len(c) * (1 - q) ** (N - len(c)) for c in subsets}
    if isinstance(sampler, PoissonSampler):
        return whole
    kept = {c: p for c, p in whole.items() if len(c) <= sampler.cap}
    excess = math.fsum(p for c, p in whole.items() if len(c) > sampler.cap)
    for cohort in kept:
        if len(cohort) == sampler.cap:  # a uniform subset of a cohort that is itself symmetric in the clients
            kept[cohort] += excess / math.comb(N, sampler.cap)
    return kept


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("sampler", [s for s, *_ in SAMPLERS], ids=NAMES)
def test_cohorts_have_the_declared_law(sampler: CohortSampler, secret: bool) -> None:
    expected = law(sampler)
    assert math.fsum(expected.values()) == pytest.approx(1.0)
    seen = dict.fromkeys(expected, 0)
    for round in range(DRAWS):
        coins = secret_uniforms(b"k" * 32, round) if secret else seeded_uniforms(11, round)
        seen[sampler.sample(N, coins)] += 1
    square = math.fsum((seen[c] - DRAWS * p) ** 2 / (DRAWS * p) for c, p in expected.items())
    freedom = len(expected) - 1
    # Wilson and Hilferty's cube root makes chi square normal; 5 deviations once in three million honest runs.
    if freedom:
        deviation = ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
        assert deviation < 5


@pytest.mark.parametrize(("sampler", "declared", "expected", "largest"), SAMPLERS, ids=NAMES)
def test_samplers_declare_what_they_do(sampler: CohortSampler, declared: object, expected: float, largest: int) -> None:
    assert sampler.declare(N) == declared
    sampling = sampler.declare(N)
    assert sampling.expected_size(N) == pytest.approx(expected)
    assert max(sampling.sizes(N)) == largest


def test_a_cap_above_the_population_changes_nothing() -> None:
    assert max(TruncatedPoissonSampler(0.5, 100).declare(N).sizes(N)) == N
    coins = seeded_uniforms(1, 1)(N)
    assert TruncatedPoissonSampler(0.5, 100).sample(N, lambda n: coins) == PoissonSampler(0.5).sample(
        N, lambda n: coins
    )


def test_the_ends_of_the_coins() -> None:
    coins = np.array([0.0, 0.5, np.nextafter(1.0, 0.0)])
    assert PoissonSampler(0.5).sample(3, lambda n: coins) == (0,)
    assert PoissonSampler(1.0).sample(3, lambda n: coins) == (0, 1, 2)


def test_identities_are_plain_integers() -> None:
    for sampler, *_ in SAMPLERS:
        assert all(type(client) is int for client in sampler.sample(N, seeded_uniforms(0, 3)))


def test_secret_coins_depend_on_the_secret_and_on_the_round_alone() -> None:
    first = secret_uniforms(b"a" * 32, 1)(1000)
    np.testing.assert_array_equal(first, secret_uniforms(b"a" * 32, 1)(1000))
    assert not np.array_equal(first, secret_uniforms(b"a" * 32, 2)(1000))
    assert not np.array_equal(first, secret_uniforms(b"b" * 32, 1)(1000))
    assert first.dtype == np.float64
    assert 0.0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1.0
    # A population that grows leaves the coins of the clients before it as they were.
    np.testing.assert_array_equal(first[:10], secret_uniforms(b"a" * 32, 1)(10))


def test_simulated_streams_do_not_repeat_one_another() -> None:
    """Cohorts, training, noise, first models: keyed apart, although numpy pads keys with zeros."""
    from privfl.dp.noise.sampler import seeded_entropy
    from privfl.fl.client import CENTRAL_STREAM, NOISE_STREAM, client_rng
    from privfl.fl.linear import LinearModel

    start = LinearModel("logistic", 9).initial("uniform", seed=5)
    streams = [
        seeded_uniforms(5, 0)(64).tobytes()[:80],
        client_rng(5, 0, 0).random(64).tobytes()[:80],
        np.frombuffer(seeded_entropy(5, 0, 0, NOISE_STREAM)(80), np.uint8).tobytes(),
        np.frombuffer(seeded_entropy(5, 0, 0, CENTRAL_STREAM)(80), np.uint8).tobytes(),
        ((start * 3 + 1) / 2).tobytes(),
    ]
    assert len(set(streams)) == len(streams)
    # The same generator read as floats and as bytes: compare raw words too.
    words = [
        np.random.default_rng(np.random.SeedSequence(key)).bytes(64)
        for key in ([5, 0, 2**32], [5, 0, 0], [5, 0, 0, NOISE_STREAM], [5, 0, 0, CENTRAL_STREAM], [5, 0, 2**34])
    ]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    "build",
    [
        lambda: PoissonSampler(0.0),
        lambda: PoissonSampler(1.1),
        lambda: PoissonSampler(math.nan),
        lambda: TruncatedPoissonSampler(0.5, 0),
        lambda: TruncatedPoissonSampler(-0.5, 3),
        lambda: FixedSizeSampler(0),
        lambda: FixedSizeSampler(7).sample(N, seeded_uniforms(0, 1)),
        lambda: FixedSizeSampler(7).declare(N),
    ],
)
def test_bad_samplers_are_refused(build: object) -> None:
    with pytest.raises(ConfigError):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("levels", [2, 5, 1000, 2**53])
def test_the_smallest_coins_are_those_of_a_stable_sort(levels: int) -> None:
    """Also where many coins are equal: the first of them are taken, so a cohort depends on its coins alone."""
    rng = np.random.default_rng(levels)
    for population in (1, 2, 7, 500):
        coins = rng.integers(0, levels, population) / levels
        for size in {1, 2, population // 2, population - 1, population} & set(range(1, population + 1)):
            expected = tuple(np.sort(np.argsort(coins, kind="stable")[:size]).tolist())
            assert FixedSizeSampler(size).sample(population, lambda n, coins=coins: coins) == expected
            capped = TruncatedPoissonSampler(1.0, size)
            assert capped.sample(population, lambda n, coins=coins: coins) == expected


@pytest.mark.parametrize(
    "sampler",
    [FixedSizeSampler(100), FixedSizeSampler(500_000), TruncatedPoissonSampler(0.9, 100)],
    ids=["fixed size", "half of all", "capped"],
)
def test_a_large_population_is_not_sorted(sampler: CohortSampler) -> None:
    """The time is a few times what numpy needs to find the smallest coins; a sort takes some seventy times that."""
    coins = np.random.default_rng(0).random(1_000_000)

    def seconds(call: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    size = max(sampler.declare(len(coins)).sizes(len(coins)))
    reference = seconds(lambda: np.sort(np.argpartition(coins, size)[:size]).tolist())
    assert seconds(lambda: sampler.sample(len(coins), lambda n: coins)) < 8 * reference + 0.01
