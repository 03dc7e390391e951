"""Every state x message pair of both parties, the tables against machine.toml, and resuming at every step."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import (
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    StateError,
    TooFewSurvivors,
    WireError,
)
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.client import MaskedClient
from privfl.secagg.machine import CLIENT_DONE, SERVER_DONE, client_table, server_table
from privfl.secagg.messages import MESSAGES, AdvertiseKeys
from privfl.secagg.server import MaskedServer
from privfl.sums import SumTask
from privfl.sums.base import identity
from privfl.sums.session import CLOSED, Transition
from privfl.wire import HEADER_BYTES

CLIENTS = (0, 3, 4, 9)
CREDENTIALS, DIRECTORY = generate_identities(CLIENTS)
# One task is played many times here, which no client's own memory would allow.
CREDENTIALS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}
SCHEMES = {"signed": MaskedSum(DIRECTORY), "semi-honest": MaskedSum(mode="semi-honest")}
TASK = SumTask(b"machine", CLIENTS, 2, 3, Ring(24), 1000)
VECTORS = {c: np.array([c, -c, 1]) for c in CLIENTS}
MACHINE = Path(__file__).parents[2] / "protocols" / "masked-sum" / "machine.toml"


def play(mode: str) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]], dict[str, bytes], dict[str, bytes]]:
    """An honest run: (state, copy) of client 0 and of the server before each message, and all messages by name."""
    scheme = SCHEMES[mode]
    clients = {c: scheme.client(TASK, c, VECTORS[c], credentials=CREDENTIALS[c]) for c in CLIENTS}
    server = scheme.server(TASK)
    names = {message.KIND: message.__name__ for message in MESSAGES}
    mine, servers, down, up = [], [], {}, {}

    def name(message: bytes) -> str:
        return names[int.from_bytes(message[5:7], "little")]

    uplink = {c: session.start() for c, session in clients.items()}
    while True:
        up[name(uplink[0])] = uplink[0]
        servers.append((server.state.step, copy.deepcopy(server)))
        for client, message in uplink.items():
            server.receive(client, message)
        mail = server.advance()
        if server.result is not None:
            break
        down[name(mail[0])] = mail[0]
        mine.append((clients[0].state, copy.deepcopy(clients[0])))
        uplink = {c: clients[c].receive(m) or b"" for c, m in mail.items()}
    mine.append((clients[0].state, clients[0]))
    servers.append((server.state.step, server))
    return mine, servers, down, up


@pytest.mark.parametrize("mode", SCHEMES)
def test_client_takes_in_each_state_only_what_the_table_says(mode: str) -> None:
    """The due message is answered; the last one gets the same answer, an older one none; all else changes nothing."""
    mine, _, down, up = play(mode)
    table = client_table(signed=mode == "signed")
    rows = {row.state: row for row in table}
    order = [row.receives.__name__ for row in table if row.receives is not None]
    assert [state for state, _ in mine] == [*[row.state for row in table][1:], CLIENT_DONE]
    for (state, session), (name, message) in itertools.product(mine, {**down, **up}.items()):
        fork: MaskedClient = copy.deepcopy(session)
        row = rows.get(state)
        answered = order if row is None or row.receives is None else order[: order.index(row.receives.__name__)]
        if row is not None and row.receives is not None and name == row.receives.__name__:
            answer = fork.receive(message)
            assert answer is not None
            assert row.sends is not None
            assert int.from_bytes(answer[5:7], "little") == row.sends.KIND
            assert fork.state == row.then
            assert fork.receive(message) == answer
            assert fork.state == row.then
            continue
        if name in answered:
            expected = fork.last_message if name == answered[-1] else None
            assert fork.receive(message) == expected
        else:
            with pytest.raises(WireError):
                fork.receive(message)
        assert fork.state == state
        if row is not None and row.receives is not None:
            assert fork.receive(down[row.receives.__name__]) is not None


@pytest.mark.parametrize("mode", SCHEMES)
def test_server_takes_in_each_step_only_what_the_table_says(mode: str) -> None:
    """The due message is taken once; earlier ones are ignored; all else changes nothing."""
    _, servers, down, up = play(mode)
    table = server_table(signed=mode == "signed")
    order = [row.receives.__name__ for row in table if row.receives is not None]
    assert [step for step, _ in servers] == [*[row.state for row in table], SERVER_DONE]
    for (step, session), (name, message) in itertools.product(servers, {**down, **up}.items()):
        fork: MaskedServer = copy.deepcopy(session)
        at = len(order) if step == SERVER_DONE else [row.state for row in table].index(step)
        if name in order[:at]:
            fork.receive(0, message)
            assert fork.awaiting == session.awaiting
        elif name in order[at : at + 1]:
            fork.receive(0, message)
            assert fork.awaiting == set(CLIENTS) - {0}
            saved = fork.to_bytes()
            fork.receive(0, message)
            assert fork.to_bytes() == saved
        else:
            with pytest.raises((WireError, LocalProtocolError)):
                fork.receive(0, message)
            assert fork.awaiting == session.awaiting
        assert not fork.blamed
        with pytest.raises(WireError):
            fork.receive(7, message)


@pytest.mark.parametrize("mode", SCHEMES)
def test_an_early_advance_changes_nothing_at_any_step(mode: str) -> None:
    for step, session in play(mode)[1]:
        if step == SERVER_DONE:
            assert not session.ready
            continue
        saved = session.to_bytes()
        assert not session.ready
        with pytest.raises(LocalProtocolError, match="too early"):
            session.advance()
        assert session.to_bytes() == saved


@pytest.mark.parametrize("mode", SCHEMES)
def test_too_few_that_are_left_close_the_server_at_every_step(mode: str) -> None:
    for step, session in play(mode)[1]:
        if step == SERVER_DONE:
            continue
        for client in CLIENTS:
            session.drop(client)
        assert not session.ready
        with pytest.raises(TooFewSurvivors) as caught:
            session.advance()
        assert caught.value.opened == (step == "Unmask")
        assert session.step == CLOSED
        assert not session.awaiting
        for call in (session.advance, lambda s=session: s.receive(0, b"")):
            with pytest.raises(LocalProtocolError):
                call()
        with pytest.raises(StateError, match="over"):
            session.to_bytes()


@pytest.mark.parametrize("mode", SCHEMES)
def test_the_server_is_ready_exactly_when_it_can_advance(mode: str) -> None:
    """Messages come one by one; the threshold is three of four."""
    scheme = SCHEMES[mode]
    clients = {c: scheme.client(TASK, c, VECTORS[c], credentials=CREDENTIALS[c]) for c in CLIENTS}
    server = scheme.server(TASK)
    uplink = {c: session.start() for c, session in clients.items()}
    while server.result is None:
        seen = []
        for client, message in uplink.items():
            fork: MaskedServer = copy.deepcopy(server)
            seen.append(server.ready)
            if server.ready:
                fork.advance()
            else:
                with pytest.raises(LocalProtocolError):
                    fork.advance()
            server.receive(client, message)
        assert server.ready
        assert seen == [False, False, False, True]
        uplink = {c: clients[c].receive(m) or b"" for c, m in server.advance().items()}


def test_machine_toml_says_what_the_code_does() -> None:
    written = tomllib.loads(MACHINE.read_text())
    assert written["protocol"] == MaskedSum.name
    assert written["header_bytes"] == HEADER_BYTES
    up = {row.sends for row in client_table(signed=True)}
    assert written["message"] == [
        {
            "name": message.__name__,
            "kind": message.KIND,
            "direction": "up" if message in up else "down",
            "fields": [field.name for field in dataclasses.fields(message)],
        }
        for message in MESSAGES
    ]
    modes = {"signed": True, "semi-honest": False}
    clients = [(m, row) for m, signed in modes.items() for row in client_table(signed=signed)]
    servers = [(m, row) for m, signed in modes.items() for row in server_table(signed=signed)]
    assert written["client"] == [entry(mode, row, "receives", "state") for mode, row in clients]
    assert written["server"] == [entry(mode, row, "collects", "step") for mode, row in servers]


def entry(mode: str, row: Transition, receives: str, state: str) -> dict[str, str]:
    named = {state: row.state, receives: row.receives, "sends": row.sends, "then": row.then}
    return {"mode": mode} | {
        key: value if isinstance(value, str) else value.__name__ for key, value in named.items() if value is not None
    }


# --- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SCHEMES)
@pytest.mark.parametrize("half", [False, True], ids=["after a step", "within a step"])
def test_server_resumes_anywhere(mode: str, half: bool) -> None:
    """The session is written out and read back at every step, before or amid the messages; one client drops out."""
    scheme = SCHEMES[mode]
    clients = {c: scheme.client(TASK, c, VECTORS[c], credentials=CREDENTIALS[c]) for c in CLIENTS}
    server = scheme.server(TASK)
    uplink = {c: session.start() for c, session in clients.items()}
    while server.result is None:
        for index, (client, message) in enumerate(uplink.items()):
            if index == (2 if half else 0):
                state = server.to_bytes()
                server = scheme.resume(TASK, state)
                assert server.to_bytes() == state
            if (client, server.state.step) != (4, "MaskedInput"):
                server.receive(client, message)
        uplink = {c: clients[c].receive(m) or b"" for c, m in server.advance().items()}
    assert server.result.survivors == {0, 3, 9}
    assert server.result.total.tolist() == [12, -12, 3]


def test_blame_survives_a_restart() -> None:
    server = SCHEMES["signed"].server(TASK)
    forged = AdvertiseKeys(bytes(64), bytes(64)).to_bytes(sender=0, task=SCHEMES["signed"].terms(TASK).digest())
    with pytest.raises(RemoteProtocolError):
        server.receive(0, forged)
    again = SCHEMES["signed"].resume(TASK, server.to_bytes())
    assert again.state.blamed == server.state.blamed
    assert again.awaiting == {3, 4, 9}


def test_opening_is_given_anew_after_a_restart() -> None:
    scheme = SCHEMES["semi-honest"]
    _, servers, _, _ = play("semi-honest")
    server = scheme.resume(TASK, servers[3][1].to_bytes(), opening=lambda total, survivors: total + len(survivors))
    up = play("semi-honest")[3]  # of other sessions: their shares do not fit this server
    server.receive(0, up["AdvertiseKeys"])  # late: ignored
    assert server.awaiting == set(CLIENTS)
    server.receive(0, up["Unmask"])
    assert server.awaiting == {3, 4, 9}


def test_states_that_are_no_states() -> None:
    scheme, state = SCHEMES["signed"], SCHEMES["signed"].server(TASK).to_bytes()
    other = SumTask(b"another", CLIENTS, 2, 3, Ring(24), 1000)
    for bad in (b"", state[:-1], state + b"\0", b"x" + state[1:], state[:50] + b"\xff" + state[51:]):
        with pytest.raises(StateError):
            scheme.resume(TASK, bad)
    with pytest.raises(StateError, match="other terms"):
        scheme.resume(other, state)
    with pytest.raises(StateError, match="other terms"):
        SCHEMES["semi-honest"].resume(TASK, state)


@pytest.mark.parametrize(("at", "value"), [(0, b"\x09"), (1, b"\x0b"), (1, b"\x08"), (1, b"\x0d")])
def test_states_that_are_not_canonical(at: int, value: bytes) -> None:
    """A right hash over a step that does not exist, a vector of 11 bytes, and one of two values."""
    state = bytearray(SCHEMES["signed"].server(TASK).to_bytes()[:-32])
    fields = len(b"privfl/1 masked-sum server state") + 32
    if at == 1:
        size = value[0]
        state[fields + 1 : fields + 21] = size.to_bytes(8, "little") + bytes(size)
    else:
        state[fields : fields + 1] = value
    with pytest.raises(StateError):
        SCHEMES["signed"].resume(TASK, bytes(state) + hashlib.sha256(state).digest())


def test_sessions_check_that_keys_and_terms_fit() -> None:
    signed, plain = SCHEMES["signed"].terms(TASK), SCHEMES["semi-honest"].terms(TASK)
    for terms, directory in ((signed, None), (plain, DIRECTORY)):
        with pytest.raises(ConfigError, match="signed terms"):
            MaskedServer(terms, directory=directory, opening=identity, threads=1)
        with pytest.raises(ConfigError, match="signed terms"):
            MaskedClient(
                terms,
                0,
                VECTORS[0],
                signing=None,
                directory=directory,
                tasks=None,
                entropy=lambda n: bytes(range(n)),
                threads=1,
            )
