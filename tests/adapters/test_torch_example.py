"""The example of a torch model of one's own runs, and learns."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "examples" / "torch_model.py"
    said = runpy.run_path(str(path))
    assert said["report"].evaluation["accuracy"] > 0.7
    assert not said["trained"].training
    assert len(capsys.readouterr().out.splitlines()) == 5
    code = [line for line in path.read_text().splitlines()[1:] if line.strip()]
    assert len(code) <= 15
