"""Algorithms of federated training: what a client does to its gradients and keeps, next to how the server aggregates.

An algorithm takes a local training and returns a `Method`: the training of a client under that algorithm, the server's
aggregation, and the model that is sent. A method runs through every sum and executor. An algorithm of one's own is any
object with `method`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.aggregation import CONTROL, STEPS, Aggregation, ControlVariates, Mean, NormalizedMean
from privfl.fl.batches import check_cohort_train
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_state import ClientState, Stateful
from privfl.fl.lessons import Corrections
from privfl.fl.metrics import Measure, MetricSums
from privfl.wire import ClientId

StatefulMeasure = Callable[[Vector, ClientId, ClientState], MetricSums]
"""(model, client, state) -> the sums over that client's own test examples."""


@runtime_checkable
class LocalTrain(Protocol):
    """A `Train` whose steps an algorithm can correct. `LinearTrain` and `TorchTrain` are such."""

    @property
    def parameters(self) -> int:
        """The number of entries trained by gradients. They come first in the vector, before running statistics."""
        ...

    @property
    def layers(self) -> Mapping[str, slice[int, int, None]]:
        """The place of each named tensor in the vector."""
        ...

    def rate(self, round: int) -> float:
        """The learning rate of plain or momentum SGD in a round; raises `ConfigError` for another optimizer."""
        ...

    def corrected(
        self,
        model: Vector,
        client: ClientId,
        round: int,
        rng: np.random.Generator,
        *,
        correction: Vector | None = None,
        proximal: float = 0.0,
    ) -> ClientUpdate:
        """Train one client with other gradients: g(y) + correction + proximal * (y - model).

        Args:
            model: The global model, float `[d]`.
            client: The client.
            round: The round.
            rng: The client's own randomness.
            correction: Added to every gradient, float `[parameters]`; None adds nothing.
            proximal: The factor of the pull towards the global model.

        Returns:
            The update, with its number of `steps`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """An algorithm for one model.

    Attributes:
        train: The training of a client.
        initial: The first model that is sent, float `[d]`.
        layers: The lengths of the layers of that model, in order; empty for those of the training.
        aggregation: The server's side.
        personal: Makes the measure of the clients' own models from the measure of a model; None where all clients have
            the global model.
    """

    train: Train | Stateful
    initial: Vector = field(repr=False)
    layers: tuple[int, ...] = ()
    aggregation: Aggregation = field(default_factory=Mean)
    personal: Callable[[Measure], StatefulMeasure] | None = None


class Algorithm(Protocol):
    """A recipe that makes a `Method` of a local training."""

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """The method for one model.

        Args:
            train: The local training.
            initial: Its first model, float `[d]`.

        Raises:
            ConfigError: If the training does not offer what the algorithm needs.
        """
        ...


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Federated averaging: the training as it is (McMahan et al. 2017)."""

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """See `Algorithm.method`."""
        return Method(train, initial)


