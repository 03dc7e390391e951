"""From the decoded sum of a round to the server's step: where FedAvg, SCAFFOLD and FedNova differ at the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.decoded import Decoded
from privfl.fl.slots import Block

Shared = Mapping[str, npt.NDArray[np.float64]]
"""Vectors that the server keeps and sends to the clients after the model, by name, in the order of the mapping."""

CONTROL: Final = "control"
STEPS: Final = "steps"


class Aggregation(Protocol):
    """The rule that makes the step of the server optimizer of a round's means: a pure function, without state."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The vectors that are summed next to the update."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the aggregation needs, by name."""
        ...

    @property
    def uniform(self) -> bool:
        """True if every client must have the same weight."""
        ...

    def start(self) -> Shared:
        """The shared vectors before the first round."""
        ...

    def combine(self, decoded: Decoded, shared: Shared, *, fraction: float) -> tuple[npt.NDArray[np.float64], Shared]:
        """The step and the next shared vectors.

        Args:
            decoded: The means of the round.
            shared: The shared vectors before the round.
            fraction: The contributions in the sum as a fraction of the population.

        Returns:
            float64 `[d]`, which the server optimizer takes as the mean update, and the next shared vectors.
        """
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean update is the step: federated averaging (McMahan et al. 2017)."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Empty: nothing is summed next to the update."""
        return ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Empty: no metric is needed."""
        return ()

    @property
    def uniform(self) -> bool:
        """False: any weights do."""
        return False

    def start(self) -> Shared:
        """Empty: clients receive the model only."""
        return {}

    def combine(self, decoded: Decoded, shared: Shared, *, fraction: float) -> tuple[npt.NDArray[np.float64], Shared]:
        """See `Aggregation.combine`."""
        return decoded.mean, shared


@dataclass(frozen=True, slots=True)
class ControlVariates(Mean):
    """SCAFFOLD's server: c <- c + |S|/N times the mean change of the clients' c_i.

    Karimireddy et al. 2020, algorithm 1.

    Attributes:
        length: The entries of a control variate, one for each parameter that is trained.
    """

    length: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The changes of the clients' control variates."""
        return (Block(CONTROL, self.length),)

    @property
    def uniform(self) -> bool:
        """True: c is the plain mean of the clients' c_i."""
        return True

    def start(self) -> Shared:
        """A control variate of zeros."""
        return {CONTROL: np.zeros(self.length)}

    def combine(self, decoded: Decoded, shared: Shared, *, fraction: float) -> tuple[npt.NDArray[np.float64], Shared]:
        """See `Aggregation.combine`."""
        return decoded.mean, {CONTROL: shared[CONTROL] + fraction * decoded.blocks[CONTROL]}


@dataclass(frozen=True, slots=True)
class NormalizedMean(Mean):
    """FedNova's server (Wang et al. 2020, section 4): the mean of normalized updates times the mean number of steps.

    Attributes:
        parameters: The first entries of the model, which the clients divide by their steps. Running statistics come
            after them, and are averaged as they are.
    """

    parameters: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """The number of local steps."""
        return (STEPS,)

    def combine(self, decoded: Decoded, shared: Shared, *, fraction: float) -> tuple[npt.NDArray[np.float64], Shared]:
        """See `Aggregation.combine`."""
        if STEPS not in decoded.metrics or (decoded.counts and dict(decoded.counts.without).get(STEPS)):
            raise ConfigError("FedNova needs the number of steps of every client: its training must report `steps`")
        mean = decoded.mean.copy()
        mean[: self.parameters] *= decoded.metrics[STEPS]
        return mean, shared


def joined(model: Vector, shared: Mapping[str, npt.NDArray[Any]]) -> Vector:
    """The vector that is sent to clients: the model and the shared vectors after it, in the model's precision.

    Args:
        model: Float `[d]`.
        shared: The shared vectors.
    """
    return np.concatenate([model, *(shared[name].astype(model.dtype) for name in shared)]) if shared else model
