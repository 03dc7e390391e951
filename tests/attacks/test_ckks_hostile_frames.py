"""Bytes that a hostile client sends to the server: each a typed error, and the honest sum unchanged.

TenSEAL itself ends the process on some of them (`0a028020` as a serialized vector); here nothing of a peer reaches it.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privfl.crypto import Credentials, generate_identities
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from privfl.he import CkksSum, plan_for
from privfl.he.messages import Advertise, Deal, Frame, FrameHeader, digest
from privfl.he.packing import pack, unpack
from privfl.he.server import CkksServer
from privfl.ring import Ints, Ring
from privfl.sums import SumTask
from privfl.wire import decode

EVIL = 4  # the hostile client; 0..3 are honest


class Room:
    """Five parties and a server, stopped before EVIL's frame."""

    def __init__(self, context: bytes = b"round 1", length: int = 300, bits: int = 23, seed: int = 0) -> None:
        ring = Ring(bits)
        self.task = SumTask(context, tuple(range(5)), 3, length, ring, (ring.half - 1) // 5)
        self.credentials, directory = generate_identities(self.task.clients)
        self.scheme = CkksSum(directory)
        self.plan = plan_for(self.task)
        rng = np.random.default_rng(seed)
        self.vectors: dict[int, Ints] = {c: rng.integers(-1000, 1000, length) for c in self.task.clients}
        self.open()

    def open(self, credentials: dict[int, Credentials] | None = None) -> None:
        own = credentials or self.credentials
        self.server: CkksServer = self.scheme.server(self.task)
        self.sessions = {
            c: self.scheme.client(self.task, c, self.vectors[c], credentials=own[c], tasks=SimpleNamespace(begin=len))
            for c in self.task.clients
        }
        for client, session in self.sessions.items():
            self.server.receive(client, session.start())
        ((dealer, ask),) = self.server.advance().items()
        deal = self.sessions[dealer].receive(ask)
        assert deal is not None
        self.server.receive(dealer, deal)
        self.frames: dict[int, bytes] = {}
        for client, message in self.server.advance().items():
            frame = self.sessions[client].receive(message)
            assert frame is not None
            self.frames[client] = frame

    def frame(self, client: int = EVIL) -> Frame:
        _, frame = decode(self.frames[client], [Frame], max_length=1 << 30)
        assert isinstance(frame, Frame)
        return frame

    def resigned(self, *, block: bytes | None = None, **changes: Any) -> bytes:
        """EVIL's frame with changes, signed properly by EVIL."""
        frame = self.frame()
        body = bytes(frame.block) if block is None else block
        header: FrameHeader = dataclasses.replace(frame.header, block=digest(body), **changes)
        header = header.sign(self.task.digest(), self.credentials[EVIL].signing)
        return Frame(header, body).to_bytes(sender=EVIL, task=self.task.digest())

    def finish(self, survivors: set[int]) -> None:
        """The honest frames come in, and the sum is theirs."""
        for client in self.server.awaiting:
            self.server.receive(client, self.frames[client])
        while self.server.result is None:
            for client, message in self.server.advance().items():
                answer = self.sessions[client].receive(message)
                assert answer is not None
                self.server.receive(client, answer)
        assert self.server.result.survivors == survivors
        assert np.array_equal(self.server.result.total, sum(self.vectors[c] for c in survivors))


def refused(room: Room, message: bytes, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match) as error:
        room.server.receive(EVIL, message)
    assert error.value.sender == EVIL
    assert EVIL not in room.server.awaiting
    room.finish({0, 1, 2, 3})
    assert room.server.result is not None
    assert EVIL in room.server.result.blamed


@pytest.mark.parametrize("message", [b"", b"\x0a\x02\x80\x20", b"pvfl", bytes(47), bytes(1000)])
def test_bytes_that_are_no_message(message: bytes) -> None:
    refused(Room(), message)


def test_what_tenseal_serializes_is_never_parsed() -> None:
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
        refused(Room(), message)


def test_a_seal_ciphertext_in_place_of_the_block() -> None:
    """Transparent, level-dropped or many ciphertexts cannot even be written down: a block has one length."""
    for change in (
        lambda b: b * 2,
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b"",
        lambda b: b"\x5e\xa1" + b[3:],
    ):
        room = Room()
        refused(room, room.resigned(block=change(bytes(room.frame().block))))


def test_sizes_missing_and_oversized() -> None:
    for at in range(43, 47):  # the header's body length
        for value in (1, 0x80, 0xFF):
            room = Room()
            changed = bytearray(room.frames[EVIL])
            changed[at] ^= value
            refused(room, bytes(changed))


def test_truncation_at_every_length_of_the_header_and_many_of_the_block() -> None:
    room = Room()
    frame = room.frames[EVIL]
    lengths = [*range(400), *range(400, len(frame), 37), len(frame) - 1]
    for length in lengths:
        server = reopened(room)
        with pytest.raises(RemoteProtocolError):
            server.receive(EVIL, frame[:length])
    reopened(room)
    room.finish({0, 1, 2, 3, 4})


def reopened(room: Room) -> CkksServer:
    """The same server, awaiting EVIL's frame once more: what it holds is shared, and must not change."""
    room.server._waiting.add(EVIL)
    return room.server


def test_five_thousand_mutations() -> None:
    """Every flipped, inserted or removed byte is refused, and the total is untouched."""
    room = Room(length=20)
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
        with pytest.raises(RemoteProtocolError):
            reopened(room).receive(EVIL, bytes(changed))
    assert np.array_equal(before, room.server._total)
    reopened(room)
    room.finish({0, 1, 2, 3, 4})


def test_residues_not_below_the_prime() -> None:
    room = Room()
    residues = unpack(room.frame().block, room.plan)
    for value in (room.plan.modulus, room.plan.modulus + 1, 2**40 - 1):
        changed = residues.copy()
        changed[17] = value
        room = Room()
        refused(room, resigned_residues(room, changed), "below the prime")


def resigned_residues(room: Room, residues: Any) -> bytes:
    return room.resigned(block=pack(residues, room.plan.residue_bytes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"params": bytes(32)}, "other parameters"),
        ({"key": bytes(32)}, "another session key"),
        ({"seeds": bytes(63)}, "bytes of seeds"),
        ({"seeds": b""}, "bytes of seeds"),
        ({"seeds": bytes(128)}, "allowed"),
        ({"tag": b"\xff" * 16}, "not below the prime"),
        ({"client": 0}, "names another client"),
    ],
)
def test_headers_that_are_signed_and_wrong(changes: dict[str, Any], match: str) -> None:
    room = Room()
    refused(room, room.resigned(**changes), match)


