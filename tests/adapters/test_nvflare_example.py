"""The app in examples/nvflare: what its conversion changes, and both versions in NVFlare's simulator."""

import difflib
import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w

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
    paths = os.pathsep.join(map(str, (ROOT, APP / side, APP / "after")))
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


@pytest.mark.slow
def test_live_agents(tmp_path: Path) -> None:
    """Three agents train in processes of their own; the job carries bytes, and holds no script."""
    home = tmp_path / "h"
    variables = {"FEDERATION_HOME": str(home)}
    run("after", "make_sites.py", "3", **variables)
    names = [f"site-{number}" for number in (1, 2, 3)]
    for name in names:
        source = (APP / "agent" / "train.py").read_bytes()
        (home / name / "train.py").write_bytes(source)
        policy = tomllib.loads((home / name / "policy.toml").read_text())
        policy["training"]["sha256"] = hashlib.sha256(source).hexdigest()
        (home / name / "policy.toml").write_text(tomli_w.dumps(policy))
    agents = {name: serve(home / name) for name in names}
    try:
        run("agent", "job.py", "--workspace", str(tmp_path / "w"), **variables)
    finally:
        for agent in agents.values():
            agent.terminate()
            agent.wait()
    folder = RunFolder(home / "run")
    assert [report.survivors for report in folder.reports()] == [3] * 3
    np.testing.assert_array_equal(folder.store.latest().model, np.arange(1, 10) + 3)
    assert [report.metrics for report in folder.reports()] == [{"weight_mean": mean} for mean in (6.0, 7.0, 8.0)]
    assert list(folder.sites.values()) == [("agent",)] * 3


def serve(site: Path) -> subprocess.Popen[bytes]:
    """Start a site's agent, and wait until it serves."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "privfl", "site", "serve", str(site)], env=environment)
    end = time.monotonic() + 60
    while not (site / "agent" / "agent.sock").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return process
