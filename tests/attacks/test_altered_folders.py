"""Files of a run that were altered: no verb and no property reads a smaller epsilon from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privfl.cli.app import run as command
from privfl.errors import StateError
from privfl.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate

NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(3), 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    experiment = Experiment(
        train=still, initial=np.zeros(3), clients=5, runs=tmp_path, name="r", overrides=NOISE | {"rounds": 2}
    )
    experiment.run()
    return experiment.folder


def shrunk(data: bytes) -> bytes:
    return re.sub(rb'"epsilon":[0-9.]+', b'"epsilon":0.001', data)


@pytest.mark.parametrize("alter", [shrunk, lambda data: b"", lambda data: b"null\n", lambda data: data[:40]])
def test_the_copy_of_the_reports_is_not_believed(
    folder: Path, alter: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    files = RunFolder(folder)
    truth, figures = files.epsilon(), [report.epsilon for report in files.reports()]
    assert truth is not None
    assert figures[-1] == truth.epsilon
    (folder / "metrics.jsonl").write_bytes(alter((folder / "metrics.jsonl").read_bytes()))
    assert [report.epsilon for report in files.reports()] == figures
    assert command(["runs", "list", "--runs", str(folder.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["epsilon"] == truth.epsilon
    page = folder.parent / "r.html"
    assert command(["report", "r", "--runs", str(folder.parent), "--to", str(page)]) == 0
    assert "0.001" not in page.read_text()


def test_a_report_that_was_altered_next_to_its_model_is_refused(folder: Path) -> None:
    path = folder / "models" / "000002.safetensors"
    data = path.read_bytes()
    for old in (rb"\"epsilon\":", rb"\"cohort\":5", rb"\"status\":\"trained\""):
        assert data.count(old) == 1
        at = data.index(old) + len(old) - 1
        path.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])
        with pytest.raises(StateError):
            RunFolder(folder).reports()
    for damaged in (b"", b"\xff" * 100, b"\xff" * 8 + b"{}", data[:200]):
        path.write_bytes(damaged)
        with pytest.raises(StateError):
            RunFolder(folder).reports()
    path.write_bytes(data)
    assert len(RunFolder(folder).reports()) == 2


def test_a_configuration_that_denies_the_noise_is_refused(folder: Path) -> None:
    """Without noise there is no statement, and whoever asks would take the run for one that never claimed any."""
    path = folder / "config.toml"
    path.write_text(path.read_text().replace('placement = "central"', 'placement = "none"'))
    with pytest.raises(StateError, match="there is a ledger"):
        RunFolder(folder).epsilon()
    with pytest.raises(StateError, match="there is a ledger"):
        RunFolder(folder).epsilons()
    assert command(["report", "r", "--runs", str(folder.parent), "--to", str(folder.parent / "r.html")]) == 2


def test_a_ledger_that_is_a_folder_is_no_ledger(folder: Path) -> None:
    (folder / "ledger.jsonl").unlink()
    (folder / "ledger.jsonl").mkdir()
    with pytest.raises(StateError, match="there is no ledger here"):
        RunFolder(folder).epsilon()
