"""The evaluation of a model that each client has tuned to its own training examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.codec import Vector
from privfl.fl.client import TUNING_STREAM, Train
from privfl.fl.metrics import Measure, MetricSums
from privfl.wire import ClientId

_NAMES: Final = {"correct": "tuned_accuracy", "loss": "tuned_loss", "squared_error": "tuned_mse"}


@dataclass(frozen=True, slots=True)
class TunedMeasure:
    """A `Measure` of a model as it is, and of the copy that the client has trained on its own training examples.

    The copy is forgotten afterwards. The figures of copies are `tuned_accuracy` and `tuned_loss`, or `tuned_mse`.

    Attributes:
        measure: Measures a model over a client's test examples.
        train: The local training.
        passes: The number of local trainings, each as long as in a round.
        seed: Keys the randomness of the tuning, which is the same at every evaluation.
    """

    measure: Measure
    train: Train
    passes: int
    seed: int

    def __call__(self, model: Vector, client: ClientId) -> MetricSums:
        """The sums over the examples of `client`, before and after tuning."""
        before, own = self.measure(model, client), model
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 0, client, TUNING_STREAM]))
        for turn in range(1, self.passes + 1):
            own = (own + self.train(own, client, turn, rng).delta).astype(model.dtype)
        after = self.measure(own, client)
        # A loss comes as two floats that add up to the exact sum: a figure of one's own is one number.
        tuned = {_NAMES[name]: np.array([sums.sum()]) for name, sums in after.values.items() if name in _NAMES}
        return MetricSums({**before.values, **tuned})
