"""Clients one after the other, in the caller's own process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, TooFewSurvivors, reason_of
from privfl.fl.client import Work
from privfl.ring import Ints
from privfl.wire import ClientId


class LoopExecutor:
    """Runs every client in this process, each when the consumer asks for it: one contribution is held at a time."""

    def run(
        self, work: Work, model: Vector, clients: Iterable[ClientId], *, order: bytes
    ) -> Iterator[tuple[ClientId, Ints]]:
        """Yield (client, int64 `[length]`) in the order of `clients`.

        Args:
            work: Makes one contribution.
            model: The global model, float `[d]`; clients see it read-only.
            clients: The cohort.
            order: The bytes of the round's plan.

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
                contribution = perform(work, lent, client, order)
            except Exception as error:
                raise ClientFailed(client, reason_of(error)) from error
            yield client, contribution
        if empty:
            raise TooFewSurvivors(0, 1)

    def close(self) -> None:
        """Nothing is held."""


def perform(work: Work, model: Vector, client: ClientId, order: bytes) -> Ints:
    """Return one client's contribution, int64 `[length]`. It depends on the arguments only, not on the executor.

    Args:
        work: Makes one contribution.
        model: The global model, float `[d]`.
        client: The client.
        order: The bytes of the round's plan.

    Raises:
        ConfigError: The contribution is no flat int64 array.
    """
    result = work(model, client, order)
    if not (isinstance(result, np.ndarray) and result.dtype == np.int64 and result.ndim == 1):
        found = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise ConfigError(f"a contribution is a flat int64 array, not {found}")
    return result
