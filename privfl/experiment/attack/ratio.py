"""The likelihood ratio of a membership attack: updates as Gaussian sums of the updates of single examples.

The attacker models a client's update as `factor` times the mean over its examples of the update of each example alone.
The mean and the covariance of single updates come from examples of its own. A candidate shifts the mean of what the
server sees by a known vector. The test is the logarithm of the ratio of two Gaussian densities with equal covariance
(Neyman and Pearson 1933). Carlini et al. 2022 fit such densities to shadow models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfl.codec import Vector
from privfl.experiment.attack.dealing import Deck, Indices
from privfl.experiment.attack.inversion import Floats
from privfl.fl.client import Train
from privfl.fl.encoding import UpdateEncoding

_MAX_REFERENCES: Final = 512
_MAX_NUMBERS: Final = 1 << 25
_SHADOWS: Final = 24
_FLOOR: Final = 1e-6
_STREAM: Final = 10


def single_updates(train: Train, deck: Deck, model: Vector, rows: Indices, round: int) -> Floats:
    """The update of each example alone, float64 `[n, d]`, trained by the attacker.

    Args:
        train: The run's training over the deck's data.
        deck: The deck.
        model: The global model, float `[d]`.
        rows: The examples.
        round: The round.
    """
    made = [np.asarray(deck.alone(train, model, np.array([row]), round).delta, np.float64) for row in rows]
    return np.array(made).reshape(len(rows), len(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleUpdates:
    """The law of the update of one example, at one model.

    Attributes:
        rows: The examples that it was estimated from.
        updates: Their updates, float64 `[n, d]`.
        mean: The mean, float64 `[d]`.
        pooled: The update of one client that holds all of them, float64 `[d]`.
        axes: Principal axes, float64 `[d, k]`.
        variances: The variance along each, float64 `[k]`.
        rest: The variance along every other direction.
    """

    rows: Indices
    updates: Floats = field(repr=False)
    mean: Floats = field(repr=False)
    pooled: Floats = field(repr=False)
    axes: Floats = field(repr=False)
    variances: Floats = field(repr=False)
    rest: float

    @classmethod
    def at(cls, train: Train, deck: Deck, model: Vector, round: int) -> SingleUpdates:
        """The law at a model.

        Args:
            train: The run's training over the deck's data.
            deck: The deck, whose reference examples are used.
            model: The model, float `[d]`.
            round: The round.
        """
        count = max(8, min(len(deck.reference), _MAX_REFERENCES, _MAX_NUMBERS // len(model)))
        rows = deck.reference[:count]
        updates = single_updates(train, deck, model, rows, round)
        mean = updates.mean(axis=0)
        held = max(1, len(rows) // 5)
        axes, variances = _principal(updates[held:] - mean)
        outside = updates[:held] - mean
        outside = outside - (outside @ axes) @ axes.T
        rest = float(np.square(outside).sum(axis=1).mean()) / len(model)
        floor = _FLOOR * float(variances.sum()) / len(model)
        return cls(
            rows=rows,
            updates=updates,
            mean=mean,
            pooled=np.asarray(deck.alone(train, model, rows, round).delta, np.float64),
            axes=axes,
            variances=variances,
            rest=max(rest, floor, 1e-30),
        )


def _principal(centered: Floats) -> tuple[Floats, Floats]:
    """Principal axes `[d, k]` and variances `[k]` of centered vectors `[n, d]`."""
    values, vectors = np.linalg.eigh(centered @ centered.T / len(centered))
    kept = values > 1e-9 * values[-1] if values[-1] > 0 else np.zeros(len(values), bool)
    axes = centered.T @ vectors[:, kept] / np.sqrt(values[kept] * len(centered))
    return axes, values[kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioTest:
    """The likelihood ratio of one round in one case.

    Attributes:
        law: The law of single updates.
        factor: The update of a client divided by the mean of single updates, clipping included.
        error: The variance of an entry that the model leaves unexplained.
        examples: The number of examples of a client.
    """

    law: SingleUpdates
    factor: float
    error: float
    examples: int

    @classmethod
    def of(
        cls,
        law: SingleUpdates,
        train: Train,
        deck: Deck,
        *,
        model: Vector,
        encoding: UpdateEncoding,
        round: int,
        seed: int,
    ) -> RatioTest:
        """Fit the factor on clients that the attacker trains itself.

        Args:
            law: The law of single updates at the model.
            train: The run's training over the deck's data.
            deck: The deck.
            model: The model, float `[d]`.
            encoding: The encoding of the case, whose clip acts on the attacker's clients too.
            round: The round.
            seed: The seed of the attacker's clients.
        """
        rng = np.random.default_rng([seed, round, _STREAM])
        size, shadows = min(deck.examples, len(law.rows)), []
        for _ in range(_SHADOWS):
            at = rng.choice(len(law.rows), size, replace=False)
            vector = encoding.encode(deck.alone(train, model, law.rows[at], round), rng)
            update = encoding.decode(vector, 1.0)[0][: encoding.model_length]
            shadows.append((update, law.updates[at].mean(axis=0)))
        above = sum(float(update @ mean) for update, mean in shadows)
        below = sum(float(mean @ mean) for _, mean in shadows)
        factor = above / below if below > 0 else 1.0
        errors = [float(np.square(update - factor * mean).mean()) for update, mean in shadows]
        return cls(law=law, factor=factor, error=float(np.mean(errors)), examples=deck.examples)

    def drift(self, train: Train, deck: Deck, model: Vector, round: int) -> Floats:
        """The change of the mean update between the law's model and another one, float64 `[d]`.

        Args:
            train: The run's training over the deck's data.
            deck: The deck.
            model: The other model, float `[d]`.
            round: The round.
        """
        pooled = np.asarray(deck.alone(train, model, self.law.rows, round).delta, np.float64)
        size = float(self.law.pooled @ self.law.pooled)
        scale = self.factor * float(self.law.mean @ self.law.pooled) / size if size > 0 else 0.0
        drift: Floats = scale * (pooled - self.law.pooled)
        return drift

    def score(
        self, seen: Floats, candidate: Floats, *, clients: int, noise: float, drift: Floats | float = 0.0
    ) -> float:
        """The logarithm of the likelihood ratio.

        Args:
            seen: The mean update in the view, float64 `[d]`.
            candidate: The update of the candidate alone, float64 `[d]`.
            clients: The number of clients in the view.
            noise: The noise standard deviation of an entry of the mean update.
            drift: The change of the mean update since the law's model, float64 `[d]`.
        """
        law, parts = self.law, self.examples * clients
        mean = self.factor * law.mean + drift
        shift = (self.factor * candidate - mean) / parts
        rest = (self.factor**2 * law.rest / self.examples + self.error) / clients + noise**2
        along = self.factor**2 * law.variances / parts
        weights = along / (rest * (rest + along))
        offset = seen - mean - 0.5 * shift
        inside = (law.axes.T @ offset) * (law.axes.T @ shift)
        return float(offset @ shift / rest - weights @ inside)
