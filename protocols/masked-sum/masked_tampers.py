"""Alterations of a message, which the receiver has to refuse: section 11 of SPEC.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from masked_messages import ADDRESSED, KINDS, SERVER, bitmap, blob, message, u32
from masked_play import Play, Tamper
from masked_primitives import sign
from masked_roster import View

RECORD = 132


def rebuilt(kind: str, sender: int, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    """The message with another body after the receiver, where it names one, and a header that fits it."""
    start = 51 if KINDS[kind] in ADDRESSED else 47

    def tamper(play: Play, client: int, data: bytes) -> bytes:
        new = data[47:start] + body(play, client, data[start:])
        return message(kind, client if sender < 0 else sender, play.terms.session, new)

    return tamper


def from_server(kind: str, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    return rebuilt(kind, SERVER, body)


def from_client(kind: str, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    return rebuilt(kind, -1, body)


def roster(change: Callable[[Play, list[bytes]], list[bytes]]) -> Tamper:
    def body(play: Play, client: int, old: bytes) -> bytes:
        records = [old[8:][i : i + RECORD] for i in range(0, len(old) - 8, RECORD)]
        return blob(b"".join(change(play, records)))

    return from_server("Roster", body)


def advert(play: Play, client: int, keys: bytes) -> bytes:
    """A record that the client itself would have signed."""
    parts = play.terms.session, u32(client), keys
    return u32(client) + keys + sign(play.seeds[client], "advertise", *parts)


def flip(at: int, bit: int = 0) -> Tamper:
    """The message with one bit turned; `at` counts bytes from the start, or from the end if negative."""

    def tamper(play: Play, client: int, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        return bytes(changed)

    return tamper


def misrouted(play: Play, client: int, data: bytes) -> bytes:
    """The message of the same step to another client."""
    return bytes.fromhex(play.steps[-2]["down"][client + 1])


def bits(kind: str, *members: int, count: int = 5) -> Tamper:
    """A list of these members in place of the one sent."""

    def body(play: Play, client: int, old: bytes) -> bytes:
        return bitmap(count, members) + old[4 + -(-count // 8) :]

    return from_server(kind, body)


def signatures(change: Callable[[Play, list[int], list[bytes]], tuple[list[int], list[bytes]]]) -> Tamper:
    def body(play: Play, client: int, old: bytes) -> bytes:
        near = [i for i in range(4) if old[4] >> i & 1]
        blobs = [old[13:][i : i + 64] for i in range(0, len(old) - 13, 64)]
        near, blobs = change(play, near, blobs)
        return bitmap(4, near) + blob(b"".join(blobs))

    return from_server("Signatures", body)


def distant(play: Play, records: list[bytes]) -> list[bytes]:
    """The roster with a signature forged of a member that is no neighbor of client 1."""
    for place in range(len(records)):
        changed = list(records)
        changed[place] = changed[place][:-1] + bytes([changed[place][-1] ^ 1])
        if place != 1 and place not in View(play.terms, b"".join(changed)).holders(1):
            return changed
    raise AssertionError


def wrong_shares(indices: Iterable[int]) -> Callable[[Play, int, bytes], bytes]:
    """Unmask with the shares at these indices altered."""

    def body(play: Play, client: int, old: bytes) -> bytes:
        new = bytearray(old)
        for index in indices:
            new[len(old) % 33 + 33 * index] ^= 1
        return bytes(new)

    return body


def checked(play: Play, client: int, values: bytes) -> bytes:
    """An upload whose check fits."""
    view = play.server.view
    return view.input_check(view.ids.index(client), values) + blob(values)


def not_reduced(play: Play, client: int, old: bytes) -> bytes:
    return checked(play, client, old[24:-4] + b"\xff" * 4)


def signed_advert(play: Play, client: int, keys: bytes) -> bytes:
    record = advert(play, client, keys)
    return record[4:68] + blob(record[68:])
