"""Linear models and their local training on numpy alone: federated learning without torch.

One flat float64 vector holds the weights `[features, outputs]` in C order, and then the biases `[outputs]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from privfl.checks import check_choice
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.lessons import NO_CORRECTIONS, Corrections, Lesson, check_width
from privfl.fl.linear_cohort import Descent, sigmoid, softmax
from privfl.fl.people import Persons, parts_of, people_of
from privfl.wire import ClientId

Floats = npt.NDArray[np.float64]
ClientArrays = Callable[[ClientId], tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""Client -> its (features `[n, p]`, labels `[n]`); labels are class numbers, or real targets for "linear"."""

LinearKind = Literal["linear", "logistic", "softmax"]
Init = Literal["zeros", "uniform"]

_GRADIENT_ENTRIES: Final = 1 << 22
"""Entries of the gradients that are computed at one time: 32 MiB."""


@dataclass(frozen=True, slots=True)
class LinearModel:
    """Least squares, logistic regression or softmax regression, with an l2 penalty.

    Attributes:
        kind: "linear", "logistic" or "softmax".
        features: The number of inputs.
        outputs: The number of classes for "softmax", 1 otherwise.
        l2: The factor of the penalty l2/2 * |weights|^2, at least 0; biases are free.
    """

    kind: LinearKind
    features: int
    outputs: int = 1
    l2: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(LinearKind))
        if self.features < 1 or self.outputs < 1 or (self.outputs > 1) != (self.kind == "softmax"):
            raise ConfigError(f"a {self.kind} model cannot have {self.features} features and {self.outputs} outputs")
        if not 0 <= self.l2 < np.inf:
            raise ConfigError(f"l2 must be finite and at least 0, not {self.l2!r}")

    @property
    def length(self) -> int:
        """The entries of the flat vector."""
        return (self.features + 1) * self.outputs

    def initial(self, init: Init = "zeros", *, seed: int = 0) -> Floats:
        """Return the first model, float64 `[length]`.

        A benchmark that stops long before it converges depends on this choice.

        Args:
            init: "zeros", which is enough because these losses are convex, or "uniform" in +-1/sqrt(features). The
                latter is torch's initialization of a linear layer, weights and biases alike.
            seed: The seed of "uniform".
        """
        if init not in ("zeros", "uniform"):
            raise ConfigError(f"init must be 'zeros' or 'uniform', not {init!r}")
        if init == "zeros":
            return np.zeros(self.length)
        # Round 0 trains nobody, so this key is no client's.
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0, 2**34]))
        limit = 1.0 / math.sqrt(self.features)
        return rng.uniform(-limit, limit, self.length)

    def scores(self, model: Vector, features: npt.NDArray[Any]) -> Floats:
        """Return predictions for "linear", logits otherwise, float64 `[n, outputs]`.

        Args:
            model: The flat vector `[length]`.
            features: `[n, features]`.
        """
        weights, bias = self.split(model)
        return np.asarray(features @ weights + bias, dtype=np.float64)

    def gradient(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
        """Return the gradient `[length]` of the mean loss over the examples, penalty included.

        Args:
            model: The flat vector `[length]`.
            features: `[n, features]`.
            labels: Class numbers, or real targets for "linear", `[n]`.
        """
        weights, bias = self.split(model)
        scores = features @ weights + bias
        if self.kind == "softmax":
            residual = softmax(scores)
            residual[np.arange(len(labels)), labels.astype(np.intp)] -= 1.0
        elif self.kind == "logistic":
            residual = sigmoid(scores) - labels[:, None]
        else:
            residual = scores - labels[:, None]
        result = np.empty(self.length)
        slope = features.T @ residual / len(labels)
        result[: -self.outputs] = (slope + self.l2 * weights if self.l2 else slope).ravel()
        result[-self.outputs :] = np.add.reduce(residual, axis=0) / len(labels)  # `mean` takes longer than the product
        return result

    def example_gradients(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
        """Return the gradient of each example's loss, without penalty, float64 `[n, length]`.

        Each is the same to the last bit next to any other examples.

        Args:
            model: The flat vector `[length]`.
            features: `[n, features]`.
            labels: Class numbers, or real targets for "linear", `[n]`.
        """
        weights, bias = self.split(model)
        x = np.asarray(features, dtype=np.float64)
        # One example after another, from one place in memory: of several a library may sum in another order.
        scores, row = np.empty((len(x), self.outputs)), np.empty(self.features)
        for i in range(len(x)):
            row[:] = x[i]
            scores[i] = row @ weights
        scores += bias
        if self.kind == "softmax":
            residual = softmax(scores)
            residual[np.arange(len(labels)), labels.astype(np.intp)] -= 1.0
        elif self.kind == "logistic":
            residual = sigmoid(scores) - labels[:, None]
        else:
            residual = scores - labels[:, None]
        result = np.empty((len(labels), self.length))
        slopes = result[:, : -self.outputs].reshape(len(labels), self.features, self.outputs)
        np.multiply(x[:, :, None], residual[:, None, :], out=slopes)
        result[:, -self.outputs :] = residual
        return result

    def loss(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
        """Return the loss `[n]` of each example, without penalty: half the squared error, or -log likelihood in nats.

        Args:
            model: The flat vector `[length]`.
            features: `[n, features]`.
            labels: Class numbers, or real targets for "linear", `[n]`.
        """
        scores = self.scores(model, features)
        if self.kind == "softmax":
            shifted = scores - scores.max(axis=1, keepdims=True)
            chosen = shifted[np.arange(len(labels)), labels.astype(np.intp)]
            return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - chosen)
        if self.kind == "logistic":
            return np.asarray(np.logaddexp(0.0, np.where(labels > 0, -1.0, 1.0) * scores[:, 0]))
        return np.asarray(0.5 * np.square(scores[:, 0] - labels))

    def split(self, model: Vector) -> tuple[Vector, Vector]:
        """The weights `[features, outputs]` and the biases `[outputs]` of a flat vector."""
        if model.shape != (self.length,):
            raise ConfigError(f"the model has shape {model.shape}, expected ({self.length},)")
        return model[: -self.outputs].reshape(self.features, self.outputs), model[-self.outputs :]


@dataclass(frozen=True, slots=True)
class LinearTrain:
    """Local training of a `LinearModel` by plain SGD: a `Train`.

    Attributes:
        model: The model.
        rows: Client -> its training features and labels.
        learning_rate: The step size, positive.
        epochs: The number of passes over the examples; not used with `steps`.
        steps: The number of minibatches; None trains `epochs` passes.
        batch_size: The examples of a minibatch; None takes all of the client's.
        update: "delta", or "gradient" for FedSGD: one full gradient without local steps, whose delta is -gradient.
        persons: Client -> the person of each of its examples, for sums over examples; None counts each example by
            itself.
    """

    model: LinearModel
    rows: ClientArrays
    learning_rate: float = 0.1
    epochs: int = 1
    steps: int | None = None
    batch_size: int | None = None
    update: Literal["delta", "gradient"] = "delta"
    persons: Persons | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate must be positive and finite, not {self.learning_rate!r}")
        for name, value in (("epochs", self.epochs), ("steps", self.steps), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.update not in ("delta", "gradient"):
            raise ConfigError(f"update must be 'delta' or 'gradient', not {self.update!r}")

    @property
    def parameters(self) -> int:
        """The entries that are trained: all."""
        return self.model.length

    @property
    def layers(self) -> Mapping[str, slice[int, int, None]]:
        """The place of the weights and of the bias in the vector."""
        cut = self.model.length - self.model.outputs
        return {"weights": slice(0, cut), "bias": slice(cut, self.model.length)}

    def rate(self, round: int) -> float:
        """The learning rate, the same in every round."""
        return self.learning_rate

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train `client` from `model` (float `[length]`); a client without examples contributes nothing."""
        return self.corrected(model, client, round, rng)

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
        """Train with other gradients; see `privfl.fl.algorithms.LocalTrain`.

        Args:
            model: The global model, float `[length]`.
            client: The client.
            round: The round.
            rng: The client's own randomness.
            correction: Added to every gradient, float `[length]`; None adds nothing.
            proximal: The factor of the pull towards the global model.

        Raises:
            ConfigError: If something is to be added to the one gradient of FedSGD.
        """
        features, labels = self._examples(client)
        if self.update == "gradient" and (correction is not None or proximal):
            raise ConfigError("FedSGD takes no local steps that could be corrected: set client.update = 'delta'")
        if not len(labels):
            return ClientUpdate(np.zeros(len(model)), 0)
        count = 0
        if self.update == "gradient":
            delta = -self.model.gradient(model, features, labels)
        else:
            local = model.astype(np.float64)
            for batch in minibatches(len(labels), self.batch_size, self.epochs, self.steps, rng):
                gradient = self.model.gradient(local, features[batch], labels[batch])
                if correction is not None:
                    gradient += correction
                if proximal:
                    gradient += proximal * (local - model)
                local -= self.learning_rate * gradient
                count += 1
            delta = local - model
        return ClientUpdate(delta, len(labels), self._metrics(model, features, labels), steps=float(count))

    def people(self, client: ClientId) -> int:
        """See `ExampleGradients.people`."""
        return people_of(self.persons, client, len(self._examples(client)[1]))

    def gradients(self, model: Vector, client: ClientId, chosen: npt.NDArray[np.intp]) -> Iterator[Floats]:
        """See `ExampleGradients.gradients`; a penalty is no part of them.

        Args:
            model: The global model, float `[length]`.
            client: The client.
            chosen: The numbers of the people.
        """
        features, labels = self._examples(client)
        size = max(1, _GRADIENT_ENTRIES // self.model.length)
        for part in parts_of(self.persons, client, len(labels), chosen, size):
            yield part.sums(self.model.example_gradients(model, features[part.examples], labels[part.examples]))

    def check_cohort(self) -> None:
        """Raise `ConfigError` for FedSGD, whose clients take no steps that could be taken at once."""
        if self.update == "gradient":
            raise ConfigError("clients are trained in batches with client.update = 'delta': set it, or 'single'")

    def train_cohort(
        self,
        model: Vector,
        clients: tuple[ClientId, ...],
        round: int,
        rngs: Sequence[np.random.Generator],
        corrections: Corrections = NO_CORRECTIONS,
    ) -> list[ClientUpdate]:
        """Train many clients at once; see `privfl.fl.client.CohortTrain`.

        Args:
            model: The global model, float `[length]`.
            clients: Whose examples.
            round: The round.
            rngs: Each client's own randomness.
            corrections: What is added to every gradient.

        Returns:
            An update for each client, equal to `corrected`'s up to the rounding of floats.
        """
        self.check_cohort()
        lessons = [self._lesson(client, rng) for client, rng in zip(clients, rngs, strict=True)]
        weights, bias = self.model.split(model)
        deltas = Descent(self.model.kind, self.model.l2, self.learning_rate).deltas(weights, bias, lessons, corrections)
        return [
            ClientUpdate(
                delta,
                len(lesson.targets),
                self._metrics(model, lesson.features, lesson.targets) if len(lesson.targets) else {},
                steps=float(len(lesson.batches)),
            )
            for delta, lesson in zip(deltas, lessons, strict=True)
        ]

    def _examples(self, client: ClientId) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        features, labels = self.rows(client)
        if len(labels):
            check_width(features, self.model.features)
        return features, labels

    def _lesson(self, client: ClientId, rng: np.random.Generator) -> Lesson:
        features, labels = self._examples(client)
        count = len(labels)
        batches = minibatches(count, self.batch_size, self.epochs, self.steps, rng) if count else []
        return Lesson(features, labels, batches)

    def _metrics(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Mapping[str, float]:
        return {"loss": float(self.model.loss(model, features, labels).mean())}


def minibatches(
    rows: int, batch_size: int | None, epochs: int, steps: int | None, rng: np.random.Generator
) -> list[npt.NDArray[np.intp]]:
    """Return the index arrays of minibatches over shuffled passes.

    Args:
        rows: The number of examples.
        batch_size: The examples of a minibatch; None takes all.
        epochs: The number of passes; not used with `steps`.
        steps: The exact number of minibatches; None makes `epochs` passes.
        rng: Shuffles each pass.
    """
    size = min(batch_size or rows, rows)
    batches: list[npt.NDArray[np.intp]] = []
    passes = epochs if steps is None else -(-steps // -(-rows // size))
    for _ in range(passes):
        order = rng.permutation(rows)
        batches.extend(order[i : i + size] for i in range(0, rows, size))
    return batches if steps is None else batches[:steps]
