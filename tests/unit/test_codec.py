"""Fixed point: the exact norm bound on adversarial inputs, rounding, capacity, and every refusal."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from privfl.codec import FixedPoint, square_norm
from privfl.errors import CapacityError, ConfigError
from privfl.ring import Ring

RING = Ring(32)


def within(values: np.ndarray[Any, Any], codec: FixedPoint, max_norm: float) -> bool:
    """The bound in exact arithmetic, by other means than the codec's own."""
    return sum(v * v for v in values.tolist()) <= (Fraction(codec.scale) * Fraction(max_norm)) ** 2


def test_values_inside_the_bound_are_rounded_half_to_even() -> None:
    codec = FixedPoint(2.0, RING)
    x = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 0.2, -1.3])
    assert codec.encode(x, max_norm=100.0).tolist() == [0, 2, 2, 0, -2, 0, -3]
    np.testing.assert_array_equal(codec.decode(np.array([0, 1, -3])), [0.0, 0.5, -1.5])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4", ">f8"])
def test_every_float_type_and_stride_encodes_alike(dtype: Any) -> None:
    codec = FixedPoint(2.0**8, RING)
    x = np.linspace(-1, 1, 129).astype(dtype)
    expected = [round(float(v) * 256) for v in x]
    assert codec.encode(x, max_norm=100.0).tolist() == expected
    assert codec.encode(x[::-1], max_norm=100.0).tolist() == expected[::-1]
    assert codec.encode(np.repeat(x, 3)[::3], max_norm=100.0).tolist() == expected
    assert codec.encode(x, max_norm=100.0).dtype == np.int64


def test_the_input_is_not_touched() -> None:
    x = np.linspace(-1, 1, 50)
    x.flags.writeable = False
    FixedPoint(100.0, RING).encode(x, max_norm=0.1)


ADVERSARIAL = {
    "entries just above a half": (np.full(100_000, 0.5 + 1e-9), 1.0, math.sqrt(100_000) * 0.5),
    "a half, rounded up": (np.full(70_000, 1.5), 1.0, math.sqrt(70_000) * 1.5),
    "a norm at the bound": (np.full(33_333, 1 / math.sqrt(33_333)), 2.0**20, 1.0),
    "float32 at the bound": (np.full(33_333, 1 / math.sqrt(33_333), np.float32), 2.0**20, 1.0),
    "one entry of ten, limit 99": (np.array([10.0]), 1.0, math.sqrt(99)),
    "two entries, limit 1": (np.array([0.8, 0.6000001]), 1.0, 1.0),
    "limit 0": (np.array([0.9, -0.9]), 1.0, 0.9),
    "far above the bound": (np.array([3e8, -4e8, 1.0]), 1.0, 2.0),
    "large limbs": (np.array([3e18, -4e18, 1.0]), 1.0, 4.9e18),
    "a scale that is no power of two": (np.full(1000, 0.1), 12345.678, 0.1 * math.sqrt(1000)),
    "tiny values, huge scale": (np.array([1e-150]), 1e151, math.sqrt(99.0) * 1e-151),
    "huge values, tiny scale": (np.array([1e150]), 1e-149, math.sqrt(99.0) * 1e149),
    "slowly shrinking": (np.full(17, 1.9), 1.0, math.sqrt(16.0)),
}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_integer_norm_keeps_the_bound_exactly(name: str, rounding: Any) -> None:
    x, scale, max_norm = ADVERSARIAL[name]
    codec = FixedPoint(scale, Ring(64))
    for seed in range(5):
        values = codec.encode(x, max_norm=max_norm, rounding=rounding, rng=np.random.default_rng(seed))
        assert within(values, codec, max_norm)


def test_a_vector_at_the_bound_loses_a_unit_of_norm_and_not_its_small_entries() -> None:
    rng = np.random.default_rng(0)
    codec = FixedPoint(2.0**16, RING)
    for rounding in ("nearest", "stochastic"):
        x = rng.normal(size=50_000)
        x /= np.linalg.norm(x)
        values = codec.encode(x, max_norm=1.0, rounding=rounding, rng=rng)  # type: ignore[arg-type]
        error = values - x * codec.scale
        assert np.abs(error).mean() < 0.4  # toward zero would give 0.5
        assert abs(float(np.dot(error, x))) < 3


