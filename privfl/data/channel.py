"""The channel of a question about the clients' examples: one secure sum, and the fewest examples of an answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from privfl.ring import Ints, Ring
from privfl.sums import Drop, Entropy, Opening, SecureSum, SumPolicy, SumResult, SumTask, Tap, run_sum
from privfl.sums.base import identity
from privfl.sums.driver import ignore, never
from privfl.wire import ClientId

MIN_CELL: Final = 11
"""The fewest examples that an answer without noise is about, unless a channel states another number."""

_WIDE: Final = Ring(64)


@dataclass(frozen=True, slots=True)
class Channel:
    """The secure sum that a preprocessing step goes through, with the arguments of `privfl.sums.run_sum`.

    Attributes:
        scheme: The sum.
        ring: Any ring; values wider than the ring are cut into limbs. 64 bits by default.
        context: Bytes that bind the sum to the run around it.
        min_survivors: The minimum of survivors; None means all clients.
        min_cell: The fewest examples that a figure without noise may be about, except none at all; 1 for no rule.
        credentials: Each client's keys, where the sum needs them.
        policy: The minima that each client insists on.
        drop: The simulated dropouts.
        tap: Called with every message.
        entropy: A source of random bytes, such as `os.urandom`.
    """

    scheme: SecureSum
    ring: Ring = _WIDE
    context: bytes = b"privfl/1 preprocess"
    min_survivors: int | None = None
    min_cell: int = MIN_CELL
    credentials: Mapping[ClientId, Any] | None = field(default=None, repr=False)
    policy: SumPolicy = SumPolicy()
    drop: Drop = never
    tap: Tap = ignore
    entropy: Entropy = os.urandom

    def task(self, clients: Iterable[ClientId], length: int, bound: int) -> SumTask:
        """Return the task of one sum.

        Args:
            clients: The cohort.
            length: The entries of a vector.
            bound: The maximum of an entry's magnitude.
        """
        cohort = tuple(sorted(clients))
        survivors = len(cohort) if self.min_survivors is None else self.min_survivors
        return SumTask(self.context, cohort, survivors, length, self.ring, bound)

    def run(self, task: SumTask, vectors: Iterable[tuple[ClientId, Ints]], opening: Opening = identity) -> SumResult:
        """Sum one vector of each client.

        Args:
            task: The task.
            vectors: The clients and their vectors, int64 `[length]`.
            opening: Applied to the opened sum, such as central noise.
        """
        return run_sum(
            self.scheme,
            task,
            vectors,
            credentials=self.credentials,
            policy=self.policy,
            opening=opening,
            drop=self.drop,
            tap=self.tap,
            entropy=self.entropy,
        )
