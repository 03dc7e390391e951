"""Helper processes end with their parent, however it ends, and do not disturb it: each case has its own interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError
from privfl.he import CkksSum
from privfl.he import processes as module
from privfl.he.processes import Helper, Processes
from privfl.ring import Ring
from privfl.sums import SumTask

LENGTH = 40 * 4096


SCRIPT = """
import os, signal, sys
import numpy as np
from privfl.he import plan_ckks
from privfl.he.processes import Job, Processes
from privfl.he.work import KeyedWork
from privfl.ring import Ring

LENGTH = {length}
several = Processes(2)
several.start(2)
print(several._idle[0]._process.pid, flush=True)
plan = plan_ckks(LENGTH, 3, Ring(23))
work = KeyedWork(plan, bytes(32), bytes(32), several)
values = np.arange(LENGTH) % 1000

def seal():
    return len(work.seal(values)[1])

{rest}
"""


def script(rest: str, *flags: str, shell: str = "") -> tuple[subprocess.CompletedProcess[str], int]:
    """Run SCRIPT and then `rest`; returns what became of it, and the first helper's process number."""
    code = SCRIPT.format(length=LENGTH, rest=rest)
    command = [sys.executable, *flags, "-W", "error", "-c", code]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done, int(done.stdout.split()[0]) if done.stdout else 0


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("seal()", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit(seal() and 4)", 4),
        ("os._exit(5)", 5),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    ],
)
def test_helpers_end_with_their_parent_however_it_ends(rest: str, code: int, gone: Callable[[int], bool]) -> None:
    done, helper = script(rest)
    assert (done.returncode, done.stderr) == (code, "")
    assert gone(helper)


def test_a_forked_child_leaves_its_parents_helpers_alone(gone: Callable[[int], bool]) -> None:
    done, _ = script(
        """
child = os.fork()
if not child:
    assert several.ready == 1
    seal()
    several.close()  # has none
    several.start(2)
    assert several.ready == 2
    seal()
    print(several._idle[0]._process.pid, flush=True)
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


def test_a_child_forked_while_another_thread_is_at_work() -> None:
    """Locks that the thread held are not held in the child, where the thread is not."""
    done, _ = script(
        """
import threading
at_work, forked = threading.Event(), threading.Event()

def hold():
    with work.cipher._parts._channel, several._starting:
        at_work.set()
        forked.wait(20)

thread = threading.Thread(target=hold)
thread.start()
at_work.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    seal()
    several.start(2)
    seal()
    os._exit(several.ready)
forked.set()
status = os.waitpid(child, 0)[1]
thread.join()
print(status)
""",
        "-W",
        "ignore::DeprecationWarning",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert os.waitstatus_to_exitcode(int(done.stdout.split()[1])) == 2


def test_a_child_keeps_no_helper_of_its_parent_alive(gone: Callable[[int], bool]) -> None:
    done, helper = script(
        """
child = os.fork()
if not child:
    signal.alarm(40)
    while True:
        signal.pause()
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert done.returncode == -9
    child = int(done.stdout.split()[1])
    try:
        assert gone(helper)
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, 9)


