"""Long vectors shared among processes: the same sum, fresh randomness, and what a helper owes when it dies."""

import copy
import gc
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.he import CkksPlan, CkksSum, plan_ckks
from privfl.he import processes as module
from privfl.he.packing import unpack
from privfl.he.processes import Helper, Job, Processes
from privfl.he.work import WORTH, KeyedWork, worth_sharing
from privfl.ring import Ints, Ring
from privfl.sums import SumTask, run_sum

KEY, TASK = bytes(range(32)), bytes(32)
LENGTH = 3 * WORTH * 4096 + 1234


@pytest.fixture(scope="module")
def processes() -> Any:
    several = Processes(3)
    several.start(3)
    yield several
    several.close()


def shared(processes: Processes | None, length: int = LENGTH) -> tuple[CkksPlan, KeyedWork]:
    plan = plan_ckks(length, 3, Ring(23))
    return plan, KeyedWork(plan, KEY, TASK, processes)


def vector(length: int = LENGTH) -> Ints:
    return np.random.default_rng(5).integers(-1000, 1000, length)


def pids(processes: Processes) -> list[int]:
    return [helper._process.pid for helper in processes._idle]


def check(work: KeyedWork, plan: CkksPlan, values: Ints) -> bytes:
    """Seal and open; returns the seeds."""
    seeds, block, tag = work.seal(values)
    alone = KeyedWork(plan, KEY, TASK)
    residues = unpack(block, plan)
    assert alone.tagger.block(residues) == tag
    assert len({seeds[at : at + 64] for at in range(0, len(seeds), 64)}) == plan.chunks
    for opener in (work, alone):
        opened, worst = opener.open(residues, [seeds], limit=0.5)
        assert np.array_equal(opened[: len(values)], values)
        assert not opened[len(values) :].any()
        assert 0 < worst < 0.1
    return seeds


@pytest.mark.parametrize("length", [1, WORTH * 4096, 2 * WORTH * 4096, 2 * WORTH * 4096 + 1, LENGTH])
def test_what_is_shared_is_what_one_process_does(processes: Processes, length: int) -> None:
    plan, work = shared(processes, length)
    assert check(work, plan, vector(length)) != check(work, plan, vector(length)), "seeds are fresh"


def test_no_process_ever_repeats_anothers_randomness(processes: Processes) -> None:
    """Equal values under one key, sealed by three processes again and again: no seed and no residue block twice."""
    plan, work = shared(processes)
    seen: set[bytes] = set()
    for turn in range(1, 21):
        seeds, block, _ = work.seal(np.zeros(LENGTH, np.int64))
        size = plan.degree * plan.residue_bytes
        seen.update(seeds[at : at + 64] for at in range(0, len(seeds), 64))
        seen.update(bytes(block[at : at + size]) for at in range(0, len(block), size))
        assert len(seen) == 2 * turn * plan.chunks


def test_shares_are_equal_and_cover_every_chunk(processes: Processes) -> None:
    for chunks in (1, 7, 8, 9, 23, 24, 25, 36, 100, 1001):
        plan, work = shared(processes, chunks * 4096)
        for clients in (1, 2, 1000):
            cuts = work._shares(clients)
            assert [0, *(last for _, last in cuts)] == [*(first for first, _ in cuts), plan.chunks]
            sizes = {last - first for first, last in cuts}
            assert 0 < min(sizes) <= max(sizes) <= min(sizes) + 1
            assert len(cuts) == min(3, worth_sharing(plan, clients))
    assert worth_sharing(plan_ckks(2 * WORTH * 4096 - 4096, 3, Ring(23))) == 1
    assert worth_sharing(plan_ckks(2 * WORTH * 4096, 3, Ring(23))) == 2


