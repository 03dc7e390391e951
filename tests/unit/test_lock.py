"""What stands in the place of a lock: each is a typed error that says what to do, and the folder stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privfl.cli.app import run as command
from privfl.errors import StateError
from privfl.experiment import Experiment
from privfl.lock import sole_writer


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def a_link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(("make", "found"), [(a_folder, "folder"), (a_link, "link"), (a_link_to_a_folder, "link")])
@pytest.mark.parametrize("wait", [False, True])
def test_a_lock_that_is_no_file(tmp_path: Path, make: object, found: str, wait: bool) -> None:
    path = tmp_path / "lock"
    make(path)  # type: ignore[operator]
    with pytest.raises(StateError, match=f"lock is a {found}, and a lock is a file .* remove the {found}"):  # noqa: SIM117
        with sole_writer(path, wait=wait):
            raise AssertionError("not reached")
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_a_lock_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "lock", tmp_path / "file" / "lock"):
        with pytest.raises(StateError, match=r"cannot be opened \(N.*make .* a folder"), sole_writer(path):
            raise AssertionError("not reached")


def test_a_lock_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as a user to whom nothing is denied
    with pytest.raises(StateError, match="Permission denied"), sole_writer(tmp_path / "lock"):
        raise AssertionError("not reached")


def test_a_run_whose_lock_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "r" / "lock").mkdir(parents=True)
    experiment = Experiment(name="r", runs=tmp_path / "runs", rounds=1, overrides={"client.steps": 1})
    with pytest.raises(StateError, match="lock is a folder"):
        experiment.run()
    Path("r.toml").write_text('name = "r"\nrounds = 1\n')
    assert command(["run", "r.toml", "--runs", "runs"]) == 2
    assert "lock is a folder" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "runs" / "r" / "lock").rmdir()
    experiment.run()


def test_holders_have_numbers_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for expected in (1, 2):
        with sole_writer(path) as lock:
            assert lock.turn() == expected
    with sole_writer(path):
        pass  # one that does not count
    path.write_bytes(b"\xff" * 8)
    with sole_writer(path) as lock:
        assert lock.turn() == 0


def test_a_holder_that_cannot_be_counted(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Unix limits the size of a file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with sole_writer(tmp_path / "lock") as lock:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as a full disk: no byte can be written
        try:
            with pytest.raises(StateError, match=r"lock cannot be written \(.*\): make room"):
                lock.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
