"""Linear models and their local training on numpy alone, so that federated learning runs without torch.

One flat float64 vector holds the weights `[features, outputs]`, row by row, and then the biases `[outputs]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.wire import ClientId

Floats = npt.NDArray[np.float64]
Rows = Callable[[ClientId], tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""Client -> its (features `[n, p]`, labels `[n]`); labels are class numbers, or real targets for "linear"."""

Kind = Literal["linear", "logistic", "softmax"]
Init = Literal["zeros", "uniform"]


@dataclass(frozen=True, slots=True)
class LinearModel:
    """Least squares, logistic regression or softmax regression over `features` inputs, with an l2 penalty.

    `outputs` is the number of classes for "softmax", and 1 otherwise. The penalty is l2/2 * |weights|^2, biases free.
    """

    kind: Kind
    features: int
    outputs: int = 1
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "logistic", "softmax"):
            raise ConfigError(f"kind must be 'linear', 'logistic' or 'softmax', not {self.kind!r}")
        if self.features < 1 or self.outputs < 1 or (self.outputs > 1) != (self.kind == "softmax"):
            raise ConfigError(f"a {self.kind} model cannot have {self.features} features and {self.outputs} outputs")
        if not 0 <= self.l2 < np.inf:
            raise ConfigError(f"l2 must be finite and at least 0, not {self.l2!r}")

    @property
    def length(self) -> int:
        """Entries of the flat vector."""
        return (self.features + 1) * self.outputs

    def initial(self, init: Init = "zeros", *, seed: int = 0) -> Floats:
        """The first model: zeros, which is enough as these losses are convex, or "uniform" in +-1/sqrt(features).

        The latter is how torch starts a linear layer, weights and biases alike; `seed` draws it. A benchmark that stops
        long before it converges depends on this choice.
        """
        if init not in ("zeros", "uniform"):
            raise ConfigError(f"init must be 'zeros' or 'uniform', not {init!r}")
        if init == "zeros":
            return np.zeros(self.length)
        # Round 0 trains nobody, so that this key is no client's.
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0, 2**34]))
        limit = 1.0 / math.sqrt(self.features)
        return rng.uniform(-limit, limit, self.length)

    def scores(self, model: Vector, features: npt.NDArray[Any]) -> Floats:
        """`[n, outputs]`: predictions for "linear", logits otherwise."""
        weights, bias = self._split(model)
        return np.asarray(features @ weights + bias, dtype=np.float64)

    def gradient(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
        """The gradient `[length]` of the mean loss over the rows, penalty included."""
        weights, bias = self._split(model)
        scores = features @ weights + bias
        if self.kind == "softmax":
            residual = _softmax(scores)
            residual[np.arange(len(labels)), labels.astype(np.intp)] -= 1.0
        elif self.kind == "logistic":
            residual = _sigmoid(scores) - labels[:, None]
        else:
            residual = scores - labels[:, None]
        result = np.empty(self.length)
        slope = features.T @ residual / len(labels)
        result[: -self.outputs] = (slope + self.l2 * weights if self.l2 else slope).ravel()
        result[-self.outputs :] = np.add.reduce(residual, axis=0) / len(labels)  # `mean` takes longer than the product
        return result

    def loss(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Floats:
        """The loss `[n]` of each row, without penalty: half the squared error, or -log likelihood in nats."""
        scores = self.scores(model, features)
        if self.kind == "softmax":
            shifted = scores - scores.max(axis=1, keepdims=True)
            chosen = shifted[np.arange(len(labels)), labels.astype(np.intp)]
            return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - chosen)
        if self.kind == "logistic":
            return np.asarray(np.logaddexp(0.0, np.where(labels > 0, -1.0, 1.0) * scores[:, 0]))
        return np.asarray(0.5 * np.square(scores[:, 0] - labels))

    def _split(self, model: Vector) -> tuple[Vector, Vector]:
        if model.shape != (self.length,):
            raise ConfigError(f"the model has shape {model.shape}, expected ({self.length},)")
        return model[: -self.outputs].reshape(self.features, self.outputs), model[-self.outputs :]


@dataclass(frozen=True, slots=True)
class LinearTrain:
    """Local training of a `LinearModel` by plain SGD: a `Train`.

    Runs `steps` minibatches, or `epochs` passes when steps is None, of `batch_size` rows (None: all rows) at
    `learning_rate`. `update="gradient"` is FedSGD: one full gradient, whose delta is -gradient, no local steps.
    """

    model: LinearModel
    rows: Rows
    learning_rate: float = 0.1
    epochs: int = 1
    steps: int | None = None
    batch_size: int | None = None
    update: Literal["delta", "gradient"] = "delta"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate must be positive and finite, not {self.learning_rate!r}")
        for name, value in (("epochs", self.epochs), ("steps", self.steps), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.update not in ("delta", "gradient"):
            raise ConfigError(f"update must be 'delta' or 'gradient', not {self.update!r}")

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train `client` from `model` (float `[length]`); a client without rows contributes nothing."""
        features, labels = self.rows(client)
        if not len(labels):
            return ClientUpdate(np.zeros(len(model)), 0)
        if self.update == "gradient":
            delta = -self.model.gradient(model, features, labels)
        else:
            local = model.astype(np.float64)
            for batch in minibatches(len(labels), self.batch_size, self.epochs, self.steps, rng):
                local -= self.learning_rate * self.model.gradient(local, features[batch], labels[batch])
            delta = local - model
        return ClientUpdate(delta, len(labels), self._metrics(model, features, labels))

    def _metrics(self, model: Vector, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Mapping[str, float]:
        return {"loss": float(self.model.loss(model, features, labels).mean())}


def minibatches(
    rows: int, batch_size: int | None, epochs: int, steps: int | None, rng: np.random.Generator
) -> list[npt.NDArray[np.intp]]:
    """Index arrays of the minibatches of `epochs` shuffled passes, or of exactly `steps` batches over such passes."""
    size = min(batch_size or rows, rows)
    batches: list[npt.NDArray[np.intp]] = []
    passes = epochs if steps is None else -(-steps // -(-rows // size))
    for _ in range(passes):
        order = rng.permutation(rows)
        batches.extend(order[i : i + size] for i in range(0, rows, size))
    return batches if steps is None else batches[:steps]


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - np.maximum.reduce(x, axis=1, keepdims=True))
    e /= np.add.reduce(e, axis=1, keepdims=True)
    return np.asarray(e)
