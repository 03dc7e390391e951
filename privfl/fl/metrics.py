"""Metrics as sums: what every client adds to a secure sum, and what the totals say.

No client's own figure leaves it. The area under the ROC curve travels as two histograms of scores, so that it is the
pooled AUC up to the width of a bin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint, Vector
from privfl.errors import ConfigError
from privfl.fl.linear import LinearModel, Rows
from privfl.ring import Ring
from privfl.sums import SecureSum, SumTask, run_sum
from privfl.wire import ClientId

Floats = npt.NDArray[np.float64]

AUC_BINS: Final = 256
MAX_LOSS: Final = 32.0
"""A row's loss above this is counted as this, so that a public bound on the sums exists."""


_CLASSIFIED: Final = frozenset({"correct", "client_accuracy", "clients", "loss"})


@dataclass(frozen=True, slots=True)
class MetricSums:
    """One client's contribution, or a total: named sums over rows, each a scalar or a short vector."""

    values: Mapping[str, Floats]

    def flat(self) -> Floats:
        """All sums as one vector, in the order of their names."""
        return np.concatenate([np.atleast_1d(self.values[name]) for name in sorted(self.values)])

    def like(self, flat: Floats) -> MetricSums:
        """The named sums that `flat` holds, in this one's form."""
        parts, at = {}, 0
        for name in sorted(self.values):
            size = np.atleast_1d(self.values[name]).size
            parts[name] = flat[at : at + size]
            at += size
        return MetricSums(parts)


Measure = Callable[[Vector, ClientId], MetricSums]
"""(model, client) -> the sums over that client's own test rows."""


def measure_scores(scores: Floats, labels: npt.NDArray[Any], losses: Floats) -> MetricSums:
    """Sums for a classifier: logits `[n, outputs]` (one output: binary), labels `[n]`, losses `[n]`.

    `client_accuracy` and `clients` sum each client's own accuracy, for a mean over clients.
    """
    count = float(len(labels))
    binary = scores.shape[1] == 1
    predicted = scores[:, 0] > 0 if binary else scores.argmax(axis=1)
    correct = float((predicted == labels).sum())
    values = {
        "rows": np.array([count]),
        "loss": np.array([np.minimum(losses, MAX_LOSS).sum()]),
        "correct": np.array([correct]),
        "clients": np.array([float(count > 0)]),
        "client_accuracy": np.array([correct / count if count else 0.0]),
    }
    if binary:
        bins = np.clip((AUC_BINS / (1.0 + np.exp(-scores[:, 0].clip(-60, 60)))).astype(np.intp), 0, AUC_BINS - 1)
        values["positives"] = np.bincount(bins[labels > 0], minlength=AUC_BINS).astype(np.float64)
        values["negatives"] = np.bincount(bins[labels <= 0], minlength=AUC_BINS).astype(np.float64)
    return MetricSums(values)


def measure_predictions(predictions: Floats, targets: Floats) -> MetricSums:
    """Sums for a regression: predictions `[n]`, targets `[n]`, in the targets' unit."""
    return MetricSums(
        {
            "rows": np.array([float(len(targets))]),
            "squared_error": np.array([np.square(predictions - targets).sum()]),
            "target": np.array([targets.sum()]),
            "target_square": np.array([np.square(targets).sum()]),
        }
    )


def finish(total: MetricSums) -> dict[str, float]:
    """What the totals say: accuracy, mean_client_accuracy, loss and auc, or mse and r2; empty without examples.

    Sums under names of their own, as a measure of one's own may return, become means over the examples ("rows").

    Raises:
        ConfigError: When no sum is called "rows": nothing says over how many examples the others were added up.
    """
    sums = {name: float(value.sum()) for name, value in total.values.items()}
    if "rows" not in sums:
        raise ConfigError(f"a measure returns its number of examples as 'rows', next to {', '.join(sorted(sums))}")
    rows = sums.pop("rows")
    if not rows:
        return {}
    if not ({"squared_error", "target", "target_square"} <= set(sums) or set(sums) >= _CLASSIFIED):
        return {name: value / rows for name, value in sums.items()}
    if "squared_error" in sums:
        spread = sums["target_square"] - sums["target"] ** 2 / rows
        mse = sums["squared_error"] / rows
        return {"mse": mse, "r2": 1.0 - sums["squared_error"] / spread if spread > 0 else 0.0}
    result = {
        "accuracy": sums["correct"] / rows,
        "mean_client_accuracy": sums["client_accuracy"] / sums["clients"],
        "loss": sums["loss"] / rows,
    }
    if "positives" in sums:
        area = binned_auc(total.values["positives"], total.values["negatives"])
        if area is not None:
            result["auc"] = area
    return result


def binned_auc(positives: Floats, negatives: Floats) -> float | None:
    """P(score of a positive > score of a negative), ties within a bin counted half; None with one class only."""
    if not positives.sum() or not negatives.sum():
        return None
    below = np.concatenate([[0.0], np.cumsum(negatives)[:-1]])
    wins = float((positives * (below + 0.5 * negatives)).sum())
    return wins / float(positives.sum() * negatives.sum())


@dataclass(frozen=True, slots=True)
class LinearMeasure:
    """A `Measure` of a `LinearModel` over each client's own rows."""

    model: LinearModel
    rows: Rows

    def __call__(self, model: Vector, client: ClientId) -> MetricSums:
        """The sums over the rows of `client`."""
        features, labels = self.rows(client)
        scores = self.model.scores(model, features)
        if self.model.kind == "linear":
            return measure_predictions(scores[:, 0], labels.astype(np.float64))
        return measure_scores(scores, labels, self.model.loss(model, features, labels))


def evaluate(
    scheme: SecureSum,
    measure: Measure,
    model: Vector,
    clients: tuple[ClientId, ...],
    *,
    ring: Ring,
    bound: float,
    context: bytes,
    credentials: Mapping[ClientId, Any] | None = None,
) -> dict[str, float]:
    """Measure `model` at every client and add the sums up through `scheme` in `ring`; see `finish` for the names.

    `bound` is public: no client's sum may exceed it (larger ones are counted as `bound`). Not for a run that claims
    differential privacy: these sums carry no noise.
    """
    measured = {client: measure(model, client) for client in clients}
    form = measured[clients[0]]
    codec = FixedPoint.fit(ring, clip_norm=bound, cohort=len(clients))
    # Clipped before it is scaled: what diverged may be too large for any integer.
    entries = {client: np.clip(sums.flat(), -bound, bound) for client, sums in measured.items()}
    vectors = {client: codec.encode_entries(entry, max_abs=bound) for client, entry in entries.items()}
    task = SumTask(context, clients, len(clients), len(form.flat()), ring, codec.bound(bound))
    result = run_sum(scheme, task, vectors, credentials=credentials)
    return finish(form.like(codec.decode(result.total)))
