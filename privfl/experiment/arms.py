"""The arms of a comparison, and the figures of each: one cell for each seed, one row for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

INFINITY: Final = "infinity"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training.

    Attributes:
        name: The name in tables and results.
        kind: The group of the arm; "pooled" and "local" are no federations.
        overrides: The settings in which the arm differs from the others, by key.
        target: The epsilon aimed at; None without one.
    """

    name: str
    kind: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm under one seed.

    Attributes:
        arm: The arm's name.
        seed: The seed of the run.
        value: The compared metric after the last round.
        curve: The metric after each round.
        epsilon: The outsider's epsilon; None where none is claimed, infinite where the claim promises nothing.
        server_epsilon: The server's epsilon, in the same way.
        bytes_up: The bytes that one client sends in a round, on average.
        seconds: The seconds of a round, on average.
        model: The hash of the last model.
        clients: The number of clients.
    """

    arm: str
    seed: int
    value: float
    curve: tuple[float, ...]
    epsilon: float | None
    server_epsilon: float | None
    bytes_up: float
    seconds: float
    model: str
    clients: int


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over its seeds: a line of the table.

    Attributes:
        arm: The arm's name.
        seeds: The number of its runs.
        value: The mean of the compared metric after the last round.
        stddev: The standard deviation of that metric over the seeds; 0 with one seed.
        epsilon: The largest epsilon of an outsider; None where none is claimed.
        server_epsilon: The largest epsilon of the server; None where none is claimed.
        bytes_up: The mean of the bytes that one client sends in a round.
        seconds: The mean seconds of a round.
        sees: What the server sees, in words.
        clients: The number of clients.
        independent_epsilon: Of central noise at level "example": epsilon against the server if the sites added this
            noise independently, each its part.
    """

    arm: str
    seeds: int
    value: float
    stddev: float
    epsilon: float | None
    server_epsilon: float | None
    bytes_up: float
    seconds: float
    sees: str
    clients: int
    independent_epsilon: float | None = None


def read_cell(record: Mapping[str, Any]) -> Cell:
    """The cell that `json_record` wrote."""
    return Cell(**{**_read_record(record), "curve": tuple(record["curve"])})


def json_record(item: Cell | ArmSummary) -> dict[str, Any]:
    """The fields as JSON values: an infinite epsilon is the text "infinity", and one that is not claimed is null."""
    return {key: INFINITY if value == math.inf else value for key, value in asdict(item).items()}


def _read_record(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.inf if value == INFINITY else value for key, value in record.items()}
