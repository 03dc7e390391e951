"""Long vectors shared among processes: the same sum, fresh randomness, and helpers that may die at any time."""

import gc
import logging
import os
import signal
import subprocess
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
from privfl.he.processes import Job, Processes
from privfl.he.work import WORTH, KeyedWork, worth_sharing
from privfl.ring import Ints, Ring
from privfl.sums import SumTask, run_sum

KEY, TASK = bytes(range(32)), bytes(32)
LENGTH = 3 * WORTH * 4096 + 1234


@pytest.fixture(scope="module")
def processes() -> Any:
    several = Processes(3)
    several.start()
    yield several
    several.close()


def shared(processes: Processes | None, length: int = LENGTH) -> tuple[CkksPlan, KeyedWork]:
    plan = plan_ckks(length, 3, Ring(23))
    return plan, KeyedWork(plan, KEY, TASK, processes)


def vector(length: int = LENGTH) -> Ints:
    return np.random.default_rng(5).integers(-1000, 1000, length)


def pids(processes: Processes) -> list[int]:
    return [helper._process.pid for helper in processes._helpers]


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
    assert not scheme._processes._helpers
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
    assert not scheme._processes._helpers


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("kind", ["seal", "open"])
def test_what_a_dead_helper_owes_is_done_here(caplog: pytest.LogCaptureFixture, when: str, kind: str) -> None:
    several = Processes(2)
    several.start()
    plan, work = shared(several)
    seeds, block, _ = KeyedWork(plan, KEY, TASK).seal(vector())
    (helper,) = pids(several)
    if when == "before":
        os.kill(helper, signal.SIGKILL)
        several._helpers[0]._process.wait()
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
    several.start()
    assert several.ready == 2
    check(work, plan, vector())
    several.close()


def test_an_interrupted_process_leaves_no_helper_with_an_old_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Processes(2)
    several.start()
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


def test_a_job_that_fails_there_fails_here_with_its_own_error(processes: Processes) -> None:
    plan, work = shared(processes)
    bad = Job("seal", 0, 0.0, b"three")
    with pytest.raises(ValueError, match="multiple of element size"):
        processes.share(plan, KEY + TASK, [Job("seal", 0, 0.0, vector(10).data), bad], work.perform)
    assert processes.ready == 2
    processes.start()
    assert processes.ready == 3


def test_threads_take_turns(processes: Processes) -> None:
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
        several.start()
    assert several.ready == 1


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_process_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, not {count}"):
        CkksSum(generate_identities([0])[1], processes=count)


def test_helpers_end_with_the_sum_that_started_them() -> None:
    several = Processes(2)
    several.start()
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


SCRIPT = """
import os, signal, sys
import numpy as np
from privfl.he import plan_ckks
from privfl.he.processes import Job, Processes
from privfl.he.work import KeyedWork
from privfl.ring import Ring

LENGTH = {length}
several = Processes(2)
several.start()
print(several._helpers[0]._process.pid, flush=True)
plan = plan_ckks(LENGTH, 3, Ring(23))
work = KeyedWork(plan, bytes(32), bytes(32), several)
values = np.arange(LENGTH) % 1000

def seal():
    return len(work.seal(values)[1])

{rest}
"""


def script(rest: str) -> tuple[subprocess.CompletedProcess[str], int]:
    code = SCRIPT.format(length=LENGTH, rest=rest)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    return done, int(done.stdout.split()[0])


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("seal()", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit(seal() and 4)", 4),
        ("os._exit(5)", 5),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_helpers_end_with_their_parent_however_it_ends(rest: str, code: int) -> None:
    done, helper = script(rest)
    assert (done.returncode, done.stderr) == (code, "")
    assert gone(helper)


def test_a_forked_child_leaves_its_parents_helpers_alone() -> None:
    done, _ = script(
        """
child = os.fork()
if not child:
    assert several.ready == 1
    seal()
    several.close()  # has none
    several.start()
    assert several.ready == 2
    seal()
    print(several._helpers[0]._process.pid, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert several.ready == 2
seal()
assert several.ready == 2, "the parent's helper is alive, and its answers are the parent's"
print("done")
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, word = done.stdout.split()
    assert first != second
    assert word == "done"
    assert gone(int(second))
