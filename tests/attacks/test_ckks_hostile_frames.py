"""Bytes that a hostile client sends to the server: each a typed error, and the honest sum unchanged.

TenSEAL itself ends the process on some of them (`0a028020` as a serialized vector); here nothing of a peer reaches it.
"""

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, WireError
from privfl.he import CkksSum
from privfl.he.messages import Advertise, Consent, Deal, Frame
from privfl.he.packing import pack, unpack
from privfl.he.server import CkksServer
from privfl.ring import Ring
from privfl.sums import SumTask
from privfl.wire import HEADER_BYTES

Make = Callable[..., Any]
EVIL = 4  # the hostile client; 0..3 are honest


def refused(room: Any, message: bytes, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match) as error:
        room.server.receive(EVIL, message)
    assert error.value.sender == EVIL
    assert EVIL not in room.server.awaiting
    room.finish({0, 1, 2, 3})
    assert room.server.result is not None
    assert EVIL in room.server.result.blamed


def unusable(room: Any, message: bytes) -> None:
    """The message changes nothing: it is EVIL's, perhaps, and its frame is taken afterwards."""
    with pytest.raises(WireError):
        room.server.receive(EVIL, message)
    assert EVIL in room.server.awaiting
    assert not room.server.blamed
    room.finish({0, 1, 2, 3, 4})


@pytest.mark.parametrize("message", [b"", b"\x0a\x02\x80\x20", b"pvfl", bytes(47), bytes(1000)])
def test_bytes_that_are_no_message(ckks: Make, message: bytes) -> None:
    unusable(ckks().upload(), message)


def test_what_tenseal_serializes_is_never_parsed(ckks: Make) -> None:
    tenseal = pytest.importorskip("tenseal")
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2**40
    with_secret_key = context.serialize(save_secret_key=True)
    vector = tenseal.ckks_vector(context, [1.0, 2.0])
    for message in (with_secret_key, vector.serialize(), (vector * 0.5).serialize()):
        unusable(ckks().upload(), message)


def test_a_seal_ciphertext_in_place_of_the_block(ckks: Make) -> None:
    """Transparent, level-dropped or many ciphertexts cannot even be written down: a block has one length."""
    for change in (
        lambda b: b * 2,
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b"",
        lambda b: b"\x5e\xa1" + b[3:],
    ):
        room = ckks().upload()
        message = room.resigned(EVIL, block=change(bytes(room.frame(EVIL).block)))
        (unusable if len(message) > room.plan.bytes_up else refused)(room, message)


@pytest.mark.parametrize("size", ["body", "seeds", "block"])
def test_sizes_missing_and_oversized(ckks: Make, size: str) -> None:
    """Each length that a frame announces: only the true one is taken, whatever a reader would allocate for it."""
    room = ckks().upload()
    frame = room.frames[EVIL]
    block = len(frame) - room.plan.block_bytes
    at, form, true = {
        "body": (HEADER_BYTES - 4, "<I", len(frame) - HEADER_BYTES),
        "seeds": (HEADER_BYTES + 4 + 32 + 32, "<Q", 64),
        "block": (block - 8, "<Q", room.plan.block_bytes),
    }[size]
    assert struct.unpack_from(form, frame, at) == (true,)
    wrong = [0, 1, true - 1, true + 1, 2 * true, 2**31, 2**32 - 1]
    for value in wrong if size == "body" else [*wrong, 2**32, 2**63, 2**64 - 1]:
        changed = bytearray(frame)
        struct.pack_into(form, changed, at, value)
        with pytest.raises((RemoteProtocolError, WireError)) as error:
            reopened(room).receive(EVIL, bytes(changed))
        assert isinstance(error.value, WireError) == (size == "body")
        assert isinstance(error.value if size == "body" else error.value.__cause__, WireError)
    reopened(room)
    room.finish({0, 1, 2, 3, 4})


def test_truncation_at_every_length(ckks: Make) -> None:
    room = ckks().upload()
    frame = room.frames[EVIL]
    for length in range(len(frame)):
        with pytest.raises(WireError, match=r"announces|shorter than the header"):
            room.server.receive(EVIL, frame[:length])
    room.finish({0, 1, 2, 3, 4})


def reopened(room: Any) -> CkksServer:
    """The same server, awaiting EVIL's frame once more: what it holds is shared, and must not change."""
    room.server._progress.awaiting.add(EVIL)
    return room.server


