"""What runs in a helper process: it is asked, computes, answers and forgets, until its parent is gone."""

from __future__ import annotations

import resource
import socket

from privfl.errors import PrivflError
from privfl.he.processes import receive_job, send
from privfl.he.seal import self_test
from privfl.he.work import KeyedWork


def serve(handle: int) -> None:
    """Answer what comes through this file descriptor. A job that fails ends the process: its parent does it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a session key belongs in no core file
    with socket.socket(fileno=handle) as parent:
        parent.settimeout(None)
        try:
            self_test()
        except PrivflError as error:
            send(parent, str(error).encode())
            return
        send(parent, b"")
        try:
            while True:
                _answer(parent)
        except (EOFError, ConnectionError):  # nobody is there any more
            return


def _answer(parent: socket.socket) -> None:
    number, plan, secrets, job = receive_job(parent)
    send(parent, number, *KeyedWork(plan, secrets[:32], secrets[32:]).perform(job))
