"""`privfl run` and `privfl runs`: the examples, overrides, resuming, and the model repository."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from privfl.cli.app import run
from privfl.data.registry import BUNDLED, NAMES
from privfl.experiment import load_config
from privfl.experiment.config import Config
from privfl.experiment.folder import Identity, RunFolder
from privfl.files import verify_chain

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
NAMED = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
QUICK = ["--set", "rounds=2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def example(name: str) -> str:
    return str(EXAMPLES / f"{name}.toml")


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_there_is_an_example_for_every_data_set_that_has_a_model():
    assert set(NAMED) == set(NAMES) - {"shakespeare"}


@pytest.mark.parametrize("name", NAMED)
def test_every_example_is_commented_and_loads(name):
    config = load_config(EXAMPLES / f"{name}.toml")
    assert config.data.name == config.name == name
    assert f"privfl run examples/{name}.toml" in (EXAMPLES / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_bundled_examples_run(name, capsys, tmp_path):
    assert run(["run", example(name), *QUICK, "--json"]) == 0
    result = said(capsys)
    assert result["rounds"] == 2
    assert result["evaluation"]
    assert (result["privacy"] is None) == (name != "breast_cancer")
    assert (tmp_path / "runs" / name / "config.toml").is_file()


@pytest.mark.parametrize("name", ["adult", "heart", "parkinsons"])
def test_folder_examples_run(name, capsys, data_folder):
    if name == "heart":
        pytest.importorskip("tenseal")
    assert run(["run", example(name), *QUICK, "--json", "--set", f"data.folder={data_folder}"]) == 0
    assert said(capsys)["rounds"] == 2


def test_diabetes_and_digits_learn(capsys):
    assert run(["run", example("diabetes"), "--set", "sum.scheme=plain", "--json"]) == 0
    assert said(capsys)["evaluation"]["r2"] > 0.3
    assert run(["run", example("digits"), "--set", "sum.scheme=plain", "--json"]) == 0
    assert said(capsys)["evaluation"]["accuracy"] > 0.85


def test_the_three_sums_give_one_model(capsys):
    pytest.importorskip("tenseal")
    models, bytes_up = {}, {}
    for scheme in ("plain", "masked", "ckks"):
        arguments = ["run", example("digits"), *QUICK, "--set", f"sum.scheme={scheme}", "--set", "cohort.dropout=0"]
        assert run([*arguments, "--runs", scheme, "--json"]) == 0
        result = said(capsys)
        assert result["sum"] == f"{scheme}-sum/1"
        assert (result["rounds"], result["skipped"], result["dropouts"]) == (2, 0, 0)
        models[scheme], bytes_up[scheme] = result["model"], result["bytes_up"]
        assert run(["runs", "show", f"{scheme}/digits", "--json"]) == 0
        assert said(capsys)["model"] == result["model"]
    assert len(models["plain"]) == 64
    assert set(models.values()) == {models["plain"]}
    assert len(set(bytes_up.values())) == 3, "three ways to the same model"


def test_a_run_with_encrypted_sums_prints_its_model(capsys):
    pytest.importorskip("tenseal")
    assert run(["run", example("digits"), *QUICK, "--set", "sum.scheme=ckks"]) == 0
    shown = capsys.readouterr().out
    assert "ckks-sum/1" in shown
    assert "share one session key" in " ".join(shown.replace("\u2502", " ").split())
    assert run(["runs", "show", "digits", "--json"]) == 0
    assert said(capsys)["model"][:16] in shown


def test_a_run_is_not_overwritten_and_resumes_to_the_same_model(capsys):
    plain = ["run", example("digits"), "--set", "sum.scheme=plain", "--json"]
    assert run([*plain, "--set", "rounds=3", "--runs", "whole"]) == 0
    whole = said(capsys)
    assert run([*plain, *QUICK]) == 0
    assert run([*plain, *QUICK]) == 2
    assert "resume" in capsys.readouterr().err
    assert run([*plain, "--set", "rounds=3", "--resume"]) == 0
    assert said(capsys)["model"] == whole["model"]


def test_resuming_with_other_settings_is_refused(capsys):
    assert run(["run", example("digits"), *QUICK, "--json"]) == 0
    assert run(["run", example("digits"), *QUICK, "--seed", "5", "--resume"]) == 2
    assert "other settings" in capsys.readouterr().err.replace("\n", " ")


def test_seed_changes_the_model(capsys):
    models = []
    for seed in ("1", "2"):
        assert run(["run", example("diabetes"), *QUICK, "--seed", seed, "--runs", seed, "--json"]) == 0
        models.append(said(capsys)["model"])
    assert models[0] != models[1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sum.scheme=magic", "'plain', 'masked', 'ckks'"),
        ("rounds=many", "rounds must be an integer"),
        ("rounds=0", "in [1, 999999]"),
        ("color=3", "unknown key 'color'"),
        ("nowhere.x=3", "unknown section 'nowhere'"),
        ("server.weighting=examples", "sensitivity"),
        ("privacy.clip_norm=none", "a finite number"),
    ],
)
def test_wrong_settings_name_the_key_and_what_is_allowed(override, words, capsys):
    assert run(["run", example("breast_cancer"), "--set", override]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_not_toml_is_one_sentence(tmp_path, capsys):
    (tmp_path / "x.toml").write_text("rounds = = 3")
    assert run(["run", "x.toml"]) == 2
    assert "is not TOML" in capsys.readouterr().err


def test_a_budget_stops_the_run_with_what_was_paid_for(capsys):
    arguments = ["run", example("breast_cancer"), "--set", "privacy.epsilon=4.5", "--set", "sum.scheme=plain"]
    assert run([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["rounds"] == 3  # 4.6455 after a fourth
    assert result["privacy"]["epsilon"] <= 4.5
    assert "budget" in captured.err
    assert "calibrate" in captured.err


def test_the_ledger_of_a_run_is_judged(capsys):
    assert run(["run", example("breast_cancer"), *QUICK, "--json"]) == 0
    spent = said(capsys)["privacy"]["epsilon"]
    ledger = Path("runs/breast_cancer/ledger.jsonl")
    assert list(verify_chain(ledger.read_bytes(), str(ledger)))
    assert run(["epsilon", "--ledger", str(ledger), "--delta", "1e-5", "--json"]) == 0
    assert said(capsys)["epsilon"] == spent
    assert run(["epsilon", "--ledger", str(ledger), "--plot", "x.png"]) == 0


def test_the_table_of_a_run(capsys):
    assert run(["run", example("breast_cancer"), *QUICK]) == 0
    captured = capsys.readouterr()
    assert "which means" in captured.out
    assert "round 2/2" in captured.err
    losing = ["--set", "cohort.min_survivor_fraction=1.0", "--set", "cohort.dropout=0.6"]
    assert run(["run", example("digits"), *QUICK, *losing]) == 0
    captured = capsys.readouterr()
    assert "skipped" in captured.out
    assert run(["runs", "list"]) == 0
    assert "digits" in capsys.readouterr().out


def test_the_repository_lists_shows_and_exports(capsys, tmp_path):
    assert run(["runs", "list", "--json"]) == 0
    assert said(capsys) == {"runs": []}
    assert run(["run", example("diabetes"), *QUICK, "--json"]) == 0
    result = said(capsys)
    assert run(["runs", "list", "--json"]) == 0
    (listed,) = said(capsys)["runs"]
    assert (listed["name"], listed["round"], listed["model"]) == ("diabetes", 2, result["model"])
    assert run(["runs", "show", "diabetes", "--json"]) == 0
    latest = said(capsys)
    assert run(["runs", "show", "runs/diabetes", "--round", "1", "--json"]) == 0
    assert latest["parent"] == said(capsys)["model"]
    assert run(["runs", "show", "diabetes"]) == 0
    assert result["model"][:16] in capsys.readouterr().out
    assert run(["runs", "export", "diabetes", "out/model.safetensors"]) == 2
    assert not (tmp_path / "out").exists()  # a path that is mistyped leaves no folder behind
    (tmp_path / "out").mkdir()
    assert run(["runs", "export", "diabetes", "out/model.safetensors"]) == 0
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert list(tensors) == ["model"]
    assert len(tensors["model"]) == latest["parameters"]
    assert np.isfinite(tensors["model"]).all()
    capsys.readouterr()
    assert run(["runs", "export", "diabetes", "out/model.safetensors"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["runs", "export", "diabetes", "b.safetensors", "--round", "9", "--json"]) == 2
    assert run(["runs", "export", "diabetes", "b.safetensors", "--round", "0", "--json"]) == 0


def test_a_run_without_a_model_says_so(capsys, tmp_path):
    (tmp_path / "runs").mkdir()
    with RunFolder(tmp_path / "runs" / "empty").writing(Config(), Identity("00" * 32, 10), resume=False):
        pass
    assert run(["runs", "show", "empty"]) == 2
    assert "no model yet" in capsys.readouterr().err
    assert run(["runs", "list", "--json"]) == 0
    assert said(capsys)["runs"][0]["round"] == 0
    (tmp_path / "runs" / "empty" / "metrics.jsonl").write_text("{}\n")  # a copy, which is not read
    assert run(["runs", "list"]) == 0
    (tmp_path / "runs" / "empty" / "models").mkdir()
    (tmp_path / "runs" / "empty" / "models" / "000001.safetensors").write_bytes(b"nothing")
    assert run(["runs", "list"]) == 2
    assert "is not a model" in capsys.readouterr().err.replace("\n", " ")


def test_paths_of_options_may_start_with_a_tilde(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    toml = tmp_path / "home" / "mine.toml"
    toml.parent.mkdir()
    toml.write_text('name = "mine"\nrounds = 1\n[data]\nname = "breast_cancer"\n')
    assert run(["run", "~/mine.toml", "--runs", "~/runs", "--json"]) == 0
    assert run(["runs", "list", "--runs=~/runs", "--json"]) == 0
    assert run(["runs", "export", "mine", "~/mine.safetensors", "--runs", "~/runs", "--json"]) == 0
    assert run(["runs", "publish", "~/runs/mine", "~/public", "--json"]) == 0
    assert run(["report", "mine", "--runs", "~/runs", "--to", "~/mine.html", "--json"]) == 0
    plot = ["--noise-multiplier", "2", "--rounds", "3", "--plot", "~/epsilon.png", "--json"]
    assert run(["epsilon", *plot]) == 0
    assert {path.name for path in toml.parent.iterdir() if path.name[0] != "."} == {
        "mine.toml", "runs", "mine.safetensors", "public", "mine.html", "epsilon.png"
    }  # fmt: skip
    assert not (tmp_path / "~").exists()
    assert run(["run", "~nobody-of-this-name/mine.toml"]) == 2
    assert "no such home folder" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "SVG"])
def test_a_plot_is_of_the_kind_that_its_name_says(kind, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    arguments = ["epsilon", "--sampling", "everyone", "--noise-multiplier", "4", "--rounds", "2"]
    assert run([*arguments, "--plot", f"x.{kind}"]) == 0
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind.lower()]
    assert (tmp_path / f"x.{kind}").read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["x.jpg", "x", "nowhere/x.png"])
@pytest.mark.parametrize(
    "arguments",
    [["epsilon", "--sampling", "everyone", "--noise-multiplier", "4", "--rounds", "2"], ["demo"]],
)
def test_a_plot_of_another_kind_or_without_a_folder_is_refused_first(arguments, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run([*arguments, "--plot", name]) == 2
    captured = capsys.readouterr()
    assert name in captured.err.replace("\n", " ")
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_a_folder_of_runs_that_does_not_exist_is_an_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["runs", "list", "--runs", "typo"]) == 2
    assert "--runs FOLDER" in capsys.readouterr().err
    assert run(["runs", "list", "--json"]) == 0  # the default: nothing was run here yet
    assert json.loads(capsys.readouterr().out) == {"runs": []}


@pytest.mark.parametrize("option", ["--runs", "--to"])
def test_a_wrong_path_makes_no_folder(option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("rounds = 1\n")
    verb = ["run", "x.toml"] if option == "--runs" else ["compare", "--data", "breast_cancer"]
    assert run([*verb, option, "typo/deeper/x"]) == 2
    assert "typo/deeper" in capsys.readouterr().err.replace("\n", "")
    assert not (tmp_path / "typo").exists()


def test_rounds_are_lines_where_there_is_no_terminal_and_survive_a_sigterm(tmp_path):
    (tmp_path / "x.toml").write_text("rounds = 100000\nevaluate_every = 1\n")
    command = [sys.executable, "-m", "privfl", "run", "x.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(3)]  # they come while it runs
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 143
    assert [line.split("  ")[0] for line in lines] == [f"round {k}/100000" for k in (1, 2, 3)]
    assert all("accuracy" in line for line in lines)
    assert "terminated; rounds that were finished are kept" in rest
    assert "Traceback" not in rest
    done = subprocess.run(
        [*command, "--set", "rounds=4", "--resume"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr  # the lock is free


@pytest.mark.parametrize("quiet", [["--json"], []])
def test_lines_go_to_the_standard_error_only(quiet, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("rounds = 2\n")
    assert run(["run", "x.toml", *quiet]) == 0
    captured = capfd.readouterr()
    assert "round 1/2" not in captured.out
    assert captured.err.count("round ") == (0 if quiet else 2)
