"""Sweeps: every combination is a run of its own, finished runs are kept, and tables are the runs' own figures."""

import csv
import io
import json
import math
from pathlib import Path

import pytest

from privfl.cli.app import run
from privfl.errors import ConfigError
from privfl.experiment import Client, Data, Experiment, Privacy
from privfl.experiment.config import Config
from privfl.experiment.folder import RunFolder, find_runs
from privfl.experiment.sweep import Sweep, run_sweep
from privfl.experiment.tidy import TableCell, pivot, tidy
from privfl.report.tables import plot_pivot, render_pivot, tidy_text

BASE = Config(
    rounds=2,
    data=Data("breast_cancer", clients=3, standardize="public"),
    client=Client(steps=2, learning_rate=0.5),
    privacy=Privacy("central", clip_norm=1.0, adjacency="zero_out"),
)
OVER = {"privacy.epsilon": (2.0, 8.0), "sum.scheme": ("plain", "masked")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweep")
    steps = list(run_sweep(Sweep(BASE, OVER, 2), place, workers=2))
    assert len(steps) == 8
    assert not any(step.error for step in steps)
    return place


def test_each_run_is_the_experiment_of_its_settings(folder: Path) -> None:
    config = Sweep(BASE, OVER, 2).runs()[5]
    assert config.name == "privacy.epsilon=8.0,sum.scheme=plain,seed=1"
    alone = Experiment(config).run()
    stored = RunFolder(folder / config.name)
    assert [r.evaluation.keys() for r in stored.reports()] == [r.evaluation.keys() for r in alone.reports]
    assert stored.config.privacy.noise_multiplier == alone.experiment.config.privacy.noise_multiplier
    assert stored.epsilon().epsilon <= 8.0


def test_finished_runs_are_not_trained_again_and_values_may_be_added(folder: Path) -> None:
    before = {run.name: run.nonce for run in find_runs(folder)}
    steps = list(run_sweep(Sweep(BASE, OVER | {"privacy.epsilon": (2.0, 8.0, 32.0)}, 2), folder, workers=1))
    assert len(steps) == 12
    after = {run.name: run.nonce for run in find_runs(folder)}
    assert before.items() <= after.items()
    assert len(after) == 12


def test_tidy_records_hold_what_differs_and_each_observer(folder: Path) -> None:
    records = tidy([run for run in find_runs(folder) if "32" not in run.name])
    assert len(records) == 8
    assert list(records[0])[:2] == ["name", "seed"]
    assert {"sum.scheme", "privacy.epsilon", "accuracy", "epsilon.outsider", "epsilon.server"} <= set(records[0])
    assert "privacy.clip_norm" not in records[0]
    by_name = {record["name"]: record for record in records}
    for stored in find_runs(folder):
        if stored.name in by_name:
            record, reports = by_name[stored.name], stored.reports()
            assert record["accuracy"] == reports[-1].evaluation["accuracy"]
            assert record["epsilon.outsider"] == stored.epsilon().epsilon
            assert record["bytes_up"] == sum(report.bytes_up for report in reports)
            assert math.isinf(record["epsilon.server"])  # central noise is added after the server saw the sum
    lines = list(csv.DictReader(io.StringIO(tidy_text(records))))
    assert len(lines) == 8
    assert {line["epsilon.server"] for line in lines} == {"infinity"}


def test_a_pivot_is_mean_and_spread_over_seeds(folder: Path) -> None:
    records = tidy([run for run in find_runs(folder) if "32" not in run.name])
    table = pivot(records, "privacy.epsilon", "sum.scheme", "accuracy")
    assert (table.rows, set(table.columns)) == (("2", "8"), {"plain", "masked"})
    own = [r["accuracy"] for r in records if r["privacy.epsilon"] == 8.0 and r["sum.scheme"] == "plain"]
    assert table.entries[1][table.columns.index("plain")] == TableCell.of(own)
    text = render_pivot(table, "latex", digits=2)
    assert text.startswith("\\begin{tabular}{lrr}\n\\toprule\nprivacy.epsilon / sum.scheme & ")
    assert f"{sum(own) / 2:.2f} $\\pm$ " in text
    markdown = render_pivot(table, "markdown").splitlines()
    assert markdown[1] == "| --- | ---: | ---: |"
    assert len(markdown) == 4
    first = next(csv.reader(io.StringIO(render_pivot(table, "csv"))))
    assert first[0] == "privacy.epsilon"
    assert first[1:4] == [f"{table.columns[0]} {part}" for part in ("mean", "stddev", "runs")]


def test_a_pivot_that_would_mix_runs_is_refused(folder: Path, tmp_path: Path) -> None:
    records = tidy(find_runs(folder))
    with pytest.raises(ConfigError, match=r"runs of one cell differ in sum\.scheme"):
        pivot(records, "privacy.epsilon", None, "accuracy")
    with pytest.raises(ConfigError, match="value must name one of name, seed"):
        pivot(records, "privacy.epsilon", "sum.scheme", "f2")
    with pytest.raises(ConfigError, match="name is no number"):
        pivot(records, "privacy.epsilon", "sum.scheme", "name")
    with pytest.raises(ConfigError, match="no run with a finished round"):
        pivot([], "privacy.epsilon", None, "accuracy")
    table = pivot(records, "privacy.epsilon", "sum.scheme", "epsilon.server")
    assert "infinity" in render_pivot(table, "markdown")
    for name in ("a.png", "a.pdf", "a.svg"):
        assert plot_pivot(table, tmp_path / name, caption="x").stat().st_size > 1000


@pytest.mark.parametrize(
    ("over", "seeds", "words"),
    [
        ({"sum.scheme": ()}, 1, "has no value"),
        ({"sum.scheme": ("plain", "plain")}, 1, "a value twice"),
        ({"seed": (1, 2)}, 1, "leave 'seed' out"),
        ({"sum.schema": ("plain",)}, 1, "unknown key"),
        ({"sum.scheme": ("secret",)}, 1, r"sum\.scheme must be one of"),
        ({"data.folder": ("/a b", "/a_b")}, 1, "under one name"),
        ({"rounds": tuple(range(1, 200))}, 100, "more than a sweep holds"),
        ({}, 0, "seeds must be at least 1"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_runs(over, seeds, words) -> None:
    with pytest.raises(ConfigError, match=words):
        Sweep(BASE, over, seeds)


def test_epsilons_under_fixed_noise_are_refused_with_the_remedy() -> None:
    fixed = BASE.with_overrides({"privacy.noise_multiplier": 2.0})
    with pytest.raises(ConfigError, match=r"--set privacy\.noise_multiplier="):
        Sweep(fixed, {"privacy.epsilon": (1.0, 2.0)})


def test_a_run_that_fails_does_not_end_the_sweep(tmp_path: Path) -> None:
    config = BASE.with_overrides({"privacy.noise_multiplier": 0.5, "sum.scheme": "plain"})
    over = {"cohort.sampling": ("everyone", "poisson")}  # Poisson sampling without a probability
    steps = {step.name: step for step in run_sweep(Sweep(config, over), tmp_path, workers=1)}
    assert not steps["cohort.sampling=everyone,seed=0"].error
    assert "probability" in steps["cohort.sampling=poisson,seed=0"].error


def test_the_command_line_sweeps_and_tabulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "digits.toml"
    toml.write_text('rounds = 1\n[data]\nname = "digits"\nclients = 3\n[client]\nsteps = 2\n')
    place = tmp_path / "out"
    arguments = ["sweep", str(toml), "--over", "client.learning_rate=0.1,1", "--seeds", "2", "--to", str(place)]
    assert run([*arguments, "--json", "--plot", str(tmp_path / "f.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 4
    assert found["failed"] == {}
    assert (place / "runs.csv").read_text().count("\n") == 5
    assert run(["table", str(place), "--rows", "client.learning_rate", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["runs"] for cell in cells] == [2, 2]
    assert run(["table", str(place), "--csv"]) == 0
    assert capsys.readouterr().out == (place / "runs.csv").read_text()
    assert run(["table", str(place), "--rows", "client.learning_rate", "--latex", "--markdown"]) == 2
    assert run(["table", str(tmp_path / "absent")]) == 2
    assert run(["sweep", str(toml), "--over", "seed=1,2", "--to", str(place)]) == 2
    assert run(["runs", "list", "--runs", str(place), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert {run["settings"]["client"]["learning_rate"] for run in listed} == {0.1, 1.0}
