"""The transition tables of both parties, as data: the sessions run on them, and tests and documents read them.

protocols/masked-sum/machine.toml says the same for readers of other languages; a test compares the two.
"""

from __future__ import annotations

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
from privfl.sums.session import Transition, TransitionTable

CLIENT_DONE: Final = "done"
SERVER_DONE: Final = "opened"

_CLIENT_HEAD: Final = (
    Transition("new", None, AdvertiseKeys, "advertised"),
    Transition("advertised", Roster, ShareKeys, "shared"),
    Transition("shared", Boxes, MaskedInput, "masked"),
)
CLIENT_SIGNED: Final = (
    *_CLIENT_HEAD,
    Transition("masked", Survivors, ConsistencyCheck, "checked"),
    Transition("checked", Signatures, Unmask, CLIENT_DONE),
)
CLIENT_SEMI_HONEST: Final = (
    *_CLIENT_HEAD,
    Transition("masked", Survivors, Unmask, CLIENT_DONE),
)

_SERVER_HEAD: Final = (
    Transition("AdvertiseKeys", AdvertiseKeys, Roster, "ShareKeys"),
    Transition("ShareKeys", ShareKeys, Boxes, "MaskedInput"),
)
SERVER_SIGNED: Final = (
    *_SERVER_HEAD,
    Transition("MaskedInput", MaskedInput, Survivors, "ConsistencyCheck"),
    Transition("ConsistencyCheck", ConsistencyCheck, Signatures, "Unmask"),
    Transition("Unmask", Unmask, None, SERVER_DONE),
)
SERVER_SEMI_HONEST: Final = (
    *_SERVER_HEAD,
    Transition("MaskedInput", MaskedInput, Survivors, "Unmask"),
    Transition("Unmask", Unmask, None, SERVER_DONE),
)


def client_table(*, signed: bool) -> TransitionTable:
    """The client's table in a mode; every state but the last has one row."""
    return CLIENT_SIGNED if signed else CLIENT_SEMI_HONEST


def server_table(*, signed: bool) -> TransitionTable:
    """The server's table in a mode; every step has one row."""
    return SERVER_SIGNED if signed else SERVER_SEMI_HONEST
