"""A server that gets one client of a CKKS sum into one task twice would open two sums that differ by its vector."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import (
    TasksInFolder,
    TasksInMemory,
    generate_identities,
    load_credentials,
    save_credentials,
)
from privfl.errors import LocalProtocolError, PlanRejected
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.client import CkksClient
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask, run_sum


class Room:
    """Five clients with equal tasks and vectors, and fresh keys, in every room."""

    def __init__(self) -> None:
        self.task = SumTask(b"round 1", tuple(range(5)), 3, 20, Ring(23), 1000)
        self.credentials, self.directory = generate_identities(self.task.clients)
        rng = np.random.default_rng(1)
        self.vectors = {c: rng.integers(-1000, 1000, 20) for c in self.task.clients}
        self.scheme = CkksSum(self.directory)


def test_why_one_task_twice_opens_a_vector() -> None:
    """Clients that forget: two sums of one task under two session keys differ by the victim's vector."""
    totals = []
    for silent in (set(), {4}):
        room = Room()
        result = run_sum(
            room.scheme,
            room.task,
            room.vectors,
            credentials=room.credentials,
            drop=lambda client, step, silent=silent: client in silent,  # type: ignore[misc]
        )
        totals.append(result.total)
    np.testing.assert_array_equal(totals[0] - totals[1], Room().vectors[4])


@pytest.mark.parametrize("standing", [True, False])
def test_one_task_in_two_sessions(standing: bool) -> None:
    """Whoever keeps one credentials object is protected without doing anything, whatever becomes of the session key."""
    room = Room()
    own = generate_identities([0])[0][0]

    def session(context: bytes = b"round 1", **changes: Any) -> CkksClient:
        credentials = StandingCredentials(own, KeyStore(rotation=5)) if standing else own
        task = dataclasses.replace(room.task, context=context)
        return room.scheme.client(task, 0, room.vectors[0], credentials=credentials, **changes)

    first, second = session(), session()
    first.start()
    with pytest.raises(PlanRejected, match="a new attempt is a new context"):
        second.start()
    assert second.state == "aborted"
    assert second._secrets is None
    with pytest.raises(LocalProtocolError):
        second.start()
    with pytest.raises(PlanRejected):
        session().start()
    session(b"round 1, attempt 1").start()


def test_one_task_under_other_terms_or_another_scheme() -> None:
    room, memory = Room(), TasksInMemory()
    vector, own = room.vectors[0], room.credentials[0]
    room.scheme.client(room.task, 0, vector, credentials=own, tasks=memory).start()
    for other in (CkksSum(room.directory, security=192), MaskedSum(room.directory)):
        with pytest.raises(PlanRejected, match="before"):
            other.client(room.task, 0, vector, credentials=own, tasks=memory).start()


def test_one_task_again_after_a_restart(tmp_path: Path) -> None:
    """The credentials come from their file, and so does what they took part in."""
    room = Room()
    save_credentials(tmp_path / "client", room.credentials[0])
    scheme, vector = room.scheme, room.vectors[0]
    scheme.client(room.task, 0, vector, credentials=load_credentials(tmp_path / "client")).start()
    with pytest.raises(PlanRejected):
        scheme.client(room.task, 0, vector, credentials=load_credentials(tmp_path / "client")).start()


def test_a_task_that_could_not_be_noted(tmp_path: Path) -> None:
    """A full or broken disk: the client says nothing, and that session never will."""
    room = Room()
    (tmp_path / "tasks").write_text("no folder")
    memory = TasksInFolder(tmp_path / "tasks")
    session = room.scheme.client(room.task, 0, room.vectors[0], credentials=room.credentials[0], tasks=memory)
    with pytest.raises(OSError, match="tasks"):
        session.start()
    assert session.state == "aborted"


def test_a_refused_task_costs_the_others_nothing() -> None:
    """To the server, whoever refuses has fallen silent."""
    room, memory = Room(), TasksInMemory()
    memory.begin(room.task.digest())
    absent = room.scheme.client(room.task, 4, room.vectors[4], credentials=room.credentials[4], tasks=memory)
    with pytest.raises(PlanRejected):
        absent.start()
    result = run_sum(
        room.scheme, room.task, room.vectors, credentials=room.credentials, drop=lambda client, step: client == 4
    )
    assert result.survivors == {0, 1, 2, 3}
