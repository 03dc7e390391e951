"""A client whose training raises an error: it ends the run, or drops out of the round and is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import load, partition
from privfl.errors import ClientFailed, ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import Contribution
from privfl.sums import PlainSum

DATA = partition(load("breast_cancer"), "iid", clients=5, seed=0)


def failing(*clients: int) -> Any:
    """Each other client adds its own number plus 1."""

    def train(model: Any, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        if client in clients:
            raise ZeroDivisionError("of client's own")
        return ClientUpdate(np.full(3, client + 1.0), 10)

    return train


def a_run(runs: Path, train: Any, **settings: Any) -> Experiment:
    usual = {"server.weighting": "uniform", "cohort.on_client_error": "drop"}
    return Experiment(data=DATA, train=train, initial=np.zeros(3), rounds=1, runs=runs, overrides={**usual, **settings})


@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_a_client_that_fails_is_neither_in_the_sum_nor_in_the_denominator(tmp_path: Path, scheme: str) -> None:
    pytest.importorskip("tenseal" if scheme == "ckks" else "numpy")
    run = a_run(tmp_path, failing(3), **{"sum.scheme": scheme})
    (report,) = run.each_round()
    assert report.status == "trained"
    assert report.dropouts == (3,)
    assert run.model == pytest.approx(np.full(3, (1 + 2 + 3 + 5) / 4), abs=1e-4)
    assert any("the training of 1 of the cohort's clients raised an error" in caveat for caveat in report.caveats)


@pytest.mark.parametrize("workers", [0, 2])
def test_executors_agree(tmp_path: Path, workers: int) -> None:
    run = a_run(tmp_path, failing(0), **{"engine.workers": workers})
    assert next(iter(run.each_round())).dropouts == (0,)
    assert run.model == pytest.approx(np.full(3, 3.5), abs=1e-4)


def test_by_default_the_run_ends_and_names_the_client(tmp_path: Path) -> None:
    with pytest.raises(ClientFailed, match="ZeroDivisionError"):
        a_run(tmp_path, failing(2), **{"cohort.on_client_error": "raise"}).run()


def test_a_fault_of_every_client_is_no_dropout(tmp_path: Path) -> None:
    with pytest.raises(ClientFailed, match=r"set cohort\.on_client_error = 'raise' to see why"):
        a_run(tmp_path, failing(*range(5))).run()


def test_an_update_of_another_length_is_an_error_of_the_client_too(tmp_path: Path) -> None:
    def train(model: Any, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.ones(2 if client == 4 else 3), 10)

    (report,) = a_run(tmp_path, train).each_round()
    assert report.dropouts == (4,)


def test_a_private_run_counts_no_amplification_on_dropouts_that_data_may_decide(tmp_path: Path) -> None:
    settings = {
        "cohort.sampling": "poisson", "cohort.probability": 0.5, "privacy.placement": "central",
        "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0, "privacy.delta": 1e-3,
    }  # fmt: skip
    drops = a_run(tmp_path / "drop", failing(), **settings).parts.planned_epsilon()
    raises = a_run(tmp_path / "raise", failing(), **settings, **{"cohort.on_client_error": "raise"})
    assert drops >= raises.parts.planned_epsilon()


def test_a_third_way_is_refused() -> None:
    with pytest.raises(ConfigError, match="on_client_error must be one of raise, drop"):
        Contribution(failing(), PlainSum(), "skip")  # type: ignore[arg-type]
