"""Every file of examples/ trains to its end, and what comes out is worth having."""

import json
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
