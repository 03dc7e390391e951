"""A server that lies to the opener of a CKKS sum: each lie is a typed error, and nothing is opened."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.errors import RemoteProtocolError, TooFewSurvivors
from privfl.he.authenticator import Tagger
from privfl.he.messages import AskOpener, FrameHeader, Survivors, Vote, consent_parts
from privfl.he.opening import decrypt_sum
from privfl.he.packing import pack, unpack
from privfl.wire import SERVER

Make = Callable[..., Any]


def multiply(room: Any, block: Any, factor: int) -> bytes:
    residues = unpack(block, room.plan).astype(object) * factor % room.plan.modulus
    return pack(residues.astype(np.uint64), room.plan.residue_bytes)


@pytest.mark.parametrize("factor", [2, 3, 1000, 2**20])
def test_a_scaled_sum(ckks: Make, factor: int) -> None:
    room = ckks()
    ask = room.ask()
    lie = dataclasses.replace(ask, block=multiply(room, ask.block, factor))
    room.refuses(0, lie, RemoteProtocolError, "not the sum of the signed frames")


def test_a_scaled_sum_would_also_fail_to_decrypt(ckks: Make) -> None:
    """The second line of defense: the opener recomputes the random halves, so a scaled block is noise to it."""
    room = ckks()
    ask = room.ask()
    cipher = room.sessions[0]._secrets.cipher  # type: ignore[union-attr]
    assert cipher is not None
    seeds = [header.seeds for header in ask.headers]
    exact = decrypt_sum(room.plan, unpack(ask.block, room.plan), seeds, cipher)
    assert isinstance(exact, np.ndarray)
    assert np.array_equal(exact[: room.task.length], sum(room.vectors.values()))
    for block, chosen in (
        (multiply(room, ask.block, 2), seeds),
        (bytes(ask.block), seeds[:-1]),
        (bytes(ask.block), [*seeds, seeds[0]]),
        (pack(np.zeros(room.plan.degree, np.uint64), room.plan.residue_bytes), seeds),
    ):
        with pytest.raises(RemoteProtocolError, match="off an integer"):
            decrypt_sum(room.plan, unpack(block, room.plan), chosen, cipher)


def test_one_frame_posing_as_the_sum(ckks: Make) -> None:
    room = ckks()
    ask = room.ask()
    blocks = {client: bytes(room.frame(client).block) for client in room.frames}
    room.refuses(0, dataclasses.replace(ask, block=blocks[1]), RemoteProtocolError, "not the sum of the signed")
    alone = AskOpener(1, (ask.headers[1],), ask.votes, blocks[1])
    room.refuses(1, alone, RemoteProtocolError, "survivor list that this client signed")
    others = AskOpener(2, ask.headers[:1] * 5, ask.votes, blocks[0])
    room.refuses(2, others, RemoteProtocolError, "survivor list that this client signed")


def test_a_shift_too_small_for_the_slots_to_show(ckks: Make) -> None:
    """Without the tags a server could learn from an opener's refusal on which side of a limit the noise lies."""
    room = ckks()
    ask = room.ask()
    residues = unpack(ask.block, room.plan)
    residues[0] = (int(residues[0]) + 1) % room.plan.modulus
    lie = dataclasses.replace(ask, block=pack(residues, room.plan.residue_bytes))
    room.refuses(0, lie, RemoteProtocolError, "not the sum of the signed frames")


def _crossed(room: Any, ask: AskOpener) -> AskOpener:
    """The sum and a multiple of each frame: factors for which both tags, were they not padded, stay what they are."""
    q = room.plan.modulus
    (x0, y0), (x1, y1), (x2, y2) = (
        [int.from_bytes(header.tag[at : at + 8], "little") for at in (0, 8)] for header in ask.headers
    )
    factors = [x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0]
    forged = unpack(ask.block, room.plan).astype(object)
    for header, factor in zip(ask.headers, factors, strict=True):
        forged += unpack(room.frame(header.client).block, room.plan).astype(object) * (factor % q)
    return dataclasses.replace(ask, block=pack((forged % q).astype(np.uint64), room.plan.residue_bytes))


def test_tags_hide_behind_pads(ckks: Make) -> None:
    """Combinations of frames that would cancel unpadded tags are refused too."""
    room = ckks(clients=3)
    room.refuses(0, _crossed(room, room.ask()), RemoteProtocolError, "not the sum of the signed frames")


