"""Vectors in slots, and residues in bytes."""

import numpy as np
import pytest

from privfl.errors import WireError
from privfl.he import plan_ckks
from privfl.he.packing import add_block, from_slots, pack, to_slots, unpack
from privfl.ring import Ring

WIDTHS = [(23, 5), (31, 6), (39, 7), (43, 8)]


@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_residues_survive_packing(bits: int, size: int) -> None:
    plan = plan_ckks(100_000, 3, Ring(bits))
    rng = np.random.default_rng(bits)
    residues = rng.integers(0, plan.modulus, plan.chunks * plan.degree, dtype=np.uint64)
    residues[:2] = 0, plan.modulus - 1
    packed = pack(residues, size)
    assert plan.residue_bytes == size
    assert len(packed) == plan.block_bytes
    assert packed[size : 2 * size] == (plan.modulus - 1).to_bytes(size, "little")
    assert np.array_equal(unpack(packed, plan), residues)
    total = residues.copy()
    add_block(total, packed, plan)
    assert np.array_equal(total, 2 * residues)


@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_a_residue_at_the_prime_is_refused_and_nothing_is_added(bits: int, size: int) -> None:
    plan = plan_ckks(100_000, 3, Ring(bits))
    residues = np.zeros(plan.chunks * plan.degree, np.uint64)
    residues[-1] = plan.modulus
    total = np.zeros_like(residues)
    total[0] = 1
    packed = pack(np.ones_like(residues), size)[:-size] + pack(residues[-1:], size)
    with pytest.raises(WireError, match="below the prime"):
        add_block(total, packed, plan)
    assert total.sum() == 1
    with pytest.raises(WireError, match="bytes"):
        unpack(packed + b"\0", plan)


def test_slots_hold_two_values_each() -> None:
    values = np.arange(1, 6)
    slots = to_slots(values, 4)
    assert np.array_equal(slots, [[1 + 3j, 2 + 4j], [5, 0]])
    assert np.array_equal(from_slots(slots).reshape(-1), [1, 2, 3, 4, 5, 0, 0, 0])
