"""The planner: which prime and scale for which ring, the margins, the table, exact byte counts, and the quorum."""

import math
import re

import pytest

from privfl.crypto import MemoryDirectory
from privfl.errors import CapacityError, ConfigError
from privfl.he import CkksPlan, CkksSum, plan_ckks, plan_for
from privfl.he.plan import HE_STANDARD, MIN_MARGIN, PRIMES, quorum_of
from privfl.ring import MIN_BITS, Ring
from privfl.sums import SumTask


@pytest.mark.parametrize(
    ("bits", "prime_bits"), [(8, 40), (23, 40), (24, 48), (31, 48), (32, 56), (39, 56), (40, 60), (43, 60)]
)
def test_the_smallest_prime_that_holds_the_ring_at_2_to_the_16(bits: int, prime_bits: int) -> None:
    plan = plan_ckks(1_000_000, 10, Ring(bits))
    assert plan.prime_bits == prime_bits
    assert plan.scale_bits >= 16
    assert math.sqrt(2) * plan.scale * 2 ** (bits - 1) < plan.modulus / 2
    assert plan.margin >= MIN_MARGIN


@pytest.mark.parametrize("bits", [44, 52, 64])
def test_a_ring_above_43_bits_is_refused(bits: int) -> None:
    with pytest.raises(CapacityError, match=f"ring of {bits} bits"):
        plan_ckks(100, 2, Ring(bits))


def test_more_clients_take_a_larger_scale_or_prime_to_keep_14_deviations() -> None:
    small, large = plan_ckks(10_000, 10, Ring(23)), plan_ckks(10_000, 1000, Ring(23))
    assert (small.prime_bits, large.prime_bits) == (40, 48)
    assert large.margin >= MIN_MARGIN
    with pytest.raises(CapacityError, match="14 standard deviations"):
        plan_ckks(10_000, 1000, Ring(43))


def remedies(**arguments: object) -> tuple[int, int]:
    """(widest ring, most clients) that the refusal names; no clients named count as 0."""
    with pytest.raises(CapacityError) as refusal:
        plan_ckks(**arguments)  # type: ignore[arg-type]
    named = re.search(
        r"at most (\d+) bits(?: \(sum\.bits = \d+\))?"
        r"(?:, or at most (\d+) clients? with this (?:ring|clip and scale))?$",
        str(refusal.value),
    )
    assert named is not None, refusal.value
    return int(named[1]), int(named[2] or 0)


@pytest.mark.parametrize("length", [10, 100_000])
@pytest.mark.parametrize("clients", [1, 2, 10, 249, 250, 251, 252, 253, 1000, 1007, 1008, 4000, 20_000, 100_000])
def test_the_ring_that_a_refusal_names_is_the_widest_that_fits(clients: int, length: int) -> None:
    widest = max(b for b in range(MIN_BITS, 64) if fits(length, clients, b))
    assert 38 <= widest <= 43
    for bits in range(widest + 1, 65):
        named, most = remedies(length=length, clients=clients, ring=Ring(bits))
        assert named == widest < bits
        assert most < clients
        assert most == 0 or fits(length, most, bits)
        assert not fits(length, most + 1, bits)


def fits(length: int, clients: int, bits: int) -> bool:
    try:
        plan_ckks(length, clients, Ring(bits))
    except CapacityError:
        return False
    return True


@pytest.mark.parametrize(
    ("clients", "limits"),
    [
        (2, [23, 31, 39, 43]),
        (249, [23, 31, 39, 43]),
        (250, [23, 31, 39, 42]),
        (252, [23, 31, 39, 42]),
        (253, [22, 30, 38, 42]),
        (1007, [22, 30, 38, 42]),
        (1012, [21, 29, 37, 41]),
        (4000, [21, 29, 37, 41]),
        (4200, [20, 28, 36, 40]),
    ],
)
def test_the_widest_rings_that_take_5_to_8_bytes_are_those_of_the_documents(clients: int, limits: list[int]) -> None:
    sizes = {b: plan_ckks(100_000, clients, Ring(b)).residue_bytes for b in range(MIN_BITS, limits[-1] + 1)}
    assert [max(b for b, size in sizes.items() if size == limit) for limit in (5, 6, 7, 8)] == limits
    assert not fits(100_000, clients, limits[-1] + 1)


def test_a_refusal_of_clip_and_scale_names_what_fits_too() -> None:
    arguments = {"length": 100, "clip": 1.0, "scale": 2.0**40}
    named, most = remedies(clients=1000, **arguments)
    assert (named, most) == (42, 3)
    assert plan_ckks(clients=most, **arguments).bits == 43  # type: ignore[arg-type]
    assert remedies(clients=most + 1, **arguments) == (43, most)
    assert remedies(length=100, clients=2, clip=1.0, scale=2.0**50) == (43, 0)


