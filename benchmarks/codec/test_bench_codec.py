"""The codec against `np.rint` on the same array: 1M float32 values."""

import harness
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from privfl.codec import FixedPoint
from privfl.ring import Ring

LENGTH = 1_000_000
CODEC = FixedPoint(2.0**20, Ring(32))
X = np.random.default_rng(0).normal(size=LENGTH).astype(np.float32)
X /= np.linalg.norm(X)
TOTAL = CODEC.encode(X, max_norm=2.0)


def test_bench_ratios() -> None:
    rng = np.random.default_rng(1)
    rows = [
        ("encode nearest, inside the norm bound", 15.0, lambda: CODEC.encode(X, max_norm=2.0)),
        # Rounding lengthens a vector that was clipped to the bound: a second pass. No limit is set for it.
        ("encode nearest, at the norm bound", None, lambda: CODEC.encode(X, max_norm=1.0)),
        ("encode stochastic", 30.0, lambda: CODEC.encode(X, max_norm=2.0, rounding="stochastic", rng=rng)),
        ("decode", 6.0, lambda: CODEC.decode(TOTAL)),
    ]
    results = [
        harness.ratio(name, function, peer="np.rint", against=lambda: np.rint(X), limit=limit)
        for name, limit, function in rows
    ]
    harness.write("codec", results, values=LENGTH, dtype="float32")
    for row in results:
        print(f"{row.name:40} {1e3 * row.seconds:6.2f} ms {row.ratio:5.1f}x")
    harness.check(*results)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_bench_encode(benchmark: BenchmarkFixture, rounding: str) -> None:
    rng = np.random.default_rng(1)
    benchmark(lambda: CODEC.encode(X, max_norm=2.0, rounding=rounding, rng=rng))  # type: ignore[arg-type]


def test_bench_decode(benchmark: BenchmarkFixture) -> None:
    benchmark(CODEC.decode, TOTAL)


@pytest.mark.parametrize("dense", [False, True])
def test_bench_pack(benchmark: BenchmarkFixture, dense: bool) -> None:
    ring = Ring(20)
    words = ring.reduce(TOTAL)
    benchmark(ring.pack, words, dense=dense)
