"""Metrics as sums, against their definitions and against scikit-learn."""

from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.fl.linear import LinearModel
from privfl.fl.metrics import (
    MAX_LOSS,
    LinearMeasure,
    MetricSums,
    binned_auc,
    evaluate,
    finish,
    measure_predictions,
    measure_scores,
)
from privfl.ring import Ring
from privfl.sums import PlainSum

RNG = np.random.default_rng(8)
SIZES = (40, 0, 7, 25)
X = [RNG.normal(size=(n, 3)) for n in SIZES]


def pooled(model: LinearModel, weights: np.ndarray, labels: list[np.ndarray], bound: float) -> dict[str, float]:
    measure = LinearMeasure(model, lambda client: (X[client], labels[client]))
    ring = Ring(40)
    return evaluate(PlainSum(), measure, weights, (0, 1, 2, 3), ring=ring, bound=bound, context=b"test")


def test_a_binary_classifier_over_clients_is_measured_as_if_pooled() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = LinearModel("logistic", 3)
    weights = np.array([1.0, -0.5, 0.25, 0.1])
    labels = [(x[:, 0] + RNG.normal(size=len(x)) > 0).astype(np.int64) for x in X]
    found = pooled(model, weights, labels, 40 * MAX_LOSS)
    scores, truth = model.scores(weights, np.concatenate(X))[:, 0], np.concatenate(labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, scores > 0), abs=1e-6)
    assert found["loss"] == pytest.approx(metrics.log_loss(truth, 1 / (1 + np.exp(-scores))), abs=1e-4)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores), abs=0.01)
    own = [np.mean((model.scores(weights, x)[:, 0] > 0) == y) for x, y in zip(X, labels, strict=True) if len(y)]
    assert found["mean_client_accuracy"] == pytest.approx(np.mean(own), abs=1e-5)  # the empty client is not counted


def test_auc_is_scikit_learns_where_scores_fall_into_their_own_bins() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chance = (rng.integers(0, 256, 300) + 0.5) / 256
        labels = rng.integers(0, 2, 300)
        sums = measure_scores(np.log(chance / (1 - chance))[:, None], labels, np.zeros(300))
        assert finish(sums)["auc"] == pytest.approx(metrics.roc_auc_score(labels, chance), abs=1e-12)


def test_auc_counts_ties_half_and_needs_both_classes() -> None:
    one = np.zeros(256)
    one[3] = 5.0
    assert binned_auc(one, one) == 0.5
    assert binned_auc(np.roll(one, 1), one) == 1.0
    assert binned_auc(one, np.roll(one, 1)) == 0.0
    assert binned_auc(one, np.zeros(256)) is None
    assert binned_auc(np.zeros(256), one) is None
    sums = measure_scores(np.array([[2.0]]), np.array([1]), np.array([0.1]))
    assert "auc" not in finish(sums)


def test_extreme_scores_and_losses_stay_within_the_public_bound() -> None:
    scores = np.array([[1e9], [-1e9], [800.0]])
    sums = measure_scores(scores, np.array([1, 0, 0]), np.array([0.0, 0.0, 1e9]))
    assert sums.values["loss"].sum() == MAX_LOSS
    assert sums.values["positives"].sum() == 1
    assert sums.values["negatives"].sum() == 2
    assert sums.flat().max() <= 3 * MAX_LOSS


def test_a_multiclass_classifier_is_measured_by_its_largest_score() -> None:
    model = LinearModel("softmax", 3, 4)
    weights = RNG.normal(size=model.length)
    labels = [RNG.integers(0, 4, len(x)) for x in X]
    found = pooled(model, weights, labels, 40 * MAX_LOSS)
    predicted = model.scores(weights, np.concatenate(X)).argmax(axis=1)
    assert found["accuracy"] == pytest.approx(np.mean(predicted == np.concatenate(labels)), abs=1e-6)
    assert "auc" not in found


def test_a_regression_has_mse_and_r2() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = LinearModel("linear", 3)
    weights = np.array([1.0, 2.0, -1.0, 0.5])
    labels = [x @ weights[:3] + RNG.normal(size=len(x)) for x in X]
    found = pooled(model, weights, labels, 1e4)
    predicted, truth = model.scores(weights, np.concatenate(X))[:, 0], np.concatenate(labels)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(truth, predicted), rel=1e-4)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), abs=1e-4)


def test_r2_of_equal_targets_is_zero() -> None:
    sums = measure_predictions(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert finish(sums) == {"mse": 2.5, "r2": 0.0}


def test_without_rows_there_is_nothing_to_say() -> None:
    empty: Any = np.zeros(0)
    assert finish(measure_scores(np.zeros((0, 1)), empty, empty)) == {}
    assert finish(measure_predictions(empty, empty)) == {}


def test_sums_travel_flat_and_come_back() -> None:
    sums = MetricSums({"b": np.array([1.0]), "a": np.array([2.0, 3.0])})
    np.testing.assert_array_equal(sums.flat(), [2.0, 3.0, 1.0])
    back = sums.like(sums.flat() * 2)
    np.testing.assert_array_equal(back.values["a"], [4.0, 6.0])
    np.testing.assert_array_equal(back.values["b"], [2.0])


def test_a_sum_above_the_bound_is_counted_as_the_bound() -> None:
    def liar(model: Any, client: int) -> MetricSums:
        return MetricSums({name: np.array([v]) for name, v in (("rows", 1.0), ("squared_error", 1e12))} | _ZEROS)

    found = evaluate(PlainSum(), liar, np.zeros(1), (0, 1), ring=Ring(40), bound=8.0, context=b"test")
    assert found["mse"] == pytest.approx(8.0)


_ZEROS = {"target": np.zeros(1), "target_square": np.zeros(1)}


def test_a_metric_that_is_not_a_number_is_refused() -> None:
    def broken(model: Any, client: int) -> MetricSums:
        return measure_predictions(np.array([np.nan]), np.array([1.0]))

    with pytest.raises(ConfigError, match="finite"):
        evaluate(PlainSum(), broken, np.zeros(1), (0, 1), ring=Ring(40), bound=8.0, context=b"test")
