"""Metrics as sums: what every client adds to a secure sum, and the figures that the totals give.

No client's own figure leaves it. The totals are exact at any scale (see `limbs`), so each figure is the pooled one. The
area under the ROC curve travels as two histograms of logits, and is reported with the bound of its own error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.classes import NAMES, Confusion, binned_precision, class_figures, class_sums
from privfl.fl.lessons import check_width
from privfl.fl.limbs import Floats, exact_squares, exact_sum
from privfl.fl.linear import ClientArrays, LinearModel
from privfl.wire import ClientId

AUC_BINS: Final = 4096
"""Bins of the logit, each about a hundredth of its logit wide, and 2.6e-6 wide around 0."""

ROWS: Final = "rows"
_PER_CLIENT: Final = frozenset({"client_accuracy", "client_accuracy_square", "clients"})
_CLASSIFICATION: Final = frozenset({"correct", "loss"}) | _PER_CLIENT
_REGRESSION: Final = frozenset({"squared_error", "target", "target_square"})
_ABSOLUTE: Final = "absolute_error"
_HISTOGRAMS: Final = frozenset({"positives", "negatives"})
_CORE: Final = 2.0**-12
_MAX_LOGIT: Final = 2.0**18
_REACH: Final = math.asinh(_MAX_LOGIT / _CORE)


@dataclass(frozen=True, slots=True)
class MetricSums:
    """One client's contribution: named sums over its test examples.

    Attributes:
        values: Each a number or a short float64 vector. `rows` is the number of examples. A name of one's own
            becomes a mean over the examples of the clients that have it.
    """

    values: Mapping[str, Floats] = field(repr=False)


Measure = Callable[[Vector, ClientId], MetricSums]
"""(model, client) -> the sums over that client's own test examples."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one evaluation.

    Attributes:
        metrics: The figures by name.
        caveats: What the figures leave out, and why a figure is absent.
        confusion: The number of examples of each true class (outer) and predicted class (inner); empty for a
            regression, and for more than 20 classes.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    confusion: Confusion = ()


@dataclass(frozen=True, slots=True)
class Total:
    """One named sum over clients.

    Attributes:
        entries: The exact sums.
        rows: The examples of the clients whose sums these are.
        not_finite: The number of clients whose sums hold a NaN or an infinity, and which are not in `entries`.
    """

    entries: list[Fraction]
    rows: Fraction
    not_finite: int

    @property
    def sum(self) -> Fraction:
        return sum(self.entries, Fraction(0))


def measure_scores(scores: Floats, labels: npt.NDArray[Any], losses: Floats) -> MetricSums:
    """The sums of a classifier.

    Args:
        scores: Logits `[n, outputs]`; one output for two classes.
        labels: `[n]`, class numbers; for two classes those above 0 are positive.
        losses: The loss of each example, `[n]`.

    Returns:
        The sums; `client_accuracy` and `clients` are for the mean over clients. Those of a model whose scores hold a
        NaN are NaN, because it predicts nothing.
    """
    count, binary = float(len(labels)), scores.shape[1] == 1
    truth = np.asarray(labels) > 0 if binary else labels
    predicted = scores[:, 0] > 0 if binary else scores.argmax(axis=1)
    lost = bool(np.isnan(scores).any())
    correct = math.nan if lost else float((predicted == truth).sum())
    share = correct / count if count else 0.0
    values = {
        ROWS: np.array([count]),
        "loss": exact_sum(np.asarray(losses, np.float64)),
        "correct": np.array([correct]),
        "clients": np.array([float(count > 0)]),
        "client_accuracy": np.array([share]),
        "client_accuracy_square": np.array([share**2]),
    }
    known = np.zeros_like(scores) if lost else scores
    classes = class_sums(known, truth.astype(np.intp), predicted.astype(np.intp))
    values |= {name: np.full_like(sums, math.nan) if lost else sums for name, sums in classes.items()}
    if binary:
        bins = np.zeros(len(truth), np.intp) if lost else logit_bins(scores[:, 0])
        for name, chosen in (("positives", truth), ("negatives", ~truth)):
            found = np.bincount(bins[chosen], minlength=AUC_BINS).astype(np.float64)
            values[name] = np.full(AUC_BINS, math.nan) if lost else found
    return MetricSums(values)


def logit_bins(logits: Floats) -> npt.NDArray[np.intp]:
    """The bin of each logit, float64 `[n]` -> `[n]` in [0, 4096): equal steps of its inverse hyperbolic sine."""
    place = np.arcsinh(np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT) / _CORE) / _REACH
    bins: npt.NDArray[np.intp] = np.clip(np.floor((place + 1.0) * (AUC_BINS / 2)), 0, AUC_BINS - 1).astype(np.intp)
    return bins