def test_the_last_resort_rounds_toward_zero() -> None:
    # 1.9 is rounded to 2 until the factor is below 1.5/1.9: four tries do not get there.
    x = np.full(600, 1.9)
    codec = FixedPoint(1.0, RING)
    limit = 4 * 600 - 1
    values = codec.encode(x, max_norm=math.sqrt(limit), rounding="nearest")
    assert within(values, codec, math.sqrt(limit))
    assert set(values.tolist()) == {1}
    up = np.random.default_rng(0)
    tiny = codec.encode(np.full(10_000, 1e-3), max_norm=1.0, rounding="stochastic", rng=up)
    assert square_norm(tiny) <= 1


def test_a_chunk_boundary_changes_nothing() -> None:
    codec = FixedPoint(1000.0, RING)
    x = np.random.default_rng(1).normal(size=3 * (1 << 14) + 7)
    whole = codec.encode(x, max_norm=1e6)
    np.testing.assert_array_equal(whole, np.rint(x * 1000.0).astype(np.int64))


def test_large_integers_encode_exactly_through_both_ways_of_conversion() -> None:
    codec = FixedPoint(1.0, Ring(64))
    values = [2**k + e for k in (29, 30, 31, 50, 51, 52, 53, 60, 62) for e in (0, 2048)] + [2**63 - 1024]
    for value in values:
        for v in (value, -value):
            x = np.array([float(v), 0.0, 3.0])
            assert codec.encode(x, max_norm=2.0**70).tolist() == [int(float(v)), 0, 3]


def test_length_zero_and_one() -> None:
    codec = FixedPoint(1.0, RING)
    assert codec.encode(np.empty(0), max_norm=1.0).tolist() == []
    assert codec.encode(np.array([7.0], np.float32), max_norm=7.0).tolist() == [7]
    assert square_norm(np.empty(0, np.int64)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_what_is_not_finite_is_refused_with_its_place(bad: float, dtype: Any, rounding: Any) -> None:
    x = np.zeros(40_000, dtype)
    x[39_000] = bad
    with pytest.raises(ConfigError, match=r"entry 39000 is .*finite"):
        FixedPoint(1.0, RING).encode(x, max_norm=1.0, rounding=rounding, rng=np.random.default_rng(0))


def test_a_signaling_nan_is_refused_without_a_warning() -> None:
    x = np.array([0x7FA00000, 0], np.uint32).view(np.float32)
    with pytest.raises(ConfigError, match=r"entry 0 is not finite"):
        FixedPoint(2.0, RING).encode(x, max_norm=1.0)


@pytest.mark.parametrize("value", [1e300, 2.0**63, -(2.0**63)])
def test_values_beyond_int64_are_refused_with_their_place(value: float) -> None:
    with pytest.raises(ConfigError, match=r"entry 1 .* 2\^63 units"):
        FixedPoint(1.0, RING).encode(np.array([0.0, value]), max_norm=1.0)
    with pytest.raises(ConfigError, match=r"entry 0 .* 2\^63 units"):
        FixedPoint(1e10, RING).encode(np.array([1e300]), max_norm=1.0)  # overflows while it is scaled


def test_subnormals_become_zero() -> None:
    x = np.array([5e-324, -5e-324, 1e-310])
    assert FixedPoint(2.0**512, RING).encode(x, max_norm=1.0).tolist() == [0, 0, 0]
    assert FixedPoint(2.0**512, RING).encode(x, max_norm=1e-200).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "x", [[1.0], np.ones((2, 2)), np.ones(3, np.int64), np.ones(3, complex), np.float64(1.0), None]
)
def test_only_flat_float_arrays_are_encoded(x: Any) -> None:
    with pytest.raises(ConfigError, match="a flat numpy array of floats"):
        FixedPoint(1.0, RING).encode(x, max_norm=1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bounds_must_be_positive_and_finite(bad: float) -> None:
    codec = FixedPoint(1.0, RING)
    with pytest.raises(ConfigError, match="max_norm must be"):
        codec.encode(np.ones(1), max_norm=bad)
    with pytest.raises(ConfigError, match="max_abs must be"):
        codec.encode_entries(np.ones(1), max_abs=bad)
    with pytest.raises(ConfigError, match="clip_norm must be"):
        codec.sensitivity(bad)
    with pytest.raises(ConfigError, match="clip_norm must be"):
        codec.check_capacity(clip_norm=bad, cohort=1)
    with pytest.raises(ConfigError, match="clip_norm must be"):
        FixedPoint.fit(RING, clip_norm=bad, cohort=1)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_noise_must_be_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(ConfigError, match="noise_stddev must be"):
        FixedPoint(1.0, RING).check_capacity(clip_norm=1.0, cohort=1, noise_stddev=bad)
    with pytest.raises(ConfigError, match="noise_multiplier must be"):
        FixedPoint.fit(RING, clip_norm=1.0, cohort=1, noise_multiplier=bad)
    with pytest.raises(ConfigError, match="max_abs must be"):
        FixedPoint(1.0, RING).bound(bad)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 5e-324, 1e300])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale must be"):
        FixedPoint(scale, RING)


