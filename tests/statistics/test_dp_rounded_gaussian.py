"""The rounded Gaussian against its law, and against a slow exact evaluation."""

import math

import numpy as np
import pytest

from privfl.dp.noise import sampler
from privfl.dp.noise.sampler import rounded_gaussian, seeded_entropy


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("stddev", [0.3, 1.0, 2.5, 40.0])
def test_chi_square_on_two_million_draws(stddev):
    draws = rounded_gaussian(stddev, 2_000_000, entropy=seeded_entropy(5, int(stddev * 10)))
    reach = math.ceil(4.5 * stddev)
    cells = np.arange(-reach, reach + 1)
    counts = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=len(cells))
    edges = np.array([phi((k + 0.5) / stddev) for k in range(-reach, reach)])
    expected = np.diff(np.concatenate([[0.0], edges, [1.0]])) * len(draws)
    keep = expected >= 5
    statistic = float(((counts - expected) ** 2 / expected)[keep].sum())
    freedom = int(keep.sum()) - 1
    # Wilson and Hilferty: 4.9 deviations, so that a right sampler fails about once in a million seeds.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.9 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


@pytest.mark.parametrize("stddev", [1.0, 1e3, 2.0**30])
def test_moments_on_two_million_draws(stddev):
    draws = rounded_gaussian(stddev, 2_000_000, entropy=seeded_entropy(6)) / stddev
    n = len(draws)
    variance = 1 + 1 / (12 * stddev**2)
    assert abs(draws.mean()) < 5 * math.sqrt(variance / n)
    assert abs((draws**2).mean() - variance) < 5 * math.sqrt(2.2 / n)
    assert abs((draws**3).mean()) < 5 * math.sqrt(18 / n)
    assert abs((draws**4).mean() - 3) < 5 * math.sqrt(105 / n) + 0.6 / stddev**2


def test_fast_and_exact_evaluations_agree():
    bits = np.frombuffer(seeded_entropy(7)(16 * 400), np.uint64)
    for stddev in (1.0, 1e5, 1e9):
        first, second = sampler._pairs(stddev, bits[:400], bits[400:], seeded_entropy(8))
        for i in range(0, 400, 8):
            exact = sampler._refine(stddev, int(bits[i]), int(bits[400 + i]), seeded_entropy(9))
            assert (first[i], second[i]) == exact


@pytest.mark.parametrize("v", [0, 1, 2**64 - 1, 2**63])
@pytest.mark.parametrize("w", [0, 2**62, 2**63, 2**64 - 1, 1 << 61])
def test_corner_bits_are_decided(v, w):
    words = np.array([v, w], np.uint64)
    first, second = sampler._pairs(1e6, words[:1], words[1:], seeded_entropy(1))
    radius = math.sqrt(-2 * math.log((v + 0.5) / 2**64)) * 1e6
    angle = 2 * math.pi * (w + 0.5) / 2**64
    slack = 2e6 if v < 2 else 2  # the bits not drawn decide
    assert abs(int(first[0]) - radius * math.cos(angle)) < slack
    assert abs(int(second[0]) - radius * math.sin(angle)) < slack


def test_secure_streams_never_repeat_and_seeded_ones_do():
    assert not np.array_equal(rounded_gaussian(1e6, 64), rounded_gaussian(1e6, 64))
    same = [rounded_gaussian(1e6, 65, entropy=seeded_entropy(1, 2, 3)) for _ in range(2)]
    assert np.array_equal(*same)
    others = [rounded_gaussian(1e6, 64, entropy=seeded_entropy(1, r, c)) for r in range(8) for c in range(8)]
    assert len({o.tobytes() for o in others}) == 64
