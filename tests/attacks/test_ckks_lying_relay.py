"""A server that lies when it relays: survivor lists, dealt keys and boxes, and four hundred damages to each message."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import AgreementKey, Credentials
from privfl.errors import PlanRejected, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.keys import key_id
from privfl.he.messages import Advert, AskDealer, Box, Dealt, Survivors, UseKey
from privfl.he.seal import SealCipher
from privfl.sums import SumPolicy
from privfl.wire import SERVER, decode

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("survivors", "error", "match"),
    [
        ((0, 1), TooFewSurvivors, "2 clients are left"),
        ((0, 1, 2, 99), RemoteProtocolError, "names strangers"),
        ((1, 2, 3, 99), RemoteProtocolError, "names strangers"),
    ],
)
def test_survivor_lists_that_no_client_signs(
    ckks: Make, survivors: tuple[int, ...], error: type[Exception], match: str
) -> None:
    room = ckks()
    room.until("consent")
    room.refuses(0, Survivors(survivors), error, match)


def test_a_second_survivor_list_and_a_second_opening(ckks: Make, reachable: Make) -> None:
    room = ckks()
    messages = room.until("consent")
    signed = room.sessions[0].receive(messages[0])
    assert room.sessions[0].receive(messages[0]) == signed
    second = Survivors((0, 1, 2, 3)).to_bytes(sender=SERVER, task=room.task.digest())
    with pytest.raises(RemoteProtocolError, match="two different messages"):
        room.sessions[0].receive(second)
    assert room.sessions[0].state == "consented"
    room = ckks()
    ask = room.ask()
    request = ask.to_bytes(sender=SERVER, task=room.task.digest())
    opened = room.sessions[0].receive(request)
    assert opened is not None
    assert room.sessions[0].receive(request) == opened
    other = dataclasses.replace(ask, votes=ask.votes[:3]).to_bytes(sender=SERVER, task=room.task.digest())
    with pytest.raises(RemoteProtocolError, match="two different messages"):
        room.sessions[0].receive(other)
    assert not reachable(room.sessions[0], SealCipher), "a session that has ended keeps no key"


def test_another_tasks_messages_and_another_sender(ckks: Make) -> None:
    room, other = ckks(), ckks(context=b"round 2")
    messages = room.until("consent")
    strange = other.until("consent")
    forged = Survivors((0, 1, 2)).to_bytes(sender=1, task=room.task.digest())
    for client, message, match in (
        (0, strange[0], "another sender or session"),
        (1, forged, "another sender or session"),
        (2, b"\x0a\x02\x80\x20", "shorter than the header"),
        (3, messages[3] + b"\0", "announces"),
    ):
        with pytest.raises(WireError, match=match):
            room.sessions[client].receive(message)
        assert room.sessions[client].receive(messages[client]) is not None


def adverts(room: Any) -> tuple[Advert, ...]:
    (message,) = room.until("deal").values()
    _, ask = decode(message, [AskDealer], max_length=1 << 20)
    assert isinstance(ask, AskDealer)
    return ask.adverts


def _stranger(room: Any, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    stranger = Credentials.generate(9)
    return (*known, Advert.make(9, stranger.box.public, bytes(32), task=room.task.digest(), signing=stranger.signing))


def _substituted(room: Any, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    """The server puts its own X25519 key in the place of client 3's."""
    return (*known[:3], dataclasses.replace(known[3], public=AgreementKey.generate().public), known[4])


def _low_order(room: Any, known: tuple[Advert, ...]) -> tuple[Advert, ...]:
    own = room.credentials[3].signing
    return (*known[:3], Advert.make(3, bytes(32), bytes(32), task=room.task.digest(), signing=own), known[4])


@pytest.mark.parametrize(
    ("lie", "error", "match"),
    [
        (lambda room, known: known[:2], TooFewSurvivors, "2 clients"),
        (lambda room, known: known[1:], RemoteProtocolError, "lacks this client"),
        (lambda room, known: (known[0], *known), RemoteProtocolError, "repeats"),
        (_stranger, RemoteProtocolError, "strangers"),
        (_substituted, RemoteProtocolError, "does not verify"),
        (_low_order, RemoteProtocolError, "low order"),
    ],
)
def test_a_dealer_deals_to_signed_keys_of_the_cohort_only(
    ckks: Make, lie: Any, error: type[Exception], match: str
) -> None:
    room = ckks()
    known = adverts(room)
    room.refuses(0, AskDealer(0, lie(room, known)), error, match)


def _dealt(room: Any) -> Dealt:
    messages = room.until("frame")
    _, dealt = decode(messages[1], [Dealt], max_length=1 << 20)
    assert isinstance(dealt, Dealt)
    return dealt


