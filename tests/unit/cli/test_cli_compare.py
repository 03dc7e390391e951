"""`privfl compare`: every arm, its table and files, and going on after an interruption."""

import csv
import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.data import Dataset, Grouping
from privfl.errors import ConfigError, StateError
from privfl.experiment import compare
from privfl.experiment.compare import as_record, run_comparison, summarize
from privfl.experiment.comparison import Comparison
from privfl.report.compare import write_csv

SMALL = Comparison("breast_cancer", 10, "iid", 2, (8.0,), 2, ("plain", "masked"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return folder, list(run_comparison(SMALL, folder))


def test_every_arm_is_run_under_its_seeds(place):
    _, cells = place
    assert sorted((cell.arm, cell.seed) for cell in cells) == sorted((arm.name, seed) for arm, seed in SMALL.cells())
    rows = {row.arm: row for row in summarize(SMALL, cells)}
    assert set(rows) == {arm.name for arm in SMALL.arms()}
    assert rows["FedAvg"].seeds == 2
    assert rows["masked sum"].seeds == 1


def test_epsilons_are_claimed_where_noise_is_and_only_there(place, tmp_path):
    rows = {row.arm: row for row in summarize(SMALL, place[1])}
    assert rows["FedAvg"].epsilon is None
    assert rows["central DP 8"].epsilon == pytest.approx(8.0, abs=0.01)
    assert rows["central DP 8"].epsilon <= 8
    assert rows["central DP 8"].server_epsilon == math.inf  # it sees vectors without noise
    assert rows["FedAvg"].server_epsilon is None  # no claim at all
    records = {row["arm"]: row for row in as_record(SMALL, list(rows.values()))["rows"]}
    assert records["central DP 8"]["server_epsilon"] == "infinity"
    assert records["FedAvg"]["server_epsilon"] is None
    table = write_csv(list(rows.values()), tmp_path / "x.csv").read_text().splitlines()
    at = table[0].split(",").index("server_epsilon")
    cells = {line.split(",")[0]: line.split(",")[at] for line in table[1:] if '"' not in line}
    assert (cells["central DP 8"], cells["FedAvg"]) == ("infinity", "")
    assert math.isfinite(rows["local DP, noise of 8"].server_epsilon)
    assert math.isfinite(rows["distributed DP, noise of 8"].server_epsilon)
    assert math.isfinite(rows["mesh DP, noise of 8"].server_epsilon)


def test_a_comparison_says_what_was_tuned_on_what():
    assert "Tuned on digits itself" in Comparison("digits").tuning
    assert "test examples" in Comparison("breast_cancer").tuning
    assert "Not tuned on heart" in Comparison("heart").tuning
    assert as_record(Comparison("digits"), [])["tuning"] == Comparison("digits").tuning


def test_an_infinite_epsilon_comes_back_from_the_folder(place):
    again = {cell.arm: cell for cell in run_comparison(SMALL, place[0], resume=True)}
    assert again["central DP 8"].server_epsilon == math.inf
    assert again["pooled"].server_epsilon is None


def test_the_sums_give_the_same_model(place):
    models = {cell.arm: cell.model for cell in place[1] if cell.seed == 0}
    assert models["masked sum"] == models["plain sum"] == models["FedAvg"]


def test_a_comparison_resumes_where_it_stopped(place, tmp_path, monkeypatch):
    folder, cells = place
    lines = (folder / compare.RESULTS).read_bytes().splitlines(keepends=True)
    (tmp_path / compare.RESULTS).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ConfigError, match="resume"):
        next(run_comparison(SMALL, tmp_path))
    ran = []
    original = compare._run
    monkeypatch.setattr(compare, "_run", lambda of, arm, *rest: ran.append(arm.name) or original(of, arm, *rest))
    again = list(run_comparison(SMALL, tmp_path, resume=True))
    assert ran == ["masked sum"]  # sums are measured in this process, and nothing else was missing
    assert not list(tmp_path.glob(f"{compare.SCRATCH}*"))
    assert [cell.model for cell in again] == [cell.model for cell in cells]
    with pytest.raises(StateError, match="other settings"):
        next(run_comparison(replace(SMALL, rounds=3), tmp_path, resume=True))
    (tmp_path / compare.RESULTS).write_text('{"a": 1}\n{"arm": 2}\n')
    with pytest.raises(StateError, match="does not hold"):
        next(run_comparison(SMALL, tmp_path, resume=True))


def test_clients_are_counted_and_test_rows_are_public_where_the_partition_is_natural():
    hospitals = Grouping("hospital", np.repeat([0, 1, 2], 20), ("a", "b", "c"))
    features = np.arange(60, dtype=np.float32)[:, None] ** np.array([1.0, 0.0, 2.0], np.float32)
    features[7, 2] = np.nan
    whole = Dataset(
        "heart", "binary", features, np.arange(60) % 2, classes=("no", "yes"), test=np.arange(0, 60, 4),
        groupings=(hospitals,),
    )  # fmt: skip
    comparison = replace(SMALL, data="heart", partition="natural")
    federation = compare._federation(comparison.config(comparison.arms()[0], 0), whole, scaled=True)
    assert len(federation.clients) == 3
    assert list(federation.test) == list(range(0, 60, 4))
    assert not any(len(client.test) for client in federation.clients)
    scaled = federation.dataset.features[federation.test]
    assert np.isfinite(federation.dataset.features).all()
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert scaled.std(axis=0) == pytest.approx([1, 0, 1], abs=1e-5)  # a constant column stays one


@pytest.mark.slow
@pytest.mark.parametrize(("data", "partition"), [("heart", "natural"), ("adult", "quantity:1.2")])
def test_sets_of_the_data_folder_are_compared(data, partition, tmp_path, data_folder):
    comparison = Comparison(data, 8, partition, 2, (8.0,), 1, ("plain",), str(data_folder))
    rows = {row.arm: row for row in summarize(comparison, list(run_comparison(comparison, tmp_path)))}
    assert rows["FedAvg"].clients == (4 if partition == "natural" else 8)
    assert rows["FedAvg"].value > 0.7


def test_a_comparison_has_one_writer_at_a_time(place, tmp_path):
    folder, cells = place
    lines = (folder / compare.RESULTS).read_bytes().splitlines(keepends=True)
    (tmp_path / compare.RESULTS).write_bytes(b"".join(lines[:-1]))
    first = run_comparison(SMALL, tmp_path, resume=True, workers=1)
    next(first)
    command = [sys.executable, "-m", "privfl", "compare", "--data", "breast-cancer", "--to", str(tmp_path)]
    for more in ([], ["--resume"]):
        second = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert (second.returncode, second.stdout) == (2, "")
        assert "another process is writing" in second.stderr
    assert len([*first]) == len(cells) - 1  # whose own scratch folder nobody removed
    assert len(list(run_comparison(SMALL, tmp_path, resume=True))) == len(cells)


def test_a_comparison_that_was_killed_goes_on_to_the_same_result(place, tmp_path):
    """Killed with its workers at work, for real: no arm runs twice, and what seeds decide is the same."""
    settings = ["--data", "breast-cancer", "--clients", "10", "--partition", "iid", "--rounds", "2", "--seeds", "2"]
    settings += ["--epsilon", "8", "--sums", "plain,masked", "--workers", "2", "--to", str(tmp_path)]
    command = [sys.executable, "-m", "privfl", "compare", *settings]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / compare.RESULTS
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert killed.poll() is None, "it ended before it could be killed"
    killed.kill()
    killed.wait()
    before = path.read_bytes().splitlines()
    assert 2 <= len(before) < 1 + len(SMALL.cells())
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=True)
    after = path.read_bytes().splitlines()
    assert after[: len(before)] == before  # what was done is not done again
    cells = [json.loads(line) for line in after[1:]]
    assert len({(cell["arm"], cell["seed"]) for cell in cells}) == len(cells) == len(SMALL.cells())
    seeded = {(c.arm, c.seed): (c.value, c.model) for c in place[1] if c.epsilon is None}
    assert seeded == {(c["arm"], c["seed"]): (c["value"], c["model"]) for c in cells if c["epsilon"] is None}
    assert [row["arm"] for row in json.loads(resumed.stdout)["rows"]] == [arm.name for arm in SMALL.arms()]
    assert not list(tmp_path.glob(f"{compare.SCRATCH}*"))


