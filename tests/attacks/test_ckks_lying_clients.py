"""Clients that lie outside of their frames: adverts, deals, consents and opened sums that they did not sign so."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he.messages import Advertise, Box, Consent, Deal, Opened, digest, transcript
from privfl.wire import HEADER_BYTES, Message

Make = Callable[..., Any]
STEPS: dict[type[Message], str] = {Advertise: "advertise", Deal: "deal", Consent: "consent", Opened: "open"}
SIGNED = [(Advertise, 2), (Deal, 0), (Consent, 2), (Opened, 0)]  # who lies: the dealer and the opener are client 0


def flip(signature: bytes, bit: int) -> bytes:
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flipped(content: Any, bit: int) -> Any:
    """A message with one bit of its signature flipped."""
    if isinstance(content, Advertise):
        advert = dataclasses.replace(content.advert, signature=flip(content.advert.signature, bit))
        return Advertise(advert)
    return dataclasses.replace(content, signature=flip(content.signature, bit))


@pytest.mark.parametrize("bit", [0, 255, 256, 511])
@pytest.mark.parametrize(("kind", "liar"), SIGNED)
def test_one_flipped_bit_of_a_signature(ckks: Make, kind: type[Message], liar: int, bit: int) -> None:
    """The server names the sender; the sum goes on without it, or with its frame but without its vote or word."""
    room = ckks()

    def alter(client: int, message: bytes) -> bytes:
        if client != liar or room.server.step != STEPS[kind]:
            return message
        lie: bytes = flipped(room.read(kind, message), bit).to_bytes(sender=liar, task=room.task.digest())
        assert len(lie) == len(message)
        assert lie != message
        return lie

    room.until("done", alter)
    (refusal,) = room.refusals
    assert refusal.sender == liar
    assert "does not verify" in str(refusal)
    room.check(set(range(5)) - ({liar} if kind in (Advertise, Deal) else set()))
    assert set(room.server.result.blamed) == {liar}
    assert "does not verify" in room.server.result.blamed[liar]


def test_a_liar_at_every_step_of_one_sum(ckks: Make) -> None:
    room = ckks(clients=9)
    lies = {("advertise", 8): Advertise, ("deal", 0): Deal, ("consent", 7): Consent, ("open", 1): Opened}

    def alter(client: int, message: bytes) -> bytes:
        kind = lies.get((room.server.step, client))
        if kind is None:
            return message
        lie: bytes = flipped(room.read(kind, message), 100).to_bytes(sender=client, task=room.task.digest())
        return lie

    room.until("done", alter)
    assert [refusal.sender for refusal in room.refusals] == [8, 0, 7, 1]
    room.check({1, 2, 3, 4, 5, 6, 7})
    assert set(room.server.result.blamed) == {0, 1, 7, 8}


def test_an_opener_that_signs_a_total_with_a_value_missing(ckks: Make) -> None:
    room = ckks()

    def alter(client: int, message: bytes) -> bytes:
        if client or room.server.step != "open":
            return message
        words = bytes(room.read(Opened, message).total)[:-4]
        task, headers = room.task.digest(), [header for _, header in sorted(room.server._headers.items())]
        parts = (task, transcript(task, headers), digest(words))
        signature = room.credentials[0].signing.sign("ckks-sum opened", *parts)
        return Opened(signature, words).to_bytes(sender=0, task=task)

    room.until("done", alter)
    (refusal,) = room.refusals
    assert refusal.sender == 0
    assert "1196" in str(refusal), "of 4 bytes each"
    room.check(set(range(5)))


@pytest.mark.parametrize("step", ["advertise", "frame", "consent"])
def test_the_server_itself_ends_a_sum_that_too_few_are_left_in(ckks: Make, step: str) -> None:
    """It does not go on and rely on the clients to refuse."""
    room = ckks()
    if step == "advertise":
        answers = {client: room.sessions[client].start() for client in (0, 1)}
    else:
        messages = room.until(step)
        answers = {client: room.answer(client, messages[client]) for client in (0, 1)}
    for client, answer in answers.items():
        room.server.receive(client, answer)
    with pytest.raises(LocalProtocolError, match="2 of at least 3"):
        room.server.advance()
    for client in room.server.awaiting:
        room.server.drop(client)
    with pytest.raises(TooFewSurvivors, match="2 clients are left, and 3 are needed"):
        room.server.advance()
    assert room.server.step == "closed"
    assert room.server.result is None
    with pytest.raises(LocalProtocolError):
        room.server.advance()


@pytest.mark.parametrize(("kind", "liar"), SIGNED)
def test_four_hundred_mutations_of_each_message_of_a_client(ckks: Make, kind: type[Message], liar: int) -> None:
    """Whatever byte is altered, inserted or lost: a typed error that names the sender; nothing of it is kept."""
    room = ckks()
    rng = np.random.default_rng(kind.KIND)
    tried = 0

    def attack(client: int, message: bytes) -> bytes:
        nonlocal tried
        if client != liar or room.server.step != STEPS[kind]:
            return message
        before = held(room.server)
        while tried < 400:
            changed = mutated(message, rng)
            if changed == message:
                continue
            tried += 1
            room.server._progress.awaiting.add(liar)
            if kind is Deal and only_boxes_differ(message, changed):
                continue  # what is in a box only its receiver can tell: the test below
            blamed = liar in room.server.blamed
            try:
                room.server.receive(liar, changed)
                kinds = room.server._passed()  # else ignored: it is of an earlier step now
                assert any(changed[5:7] == kind.KIND.to_bytes(2, "little") for kind in kinds)
            except RemoteProtocolError:
                assert liar in room.server.blamed
            except WireError:
                assert (liar in room.server.blamed) == blamed
            assert held(room.server) == before
        room.server._progress.awaiting.add(liar)
        return message

    room.until("done", attack)
    assert tried == 400
    assert room.refusals == []
    room.check(set(range(5)))


def held(server: Any) -> tuple[Any, ...]:
    """What a server keeps of adverts, deals, votes and opened sums."""
    return server.step, dict(server._adverts), server._dealt, dict(server._votes), server.result


def mutated(message: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(message)
    at = int(rng.integers(len(changed))) if rng.integers(2) else int(rng.integers(min(len(changed), 200)))
    kind = rng.integers(4)
    if kind == 0:
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[at : at + 8] = rng.bytes(len(changed[at : at + 8]))
    elif kind == 2:
        del changed[at : at + int(rng.integers(1, 20))]
    else:
        changed[at:at] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(changed)


def only_boxes_differ(message: bytes, changed: bytes) -> bool:
    """Whether a changed deal has nothing but other bytes in its boxes, each of which is 4 bytes and 60 of content."""
    if len(message) != len(changed):
        return False
    boxes = HEADER_BYTES + 32 + 64 + 4
    return all(
        one == other or (at >= boxes and (at - boxes) % 64 >= 4)
        for at, (one, other) in enumerate(zip(message, changed, strict=True))
    )


def test_a_dealer_that_spoils_one_box(ckks: Make) -> None:
    """The server cannot see it; the receiver names the dealer and falls silent, and the sum goes on without it."""
    room = ckks()

    def alter(client: int, message: bytes) -> bytes:
        if room.server.step != "deal":
            return message
        deal = room.read(Deal, message)
        spoilt = (deal.boxes[0], Box(2, bytes(len(deal.boxes[1].content))), *deal.boxes[2:])
        lie: bytes = dataclasses.replace(deal, boxes=spoilt).to_bytes(sender=0, task=room.task.digest())
        return lie

    messages = room.until("frame", alter)
    assert room.refuses(2, messages.pop(2), RemoteProtocolError, "does not open").sender == 0
    for client, message in messages.items():
        room.server.receive(client, room.answer(client, message))
    room.finish({0, 1, 3, 4})
    assert dict(room.server.result.blamed) == {}
