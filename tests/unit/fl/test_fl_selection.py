"""The final model of a run: the last, the best by a metric, the mean of the last few, and the early end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import Dataset, FederatedData, partition
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums
from privfl.fl.report import RoundReport
from privfl.fl.selection import Selection
from privfl.fl.store import ModelStore

SCORES = [0.1, 0.4, 0.3, 0.5, 0.5, 0.2, 0.45, 0.9]
NOISE = {"privacy.placement": "central", "privacy.noise_multiplier": 1.0, "privacy.clip_norm": 1.0}


def report(round: int, **evaluation: float) -> RoundReport:
    return RoundReport.read(a_record() | {"round": round, "evaluation": evaluation})


def a_record() -> dict[str, Any]:
    run = Experiment(train=stepping, initial=np.zeros(1), clients=2, rounds=1)
    list(run.each_round())
    return dict(run.reports[0].record())


def stepping(model: np.ndarray, client: int, round: int, rng: Any) -> ClientUpdate:
    return ClientUpdate(np.ones(len(model)), 1)


def scored(model: np.ndarray) -> MetricSums:
    """The score of round r is SCORES[r - 1]: the model counts the rounds."""
    return MetricSums({"rows": np.ones(1), "score": np.array([SCORES[round(float(model[0])) - 1]])})


def an_experiment(runs: Path, **server: Any) -> Experiment:
    return Experiment(
        train=stepping, initial=np.zeros(2), clients=3, rounds=len(SCORES), public_measure=scored, runs=runs,
        overrides={f"server.{name}": value for name, value in server.items()},
    )  # fmt: skip


def test_the_last_model_is_the_default(tmp_path: Path) -> None:
    result = an_experiment(tmp_path).run()
    assert result.selected_rounds == (8,)
    np.testing.assert_array_equal(result.selected_model, result.model)


def test_the_last_models_are_averaged(tmp_path: Path) -> None:
    result = an_experiment(tmp_path, average_last=3).run()
    assert result.selected_rounds == (6, 7, 8)
    np.testing.assert_allclose(result.selected_model, [7.0, 7.0])
    np.testing.assert_allclose(result.model, [8.0, 8.0])


def test_more_models_than_rounds_leave_the_first_one_out(tmp_path: Path) -> None:
    assert an_experiment(tmp_path, average_last=99).run().selected_rounds == tuple(range(1, 9))


def test_patience_ends_the_run_and_the_best_model_is_selected(tmp_path: Path) -> None:
    settings = {"choose": "best", "patience": 3, "metric": "score", "goal": "largest"}
    run = an_experiment(tmp_path, **settings)
    result = run.run()
    assert len(result) == 7  # round 4 is the best, and the first of two equal ones
    assert result.selected_rounds == (4,)
    np.testing.assert_allclose(result.selected_model, [4.0, 4.0])
    again = an_experiment(tmp_path, **settings)
    assert len(again.run(resume=True)) == 7  # a run that stopped stays stopped


def test_stopping_is_the_same_after_a_resumption(tmp_path: Path) -> None:
    settings = {"patience": 2, "metric": "score", "goal": "smallest"}
    whole = len(an_experiment(tmp_path / "whole", **settings).run())
    rounds = an_experiment(tmp_path / "cut", **settings).each_round()
    next(rounds)
    rounds.close()
    assert len(an_experiment(tmp_path / "cut", **settings).run(resume=True)) == whole == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"choose": "best"}, "server.metric names"),
        ({"patience": 2}, "server.metric names"),
        ({"metric": "accuracy"}, "server.metric names"),
        ({"metric": "score", "patience": 2}, "server.goal"),
    ],
)
def test_half_a_rule_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        an_experiment(tmp_path, **settings)


def test_a_metric_that_no_evaluation_has_selects_nothing(tmp_path: Path) -> None:
    result = an_experiment(tmp_path, choose="best", metric="accuracy").run()
    with pytest.raises(ConfigError, match="no evaluation has a metric 'accuracy'"):
        _ = result.selected_model
    assert len(result) == 8


def test_a_loss_is_better_where_it_is_smaller(tmp_path: Path) -> None:
    record = a_record()
    reports = [RoundReport.read(record | {"round": r, "evaluation": {"loss": v}}) for r, v in enumerate([3, 1, 2], 1)]
    rule = Selection("best", metric="loss", average_last=2)
    assert rule.rounds(reports) == (1, 2)
    assert Selection("best", metric="loss", goal="largest").rounds(reports) == (1,)
    assert Selection().rounds([]) == (0,)
    store = ModelStore(tmp_path)
    assert store.latest() is None


def points(test: int = 0) -> Dataset:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 3)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    return Dataset("points", "binary", features, labels, classes=("a", "b"), test=np.arange(120 - test, 120))


@pytest.mark.parametrize("settings", [{"server.choose": "best"}, {"server.patience": 2}])
def test_a_private_run_chooses_by_public_examples_only(settings: dict[str, Any]) -> None:
    rule = settings | NOISE | {"server.metric": "accuracy", "data.clients": 4, "rounds": 2}
    with pytest.raises(PrivacyError, match="epsilon is about"):
        Experiment(data=points(), overrides=rule)  # its public tests would be taken from the clients' people
    clients = partition(points(), "iid", 4, 0, test_fraction=0.2)
    with pytest.raises(PrivacyError, match="epsilon is about"):
        Experiment(data=clients, overrides=rule)
    public = FederatedData(points(30), partition(points(30), "iid", 4, 0).clients, np.arange(90, 120))
    result = Experiment(data=public, overrides=rule).run()
    assert set(result.selected_rounds) <= {1, 2}
    measured = Experiment(data=points(30), overrides=rule | {"data.test": "public"}).run()
    assert measured.accuracy is not None
