"""Packing, tags, keys, the session cipher and the door to SEAL, piece by piece."""

import ctypes
import sys
import threading
import types
import zlib
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError, MissingExtra, WireError
from privfl.he import plan_ckks, seal
from privfl.he.authenticator import SessionCipher, Tagger
from privfl.he.exchange import ExchangeFile
from privfl.he.keys import KeyedEntropy, KeyStore, key_id, keystream, secret_polynomial
from privfl.he.messages import NO_KEY
from privfl.he.packing import add_block, from_slots, pack, to_slots, unpack
from privfl.he.plan import PRIMES
from privfl.ring import Ints, Ring
from privfl.sums import KeyedOpening, PlainSum, SumTask, run_sum

WIDTHS = [(23, 5), (31, 6), (39, 7), (43, 8)]
KEY = bytes(range(32))


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


@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_tags_of_frames_add_up_to_the_tag_of_the_sum(bits: int, size: int) -> None:
    plan = plan_ckks(200_000, 3, Ring(bits))
    tagger = Tagger(plan, KEY, bytes(32))
    rng = np.random.default_rng(0)
    count = plan.chunks * plan.degree
    blocks = [rng.integers(0, plan.modulus, count, dtype=np.uint64) for _ in range(3)]
    total = (sum(block.astype(object) for block in blocks) % plan.modulus).astype(np.uint64)
    tags = [(client, tagger.sign(tagger.block(block), client)) for client, block in enumerate(blocks)]
    assert tagger.total(tags) == tagger.block(total)
    for at in (0, 1, count - 1):
        changed = total.copy()
        changed[at] = (int(changed[at]) + 1) % plan.modulus
        assert tagger.total(tags) != tagger.block(changed)
    assert Tagger(plan, KEY, bytes([1]) * 32).block(total) != tagger.block(total)
    assert Tagger(plan, bytes(32), bytes(32)).block(total) != tagger.block(total)


def test_a_tag_is_the_polynomial_of_its_docstring() -> None:
    plan = plan_ckks(5000, 3, Ring(23))
    tagger = Tagger(plan, KEY, bytes(32))
    residues = np.random.default_rng(1).integers(0, plan.modulus, 2 * 4096, dtype=np.uint64)
    weights = [
        [sum(int(x) << 17 * i for i, x in enumerate(row[3 * t : 3 * t + 3])) for row in tagger._inner] for t in (0, 1)
    ]
    for t, tag in enumerate(tagger.block(residues)):
        inner = [sum(int(c) * r for c, r in zip(row, weights[t], strict=True)) for row in residues.reshape(2, 4096)]
        outer = [sum(int(x) << 17 * i for i, x in enumerate(row)) for row in tagger._outer[t]]
        assert tag == sum(w * v for w, v in zip(outer, inner, strict=True)) % plan.modulus


def test_the_secret_is_uniform_ternary_and_fixed_by_the_key() -> None:
    plan = plan_ckks(10_000, 3, Ring(23))
    secret = secret_polynomial(KEY, plan)
    assert np.array_equal(secret, secret_polynomial(KEY, plan))
    assert secret.shape == (4096,)
    counts = [(secret == value).sum() for value in (-1, 0, 1)]
    assert sum(counts) == 4096
    assert all(abs(count - 4096 / 3) < 5 * 30.2 for count in counts)
    assert not np.array_equal(secret, secret_polynomial(bytes(32), plan))
    assert not np.array_equal(secret, secret_polynomial(KEY, plan_ckks(10_000, 3, Ring(31))))


def test_keyed_entropy_is_one_stream() -> None:
    one, two = KeyedEntropy(KEY, b"t"), KeyedEntropy(KEY, b"t")
    whole = two(200_000)
    assert b"".join([one(1), one(0), one(70_000), one(129_999)]) == whole
    assert KeyedEntropy(KEY, b"u")(200_000) != whole
    assert len({whole[i : i + 16] for i in range(0, 200_000, 16)}) == 12_500
    assert len(keystream(KEY, 13)) == 13


@pytest.mark.parametrize("rotation", [1, 2, 3, 7])
def test_a_store_gives_a_key_to_as_many_sums_as_its_rotation(rotation: int) -> None:
    store = KeyStore(rotation)
    assert store.held == NO_KEY
    assert store.reserve() is None
    store.keep(KEY)  # dealt in a first sum
    for _ in range(rotation - 1):
        assert store.held == key_id(KEY)
        assert store.reserve() == KEY
    assert store.held == NO_KEY
    assert store.reserve() is None
    assert "_key" not in repr(KeyStore.holding(KEY))


def test_a_key_dealt_in_an_overlapping_sum_takes_the_place_of_the_one_before() -> None:
    store, other = KeyStore(rotation=3), bytes(32)
    store.keep(KEY)
    assert store.reserve() == KEY
    store.keep(other)
    assert store.reserve() == other
    assert store.reserve() == other
    assert store.reserve() is None
    store.keep(other)  # dealt once more after its uses: it counts anew
    store.keep(other)
    assert store.reserve() == other
    assert store.reserve() is None