def test_a_frame_of_another_degree() -> None:
    """Wrong N: a vector of the same length, encrypted for a task with other parameters."""
    other = Room(length=300, bits=39)
    room = Room()
    refused(room, other.frames[EVIL])


def test_another_round_another_session_and_replay() -> None:
    room = Room()
    refused(room, Room(context=b"round 2").frames[EVIL], "task")
    room = Room()
    old = dict(room.frames)
    room.open()  # the same task and credentials (the memory of tasks is off), another session key
    refused(room, old[EVIL], "session key")
    room = Room()
    room.server.receive(EVIL, room.frames[EVIL])
    with pytest.raises(RemoteProtocolError, match="nothing is awaited"):
        room.server.receive(EVIL, room.frames[EVIL])
    room.finish({0, 1, 2, 3, 4})


def test_another_clients_frame_and_a_stranger() -> None:
    room = Room()
    refused(room, room.frames[1], "another kind, sender or task")
    room = Room()
    with pytest.raises(RemoteProtocolError, match="nothing is awaited"):
        room.server.receive(99, room.frames[EVIL])
    stolen = dataclasses.replace(room.frame(1).header, client=EVIL)
    message = Frame(stolen, room.frame(1).block).to_bytes(sender=EVIL, task=room.task.digest())
    refused(room, message, "does not verify")


def test_messages_of_another_step() -> None:
    room = Room()
    advert = Advertise(room.sessions[EVIL]._held.advert)  # type: ignore[union-attr]
    refused(room, advert.to_bytes(sender=EVIL, task=room.task.digest()))
    room = Room()
    deal = Deal(bytes(32), bytes(64), ())
    refused(room, deal.to_bytes(sender=EVIL, task=room.task.digest()))


def test_an_advert_for_somebody_else() -> None:
    room = Room()
    server = room.scheme.server(room.task)
    held = room.sessions[1]._held
    assert held is not None
    with pytest.raises(RemoteProtocolError, match="names another client"):
        server.receive(EVIL, Advertise(held.advert).to_bytes(sender=EVIL, task=room.task.digest()))


@pytest.mark.parametrize("what", ["random residues", "a zero block", "a copied frame", "beyond the bound"])
def test_a_signed_frame_that_spoils_the_sum_is_noticed_when_it_is_opened(what: str) -> None:
    """A client that lies about its own vector can stop a sum; it cannot make it come out wrong and unnoticed."""
    room = Room()
    residues = unpack(room.frame().block, room.plan)
    if what == "random residues":
        rng = np.random.default_rng(1)
        message = resigned_residues(room, rng.integers(0, room.plan.modulus, len(residues), dtype=np.uint64))
    elif what == "a zero block":
        message = resigned_residues(room, np.zeros_like(residues))
    elif what == "a copied frame":
        victim = room.frame(1)
        message = room.resigned(block=bytes(victim.block), seeds=bytes(victim.header.seeds))
    else:
        held = room.sessions[EVIL]._held
        assert held is not None
        assert held.work is not None
        block, seeds = held.work.cipher.encrypt(np.full(room.task.length, 6 * room.task.bound))
        tag = held.work.tagger.sign(held.work.tagger.block(block), EVIL)
        message = room.resigned(block=pack(block, room.plan.residue_bytes), seeds=seeds, tag=tag)
    room.server.receive(EVIL, message)
    with pytest.raises(RemoteProtocolError):
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


def test_a_server_that_has_ended_takes_nothing() -> None:
    room = Room()
    room.finish({0, 1, 2, 3, 4})
    with pytest.raises(LocalProtocolError):
        room.server.receive(EVIL, room.frames[EVIL])
    with pytest.raises(LocalProtocolError):
        room.server.advance()


def test_encrypting_twice_repeats_no_seed_and_no_block() -> None:
    room = Room(length=9000)
    held = room.sessions[0]._held
    assert held is not None
    assert held.work is not None
    seen: set[bytes] = set()
    for _ in range(20):
        block, seeds = held.work.cipher.encrypt(room.vectors[0])
        rows = block.reshape(room.plan.chunks, -1)
        seen |= {row.tobytes() for row in rows} | {seeds[i : i + 64] for i in range(0, len(seeds), 64)}
    assert len(seen) == 20 * 2 * room.plan.chunks
