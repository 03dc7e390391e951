"""The app in examples/nvflare: what its conversion changes, and both versions in NVFlare's simulator."""

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="run in the environment of `make nvflare`, which installs nvflare")

from privfl.experiment.folder import RunFolder

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "nvflare"
MAX_CHANGED = 10


def difference(name: str) -> Iterator[str]:
    texts = [(APP / side / name).read_text().splitlines() for side in ("before", "after")]
    for line in difflib.unified_diff(*texts, n=0, lineterm=""):
        if line[0] in "+-" and line[1:3] not in ("++", "--"):
            yield line


def test_the_app_is_converted_in_ten_lines_and_its_client_script_stays() -> None:
    assert list(difference("client.py")) == []
    lines = [line for line in difference("job.py") if line.strip("+- ")]
    added, removed = ([line for line in lines if line[0] == sign] for sign in "+-")
    assert 0 < max(len(added), len(removed)) <= MAX_CHANGED


def test_the_readme_shows_the_difference() -> None:
    readme = (APP / "README.md").read_text()
    assert all(line in readme for line in difference("job.py"))


def run(side: str, *command: str, **variables: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(APP / side)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=APP / side,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.slow
def test_both_give_the_same_model_in_nvflares_simulator(tmp_path: Path) -> None:
    run("before", "job.py", "--workspace", str(tmp_path / "plain"))
    (plain,) = (tmp_path / "plain").rglob("server.npy")
    home = {"FEDERATION_HOME": str(tmp_path / "home")}
    run("after", "make_sites.py", "3", **home)
    run("after", "job.py", "--workspace", str(tmp_path / "secure"), **home)
    folder = RunFolder(tmp_path / "home" / "run")
    np.testing.assert_array_equal(folder.store.latest().model, np.load(plain).ravel())
    assert [report.metrics for report in folder.reports()] == [{"weight_mean": mean} for mean in (6.0, 7.0, 8.0)]
    steps = [json.loads(line) for line in (tmp_path / "home" / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["answers"] for step in steps] == [3] * 15
    for number in (1, 2, 3):
        assert '"event":"refused"' not in (tmp_path / "home" / f"site-{number}" / "log.jsonl").read_text()
