"""Every message of the server delivered to every client that it is not for, after every step of a masked and a CKKS
sum: no session changes, and the message that is due gets its answer afterwards. Lists that a transport broadcasts reach
clients that dropped out too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privfl.crypto import Credentials, generate_identities
from privfl.errors import LocalProtocolError, WireError
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he import messages as ckks
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg import messages as masked
from privfl.sums import SecureSum, SumTask
from privfl.wire import HEADER_BYTES, SERVER, Addressed, ClientId, Header, peek

CREDENTIALS, DIRECTORY = generate_identities(range(10))
ADDRESSED = {
    kind.KIND: kind
    for kind in (*masked.MESSAGES, *vars(ckks).values())
    if isinstance(kind, type) and issubclass(kind, Addressed) and kind is not Addressed
}
MASKED: dict[str, Any] = {
    "signed": (5, MaskedSum(DIRECTORY)),
    "semi-honest": (5, MaskedSum(mode="semi-honest")),
    "signed-ring": (10, MaskedSum(DIRECTORY, graph=6, share_threshold=4, corrupt=0, dropout=0.3)),
    "semi-honest-ring": (10, MaskedSum(mode="semi-honest", graph=6, share_threshold=4, corrupt=0, dropout=0.3)),
}
SILENT: dict[str, dict[ClientId, str]] = {
    "nobody": {},
    "one-before-its-keys": {3: "AdvertiseKeys"},
    "one-before-its-boxes": {0: "ShareKeys"},
    "one-before-its-vector": {1: "MaskedInput"},
    "one-before-its-shares": {2: "Unmask"},
}
NOTHING = SimpleNamespace(begin=len)  # tasks are repeated here, which no client's own memory would allow


def header(message: bytes) -> Header:
    return peek(message, max_length=len(message))[0]


def contents(session: Any) -> dict[str, Any]:
    """Everything that a session holds, its secrets one by one, to be compared by identity."""
    held = dict(vars(session))
    secrets = held.get("_secrets")
    if secrets is not None:
        held |= {f"secrets.{name}": getattr(secrets, name) for name in type(secrets).__slots__}
    return held


def saved(session: Any) -> bytes:
    """What a session would save; nothing where it cannot be saved."""
    return b"" if session.state == "aborted" or not hasattr(session, "_words") else session._dump()


def deliver_to_others(sessions: Mapping[ClientId, Any], sent: list[tuple[ClientId, bytes]]) -> int:
    """Deliver each of the messages to every client that it is not for; return the number of deliveries."""
    count = 0
    for client, session in sessions.items():
        before, state = contents(session), saved(session)
        for receiver, message in sent:
            for cut in (shortened(message), *([message] if client != receiver else [])):
                with pytest.raises(WireError):
                    session.receive(cut)
                count += 1
        after = contents(session)
        assert before.keys() == after.keys()
        assert all(after[name] is before[name] for name in before)
        assert saved(session) == state
    return count


def broadcast(sessions: Mapping[ClientId, Any], mail: Mapping[ClientId, bytes]) -> int:
    """Deliver a list that all of `mail` get to all other clients too; return the number of these."""
    lists = {message for message in mail.values() if header(message).kind not in ADDRESSED}
    others = {client: session for client, session in sessions.items() if client not in mail}
    for message in lists:
        for session in others.values():
            before, state = contents(session), saved(session)
            with pytest.raises(WireError, match=r"dropped out of this sum|not due"):
                session.receive(message)
            after = contents(session)
            assert all(after[name] is before[name] for name in before)
            assert saved(session) == state
    return len(others) * len(lists)


def shortened(message: bytes) -> bytes:
    """The message with a body that ends inside the receiver, under a header that fits."""
    return message[: HEADER_BYTES - 4] + (3).to_bytes(4, "little") + message[HEADER_BYTES : HEADER_BYTES + 3]


def play(
    scheme: SecureSum, task: SumTask, credentials: Mapping[ClientId, Any], silent_from: Mapping[ClientId, str]
) -> tuple[int, set[str], int]:
    """A sum in which every message so far goes to all other clients after each step; the deliveries, the kinds, and the
    deliveries of lists to clients that dropped out.

    A client of `silent_from` answers nothing from that step of the server on.
    """
    rng = np.random.default_rng(3)
    vectors = {c: rng.integers(-task.bound, task.bound, task.length) for c in task.clients}
    server: Any = scheme.server(task)
    sessions: dict[ClientId, Any] = {
        c: scheme.client(task, c, vectors[c], credentials=credentials[c]) for c in task.clients
    }
    uplink = {c: session.start() for c, session in sessions.items()}
    sent: list[tuple[ClientId, bytes]] = []
    silent: set[ClientId] = set()
    count, lists = 0, 0
    while True:
        silent |= {client for client, name in silent_from.items() if name == server.step}
        for client, message in uplink.items():
            if client not in silent:
                server.receive(client, message)
        for client in set(server.awaiting) if not server.ready else set():
            server.drop(client)
        mail = server.advance() if server.result is None else {}
        if not mail:
            break
        lists += broadcast(sessions, mail)
        sent += [(client, message) for client, message in mail.items() if header(message).kind in ADDRESSED]
        count += deliver_to_others(sessions, sent)
        uplink = {client: sessions[client].receive(message) for client, message in mail.items()}
        assert None not in uplink.values()
        count += deliver_to_others(sessions, sent)
    result = server.result
    assert result is not None
    np.testing.assert_array_equal(result.total, sum(vectors[c] for c in sorted(result.survivors)))
    assert len(result.survivors) >= len(task.clients) - len(silent)
    return count, {ADDRESSED[header(message).kind].__name__ for _, message in sent}, lists


@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("form", MASKED)
def test_a_message_of_a_masked_sum_for_another_client(form: str, silent: str) -> None:
    clients, scheme = MASKED[form]
    task = SumTask(b"misrouted", tuple(range(clients)), 2, 3, Ring(32), 1 << 20)
    own = {c: replace(CREDENTIALS[c], tasks=NOTHING) if form.startswith("signed") else None for c in task.clients}
    count, kinds, lists = play(scheme, task, own, SILENT[silent])
    assert (lists > 0) == (silent not in ("nobody", "one-before-its-shares"))
    assert count > 100
    assert kinds == ({"Boxes", "Signatures"} if form.startswith("signed") else {"Boxes"})


@pytest.mark.parametrize("silent", [{}, {0: "deal"}, {3: "frame"}, {0: "open", 1: "open"}, {1: "deal", 4: "consent"}])
def test_a_message_of_a_ckks_sum_for_another_client(silent: dict[ClientId, str]) -> None:
    task = SumTask(b"misrouted", tuple(range(6)), 2, 20, Ring(23), 1000)
    own = {c: replace(CREDENTIALS[c], tasks=NOTHING) for c in task.clients}
    count, kinds, lists = play(CkksSum(DIRECTORY), task, own, silent)
    assert (lists > 0) == bool({"deal", "frame"}.intersection(silent.values()))
    assert count > 100
    assert kinds == {"AskDealer", "Dealt", "AskOpener"}


def test_a_message_of_a_ckks_sum_with_a_held_key_for_another_client() -> None:
    clients = tuple(range(4))
    own: dict[ClientId, Credentials] = {
        c: StandingCredentials(replace(CREDENTIALS[c], tasks=NOTHING), KeyStore(rotation=3)) for c in clients
    }
    kinds = [
        play(CkksSum(DIRECTORY), SumTask(context, clients, 2, 20, Ring(23), 1000), own, {})[1]
        for context in (b"deals", b"holds")
    ]
    assert kinds == [{"AskDealer", "Dealt", "AskOpener"}, {"AskOpener"}]


def test_a_client_that_has_not_started_refuses_every_message() -> None:
    scheme = MaskedSum(mode="semi-honest")
    task = SumTask(b"misrouted", (0, 1, 2), 2, 3, Ring(32), 1 << 20)
    session = scheme.client(task, 0, np.zeros(3, np.int64))
    boxes = masked.Boxes(1, masked.Bitmap.of(3, range(3)), b"")
    with pytest.raises(LocalProtocolError, match="has not started"):
        session.receive(boxes.to_bytes(sender=SERVER, task=scheme.terms(task).digest()))
    assert session.start()
