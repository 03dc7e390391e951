"""The server of a CKKS sum is written out and read back at every step, before and amid the messages."""

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import RemoteProtocolError, StateError, TooFewSurvivors
from privfl.he import CkksSum
from privfl.he.messages import Consent
from privfl.ring import Ring
from privfl.sums import SumTask

CLIENTS = (0, 1, 2, 3, 4)


@pytest.mark.parametrize("silent", [{}, {0: "deal"}, {3: "frame"}, {4: "consent"}, {0: "open"}])
@pytest.mark.parametrize("length", [5, 3000])
def test_a_server_resumes_anywhere(silent: dict[int, str], length: int) -> None:
    credentials, directory = generate_identities(CLIENTS)
    scheme, task = CkksSum(directory), SumTask(b"resume", CLIENTS, 3, length, Ring(23), 100)
    vectors = {c: np.arange(length) % 50 + c for c in CLIENTS}
    sessions = {c: scheme.client(task, c, vectors[c], credentials=credentials[c]) for c in CLIENTS}
    server = scheme.server(task)
    uplink = {c: session.start() for c, session in sessions.items()}
    gone: set[int] = set()
    while server.result is None:
        for client, message in uplink.items():
            state = server.to_bytes()
            server = scheme.resume(task, state)
            assert server.to_bytes() == state
            if client in gone or silent.get(client) == server.step:
                gone.add(client)
                continue
            server.receive(client, message)
        if server.result is None:
            uplink = {c: sessions[c].receive(m) or b"" for c, m in server.advance().items()}
    kept = {c for c in CLIENTS if silent.get(c) not in ("deal", "frame")}
    assert server.result.survivors == kept
    np.testing.assert_array_equal(server.result.total, sum(vectors[c] for c in kept))
    with pytest.raises(StateError, match="over"):
        server.to_bytes()


def test_blame_and_what_was_opened_survive_a_restart() -> None:
    credentials, directory = generate_identities(CLIENTS)
    scheme, task = CkksSum(directory), SumTask(b"blame", CLIENTS, 3, 4, Ring(23), 9)
    sessions = {c: scheme.client(task, c, np.ones(4, np.int64), credentials=credentials[c]) for c in CLIENTS}
    server = scheme.server(task)
    mail = {c: session.start() for c, session in sessions.items()}
    while server.step != "open":
        for client, message in mail.items():
            if (client, server.step) == (4, "consent"):
                with pytest.raises(RemoteProtocolError):
                    server.receive(4, Consent(bytes(64)).to_bytes(sender=4, task=task.digest()))
            else:
                server.receive(client, message)
        mail = {c: sessions[c].receive(m) or b"" for c, m in server.advance().items()}
    server = scheme.resume(task, server.to_bytes())
    assert set(server.blamed) == {4}
    for _ in range(3):
        server.advance()  # each opener in turn drops out
    for client in server.awaiting:
        server.drop(client)
    with pytest.raises(TooFewSurvivors) as caught:
        server.advance()
    assert caught.value.opened


def test_states_that_are_no_states() -> None:
    _, directory = generate_identities(CLIENTS)
    scheme = CkksSum(directory)
    task, other = (SumTask(context, CLIENTS, 3, 4, Ring(23), 9) for context in (b"one", b"two"))
    state = scheme.server(task).to_bytes()
    for bad in (b"", state[:-1], state + b"\0", b"x" + state[1:], state[:80] + b"\xff" + state[81:]):
        with pytest.raises(StateError):
            scheme.resume(task, bad)
    with pytest.raises(StateError, match="other terms"):
        scheme.resume(other, state)
