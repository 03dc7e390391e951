"""A client whose training raises an error: it ends the run, or drops out of the round and is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.show import facts
from privfl.data import load, partition
from privfl.errors import ClientFailed, ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import Contribution
from privfl.fl.report import RoundReport
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
    assert any(
        "the training of a client raised an error (1 ZeroDivisionError), and it dropped out" in caveat
        for caveat in report.caveats
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_executors_agree(tmp_path: Path, workers: int) -> None:
    run = a_run(tmp_path, failing(0), **{"engine.workers": workers})
    assert next(iter(run.each_round())).dropouts == (0,)
    assert run.model == pytest.approx(np.full(3, 3.5), abs=1e-4)


def test_by_default_the_run_ends_and_names_the_client(tmp_path: Path) -> None:
    with pytest.raises(ClientFailed, match="ZeroDivisionError"):
        a_run(tmp_path, failing(2), **{"cohort.on_client_error": "raise"}).run()


def test_a_fault_of_every_client_is_no_dropout(tmp_path: Path) -> None:
    with pytest.raises(ClientFailed, match=r"every client of round 1 raised an error \(5 ZeroDivisionError\)\. Set"):
        a_run(tmp_path, failing(*range(5))).run()


class Unexpected(Exception):
    pass


def several(model: Any, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    """Clients 0 and 1 fail in round 1, client 2 in every round, each by another error."""
    if client in (0, 1) and round == 1:
        raise [KeyError, Unexpected][client]("of client's own")
    if client == 2:
        raise KeyError("of client's own")
    return ClientUpdate(np.full(3, client + 1.0), 10)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_errors_are_counted_by_type_in_each_round(tmp_path: Path, workers: int, scheme: str) -> None:
    settings: dict[str, Any] = {"engine.workers": workers, "rounds": 2, "sum.scheme": scheme}
    if scheme == "masked":
        settings["cohort.too_few"] = "skip"
    else:
        settings["cohort.min_survivor_fraction"] = 0.2
    first, second = a_run(tmp_path, several, **settings).each_round()
    assert first.client_errors == {"KeyError": 2, "Unexpected": 1}  # also where too few survive for the sum
    assert first.status == ("skipped" if scheme == "masked" else "trained")
    assert "3 clients raised an error (2 KeyError, 1 Unexpected), and they dropped out" in " ".join(first.caveats)
    assert second.client_errors == {"KeyError": 1}
    assert "a client raised an error (1 KeyError), and it dropped out" in " ".join(second.caveats)
    assert RoundReport.read(json.loads(json.dumps(first.record()))) == first
    assert "dropped out (2 KeyError, 1 Unexpected)" in facts(first, None)


def test_a_published_report_keeps_what_the_evaluation_says_and_nothing_of_the_cohort(tmp_path: Path) -> None:
    settings = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
    settings |= {"privacy.delta": 1e-3}
    (report,) = a_run(tmp_path, failing(1), **settings).each_round()
    assert report.client_errors == {"ZeroDivisionError": 1}
    shown = report.published()
    assert "ZeroDivisionError" not in json.dumps(shown)
    assert shown["evaluation_caveats"] == report.evaluation_caveats
    assert "nothing is evaluated" in report.evaluation_caveats[0]


def test_the_line_of_a_round_says_why_it_was_skipped(tmp_path: Path) -> None:
    def train(model: Any, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.full(3, np.nan), 10)

    (report,) = a_run(tmp_path, train).each_round()
    assert facts(report, None) == "[yellow]skipped: no update counted[/]  [yellow]5 rejected[/]"


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
