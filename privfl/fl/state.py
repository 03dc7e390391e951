"""The server's state between two rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from privfl.codec import Vector
from privfl.fl.optimizers import Moments


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything that the server carries from one round to the next.

    Attributes:
        model: The global model, float `[d]`.
        moments: The server optimizer's memory by name, float64 `[d]` each; empty before the first step.
        clip_norm: The clip norm of the next round where it is adaptive; None where it is fixed in the encoding.
    """

    model: Vector = field(repr=False)
    moments: Moments = field(repr=False, default_factory=dict)
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one round.

    Attributes:
        state: The server's state after the round.
        metrics: The mean training metrics, by name.
        update_norm: The l2 norm of the mean update.
        survivors: The clients whose vectors are in the sum.
        caveats: What the sum does not promise.
    """

    state: ServerState
    metrics: Mapping[str, float]
    update_norm: float
    survivors: frozenset[int]
    caveats: tuple[str, ...] = ()