def test_no_two_threads_reserve_the_same_use() -> None:
    for _ in range(50):
        store = KeyStore(rotation=6)
        store.keep(KEY)
        barrier, reserved = threading.Barrier(8), []

        def reserve(store: KeyStore = store, barrier: threading.Barrier = barrier, out: list[Any] = reserved) -> None:
            barrier.wait()
            out.append(store.reserve())

        threads = [threading.Thread(target=reserve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(bool, reserved)) == [False] * 3 + [True] * 5


def test_a_keyed_opening_works_at_a_server_too() -> None:
    def make(entropy: Any) -> Any:
        def opening(total: Ints, survivors: frozenset[int]) -> Ints:
            assert len(entropy(8)) == 8
            return total + len(survivors)

        return opening

    task = SumTask(b"", (1, 2), 1, 2, Ring(16), 5)
    result = run_sum(PlainSum(), task, {1: np.array([1, 2]), 2: np.array([3, 4])}, opening=KeyedOpening(make))
    assert result.total.tolist() == [6, 8]


# SEAL


@pytest.mark.parametrize(("degree", "bits"), list(PRIMES))
def test_the_self_test_knows_this_tenseal(degree: int, bits: int) -> None:
    seal.self_test(degree, bits)


def test_the_transform_is_linear_over_small_coefficients() -> None:
    """-1 must become q - 1, not a byte of it."""
    parts = seal._Parameters(2048, PRIMES[2048, 40], 128)
    secret = secret_polynomial(KEY, plan_ckks(10, 2, Ring(23)))
    both = parts.transform(secret) + parts.transform(-secret)
    assert set(both.tolist()) == {parts.modulus}


def test_another_layout_or_generator_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = seal._Parameters(2048, PRIMES[2048, 40], 128)
    pinned = seal._PINNED[2048, 40]
    parts.test(pinned)
    with pytest.raises(ConfigError, match=r"use tenseal 0\.3\.15 to 0\.3\.18"):
        parts.test("0" * 64)
    for name, value in (
        ("_front", lambda scale: bytes(97)),
        ("_generator", lambda: bytes(17)),
        ("_written", lambda thing, file: b"short"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(parts, name, value)
            with pytest.raises(ConfigError, match="lays out"):
                parts.test(pinned)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "to_slots", lambda values, degree: to_slots(values[::-1], degree))
        with pytest.raises(ConfigError, match="lays out"):
            parts.test(pinned)
    with monkeypatch.context() as patch:
        patch.setattr(ExchangeFile, "read", lambda self: bytes(100))
        with pytest.raises(ConfigError, match="lays out"):
            parts.test(pinned)
    parts.test(pinned)


def test_parameters_that_seal_refuses() -> None:
    with pytest.raises(ConfigError, match="SEAL refuses"):
        seal._Parameters(1024, PRIMES[2048, 40], 128)


def test_a_missing_tenseal_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal.sealapi.util", None)
    with pytest.raises(MissingExtra, match=r"privfl\[he\]"):
        seal._sealapi()


def test_what_seal_compressed_is_inflated() -> None:
    buffer = ctypes.create_string_buffer(100)
    assert seal._inflate(0, b"--as it is", 2, buffer) == b"as it is"
    assert seal._inflate(1, b"--" + zlib.compress(b"packed"), 2, buffer) == b"packed"
    with pytest.raises(ValueError, match="Zstandard"):
        seal._inflate(2, b"--nonsense", 2, buffer)


def test_a_build_that_hides_zstandard_falls_back_to_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: types.SimpleNamespace())
    package = types.ModuleType("zstandard")
    package.decompress = lambda data: data[::-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", package)
    decode = seal._zstandard.__wrapped__()
    assert decode(b"abc", ctypes.create_string_buffer(10)) == b"cba"
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match="zstandard"):
        seal._zstandard.__wrapped__()


def test_a_cipher_does_not_show_its_key() -> None:
    plan = plan_ckks(10, 2, Ring(23))
    assert repr(seal.SealCipher(plan, secret_polynomial(KEY, plan))) == "SealCipher(degree=2048, prime_bits=40)"


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 9 * 4096])
@pytest.mark.parametrize("bits", [23, 43])
def test_a_sealed_vector_opens_to_itself_and_no_randomness_occurs_twice(bits: int, size: int) -> None:
    plan = plan_ckks(size, 3, Ring(bits), degree=4096)
    cipher = SessionCipher(plan, KEY, bytes(32))
    values = np.random.default_rng(size).integers(-(1 << (bits - 4)), 1 << (bits - 4), size)
    all_seeds: set[bytes] = set()
    for sender in range(3):
        seeds, block, tag = cipher.seal(values, sender)
        residues = unpack(block, plan)
        assert tag == cipher.tagger.sign(cipher.tagger.block(residues), sender)
        rounded, worst = cipher.open(residues, [seeds], limit=0.4)
        assert np.array_equal(rounded[:size], values)
        assert not rounded[size:].any()
        assert worst < 10 * plan.noise_stddev(1)
        all_seeds |= {seeds[at : at + 64] for at in range(0, len(seeds), 64)}
    assert len(all_seeds) == 3 * plan.chunks
    assert repr(cipher) == "SessionCipher(SealCipher(degree=4096, prime_bits=" + f"{plan.prime_bits}))"


@pytest.mark.parametrize("off", [0.3, -0.3])
def test_the_worst_slot_counts_whatever_its_sign_and_place(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    plan = plan_ckks(20 * 4096, 3, Ring(23))
    cipher = SessionCipher(plan, KEY, bytes(32))
    seeds, block, _ = cipher.seal(np.arange(20 * 4096), 0)
    decrypt, taken = seal.SealCipher.decrypt, []

    def altered(self: Any, total: Any, seeds: Any) -> Any:
        for number, values in enumerate(decrypt(self, total, seeds)):
            taken.append(number)
            values[-1, 17] += off if number == 1 else 0
            yield values

    monkeypatch.setattr(seal.SealCipher, "decrypt", altered)
    _, worst = cipher.open(unpack(block, plan), [seeds], limit=0.25)
    assert not worst <= 0.25
    assert taken == [0, 1], "what follows is not decrypted"
