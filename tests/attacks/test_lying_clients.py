"""What clients may try on a masked sum: they are dropped and named, and cannot bend the others' sum unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import Credentials, SigningKey, generate_identities
from privfl.crypto.shamir import PRIME, SHARE_BYTES, share_to_bytes
from privfl.errors import ConfigError, LocalProtocolError, WireError
from privfl.ring import Ring
from privfl.secagg import MaskedSum, keys
from privfl.secagg.messages import (
    BOX_BYTES,
    AdvertiseKeys,
    Bitmap,
    ConsistencyCheck,
    MaskedInput,
    ShareKeys,
    Unmask,
)
from privfl.sums import SumTask, run_sum
from privfl.wire import HEADER_BYTES, Message

Make = Callable[..., Any]


def body(kind: type[Message], message: bytes) -> Any:
    return kind.from_body(memoryview(message)[HEADER_BYTES:])


def up(game: Any, client: int, message: Message) -> None:
    game.uplink[client] = message.to_bytes(sender=client, task=game.session)


def blamed(game: Any, client: int) -> str:
    game.finish()
    result = game.server.result
    assert set(result.survivors) == set(game.task.clients) - {client}
    assert set(result.blamed) == {client}
    return str(result.blamed[client])


@pytest.mark.parametrize("mode", ["signed", "semi-honest"])
def test_low_order_key_of_a_client(play: Make, mode: str, identities: Any) -> None:
    """Correctly signed, and stopped at the server: else every other client would have to abort."""
    scheme = MaskedSum(identities[1]) if mode == "signed" else MaskedSum(mode="semi-honest")
    game = play(scheme=scheme)
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    public = bytes(32) + bytes(body(AdvertiseKeys, game.uplink[1]).keys)[32:]
    signature = identities[0][1].signing.sign(keys.ADVERTISE, game.session, keys.id_bytes(1), public)
    up(game, 1, AdvertiseKeys(public, signature if mode == "signed" else b""))
    assert "low order" in blamed(game.send(), 1)


def test_key_of_another_client(play: Make, identities: Any) -> None:
    """Client 2 signs client 1's keys as its own: the second of the two is dropped."""
    game = play()
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    public = body(AdvertiseKeys, game.uplink[1]).keys
    signature = identities[0][2].signing.sign(keys.ADVERTISE, game.session, keys.id_bytes(2), public)
    up(game, 2, AdvertiseKeys(public, signature))
    assert "one key stands for two" in blamed(game.send(), 2)
    twice = public[:32] * 2
    game = play()
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    up(
        game,
        2,
        AdvertiseKeys(twice, identities[0][2].signing.sign(keys.ADVERTISE, game.session, keys.id_bytes(2), twice)),
    )
    assert "one key stands for two" in blamed(game.send(), 2)


def test_impersonation(play: Make) -> None:
    game = play()
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    advert = body(AdvertiseKeys, game.uplink[1])
    forged = SigningKey.generate().sign(keys.ADVERTISE, game.session, keys.id_bytes(1), advert.keys)
    up(game, 1, AdvertiseKeys(advert.keys, forged))
    assert "does not verify" in blamed(game.send(), 1)


def test_unsigned_advertisement(play: Make) -> None:
    game = play()
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    up(game, 1, AdvertiseKeys(body(AdvertiseKeys, game.uplink[1]).keys, b""))
    assert "signature of 0 bytes" in blamed(game.send(), 1)


def test_stranger_to_the_directory() -> None:
    credentials, directory = generate_identities([0, 1, 2])
    outsider = Credentials.generate(3)
    task = SumTask(b"", (0, 1, 2, 3), 2, 2, Ring(32), 10)
    vectors = {c: np.array([c, 1]) for c in task.clients}
    result = run_sum(MaskedSum(directory), task, vectors, credentials={**credentials, 3: outsider})
    assert result.survivors == {0, 1, 2}
    assert "directory" in result.blamed[3]


def test_message_in_anothers_name(play: Make) -> None:
    game = play()
    game.uplink = {c: session.start() for c, session in game.clients.items()}
    forged = game.uplink[2]
    with pytest.raises(WireError, match="another sender or session"):
        game.server.receive(1, forged)
    assert not game.server.blamed  # the one in whose name it came has not sent it, perhaps
    game.send().finish()
    assert game.server.result.survivors == set(range(5))


