"""Metrics as sums, against their definitions and against scikit-learn."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.errors import ConfigError
from privfl.fl.evaluation import evaluate
from privfl.fl.limbs import Limbs, exact_squares, exact_sum
from privfl.fl.linear import LinearModel
from privfl.fl.metrics import (
    AUC_BINS,
    Evaluation,
    LinearMeasure,
    Measure,
    MetricSums,
    binned_auc,
    evaluation_of,
    finish,
    logit_bins,
    measure_predictions,
    measure_scores,
)
from privfl.sums import PlainSum

RNG = np.random.default_rng(8)
SIZES = (40, 0, 7, 25)
X = [RNG.normal(size=(n, 3)) for n in SIZES]


def summed(measure: Measure, clients: int = 4) -> Evaluation:
    return evaluate(PlainSum(), measure, np.zeros(1), tuple(range(clients)), context=b"test")


def pooled(model: LinearModel, weights: np.ndarray, labels: list[np.ndarray]) -> dict[str, float]:
    measure = LinearMeasure(model, lambda client: (X[client], labels[client]))
    return dict(evaluate(PlainSum(), measure, weights, (0, 1, 2, 3), context=b"test").metrics)


def test_a_binary_classifier_over_clients_is_measured_as_if_pooled() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = LinearModel("logistic", 3)
    weights = np.array([1.0, -0.5, 0.25, 0.1])
    labels = [(x[:, 0] + RNG.normal(size=len(x)) > 0).astype(np.int64) for x in X]
    found = pooled(model, weights, labels)
    scores, truth = model.scores(weights, np.concatenate(X))[:, 0], np.concatenate(labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, scores > 0), rel=1e-9)
    assert found["loss"] == pytest.approx(metrics.log_loss(truth, 1 / (1 + np.exp(-scores))), rel=1e-9)
    assert abs(found["auc"] - metrics.roc_auc_score(truth, scores)) <= found["auc_error_bound"] < 0.01
    own = [np.mean((model.scores(weights, x)[:, 0] > 0) == y) for x, y in zip(X, labels, strict=True) if len(y)]
    assert found["mean_client_accuracy"] == pytest.approx(np.mean(own), rel=1e-9)  # the empty client is not counted


def test_auc_is_scikit_learns_up_to_the_bound_that_it_reports() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 300)
        logits = (rng.normal(size=300) + labels) * 10.0 ** rng.integers(-3, 6)
        found = finish(measure_scores(logits[:, None], labels, np.zeros(300)))
        assert abs(found["auc"] - metrics.roc_auc_score(labels, logits)) <= found["auc_error_bound"] + 1e-12
        assert found["auc_error_bound"] < 0.03


@pytest.mark.parametrize("scale", [0.01, 20.0, 1e5, 1e12])
def test_a_perfect_ranking_has_an_auc_of_one_at_any_scale(scale: float) -> None:
    labels = np.array([0, 0, 1, 1])
    found = finish(measure_scores(np.array([[-2.0], [-1.0], [1.0], [2.0]]) * scale, labels, np.zeros(4)))
    assert (found["auc"], found["auc_error_bound"]) == (1.0, 0.0)


def test_logits_in_one_bin_are_reported_as_undecided() -> None:
    found = finish(measure_scores(np.array([[700.0], [700.01]]), np.array([0, 1]), np.zeros(2)))
    assert (found["auc"], found["auc_error_bound"]) == (0.5, 0.5)


def test_bins_increase_with_the_logit() -> None:
    bins = logit_bins(np.array([-np.inf, -1e9, -1.0, -0.01, 0.0, 0.01, 1.0, 1e9, np.inf]))
    assert (np.diff(bins) >= 0).all()
    assert (bins[0], bins[-1]) == (0, AUC_BINS - 1)


def test_auc_counts_ties_half_and_needs_both_classes() -> None:
    one, nothing = [0] * 8, [0] * 8
    one[3] = 5
    assert binned_auc(one, one) == (0.5, 0.5)
    assert binned_auc(one[-1:] + one[:-1], one) == (1.0, 0.0)
    assert binned_auc(one, one[-1:] + one[:-1]) == (0.0, 0.0)
    assert binned_auc(one, nothing) is None
    assert binned_auc(nothing, one) is None
    found = evaluation_of(measure_scores(np.array([[2.0]]), np.array([1]), np.array([0.1])))
    assert "auc" not in found.metrics
    assert any("one class" in caveat for caveat in found.caveats)


def test_losses_are_not_capped() -> None:
    sums = measure_scores(np.array([[1e9], [-1e9], [800.0]]), np.array([1, 0, 0]), np.array([0.0, 0.0, 3e9]))
    assert finish(sums)["loss"] == 1e9


def test_labels_of_minus_one_and_one_are_negative_and_positive() -> None:
    scores = np.array([[-1.0], [2.0], [3.0]])
    assert finish(measure_scores(scores, np.array([-1, 1, -1]), np.zeros(3)))["accuracy"] == pytest.approx(2 / 3)


def test_a_multiclass_classifier_is_measured_by_its_largest_score() -> None:
    model = LinearModel("softmax", 3, 4)
    weights = RNG.normal(size=model.length)
    labels = [RNG.integers(0, 4, len(x)) for x in X]
    found = pooled(model, weights, labels)
    predicted = model.scores(weights, np.concatenate(X)).argmax(axis=1)
    assert found["accuracy"] == pytest.approx(np.mean(predicted == np.concatenate(labels)), rel=1e-9)
    assert "auc" not in found


def test_a_regression_has_mse_and_r2() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = LinearModel("linear", 3)
    weights = np.array([1.0, 2.0, -1.0, 0.5])
    labels = [x @ weights[:3] + RNG.normal(size=len(x)) for x in X]
    found = pooled(model, weights, labels)
    predicted, truth = model.scores(weights, np.concatenate(X))[:, 0], np.concatenate(labels)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(truth, predicted), rel=1e-9)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), rel=1e-9)


def test_r2_of_equal_targets_is_zero() -> None:
    sums = measure_predictions(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert finish(sums) == {"mse": 2.5, "mae": 1.5, "r2": 0.0}


def test_without_examples_there_is_a_reason_and_no_figure() -> None:
    empty: Any = np.zeros(0)
    for sums in (measure_scores(np.zeros((0, 1)), empty, empty), measure_predictions(empty, empty)):
        assert finish(sums) == {}
        assert "no test examples" in evaluation_of(sums).caveats[0]


def test_a_sum_without_an_entry_is_refused() -> None:
    with pytest.raises(ConfigError, match="a measure returned 'a' without an entry"):
        evaluation_of(MetricSums({"rows": np.array([5.0]), "a": np.zeros(0)}))


def test_a_measure_that_returns_examples_alone_is_given_as_the_reason() -> None:
    assert evaluation_of(MetricSums({"rows": np.array([5.0])})) == Evaluation(
        {}, ("nothing is evaluated: the measure returned no sum but 'rows'",)
    )


def test_equal_targets_that_are_met_exactly_have_an_r2_of_one() -> None:
    assert finish(measure_predictions(np.full(3, 7.0), np.full(3, 7.0))) == {"mse": 0.0, "mae": 0.0, "r2": 1.0}


@pytest.mark.parametrize("clients", [1, 3, 400])
@pytest.mark.parametrize(
    ("center", "spread"), [(0.0, 1.0), (0.0, 1e-12), (0.0, 1e30), (1e6, 1.0), (-3e9, 0.5), (1e15, 1e-30)]
)
def test_a_regression_is_exact_at_any_scale(clients: int, center: float, spread: float) -> None:
    rng = np.random.default_rng(clients)
    targets = [center + spread * rng.normal(size=rng.integers(0, 9)) for _ in range(clients)]
    targets[0] = center + spread * rng.normal(size=40)
    guesses = [y + spread * rng.normal(size=len(y)) for y in targets]
    found = summed(lambda _, client: measure_predictions(guesses[client], targets[client]), clients).metrics
    truth, guess = np.concatenate(targets), np.concatenate(guesses)
    exact = [Fraction(y) for y in truth.tolist()]
    mean = sum(exact) / len(exact)
    spread_sum = sum((y - mean) ** 2 for y in exact)
    mse = np.mean(np.square(guess - truth))
    assert found["mse"] == pytest.approx(mse, rel=1e-9, abs=0)
    if spread_sum:
        assert 1 - found["r2"] == pytest.approx(float(Fraction(mse * len(exact)) / spread_sum), rel=1e-6)
    else:
        assert found["r2"] in (0.0, 1.0)


def test_one_client_of_a_million_examples_and_many_of_one_count_exactly() -> None:
    def measure(_: Any, client: int) -> MetricSums:
        rows = 1_000_000.0 if client == 0 else 1.0
        return MetricSums({"rows": np.array([rows]), "right": np.array([rows if client else 123_456.0])})

    assert summed(measure, 300).metrics["right"] == (123_456 + 299) / 1_000_299


def test_a_sum_that_one_client_lacks_is_over_the_others() -> None:
    def measure(_: Any, client: int) -> MetricSums:
        own = {} if client == 2 else {"recall": np.array([3.0])}
        return MetricSums({"rows": np.array([4.0]), "hits": np.array([1.0]), **own})

    found = summed(measure)
    assert found.metrics == {"hits": 0.25, "recall": 0.75}
    assert any("'recall' is over the 12 of 16" in caveat for caveat in found.caveats)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_not_finite_makes_its_figure_absent(wrong: float) -> None:
    def measure(_: Any, client: int) -> MetricSums:
        return MetricSums({"rows": np.array([4.0]), "a": np.array([wrong if client else 1.0]), "b": np.array([1.0])})

    found = summed(measure)
    assert found.metrics == {"b": 0.25}
    assert any("'a' are not finite" in caveat for caveat in found.caveats)


@pytest.mark.parametrize("kind", ["linear", "logistic", "softmax"])
def test_a_model_that_diverged_has_no_figures_and_says_so(kind: Any) -> None:
    model = LinearModel(kind, 3, 4 if kind == "softmax" else 1)
    measure = LinearMeasure(model, lambda client: (X[client], np.zeros(len(X[client]), np.int64)))
    found = evaluate(PlainSum(), measure, np.full(model.length, np.nan), (0, 1, 2, 3), context=b"test")
    assert found.metrics == {}
    assert any("not finite" in caveat for caveat in found.caveats)


def test_own_sums_stand_next_to_the_built_in_ones() -> None:
    def measure(_: Any, client: int) -> MetricSums:
        built_in = measure_predictions(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        return MetricSums({**built_in.values, "late": np.array([1.0]), "by_kind": np.array([2.0, 0.0])})

    found = summed(measure).metrics
    assert found["mse"] == 2.0
    assert (found["late"], found["by_kind[0]"], found["by_kind[1]"]) == (0.5, 1.0, 0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tp": np.array([3.0])}, "'rows'"),
        ({"rows": np.array([-1.0])}, "at least 0"),
        ({"rows": np.array([math.nan])}, "at least 0"),
        ({"rows": np.array([1.0]), "name": "of a person"}, "'name' is not one"),
        ({**measure_predictions(np.ones(2), np.ones(2)).values, "mse": np.array([3.0])}, "'mse', which is another"),
    ],
)
def test_a_measure_of_another_form_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        summed(lambda _, client: MetricSums(values))
    assert "person" not in str(caught.value)


def test_a_measure_returns_metric_sums_of_one_length() -> None:
    wrong: Callable[..., Any] = lambda _, client: {"rows": 1.0}  # noqa: E731
    with pytest.raises(ConfigError, match="not a dict"):
        summed(wrong)
    lengths = lambda _, client: MetricSums({"rows": np.ones(1), "a": np.ones(client + 1)})  # noqa: E731
    with pytest.raises(ConfigError, match="of one length"):
        summed(lengths)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=5), st.integers(5, 30))
@settings(max_examples=100)
def test_limbs_add_up_to_the_exact_sum_of_any_floats(numbers: list[list[float]], bits: int) -> None:
    parts = [np.array(part) for part in numbers]
    limbs = Limbs.fit(parts, bits)
    encoded = [limbs.encode(part) for part in parts]
    assert max(int(np.abs(ints).max()) for ints in encoded) <= limbs.bound
    total = limbs.decode(np.sum(encoded, axis=0))
    assert total == [sum(map(Fraction, column)) for column in zip(*numbers, strict=True)]


@given(st.lists(st.floats(-1e100, 1e100).filter(lambda x: x == 0 or abs(x) > 1e-100), max_size=8))
def test_sums_of_squares_keep_their_rounding_errors(values: list[float]) -> None:
    high, low = exact_sum(exact_squares(np.array(values, np.float64)))
    exact = sum(Fraction(value) ** 2 for value in values)
    assert abs(Fraction(high) + Fraction(low) - exact) <= abs(exact) * Fraction(1, 2**100)
