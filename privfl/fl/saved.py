"""The saved form of a party: the plan of the round, the state of the sum's session, and the reservation of its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privfl.errors import ConfigError, StateError, WireError
from privfl.fl.plan import RoundPlan
from privfl.fl.planwire import MAX_PLAN_BYTES
from privfl.sums import ClientSession, SecureSum, ServerSession
from privfl.sums.restore import (
    ClientRestorer,
    ServerRestorer,
    restores_clients,
    restores_servers,
    saves_client,
    saves_server,
)
from privfl.sums.session import pack_layer, unpack_layer
from privfl.wire import Blob, wired

_MAX_SESSION_BYTES: Final = 1 << 34


@dataclass(frozen=True, slots=True)
class SavedParty:
    """The state of a party, without the code, the keys and, at the server, the state before the round.

    Attributes:
        order: The bytes of the plan.
        session: The state of the sum's session, as its `to_bytes` gave it.
        token: The digest of the reservation in the ledger; empty without one.
    """

    order: bytes | memoryview = wired(Blob(MAX_PLAN_BYTES))
    session: bytes | memoryview = wired(Blob(_MAX_SESSION_BYTES), secret=True)
    token: bytes | memoryview = wired(Blob(64))

    def to_bytes(self, label: bytes) -> bytes:
        """The bytes under a label that names the kind of party, with their hash."""
        return pack_layer(label, self, inner="session")

    @classmethod
    def from_bytes(cls, label: bytes, data: bytes) -> SavedParty:
        """Return the saved party.

        Args:
            label: The kind of party.
            data: The bytes that it was saved as.

        Raises:
            StateError: The bytes were altered, cut short, or are of another kind. Of the session's state its last bytes
                are compared; the sum checks the rest when it restores the session.
        """
        try:
            return unpack_layer(label, cls, data, inner="session")
        except StateError as error:
            raise StateError(f"not the saved state of this kind of party, or an altered one: {error}") from error

    @property
    def plan(self) -> RoundPlan:
        """The plan of the round; raises `StateError` for bytes that are none."""
        try:
            return RoundPlan.from_bytes(bytes(self.order))
        except WireError as error:
            raise StateError(f"the saved state holds no plan: {error}") from error


def client_bytes(session: ClientSession, *, repeats: bool) -> bytes:
    """The state of a client's session.

    Args:
        session: The session.
        repeats: True holds the last answer, too.

    Raises:
        ConfigError: The sessions of this sum cannot be saved.
    """
    if not saves_client(session):
        raise _unsavable(session)
    return session.to_bytes(repeats=repeats)


def server_bytes(session: ServerSession) -> bytes:
    """The state of a server's session; raises `ConfigError` for a sum whose sessions cannot be saved."""
    if not saves_server(session):
        raise _unsavable(session)
    return session.to_bytes()


def _unsavable(session: object) -> ConfigError:
    return ConfigError(f"{type(session).__name__} cannot be saved: use a sum whose sessions have to_bytes()")


def server_restorer(scheme: SecureSum) -> ServerRestorer:
    """The sum itself, as one that restores its server's sessions; raises `ConfigError` if it does not."""
    if not restores_servers(scheme):
        raise ConfigError(f"{scheme.name} cannot restore a server's session: use a sum that has resume()")
    return scheme


def client_restorer(scheme: SecureSum) -> ClientRestorer:
    """The sum itself, as one that restores its clients' sessions; raises `ConfigError` if it does not."""
    if not restores_clients(scheme):
        raise ConfigError(f"{scheme.name} cannot restore a client's session: use a sum that has resume_client()")
    return scheme
