"""Rollback: a restored folder neither refunds epsilon nor forgets a task, and takes up the receipts that it lost."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sites import Federation, a_federation, log_of

from privfl.dp import Mechanism
from privfl.errors import RemoteProtocolError, StateError
from privfl.fl.frames import REFUSAL, model_to_bytes
from privfl.site import Site
from privfl.site.home import BEHIND, SiteHome
from privfl.site.reconcile import read_receipts, reconcile


class Folder:
    """One site of a federation whose folder is copied, restored and opened at will."""

    def __init__(self, trial: Federation, copies: Path) -> None:
        self.trial, self.copies, self.count = trial, copies, 0
        self.client = min(trial.homes)
        self.home = trial.homes[self.client]
        self.site: Site = trial.site(self.client)

    def backup(self) -> Path:
        self.count += 1
        copy = self.copies / str(self.count)
        self.site.close()
        shutil.copytree(self.home.folder, copy)
        self.site = self.trial.site(self.client)
        return copy

    def restore(self, copy: Path) -> None:
        self.trial.clock.now += 1
        self.site.close()
        shutil.rmtree(self.home.folder)
        shutil.copytree(copy, self.home.folder)
        self.site = self.trial.site(self.client)

    def reconcile(self) -> int:
        self.site.close()
        taken = reconcile(SiteHome(self.home.folder), self.trial.all_receipts, self.trial.clock.now)
        self.site = self.trial.site(self.client)
        return len(taken)

    def lasting(self, round: int) -> tuple[bytes, bytes]:
        """A frame of step 0 that is valid for most of a day, and the model."""
        trial = self.trial
        trial.clock.now += 1
        plan = trial.plan(round)
        later = int(trial.clock.now) + 80_000
        return trial.down(self.client, plan, 0, trial.invitation(plan), expires=later), model_to_bytes(trial.model)

    def enter(self, round: int) -> bool:
        """Ask for a round; False where the site refuses."""
        self.trial.clock.now += 1
        frame, model = self.trial.first(self.client, self.trial.plan(round))
        try:
            self.trial.read(self.client, frame, self.site.answer(frame, model))
        except RemoteProtocolError:
            return False
        return True


def made_in(path: Path) -> Folder:
    """A site, and a folder for its copies."""
    (path / "copies").mkdir()
    return Folder(a_federation(path, rounds=2000, policy="epsilon = 1e6\nmax_rounds = 2000"), path / "copies")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return made_in(tmp_path)


def test_a_restored_backup_refuses_until_it_took_up_every_receipt(folder: Folder, tmp_path: Path) -> None:
    trial = folder.trial
    assert folder.enter(1)
    copy = folder.backup()
    assert folder.enter(2)
    assert folder.enter(3)
    spent = folder.site.spent()
    folder.restore(copy)
    assert folder.site.spent() < spent  # what a rollback would refund
    assert not folder.enter(4)
    assert "rolled back" in log_of(folder.home)
    trial.receipts.clear()
    assert not folder.enter(5)  # and a server that stops to show it does not help
    folder.site.close()
    with pytest.raises(StateError, match="one that is missing"):
        reconcile(folder.home, trial.all_receipts[-1:], trial.clock.now)
    lines = tmp_path / "receipts.jsonl"
    lines.write_bytes(b"".join(receipt.to_bytes() + b"\n" for receipt in trial.all_receipts))
    assert len(reconcile(folder.home, read_receipts([lines]), trial.clock.now)) == 2
    assert not (folder.home / BEHIND).exists()
    folder.site = trial.site(folder.client)
    assert folder.site.spent() >= spent
    assert not folder.enter(3)  # it was entered before the rollback
    assert folder.enter(4)
    lines.write_bytes(b"{}\n")
    with pytest.raises(StateError, match="line 1"):
        read_receipts([lines])


def test_a_fork_is_refused_and_both_branches_count(folder: Folder) -> None:
    """The server shows nothing, so a restored site signs another history; both are charged once they are shown."""
    assert folder.enter(1)
    copy = folder.backup()
    assert folder.enter(2)
    folder.restore(copy)
    shown = dict(folder.trial.receipts)
    folder.trial.receipts.clear()
    assert folder.enter(3)
    folder.trial.receipts = shown
    assert not folder.enter(4)
    before = folder.site.spent()
    assert folder.reconcile() == 1
    assert folder.site.spent() > before
    folder.trial.receipts.clear()
    assert folder.enter(4)


def random_restores(folder: Folder, restores: int, seed: int) -> None:
    rng, trial = random.Random(seed), folder.trial
    copies, entered, round, most = [folder.backup()], [], 0, 0.0
    frames: list[tuple[int, bytes, bytes]] = []
    done = 0
    while done < restores:
        action = rng.choice(("enter", "enter", "backup", "restore", "replay"))
        if action == "enter":
            round += 1
            frame, model = folder.lasting(round)
            answer = folder.site.answer(frame, model)
            if answer == REFUSAL:
                folder.reconcile()
                frame, model = folder.lasting(round)
                answer = folder.site.answer(frame, model)
            assert answer != REFUSAL, log_of(folder.home)[-2000:]  # it is never locked out
            trial.read(folder.client, frame, answer)
            entered.append(round)
            frames.append((round, frame, answer))
            spent = folder.site.spent()
            assert spent >= most
            most = spent
        elif action == "backup":
            for old in copies[:-4]:
                shutil.rmtree(old)
            copies = [*copies[-4:], folder.backup()]
        elif action == "restore":
            folder.restore(rng.choice(copies))
            done += 1
        elif frames:  # a task that was entered before, in the frame of then or in a new one
            which, frame, first_answer = rng.choice(frames)
            again = folder.site.answer(frame, model_to_bytes(trial.model))
            assert again in (REFUSAL, first_answer)
            fresh = folder.site.answer(*folder.lasting(which))
            assert fresh == REFUSAL
            if (folder.home / BEHIND).exists():
                folder.reconcile()
    assert len(entered) == len(set(entered))


def test_random_restores_never_lower_epsilon_or_enter_a_task_twice(folder: Folder) -> None:
    random_restores(folder, 12, seed=1)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: the test copies and syncs a million files."""
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_restores_never_lower_epsilon_or_enter_a_task_twice(in_memory: Path) -> None:
    random_restores(made_in(in_memory), 500, seed=2)


