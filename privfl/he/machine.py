"""The transition tables of both parties, as data: the sessions run on them, and tests and SPEC.md read them.

protocols/ckks-sum/machine.toml states the same for readers of other languages; a test compares the two.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from privfl.he.messages import (
    Advertise,
    AskDealer,
    AskOpener,
    Consent,
    Deal,
    Dealt,
    Frame,
    Opened,
    Survivors,
    UseKey,
)
from privfl.wire import Message

Kind = type[Message]


class ClientState(enum.Enum):
    """The state of a client. Every error leads to ABORTED, from any state, for good."""

    NEW = "new"
    ADVERTISED = "advertised"
    DEALING = "dealing"
    SENT = "sent"
    CONSENTED = "consented"
    OPENED = "opened"
    ABORTED = "aborted"


class ServerState(enum.Enum):
    """The open step of a server. Too few clients lead to DONE, from any step, without a result."""

    ADVERTISE = "advertise"
    DEAL = "deal"
    FRAME = "frame"
    CONSENT = "consent"
    OPEN = "open"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class ClientTransition:
    """One message that a client answers.

    Attributes:
        state: The state before.
        receives: The kind of message that arrives; None at the start.
        sends: The kind of the answer.
        then: The state after.
    """

    state: ClientState
    receives: Kind | None
    sends: Kind
    then: ClientState


@dataclass(frozen=True, slots=True)
class ServerTransition:
    """One step that a server closes.

    Attributes:
        step: The step that is open.
        collects: The kind of message that it collects.
        sends: The kind of message that closing it sends; None at the end.
        then: The step that is open after.
    """

    step: ServerState
    collects: Kind
    sends: Kind | None
    then: ServerState


CLIENT: Final = (
    ClientTransition(ClientState.NEW, None, Advertise, ClientState.ADVERTISED),
    ClientTransition(ClientState.ADVERTISED, AskDealer, Deal, ClientState.DEALING),
    ClientTransition(ClientState.ADVERTISED, Dealt, Frame, ClientState.SENT),
    ClientTransition(ClientState.ADVERTISED, UseKey, Frame, ClientState.SENT),
    ClientTransition(ClientState.DEALING, Dealt, Frame, ClientState.SENT),
    ClientTransition(ClientState.SENT, Survivors, Consent, ClientState.CONSENTED),
    ClientTransition(ClientState.CONSENTED, AskOpener, Opened, ClientState.OPENED),
)

SERVER: Final = (
    ServerTransition(ServerState.ADVERTISE, Advertise, UseKey, ServerState.FRAME),
    ServerTransition(ServerState.ADVERTISE, Advertise, AskDealer, ServerState.DEAL),
    ServerTransition(ServerState.DEAL, Deal, AskDealer, ServerState.DEAL),
    ServerTransition(ServerState.DEAL, Deal, Dealt, ServerState.FRAME),
    ServerTransition(ServerState.FRAME, Frame, Survivors, ServerState.CONSENT),
    ServerTransition(ServerState.CONSENT, Consent, AskOpener, ServerState.OPEN),
    ServerTransition(ServerState.OPEN, Opened, AskOpener, ServerState.OPEN),
    ServerTransition(ServerState.OPEN, Opened, None, ServerState.DONE),
)
