"""A client's training, and the seam to the executor that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.chunks import Chunk, ChunkAnswer
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """The result of one client's training.

    Attributes:
        delta: local - global (for FedSGD: minus the gradient), float `[d]`; integers and lists become float64, half
            precision float32.
        examples: The number of examples that it was trained on, a whole number of at least 0.
        metrics: Means over those examples (loss, accuracy ...), for the secure sum only: no metric leaves a client
            outside the sum.
        blocks: Further vectors that the round sums next to the delta, by the names of the plan's blocks.
        steps: The number of optimizer steps whose gradients `delta` adds up; with momentum the sum of the gradients'
            factors. 0 where the training does not state it.

    Raises:
        ConfigError: If `delta` is no flat vector of numbers, a metric is no number, or `examples` is not a whole number
            of at least 0.
    """

    delta: Vector = field(repr=False)
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, Vector] = field(repr=False, default_factory=dict)
    steps: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.delta, np.ndarray) and self.delta.dtype in (np.float32, np.float64)):
            object.__setattr__(self, "delta", _floats(self.delta))
        if self.delta.ndim != 1:
            raise ConfigError(f"a delta is a flat vector, not an array of shape {self.delta.shape}")
        if type(self.examples) is not int:
            object.__setattr__(self, "examples", _integer(self.examples))
        if self.examples < 0:
            raise ConfigError(f"examples must be at least 0, not {self.examples}")
        if not (isinstance(self.metrics, Mapping) and all(type(value) is float for value in self.metrics.values())):
            object.__setattr__(self, "metrics", _numbers(self.metrics))


def checked_update(update: object) -> ClientUpdate:
    """The result of a training function; raises `ConfigError` for anything else than a `ClientUpdate`."""
    if not isinstance(update, ClientUpdate):
        raise ConfigError(f"a training returns ClientUpdate(delta, examples), not a {type(update).__name__}")
    return update


def _floats(delta: object) -> Vector:
    """A delta of other numbers as floats in which clipping and weighing it loses nothing: half precision as float32."""
    try:
        array = np.asarray(delta)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"a delta is a flat vector of numbers, not of {array.dtype}: give np.asarray(delta, float)")
    with np.errstate(over="ignore"):  # what float64 cannot hold is infinite, and the update is rejected
        return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _numbers(metrics: object) -> dict[str, float]:
    """Metrics as floats; a metric that is None was not measured."""
    if not isinstance(metrics, Mapping):
        raise ConfigError(f"metrics are numbers by name, as in {{'loss': 0.5}}, not a {type(metrics).__name__}")
    found = {}
    for name, value in metrics.items():
        try:
            if value is not None:
                found[name] = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise ConfigError(f"the metric {name!r} is not a number but a {type(value).__name__}") from None
    return found


def _integer(examples: object) -> int:
    """`examples` as an int; weights that are no whole numbers would be rounded, so they are refused."""
    try:
        whole = int(examples)  # type: ignore[call-overload]
        same = bool(whole == examples)
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise ConfigError(
            "examples must be a whole number: for fractional weights return each weight times a common factor, such "
            "as round(1000 * weight)"
        )
    return int(whole)


Train = Callable[[Vector, ClientId, int, np.random.Generator], ClientUpdate]
"""(model, client, round, rng) -> update. The model is read-only; `rng` is the client's own for this round."""

OnClientError = Literal["raise", "drop"]
"""What an error of a client's training does: it ends the round, or the client drops out of it."""


class CohortTrain(Protocol):
    """A `Train` that can also train many clients at once, for plans whose chunks are batched.

    The training in a `Stateful` takes the clients' states as a further argument of `train_cohort`, and returns an
    update and a new state for each.
    """

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train one client; see `Train`."""
        ...

    def check_cohort(self) -> None:
        """Raise `ConfigError` if this training cannot train many clients at once."""
        ...

    def train_cohort(
        self, model: Vector, clients: tuple[ClientId, ...], round: int, rngs: Sequence[np.random.Generator]
    ) -> Sequence[ClientUpdate]:
        """Train the clients of a chunk, each on the minibatches that `__call__` would take.

        Args:
            model: The global model, float `[d]`, read-only.
            clients: The chunk.
            round: The round.
            rngs: Each client's own randomness.

        Returns:
            An update for each client, in the order of `clients`.
        """
        ...


class Work(Protocol):
    """The work of a chunk of clients in any round of a run."""

    def __call__(
        self,
        model: Vector,
        clients: Chunk,
        order: bytes,
        *,
        states: Sequence[bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> ChunkAnswer:
        """Make the contributions of the clients of a chunk. They depend on the arguments only.

        Args:
            model: The global model, float `[d]`, read-only.
            clients: The chunk.
            order: The bytes of the round's plan.
            states: The state of each client; None for clients without states.
            counted: Add up the contributions of these clients where they are made; None keeps each by itself.

        Raises:
            ClientFailed: If the work of a client raised an error.
        """
        ...


class Executor(Protocol):
    """Executes the clients of a round. The result must not depend on it, down to the last bit."""

    def run(
        self,
        work: Work,
        model: Vector,
        chunks: Iterable[Chunk],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> Iterator[ChunkAnswer]:
        """Yield the answer of each chunk as it is ready, in any order.

        Args:
            work: Makes the contributions of a chunk; the same object in every round of a run.
            model: The global model, float `[d]`.
            chunks: The clients that take part.
            order: The bytes of the round's plan: everything that changes from round to round.
            states: The state of each client. It is replaced by the client's new state before the answer is yielded.
                None for clients without states.
            counted: The clients whose contributions may be added up before they are yielded; None keeps each by itself.

        Raises:
            ClientFailed: If a client fails.
        """
        ...

    def close(self) -> None:
        """Return processes and memory."""
        ...


NOISE_STREAM: Final = 2
CENTRAL_STREAM: Final = 3
TUNING_STREAM: Final = 4
"""Last words of the keys (seed, round, client, word) of simulation noise, and of the tuning of an evaluation.

Numpy pads a key with zeros: that of `client_rng` ends in 0, and (seed, round, 2^32) of the cohorts is (seed, round, 0,
1). Equal streams would make the noise a function of the cohort.
"""


def client_rng(seed: int, round: int, client: ClientId) -> np.random.Generator:
    """Return the training randomness of one client in one round: each round can be replayed alone, in any order.

    Args:
        seed: The seed of the run.
        round: The round.
        client: The client.
    """
    words = (seed, round, client)
    # The same entropy, which an array of words brings faster than a list of integers.
    short = max(words) < 1 << 32
    return np.random.default_rng(np.random.SeedSequence(np.array(words, np.uint32) if short else words))
