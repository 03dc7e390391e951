"""Dropouts of every subset at every step, and the tables of the machine."""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from ckks_sums import People, task_of, vectors_of

from privfl.errors import ConfigError, TooFewSurvivors
from privfl.he import CkksSum
from privfl.he.machine import CLIENT, SERVER
from privfl.he.messages import NAME
from privfl.ring import Ints
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.wire import HEADER_BYTES, Message, peek

STEPS = 6  # 0 never spoke; 1 as asked to deal; 2 after its key; 3 before consent; 4 as asked to open; 5 never


def run_by_state(
    scheme: CkksSum, task: SumTask, credentials: Mapping[int, object], silent_from: Mapping[int, str]
) -> tuple[Ints, frozenset[int]]:
    """A sum in which each client falls silent once the server is in the state that `silent_from` names for it."""
    vectors = vectors_of(task)
    server = scheme.server(task)
    sessions = {c: scheme.client(task, c, vectors[c], credentials=credentials[c]) for c in task.clients}
    order = ["advertise", "deal", "frame", "consent", "open", "done"]

    def silent(client: int) -> bool:
        return order.index(server.step) >= order.index(silent_from.get(client, "done"))

    for client, session in sessions.items():
        message = session.start()
        if not silent(client):
            server.receive(client, message)
    while server.result is None:
        for client in set() if server.ready else server.awaiting:
            server.drop(client)
        for client, message in server.advance().items():
            if not silent(client):
                answer = sessions[client].receive(message)
                assert answer is not None
                server.receive(client, answer)
    assert np.array_equal(server.result.total, sum(vectors[c] for c in server.result.survivors))
    return server.result.total, server.result.survivors


def expected(silent_from: Mapping[int, str], clients: range, least: int, quorum: int) -> frozenset[int] | None:
    """Who should be in the sum, by the rules of SPEC.md; None if it must not be opened."""
    order = ["advertise", "deal", "frame", "consent", "open", "done"]

    def alive(state: str) -> list[int]:
        return [c for c in clients if order.index(silent_from.get(c, "done")) > order.index(state)]

    need = max(least, quorum)
    advertised = alive("advertise")
    if len(advertised) < need:
        return None
    # a client that falls silent while keys are dealt is only missed if it was asked to deal
    while advertised and advertised[0] not in alive("deal"):
        advertised.pop(0)
        if len(advertised) < need:
            return None
    framed = [c for c in advertised if c in alive("frame")]
    if len(framed) < need:
        return None
    voted = [c for c in framed if c in alive("consent")]
    if len(voted) < quorum or not [c for c in voted if c in alive("open")]:
        return None
    return frozenset(framed)


def patterns(clients: int) -> Iterator[dict[int, str]]:
    states = ["advertise", "deal", "frame", "consent", "open", "done"]
    for chosen in itertools.product(states, repeat=clients):
        yield dict(enumerate(chosen))