def test_second_answer_to_one_step(play: Make) -> None:
    """A repeated upload, the same or another one, is ignored and not added again."""
    game = play().until(2).answer()
    game.server.receive(1, game.uplink[1])
    saved = game.server.to_bytes()
    first = game.uplink.pop(1)
    game.server.receive(1, first)
    values = bytes(body(MaskedInput, first).values)[::-1]
    other = MaskedInput(game.server._keys.input_check(1, values), values)
    game.server.receive(1, other.to_bytes(sender=1, task=game.session))
    assert game.server.to_bytes() == saved
    game.send().finish()
    assert game.server.result.survivors == set(range(5))
    assert not game.server.result.blamed
    game.server.receive(1, first)
    with pytest.raises(WireError):
        game.server.receive(1, b"")
    with pytest.raises(LocalProtocolError):
        game.server.advance()


def test_wrong_signature_on_the_survivors(play: Make) -> None:
    game = play().until(3).answer()
    up(game, 1, ConsistencyCheck(bytes(64)))
    game.send().finish()
    assert "does not verify" in game.server.result.blamed[1]
    assert game.server.result.survivors == set(range(5))  # its vector was in already


def test_shares_that_are_no_shares(play: Make) -> None:
    game = play().until(4).answer()
    honest = bytes(body(Unmask, game.uplink[1]).shares)
    above = share_to_bytes(PRIME) + honest[SHARE_BYTES:]
    for given, shares in [(range(5), above), (range(5), honest[:-1]), (range(4), honest), (range(6), honest)]:
        fork = game.fork()
        up(fork, 1, Unmask(Bitmap.of(max(5, len(given)), given), shares))
        fork.send()
        assert set(fork.server.result.blamed) == {1}
        fork.finish()


def test_too_few_or_too_many_boxes(play: Make) -> None:
    for count in (0, 3, 5):
        game = play().until(1).answer()
        up(game, 1, ShareKeys(bytes(32), bytes(count * BOX_BYTES)))
        assert "boxes" in blamed(game.send(), 1)


def test_upload_of_another_length(play: Make) -> None:
    for size in (0, 12, 15, 17, 20):
        game = play().until(2).answer()
        values = bytes(size)
        up(game, 1, MaskedInput(game.server._keys.input_check(1, values), values))
        game.send().finish()
        assert (1 in game.server.result.blamed) == (size < 16)  # a longer one is not even read
        assert 1 not in game.server.result.survivors


def test_damaged_upload(play: Make) -> None:
    game = play().until(2).answer()
    damaged = bytearray(game.uplink[1])
    damaged[-1] ^= 1
    game.uplink[1] = bytes(damaged)
    game.send().finish()
    assert "damaged" in game.server.result.blamed[1]


# --- what a vector may be ------------------------------------------------------------------------------------------

TASK = SumTask(b"bounds", (0, 1, 2, 3), 2, 1, Ring(8), 31)


def total_of(task: SumTask, vectors: dict[int, Any]) -> Any:
    return run_sum(MaskedSum(mode="semi-honest"), task, vectors).total


@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_at_the_bound_and_one_above(sign: int) -> None:
    """4 x 31 = 124 still fits 8 bits; 32 is refused at its client, and a bound of 32 with the task."""
    at = {c: np.array([sign * 31], np.int8) for c in TASK.clients}
    assert total_of(TASK, at).tolist() == [sign * 124]
    with pytest.raises(ConfigError, match="bound"):
        total_of(TASK, {**at, 2: np.array([sign * 32])})
    with pytest.raises(ConfigError, match="ring"):
        SumTask(b"", (0, 1, 2, 3), 2, 1, Ring(8), 32)


@pytest.mark.parametrize(
    "vector",
    [np.array([np.nan]), np.array([1.0], np.float32), np.array([True]), np.array([1 + 2j]), np.array(["1"]), [1], None],
    ids=["nan", "float", "bool", "complex", "text", "list", "none"],
)
def test_vectors_that_are_not_integers(vector: Any) -> None:
    with pytest.raises(ConfigError, match="integers"):
        total_of(TASK, dict.fromkeys(TASK.clients, vector))


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1), ()])
def test_empty_and_misshapen_vectors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        total_of(TASK, dict.fromkeys(TASK.clients, np.zeros(shape, np.int64)))


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "<i4", "u4", "i8", ">u8"])
def test_all_integer_types_and_strides(dtype: str) -> None:
    """Reversed, strided and read-only arrays are summed as what they hold, and are not written to."""
    task = SumTask(b"", (0, 1, 2), 2, 5, Ring(16), 100)
    whole = np.arange(30).astype(dtype)
    vectors = {0: whole[::6], 1: whole[:5][::-1], 2: whole.reshape(5, 6)[:, 2]}
    whole.flags.writeable = False
    expected = sum(v.astype(np.int64) for v in vectors.values())
    np.testing.assert_array_equal(total_of(task, vectors), expected)
