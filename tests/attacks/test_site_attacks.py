"""A site under attack: foreign and broken frames, frames at the edge of their time, kills, and a disk that is full."""

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import Federation, a_federation, log_of, train

from privfl.errors import PrivflError, StateError
from privfl.fl.frames import REFUSAL
from privfl.site.record import RoundRecord
from privfl.wire import ClientId

resource = pytest.importorskip("resource", reason="Unix limits the size of a file")

MAX_AHEAD = 86400
NOBODY = 65534


@pytest.fixture
def trial(tmp_path: Path) -> Federation:
    return a_federation(tmp_path)


@contextlib.contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """No file may grow beyond a size: a write fails as on a full disk, at a place that the size chooses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a site apart from its log and its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("log.jsonl", "lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_broken_and_foreign_frames_change_nothing_at_a_site(trial: Federation) -> None:
    me, *others = sorted(trial.homes)
    frame, model = trial.first(me)
    strange = trial.first(others[0])[0]  # a frame for another site, as a relay of both may mix them up
    draws = random.Random(0)
    with trial.site(me) as site:
        before = content(trial.homes[me].folder)
        for _ in range(400):
            broken = bytearray(draws.choice((frame, strange)))
            kind, at = draws.randrange(4), draws.randrange(len(broken))
            if kind == 0:
                broken[at] ^= 1 << draws.randrange(8)
            elif kind == 1:
                del broken[at:]
            elif kind == 2:
                broken[at:at] = draws.randbytes(draws.randrange(1, 90))
            else:
                broken[at:] = strange[at:] if broken[: len(frame)] == frame else frame[at:]
            if bytes(broken) not in (frame, strange):
                assert site.answer(bytes(broken), model) == REFUSAL
                assert not site.is_known(bytes(broken))
        assert site.answer(frame, model[:-8]) == REFUSAL
        assert site.answer(frame, model + bytes(8)) == REFUSAL
        assert site.answer(strange, model) == REFUSAL
        assert content(trial.homes[me].folder) == before
        assert site.answer(frame, model) != REFUSAL


@pytest.mark.parametrize(("ahead", "is_taken"), [(-1, False), (0, True), (MAX_AHEAD, True), (MAX_AHEAD + 1, False)])
def test_a_frame_counts_until_the_second_in_which_it_expires(trial: Federation, ahead: int, is_taken: bool) -> None:
    me, plan = min(trial.homes), trial.plan()
    frame = trial.down(me, plan, 0, trial.invitation(plan), expires=int(trial.clock.now) + ahead)
    with trial.site(me) as site:
        assert (site.answer(frame, trial.first(me)[1]) != REFUSAL) is is_taken


@pytest.mark.parametrize("in_app", [False, True], ids=["agent", "in-app"])
@pytest.mark.parametrize("max_bytes", [0, 60, 700, 1500, 3000])
def test_a_disk_that_is_full_at_any_write_costs_no_round(trial: Federation, max_bytes: int, in_app: bool) -> None:
    """Each frame is first answered while files are limited in size, and then again."""
    sites = trial.sites()
    victim = min(sites)
    refused = 0

    def answer(frame: bytes, model: bytes) -> bytes:
        nonlocal refused
        with full_disk(max_bytes):
            early = sites[victim].answer(frame, model)
        refused += early == REFUSAL
        if in_app:
            sites[victim].leave()
            sites[victim] = trial.site(victim)
        late = sites[victim].answer(frame, model)
        assert early in (REFUSAL, late)
        return late

    answers = {client: site.answer for client, site in sites.items()} | {victim: answer}
    for round in (1, 2):
        assert trial.round(answers, round).outcome.survivors == set(sites)
    assert refused > 0
    sites[victim].close()
    with trial.site(victim) as again:  # from the disk
        places = [(receipt.round, receipt.kind) for receipt in again._memory.chain.receipts]
        assert [place for place in places if place[1] == "entered"] == [(1, "entered"), (2, "entered")]
        assert {place for place in places if place[1] == "ended"} == {(1, "ended"), (2, "ended")}
        assert [len(ledger.releases) for ledger in again._memory.account.ledgers] == [2]
    if max_bytes == 0 and not in_app:  # an app opens another log for each message
        assert "unwritten_before" in log_of(trial.homes[victim])


def test_a_process_killed_between_record_and_answer_gives_the_saved_answer(trial: Federation) -> None:
    me = min(trial.homes)
    frame, model = trial.first(me)

    def killed(client: ClientId) -> None:
        real = RoundRecord.write

        def write(self: RoundRecord, path: Path, charter: bytes) -> None:
            real(self, path, charter)
            os.kill(os.getpid(), signal.SIGKILL)

        RoundRecord.write = write  # type: ignore[method-assign]
        trial.site(client).answer(frame, model)

    child = multiprocessing.get_context("fork").Process(target=killed, args=(me,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    trained: list[Any] = []

    def counting(*given: Any) -> Any:
        trained.append(given)
        return train(*given)

    with trial.site(me, counting) as site:
        assert site.answer(frame, model) not in (b"", REFUSAL)
        assert not trained
        (ledger,) = site._memory.account.ledgers
        assert len(ledger.releases) == len(site._memory.chain.receipts) == 1


def test_apps_that_open_a_folder_at_once_send_one_answer(trial: Federation) -> None:
    """Four processes ask for the folder until they hold it, as apps that an engine started twice."""
    me = min(trial.homes)
    frame, model = trial.first(me)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def app() -> None:
        refused = 0
        while True:
            try:
                site = trial.site(me)
            except StateError:
                refused += 1
                continue
            theirs.send((refused, site.answer(frame, model)))
            site.leave()
            return

    with trial.site(me):  # all of them start before the first can hold it
        apps = [fork.Process(target=app) for _ in range(4)]
        for one in apps:
            one.start()
    for one in apps:
        one.join()
        assert one.exitcode == 0
    replies = [ours.recv() for _ in apps]
    assert len({answer for _, answer in replies}) == 1
    assert replies[0][1] != REFUSAL
    with trial.site(me) as site:
        assert len(site._memory.chain.receipts) == 1


def test_a_folder_of_another_user_is_not_opened(trial: Federation) -> None:
    """A folder that can be read and not written is refused as a whole, before anything is answered."""
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    me = min(trial.homes)
    home = trial.homes[me].folder
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def app() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            trial.site(me)
        except PrivflError as error:
            theirs.send(str(error))

    for folder in (home, *home.parents):
        if folder == Path("/tmp"):  # noqa: S108 - everybody may enter it
            break
        folder.chmod(0o755)
    before = content(home)
    child = fork.Process(target=app)
    child.start()
    child.join()
    assert ours.poll()
    assert "Permission denied" in ours.recv()
    assert content(home) == before