@pytest.mark.parametrize("moment", ["idle", "at work"])
def test_a_signal_handler_may_close(moment: str, gone: Callable[[int], bool]) -> None:
    done, helper = script(
        f"MOMENT = {moment!r}"
        """
def handler(*_):
    several.close()
    print("closed", flush=True)
    sys.exit(7)

signal.signal(signal.SIGTERM, handler)
perform = work.perform

def signalled(job):
    os.kill(os.getpid(), signal.SIGTERM)
    return perform(job)

if MOMENT == "at work":
    work.perform = signalled
    seal()
os.kill(os.getpid(), signal.SIGTERM)
"""
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split()[1] == "closed"
    assert gone(helper)


def test_helpers_closed_while_they_work_end_when_they_have_answered(gone: Callable[[int], bool]) -> None:
    done, helper = script(
        """
perform = work.perform

def closing(job):
    several.close()
    return perform(job)

work.perform = closing
assert several.ready == 2
seal()
assert several.ready == 1
print("done")
"""
    )
    assert (done.returncode, done.stderr, done.stdout.split()[1]) == (0, "", "done")
    assert gone(helper)


def test_helpers_closed_while_they_start_do_not_stay(
    monkeypatch: pytest.MonkeyPatch, gone: Callable[[int], bool]
) -> None:
    several, started, wait = Processes(2), [], Helper.wait

    def closing(helper: Helper) -> None:
        started.append(helper._process.pid)
        wait(helper)
        several.close()

    monkeypatch.setattr(Helper, "wait", closing)
    several.start(2)
    assert several.ready == 1
    assert gone(started[0])


def test_a_child_forked_while_a_helper_is_started_holds_no_end_of_it() -> None:
    """Else the parent would wait for a dead helper as long as the child lives."""
    done, _ = script(
        """
import threading
from privfl.he import processes as module
spawn, spawning = module._spawn, threading.Event()

def slowly(executable, theirs):
    spawning.set()
    threading.Event().wait(0.5)  # the fork falls into this, or has to wait for it
    return spawn(executable, theirs)

module._spawn = slowly
several.close()
thread = threading.Thread(target=several.start, args=(2,))
thread.start()
spawning.wait()
child = os.fork()
if not child:
    signal.alarm(40)
    signal.pause()
thread.join()
module._spawn = spawn
signal.alarm(20)
os.kill(several._idle[0]._process.pid, signal.SIGKILL)
print(seal())
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
""",
        "-W",
        "ignore::DeprecationWarning",
    )
    assert done.returncode == 0
    assert int(done.stdout.split()[1]) == LENGTH * 5


def test_a_program_that_dies_of_broken_pipes_does_not_die_of_a_helper() -> None:
    done, _ = script(
        """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.kill(several._idle[0]._process.pid, signal.SIGKILL)
several._idle[0]._process.wait()
print(seal())
"""
    )
    assert done.returncode == 0
    assert int(done.stdout.split()[1]) == LENGTH * 5


def test_the_working_directory_gives_a_helper_no_modules(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(66)\n")
    done, _ = script(
        f"""
os.chdir({str(tmp_path)!r})
sys.path.insert(0, "")
sys.path.insert(0, None)
several.close()
several.start(2)
seal()
print(several.ready)
"""
    )
    assert (done.returncode, done.stderr, done.stdout.split()[1]) == (0, "", "2")


def test_a_parent_without_any_standard_file() -> None:
    done, _ = script("os._exit(40 + several.ready)", shell="<&- >&- 2>&-")  # noqa: S604 - a redirection of ours
    assert done.returncode == 42


def test_sockets_with_a_time_limit_by_default() -> None:
    done, _ = script(
        "import socket; socket.setdefaulttimeout(1e-6); several.close(); several.start(2); print(seal(), several.ready)"
    )
    assert (done.returncode, done.stderr, done.stdout.split()[2]) == (0, "", "2")


def test_a_helper_runs_its_parents_package_whatever_else_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "privfl").mkdir()
    (tmp_path / "privfl" / "__init__.py").write_text("raise SystemExit(66)\n")
    done, _ = script(
        f"sys.path.insert(0, {str(tmp_path)!r}); several.close(); several.start(2); print(seal(), several.ready)"
    )
    assert (done.returncode, done.stderr, done.stdout.split()[2]) == (0, "", "2")


@pytest.mark.parametrize("flag", ["-E", "-I", "-s"])
def test_a_helper_has_its_parents_flags(flag: str) -> None:
    rest = "print(open(f'/proc/{several._idle[0]._process.pid}/cmdline').read().split(chr(0))[1])"
    code = f"import sys; sys.path[:0] = {[*sys.path]!r}\n" + SCRIPT.format(length=LENGTH, rest=rest)
    command = [sys.executable, flag, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()[1:]) == (0, [flag])


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_a_parent_without_standard_files(closed: str) -> None:
    done, _ = script("print(several.ready, seal())", shell=closed)
    assert done.returncode == 0
    assert done.stdout.split()[1:] == ["2", str(LENGTH * 5)]


def test_a_parent_in_isolated_mode() -> None:
    """With the module path that such a parent has to give itself."""
    code = f"import sys; sys.path[:0] = {[*sys.path]!r}\n" + SCRIPT.format(length=LENGTH, rest="print(seal())")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[1]) == LENGTH * 5


def test_no_files_left_to_open() -> None:
    done, _ = script(
        """
import resource
from privfl.errors import ConfigError
used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
for spare in range(6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, 10000))
    try:
        Processes(2).start(2)
    except ConfigError as error:
        assert "can be started with" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (10000, 10000))
assert max(int(fd) for fd in os.listdir("/proc/self/fd")) <= used
print("done")
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1] == "done"


def test_a_system_without_fork_can_plan() -> None:
    code = (
        "import threading, random, logging, os; del os.register_at_fork\n"
        "from privfl.he import plan_ckks\n"
        "from privfl.ring import Ring\n"
        "print(plan_ckks(10, 2, Ring(23)).degree)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout.strip()) == ("", "2048")


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
        CkksSum(directory, processes=2).client(task, 0, np.zeros(LENGTH, np.int64), credentials=credentials[0])


@pytest.mark.parametrize(
    ("boot", "why"),
    [
        (f"import sys; sys.modules['tenseal'] = None; {module._BOOT}", r"cannot work: .*pip install .*he"),
        ("import time; time.sleep(60)", "not ready after 0 s"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal SIGKILL"),
    ],
)
def test_helpers_that_do_not_get_ready(
    monkeypatch: pytest.MonkeyPatch, boot: str, why: str, gone: Callable[[int], bool]
) -> None:
    monkeypatch.setattr(module, "_BOOT", boot)
    monkeypatch.setattr(module, "_PATIENCE", 0.2 if "sleep" in boot else 60.0)
    several, started = Processes(3), []
    wait = Helper.wait
    monkeypatch.setattr(Helper, "wait", lambda helper: (started.append(helper._process.pid), wait(helper))[1])
    with pytest.raises(ConfigError, match=why) as caught:
        several.start(3)
    assert several.ready == 1
    assert started
    assert all(gone(pid) for pid in started)
    assert caught.value.__traceback__ is not None
    assert not any(helper.alive for helper in several._started)


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_process_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, not {count}"):
        CkksSum(generate_identities([0])[1], processes=count)


def test_keys_do_not_pass_through_files_that_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match=r"processes must be 1 on .*, not 2"):
        Processes(2)
    assert Processes(1).ready == 1
