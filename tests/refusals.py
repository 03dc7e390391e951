"""How a client's session refuses a message, checked the same way by every attack on a masked sum."""

from __future__ import annotations

from typing import Any

import pytest

from privfl.errors import LocalProtocolError, ProtocolError, RemoteProtocolError, WireError
from privfl.wire import HEADER_BYTES, Message


def body(kind: type[Message], message: bytes) -> Any:
    return kind.from_body(memoryview(message)[HEADER_BYTES:])


def refuse(game: Any, client: int, message: bytes, error: type[ProtocolError] = RemoteProtocolError) -> None:
    """The client refuses the message, and then everything else, the honest message included."""
    session = game.clients[client]
    with pytest.raises(error):
        session.receive(message)
    assert session.state == "aborted"
    with pytest.raises(LocalProtocolError):
        session.receive(game.mail[client])


def unmoved(game: Any, client: int, message: bytes) -> None:
    """The message changes nothing: the client raises, and answers the honest message as if nothing had been."""
    session = game.clients[client]
    state = session.state
    with pytest.raises(WireError):
        session.receive(message)
    assert session.state == state
    assert session.receive(game.mail[client]) is not None