def test_boxes_that_are_altered_rerouted_or_reflected(ckks: Make) -> None:
    room = ckks()
    dealt = _dealt(room)
    content = dealt.box[0].content
    flipped = bytes([content[0] ^ 1]) + content[1:]
    room.refuses(1, dataclasses.replace(dealt, box=(Box(1, flipped),)), RemoteProtocolError, "does not open")
    room.refuses(
        2, dataclasses.replace(dealt, receiver=2, box=(Box(2, content),)), RemoteProtocolError, "does not open"
    )
    room.refuses(3, dataclasses.replace(dealt, receiver=3, box=()), RemoteProtocolError, "without this client's box")
    room.refuses(
        4,
        dataclasses.replace(dealt, receiver=4, dealer=dataclasses.replace(dealt.dealer, client=4)),
        RemoteProtocolError,
        "cannot be the dealer",
    )
    room = ckks()
    dealt = _dealt(room)
    room.refuses(1, dataclasses.replace(dealt, key=bytes(32)), RemoteProtocolError, "does not verify")
    room.refuses(2, dataclasses.replace(dealt, receiver=2, signature=bytes(64)), RemoteProtocolError, "does not verify")
    stranger = dataclasses.replace(dealt.dealer, client=77)
    room.refuses(
        3, dataclasses.replace(dealt, receiver=3, dealer=stranger), RemoteProtocolError, "cannot be the dealer"
    )
    room.refuses(0, dataclasses.replace(dealt, receiver=0), RemoteProtocolError, "another deal than this client's own")
    for_another_key = dataclasses.replace(dealt.dealer, held=key_id(bytes(32)))
    room.refuses(
        4, dataclasses.replace(dealt, receiver=4, dealer=for_another_key), RemoteProtocolError, "does not verify"
    )


def test_a_dealer_that_boxes_another_key_than_it_committed_to(ckks: Make) -> None:
    room = ckks()
    dealt = _dealt(room)
    dealer = room.sessions[0]._secrets
    assert dealer is not None
    wrong = room.sessions[0]._seal_for(dealer, room.sessions[1]._secrets.advert, bytes(32), dealt.key)  # type: ignore[union-attr]
    room.refuses(1, dataclasses.replace(dealt, box=(Box(1, wrong),)), RemoteProtocolError, "commitment")


def test_a_key_that_the_client_does_not_hold(ckks: Make) -> None:
    room = ckks()
    room.until("frame")
    room.refuses(1, UseKey(bytes(32)), RemoteProtocolError, "does not hold")
    room.refuses(2, UseKey(key_id(bytes(32))), RemoteProtocolError, "does not hold")


def test_a_key_that_came_after_the_advert(ckks: Make) -> None:
    """Another sum of the same client got it: this one's advert did not name it, and others hold no such key."""
    room = ckks()
    store = KeyStore(rotation=5)
    credentials = StandingCredentials(room.credentials[1], store)
    room.sessions[1] = room.scheme.client(room.task, 1, room.vectors[1], credentials=credentials)
    room.until("frame")
    store.keep(bytes(range(32)))
    room.refuses(1, UseKey(key_id(bytes(range(32)))), RemoteProtocolError, "does not hold")


def test_a_task_below_the_clients_policy(ckks: Make) -> None:
    room = ckks()
    scheme = CkksSum(room.directory)
    for policy in (SumPolicy(min_survivors=4), SumPolicy(min_cohort=6), SumPolicy(min_threshold=4)):
        with pytest.raises(PlanRejected):
            scheme.client(room.task, 0, room.vectors[0], credentials=room.credentials[0], policy=policy)


@pytest.mark.parametrize("step", ["deal", "frame", "consent", "open"])
def test_four_hundred_mutations_of_each_message_of_the_server(ckks: Make, step: str) -> None:
    """Whatever byte is altered, inserted or lost: a typed error, and the message as it was is still answered."""
    room = ckks(clients=3, least=2)
    client, message = next(iter(room.until(step).items()))
    session = room.sessions[client]
    kept = {
        name: getattr(session, name) for name in ("_state", "_last", "_secrets", "_vector", "_header", "_survivors")
    }
    rng = np.random.default_rng(len(step))
    for _ in range(400):
        changed = bytearray(message)
        at = int(rng.integers(len(changed))) if rng.integers(2) else int(rng.integers(min(len(changed), 600)))
        kind = rng.integers(3)
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 9))]
        else:
            changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        try:
            assert session.receive(bytes(changed)) is None  # it is of an earlier step now
        except WireError:
            assert session.state == kept["_state"]
        except (RemoteProtocolError, TooFewSurvivors):  # in an accepted step, or another word in the last one
            assert session.state in ("aborted", kept["_state"])
        for name, value in kept.items():
            setattr(session, name, value)
    assert session.receive(message) is not None
