"""`privfl audit`: configurations and runs, exit codes, the plot and the JSON."""

import json
from pathlib import Path

import pytest
from audits import FAULTS

from privfl.cli.app import run
from privfl.cli.audit import REFUTED

CONFIG = """
name = "small"
rounds = 2
[data]
name = "breast_cancer"
clients = 6
standardize = "public"
[privacy]
placement = "central"
clip_norm = 1.0
noise_multiplier = 1.0
delta = 1e-5
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def test_a_configuration_is_audited(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(config), "--trials", "400", "--plot", "audit.png", "--check", "2"]) == 0
    shown = capsys.readouterr()
    assert "<= epsilon <= 6.57" in shown.out
    assert "2 trials, equal to the last bit" in shown.out
    assert "audit 100 %" in shown.err
    assert Path("audit.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_is_audited_by_its_ledger(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(config)]) == 0
    capsys.readouterr()
    arguments = ["--trials", "400", "--json", "--check", "0", "--observer", "participant", "--confidence", "0.9"]
    assert run(["audit", "small", *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert not record["refuted"]
    assert record["audited"] == "small"
    assert record["rounds"] == 2
    assert record["stated"]["observer"] == "participant"
    assert record["lower"]["epsilon"] < record["stated"]["epsilon"]
    assert record["confidence"] == pytest.approx(0.9)
    assert len(record["bounds"]) == 3
    assert run(["audit", "small", "--set", "rounds=3"]) == 2


def test_a_refuted_epsilon_gives_three_and_says_so_loudly(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "noise scaled by 0.9")
    with fault.patch():
        assert run(["audit", str(config), "--set", "rounds=6", "--trials", "10000", "--check", "0"]) == REFUTED
    assert "THE STATED EPSILON IS REFUTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--observer", "server"], "there is no epsilon to audit"),
        (["--observer", "key_holder"], "there is no key holder"),
        (["--set", "privacy.placement=none", "--set", "privacy.noise_multiplier=none"], "privacy"),
        (["--trials", "10"], "20"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(config), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_noise_has_nothing_to_audit(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG[: CONFIG.index("[privacy]")])
    assert run(["run", str(config)]) == 0
    assert run(["audit", "small"]) == 2
    assert "keeps no ledger" in capsys.readouterr().err
