"""Dropouts of every subset at every step, key rotation, and every message in every state."""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from privfl.crypto import Credentials, MemoryDirectory, generate_identities
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.client import CkksClient
from privfl.he.machine import CLIENT, SERVER
from privfl.he.messages import NAME, Deal, Dealt, UseKey
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.wire import HEADER_BYTES, Message, peek

STEPS = 6  # 0 never spoke; 1 as asked to deal; 2 after its key; 3 before consent; 4 as asked to open; 5 never


def task_of(clients: int, least: int, context: bytes = b"machine", length: int = 20) -> SumTask:
    return SumTask(context, tuple(range(clients)), least, length, Ring(23), 1000)


def vectors_of(task: SumTask) -> dict[int, Ints]:
    rng = np.random.default_rng(7)
    return {c: rng.integers(-1000, 1000, task.length) for c in task.clients}


@pytest.fixture(scope="module")
def people() -> tuple[dict[int, Credentials], MemoryDirectory]:
    credentials, directory = generate_identities(range(60))
    # One task is played many times here, which no client's own memory would allow.
    return {
        client: dataclasses.replace(own, tasks=SimpleNamespace(begin=len)) for client, own in credentials.items()
    }, directory


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


def check(people: tuple[dict[int, Credentials], MemoryDirectory], clients: int, pattern: dict[int, str]) -> bool:
    credentials, directory = people
    task = task_of(clients, 1)
    survivors = expected(pattern, range(clients), 1, clients // 2 + 1)
    if survivors is None:
        with pytest.raises(TooFewSurvivors):
            run_by_state(CkksSum(directory, min_vectors=1), task, credentials, pattern)
        return False
    assert run_by_state(CkksSum(directory, min_vectors=1), task, credentials, pattern)[1] == survivors
    return True


def test_every_pattern_of_three_clients(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    opened = [check(people, 3, pattern) for pattern in patterns(3)]
    assert 20 < sum(opened) < len(opened) == 6**3


@pytest.mark.slow
def test_every_pattern_of_four_clients(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    opened = [check(people, 4, pattern) for pattern in patterns(4)]
    assert 50 < sum(opened) < len(opened) == 6**4


def test_random_patterns_of_many_clients(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    rng = np.random.default_rng(11)
    states = ["advertise", "deal", "frame", "consent", "open", "done"]
    opened = 0
    for _ in range(12):
        clients = int(rng.integers(5, 20))
        chosen = rng.choice(states, clients, p=[0.06] * 5 + [0.7])
        opened += check(people, clients, dict(enumerate(map(str, chosen))))
    assert opened >= 6


def test_the_driver_with_random_dropouts_agrees_with_the_plain_sum(
    people: tuple[dict[int, Credentials], MemoryDirectory],
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


def test_below_the_threshold_nothing_is_opened(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    task = task_of(6, 5)
    with pytest.raises(TooFewSurvivors) as error:
        run_sum(CkksSum(directory), task, vectors_of(task), credentials=credentials, drop=lambda c, s: c < 2)
    assert (error.value.survivors, error.value.threshold) == (4, 5)
    task = task_of(6, 1)
    with pytest.raises(TooFewSurvivors) as error:
        run_sum(CkksSum(directory), task, vectors_of(task), credentials=credentials, drop=lambda c, s: c < 3)
    assert (error.value.survivors, error.value.threshold) == (3, 4)


def test_a_quorum_is_more_than_half_of_the_cohort(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
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
    people: tuple[dict[int, Credentials], MemoryDirectory],
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


# keys that last


def kinds(scheme: CkksSum, task: SumTask, credentials: Mapping[int, object]) -> set[int]:
    """Runs a sum and tells which kinds of message were sent."""
    seen: set[int] = set()
    vectors = vectors_of(task)
    result = run_sum(
        scheme,
        task,
        vectors,
        credentials=credentials,
        tap=lambda way, client, message: seen.add(peek(message, max_length=1 << 30)[0].kind),
    )
    assert np.array_equal(result.total, sum(vectors[c] for c in result.survivors))
    return seen


def test_a_session_key_is_dealt_anew_after_its_rotation(
    people: tuple[dict[int, Credentials], MemoryDirectory],
) -> None:
    credentials, directory = people
    scheme = CkksSum(directory)
    standing = {c: StandingCredentials(credentials[c], KeyStore(rotation=3)) for c in range(4)}
    dealt = [Deal.KIND in kinds(scheme, task_of(4, 1, bytes([n])), standing) for n in range(8)]
    assert dealt == [True, False, False, True, False, False, True, False]


def test_a_newcomer_makes_everybody_take_a_fresh_key(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    scheme = CkksSum(directory)
    standing = {c: StandingCredentials(credentials[c], KeyStore(rotation=9)) for c in range(5)}
    four = {c: standing[c] for c in range(4)}
    assert Deal.KIND in kinds(scheme, task_of(4, 1, b"1"), four)
    assert UseKey.KIND in kinds(scheme, task_of(4, 1, b"2"), four)
    before = standing[0].store.held
    assert Dealt.KIND in kinds(scheme, task_of(5, 1, b"3"), standing)
    assert standing[0].store.held not in (before, bytes(32))
    assert len({own.store.held for own in standing.values()}) == 1


def test_a_key_dealt_outside_is_used_as_it_is(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    shared = {c: dataclasses.replace(credentials[c], session_key=bytes(range(32))) for c in range(3)}
    for n in range(3):
        seen = kinds(CkksSum(directory), task_of(3, 1, bytes([n])), shared)
        assert UseKey.KIND in seen
        assert Deal.KIND not in seen


def test_fresh_keys_by_default(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    for n in range(2):
        assert Deal.KIND in kinds(CkksSum(directory), task_of(3, 1, bytes([n])), credentials)


def test_credentials_must_be_ones_own(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    task = task_of(3, 1)
    for bad in (None, b"key", credentials[1]):
        with pytest.raises(ConfigError):
            CkksSum(directory).client(task, 0, vectors_of(task)[0], credentials=bad)
    with pytest.raises(ConfigError):
        KeyStore(rotation=0)


# every message in every state


class Recorded:
    """One honest run, with what the server sent to client 1 (and to the dealer and the opener) at each step."""

    def __init__(self, people: tuple[dict[int, Credentials], MemoryDirectory], stop: str, client: int) -> None:
        credentials, directory = people
        self.task = task_of(3, 1)
        scheme, vectors = CkksSum(directory), vectors_of(self.task)
        self.server = scheme.server(self.task)
        self.sessions: dict[int, CkksClient] = {
            c: scheme.client(self.task, c, vectors[c], credentials=credentials[c]) for c in self.task.clients
        }
        self.inbox: dict[str, bytes] = {}
        self.client = client
        if self.sessions[client].state == stop:
            return
        for c, session in self.sessions.items():
            self.server.receive(c, session.start())
        while self.server.result is None and self.sessions[client].state != stop:
            for c, message in self.server.advance().items():
                if c == client:
                    self.inbox[self.server.step] = message
                if c == client and self.sessions[client].state == stop:
                    return
                answer = self.sessions[c].receive(message)
                assert answer is not None
                self.server.receive(c, answer)


def test_a_message_of_another_run_ends_the_session_or_changes_nothing(
    people: tuple[dict[int, Credentials], MemoryDirectory],
) -> None:
    """All server messages to the dealer and opener (client 0), offered in every state of a fresh run."""
    whole = Recorded(people, "opened", 0)
    assert list(whole.inbox) == ["deal", "frame", "consent", "open"]
    states = ["advertised", "dealing", "sent", "consented"]
    for number, state in enumerate(states):
        for step, message in enumerate(whole.inbox.values()):
            room = Recorded(people, state, 0)
            session = room.sessions[0]
            assert session.state == state
            # Of another run of the same task: even the message that is due names other keys. Survivor lists name
            # none, so that one is cut short instead.
            offered = message[:-1] if step == number == 2 else message
            # A later one changes nothing; the last one in other words is refused; an older one is ignored.
            if step < number - 1:
                assert session.receive(offered) is None
                assert session.state == state
                continue
            if (number, step) == (3, 2):  # the same list, which names no keys: the same answer once more
                assert session.receive(offered) == session.last_message
                continue
            cut = step == number == 2
            late = step != number and (number, step) != (0, 1)  # a dealt key is due at first too
            expected = (RemoteProtocolError, WireError) if late else (RemoteProtocolError, TooFewSurvivors, WireError)
            with pytest.raises(expected):
                session.receive(offered)
            assert session.state == (state if late or cut else "aborted")


def test_a_session_is_started_once_and_before_anything(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    task = task_of(3, 1)
    session = CkksSum(directory).client(task, 0, vectors_of(task)[0], credentials=credentials[0])
    session.start()
    with pytest.raises(LocalProtocolError):
        session.start()
    session = CkksSum(directory).client(task, 0, vectors_of(task)[0], credentials=credentials[0])
    with pytest.raises(LocalProtocolError):
        session.receive(b"")
    assert session.start()


def test_a_refused_deal_passes_to_the_next(people: tuple[dict[int, Credentials], MemoryDirectory]) -> None:
    credentials, directory = people
    task = task_of(4, 1)
    vectors = vectors_of(task)
    scheme = CkksSum(directory)
    server = scheme.server(task)
    sessions = {c: scheme.client(task, c, vectors[c], credentials=credentials[c]) for c in task.clients}
    for client, session in sessions.items():
        server.receive(client, session.start())
    (dealer,) = server.advance()
    assert dealer == 0
    with pytest.raises(RemoteProtocolError, match="one box for each other"):
        server.receive(0, Deal(bytes(32), bytes(64), ()).to_bytes(sender=0, task=task.digest()))
    assert 0 not in server.awaiting
    messages = server.advance()
    assert list(messages) == [1]
    while server.result is None:
        for client, message in messages.items():
            answer = sessions[client].receive(message)
            assert answer is not None
            server.receive(client, answer)
        if server.result is None:
            messages = server.advance()
    assert server.result.survivors == {1, 2, 3}
    assert set(server.result.blamed) == {0}
