"""The evaluation of a run: the pooled figure over every sum, or a reason that says why there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import ClientExamples, Dataset, FederatedData, Grouping, load, partition
from privfl.errors import DataError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums, measure_predictions
from privfl.fl.report import RoundReport

RNG = np.random.default_rng(4)
X = RNG.normal(size=(300, 3)).astype(np.float32)
NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def binary(**more: Any) -> Dataset:
    groups = Grouping("hospital", np.arange(len(X)) % 5, tuple("abcde"))
    names = {"feature_names": ("u", "v", "w"), "classes": ("no", "yes"), "groupings": (groups,)}
    return Dataset("mine", "binary", X, (X[:, 0] > 0).astype(np.int64), **names | more)


def last(tmp_path: Path, overrides: dict[str, Any] | None = None, **settings: Any) -> RoundReport:
    return Experiment(rounds=1, runs=tmp_path, overrides=overrides or {}, **settings).run().reports[-1]


def no_change(length: int) -> dict[str, Any]:
    return {"train": lambda model, client, round, rng: ClientUpdate(np.zeros(length), 10), "initial": np.zeros(length)}


@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
@pytest.mark.parametrize(("center", "spread"), [(0.0, 1.0), (1e6, 1.0), (0.0, 1e12), (5.0, 1e-5)])
def test_a_regression_is_evaluated_as_if_pooled_at_any_scale(
    tmp_path: Path, scheme: str, center: float, spread: float
) -> None:
    if scheme == "ckks":
        pytest.importorskip("tenseal")
    targets = (center + spread * RNG.normal(size=len(X))).astype(np.float32)
    data = partition(Dataset("far", "regression", X, targets), "iid", clients=4, seed=0)
    experiment = Experiment(data=data, runs=tmp_path, overrides={"sum.scheme": scheme})
    model = np.array([0.1, 0.2, -0.3, 0.9]) * spread
    model[-1] += center
    features, truth = data.all_test()
    errors = features.astype(np.float64) @ model[:3] + model[3] - truth.astype(np.float64)
    found = experiment.evaluate(model)
    assert found["mse"] == pytest.approx(np.mean(errors**2), rel=1e-9, abs=0)
    spread_sum = np.sum(np.square(truth.astype(np.float64) - np.mean(truth, dtype=np.float64)))
    assert 1 - found["r2"] == pytest.approx(np.sum(errors**2) / spread_sum, rel=1e-6)


def test_a_private_run_over_natural_clients_is_evaluated_on_examples_that_it_says_it_took(tmp_path: Path) -> None:
    settings = NOISE | {"data.partition": "natural", "data.test": "public"}
    experiment = Experiment(data=binary(), rounds=1, runs=tmp_path, overrides=settings)
    assert not any(len(client.test) for client in experiment.federation.clients)
    report = experiment.run().reports[-1]
    assert "accuracy" in report.evaluation
    assert any("taken from the given data set" in caveat for caveat in report.caveats)


def test_examples_that_a_private_run_takes_for_tests_are_never_called_public_silently(tmp_path: Path) -> None:
    assert any("taken from" in caveat for caveat in last(tmp_path, NOISE, data=binary()).caveats)


def test_examples_that_were_given_as_tests_need_no_caveat(tmp_path: Path) -> None:
    report = last(tmp_path / "a", NOISE, data=binary(test=np.arange(60)))
    assert "accuracy" in report.evaluation
    assert not any("taken from" in caveat for caveat in report.caveats)
    assert not any("taken from" in caveat for caveat in last(tmp_path / "b", NOISE).caveats)  # a published data set


def test_a_private_run_whose_tests_belong_to_clients_says_why_nothing_is_evaluated(tmp_path: Path) -> None:
    clients = tuple(ClientExamples(str(k), np.arange(k, 200, 4), np.arange(200 + k, 300, 4)) for k in range(4))
    for data, more in ((FederatedData(binary(), clients), {}), (binary(), {"data.test": "local"})):
        report = last(tmp_path / str(len(more)), NOISE | more, data=data)
        assert not report.evaluation
        assert any("nothing is evaluated" in caveat and "public" in caveat for caveat in report.caveats)


def test_an_own_measure_of_a_private_run_is_not_summed_without_noise(tmp_path: Path) -> None:
    measure = lambda model, client: measure_predictions(np.ones(2), np.ones(2))  # noqa: E731
    settings = NOISE | {"server.weighting": "uniform"}
    report = last(tmp_path, settings, clients=4, measure=measure, **no_change(3))
    assert not report.evaluation
    assert any("no noise" in caveat for caveat in report.caveats)


def test_an_own_measure_is_asked_where_the_training_has_its_own_data(tmp_path: Path) -> None:
    measure = lambda model, client: MetricSums({"rows": np.array([2.0]), "f": np.array([client * 1.0])})  # noqa: E731
    assert last(tmp_path, clients=4, measure=measure, **no_change(3)).evaluation == {"f": 6 / 8}


def test_an_own_training_without_a_measure_says_what_to_give(tmp_path: Path) -> None:
    report = last(tmp_path, clients=4, **no_change(3))
    assert not report.evaluation
    assert any("`measure`" in caveat for caveat in report.caveats)


def test_clients_without_test_examples_say_so(tmp_path: Path) -> None:
    clients = tuple(ClientExamples(str(k), np.arange(k, 300, 4)) for k in range(4))
    report = last(tmp_path, data=FederatedData(binary(), clients))
    assert any("no client has a test example" in caveat for caveat in report.caveats)


def test_a_mean_over_clients_is_no_figure_of_public_examples(tmp_path: Path) -> None:
    assert "mean_client_accuracy" not in last(tmp_path / "a", NOISE).evaluation
    assert "mean_client_accuracy" in last(tmp_path / "b").evaluation


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ({}, [{"data.standardize": "local"}, {"data.standardize": "exact"}]),
        ({"data.test": "public"}, [{"data.standardize": "exact"}]),
        (NOISE, [{"data.standardize": "local", "data.test": "local"}]),
        (NOISE | {"data.test": "local"}, [{"data.standardize": "local"}]),
    ],
)
def test_missing_values_name_their_columns_and_a_remedy_that_works(
    tmp_path: Path, settings: dict[str, Any], ways: list[dict[str, str]]
) -> None:
    features = X.copy()
    features[::7, 1] = np.nan
    features[3, 2] = np.nan
    rows = Dataset("mine", "binary", features, (X[:, 0] > 0).astype(np.int64), ("u", "v", "w"), ("no", "yes"))
    with pytest.raises(DataError, match=r"columns v \(43\), w \(1\) of 300 examples") as caught:
        Experiment(data=rows, runs=tmp_path, overrides=settings)
    assert "'noisy'" not in str(caught.value)  # it needs public ranges, and this set has none
    for at, way in enumerate(ways):
        assert all(f"'{value}'" in str(caught.value) for value in way.values())
        report = last(tmp_path / str(at), settings | way, data=rows)
        assert report.evaluation.get("accuracy", 0) > 0 or any("nothing is evaluated" in c for c in report.caveats)


def test_missing_values_of_many_columns_without_names_are_counted(tmp_path: Path) -> None:
    features = np.full((40, 9), np.nan, np.float32)
    rows = Dataset("mine", "regression", features, np.ones(40, np.float32))
    with pytest.raises(DataError, match=r"number 0 \(40\).* and 4 more"):
        Experiment(data=rows, runs=tmp_path, overrides={"data.clients": 4})


def test_an_own_training_may_handle_missing_values_itself(tmp_path: Path) -> None:
    features = X.copy()
    features[0, 0] = np.nan
    data = binary().with_features(features)
    assert last(tmp_path, data=data, **no_change(3)).status == "trained"


def test_baselines_leave_out_a_metric_that_one_model_lacks() -> None:
    from privfl.experiment import baselines

    alone = baselines.local(Experiment(data=load("breast_cancer"), rounds=1, overrides={"data.test": "public"}))
    assert {"accuracy", "auc", "auc_error_bound", "loss"} <= set(alone)


def test_the_sums_give_one_evaluation_of_a_classifier(tmp_path: Path) -> None:
    pytest.importorskip("tenseal")
    found = []
    for scheme in ("plain", "masked", "ckks"):
        experiment = Experiment(data=load("breast_cancer"), runs=tmp_path / scheme, overrides={"sum.scheme": scheme})
        found.append(experiment.evaluate(np.random.default_rng(0).normal(size=31) / 100))
    assert found[0] == found[1] == found[2]
    assert found[0]["auc_error_bound"] < 0.01
