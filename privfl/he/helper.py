"""What runs in a helper process: it is asked, computes, answers and forgets, until its parent is gone."""

from __future__ import annotations

import resource
from multiprocessing.connection import Connection

from privfl.errors import PrivflError
from privfl.he.processes import receive_job, send
from privfl.he.seal import self_test
from privfl.he.work import KeyedWork


def serve(handle: int) -> None:
    """Answer what comes through this file descriptor. A job that fails ends the process: its parent does it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no crash may write a session key to disk
    pipe = Connection(handle)
    try:
        self_test()
    except PrivflError as error:
        pipe.send_bytes(str(error).encode())
        return
    pipe.send_bytes(b"")
    try:
        while True:
            _answer(pipe)
    except (EOFError, OSError):  # nobody is there any more
        return


def _answer(pipe: Connection) -> None:
    plan, secrets, job = receive_job(pipe)
    send(pipe, KeyedWork(plan, secrets[:32], secrets[32:]).perform(job))