def test_the_verb_writes_table_record_and_plot(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = [
        "compare",
        "--data",
        "breast_cancer",
        "--clients",
        "6",
        "--partition",
        "iid",
        "--rounds",
        "1",
        "--seeds",
        "1",
    ]
    few += ["--sums", "plain", "--epsilon", "4,8"]
    assert run([*few, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["rows"]) == 12
    assert "excludes tuning" in record["warning"]
    folder = tmp_path / "compare" / "breast_cancer"
    table = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [line["arm"] for line in table] == [row["arm"] for row in record["rows"]]
    for name in ("comparison", "accuracy-over-epsilon", "accuracy-over-rounds", "costs"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.svg").read_bytes().startswith(b"<?xml")
    assert json.loads((folder / "comparison.json").read_text())["settings"]["clients"] == 6
    assert run(few) == 2
    capsys.readouterr()
    assert run([*few, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert "central DP 8" in shown
    assert "excludes tuning" in shown


OWN = """
rounds = 3
[data]
path = "stays.csv"
target = "days"
client = "ward"
schema = "schema.toml"
standardize = "public"
test_fraction = 0.3
[client]
steps = 20
learning_rate = 0.3
[privacy]
clip_norm = 5.0
"""
SCHEMA = """
target = "days"
task = "regression"
client = "ward"
[columns.age]
kind = "number"
low = 0
high = 120
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    ages = rng.uniform(0, 120, 400)
    days = 2 + ages / 60 + rng.normal(0, 0.1, 400)
    lines = [f"{'abcde'[at % 5]},{age:.1f},{day:.3f}" for at, (age, day) in enumerate(zip(ages, days, strict=True))]
    (tmp_path / "stays.csv").write_text("\n".join(["ward,age,days", *lines]) + "\n")
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "own.toml").write_text(OWN)
    return tmp_path / "own.toml"


def test_a_regression_on_a_table_of_one_s_own_is_compared(own, capsys):
    assert run(["compare", "own.toml", "--epsilon", "8", "--seeds", "2", "--sums", "plain", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["metric"] == "r2"
    assert "those of the configuration file" in record["tuning"]
    rows = {row["arm"]: row for row in record["rows"]}
    assert rows["FedAvg"]["clients"] == 5
    assert rows["FedAvg"]["value"] > 0.5
    assert rows["central DP 8"]["epsilon"] <= 8
    assert rows["central DP 8"]["value"] < rows["FedAvg"]["value"]
    assert (own.parent / "compare" / "stays" / "r2-over-epsilon.pdf").read_bytes().startswith(b"%PDF")
    few = ["compare", "own.toml", "--epsilon", "8", "--seeds", "1", "--sums", "plain"]
    assert run([*few, "--metric", "mae", "--to", "mae"]) == 0
    shown = capsys.readouterr().out
    assert "mae" in shown
    assert run([*few, "--metric", "auc", "--to", "auc"]) == 2
    assert "no metric auc here: choose among mae, mse, r2" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('= "public"', '= "exact"'), "some arms have: set 'public' or 'none'"),
        (("[client]", "[cohort]\nsampling = 'poisson'\nprobability = 0.5\n[client]"), "set 'everyone'"),
    ],
)
def test_a_file_that_rules_out_an_arm_is_refused(own, change, words, capsys):
    own.write_text(own.read_text().replace(*change))
    assert run(["compare", "own.toml"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_settings_of_the_file_are_changed_there(own, capsys):
    assert run(["compare", "own.toml", "--rounds", "2"]) == 2
    assert "--rounds is a setting of own.toml: change it there" in " ".join(capsys.readouterr().err.split())


def test_the_bundled_regression_is_compared_by_r2(tmp_path):
    comparison = Comparison("diabetes", 16, "iid", 4, (8.0,), 1, ("plain",))
    rows = {row.arm: row for row in summarize(comparison, list(run_comparison(comparison, tmp_path)))}
    assert rows["FedAvg"].value > 0.35
    assert rows["local only"].value < rows["FedAvg"].value
    assert "mean r2" in comparison.tuning


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "iris"], "knows the data sets"),
        (["--sums", "plain,magic"], "not 'magic'"),
        (["--epsilon", "a"], "--epsilon takes numbers"),
        (["--epsilon", "0"], "positive epsilons"),
    ],
)
def test_wrong_options_are_named(options, words, capsys):
    assert run(["compare", *options]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")
