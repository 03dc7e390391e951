"""The norm bound, as a property: whatever the vector, the scale and the bound."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfl.codec import FixedPoint, square_norm
from privfl.errors import ConfigError
from privfl.ring import Ring

RING = Ring(64)
scales = st.one_of(st.integers(-40, 40).map(lambda k: 2.0**k), st.floats(1e-9, 1e9))
vectors = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 40),
    elements=st.floats(-60000, 60000, width=16),
)
near_halves = st.lists(
    st.builds(lambda k, e: k + 0.5 + e, st.integers(-4, 4), st.sampled_from([0.0, 1e-15, -1e-15, 1e-6])), max_size=30
).map(np.array)


@given(
    st.one_of(vectors, near_halves.filter(lambda x: x.dtype.kind == "f")), scales, st.floats(1e-6, 1e6), st.booleans()
)
def test_the_norm_bound_is_exact(x: np.ndarray, scale: float, max_norm: float, stochastic: bool) -> None:
    codec = FixedPoint(scale, RING)
    rng = np.random.default_rng(0)
    values = codec.encode(x, max_norm=max_norm, rounding="stochastic" if stochastic else "nearest", rng=rng)
    square = sum(v * v for v in values.tolist())
    assert square <= (Fraction(scale) * Fraction(max_norm)) ** 2
    assert square_norm(values) == square


@given(near_halves.filter(lambda x: x.dtype.kind == "f"), st.integers(0, 200))
def test_the_norm_bound_is_exact_where_rounding_matters_most(x: np.ndarray, square_limit: int) -> None:
    codec = FixedPoint(1.0, RING)
    max_norm = max(float(square_limit) ** 0.5, 0.5)
    values = codec.encode(x, max_norm=max_norm)
    assert square_norm(values) <= Fraction(max_norm) ** 2


@given(hnp.arrays(np.float64, st.integers(0, 10), elements=st.floats(width=64)), st.floats(2.0**-512, 2.0**512))
def test_any_floats_are_encoded_within_the_bound_or_refused(x: np.ndarray, scale: float) -> None:
    codec = FixedPoint(scale, RING)
    max_norm = 1.0 / scale * 7.3
    try:
        values = codec.encode(x, max_norm=max_norm)
    except ConfigError:
        assert not np.isfinite(x).all() or max(abs(Fraction(v)) for v in x.tolist()) * Fraction(scale) >= 2**62
        return
    assert square_norm(values) <= (Fraction(scale) * Fraction(max_norm)) ** 2


@given(vectors, st.integers(0, 12))
def test_encoding_is_a_rounding_inside_the_bound(x: np.ndarray, exponent: int) -> None:
    codec = FixedPoint(2.0**exponent, RING)
    values = codec.encode(x, max_norm=1e9)
    assert values.tolist() == [round(Fraction(float(v)) * 2**exponent) for v in x]
    decoded = codec.decode(values)
    assert np.abs(decoded - x.astype(np.float64)).max(initial=0) <= 0.5 / codec.scale
