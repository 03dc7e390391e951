"""`privfl compare`: every arm, its table and files, and going on after an interruption."""

import csv
import json
import math
from dataclasses import replace

import pytest

from privfl.cli.app import run
from privfl.errors import ConfigError, StateError
from privfl.experiment import compare
from privfl.experiment.compare import Comparison, run_comparison, summarize

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


def test_epsilons_are_claimed_where_noise_is_and_only_there(place):
    rows = {row.arm: row for row in summarize(SMALL, place[1])}
    assert rows["FedAvg"].epsilon is None
    assert rows["central DP 8"].epsilon == pytest.approx(8.0, abs=0.01)
    assert rows["central DP 8"].epsilon <= 8
    assert rows["central DP 8"].server_epsilon is None  # infinite: it sees vectors without noise
    assert math.isfinite(rows["local DP, noise of 8"].server_epsilon)
    assert math.isfinite(rows["distributed DP, noise of 8"].server_epsilon)


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
    monkeypatch.setattr(
        compare, "_run", lambda config, arm, *rest: ran.append(arm.name) or original(config, arm, *rest)
    )
    again = list(run_comparison(SMALL, tmp_path, resume=True))
    assert ran == ["masked sum"]  # sums are measured in this process, and nothing else was missing
    assert not list(tmp_path.glob(f"{compare.SCRATCH}*"))
    assert [cell.model for cell in again] == [cell.model for cell in cells]
    with pytest.raises(StateError, match="other settings"):
        next(run_comparison(replace(SMALL, rounds=3), tmp_path, resume=True))
    (tmp_path / compare.RESULTS).write_text('{"a": 1}\n{"arm": 2}\n')
    with pytest.raises(StateError, match="does not hold"):
        next(run_comparison(SMALL, tmp_path, resume=True))


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
    assert len(record["rows"]) == 8
    assert "excludes tuning" in record["warning"]
    folder = tmp_path / "compare" / "breast_cancer"
    table = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [line["arm"] for line in table] == [row["arm"] for row in record["rows"]]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "comparison.json").read_text())["settings"]["clients"] == 6
    assert run(few) == 2
    capsys.readouterr()
    assert run([*few, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert "central DP 8" in shown
    assert "excludes tuning" in shown


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
