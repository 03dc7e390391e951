"""Every file of examples/ trains to its end, and what comes out is worth having."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from privfl.cli.app import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Of each: a measure, and what it reaches at least on any machine, whatever the noise.
REACHED = {
    "breast_cancer": ("accuracy", 0.92),
    "parkinsons": ("r2", 0.14),
    "digits": ("accuracy", 0.93),
    "adult": ("accuracy", 0.80),
    "diabetes": ("r2", 0.40),
    "heart": ("accuracy", 0.66),
    "mnist": ("accuracy", 0.965),
}


def test_no_example_is_left_out() -> None:
    assert set(REACHED) == {path.stem for path in EXAMPLES.glob("*.toml")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", REACHED)
def test_the_example_reaches(name: str, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"data.folder={data_folder}"
    assert run(["run", str(EXAMPLES / f"{name}.toml"), "--json", "--runs", str(tmp_path), "--set", folder]) == 0
    result = json.loads(capsys.readouterr().out)
    measure, least = REACHED[name]
    assert result["skipped"] == 0
    assert result["evaluation"][measure] >= least


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["label_skew", "next_character"])
def test_the_script_trains_and_draws(name: str, data_folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(data_folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = [float(figure) for figure in re.findall(r"\b0\.\d{3}\b", done.stdout)]
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    if name == "label_skew":
        fedavg, scaffold = figures
        assert scaffold > max(0.88, fedavg)
    else:
        assert figures[2] > max(0.35, figures[0])  # after 40 rounds, and after 20
