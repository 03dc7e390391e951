"""A server that gets one client into one task twice would open two sums that differ by that client's vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import Credentials, TasksInFolder, TasksInMemory, load_credentials, save_credentials
from privfl.errors import LocalProtocolError, PlanRejected, TooFewSurvivors
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask, run_sum

Make = Callable[..., Any]


def test_why_one_task_twice_opens_a_vector(play: Make) -> None:
    """Clients that forget: fresh secrets or not, two honest sums differ by the victim's vector."""
    everybody, without = play(), play().until(2).answer().send(silent=frozenset({4}))
    assert everybody.session == without.session
    victim = everybody.start().finish() - without.finish()
    np.testing.assert_array_equal(victim, everybody.vectors[4])


def test_one_task_in_two_sessions(play: Make, identities: Any) -> None:
    """Whoever keeps one credentials object is protected without doing anything."""
    game = play()
    own = Credentials(0, identities[0][0].signing, identities[0][0].box)
    first, second = (game.client(0, credentials=own, tasks=None) for _ in range(2))
    first.start()
    with pytest.raises(PlanRejected, match="a new attempt is a new context"):
        second.start()
    assert second.state == "aborted"
    with pytest.raises(LocalProtocolError):
        second.start()
    with pytest.raises(PlanRejected):
        game.client(0, credentials=own, tasks=None).start()


@pytest.mark.parametrize(
    "again",
    [
        {"share_threshold": 5},
        {"packed": True},
        {"graph": 4, "corrupt": 0, "share_threshold": 4},
        {"mode": "semi-honest"},
    ],
    ids=["threshold", "packing", "graph", "mode"],
)
def test_one_task_under_other_terms(play: Make, identities: Any, again: dict[str, Any]) -> None:
    """Other terms are another session, and the same vector: what is remembered is the task."""
    game, memory = play(), TasksInMemory()
    game.client(0, tasks=memory).start()
    scheme = MaskedSum(**again) if "mode" in again else MaskedSum(identities[1], **again)
    other = play(scheme=scheme)
    assert other.session != game.session
    with pytest.raises(PlanRejected):
        other.client(0, tasks=memory).start()


def test_one_task_again_after_a_restart(play: Make, identities: Any, tmp_path: Path) -> None:
    """The credentials come from their file, and so does what they took part in."""
    save_credentials(tmp_path / "client", identities[0][0])
    play().client(0, credentials=load_credentials(tmp_path / "client"), tasks=None).start()
    with pytest.raises(PlanRejected):
        play().client(0, credentials=load_credentials(tmp_path / "client"), tasks=None).start()
    play(context=b"round 1, attempt 1").client(0, credentials=load_credentials(tmp_path / "client"), tasks=None).start()


def test_an_old_task_after_many_others(play: Make) -> None:
    """Nothing is forgotten to make room: a server cannot wash a task out by others."""
    memory = TasksInMemory(100)
    play(context=b"the old one").client(0, tasks=memory).start()
    for number in range(99):
        memory.begin(number.to_bytes(32, "little"))
    with pytest.raises(PlanRejected, match="holds 100"):
        play(context=b"one more").client(0, tasks=memory).start()
    with pytest.raises(PlanRejected, match="before"):
        play(context=b"the old one").client(0, tasks=memory).start()


def test_a_task_that_could_not_be_noted(play: Make, tmp_path: Path) -> None:
    """A full or broken disk: the client says nothing, and that session never will."""
    (tmp_path / "tasks").write_text("no folder")
    session = play().client(0, tasks=TasksInFolder(tmp_path / "tasks"))
    with pytest.raises(OSError, match="tasks"):
        session.start()
    assert session.state == "aborted"
    assert session._own.seed == b""


def test_a_refused_task_costs_the_others_nothing(play: Make, identities: Any) -> None:
    """To the server, whoever refuses has fallen silent."""
    game = play()
    memory = TasksInMemory()
    memory.begin(game.task.digest())
    game.clients[4] = game.client(4, tasks=memory)
    with pytest.raises(PlanRejected):
        game.clients[4].start()
    game.uplink = {c: game.clients[c].start() for c in range(4)}
    game.send().finish()
    assert game.server.result.survivors == {0, 1, 2, 3}


def test_a_new_attempt_is_a_new_context(identities: Any) -> None:
    credentials = {c: Credentials(c, identities[0][c].signing, identities[0][c].box) for c in range(4)}
    scheme, vectors = MaskedSum(identities[1]), {c: np.array([c]) for c in range(4)}
    for attempt in (b"round 1, attempt 0", b"round 1, attempt 1"):
        task = SumTask(attempt, (0, 1, 2, 3), 2, 1, Ring(32), 10)
        assert run_sum(scheme, task, vectors, credentials=credentials).total.tolist() == [6]
        with pytest.raises(TooFewSurvivors) as caught:
            run_sum(scheme, task, vectors, credentials=credentials)
        assert isinstance(caught.value.__cause__, PlanRejected)