def test_rounding_must_be_named_and_have_its_randomness() -> None:
    codec = FixedPoint(1.0, RING)
    with pytest.raises(ConfigError, match="'nearest' or 'stochastic'"):
        codec.encode(np.ones(1), max_norm=1.0, rounding="up")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs an rng"):
        codec.encode(np.ones(1), max_norm=1.0, rounding="stochastic")


def test_stochastic_rounding_is_unbiased_repeatable_and_leaves_integers() -> None:
    codec = FixedPoint(1.0, RING)
    x = np.array([0.3, -0.3, 5.75, -2.0, 2.0**28, 0.0])
    rng = np.random.default_rng(5)
    draws = np.array([codec.encode(x, max_norm=1e10, rounding="stochastic", rng=rng) for _ in range(20_000)])
    assert np.abs(draws.mean(axis=0) - x).max() < 5 * 0.5 / math.sqrt(20_000)
    assert (np.abs(draws - x) < 1).all()
    assert (draws[:, 3:] == x[3:]).all()
    one, two = (codec.encode(x, max_norm=1e10, rounding="stochastic", rng=np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_entries_are_clipped_one_by_one() -> None:
    codec = FixedPoint(10.0, RING)
    assert codec.encode_entries(np.array([0.26, 3.0, -1e9]), max_abs=1.55).tolist() == [3, 15, -15]
    with pytest.raises(ConfigError, match=r"below 2\^63"):
        codec.encode_entries(np.array([0.0]), max_abs=1e30)
    with pytest.raises(ConfigError, match="finite"):
        codec.encode_entries(np.array([math.inf]), max_abs=1.0)


def test_bound_and_sensitivity_are_exact() -> None:
    codec = FixedPoint(10.0, RING)
    assert codec.bound(0.1) == 1  # 0.1 is a little more than a tenth
    assert codec.bound(0.3) == 2  # and 0.3 a little less than three
    assert codec.bound(0.0) == 0
    for scale in (3.3, 1e5 / 7, 2.0**20):
        for clip in (0.1, 1 / 3, 7.7):
            exact = Fraction(scale) * Fraction(clip)
            sensitivity = FixedPoint(scale, RING).sensitivity(clip)
            assert Fraction(sensitivity) >= exact > Fraction(math.nextafter(sensitivity, 0))
    assert math.isinf(FixedPoint(2.0**500, RING).sensitivity(1e300))


def test_capacity_is_checked_to_the_unit_and_names_what_would_suffice() -> None:
    codec = FixedPoint(1.0, Ring(16))
    codec.check_capacity(clip_norm=1.0, cohort=2**15 - 1)
    with pytest.raises(CapacityError, match="17 bits would suffice"):
        codec.check_capacity(clip_norm=1.0, cohort=2**15)
    FixedPoint(1.0, Ring(17)).check_capacity(clip_norm=1.0, cohort=2**15)
    codec.check_capacity(clip_norm=1.0, cohort=1, noise_stddev=1638.3)
    with pytest.raises(CapacityError, match="noise stddev"):
        codec.check_capacity(clip_norm=1.0, cohort=1, noise_stddev=1638.4)
    with pytest.raises(CapacityError, match="lower the scale or the clip"):
        FixedPoint(1e100, Ring(64)).check_capacity(clip_norm=1e300, cohort=10**9)


@pytest.mark.parametrize("bits", [8, 16, 31, 53, 54, 63, 64])
@pytest.mark.parametrize(
    ("clip", "cohort", "noise"), [(1.0, 1, 0.0), (1.5, 7, 1.1), (1e-9, 1000, 0.3), (3.7e9, 3, 1e-3)]
)
def test_fit_is_the_finest_power_of_two(bits: int, clip: float, cohort: int, noise: float) -> None:
    ring = Ring(bits)
    codec = FixedPoint.fit(ring, clip_norm=clip, cohort=cohort, noise_multiplier=noise)
    assert math.frexp(codec.scale)[0] == 0.5
    codec.check_capacity(clip_norm=clip, cohort=cohort, noise_stddev=codec.scale * clip * noise)
    finer = FixedPoint(2 * codec.scale, ring)
    with pytest.raises(CapacityError):
        finer.check_capacity(clip_norm=clip, cohort=cohort, noise_stddev=finer.scale * clip * noise)
    values = codec.encode(np.array([clip]), max_norm=clip)
    assert within(values, codec, clip)


def test_fit_stays_in_the_range_of_scales() -> None:
    assert FixedPoint.fit(Ring(64), clip_norm=1e-300, cohort=1).scale == 2.0**512
    with pytest.raises(ConfigError, match="noise must be"):
        FixedPoint.fit(RING, clip_norm=1e300, cohort=1, noise_multiplier=1e300)
    with pytest.raises(ConfigError, match="scale must be"):
        FixedPoint.fit(RING, clip_norm=1e300, cohort=1)


def test_numpy_numbers_are_numbers() -> None:
    codec = FixedPoint(float(np.float32(4.0)), RING)
    codec.check_capacity(clip_norm=np.float64(1.0), cohort=np.int64(5))  # type: ignore[arg-type]
    assert codec.encode(np.array([1.0]), max_norm=np.float32(1.0)).tolist() == [4]  # type: ignore[arg-type]
    assert FixedPoint.fit(RING, clip_norm=np.float32(1.0), cohort=np.int32(3)).scale == 2.0**29  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [[-(2**63)], [2**63 - 1] * 3, [-(2**63), 2**63 - 1, 1], [2**32, 2**31, -(2**32) + 1], [2**26, 2**27], [94906266]],
)
def test_the_square_norm_is_exact_for_any_int64(values: list[int]) -> None:
    assert square_norm(np.array(values, np.int64)) == sum(v * v for v in values)


def test_the_square_norm_is_exact_over_chunks_of_the_largest_values() -> None:
    values = np.full(2 * (1 << 14) + 3, -(2**63), np.int64)
    assert square_norm(values) == len(values) << 126


def test_encode_reads_its_input_at_most_six_times() -> None:
    class Counted(np.ndarray):  # type: ignore[type-arg]
        read = 0

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            Counted.read += part.size
            return np.asarray(part)

    def passes(x: np.ndarray[Any, Any], **how: Any) -> float:
        Counted.read = 0
        FixedPoint(1.0, RING).encode(x.view(Counted), **how)
        return Counted.read / len(x)

    assert passes(np.full(40_000, 1.9), max_norm=1e6) == 1
    long = np.random.default_rng(0).normal(size=40_000) * 3
    assert passes(long, max_norm=float(np.linalg.norm(long))) == 2
    assert passes(np.full(600, 1.9), max_norm=math.sqrt(2399)) == 6
