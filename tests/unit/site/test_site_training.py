"""Training in a child: pinned by hash, limited in time, and never outliving the agent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.errors import ClientFailed, ConfigError, StateError
from privfl.fl.client import ClientUpdate, client_rng
from privfl.site.installed import file_hash, installed_training
from privfl.site.policy import Training
from privfl.site.training import ChildTraining

SOURCE = """
from privfl.fl import ClientUpdate
def make(data):
    text = data.read_text()
    def train(model, client, round, rng):
        return ClientUpdate(model + rng.random(len(model)), len(text), {"loss": float("nan")})
    return train
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SOURCE)
    (tmp_path / "data").write_text("three")
    return tmp_path


def pinned(folder: Path, **changes: Any) -> Training:
    return Training(sha256=file_hash(folder, Training()), **changes)


def test_only_the_file_of_the_pinned_hash_is_run(folder: Path) -> None:
    training = pinned(folder)
    rng = np.random.default_rng(1)
    assert installed_training(folder, training).train(np.zeros(2), 0, 1, rng).examples == 5
    (folder / "train.py").write_text(SOURCE + "raise SystemExit\n")
    with pytest.raises(StateError, match=r"training\.sha256 is"):
        installed_training(folder, training)
    for entry, match in (("none.py:make", "cannot be read"), ("train.py", "a colon"), ("train:make", "a Python file")):
        with pytest.raises(ConfigError, match=match):
            file_hash(folder, Training(entry=entry))
    (folder / "train.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match="no function other"):
        installed_training(folder, pinned(folder, entry="train.py:other"))


def test_a_child_gives_the_same_update_and_leaves_the_same_randomness(folder: Path) -> None:
    local, rng = installed_training(folder, pinned(folder)).train, client_rng(7, 1, 3)
    expected = local(np.ones(3), 3, 1, rng)
    child, other = ChildTraining(lambda: installed_training(folder, pinned(folder))), client_rng(7, 1, 3)
    try:
        update = child(np.ones(3), 3, 1, other)
    finally:
        child.close()
    np.testing.assert_array_equal(update.delta, expected.delta)
    assert (update.examples, np.isnan(update.metrics["loss"])) == (5, True)
    assert rng.random() == other.random()


def test_errors_and_late_replies_cost_their_own_round_alone() -> None:
    def make() -> Any:
        def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
            if round == 1:
                raise ValueError("in the child")
            if round == 2:
                time.sleep(0.6)
            return ClientUpdate(np.full(2, float(round)), round)

        return train

    child, rng = ChildTraining(make, seconds=0.4), np.random.default_rng(0)
    try:
        with pytest.raises(ClientFailed, match="in the child"):
            child(np.zeros(2), 0, 1, rng)
        with pytest.raises(ClientFailed, match="longer than"):
            child(np.zeros(2), 0, 2, rng)
        time.sleep(0.4)
        assert child(np.zeros(2), 0, 3, rng).examples == 3  # and not the late reply of round 2
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ClientFailed, match="has died"):
            child(np.zeros(2), 0, 4, rng)
        child._process.join(10)
        assert not child.alive
    finally:
        child.close()


def test_the_child_dies_with_its_agent(gone: Callable[[int], bool]) -> None:
    script = (
        "import time; from privfl.site.training import ChildTraining\n"
        "t = ChildTraining(lambda: None)\n"
        "print(t.pid, flush=True); time.sleep(60)"
    )
    agent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    child = int(agent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    agent.kill()
    agent.wait()
    agent.stdout.close()
    assert gone(child)