@pytest.mark.parametrize("chunk", [0, 15, 36])
def test_a_dishonest_slot_is_noticed_in_every_share(processes: Processes, chunk: int) -> None:
    plan, work = shared(processes)
    seeds, block, _ = work.seal(np.full(LENGTH, 5))
    residues = unpack(block, plan)
    residues[chunk * 4096] ^= np.uint64(1)
    assert work.open(residues, [seeds], limit=1e3)[1] > 0.1
    opened, worst = work.open(residues, [seeds], limit=0.1)
    assert worst > 0.1
    share = [(a, b) for a, b in work._shares(1) if a <= chunk < b]
    passed = share[0][0] + -(-(chunk + 1 - share[0][0]) // 8) * 8  # the pass of eight chunks in which it is found
    assert not opened[passed * 4096 : share[0][1] * 4096].any(), "nothing is opened after it"


@pytest.mark.parametrize("off", [0.4, -0.4, np.nan])
def test_the_worst_slot_counts_whatever_its_sign_and_place(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    plan, work = shared(None)
    for at in (0, 20, 36):

        def decrypt(total: Any, seeds: Any, at: int = at) -> Any:
            for first in range(0, plan.chunks, 8):
                values = np.zeros((min(8, plan.chunks - first), 4096))
                if first <= at < first + 8:
                    values[at - first, 7] = off
                yield values

        monkeypatch.setattr(work.cipher, "decrypt", decrypt)
        with np.errstate(invalid="ignore"):
            worst = work.open(np.zeros(plan.chunks * 4096, np.uint64), [bytes(64 * plan.chunks)], limit=1.0)[1]
        assert worst == pytest.approx(abs(off), nan_ok=True)


def test_the_worst_of_all_shares_counts_even_if_it_is_no_number(
    monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    plan, work = shared(processes)
    rounded = np.zeros(plan.chunks * 4096 // 3, np.int64).data
    worst = (0.1, np.nan, 0.2)
    monkeypatch.setattr(processes, "share", lambda *_: [(rounded, np.array([some]).data) for some in worst])
    assert np.isnan(work.open(np.zeros(plan.chunks * 4096, np.uint64), [bytes(64 * plan.chunks)], limit=1.0)[1])


def test_the_sum_of_a_round_is_exact_and_its_helpers_are_kept(gone: Callable[[int], bool]) -> None:
    task = SumTask(b"processes", (0, 1, 2), 2, LENGTH, Ring(23), 1000)
    credentials, directory = generate_identities(task.clients)
    vectors = {c: vector() // (c + 1) for c in task.clients}
    scheme = CkksSum(directory, processes=2)
    assert not scheme._processes._idle
    result = run_sum(scheme, task, vectors, credentials=credentials, drop=lambda c, step: c == 1 and step == 3)
    assert np.array_equal(result.total, vectors[0] + vectors[1] + vectors[2])
    helper = pids(scheme._processes)
    assert len(helper) == 1
    scheme.close()
    assert gone(helper[0])
    again = SumTask(b"again", task.clients, 2, LENGTH, Ring(23), 1000)
    assert np.array_equal(run_sum(scheme, again, vectors, credentials=credentials).total, result.total)
    assert pids(scheme._processes) != helper, "a client's session starts them again"


@pytest.mark.parametrize("clients", [3, 40])
def test_a_short_vector_starts_nothing(clients: int) -> None:
    task = SumTask(b"short", tuple(range(clients)), 2, 5000, Ring(23), 1000)
    credentials, directory = generate_identities(task.clients)
    scheme = CkksSum(directory, processes=4)
    run_sum(scheme, task, {c: vector(5000) for c in task.clients}, credentials=credentials)
    assert not scheme._processes._idle


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("kind", ["seal", "open"])
def test_what_a_dead_helper_owes_is_done_here(caplog: pytest.LogCaptureFixture, when: str, kind: str) -> None:
    several = Processes(2)
    several.start(2)
    plan, work = shared(several)
    seeds, block, _ = KeyedWork(plan, KEY, TASK).seal(vector())
    (helper,) = pids(several)
    if when == "before":
        os.kill(helper, signal.SIGKILL)
        several._idle[0]._process.wait()
    else:
        os.kill(helper, signal.SIGSTOP)  # it takes nothing up until it is dead
        threading.Timer(0.2, os.kill, (helper, signal.SIGKILL)).start()
    with caplog.at_level(logging.WARNING, "privfl"):
        if kind == "seal":
            check(work, plan, vector())
        else:
            opened, _ = work.open(unpack(block, plan), [seeds], limit=0.5)
            assert np.array_equal(opened[: plan.length], vector())
    assert f"helper process {helper} ended with signal SIGKILL" in caplog.text
    assert several.ready == 1
    several.start(2)
    assert several.ready == 2
    check(work, plan, vector())
    several.close()


def test_an_interrupted_process_leaves_no_helper_with_an_old_answer(
    monkeypatch: pytest.MonkeyPatch, gone: Callable[[int], bool]
) -> None:
    several = Processes(2)
    several.start(2)
    plan, work = shared(several)
    (helper,) = pids(several)

    def interrupted(job: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "perform", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            work.seal(vector())
    assert several.ready == 1
    assert gone(helper), "though the frames of the error are still there"
    assert caught.value.__traceback__ is not None
    check(work, plan, vector())


def test_a_helper_that_owes_an_answer_is_never_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, and then once more while it cleans up: the next sum has nothing of the one before."""
    several = Processes(4)
    several.start(4)
    plan, work = shared(several, 6 * 4096)
    seeds, block, _ = KeyedWork(plan, KEY, TASK).seal(vector(plan.length))
    residues = unpack(block, plan)
    end = Helper.end

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "perform", interrupted)
        patch.setattr(Helper, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work.open(residues, [seeds] * 40, limit=1e9)
    assert Helper.end is end
    assert several.ready == 1
    several.start(4)
    check(work, plan, vector(plan.length))
    several.close()


def test_an_answer_to_another_question_is_no_answer(processes: Processes) -> None:
    plan, _ = shared(processes)
    job = Job("seal", 0, 0.0, vector(4096).data)
    (helper,) = processes._take(1)
    helper.ask(plan, KEY + TASK, job)
    helper.ask(plan, KEY + TASK, job)
    assert helper.answer() is None
    assert helper.answer() is not None
    processes._idle.append(helper)


@pytest.mark.parametrize("write", range(5))
def test_a_helper_may_die_in_the_middle_of_its_answer(monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    """At each of its writes: lengths, number, seeds, block, part of the tag."""
    boot = (
        "import os, socket\n"
        "class Dying(socket.socket):\n"
        "    left = %d\n"
        "    def sendall(self, data, *flags):\n"
        "        if len(data) == 0: return super().sendall(data, *flags)\n"  # ready
        "        Dying.left -= 1\n"
        "        super().sendall(data[:len(data) // 2] if Dying.left == 0 else data, *flags)\n"
        "        if Dying.left == 0: os._exit(9)\n"
        "socket.socket = Dying\n"
    )
    monkeypatch.setattr(module, "_BOOT", boot % (2 + write) + module._BOOT)
    several = Processes(2)
    several.start(2)
    plan, work = shared(several)
    check(work, plan, vector())
    assert several.ready == 1


def test_a_signal_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    several = Processes(2)
    several.start(2)
    os.kill(pids(several)[0], signal.SIGRTMIN + 6)
    plan, work = shared(several)
    check(work, plan, vector())
    assert f"ended with signal {signal.SIGRTMIN + 6}" in caplog.text


def test_a_scheme_with_processes_can_be_copied_and_sent_to_workers(processes: Processes) -> None:
    for several in (copy.deepcopy(processes), pickle.loads(pickle.dumps(processes))):  # noqa: S301 - its own
        assert several.ready == 1
        several.start(3)
        assert several.ready == 3
        assert not set(pids(several)) & set(pids(processes))
        several.close()


def test_a_job_that_fails_there_fails_here_with_its_own_error(processes: Processes) -> None:
    plan, work = shared(processes)
    bad = Job("seal", 0, 0.0, b"three")
    with pytest.raises(ValueError, match="multiple of element size"):
        processes.share(plan, KEY + TASK, [Job("seal", 0, 0.0, vector(10).data), bad], work.perform)
    assert processes.ready == 2
    processes.start(3)
    assert processes.ready == 3


def test_no_more_helpers_than_allowed_whoever_is_at_work(processes: Processes) -> None:
    plan, work = shared(processes)
    perform, seen = work.perform, []

    def starting(job: Job) -> Any:
        processes.start(3)
        seen.append(sum(helper.alive for helper in processes._started))
        return perform(job)

    work.perform = starting  # type: ignore[method-assign]
    check(work, plan, vector())
    assert set(seen) == {2}
    assert processes.ready == 3


def test_threads_do_not_disturb_each_other(processes: Processes) -> None:
    found: list[bytes] = []

    def run() -> None:
        plan, work = shared(processes)
        found.append(check(work, plan, vector()))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 3


def test_helpers_end_with_the_sum_that_started_them(gone: Callable[[int], bool]) -> None:
    several = Processes(2)
    several.start(2)
    (helper,) = pids(several)
    del several
    gc.collect()
    assert gone(helper)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_helper_tells_nothing_on_its_command_line_and_leaves_no_core(processes: Processes) -> None:
    _, work = shared(processes)
    work.seal(vector())
    for helper in pids(processes):
        place = Path("/proc", str(helper))
        for told in ("cmdline", "environ"):
            assert KEY not in place.joinpath(told).read_bytes()
            assert KEY.hex().encode() not in place.joinpath(told).read_bytes()
        assert {"OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1"} <= {*place.joinpath("environ").read_text().split("\0")}
        limits = place.joinpath("limits").read_text().splitlines()
        assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]
        assert {Path("/proc", str(helper), "fd", str(fd)).readlink() for fd in (0, 1, 2)} == {Path("/dev/null")}
