"""Taps and dropouts of a round: counting its bytes, and leaving out clients that were found at fault."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from privfl.errors import ConfigError, PrivflError, reason_of
from privfl.sums import Drop, Tap
from privfl.sums.driver import ignore
from privfl.wire import ClientId


def without(named: Collection[ClientId], drop: Drop) -> Drop:
    """Return the dropouts of `drop` together with those clients whose messages are ignored.

    Args:
        named: The clients that were found at fault in an earlier attempt of the round.
        drop: (client, step) -> whether the client drops out from that message on.
    """
    return (lambda client, step: client in named or drop(client, step)) if named else drop


def guarded(tap: Tap) -> Tap:
    """The same tap, whose errors are a `ConfigError` that names it unless they are privfl's own.

    Args:
        tap: A tap that may be a program's own.
    """
    if tap is ignore:
        return tap

    def careful(direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        try:
            tap(direction, client, message)
        except PrivflError:
            raise
        except Exception as error:
            raise ConfigError(
                f"`tap` failed at a message {direction} of client {client}: {reason_of(error)}. Correct it, or leave "
                "`tap` out"
            ) from error

    return careful


class Traffic:
    """A tap that counts bytes, in front of another tap."""

    def __init__(self, behind: Tap) -> None:
        self.up = self.down = 0
        self._behind = guarded(behind)

    @property
    def count_up(self) -> Callable[[int], None] | None:
        """Counts bytes of clients whose messages are not made; None where the other tap looks at messages."""
        return self._count_up if self._behind is ignore else None

    def _count_up(self, size: int) -> None:
        self.up += size

    def __call__(self, direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        if direction == "up":
            self.up += len(message)
        else:
            self.down += len(message)
        self._behind(direction, client, message)
