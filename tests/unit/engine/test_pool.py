"""The pool: every request answered once, whatever happens to its workers, and nothing left behind by anybody."""

from __future__ import annotations

import gc
import itertools
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privfl.engine.pool import Failure, Pool, can_fork, do_pieces, usable_cores
from privfl.errors import ConfigError

HERE = os.getpid()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def pid(place: int, common: bytes, request: bytes) -> bytes:
    return str(os.getpid()).encode()


def echo(place: int, common: bytes, request: bytes) -> bytes:
    return b"%d %s %s" % (place, common, request)


def text(place: int, answer: bytes) -> str:
    return answer.decode()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert descriptors() <= before


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    """Makes pools, and closes them."""
    made: list[Pool] = []

    def make(*args: object, **options: object) -> Pool:
        made.append(Pool(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 1), (3, 2), (2, 5)])
def test_every_request_is_answered_once_in_a_place_of_its_own(
    pool: Callable[..., Pool], workers: int, ahead: int
) -> None:
    one = pool(echo, workers, ahead=ahead)
    for common in (b"first", b"second", b""):
        got = dict(one.map([b"%d" % n for n in range(20)], text, common=common))
        assert sorted(got) == list(range(20))
        for number, answer in got.items():
            place, rest = str(answer).split(" ", 1)
            assert int(place) in range(workers * ahead)
            assert rest == f"{common.decode()} {number}"
    assert list(one.map([], text)) == []


def test_a_place_is_read_before_it_is_used_again(pool: Callable[..., Pool]) -> None:
    memory = mmap.mmap(-1, 4)

    def write(place: int, common: bytes, request: bytes) -> bytes:
        memory[place] = int(request)  # a byte
        return b""

    one = pool(write, 2, ahead=2)
    for number, value in one.map([b"%d" % n for n in range(200)], lambda place, _: memory[place]):
        assert value == number


def test_an_error_is_an_answer_and_the_worker_goes_on(pool: Callable[..., Pool]) -> None:
    def odd(place: int, common: bytes, request: bytes) -> bytes:
        if int(request) % 2:
            raise ValueError(f"{request!r} is odd")
        return pid(place, common, request)

    got = dict(pool(odd, 1).map([b"0", b"1", b"2"], text))
    assert got[0] == got[2] != str(HERE)
    failure = got[1]
    assert isinstance(failure, Failure)
    assert failure.reason == "ValueError in odd (test_pool.py, line 98)"
    assert failure.pid == int(str(got[0]))
    assert "in odd" in failure.traceback


def test_a_dead_worker_fails_what_it_was_given_and_the_others_go_on(pool: Callable[..., Pool]) -> None:
    def mortal(place: int, common: bytes, request: bytes) -> bytes:
        if request == b"1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return request

    got = dict(pool(mortal, 2).map([b"%d" % n for n in range(8)], text))
    failure = got.pop(1)
    assert isinstance(failure, Failure)
    assert "ended with signal SIGKILL" in failure.reason
    assert got == {n: str(n) for n in range(8) if n != 1}

    got = dict(pool(mortal, 1).map([b"0", b"1", b"2", b"3"], text))
    assert got[0] == "0"
    assert [getattr(got[n], "reason", "")[-26:] for n in (2, 3)] == ["no worker process is left"] * 2


def test_an_error_of_the_initializer_answers_every_request(pool: Callable[..., Pool]) -> None:
    def broken() -> None:
        raise ConfigError("set something")

    got = dict(pool(pid, 2, initializer=broken).map([b"0", b"1", b"2"], text))
    assert [getattr(failure, "reason", None) for failure in got.values()] == [
        "ConfigError in broken (test_pool.py, line 130)"
    ] * 3


def test_pools_do_not_keep_each_others_workers_alive(pool: Callable[..., Pool]) -> None:
    """A process forked later holds no end of an earlier pool's pipes, so that pool's idle workers end at once."""
    first = pool(pid, 2)
    second = pool(pid, 2)
    context = multiprocessing.get_context("fork")
    other = context.Process(target=time.sleep, args=(60,))
    other.start()
    start = time.monotonic()
    first.close()
    second.close()
    assert time.monotonic() - start < 4.5  # a worker that is not told is waited for 5 seconds
    other.terminate()
    other.join()
    other.close()


def test_a_forked_copy_of_a_pool_is_not_usable_and_ends_nobody(pool: Callable[..., Pool]) -> None:
    one = pool(pid, 2)
    answers = dict(one.map([b""] * 8, text))
    child = os.fork()
    if not child:
        fine = not one.usable
        one.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert one.usable
    assert set(dict(one.map([b""] * 8, text)).values()) <= set(answers.values())


def test_threads_may_start_pools_at_the_same_time() -> None:
    answers: list[dict[int, object]] = []

    def use() -> None:
        for _ in range(5):
            one = Pool(echo, 2)
            answers.append(dict(one.map([b"%d" % n for n in range(6)], lambda _, got: got.split()[-1])))
            start = time.monotonic()
            one.close()
            assert time.monotonic() - start < 4.5  # a worker that is not told is waited for 5 seconds

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{n: b"%d" % n for n in range(6)}] * 20