def test_a_copied_folder_reads_no_frame_of_before_and_ends_open_rounds(folder: Folder) -> None:
    """A relay may replay what the server sent before the backup was restored: it verifies, and is not read."""
    copy = folder.backup()
    frame, model = folder.lasting(1)
    assert folder.site.answer(frame, model) != REFUSAL
    restart = folder.site.answer(frame, model)
    folder.site.close()
    folder.site = folder.trial.site(folder.client)
    assert folder.site.answer(frame, model) == restart  # a restart in place changes nothing
    middle = folder.backup()
    folder.restore(copy)
    assert folder.site.answer(frame, model) == REFUSAL
    assert "older than the last start" in log_of(folder.home)
    folder.restore(middle)
    assert folder.site.answer(frame, model) == REFUSAL  # the round that was open in the copy is over
    assert folder.enter(2)


def test_a_round_that_was_taken_up_is_not_entered_again_without_a_ledger_either(tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    free = 'placements = ["none"]\nunlimited = true'
    folder = Folder(a_federation(tmp_path, mechanism=Mechanism("none"), policy=free), tmp_path / "copies")
    copy = folder.backup()
    assert folder.enter(1)
    middle = folder.backup()
    folder.restore(copy)
    assert not folder.enter(1)
    assert folder.reconcile() == 1
    assert not folder.enter(1)
    folder.restore(middle)
    shutil.rmtree(next(folder.home.folder.glob("*.tasks")))  # as if the copy was made before the task was noted
    assert not folder.enter(1)
    assert folder.enter(2)
