"""The transition tables of both parties, as data: the sessions run on them, and tests and documents read them.

protocols/masked-sum/machine.toml says the same for readers of other languages; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privfl.secagg.messages import (
    AdvertiseKeys,
    Boxes,
    ConsistencyCheck,
    MaskedInput,
    Roster,
    ShareKeys,
    Signatures,
    Survivors,
    Unmask,
)
from privfl.wire import Message

Kind = type[Message]


@dataclass(frozen=True, slots=True)
class ClientTransition:
    """In `state`, `receives` (nothing at the start) makes a client send `sends` and go on to `then`."""

    state: str
    receives: Kind | None
    sends: Kind
    then: str


@dataclass(frozen=True, slots=True)
class ServerTransition:
    """In `step` the server collects `collects`; closing it sends `sends` (nothing at the end) and goes on to `then`."""

    step: str
    collects: Kind
    sends: Kind | None
    then: str


CLIENT_DONE: Final = "done"
CLIENT_ABORTED: Final = "aborted"
"""Where every error leads, from any state, for good."""

SERVER_DONE: Final = "opened"
SERVER_CLOSED: Final = "closed"
"""Where `TooFewSurvivors` leads, from any step, for good."""

_CLIENT_HEAD: Final = (
    ClientTransition("new", None, AdvertiseKeys, "advertised"),
    ClientTransition("advertised", Roster, ShareKeys, "shared"),
    ClientTransition("shared", Boxes, MaskedInput, "masked"),
)
CLIENT_SIGNED: Final = (
    *_CLIENT_HEAD,
    ClientTransition("masked", Survivors, ConsistencyCheck, "checked"),
    ClientTransition("checked", Signatures, Unmask, CLIENT_DONE),
)
CLIENT_SEMI_HONEST: Final = (
    *_CLIENT_HEAD,
    ClientTransition("masked", Survivors, Unmask, CLIENT_DONE),
)

_SERVER_HEAD: Final = (
    ServerTransition("AdvertiseKeys", AdvertiseKeys, Roster, "ShareKeys"),
    ServerTransition("ShareKeys", ShareKeys, Boxes, "MaskedInput"),
)
SERVER_SIGNED: Final = (
    *_SERVER_HEAD,
    ServerTransition("MaskedInput", MaskedInput, Survivors, "ConsistencyCheck"),
    ServerTransition("ConsistencyCheck", ConsistencyCheck, Signatures, "Unmask"),
    ServerTransition("Unmask", Unmask, None, SERVER_DONE),
)
SERVER_SEMI_HONEST: Final = (
    *_SERVER_HEAD,
    ServerTransition("MaskedInput", MaskedInput, Survivors, "Unmask"),
    ServerTransition("Unmask", Unmask, None, SERVER_DONE),
)


def client_table(*, signed: bool) -> dict[str, ClientTransition]:
    """state -> its one transition."""
    return {row.state: row for row in (CLIENT_SIGNED if signed else CLIENT_SEMI_HONEST)}


def server_table(*, signed: bool) -> dict[str, ServerTransition]:
    """step -> its one transition."""
    return {row.step: row for row in (SERVER_SIGNED if signed else SERVER_SEMI_HONEST)}
