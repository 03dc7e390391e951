"""The secret, the streams, and the storage of a session key between sums."""

import threading
from typing import Any

import numpy as np
import pytest

from privfl.he import plan_ckks
from privfl.he.keys import KeyedEntropy, KeyStore, key_id, keystream, secret_polynomial
from privfl.he.messages import NO_KEY
from privfl.ring import Ring

KEY = bytes(range(32))


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
