"""Long vectors shared among processes: the same sum, fresh randomness, and what a helper owes when it dies."""

import copy
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError
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


def gone(pid: int) -> bool:
    """Whether this process ends soon; one whose parent is another is not waited for by us."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


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
    seeds, block, _ = work.seal(vector())
    residues = unpack(block, plan)
    residues[chunk * 4096] ^= np.uint64(1)
    assert work.open(residues, [seeds], limit=1e3)[1] > 0.1
    opened, worst = work.open(residues, [seeds], limit=0.1)
    assert worst > 0.1
    assert opened.shape == residues.shape


def test_the_sum_of_a_round_is_exact_and_its_helpers_are_kept() -> None:
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


def test_an_interrupted_process_leaves_no_helper_with_an_old_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Processes(2)
    several.start(2)
    plan, work = shared(several)
    (helper,) = pids(several)

    def interrupted(job: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "perform", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work.seal(vector())
    assert several.ready == 1
    assert gone(helper)
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


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [
        ("executable", "/nonexistent/python", "can be started with '/nonexistent/python'"),
        ("executable", "", "can be started with ''"),
        ("executable", None, "can be started with ''"),
        ("executable", "/bin/false", "ended with exit code 1"),
    ],
)
def test_helpers_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None, why: str
) -> None:
    task = SumTask(b"start", (0, 1, 2), 2, LENGTH, Ring(23), 1000)
    credentials, directory = generate_identities(task.clients)
    monkeypatch.setattr(sys, attribute, value)
    with pytest.raises(ConfigError, match=why):
        CkksSum(directory, processes=2).client(task, 0, vector(), credentials=credentials[0])


@pytest.mark.parametrize(
    ("boot", "why"),
    [
        (f"import sys; sys.modules['tenseal'] = None; {module._BOOT}", r"cannot work: .*pip install .*he"),
        ("import time; time.sleep(60)", "not ready after 0 s"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal SIGKILL"),
    ],
)
def test_helpers_that_do_not_get_ready(monkeypatch: pytest.MonkeyPatch, boot: str, why: str) -> None:
    monkeypatch.setattr(module, "_BOOT", boot)
    monkeypatch.setattr(module, "_PATIENCE", 0.2 if "sleep" in boot else 60.0)
    several = Processes(3)
    with pytest.raises(ConfigError, match=why):
        several.start(3)
    assert several.ready == 1


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_process_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, not {count}"):
        CkksSum(generate_identities([0])[1], processes=count)


def test_keys_do_not_pass_through_files_that_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match=r"processes must be 1 on .*, not 2"):
        Processes(2)
    assert Processes(1).ready == 1


def test_helpers_end_with_the_sum_that_started_them() -> None:
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
        assert KEY.hex() not in place.joinpath("cmdline").read_text()
        assert "session" not in place.joinpath("cmdline").read_text()
        limits = place.joinpath("limits").read_text().splitlines()
        assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]
        assert {Path("/proc", str(helper), "fd", str(fd)).readlink() for fd in (0, 1, 2)} == {Path("/dev/null")}
