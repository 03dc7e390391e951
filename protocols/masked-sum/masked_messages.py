"""Errors, and the bytes of messages: sections 4 and 11 of SPEC.md."""

from __future__ import annotations

import struct
from typing import Any

SERVER = 2**32 - 1


KINDS = {
    "AdvertiseKeys": 0x0201,
    "Roster": 0x0202,
    "ShareKeys": 0x0203,
    "Boxes": 0x0204,
    "MaskedInput": 0x0205,
    "Survivors": 0x0206,
    "ConsistencyCheck": 0x0207,
    "Signatures": 0x0208,
    "Unmask": 0x0209,
}
ADDRESSED = {KINDS["Boxes"], KINDS["Signatures"]}  # their bodies begin with the receiver


class Remote(Exception):
    """RemoteProtocolError: a peer broke the rules; at the close of a step, `sender` where it is certain which."""

    sender: int | None = None


class TooFew(Exception):
    """TooFewSurvivors."""


class Unusable(Exception):
    """WireError: the bytes are cut, misrouted or not due, and nothing has changed."""


def require(holds: bool, what: str, error: type[Exception] = Remote) -> None:
    if not holds:
        raise error(what)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def blob(data: bytes) -> bytes:
    return u64(len(data)) + data


def bitmap(count: int, members: Any) -> bytes:
    number = sum(1 << i for i in members)
    return u32(count) + number.to_bytes(-(-count // 8), "little")


def message(kind: str, sender: int, session: bytes, body: bytes) -> bytes:
    return b"pvfl" + b"\x01" + struct.pack("<HI", KINDS[kind], sender) + session + u32(len(body)) + body


def read_kind(data: bytes, sender: int, session: bytes, receiver: int = SERVER) -> str:
    """The kind of a whole message from `sender` to `receiver` in this session."""
    require(len(data) >= 47, "shorter than a header", Unusable)
    number = struct.unpack_from("<H", data, 5)[0]
    kind = next((name for name, known in KINDS.items() if known == number), "")
    require(kind != "", "an unknown kind", Unusable)
    header = message(kind, sender, session, b"")[:43]
    require(data[:43] == header, "another sender, session or version", Unusable)
    require(data[43:47] == u32(len(data) - 47), "another length", Unusable)
    require(number not in ADDRESSED or data[47:51] == u32(receiver), "for another client", Unusable)
    return kind


class Body:
    """Takes the fields of a message one by one; what is left at the end, or missing, is an error."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.rest = data[51 if KINDS[kind] in ADDRESSED else 47 :]

    def fixed(self, size: int) -> bytes:
        require(len(self.rest) >= size, "truncated")
        part, self.rest = self.rest[:size], self.rest[size:]
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.fixed(size), "little")

    def blob(self) -> bytes:
        return self.fixed(self.number(8))

    def bitmap(self, count: int) -> list[int]:
        require(self.number(4) == count, "a bitmap over another number of members")
        bits = self.number(-(-count // 8))
        require(bits >> count == 0, "padding bits")
        return [i for i in range(count) if bits >> i & 1]

    def end(self) -> None:
        require(not self.rest, "bytes left over")


def pieces(data: bytes, size: int, count: int) -> list[bytes]:
    require(len(data) == size * count, "not that many pieces")
    return [data[i : i + size] for i in range(0, len(data), size)]
