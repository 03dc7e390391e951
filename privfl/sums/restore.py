"""The further interfaces of sums whose sessions can be saved and restored. A plain sum has none of them."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

from privfl.ring import Opening
from privfl.sums.base import ClientSession, Entropy, SecureSum, ServerSession, SumPolicy, SumTask
from privfl.wire import ClientId


class SavableServer(Protocol):
    """A server's session whose state can be saved after every message."""

    def to_bytes(self) -> bytes:
        """Return the state, as secret as the session. Save it before the session's answer is sent."""
        ...


class SavableClient(Protocol):
    """A client's session whose state can be saved after every message."""

    def to_bytes(self, *, repeats: bool = True) -> bytes:
        """Return the state, as secret as the session. Save it before the session's answer is sent.

        Args:
            repeats: False leaves out the last answer, for a caller that keeps it with the state.
        """
        ...


class ServerRestorer(Protocol):
    """A sum that restores the sessions of its server."""

    def resume(self, task: SumTask, state: bytes, *, opening: Opening = ...) -> ServerSession:
        """Return the server's session from its saved state, in another process perhaps.

        Args:
            task: The task of the session.
            state: The bytes that `to_bytes` of the session gave.
            opening: As in `SecureSum.server`.

        Raises:
            StateError: The bytes were altered, cut short, or belong to another session.
        """
        ...


class ClientRestorer(Protocol):
    """A sum that restores the sessions of its clients, each saved state at most once."""

    def resume_client(
        self,
        task: SumTask,
        me: ClientId,
        state: bytes,
        *,
        credentials: Any = None,
        policy: SumPolicy = ...,
        opening: Opening = ...,
        entropy: Entropy = ...,
    ) -> ClientSession:
        """Return a client's session from its saved state, in another process perhaps.

        Args:
            task: The task of the session.
            me: The client.
            state: The bytes that `to_bytes` of the session gave.
            credentials: The client's keys, which the state does not hold.
            policy: The minima that the client insists on.
            opening: As in `SecureSum.client`.
            entropy: A source of random bytes for the rest of the session.

        Raises:
            StateError: The bytes were altered, cut short, restored before, or belong to another session.
        """
        ...


def saves_client(session: ClientSession) -> TypeGuard[SavableClient]:
    """True if the state of this client's session can be saved."""
    return hasattr(session, "to_bytes")


def saves_server(session: ServerSession) -> TypeGuard[SavableServer]:
    """True if the state of this server's session can be saved."""
    return hasattr(session, "to_bytes")


def restores_servers(scheme: SecureSum) -> TypeGuard[ServerRestorer]:
    """True if this sum restores the sessions of its server."""
    return hasattr(scheme, "resume")


def restores_clients(scheme: SecureSum) -> TypeGuard[ClientRestorer]:
    """True if this sum restores the sessions of its clients."""
    return hasattr(scheme, "resume_client")
