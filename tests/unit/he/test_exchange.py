"""The files through which SEAL reads and writes: no name, no long life, and none of them in a forked child."""

import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.he import exchange, plan_ckks
from privfl.he.authenticator import SessionCipher
from privfl.he.exchange import ExchangeFile
from privfl.he.packing import unpack
from privfl.ring import Ring

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def descriptors() -> dict[str, str]:
    """This process's open files by number, without the one that lists them."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[entry.name] = str(entry.readlink())
    return found


@pytest.mark.parametrize("named", [False, True])
def test_content_is_written_patched_and_read_through_a_file_without_a_name(
    named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both where the system has anonymous memory files, and where a temporary file has to lose its name."""
    if named:
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
    with ExchangeFile() as file:
        assert list(tmp_path.iterdir()) == []
        status = Path(file.path).stat()
        assert status.st_mode & 0o777 == 0o600
        assert not os.get_inheritable(file._handle)
        file.write(b"abc", memoryview(b"def"))
        file.patch(b"X")
        assert Path(file.path).read_bytes() == b"abcdeX"
        file.write(b"12")
        assert file.read() == b"12"
        Path(file.path).write_bytes(b"from SEAL")
        assert file.read() == b"from SEAL"
        path = file.path
    assert not Path(path).exists()
    assert exchange._handles == []


@pytest.mark.parametrize("named", [False, True])
def test_sealing_and_opening_leave_no_descriptor(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")
    if named:
        monkeypatch.delattr(os, "memfd_create")
    plan = plan_ckks(3 * 4096, 3, Ring(23))
    before = set(descriptors().items())
    cipher = SessionCipher(plan, bytes(32), bytes(32))
    seeds, block, _ = cipher.seal(np.arange(plan.length), 0)
    rounded, _ = cipher.open(unpack(block, plan), [seeds], limit=0.4)
    assert np.array_equal(rounded, np.arange(plan.length))
    assert {
        target for _, target in set(descriptors().items()) - before if "privfl" in target or "mem" in target
    } == set()


def test_a_failed_exchange_closes_its_file_and_lets_the_next_begin() -> None:
    file = ExchangeFile()
    with pytest.raises(ZeroDivisionError), file:
        raise ZeroDivisionError
    assert not Path(file.path).exists()
    done = []
    thread = threading.Thread(target=lambda: done.append(ExchangeFile().__enter__().__exit__()))
    thread.start()
    thread.join(10)
    assert done == [None]


def test_a_file_that_cannot_be_made_lets_the_next_exchange_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str) -> int:
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", full)
        with pytest.raises(OSError, match="too many"), ExchangeFile():
            pytest.fail("there is no file")
    test_a_failed_exchange_closes_its_file_and_lets_the_next_begin()


def test_a_system_that_does_not_name_descriptors_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FOLDERS", ("/nowhere",))
    with pytest.raises(ConfigError, match="use the masked sum"), ExchangeFile():
        pytest.fail("there is no path")


def test_a_write_that_is_cut_short_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda handle, parts: 1)
    with ExchangeFile() as file, pytest.raises(OSError, match="completely"):
        file.write(b"abc")


@needs_fork
def test_a_fork_waits_for_the_exchange_of_another_thread() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ExchangeFile() as file:
            file.write(b"secret")
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    threading.Timer(0.3, leave.set).start()
    start = time.monotonic()
    child = exit_code_of_child(lambda: 1 if any("privfl" in target for target in descriptors().values()) else 0)
    assert time.monotonic() - start > 0.2
    assert child == 0
    thread.join()


@needs_fork
def test_a_child_forked_in_its_own_threads_exchange_closes_the_file_and_can_make_another() -> None:
    def inspect() -> int:
        if exchange._handles or any("privfl" in target for target in descriptors().values()):
            return 1
        with ExchangeFile() as other:
            other.write(b"own")
            return 0 if other.read() == b"own" else 2

    with ExchangeFile() as file:
        file.write(b"secret")
        assert exit_code_of_child(inspect) == 0
        assert file.read() == b"secret"

    def leave() -> int:
        """Leaving the parent's exchange must not close a file that took its number."""
        first = os.open("/dev/null", os.O_RDONLY)
        file.__exit__()
        os.fstat(first)
        return 0

    with ExchangeFile() as file:
        assert exit_code_of_child(leave) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def exit_code_of_child(work: Any) -> int:
    """What `work` returns in a forked child: at most 255, and 99 if it raises."""
    gc.collect()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CHILDREN = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
from privfl.crypto import generate_identities
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.ring import Ring
from privfl.sums import SumTask, run_sum

def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except FileNotFoundError:
            pass
    return found

def forked():
    "The open files of a child that dropped its privileges, and the bytes it can read of those with a secret."
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            lines = [f"{name} {target}" for name, target in descriptors().items() if int(name) != write]
            os.write(write, "\\n".join(lines).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        lines = answer.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    assert lines
    return dict(line.split(" ", 1) for line in lines)

ids = (0, 1, 2)
credentials, directory = generate_identities(ids)
standing = {c: StandingCredentials(credentials[c], KeyStore(rotation=100)) for c in ids}
scheme = CkksSum(directory)
task = lambda name: SumTask(name, ids, 1, 20 * 4096, Ring(23), 1000)
vectors = {c: np.arange(20 * 4096) % 1000 for c in ids}
before = forked()  # TenSEAL was not loaded, and no key is there
run_sum(scheme, task(b"first"), vectors, credentials=standing)
seen = [("holding keys", forked())]

session = scheme.client(task(b"second"), 0, vectors[0], credentials=standing[0])
session.start()
seen.append(("advertised", forked()))

rounds, stop, met = [0], threading.Event(), set()
def sums():
    while not stop.is_set():
        rounds[0] += 1
        run_sum(scheme, task(b"round %d" % rounds[0]), vectors, credentials=standing)
def watch():  # the parent does open such files: the children could have met one
    while not stop.is_set():
        met.update(target.split(" ")[0] for target in descriptors().values() if "privfl" in target)
threads = [threading.Thread(target=sums), threading.Thread(target=watch)]
sys.setswitchinterval(1e-4)
for thread in threads:
    thread.start()
end, forks = time.monotonic() + 4, 0
while time.monotonic() < end or forks < 40 or rounds[0] < 3 or not met:
    seen.append(("at work", forked()))
    forks += 1
stop.set()
for thread in threads:
    thread.join()
for when, found in seen:
    more = {name: target for name, target in found.items() if before.get(name) != target}
    more = {name: target for name, target in more.items() if not target.startswith("pipe:")}
    secret = [target for target in more.values() if "privfl" in target or "/mem" in target or "deleted" in target]
    assert not secret, (when, more)
    allowed = ("/proc/", "/usr/", "/lib")
    assert all(target.startswith(allowed) and "/fd" in target for target in more.values()), (when, more)
print("forks", forks, "sums", rounds[0], "met", sorted(met))
"""


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd")
def test_no_descriptor_to_a_secret_reaches_a_forked_child() -> None:
    """Children forked while a client holds keys, has advertised, and while another thread seals and opens sums.

    Each child drops its privileges where it has some, and lists its open files: none that was not there before any
    session key was.
    """
    pytest.importorskip("tenseal")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILDREN)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memfd:privfl-he" in done.stdout, "the parent does open such files"
