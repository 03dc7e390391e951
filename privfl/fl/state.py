"""The server's state between two rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from privfl.codec import Vector
from privfl.fl.aggregation import Shared, joined
from privfl.fl.counts import Counts
from privfl.fl.optimizers import Moments
from privfl.fl.range import Range


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything that the server carries from one round to the next.

    Attributes:
        model: The global model, float `[d]`.
        moments: The server optimizer's memory by name, float64 `[d]` each; empty before the first step.
        shared: The vectors that go to the clients after the model, by name, such as SCAFFOLD's control variate.
        clip_norm: The clip norm that the next round uses, if it is adaptive; None if the encoding fixes it.
        range: The range of the next round's sum, where it follows the run.
    """

    model: Vector = field(repr=False)
    moments: Moments = field(repr=False, default_factory=dict)
    clip_norm: float | None = None
    range: Range = field(default_factory=Range)
    shared: Shared = field(repr=False, default_factory=dict)

    @property
    def sent(self) -> Vector:
        """The vector that goes to the clients, float: the model, and the shared vectors after it."""
        return joined(self.model, self.shared)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one round.

    Attributes:
        state: The server's state after the round.
        metrics: The mean training metrics, by name.
        update_norm: The l2 norm of the mean update.
        survivors: The clients whose vectors are in the sum.
        caveats: What the sum does not promise, and what the round did to the clients' numbers.
        trained: Whether the mean is of at least one update; otherwise the state is the one before.
        counts: What the round counted about its updates; None for a round with noise.
        largest: The largest absolute entry of the mean update.
        floor: A rounding error below the precision of the model's own numbers.
    """

    state: ServerState
    metrics: Mapping[str, float]
    update_norm: float
    survivors: frozenset[int]
    caveats: tuple[str, ...] = ()
    trained: bool = True
    counts: Counts | None = None
    largest: float = 0.0
    floor: float = 0.0