@dataclass(frozen=True, slots=True)
class FedProx:
    """Local training that is pulled towards the global model: gradients plus mu (y - x) (Li et al. 2020, algorithm 2).

    Attributes:
        mu: The factor of the pull, positive and finite.
    """

    mu: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and self.mu > 0):
            raise ConfigError(f"mu must be positive and finite, not {self.mu!r}")

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """See `Algorithm.method`."""
        return Method(_Proximal(_local(train, "FedProx"), self.mu), initial)


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Gradients corrected by control variates: g(y) - c_i + c (Karimireddy et al. 2020, algorithm 1, option II).

    A client keeps c_i as its state; its change is a block next to the update. The server sends c after the model.
    Clients are weighted uniformly, as in the paper.
    """

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """See `Algorithm.method`."""
        local = _local(train, "SCAFFOLD")
        local.rate(1)
        return Method(
            Stateful(_ControlledTrain(local, len(initial))), initial, aggregation=ControlVariates(local.parameters)
        )


@dataclass(frozen=True, slots=True)
class FedNova:
    """Updates divided by their steps, and multiplied by the mean number of steps (Wang et al. 2020, section 4).

    The numbers of steps travel as a training metric in the same sum.
    """

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """See `Algorithm.method`."""
        local = _local(train, "FedNova")
        local.rate(1)
        return Method(_Normalized(local), initial, aggregation=NormalizedMean(local.parameters))


@dataclass(frozen=True, slots=True)
class LocalLayers:
    """Layers that stay at the client: each client trains its own, and sends the others (Arivazhagan et al. 2019).

    Attributes:
        names: The layers that stay, such as ("2",) for the third of a `Sequential`, or ("2.bias",). A linear model has
            "weights" and "bias".
    """

    names: tuple[str, ...]

    def method(self, train: Train | Stateful, initial: Vector) -> Method:
        """See `Algorithm.method`."""
        local = _local(train, "LocalLayers")
        places = local.layers
        owned = {n for n in places if any(n == name or n.startswith(f"{name}.") for name in self.names)}
        unknown = [name for name in self.names if not any(n == name or n.startswith(f"{name}.") for n in places)]
        if unknown or not owned:
            raise ConfigError(f"the model has no layer {(unknown or [''])[0]!r}; its layers are {', '.join(places)}")
        kept = np.zeros(len(initial), bool)
        for name in owned:
            kept[places[name]] = True
        if kept.all():
            raise ConfigError("every layer would stay at its client, and nothing would be sent: name fewer layers")
        layers = tuple(len(range(*places[name].indices(len(initial)))) for name in places if name not in owned)
        parts = _Parts(np.flatnonzero(~kept), np.flatnonzero(kept), initial[kept])
        return Method(
            Stateful(_SplitTrain(local, parts)), initial[~kept], layers, personal=lambda m: _SplitMeasure(m, parts)
        )


@dataclass(frozen=True, slots=True)
class _Corrected:
    """A local training whose steps an algorithm corrects, of one client or of many at once."""

    train: LocalTrain

    def check_cohort(self) -> None:
        check_cohort_train(self.train)

    def _together(
        self,
        model: Vector,
        clients: tuple[ClientId, ...],
        round: int,
        rngs: Sequence[np.random.Generator],
        corrections: Corrections,
    ) -> Sequence[ClientUpdate]:
        train: Any = self.train
        updates: Sequence[ClientUpdate] = train.train_cohort(model, clients, round, rngs, corrections)
        return updates


@dataclass(frozen=True, slots=True)
class _Proximal(_Corrected):
    mu: float

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        return self.train.corrected(model, client, round, rng, proximal=self.mu)

    def train_cohort(
        self, model: Vector, clients: tuple[ClientId, ...], round: int, rngs: Sequence[np.random.Generator]
    ) -> Sequence[ClientUpdate]:
        return self._together(model, clients, round, rngs, Corrections(proximal=self.mu))


@dataclass(frozen=True, slots=True)
class _ControlledTrain(_Corrected):
    length: int

    def __call__(
        self, sent: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        own, common = self._controls(sent, state)
        update = self.train.corrected(sent[: self.length], client, round, rng, correction=common - own)
        return self._moved(update, round, own, common)

    def train_cohort(
        self,
        sent: Vector,
        clients: tuple[ClientId, ...],
        round: int,
        rngs: Sequence[np.random.Generator],
        states: Sequence[ClientState],
    ) -> list[tuple[ClientUpdate, ClientState]]:
        controls = [self._controls(sent, state) for state in states]
        constants = Corrections(np.stack([common - own for own, common in controls]))
        updates = self._together(sent[: self.length], clients, round, rngs, constants)
        return [self._moved(update, round, *control) for update, control in zip(updates, controls, strict=True)]

    def _controls(self, sent: Vector, state: ClientState) -> tuple[Vector, Vector]:
        """c_i and c."""
        common = sent[self.length :]
        return state.get(CONTROL, np.zeros_like(common)), common

    def _moved(self, update: ClientUpdate, round: int, own: Vector, common: Vector) -> tuple[ClientUpdate, ClientState]:
        """The update with the change of c_i, and the next c_i."""
        travel = update.steps * self.train.rate(round)
        change = np.zeros_like(common)
        if travel:  # c_i+ = c_i - c + (x - y) / (K eta)
            change = (-common - update.delta[: len(common)] / travel).astype(common.dtype)
        return dataclasses.replace(update, blocks={CONTROL: change}), {CONTROL: own + change}


@dataclass(frozen=True, slots=True)
class _Normalized(_Corrected):
    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        return self._divided(self.train.corrected(model, client, round, rng))

    def train_cohort(
        self, model: Vector, clients: tuple[ClientId, ...], round: int, rngs: Sequence[np.random.Generator]
    ) -> list[ClientUpdate]:
        return list(map(self._divided, self._together(model, clients, round, rngs, Corrections())))

    def _divided(self, update: ClientUpdate) -> ClientUpdate:
        delta = update.delta.copy()
        if update.steps:
            delta[: self.train.parameters] /= update.steps
        return dataclasses.replace(update, delta=delta, metrics={**update.metrics, STEPS: float(update.steps)})


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The entries of a model that are sent, those that stay, and the first values of the latter."""

    sent: npt.NDArray[np.intp]
    local: npt.NDArray[np.intp]
    first: Vector

    def model_of(self, model: Vector, state: ClientState) -> Vector:
        """A client's own model."""
        joined = np.empty(len(self.sent) + len(self.local), model.dtype)
        joined[self.sent], joined[self.local] = model, state.get("local", self.first)
        return joined


@dataclass(frozen=True, slots=True)
class _SplitTrain:
    train: LocalTrain
    parts: _Parts

    def __call__(
        self, model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        start = self.parts.model_of(model, state)
        start.flags.writeable = False
        update = self.train.corrected(start, client, round, rng)
        local = (start[self.parts.local] + update.delta[self.parts.local]).astype(model.dtype)
        return dataclasses.replace(update, delta=update.delta[self.parts.sent]), {"local": local}


@dataclass(frozen=True, slots=True)
class _SplitMeasure:
    measure: Measure
    parts: _Parts

    def __call__(self, model: Vector, client: ClientId, state: ClientState) -> MetricSums:
        return self.measure(self.parts.model_of(model, state), client)


def _local(train: object, algorithm: str) -> LocalTrain:
    if not isinstance(train, LocalTrain):
        raise ConfigError(
            f"{algorithm} corrects the steps of the training, and a `train` of your own has no `corrected`: use "
            "`LinearTrain` or `TorchTrain`, or write the algorithm into a `Stateful` training"
        )
    return train