def test_five_thousand_mutations(ckks: Make) -> None:
    """Every flipped, inserted or removed byte is refused, and the total is untouched."""
    room = ckks(length=20).upload()
    frame = room.frames[EVIL]
    rng = np.random.default_rng(5)
    before = room.server._total.copy()
    for _ in range(5000):
        changed = bytearray(frame)
        kind = rng.integers(4)
        at = int(rng.integers(len(changed))) if rng.integers(2) else int(rng.integers(400))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at : at + 8] = rng.bytes(8)
        elif kind == 2:
            del changed[at : at + int(rng.integers(1, 20))]
        else:
            changed[at:at] = rng.bytes(int(rng.integers(1, 20)))
        if bytes(changed) == frame:
            continue
        with pytest.raises((RemoteProtocolError, WireError)):
            reopened(room).receive(EVIL, bytes(changed))
    assert np.array_equal(before, room.server._total)
    reopened(room)
    room.finish({0, 1, 2, 3, 4})


def test_residues_not_below_the_prime(ckks: Make) -> None:
    room = ckks().upload()
    residues = unpack(room.frame(EVIL).block, room.plan)
    for value in (room.plan.modulus, room.plan.modulus + 1, 2**40 - 1):
        changed = residues.copy()
        changed[17] = value
        room = ckks().upload()
        refused(room, resigned_residues(room, changed), "below the prime")


def resigned_residues(room: Any, residues: Any) -> bytes:
    return room.resigned(EVIL, block=pack(residues, room.plan.residue_bytes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"params": bytes(32)}, "other parameters"),
        ({"key": bytes(32)}, "another session key"),
        ({"seeds": bytes(63)}, "bytes of seeds"),
        ({"seeds": b""}, "bytes of seeds"),
        ({"tag": b"\xff" * 16}, "not below the prime"),
        ({"client": 0}, "names another client"),
    ],
)
def test_headers_that_are_signed_and_wrong(ckks: Make, changes: dict[str, Any], match: str) -> None:
    room = ckks().upload()
    refused(room, room.resigned(EVIL, **changes), match)


def test_a_frame_of_another_degree(ckks: Make) -> None:
    """Wrong N: first as it was made for a task with other parameters, then signed anew for this one."""
    room, other = ckks(length=3000).upload(), ckks(length=300).upload()
    assert (room.plan.degree, other.plan.degree) == (4096, 2048)
    unusable(room, other.frames[EVIL])
    small = other.frame(EVIL)
    room = ckks(length=3000).upload()
    refused(room, room.resigned(EVIL, block=small.block, params=other.plan.identifier), "other parameters")
    room = ckks(length=3000).upload()
    refused(room, room.resigned(EVIL, block=small.block), "a c0 block has 20480 bytes, not 10240")


def test_seeds_of_another_frame_or_twice_in_one(ckks: Make) -> None:
    """All of a victim's seeds, or one of them in another place, or one seed for two chunks."""
    for of in (lambda own, other: other, lambda own, other: own[64:] + other[:64], lambda own, other: own[:64] * 2):
        room = ckks(length=5000).upload()
        own, other = (bytes(room.frame(client).header.seeds) for client in (EVIL, 1))
        room.server.receive(1, room.frames[1])
        refused(room, room.resigned(EVIL, seeds=of(own, other)), "a seed occurs twice")


def test_a_refused_frame_keeps_nobodys_seeds_out(ckks: Make) -> None:
    room = ckks().upload()
    seeds = bytes(room.frame(1).header.seeds)
    refused(room, room.resigned(EVIL, seeds=seeds, block=b"\xff" * room.plan.block_bytes), "below the prime")


def test_whoever_is_copied_before_its_own_frame_arrives_is_left_out(ckks: Make) -> None:
    """Only the server, or who reads a client's channel, could send the copy first: SPEC.md, section 10, says so.

    The server cannot tell which is the copy. The sum goes on without the second frame, and counts no vector twice.
    """
    room = ckks().upload()
    victim = room.frame(1)
    held = room.sessions[EVIL]._secrets
    assert held is not None
    assert held.cipher is not None
    block = unpack(victim.block, room.plan)
    tag = held.cipher.tagger.sign(held.cipher.tagger.block(block), EVIL)
    room.server.receive(EVIL, room.resigned(EVIL, block=bytes(victim.block), seeds=bytes(victim.header.seeds), tag=tag))
    with pytest.raises(RemoteProtocolError, match="a seed occurs twice") as error:
        room.server.receive(1, room.frames[1])
    assert error.value.sender == 1
    room.vectors[EVIL] = room.vectors[1]
    room.finish({0, 2, 3, EVIL})
    assert set(room.server.result.blamed) == {1}


def test_another_round_another_session_and_replay(ckks: Make) -> None:
    room = ckks().upload()
    unusable(room, ckks(context=b"round 2").upload().frames[EVIL])
    room = ckks().upload()
    old = dict(room.frames)
    room.open()  # the same task and credentials (the memory of tasks is off), another session key
    room.upload()
    refused(room, old[EVIL], "session key")
    room = ckks().upload()
    room.server.receive(EVIL, room.frames[EVIL])
    total = room.server._total.copy()
    room.server.receive(EVIL, room.frames[EVIL])  # once more: ignored
    assert np.array_equal(total, room.server._total)
    room.finish({0, 1, 2, 3, 4})


