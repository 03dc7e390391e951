"""A server that lies about keys and boxes of a masked sum: each attack by its name, and its failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from refusals import body, refuse, unmoved

from privfl.crypto import (
    AgreementKey,
    Credentials,
    MemoryDirectory,
    SigningKey,
)
from privfl.errors import (
    ConfigError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from privfl.secagg import MaskedSum, keys
from privfl.secagg.messages import (
    BOX_BYTES,
    Bitmap,
    Boxes,
    Roster,
    ShareKeys,
)
from privfl.sums.base import Dispute

Make = Callable[..., Any]
RECORD = 4 + 64 + 64


# --- keys ----------------------------------------------------------------------------------------------------------


def replaced(game: Any, place: int, keys_: bytes, signature: bytes) -> bytes:
    entries = bytearray(body(Roster, game.mail[0]).entries)
    entries[place * RECORD + 4 : (place + 1) * RECORD] = keys_ + signature
    return bytes(game.down(Roster(bytes(entries))))


@pytest.mark.parametrize("place", [0, 3])
def test_key_substitution_by_the_server(play: Make, place: int) -> None:
    """For another client or for the receiver, with its old signature, a stranger's, or one of another session."""
    game, other = play().until(1), play(context=b"round 2").until(1)
    fake = AgreementKey.generate().public + AgreementKey.generate().public
    old = bytes(body(Roster, game.mail[0]).entries)[place * RECORD + 68 : (place + 1) * RECORD]
    forged = SigningKey.generate().sign(keys.ADVERTISE, game.session, keys.id_bytes(place), fake)
    elsewhere = bytes(body(Roster, other.mail[0]).entries)[place * RECORD + 4 : (place + 1) * RECORD]
    for public, signature in [(fake, old), (fake, forged), (elsewhere[:64], elsewhere[64:])]:
        refuse(game.fork(), 0, replaced(game, place, public, signature))


def test_one_key_for_two_identities(play: Make, identities: tuple[Mapping[int, Credentials], MemoryDirectory]) -> None:
    """In a roster, although correctly signed by both; in a directory it is refused outright."""
    game = play().until(1)
    entries = bytes(body(Roster, game.mail[0]).entries)
    public = entries[RECORD + 4 : RECORD + 68]
    signature = identities[0][2].signing.sign(keys.ADVERTISE, game.session, keys.id_bytes(2), public)
    refuse(game, 0, replaced(game, 2, public, signature))
    with pytest.raises(ConfigError):
        MemoryDirectory({1: identities[0][1].signing.public, 2: identities[0][1].signing.public})


@pytest.mark.parametrize("low", [bytes(32), (1).to_bytes(32, "little")])
@pytest.mark.parametrize("which", ["mask", "box"])
def test_low_order_points(play: Make, low: bytes, which: str) -> None:
    """Without signatures only the points themselves stand between the server and the shared secret."""
    game = play(scheme=MaskedSum(mode="semi-honest")).until(1)
    entries = bytearray(body(Roster, game.mail[0]).entries)
    at = 3 * 68 + (4 if which == "mask" else 36)
    entries[at : at + 32] = low
    fork = game.fork()
    with pytest.raises(RemoteProtocolError, match="low order") as caught:
        fork.clients[0].receive(game.down(Roster(bytes(entries))))
    assert caught.value.sender == 3
    refuse(game, 0, game.down(Roster(bytes(entries))))


def test_rosters_that_are_no_rosters(play: Make) -> None:
    game = play().until(1)
    entries = bytes(body(Roster, game.mail[0]).entries)
    records = [entries[i : i + RECORD] for i in range(0, len(entries), RECORD)]
    stranger = (99).to_bytes(4, "little") + AgreementKey.generate().public + AgreementKey.generate().public + bytes(64)
    for bad in (
        entries[:-1],
        b"".join([records[1], records[0], *records[2:]]),
        b"".join([records[0], *records]),
        b"".join([*records, stranger]),
        b"".join(records[:3]),
        b"",
    ):
        refuse(game.fork(), 0, game.down(Roster(bad)))
    unmoved(game.fork(), 0, game.down(Roster(b"".join(records[1:]))))


# --- boxes ---------------------------------------------------------------------------------------------------------


def test_reflected_share_boxes(play: Make) -> None:
    """A client's own boxes come back to it in the names of the others: none opens."""
    game = play().until(1).answer()
    mine = bytes(body(ShareKeys, game.uplink[0]).boxes)
    game.send()
    refuse(game, 0, game.down(Boxes(0, Bitmap.of(5, range(5)), mine)), TooFewSurvivors)


def test_rerouted_share_boxes(play: Make) -> None:
    """Boxes for client 1 reach client 0: none opens. One alone is a missing share, and the round completes."""
    game = play().until(2)
    theirs = replace(body(Boxes, game.mail[1]), receiver=0)
    refuse(game.fork(), 0, game.down(theirs), TooFewSurvivors)
    own = bytes(body(Boxes, game.mail[0]).boxes)
    one = bytes(theirs.boxes)[BOX_BYTES : 2 * BOX_BYTES] + own[BOX_BYTES:]
    game.mail[0] = game.down(Boxes(0, Bitmap.of(5, range(5)), one))
    game.finish()
    assert game.server.result.undecided == (Dispute(1, 0, "missing"),)


def test_boxes_of_another_number(play: Make) -> None:
    game = play().until(2)
    own = bytes(body(Boxes, game.mail[0]).boxes)
    for boxes in (own[:-1], own + own[:BOX_BYTES], b""):
        refuse(game.fork(), 0, game.down(Boxes(0, Bitmap.of(5, range(5)), boxes)))
