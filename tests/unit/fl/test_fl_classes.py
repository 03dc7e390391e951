"""Figures of classifiers against scikit-learn, pooled over clients, and what a constant prediction would give."""

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as peer

from privfl.fl.classes import MAX_CONFUSION, binned_precision, constant_warning
from privfl.fl.evaluation import evaluate
from privfl.fl.metrics import MetricSums, evaluation_of, measure_predictions, measure_scores
from privfl.sums import PlainSum


def case(seed: int, outputs: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(2, outputs), count)
    scores = rng.normal(size=(count, outputs))
    scores[np.arange(count), labels if outputs > 1 else 0] += 1.0 if outputs > 1 else 2.0 * (labels - 0.5)
    return scores, labels


def pooled(scores: np.ndarray, labels: np.ndarray, clients: int):
    """The same examples at several clients, through the secure sum."""
    parts = np.array_split(np.arange(len(labels)), clients)

    def measure(model, client) -> MetricSums:
        own = parts[client]
        return measure_scores(scores[own], labels[own], np.zeros(len(own)))

    return evaluate(PlainSum(), measure, np.zeros(1), tuple(range(clients)), context=b"classes")


@pytest.mark.parametrize("outputs", [1, 3, MAX_CONFUSION, MAX_CONFUSION + 1, 60])
@pytest.mark.parametrize("clients", [1, 5])
def test_class_figures_are_those_of_scikit_learn(outputs: int, clients: int) -> None:
    scores, labels = case(outputs, outputs)
    guesses = (scores[:, 0] > 0).astype(int) if outputs == 1 else scores.argmax(axis=1)
    found = pooled(scores, labels, clients)
    assert found.metrics["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(labels, guesses), rel=1e-12)
    average = "binary" if outputs == 1 else "macro"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.metrics["f1"] == pytest.approx(peer.f1_score(labels, guesses, average=average), rel=1e-12)
    assert found.metrics["constant_accuracy"] == np.bincount(labels).max() / len(labels)
    if outputs <= MAX_CONFUSION:
        np.testing.assert_array_equal(found.confusion, peer.confusion_matrix(labels, guesses))
    else:
        assert found.confusion == ()


@pytest.mark.parametrize("seed", range(4))
def test_the_precision_recall_area_is_within_its_bound(seed: int) -> None:
    scores, labels = case(seed, 1, 3000)
    found = pooled(scores, labels, 3).metrics
    assert (
        abs(found["pr_auc"] - peer.average_precision_score(labels, scores[:, 0])) <= found["pr_auc_error_bound"] + 1e-12
    )
    assert found["pr_auc_error_bound"] < 0.01
    with_ties = np.round(scores)
    found = pooled(with_ties, labels, 3).metrics
    assert found["pr_auc"] == pytest.approx(peer.average_precision_score(labels, with_ties[:, 0]), abs=1e-12)


def test_the_order_within_a_bin_is_what_the_bound_covers() -> None:
    assert binned_precision([0, 0], [3, 1]) is None
    assert binned_precision([1, 2], [5, 0]) == pytest.approx(((2 + 3 / 8) / 3, (3 / 3 - 3 / 8) / 3))
    area, bound = binned_precision([2], [2]) or (0, 0)
    assert area == 0.5
    assert area + bound >= 1.0  # both positives first


@pytest.mark.parametrize("outputs", [1, 4])
def test_calibration_is_the_gap_of_confidence_and_accuracy_by_bin(outputs: int) -> None:
    scores, labels = case(7, outputs, 2000)
    if outputs == 1:
        chance = 1 / (1 + np.exp(-scores[:, 0]))
        confidence, guesses = np.maximum(chance, 1 - chance), (chance > 0.5).astype(int)
    else:
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        confidence, guesses = chances.max(axis=1), chances.argmax(axis=1)
    expected = 0.0
    for low in np.arange(15) / 15:
        own = (confidence > low) & (confidence <= low + 1 / 15)
        if own.any():
            expected += own.mean() * abs((guesses == labels)[own].mean() - confidence[own].mean())
    assert pooled(scores, labels, 4).metrics["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_scores_that_are_not_finite_leave_no_class_figure() -> None:
    scores, labels = case(1, 3)
    scores[5, 1] = math.nan
    found = evaluation_of(measure_scores(scores, labels, np.zeros(len(labels))))
    assert not {"balanced_accuracy", "f1", "calibration_error", "accuracy"} & set(found.metrics)
    assert found.confusion == ()
    assert any("'confusion'" in caveat for caveat in found.caveats)


def test_infinite_scores_have_full_confidence() -> None:
    scores = np.array([[np.inf], [-np.inf], [3e4], [0.0]])
    found = evaluation_of(measure_scores(scores, np.array([1, 0, 1, 0]), np.zeros(4)))
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["calibration_error"] == pytest.approx(0.125)


def test_absolute_errors_and_the_spread_over_clients() -> None:
    rng = np.random.default_rng(2)
    targets, guesses = rng.normal(size=(2, 50))
    assert evaluation_of(measure_predictions(guesses, targets)).metrics["mae"] == pytest.approx(
        peer.mean_absolute_error(targets, guesses), rel=1e-12
    )
    scores, labels = case(9, 1, 100)
    found = pooled(scores, labels, 4).metrics
    shares = [((scores[own, 0] > 0) == labels[own]).mean() for own in np.array_split(np.arange(100), 4)]
    assert found["mean_client_accuracy"] == pytest.approx(np.mean(shares))
    assert found["client_accuracy_stddev"] == pytest.approx(np.std(shares))
    assert "client_accuracy_stddev" not in evaluation_of(measure_scores(scores, labels, np.zeros(100))).metrics


def test_a_model_that_has_learned_nothing_is_pointed_out() -> None:
    labels = np.array([0, 0, 0, 1])
    for scores, warned in ((np.full((4, 1), -1.0), True), (labels[:, None] - 0.5, False)):
        found = evaluation_of(measure_scores(scores, labels, np.zeros(4))).metrics
        assert bool(constant_warning(found)) is warned
    assert "r2 0" in constant_warning({"r2": -0.1})
    assert constant_warning({"r2": 0.1}) == ""
    assert constant_warning({"loss": 1.0}) == ""