def test_another_clients_frame_and_a_stranger(ckks: Make) -> None:
    room = ckks().upload()
    unusable(room, room.frames[1])
    room = ckks().upload()
    with pytest.raises(WireError, match="another sender"):
        room.server.receive(99, room.frames[EVIL])
    stranger = Frame(room.frame(EVIL).header, room.frame(EVIL).block).to_bytes(sender=99, task=room.task.digest())
    with pytest.raises(RemoteProtocolError, match="nothing is awaited"):
        room.server.receive(99, stranger)
    stolen = dataclasses.replace(room.frame(1).header, client=EVIL)
    message = Frame(stolen, room.frame(1).block).to_bytes(sender=EVIL, task=room.task.digest())
    refused(room, message, "does not verify")


def test_messages_of_another_step(ckks: Make) -> None:
    room = ckks().upload()
    advert = Advertise(room.sessions[EVIL]._secrets.advert)  # type: ignore[union-attr]
    room.server.receive(EVIL, advert.to_bytes(sender=EVIL, task=room.task.digest()))  # late: ignored
    deal = Deal(bytes(32), bytes(64), ())
    room.server.receive(EVIL, deal.to_bytes(sender=EVIL, task=room.task.digest()))
    consent = Consent(bytes(64))
    unusable(room, consent.to_bytes(sender=EVIL, task=room.task.digest()))


def test_an_advert_for_somebody_else(ckks: Make) -> None:
    room = ckks().upload()
    server = room.scheme.server(room.task)
    held = room.sessions[1]._secrets
    assert held is not None
    with pytest.raises(RemoteProtocolError, match="names another client"):
        server.receive(EVIL, Advertise(held.advert).to_bytes(sender=EVIL, task=room.task.digest()))


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("random residues", "not the sum of the signed frames"),
        ("a zero block", "not the sum of the signed frames"),
        ("random residues with their tag", "off an integer"),
        ("beyond the bound", "more than the clients' bounds allow"),
        ("one value too many", "more than the clients' bounds allow"),
    ],
)
def test_a_signed_frame_that_spoils_the_sum_is_noticed_when_it_is_opened(ckks: Make, what: str, match: str) -> None:
    """A client that lies about its own vector can stop a sum; it cannot make it come out wrong and unnoticed."""
    room = ckks().upload()
    count = room.plan.chunks * room.plan.degree
    noise = np.random.default_rng(1).integers(0, room.plan.modulus, count, dtype=np.uint64)
    if what == "random residues":
        message = resigned_residues(room, noise)
    elif what == "a zero block":
        message = resigned_residues(room, np.zeros_like(noise))
    elif what == "random residues with their tag":
        tagger = room.sessions[EVIL]._secrets.cipher.tagger
        tag = tagger.sign(tagger.block(noise), EVIL)
        message = room.resigned(EVIL, block=pack(noise, room.plan.residue_bytes), tag=tag)
    elif what == "beyond the bound":
        message = room.sealed(EVIL, np.full(room.task.length, 6 * room.task.bound))
    else:
        message = room.sealed(EVIL, np.append(room.vectors[EVIL], 1))
    room.server.receive(EVIL, message)
    with pytest.raises(RemoteProtocolError, match=match):
        room.finish({0, 1, 2, 3, 4})
    assert room.server.result is None


@pytest.mark.parametrize(
    "bad", [np.array([np.nan, 1.0]), np.array([1.5, 2.0]), np.array([10**6, 0]), np.array([1, 2, 3])]
)
def test_inputs_out_of_range_never_leave_the_client(bad: Any) -> None:
    task = SumTask(b"", (0, 1), 1, 2, Ring(16), 1000)
    credentials, directory = generate_identities(task.clients)
    with pytest.raises(ConfigError):
        CkksSum(directory).client(task, 0, bad, credentials=credentials[0])


def test_a_server_that_has_ended_takes_nothing(ckks: Make) -> None:
    room = ckks().upload()
    room.finish({0, 1, 2, 3, 4})
    total = room.server.result.total.copy()
    room.server.receive(EVIL, room.frames[EVIL])  # late: ignored
    assert np.array_equal(room.server.result.total, total)
    with pytest.raises(LocalProtocolError):
        room.server.advance()


def test_encrypting_twice_repeats_no_seed_and_no_block(ckks: Make) -> None:
    room = ckks(length=9000).upload()
    held = room.sessions[0]._secrets
    assert held is not None
    assert held.cipher is not None
    seen: set[bytes] = set()
    for _ in range(20):
        block, seeds = held.cipher.ckks.encrypt(room.vectors[0])
        rows = block.reshape(room.plan.chunks, -1)
        seen |= {row.tobytes() for row in rows} | {seeds[i : i + 64] for i in range(0, len(seeds), 64)}
    assert len(seen) == 20 * 2 * room.plan.chunks
