"""Many clients of a linear model at once: one product of stacked matrices takes a step of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privfl.fl.lessons import NO_CORRECTIONS, Corrections, Lesson, by_steps, gather, segments

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Descent:
    """Plain SGD of a linear model.

    Attributes:
        kind: "linear", "logistic" or "softmax".
        l2: The factor of the penalty on the weights.
        rate: The learning rate.
    """

    kind: str
    l2: float
    rate: float

    def deltas(
        self,
        weights: npt.NDArray[Any],
        bias: npt.NDArray[Any],
        lessons: Sequence[Lesson],
        corrections: Corrections = NO_CORRECTIONS,
    ) -> Floats:
        """The changes of all clients' models.

        Args:
            weights: The global weights, `[features, outputs]`.
            bias: The global bias, `[outputs]`.
            lessons: What each client trains on.
            corrections: What is added to every gradient.

        Returns:
            float64 `[clients, (features + 1) * outputs]`, in the order of `lessons`.
        """
        order, size = by_steps(lessons), weights.size
        ordered = [lessons[place] for place in order]
        start = np.concatenate([weights.ravel(), bias]).astype(np.float64)
        vectors = np.repeat(start[np.newaxis], len(ordered), axis=0)
        corrections = corrections.of(order)
        w, b = vectors[:, :size].reshape(-1, *weights.shape), vectors[:, size:]
        for segment in segments(ordered, len(weights)):
            x, y = np.empty((*segment.shape, len(weights))), np.zeros(segment.shape)
            shares = np.zeros(segment.shape)
            gather(ordered, segment, x, y, shares)
            for step, active in enumerate(segment.active):
                xs, local = x[:active, step], w[:active]
                residual = self._residual(xs @ local + b[:active, np.newaxis], y[:active, step])
                residual *= shares[:active, step, :, np.newaxis]
                slope = xs.transpose(0, 2, 1) @ residual
                if self.l2:
                    slope += self.l2 * local
                added = _added(corrections, vectors[:active], start)
                local -= self.rate * slope
                b[:active] -= self.rate * np.add.reduce(residual, axis=1)
                if added is not None:
                    vectors[:active] -= self.rate * added
        vectors -= start
        deltas = np.empty_like(vectors)
        deltas[order] = vectors
        return deltas

    def _residual(self, scores: Floats, labels: Floats) -> Floats:
        if self.kind == "softmax":
            residual = softmax(scores)
            clients, examples = np.arange(len(labels))[:, np.newaxis], np.arange(labels.shape[1])
            residual[clients, examples, labels.astype(np.intp)] -= 1.0
            return residual
        predicted = sigmoid(scores) if self.kind == "logistic" else scores
        return predicted - labels[..., np.newaxis]


def _added(corrections: Corrections, vectors: Floats, start: Floats) -> Floats | None:
    """The additions to the gradients of the first clients, who are at `vectors`; None for none."""
    added = None if corrections.constants is None else corrections.constants[: len(vectors)]
    if corrections.proximal:
        pull = corrections.proximal * (vectors - start)
        added = pull if added is None else pull + added
    return added


def sigmoid(x: Floats) -> Floats:
    """The logistic function of each entry."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def softmax(x: Floats) -> Floats:
    """Probabilities over the last axis from logits."""
    e = np.exp(x - np.maximum.reduce(x, axis=-1, keepdims=True))
    e /= np.add.reduce(e, axis=-1, keepdims=True)
    return np.asarray(e)