def test_a_pool_outlives_the_thread_that_started_it(pool: Callable[..., Pool]) -> None:
    made: list[Pool] = []
    thread = threading.Thread(target=lambda: made.append(pool(pid, 2)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert not any(isinstance(got, Failure) for _, got in made[0].map([b""] * 6, text))


@LINUX
def test_a_pool_that_is_dropped_leaves_no_process(gone: Callable[[int], bool]) -> None:
    pids = {int(str(got)) for _, got in Pool(pid, 2).map([b""] * 6, text)}
    gc.collect()
    assert pids
    assert not any(Path(f"/proc/{worker}").exists() for worker in pids), "not even as a zombie"


WORK = {
    "nothing": "pass",
    "sleep": "time.sleep(100)",
    "a loop of Python": "while True: pass",
    "C code that never lets go of the interpreter": "ctypes.PyDLL(None).sleep(100)",
    "a signal handler of its own": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)",
}
KILLED = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from privfl.engine.pool import Pool

def handle(place, common, request):
    Path(sys.argv[1], str(os.getpid())).touch()
    if request == b"1":
        {work}
    return b""

def use():
    pool = Pool(handle, 2)
    list(pool.map([b"0"] * 2, lambda *_: None))
    print("ready", flush=True)
    list(pool.map([b"1"] * 2, lambda *_: None))
    time.sleep(100)

{start}
"""


@LINUX
@pytest.mark.parametrize(
    ("work", "start"),
    [*((name, "use()") for name in WORK), *((name, "threading.Thread(target=use).start()") for name in list(WORK)[:3])],
)
def test_workers_end_with_a_parent_that_is_killed(
    tmp_path: Path, gone: Callable[[int], bool], work: str, start: str
) -> None:
    code = textwrap.dedent(KILLED).format(work=WORK[work], start=start)
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.2)
    parent.kill()
    killed = time.monotonic()
    parent.wait()
    parent.stdout.close()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert workers
    assert all(gone(worker) for worker in workers)
    assert time.monotonic() - killed < 4.0


CTRL_C = "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell ignores it in the background


@LINUX
def test_ctrl_c_ends_everybody_and_only_the_parent_speaks_of_it(tmp_path: Path, gone: Callable[[int], bool]) -> None:
    code = KILLED.format(work="time.sleep(100)", start=CTRL_C + "use()")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=10)
    assert parent.returncode == -signal.SIGINT
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1
    assert all(gone(int(path.name)) for path in tmp_path.iterdir())


# Pieces of work.


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_piece_is_answered_once_and_alike_in_any_number_of_workers(workers: int) -> None:
    answers = dict(do_pieces(lambda number: {"square": number**2, "third": (number / 3,)}, range(7), workers))
    assert answers == {n: {"square": n**2, "third": [n / 3]} for n in range(7)}


def test_pieces_are_done_elsewhere_when_workers_are_asked_for_and_here_when_not() -> None:
    assert HERE not in dict(do_pieces(lambda _: os.getpid(), range(4), 2)).values()
    assert set(dict(do_pieces(lambda _: os.getpid(), range(4), 1)).values()) == {HERE}
    assert list(do_pieces(lambda number: number, [], 3)) == []


def test_the_initializer_runs_in_workers_only() -> None:
    seen: list[int] = []
    for workers, expected in ((1, []), (2, [1])):
        answers = dict(do_pieces(lambda _: list(seen), range(2), workers, initializer=lambda: seen.append(1)))
        assert answers == {0: expected, 1: expected}


def test_an_error_of_a_piece_keeps_its_type_and_ends_the_workers() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    with pytest.raises(KeyError, match="two"):
        list(do_pieces(work, range(5), 2))


def test_a_worker_that_dies_leaves_its_piece_to_the_caller() -> None:
    def work(number: int) -> int:
        if os.getpid() != HERE and number in (0, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    for workers in (1, 2, 3):
        assert dict(do_pieces(work, range(6), workers)) == {n: n for n in range(6)}


@LINUX
def test_a_consumer_that_stops_early_ends_the_workers() -> None:
    pids = []
    for _, worker in do_pieces(lambda number: os.getpid() if number < 2 else time.sleep(60), range(4), 2):
        pids.append(worker)
        if len(pids) == 2:
            break
    for worker in pids:
        assert not Path(f"/proc/{worker}").exists()


# Where a process cannot have workers.


def nested(number: int) -> list[object]:
    """A piece that wants workers of its own."""
    inner = {got for _, got in do_pieces(lambda _: os.getpid(), range(4), 2)}
    return [can_fork(), inner == {os.getpid()}]


def test_a_worker_does_the_pieces_of_its_own_pieces_itself() -> None:
    assert dict(do_pieces(nested, range(3), 2)) == {n: [False, True] for n in range(3)}


def test_so_does_a_worker_of_a_multiprocessing_pool() -> None:
    with multiprocessing.get_context("fork").Pool(1) as others:
        assert others.map(nested, range(2)) == [[False, True]] * 2
        others.terminate()
        others.join()


def test_where_there_is_no_fork_everything_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert set(dict(do_pieces(lambda _: os.getpid(), range(3), 2)).values()) == {HERE}
    with pytest.raises(ConfigError, match="cannot start workers"):
        Pool(pid, 2)


def test_there_is_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_many_pools_leave_no_descriptor_and_no_process() -> None:
    """The fixture counts both; here pools end in every way, again and again."""
    for end in itertools.islice(itertools.cycle(["close", "drop", "stop early", "worker dies"]), 16):
        one = Pool(pid, 2)
        arrived = one.map([b""] * 4, text)
        _, first = next(arrived)
        if end == "worker dies":
            os.kill(int(str(first)), signal.SIGKILL)
        if end in ("close", "worker dies"):
            list(arrived)
            one.close()
        elif end == "stop early":
            arrived.close()  # type: ignore[attr-defined]
            one.close()
        del one, arrived
