"""Examples that are dealt to the clients in each trial of an attack, and examples that the attacker has."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.errors import ConfigError
from privfl.experiment.assemble import Assembly
from privfl.fl.client import ClientUpdate, Train, client_rng
from privfl.fl.client_state import Stateful
from privfl.fl.linear import LinearTrain
from privfl.wire import ClientId

Indices = npt.NDArray[np.int64]

ATTACKER: Final[ClientId] = -1
"""The name under which the attacker trains; no client has it."""

_STREAM: Final = 7
_SAMPLES: Final = 32
_MIN_SIDE: Final = 8


class DealtData(FederatedData):
    """A federation whose clients hold other examples in each trial: `dealt` names them by client."""

    __slots__ = ("dealt",)

    dealt: dict[ClientId, Indices]

    def __post_init__(self) -> None:
        FederatedData.__post_init__(self)
        object.__setattr__(self, "dealt", {})

    def train(self, client: ClientId) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The features and the targets of the examples that a client holds in this trial."""
        rows = self.dealt.get(client)
        return self._gather(self.clients[client].train if rows is None else rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deck:
    """The examples of an attack, in two disjoint parts.

    Attributes:
        data: The federation of the trials.
        pool: The examples that clients hold, and candidates come from.
        reference: Examples of the same kind that the attacker has, and that no client holds.
        examples: The number of examples of each client.
    """

    data: DealtData
    pool: Indices
    reference: Indices
    examples: int

    @classmethod
    def of(cls, federation: FederatedData, *, clients: int, examples: int | None, seed: int) -> Deck:
        """Split a federation's examples: a third for the attacker, and the rest for the clients.

        Args:
            federation: The examples, prepared as the run prepares them.
            clients: The number of clients.
            examples: The number of examples of each client; None takes what a client holds on average.
            seed: The seed of the split.

        Raises:
            ConfigError: If there are too few examples.
        """
        order = np.random.default_rng([seed, 0, _STREAM]).permutation(federation.dataset.example_count).astype(np.int64)
        reference, pool = np.split(order, [len(order) // 3])
        size = int(federation.sizes.mean()) if examples is None else examples
        if examples is None:
            size = max(1, min(size, len(pool) // 2))
        if len(pool) < max(size + 1, clients) or len(reference) < 2:
            raise ConfigError(
                f"{federation.dataset.name} has {len(order)} examples, too few for {clients} clients with {size} each "
                "next to those of the attacker: lower --examples or data.clients"
            )
        first = tuple(ClientExamples(f"client {i}", pool[i : i + 1]) for i in range(clients))
        return cls(data=DealtData(federation.dataset, first), pool=pool, reference=reference, examples=size)

    def sample(self, size: int, rng: np.random.Generator, *, without: int | None = None) -> Indices:
        """Different examples of the pool.

        Args:
            size: Their number.
            rng: Samples them.
            without: The position in the pool of an example that is left out.
        """
        count = len(self.pool) - (without is not None)
        at = rng.choice(count, size, replace=False)
        return self.pool[at if without is None else at + (at >= without)]

    def deal(self, target: ClientId, rows: Indices, rng: np.random.Generator, *, candidate: int) -> None:
        """Give the target `rows`, and every other client examples of the pool without the candidate.

        Args:
            target: The client under attack.
            rows: Its examples.
            rng: Samples the examples of the others; two clients may hold one example.
            candidate: The position in the pool of the candidate.
        """
        for client in range(len(self.data.clients)):
            self.data.dealt[client] = rows if client == target else self.sample(self.examples, rng, without=candidate)

    def alone(self, train: Train, model: Vector, rows: Indices, round: int) -> ClientUpdate:
        """An update that the attacker trains by itself, as a client with `rows` would.

        Args:
            train: The run's training over this deck's data.
            model: The global model, float `[d]`.
            rows: The examples.
            round: The round.
        """
        self.data.dealt[ATTACKER] = rows
        return train(model, ATTACKER, round, client_rng(0, round, len(self.data.clients)))


def dealt_train(parts: Assembly, deck: Deck) -> Train:
    """The run's own local training, over the examples that a deck deals.

    Args:
        parts: The parts of the run, which was built over the deck's data.
        deck: The deck.

    Raises:
        ConfigError: If the training keeps a state, or was given by a program.
    """
    train = parts.method.train
    if isinstance(train, Stateful) or parts.objects.train is not None or parts.config.client.algorithm != "fedavg":
        raise ConfigError(
            "an attack trains the built-in models with client.algorithm = 'fedavg', because its trials give clients "
            "other examples; set client.algorithm = 'fedavg'"
        )
    if isinstance(train, LinearTrain):  # its own rows are converted once a client, and these change

        def rows(client: ClientId) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            features, labels = deck.data.train(client)
            return features.astype(np.float64), labels.astype(np.float64)

        return dataclasses.replace(train, rows=rows)
    return train


def usual_norm(parts: Assembly, deck: Deck, seed: int) -> float:
    """The median norm of a first update over examples of the attacker, to three digits.

    Args:
        parts: The parts of the run, which was built over the deck's data.
        deck: The deck.
        seed: The seed of the samples.
    """
    train, initial = dealt_train(parts, deck), parts.method.initial
    rng, norms = np.random.default_rng([seed, 1, _STREAM]), []
    size = min(deck.examples, len(deck.reference))
    for _ in range(_SAMPLES):
        update = deck.alone(train, initial, rng.choice(deck.reference, size, replace=False), 1)
        norms.append(float(np.linalg.norm(update.delta)))
    return float(f"{max(np.median(norms), 1e-6):.3g}")


def image_side(dataset: Dataset) -> int | None:
    """The side of a data set's square images, at least 8; None where its examples are no such images."""
    side = math.isqrt(dataset.width)
    return side if dataset.task == "multiclass" and side >= _MIN_SIDE and side * side == dataset.width else None
