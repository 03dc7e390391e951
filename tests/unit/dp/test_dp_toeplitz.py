"""Square-root Toeplitz noise: its matrix, its prices, exact rounding on any bits, and noise that repeats."""

import math
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest

from privfl.dp.correlated import simulated_secret, streams_of
from privfl.dp.noise import toeplitz
from privfl.dp.noise.sampler import decimal_pair, seeded_entropy
from privfl.dp.noise.toeplitz import MAX_STDDEV, ToeplitzNoise, column_norm, column_of, error_norms, taken_back
from privfl.errors import ConfigError


def seeded(*use: int):
    return seeded_entropy(8, *use)


# dp-spec, part 4.
@pytest.mark.parametrize(
    ("rounds", "column", "largest", "rms"),
    [(1000, 1.806932, 3.265003, 3.102239), (100, 1.591022, 2.531352, 2.370658)],
)
def test_the_specified_norms(rounds: int, column: float, largest: float, rms: float) -> None:
    assert column_norm(rounds) == pytest.approx(column, abs=5e-7)
    assert error_norms(rounds) == pytest.approx((largest, rms), abs=5e-7)


def test_norms_by_the_matrices_themselves() -> None:
    n = 40
    c, d = column_of(n), taken_back(n)
    matrix = sum(np.diag(np.full(n - i, c[i]), -i) for i in range(n))
    inverse = sum(np.diag(np.full(n - i, d[i]), -i) for i in range(n))
    np.testing.assert_allclose(matrix @ matrix, np.tril(np.ones((n, n))), atol=1e-12)
    np.testing.assert_allclose(matrix @ inverse, np.eye(n), atol=1e-12)
    columns = np.linalg.norm(matrix, axis=0)
    assert column_norm(n) == pytest.approx(columns.max(), rel=1e-12)
    assert [column_norm(n - t) for t in range(n)] == pytest.approx(columns.tolist(), rel=1e-12)
    rows = np.linalg.norm(matrix, axis=1) * columns.max()
    assert error_norms(n) == pytest.approx((rows.max(), math.sqrt(np.mean(rows**2))), rel=1e-12)


def test_a_column_norm_is_never_below_the_exact_one() -> None:
    square, c = Fraction(0), Fraction(1)
    for n in range(1, 300):
        square += c * c
        c = c * (2 * n - 1) / (2 * n)
        assert Fraction(column_norm(n)) ** 2 >= square
        assert column_norm(n) <= math.sqrt(square) * (1 + 1e-11)
    assert column_norm(1) == 1.0


def test_long_columns_are_bounded_and_go_on_where_sums_end() -> None:
    top = 1 << 16
    long = np.sqrt(np.cumsum(np.square(column_of(4 * top))))
    for n in (top, top + 1, 2 * top, 4 * top):
        assert long[n - 1] <= column_norm(n) <= long[n - 1] * (1 + 1e-5)
    assert column_norm(1 << 24) > column_norm(1 << 20)
    with pytest.raises(ConfigError, match="up to 65536 rounds"):
        error_norms(top + 1)


def test_noise_repeats_and_does_not_depend_on_what_was_asked_before() -> None:
    one = ToeplitzNoise(33, seeded)
    rounds = {r: one.sample(500.0, r) for r in (1, 2, 3, 4, 5)}
    for r in (5, 2, 4, 1, 3):
        np.testing.assert_array_equal(ToeplitzNoise(33, seeded).sample(500.0, r), rounds[r])
    with mock.patch.object(toeplitz, "_KEPT", 0):
        for r, noise in rounds.items():
            np.testing.assert_array_equal(ToeplitzNoise(33, seeded).sample(500.0, r), noise)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("stddev", [0.3, 40.0, 2.0**30])
def test_decimals_and_floats_round_alike(length: int, stddev: float) -> None:
    genuine = toeplitz.standard_pairs

    def unsure(v, w):
        first, second, error = genuine(v, w)
        return first, second, error + 1.0

    exact = [ToeplitzNoise(length, seeded).sample(stddev, r) for r in (1, 2, 6)]
    with mock.patch.object(toeplitz, "standard_pairs", unsure):
        for r, noise in zip((1, 2, 6), exact, strict=True):
            np.testing.assert_array_equal(ToeplitzNoise(length, seeded).sample(stddev, r), noise)


def test_the_bound_of_an_error_holds() -> None:
    rng = np.random.default_rng(3)
    # Tails of v on both sides are where a logarithm or a root loses digits.
    v = np.concatenate([
        rng.integers(0, 2**64, 300, np.uint64),
        np.array([1, 2, 3, 2**11, 2**30, 2**64 - 1, 2**64 - 2, 2**64 - 2**12, 2**64 - 2**33], np.uint64),
    ])  # fmt: skip
    w = rng.integers(0, 2**64, len(v), np.uint64)
    first, second, error = toeplitz.standard_pairs(v, w)
    for i in range(len(v)):
        for more in (0, 2**128 - 1, 1 << 100):  # any bits that may follow
            exact = decimal_pair(int(v[i]) << 128 | more, int(w[i]) << 128 | more, 192)
            assert exact is not None
            assert abs(float(exact[0]) - first[i]) <= error[i]
            assert abs(float(exact[1]) - second[i]) <= error[i]
    assert np.median(error) < 1e-13
    zero = toeplitz.standard_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64))
    assert np.isinf(zero[2][0])


def test_a_uniform_of_which_nothing_is_known_is_settled_by_more_bits() -> None:
    def streams(*use: int):
        return seeded(*use) if len(use) > 1 else bytes  # 64 zero bits in every uniform

    noise = ToeplitzNoise(2, streams).sample(10.0, 3)
    assert noise.dtype == np.int64
    assert np.all(np.abs(noise) < 1000)


def test_the_law_of_rounds_and_of_their_sums() -> None:
    n, rounds, stddev = 40_000, 12, 300.0
    made = ToeplitzNoise(n, streams_of(simulated_secret(4)))
    noise = np.array([made.sample(stddev, r) for r in range(1, rounds + 1)], np.float64)
    d = taken_back(rounds)
    expected = np.array(
        [
            [d[: min(a, b) + 1] @ d[abs(a - b) : abs(a - b) + min(a, b) + 1] for a in range(rounds)]
            for b in range(rounds)
        ]
    )
    found = noise @ noise.T / n / stddev**2
    np.testing.assert_allclose(found, expected, atol=6 / math.sqrt(n))
    sums = np.cumsum(noise, axis=0).std(axis=1) / stddev
    np.testing.assert_allclose(sums, [column_norm(t) for t in range(1, rounds + 1)], rtol=0.02)
    fresh = column_of(rounds)[::-1] @ noise / stddev  # C times the noise gives the last fresh part back
    assert fresh.std() == pytest.approx(1.0, rel=0.02)


def test_arguments_out_of_range() -> None:
    noise = ToeplitzNoise(3, seeded)
    with pytest.raises(ConfigError, match="above 2\\^36: lower the codec's scale"):
        noise.sample(MAX_STDDEV * 1.1, 1)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="stddev"):
            noise.sample(bad, 1)
    with pytest.raises(ConfigError, match="round"):
        noise.sample(1.0, 0)
    with pytest.raises(ConfigError, match="length"):
        ToeplitzNoise(0, seeded)
    with pytest.raises(ConfigError, match="rounds"):
        column_norm(0)
