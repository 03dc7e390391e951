"""Polynomials read out of SEAL's memory, and the way through files and lists where that cannot be done."""

import os
import sys
from typing import Any

import numpy as np
import pytest

from privfl.he import memory, plan_ckks
from privfl.he.keys import secret_polynomial
from privfl.he.packing import from_coefficients
from privfl.he.plan import PRIMES
from privfl.he.seal import SealCipher, _Parameters, _parameters
from privfl.ring import Ring

KEY = bytes(range(32))
PLAN = plan_ckks(3 * 4096 - 7, 3, Ring(23))
VALUES = np.random.default_rng(0).integers(-(1 << 20), 1 << 20, PLAN.length)


def fresh(parts: Any) -> Any:
    """A seeded ciphertext at the scale 2^16."""
    plain = parts.seal.Plaintext()
    parts.encoder.encode([1.0 + 2.0j], 2.0**16, plain)
    key = parts.secret_key(np.ones(parts.degree, np.int8))
    return parts.seal.Encryptor(parts.context, key).encrypt_symmetric(plain)


@pytest.fixture(scope="module")
def parts() -> Any:
    made = _Parameters(2048, PRIMES[2048, 40], 128)
    thing = fresh(made)
    block = np.empty(2048, np.uint64)
    seed = made.take_apart(thing, 2.0**16, block)  # nothing was searched for yet: through the file
    assert not made._window.found
    made._window.search(thing, 2.0**16, block, seed)
    return made


def test_memory_can_be_read_here(parts: Any) -> None:
    """Otherwise the tests below compare one way with itself."""
    assert parts._window.found == (sys.platform == "linux" and sys.implementation.name == "cpython")


needs_memory = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process its memory as a file")


@pytest.mark.parametrize("size", [1, PLAN.degree - 1, PLAN.degree, PLAN.degree + 1, 9 * PLAN.degree])
@pytest.mark.parametrize("blind", [(), ("encrypt",), ("decrypt",), ("encrypt", "decrypt")])
def test_both_ways_encrypt_and_decrypt_the_same(
    monkeypatch: pytest.MonkeyPatch, blind: tuple[str, ...], size: int
) -> None:
    plan = plan_ckks(size, 3, Ring(23), degree=4096)
    values = np.resize(VALUES, size)
    cipher = SealCipher(plan, secret_polynomial(KEY, plan))
    window = _parameters(plan.degree, plan.modulus, 128)._window
    with monkeypatch.context() as patch:
        if "encrypt" in blind:
            patch.setattr(window, "_place", None)
        block, seeds = cipher.encrypt(values)
    with monkeypatch.context() as patch:
        if "decrypt" in blind:
            patch.setattr(window, "_place", None)
        found = np.concatenate([part.reshape(-1) for part in cipher.decrypt(block, [seeds])])
    assert np.array_equal(np.rint(found)[:size], values)
    assert not np.rint(found)[size:].any()
    assert (block < plan.modulus).all()
    assert len({seeds[at : at + 64] for at in range(0, len(seeds), 64)}) == plan.chunks


@needs_memory
def test_one_look_that_fails_is_made_up_for_by_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    cipher = SealCipher(PLAN, secret_polynomial(KEY, PLAN))
    block, seeds = cipher.encrypt(VALUES)
    seen = np.concatenate(list(cipher.decrypt(block, [seeds])))
    window = _parameters(PLAN.degree, PLAN.modulus, 128)._window
    read, calls = window.read_coefficients, []

    def sometimes(thing: Any, scale: float, out: Any) -> bool:
        calls.append(scale)
        return len(calls) != 2 and read(thing, scale, out)

    monkeypatch.setattr(window, "read_coefficients", sometimes)
    again = np.concatenate(list(cipher.decrypt(block, [seeds])))
    assert len(calls) == PLAN.chunks
    assert np.abs(again - seen).max() < 1e-6
    assert np.abs(again - seen)[[0, 2]].max() == 0
    assert np.array_equal(np.rint(again).reshape(-1)[: PLAN.length], VALUES)


@pytest.mark.parametrize("bits", [23, 31, 39, 43])
def test_the_transform_of_slots_is_seals(bits: int) -> None:
    plan = plan_ckks(4096, 3, Ring(bits))
    parts = _parameters(plan.degree, plan.modulus, 128)
    rng = np.random.default_rng(bits)
    coefficients = rng.integers(-(1 << 30), 1 << 30, 4096)
    coefficients[:2] = -(1 << (bits + 10)), 1 << (bits + 10)
    transformed = np.array(
        parts._util.ntt_negacyclic_harvey((coefficients % plan.modulus).tolist(), parts._tables), np.uint64
    )
    cipher = parts.put_together(transformed, [bytes(64)], plan.scale)
    nothing = SealCipher(plan, np.zeros(4096, np.int8))  # under the key 0 a ciphertext is its own first half
    plain = parts.seal.Plaintext()
    nothing._decryptor.decrypt(cipher, plain)
    mine = from_coefficients((coefficients % plan.modulus).astype(np.uint64)[None], plan.modulus, plan.scale)
    theirs = parts.values(plain)
    assert np.abs(mine[0] - theirs).max() <= 1e-12 * np.abs(theirs).max()


@needs_memory
def test_what_is_not_as_expected_is_not_read(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    window, thing, out = parts._window, fresh(parts), np.empty(2048, np.uint64)
    assert window.read(thing, 2.0**16, out) is not None
    assert window.read(thing, 2.0**17, out) is None
    assert not window.read_coefficients(thing, 2.0**16, out)  # it is transformed
    whole = parts.put_together(out, [bytes(64)], 2.0**16)
    assert window.read(whole, 2.0**16, out) is None  # its second polynomial is no seed
    for name, value in (
        ("_identity", bytes(32)),
        ("_degree", 4096),
        ("_memory", -1),
        ("_before", b"\0"),
        ("_place", 5),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(window, name, value)
            assert window.read(thing, 2.0**16, out) is None, name
    with monkeypatch.context() as patch:  # an address outside of everything, and one that is none
        for address in (1 << 12, (1 << 64) - 1):
            words = bytes(memory._OBJECT.pack(parts._identity, 1, 2, 2048, 1, 2.0**16, 1))
            words += bytes(8 * window._place - len(words)) + address.to_bytes(8, "little")
            patch.setattr(window, "_look", lambda at, size, words=words: words[-8:] if size == 8 else words)
            assert window.read(thing, 2.0**16, out) is None
    assert window.read(thing, 2.0**16, out) is not None


@needs_memory
def test_nothing_is_found_where_the_content_is_another(parts: Any) -> None:
    window = memory.Window(parts._identity, 2048, parts._generator(), 64)
    window.search(fresh(parts), 2.0**16, np.zeros(2048, np.uint64), bytes(64))
    assert not window.found


@needs_memory
def test_a_forked_child_sees_its_own_memory(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parts._window._memory
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert parts._window.read(fresh(parts), 2.0**16, np.empty(2048, np.uint64)) is not None
    assert parts._window._memory != before


def test_systems_without_such_a_file(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = np.empty(2048, np.uint64)
    thing = fresh(parts)
    seed = parts.take_apart(thing, 2.0**16, block)
    for change in (
        lambda patch: patch.setattr(sys, "platform", "darwin"),
        lambda patch: patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError())),
    ):
        with monkeypatch.context() as patch:
            change(patch)
            window = memory.Window(parts._identity, 2048, parts._generator(), 64)
        window.search(thing, 2.0**16, block, seed)
        assert not window.found
