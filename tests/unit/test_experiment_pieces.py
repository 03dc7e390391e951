"""Pieces of work in processes: every answer once, in any number of workers, whatever happens to them."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from privfl.experiment.pieces import do_pieces, usable_cores

HERE = os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_piece_is_answered_once(workers):
    answers = dict(do_pieces(lambda number: {"square": number**2, "third": number / 3}, range(7), workers))
    assert answers == {n: {"square": n**2, "third": n / 3} for n in range(7)}


def test_pieces_are_done_elsewhere_when_workers_are_asked_for_and_here_when_not():
    assert HERE not in dict(do_pieces(lambda _: os.getpid(), range(4), 2)).values()
    assert set(dict(do_pieces(lambda _: os.getpid(), range(4), 1)).values()) == {HERE}
    assert list(do_pieces(lambda number: number, [], 3)) == []


def test_an_error_keeps_its_type_and_ends_the_workers():
    def work(number):
        if number == 2:
            raise KeyError("two")
        return number

    with pytest.raises(KeyError, match="two"):
        list(do_pieces(work, range(5), 2))


def test_a_worker_that_dies_leaves_its_piece_to_the_caller():
    def work(number):
        if os.getpid() != HERE and number in (0, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    for workers in (1, 2, 3):
        assert dict(do_pieces(work, range(6), workers)) == {n: n for n in range(6)}


def test_a_consumer_that_stops_early_ends_the_workers():
    pids = []
    for _, pid in do_pieces(lambda number: os.getpid() if number < 2 else time.sleep(60), range(4), 2):
        pids.append(pid)
        if len(pids) == 2:
            break
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux tells when a process ends that is no child")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    code = """
        import os, sys, time
        from pathlib import Path
        from privfl.experiment.pieces import do_pieces

        def work(number):
            Path(sys.argv[1], str(os.getpid())).touch()
            time.sleep(0.2)
            return number

        for _ in do_pieces(work, range(1000), 2):
            print("one", flush=True)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    for _ in range(3):
        assert parent.stdout.readline() == "one\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert all(_ends(pid) for pid in workers)


def _ends(pid: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    return bool(ended)


def test_there_is_a_core():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