def test_why_tags_need_pads(ckks: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were all pads zero, the same combination would pass for the sum, and be decrypted."""
    monkeypatch.setattr(Tagger, "_pad", lambda tagger, sender: (0, 0))
    room = ckks(clients=3)
    room.refuses(0, _crossed(room, room.ask()), RemoteProtocolError, "off an integer")


def _votes(room: Any, ask: AskOpener, count: int) -> AskOpener:
    return dataclasses.replace(ask, votes=ask.votes[:count])


@pytest.mark.parametrize(
    ("lie", "error", "match"),
    [
        (lambda room, ask: _votes(room, ask, 2), TooFewSurvivors, "2 clients are left, and 3 are needed"),
        (lambda room, ask: _votes(room, ask, 0), TooFewSurvivors, "0 clients are left"),
        (lambda room, ask: dataclasses.replace(ask, votes=ask.votes[:1] * 3), RemoteProtocolError, "votes repeat"),
        (lambda room, ask: dataclasses.replace(ask, votes=ask.votes[::-1]), RemoteProtocolError, "votes repeat"),
        (
            lambda room, ask: dataclasses.replace(
                ask, votes=tuple(dataclasses.replace(v, signature=ask.votes[0].signature) for v in ask.votes)
            ),
            RemoteProtocolError,
            "does not verify",
        ),
        (lambda room, ask: dataclasses.replace(ask, headers=ask.headers[:-1]), RemoteProtocolError, "survivor list"),
        (lambda room, ask: dataclasses.replace(ask, headers=ask.headers[::-1]), RemoteProtocolError, "survivor list"),
        (lambda room, ask: dataclasses.replace(ask, block=bytes(ask.block)[:-1]), RemoteProtocolError, "block has"),
        (lambda room, ask: dataclasses.replace(ask, block=b"\xff" * len(ask.block)), RemoteProtocolError, "below the"),
    ],
)
def test_requests_to_open_that_do_not_hold_together(
    ckks: Make, lie: Callable[[Any, AskOpener], AskOpener], error: type[Exception], match: str
) -> None:
    room = ckks()
    ask = room.ask()
    room.refuses(0, lie(room, ask), error, match)


def test_a_vote_of_a_member_that_is_not_on_the_list(ckks: Make) -> None:
    """Whoever fell silent before may sign the list of the others: that makes no quorum of theirs."""
    room = ckks()
    room.upload()
    del room.frames[4]
    for client, frame in room.frames.items():
        room.server.receive(client, frame)
    for client, message in room.server.advance().items():
        room.server.receive(client, room.answer(client, message))
    (message,) = room.server.advance().values()
    ask = room.read(AskOpener, message)
    parts = consent_parts(room.task.digest(), ask.headers[0].key, (0, 1, 2, 3))
    outsider = Vote(4, room.credentials[4].signing.sign("ckks-sum survivors", *parts))
    room.refuses(0, dataclasses.replace(ask, votes=(*ask.votes[:2], outsider)), RemoteProtocolError, "the survivors'")
    room.refuses(
        1, dataclasses.replace(ask, receiver=1, votes=(*ask.votes, outsider)), RemoteProtocolError, "the survivors'"
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seeds": bytes(64)}, "does not verify"),
        ({"seeds": bytes(63)}, "bytes of seeds"),
        ({"block": bytes(32)}, "does not verify"),
        ({"tag": bytes(16)}, "does not verify"),
        ({"tag": b"\xff" * 16}, "below the prime"),
        ({"key": bytes(32)}, "another session key"),
        ({"params": bytes(32)}, "other parameters"),
        ({"signature": bytes(64)}, "does not verify"),
    ],
)
def test_a_header_that_its_client_did_not_sign(ckks: Make, changes: dict[str, Any], match: str) -> None:
    room = ckks()
    ask = room.ask()
    header = dataclasses.replace(ask.headers[3], **changes)
    lie = dataclasses.replace(ask, headers=(*ask.headers[:3], header, ask.headers[4]))
    room.refuses(0, lie, RemoteProtocolError, match)


def test_the_openers_own_frame_and_a_copied_seed(ckks: Make) -> None:
    room = ckks()
    ask = room.ask()
    own: FrameHeader = dataclasses.replace(ask.headers[0], seeds=bytes(64))
    own = own.sign(room.task.digest(), room.credentials[0].signing)
    room.refuses(0, dataclasses.replace(ask, headers=(own, *ask.headers[1:])), RemoteProtocolError, "own frame")
    copied: FrameHeader = dataclasses.replace(ask.headers[4], seeds=bytes(ask.headers[2].seeds))
    copied = copied.sign(room.task.digest(), room.credentials[4].signing)
    twice = dataclasses.replace(ask, receiver=1, headers=(*ask.headers[:4], copied))
    room.refuses(1, twice, RemoteProtocolError, "a seed occurs")


def test_two_openers_with_different_lists(ckks: Make) -> None:
    """A server that splits the survivors finds no quorum on either side."""
    room = ckks()
    room.until("consent")
    lists = {c: (0, 1, 2, 3) if c in (0, 1) else (0, 2, 3, 4) for c in room.task.clients}
    headers = {c: room.server._headers[c] for c in room.task.clients}
    votes: dict[int, Any] = {}
    for client, survivors in lists.items():
        answer = room.sessions[client].receive(Survivors(survivors).to_bytes(sender=SERVER, task=room.task.digest()))
        assert answer is not None
        votes[client] = answer[-64:]
    for opener in (0, 2):
        side = [c for c in lists if lists[c] == lists[opener]]
        ask = AskOpener(
            opener,
            tuple(headers[c] for c in lists[opener]),
            tuple(Vote(c, votes[c]) for c in side),
            bytes(room.plan.block_bytes),
        )
        # with the other side's signatures the quorum is met in number only
        if opener == 0:
            room.refuses(opener, ask, TooFewSurvivors, "2 clients are left, and 3 are needed")
        else:
            everybody = tuple(Vote(c, votes[c]) for c in (0, 2, 3))
            room.refuses(opener, dataclasses.replace(ask, votes=everybody), RemoteProtocolError, "does not verify")