def check(people: People, clients: int, pattern: dict[int, str]) -> bool:
    credentials, directory = people
    task = task_of(clients, 1)
    survivors = expected(pattern, range(clients), 1, clients // 2 + 1)
    if survivors is None:
        with pytest.raises(TooFewSurvivors):
            run_by_state(CkksSum(directory, min_vectors=1), task, credentials, pattern)
        return False
    assert run_by_state(CkksSum(directory, min_vectors=1), task, credentials, pattern)[1] == survivors
    return True


def test_every_pattern_of_three_clients(people: People) -> None:
    opened = [check(people, 3, pattern) for pattern in patterns(3)]
    assert 20 < sum(opened) < len(opened) == 6**3


@pytest.mark.slow
def test_every_pattern_of_four_clients(people: People) -> None:
    opened = [check(people, 4, pattern) for pattern in patterns(4)]
    assert 50 < sum(opened) < len(opened) == 6**4


def test_random_patterns_of_many_clients(people: People) -> None:
    rng = np.random.default_rng(11)
    states = ["advertise", "deal", "frame", "consent", "open", "done"]
    opened = 0
    for _ in range(12):
        clients = int(rng.integers(5, 20))
        chosen = rng.choice(states, clients, p=[0.06] * 5 + [0.7])
        opened += check(people, clients, dict(enumerate(map(str, chosen))))
    assert opened >= 6


def test_the_driver_with_random_dropouts_agrees_with_the_plain_sum(
    people: People,
) -> None:
    credentials, directory = people
    rng = np.random.default_rng(2)
    for _ in range(10):
        task = task_of(8, 5)
        vectors = vectors_of(task)
        leaves = {int(c): int(rng.integers(0, STEPS)) for c in rng.choice(8, 3, replace=False)}
        result = run_sum(
            CkksSum(directory), task, vectors, credentials=credentials, drop=lambda c, s, at=leaves: at.get(c, 99) <= s
        )
        kept = {c: v for c, v in vectors.items() if c in result.survivors}
        plain = run_sum(PlainSum(), task, kept)
        assert np.array_equal(result.total, plain.total)
        assert set(task.clients) - set(leaves) <= result.survivors


def test_below_the_threshold_nothing_is_opened(people: People) -> None:
    credentials, directory = people
    task = task_of(6, 5)
    with pytest.raises(TooFewSurvivors) as error:
        run_sum(CkksSum(directory), task, vectors_of(task), credentials=credentials, drop=lambda c, s: c < 2)
    assert (error.value.survivors, error.value.threshold) == (4, 5)
    task = task_of(6, 1)
    with pytest.raises(TooFewSurvivors) as error:
        run_sum(CkksSum(directory), task, vectors_of(task), credentials=credentials, drop=lambda c, s: c < 3)
    assert (error.value.survivors, error.value.threshold) == (3, 4)


def test_a_quorum_is_more_than_half_of_the_cohort(people: People) -> None:
    _, directory = people
    assert [CkksSum(directory, min_vectors=1).terms(task_of(n, 1)).quorum for n in (1, 2, 3, 8, 9)] == [1, 2, 2, 5, 5]
    with pytest.raises(ConfigError):
        CkksSum(directory, security=100)


# the tables


MACHINE = Path(__file__).parents[2] / "protocols" / "ckks-sum" / "machine.toml"


def name(kind: type[Message] | None) -> str | None:
    return kind and kind.__name__


def test_machine_toml_says_what_the_code_does() -> None:
    told = tomllib.loads(MACHINE.read_text())
    kinds = {k for step in CLIENT for k in (step.receives, step.sends) if k is not None}
    up, down = {step.sends for step in CLIENT}, {step.receives for step in CLIENT}
    assert told["protocol"] == NAME
    assert told["header_bytes"] == HEADER_BYTES
    assert {m["name"]: (m["kind"], m["direction"], m["fields"]) for m in told["message"]} == {
        kind.__name__: (
            kind.KIND,
            "up" if kind in up else "down" if kind in down else "",
            [field.name for field in dataclasses.fields(kind)],  # type: ignore[arg-type]
        )
        for kind in kinds
    }
    assert {(t["state"], t.get("receives"), t["sends"], t["then"]) for t in told["client"]} == {
        (t.state, name(t.receives), name(t.sends), t.then) for t in CLIENT
    }
    assert {(t["step"], t["collects"], t.get("sends"), t["then"]) for t in told["server"]} == {
        (t.state, name(t.receives), name(t.sends), t.then) for t in SERVER
    }


def test_every_transition_of_the_tables_is_walked_and_no_other(
    people: People,
) -> None:
    """Over all patterns in which at most one of three clients falls silent, and one sum under a held key."""
    credentials, directory = people
    shared = {c: dataclasses.replace(credentials[c], session_key=bytes(32)) for c in range(3)}
    by_kind = {step.sends.KIND: step.sends for step in SERVER if step.sends is not None}
    clients: set[tuple[str, str | None, str]] = set()
    servers: set[tuple[str, str | None, str]] = set()
    alone = [pattern for pattern in patterns(3) if [*pattern.values()].count("done") >= 2]
    for pattern in [*alone, {}]:
        task = task_of(3, 1)
        scheme, vectors = CkksSum(directory, min_vectors=1), vectors_of(task)
        own = credentials if pattern else shared
        order = ["advertise", "deal", "frame", "consent", "open", "done"]
        server = scheme.server(task)
        sessions = {c: scheme.client(task, c, vectors[c], credentials=own[c]) for c in task.clients}
        for client, session in sessions.items():
            message = session.start()
            clients.add(("new", None, session.state))
            if pattern.get(client, "done") != "advertise":
                server.receive(client, message)
        while server.result is None:
            before = server.step
            for client in set() if server.ready else server.awaiting:
                server.drop(client)
            try:
                messages = server.advance()
            except TooFewSurvivors:
                break
            for client, message in messages.items():
                kind = by_kind[peek(message, max_length=1 << 30)[0].kind].__name__
                servers.add((before, kind, server.step))
                if order.index(server.step) < order.index(pattern.get(client, "done")):
                    state, open_step = sessions[client].state, server.step
                    answer = sessions[client].receive(message)
                    clients.add((state, kind, sessions[client].state))
                    assert answer is not None
                    server.receive(client, answer)
                    if server.result is not None:
                        servers.add((open_step, None, server.step))
    assert clients == {(t.state, name(t.receives), t.then) for t in CLIENT}
    assert servers == {(t.state, name(t.sends), t.then) for t in SERVER}
