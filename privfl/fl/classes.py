"""Figures of a classifier beyond its accuracy, from sums that add up over clients.

For each class the sums count its examples, its predictions and its hits; with few classes they count each pair of true
and predicted class. Calibration travels as 15 bins of the confidence: examples, confidence and hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.fl.limbs import Floats

CONFIDENCE_BINS: Final = 15
"""Bins of equal width of the confidence, as in Guo et al. 2017, section 2."""

MAX_CONFUSION: Final = 20
"""With more classes the pairs are not counted, and there is no confusion matrix."""

NAMES: Final = frozenset({"confusion", "actual", "predicted", "hits", "calibration"})

_UNIT: Final = 2.0**30  # confidences are summed in integers of this unit

Confusion = tuple[tuple[int, ...], ...]
"""The number of examples of each true class (outer) and predicted class (inner)."""


def class_sums(scores: Floats, truth: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp]) -> dict[str, Floats]:
    """The sums of one party's examples.

    Args:
        scores: Finite logits `[n, outputs]`; one output for two classes.
        truth: The classes, `[n]`.
        predicted: The predicted classes, `[n]`.

    Returns:
        `confusion`, or `actual`, `predicted` and `hits`; and `calibration`.
    """
    classes = max(2, scores.shape[1])
    hit = truth == predicted
    sums: dict[str, Floats] = {}
    if classes <= MAX_CONFUSION:
        sums["confusion"] = _count(truth * classes + predicted, classes**2)
    else:
        sums["actual"], sums["predicted"] = _count(truth, classes), _count(predicted, classes)
        sums["hits"] = _count(truth[hit], classes)
    confidence = _confidence(scores)
    bins = np.clip(np.ceil(confidence * CONFIDENCE_BINS) - 1, 0, CONFIDENCE_BINS - 1).astype(np.intp)
    confident = np.bincount(bins, np.rint(confidence * _UNIT), CONFIDENCE_BINS)
    parts = [_count(bins, CONFIDENCE_BINS), confident, _count(bins[hit], CONFIDENCE_BINS)]
    sums["calibration"] = np.concatenate(parts)
    return sums


def class_figures(totals: Mapping[str, Sequence[Fraction]]) -> tuple[dict[str, float], Confusion]:
    """The figures that the sums of all parties give, and the confusion matrix where it was counted.

    Args:
        totals: The exact sums by name; what is absent gives no figure.

    Returns:
        `balanced_accuracy` is the mean recall of the classes that occur. `f1` is that of class 1 for two classes, else
        the mean over the classes that occur or are predicted. `constant_accuracy` is the accuracy of the best constant
        prediction, and `calibration_error` the expected calibration error.
    """
    figures: dict[str, float] = {}
    confusion: Confusion = ()
    if "confusion" in totals:
        counts = [int(count) for count in totals["confusion"]]
        size = round(len(counts) ** 0.5)
        confusion = tuple(tuple(counts[row * size : (row + 1) * size]) for row in range(size))
        actual = [sum(row) for row in confusion]
        predicted = [sum(column) for column in zip(*confusion, strict=True)]
        figures |= _by_class(actual, predicted, [confusion[at][at] for at in range(size)])
    elif {"actual", "predicted", "hits"} <= totals.keys():
        figures |= _by_class(*([int(count) for count in totals[name]] for name in ("actual", "predicted", "hits")))
    if "calibration" in totals:
        entries = totals["calibration"]
        count = sum(entries[:CONFIDENCE_BINS], Fraction(0))
        gaps = (
            abs(entries[2 * CONFIDENCE_BINS + at] - entries[CONFIDENCE_BINS + at] / int(_UNIT))
            for at in range(CONFIDENCE_BINS)
        )
        if count:
            figures["calibration_error"] = float(sum(gaps, Fraction(0)) / count)
    return figures, confusion


def _by_class(actual: list[int], predicted: list[int], hits: list[int]) -> dict[str, float]:
    total = sum(actual)
    if not total:
        return {}
    recalls = [Fraction(hit, count) for hit, count in zip(hits, actual, strict=True) if count]
    scores = [
        Fraction(2 * hit, count + guesses) if count + guesses else None
        for hit, count, guesses in zip(hits, actual, predicted, strict=True)
    ]
    chosen = [score for score in (scores[1:] if len(scores) == 2 else scores) if score is not None]
    return {
        "balanced_accuracy": float(sum(recalls, Fraction(0)) / len(recalls)),
        "f1": float(sum(chosen, Fraction(0)) / len(chosen)) if chosen else 0.0,
        "constant_accuracy": max(actual) / total,
    }


def binned_precision(positives: list[int], negatives: list[int]) -> tuple[float, float] | None:
    """The area under the precision-recall curve (average precision) from histograms.

    Args:
        positives: The number of positive examples in each bin, in increasing order of scores.
        negatives: The number of negative examples in each bin.

    Returns:
        The area with each bin as one threshold, and a bound of its error, which takes the best and the worst order
        within each bin. None without a positive example.
    """
    total = sum(positives)
    if not total:
        return None
    area = best = worst = 0.0
    seen = false = 0
    for p, n in zip(reversed(positives), reversed(negatives), strict=True):
        if p:
            area += p * (seen + p) / (seen + p + false + n)
            best += p * (seen + p) / (seen + p + false)
            worst += p * (seen + 1) / (seen + 1 + false + n)
        seen, false = seen + p, false + n
    return area / total, max(best - area, area - worst, 0.0) / total


def constant_warning(evaluation: Mapping[str, float]) -> str:
    """A sentence where a constant prediction would do as well as the model; else nothing.

    Args:
        evaluation: The metrics of a run.
    """
    accuracy, constant = evaluation.get("accuracy"), evaluation.get("constant_accuracy")
    if accuracy is not None and constant is not None and accuracy <= constant:
        return (
            f"always predicting the most frequent class would give accuracy {constant:.4g}: the model has learned no "
            "more than that; look at balanced_accuracy and f1"
        )
    if "r2" in evaluation and evaluation["r2"] <= 0:
        return "always predicting the mean of the targets would give r2 0: the model has learned no more than that"
    return ""


def _count(values: npt.NDArray[np.intp], size: int) -> Floats:
    return np.bincount(values, minlength=size).astype(np.float64)


def _confidence(scores: Floats) -> Floats:
    """The probability of the predicted class, `[n]`."""
    if scores.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-np.abs(scores[:, 0]))))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(1 / np.exp(shifted).sum(axis=1))