def measure_predictions(predictions: Floats, targets: Floats) -> MetricSums:
    """The sums of a regression.

    Args:
        predictions: `[n]`.
        targets: `[n]`, of the same unit.
    """
    predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets, np.float64)
    with np.errstate(all="ignore"):
        distances = np.abs(predictions - targets)
        errors = np.square(distances)
    return MetricSums(
        {
            ROWS: np.array([float(len(targets))]),
            "squared_error": exact_sum(errors),
            "absolute_error": exact_sum(distances),
            "target": exact_sum(targets),
            "target_square": exact_sum(exact_squares(targets)),
        }
    )


def finish(sums: MetricSums) -> dict[str, float]:
    """The figures of one party's sums; see `evaluation_of`."""
    return dict(evaluation_of(sums).metrics)


def evaluation_of(sums: MetricSums) -> Evaluation:
    """The figures of sums over examples in one place, with the reason for each that is absent.

    Args:
        sums: As a measure returns them.

    Returns:
        accuracy, loss, auc, pr_auc and the figures of `class_figures`, or mse, mae and r2, and a mean for each name of
        one's own; nothing without examples. A mean over clients is not among them: examples in one place are nobody's.

    Raises:
        ConfigError: The sums are not such as a measure returns.
    """
    values, rows = checked_sums(sums)
    totals = {}
    for name, value in values.items():
        finite = bool(np.isfinite(value).all())
        entries = [Fraction(entry) for entry in value.tolist()] if finite else []
        totals[name] = Total(entries, Fraction(rows), 0 if finite else 1)
    for name in _PER_CLIENT if set(totals) >= _CLASSIFICATION else ():
        del totals[name]
    return figures_of(totals, Fraction(rows))


def checked_sums(sums: MetricSums) -> tuple[dict[str, Floats], float]:
    """The sums by name without the number of examples, and that number; raises `ConfigError`, without any value."""
    if not isinstance(sums, MetricSums):
        raise ConfigError(f"a measure returns MetricSums({{'rows': ..., ...}}), not a {type(sums).__name__}")
    values = {}
    for name, value in sums.values.items():
        try:
            values[name] = np.atleast_1d(np.asarray(value, np.float64)).ravel()
        except (TypeError, ValueError):
            raise ConfigError(f"a measure returns numbers or vectors of numbers; {name!r} is not one") from None
        if not len(values[name]):
            raise ConfigError(f"a measure returned {name!r} without an entry: return a number, or leave it out")
    rows = values.pop(ROWS, None)
    if rows is None:
        listed = ", ".join(sorted(values)) or "no other sum"
        raise ConfigError(f"a measure returns its number of examples as 'rows', next to {listed}")
    if len(rows) != 1 or not 0 <= rows[0] < math.inf:
        raise ConfigError(
            "a measure returned 'rows', its number of examples, as something else than a number of at least 0"
        )
    return values, float(rows[0])


def figures_of(totals: Mapping[str, Total], rows: Fraction) -> Evaluation:
    """The figures, and a caveat for each that is absent or covers fewer examples.

    Args:
        totals: The total of each metric over the clients, by name.
        rows: The number of test examples of all clients; 0 gives no figure.
    """
    if not rows or not totals:
        why = "the measure returned no sum but 'rows'" if rows else "there are no test examples"
        return Evaluation({}, (f"nothing is evaluated: {why}",))
    metrics: dict[str, float] = {}
    caveats: list[str] = []
    usable: dict[str, Total] = {}
    lost = [name for name, total in totals.items() if total.not_finite]
    if lost:
        caveats.append(
            f"the evaluation's {', '.join(map(repr, lost))} are not finite at some client: the figures that follow "
            "from them are absent"
        )
    for name, total in totals.items():
        if total.not_finite:
            continue
        if not total.rows:
            caveats.append(f"no client with test examples returned {name!r}")
        else:
            usable[name] = total
            if total.rows != rows:
                caveats.append(
                    f"{name!r} is over the {float(total.rows):g} of {float(rows):g} test examples of the clients that "
                    "returned it"
                )
    own = dict(usable)
    confusion: Confusion = ()
    if set(totals) >= _REGRESSION:
        own = {name: total for name, total in own.items() if name not in _REGRESSION | {_ABSOLUTE}}
        _regression(usable, rows, metrics, caveats)
    elif set(totals) >= _CLASSIFICATION - _PER_CLIENT:
        own = {name: total for name, total in own.items() if name not in _CLASSIFICATION | _HISTOGRAMS | NAMES}
        _classification(usable, set(totals), metrics, caveats)
        found, confusion = class_figures({name: usable[name].entries for name in NAMES if name in usable})
        metrics |= found
    for name, total in own.items():
        entries = total.entries
        for key, entry in ((name, entries[0]),) if len(entries) == 1 else _numbered(name, entries):
            if key in metrics:
                raise ConfigError(f"a measure's own sum is named {name!r}, which is another figure: rename it")
            _put(metrics, caveats, key, entry / total.rows)
    return Evaluation(metrics, tuple(caveats), confusion)