@pytest.mark.parametrize("clients", [*range(1, 30), 999, 1000])
def test_no_two_lists_have_a_quorum_and_everybody_is_one(clients: int) -> None:
    """Each client signs one list; a quorum of one fewer would leave room for a second list."""
    quorum = quorum_of(clients)
    assert 2 * quorum > clients >= 2 * (quorum - 1)
    task = SumTask(b"", tuple(range(clients)), 1, 5, Ring(23), 10)
    assert CkksSum(MemoryDirectory({}), min_vectors=1).terms(task).quorum == quorum <= clients


def test_the_scale_is_the_largest_that_fits() -> None:
    plan = plan_ckks(10_000, 10, Ring(16))
    assert plan.scale_bits == 23
    assert math.sqrt(2) * 2 * plan.scale * 2**15 >= plan.modulus / 2


def test_bytes_a_value_stay_below_the_promise() -> None:
    assert plan_ckks(1_000_000, 10, Ring(23)).bytes_per_value <= 5.1
    assert plan_ckks(1_000_000, 10, Ring(31)).bytes_per_value <= 6.1
    plan = plan_ckks(1_000_000, 10, Ring(23))
    assert plan.bytes_down < 1.1 * plan.bytes_up
    assert plan.open_bytes(1) < plan.bytes_down


def test_the_noise_prediction_is_the_one_of_the_docstring() -> None:
    plan = plan_ckks(4096, 128, Ring(23))
    assert plan.error_stddev() == pytest.approx(3.2532 * math.sqrt(128 * 2048) / 2**16, rel=1e-3)
    assert plan.error_stddev(32) == pytest.approx(plan.error_stddev() / 2, rel=1e-6)


def test_the_range_may_come_from_clip_and_scale() -> None:
    by_clip = plan_ckks(10_000, 10, clip=1.0, scale=2.0**18)
    assert by_clip.bits == (10 * 2**18).bit_length() + 1 == 23
    assert plan_ckks(10_000, 10, clip=1.0, scale=2.0**18, max_weight=4.0).bits == 25
    assert plan_ckks(10, 1, clip=1.0, scale=1.0).bits == 8


def test_short_vectors_take_the_smaller_degree_where_the_table_allows_it() -> None:
    assert plan_ckks(2048, 10, Ring(23)).degree == 2048
    assert plan_ckks(2049, 10, Ring(23)).degree == 4096
    assert plan_ckks(10, 10, Ring(39)).degree == 4096, "a prime of 56 bits is beyond the table at degree 2048"
    assert plan_ckks(10, 10, Ring(23), security=192).degree == 4096
    assert plan_ckks(10, 10, Ring(23), degree=4096).degree == 4096


def test_parameters_beyond_the_table_are_refused() -> None:
    with pytest.raises(ConfigError, match="beyond the 128-bit security table"):
        plan_ckks(10, 10, Ring(39), degree=2048)
    with pytest.raises(ConfigError, match="degree 1024"):
        plan_ckks(10, 10, Ring(23), degree=1024)
    with pytest.raises(ConfigError, match="beyond the 256-bit security table for any degree"):
        plan_ckks(10, 10, Ring(43), security=256)
    for (degree, bits), prime in PRIMES.items():
        assert bits <= HE_STANDARD[degree][128]
        assert prime.bit_length() == bits
        assert prime % (2 * degree) == 1
        assert pow(3, prime - 1, prime) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 0, "clients": 2, "ring": Ring(23)},
        {"length": 2, "clients": 0, "ring": Ring(23)},
        {"length": 2, "clients": 100_001, "ring": Ring(23)},
        {"length": 2.0, "clients": 2, "ring": Ring(23)},
        {"length": 2, "clients": 2},
        {"length": 2, "clients": 2, "clip": 1.0},
        {"length": 2, "clients": 2, "clip": 1.0, "scale": math.nan},
        {"length": 2, "clients": 2, "clip": -1.0, "scale": 1.0},
        {"length": 2, "clients": 2, "ring": Ring(23), "scale": 1.0},
        {"length": 2, "clients": 2, "ring": Ring(23), "security": 100},
        {"length": 2, "clients": 2, "ring": Ring(23), "public_key": True},
        {"length": 2**31, "clients": 2, "ring": Ring(23)},
    ],
)
def test_contradictions_are_config_errors(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        plan_ckks(**arguments)  # type: ignore[arg-type]


def test_every_party_derives_the_same_plan_from_a_task() -> None:
    task = SumTask(b"", tuple(range(7)), 4, 5000, Ring(23), 1000)
    plan = plan_for(task)
    assert plan == plan_ckks(5000, 7, Ring(23))
    assert plan.identifier == plan_for(task).identifier != plan_for(task, security=192).identifier
    assert plan.chunks == 2
    assert plan.block_bytes == 2 * 4096 * 5
    assert isinstance(plan, CkksPlan)
