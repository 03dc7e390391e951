"""Clients one after the other, in the caller's own process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np

from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, TooFewSurvivors, reason_of
from privfl.fl.client import StatefulWork, Work
from privfl.ring import Ints
from privfl.wire import ClientId


class LoopExecutor:
    """Runs every client in this process, each when the consumer asks for it: one contribution is held at a time."""

    def run(
        self,
        work: Work | StatefulWork,
        model: Vector,
        clients: Iterable[ClientId],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
    ) -> Iterator[tuple[ClientId, Ints]]:
        """Yield (client, int64 `[length]`) in the order of `clients`.

        Args:
            work: Makes one contribution.
            model: The global model, float `[d]`; clients see it read-only.
            clients: The cohort.
            order: The bytes of the round's plan.
            states: The state of each client, which its new state replaces; None for clients without one.

        Raises:
            ClientFailed: `work` raised an error.
            TooFewSurvivors: There is no client at all.
        """
        lent = model.view()
        lent.flags.writeable = False
        empty = True
        for client in clients:
            empty = False
            try:
                contribution, state = perform(work, lent, client, order, None if states is None else states[client])
            except Exception as error:
                raise ClientFailed(client, reason_of(error)) from error
            if states is not None:
                states[client] = state
            yield client, contribution
        if empty:
            raise TooFewSurvivors(0, 1)

    def close(self) -> None:
        """Nothing is held."""


def perform(
    work: Work | StatefulWork, model: Vector, client: ClientId, order: bytes, state: bytes | None = None
) -> tuple[Ints, bytes]:
    """One client's contribution, int64 `[length]`, and its new state. They depend on the arguments only.

    Args:
        work: Makes one contribution.
        model: The global model, float `[d]`.
        client: The client.
        order: The bytes of the round's plan.
        state: The client's state; None for a client without one, whose new state is b"".

    Raises:
        ConfigError: The contribution is no flat int64 array.
    """
    make: Any = work
    result, after = (make(model, client, order), b"") if state is None else make(model, client, order, state)
    if not (isinstance(result, np.ndarray) and result.dtype == np.int64 and result.ndim == 1):
        found = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise ConfigError(f"a contribution is a flat int64 array, not {found}")
    return result, after