def _numbered(name: str, entries: list[Fraction]) -> list[tuple[str, Fraction]]:
    return [(f"{name}[{at}]", entry) for at, entry in enumerate(entries)]


def _put(metrics: dict[str, float], caveats: list[str], name: str, value: Fraction) -> None:
    try:
        metrics[name] = float(value)
    except OverflowError:
        caveats.append(f"{name!r} is beyond the range of floating point")


def _regression(totals: Mapping[str, Total], rows: Fraction, metrics: dict[str, float], caveats: list[str]) -> None:
    if "squared_error" not in totals:
        return
    errors = totals["squared_error"]
    _put(metrics, caveats, "mse", errors.sum / errors.rows)
    if _ABSOLUTE in totals:
        _put(metrics, caveats, "mae", totals[_ABSOLUTE].sum / totals[_ABSOLUTE].rows)
    if any(name not in totals or totals[name].rows != errors.rows for name in _REGRESSION):
        caveats.append("'r2' is absent: its sums are not of the same examples")
        return
    spread = totals["target_square"].sum - totals["target"].sum ** 2 / errors.rows
    if spread > 0:
        _put(metrics, caveats, "r2", 1 - errors.sum / spread)
    else:  # equal targets: as scikit-learn has it
        metrics["r2"] = 0.0 if errors.sum else 1.0


def _classification(
    totals: Mapping[str, Total], measured: set[str], metrics: dict[str, float], caveats: list[str]
) -> None:
    if "correct" in totals:
        _put(metrics, caveats, "accuracy", totals["correct"].sum / totals["correct"].rows)
    if "client_accuracy" in totals and "clients" in totals and totals["clients"].sum:
        mean = totals["client_accuracy"].sum / totals["clients"].sum
        _put(metrics, caveats, "mean_client_accuracy", mean)
        if "client_accuracy_square" in totals and totals["clients"].sum > 1:
            square = totals["client_accuracy_square"].sum / totals["clients"].sum - mean**2
            metrics["client_accuracy_stddev"] = math.sqrt(max(0.0, float(square)))
    if "loss" in totals:
        _put(metrics, caveats, "loss", totals["loss"].sum / totals["loss"].rows)
    if not measured >= _HISTOGRAMS or any(name not in totals for name in _HISTOGRAMS):
        return
    positives, negatives = ([int(entry) for entry in totals[name].entries] for name in ("positives", "negatives"))
    found = binned_auc(positives, negatives)
    if found is None:
        caveats.append("'auc' is absent: the test examples are all of one class")
    else:
        metrics["auc"], metrics["auc_error_bound"] = found
    if found is not None and (area := binned_precision(positives, negatives)) is not None:
        metrics["pr_auc"], metrics["pr_auc_error_bound"] = area


def binned_auc(positives: list[int], negatives: list[int]) -> tuple[float, float] | None:
    """The area under the ROC curve from histograms, with ties within a bin counted half.

    Args:
        positives: The number of positive examples in each bin, in increasing order of scores.
        negatives: That of the negative ones.

    Returns:
        The probability that a positive example has a higher score than a negative one, and the bound of its error.
        The bound is sum(p_i n_i) / (2 P N). None without examples of both classes.
    """
    pairs = sum(positives) * sum(negatives)
    if not pairs:
        return None
    below = twice = ties = 0
    for p, n in zip(positives, negatives, strict=True):
        twice += p * (2 * below + n)
        ties += p * n
        below += n
    return float(Fraction(twice, 2 * pairs)), float(Fraction(ties, 2 * pairs))


@dataclass(frozen=True, slots=True)
class LinearMeasure:
    """A `Measure` of a `LinearModel` over each client's own examples.

    Attributes:
        model: The model.
        rows: Maps a client to its features and labels.
    """

    model: LinearModel
    rows: ClientArrays

    def __call__(self, model: Vector, client: ClientId) -> MetricSums:
        """The sums over the examples of `client`."""
        features, labels = self.rows(client)
        if len(labels):
            check_width(features, self.model.features)
        with np.errstate(all="ignore"):  # a model that diverged: its figures are absent, with the reason
            scores = self.model.scores(model, features)
            if self.model.kind == "linear":
                return measure_predictions(scores[:, 0], labels.astype(np.float64))
            return measure_scores(scores, labels, self.model.loss(model, features, labels))
