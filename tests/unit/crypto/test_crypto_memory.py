"""What an identity took part in is remembered: across threads, processes and restarts, and never forgotten for room."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from privfl.crypto import Credentials, TasksInFolder, TasksInMemory, load_credentials, save_credentials
from privfl.errors import ConfigError, PlanRejected

TASKS = [bytes([i]) * 32 for i in range(5)]


@pytest.fixture(params=["memory", "folder"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return TasksInMemory
    return lambda *capacity: TasksInFolder(tmp_path / "tasks", *capacity)


def test_a_task_begins_once(make: Any) -> None:
    memory = make()
    for task in TASKS:
        memory.begin(task)
    for task in TASKS:
        with pytest.raises(PlanRejected, match="taken part in this task before"):
            memory.begin(task)


def test_a_full_memory_forgets_nothing_and_takes_nothing(make: Any) -> None:
    memory = make(3)
    for task in TASKS[:3]:
        memory.begin(task)
    for task in TASKS[3:]:
        with pytest.raises(PlanRejected, match="3 tasks were begun, and this memory holds 3"):
            memory.begin(task)
    with pytest.raises(PlanRejected, match="before"):
        memory.begin(TASKS[0])


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_memory_that_holds_nothing(make: Any, capacity: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1 task, not {capacity}"):
        make(capacity)


def test_of_many_threads_one_begins(make: Any) -> None:
    memory = make()

    def begin(task: bytes) -> int:
        try:
            memory.begin(task)
        except PlanRejected:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        for task in TASKS:
            assert sum(pool.map(begin, [task] * 40)) == 1


def test_memory_counts(tmp_path: Path) -> None:
    memory = TasksInMemory()
    assert len(memory) == 0
    memory.begin(TASKS[0])
    assert len(memory) == 1


def test_a_folder_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    """Another process notes a task and is gone the moment after."""
    code = (
        "import os, pathlib, sys; from privfl.crypto import TasksInFolder\n"
        "TasksInFolder(pathlib.Path(sys.argv[1])).begin(bytes([1]) * 32); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tasks")], check=False)
    assert done.returncode == -9
    memory = TasksInFolder(tmp_path / "tasks")
    with pytest.raises(PlanRejected):
        memory.begin(TASKS[1])
    memory.begin(TASKS[2])
    with pytest.raises(PlanRejected):
        TasksInFolder(tmp_path / "tasks").begin(TASKS[2])
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == sorted(t.hex() for t in TASKS[1:3])


@pytest.mark.parametrize("name", [b"", b"../../elsewhere", bytes(31), bytes(33)])
def test_names_that_are_no_digests(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        TasksInFolder(tmp_path).begin(name)


def test_a_task_that_cannot_be_noted_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text("a file stands where the folder should be")
    with pytest.raises(OSError, match="tasks"):
        TasksInFolder(tmp_path / "tasks").begin(TASKS[0])


def test_credentials_remember_by_themselves(tmp_path: Path) -> None:
    """In memory when they are made, beside their file when they come from one."""
    own = Credentials.generate(3)
    own.tasks.begin(TASKS[0])
    with pytest.raises(PlanRejected):
        own.tasks.begin(TASKS[0])
    Credentials.generate(4).tasks.begin(TASKS[0])
    path = tmp_path / "client.json"
    save_credentials(path, own)
    load_credentials(path).tasks.begin(TASKS[0])
    assert (tmp_path / f"{own.signing.public.public.hex()[:16]}.tasks" / TASKS[0].hex()).exists()
    with pytest.raises(PlanRejected):
        load_credentials(path).tasks.begin(TASKS[0])
    assert load_credentials(path) == own  # what they remember is no part of who they are
