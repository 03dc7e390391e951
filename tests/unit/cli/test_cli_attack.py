"""`privfl attack`: both kinds, the table, the picture, the JSON, and errors."""

import json
from pathlib import Path

import pytest

from privfl.cli.app import run
from privfl.cli.audit import REFUTED
from privfl.experiment.audit.noise import BulkNoise

CONFIG = """
name = "small"
[data]
name = "digits"
clients = 5
[client]
update = "gradient"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def test_an_inversion_shows_every_case_and_draws_the_images(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", "inversion", "--images", "2", "--epsilon", "3", "--plot", "images.png"]
    assert run(["attack", str(config), *arguments]) == 0
    shown = capsys.readouterr()
    for words in ("plain update", "masked sum", "epsilon 3", "no update", "2 of 2", "120.0 dB", "proves nothing"):
        assert words in shown.out
    assert "attack 100 %" in shown.err
    assert Path("images.png").read_bytes()[:4] == b"\x89PNG"


def test_a_membership_attack_shows_rates_and_bounds(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", "membership", "--trials", "30", "--examples", "1", "--epsilon", "1", "--plot", "rates.svg"]
    assert run(["attack", str(config), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "\u2026" not in shown  # nothing is cut at 80 columns
    for words in ("AUC / most", "plain update", "epsilon 1", "equal to the last bit", "proves nothing"):
        assert words in shown
    assert Path("rates.svg").read_text().startswith("<?xml")


def test_guesses_above_what_epsilon_allows_give_three(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BulkNoise.mesh
    monkeypatch.setattr(BulkNoise, "mesh", lambda *args: tuple(0 * part for part in whole(*args)))
    arguments = ["--kind", "membership", "--trials", "200", "--examples", "1", "--epsilon", "1", "--check", "0"]
    assert run(["attack", str(config), *arguments]) == REFUTED == 3
    assert "A STATED EPSILON IS REFUTED" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["membership", "inversion"])
def test_the_record_is_one_json_object(kind: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", kind, "--trials", "20", "--images", "1", "--examples", "1", "--epsilon", "8", "--json"]
    assert run(["attack", str(config), *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == kind
    assert [case["case"] for case in record["cases"]][:3] == ["plain update", "masked sum", "epsilon 8"]
    assert record["cases"][2]["epsilon"]["observer"] == "server"
    assert record["cases"][0]["epsilon"] is None
    assert record["assumptions"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kind", "membership", "--examples", "100000"], "lower --examples"),
        (["--kind", "inversion", "--epsilon", "0"], "--epsilon"),
        (["--kind", "membership", "--set", "client.algorithm=fedprox", "--set", "client.update=delta"], "fedavg"),
        ([], "--kind"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(
    arguments: list[str], words: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["attack", str(config), *arguments]) == 2
    assert words in capsys.readouterr().err
