"""Models that a rule thins out: their reports and hashes stay, and a run goes on as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError, StateError
from privfl.experiment import Experiment, RunFolder
from privfl.fl.keep import Keep
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore

SETTINGS: dict[str, Any] = {"data.clients": 5, "client.steps": 1}


def kept(store: ModelStore) -> list[int]:
    return [version.round for version in store.lineage()]


@pytest.mark.parametrize(
    ("rule", "rounds"),
    [("all", range(13)), ("last:5", range(8, 13)), ("every:5", [0, 5, 10, 11, 12]), ("last:1", [11, 12])],
)
def test_a_rule_keeps_the_models_that_it_names_and_the_last_two(tmp_path: Path, rule: str, rounds: Any) -> None:
    run = Experiment(rounds=12, runs=tmp_path, overrides=SETTINGS | {"keep": rule})
    run.run()
    assert kept(run.store) == list(rounds)
    assert run.store.rounds() == list(range(13))
    assert [report.round for report in run.reports] == list(range(1, 13))
    whole = Experiment(name="whole", rounds=12, runs=tmp_path, overrides=SETTINGS)
    whole.run()
    np.testing.assert_array_equal(whole.model, run.model)
    assert [facts.hash for facts in run.store.history()] == [facts.hash for facts in whole.store.history()]


def test_a_run_that_thins_models_is_resumed_to_the_same_model(tmp_path: Path) -> None:
    Experiment(rounds=4, runs=tmp_path, overrides=SETTINGS | {"keep": "last:3"}).run()
    longer = Experiment(rounds=8, runs=tmp_path, overrides=SETTINGS | {"keep": "last:3"})
    longer.run(resume=True)
    assert kept(longer.store) == [6, 7, 8]
    whole = Experiment(name="whole", rounds=8, runs=tmp_path, overrides=SETTINGS)
    whole.run()
    np.testing.assert_array_equal(longer.model, whole.model)
    assert len(RunFolder(tmp_path / "run").reports()) == 8


def test_a_model_that_was_not_kept_is_named_and_what_stays_of_it_is_sealed(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, Keep.read("last:2"))
    parent = ""
    for round in range(5):
        parent = store.save(round, ServerState(np.full(1000, float(round))), parent=parent, report={"n": round}).hash
    with pytest.raises(ConfigError, match=r"the model of round 1 was not kept, .* take another round"):
        store.load(1)
    assert store.sealed(1).report == {"n": 1}
    path = tmp_path / "000001.safetensors"
    assert path.stat().st_size < 2000
    path.write_bytes(path.read_bytes().replace(b'\\"n\\":1', b'\\"n\\":9'))
    with pytest.raises(StateError, match="not the one that was stored"):
        store.sealed(1)


@pytest.mark.parametrize("rule", ["", "some", "last", "last:0", "every:-1", "last:1.5", "every:10 ", "all:3"])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="keep must be 'all'"):
        Experiment(overrides={"keep": rule})


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": "last:3", "server.average_last": 4},
        {"keep": "every:2", "server.average_last": 3},
        {"keep": "last:9", "server.choose": "best", "server.metric": "accuracy"},
    ],
)
def test_a_rule_that_drops_what_may_be_selected_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="set keep = 'all'"):
        Experiment(overrides=settings)
    Experiment(overrides=settings | {"keep": "all"})


def test_the_mean_of_the_last_models_is_there(tmp_path: Path) -> None:
    settings = SETTINGS | {"keep": "last:3", "server.average_last": 3}
    assert np.isfinite(Experiment(rounds=6, runs=tmp_path, overrides=settings).run().model).all()
