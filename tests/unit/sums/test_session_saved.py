"""Saved client sessions: they go on, hold no long-term key, and are restored at most once."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import (
    Credentials,
    TasksInFolder,
    TasksInMemory,
    generate_identities,
    load_credentials,
    save_credentials,
)
from privfl.errors import ConfigError, LocalProtocolError, PlanRejected, StateError, TooFewSurvivors, WireError
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.client import MaskedClient
from privfl.secagg.messages import Bitmap, Survivors
from privfl.secagg.server import MaskedServer
from privfl.sums import SessionStore, SumTask
from privfl.wire import SERVER

CLIENTS = (0, 1, 2, 3)
CREDENTIALS, DIRECTORY = generate_identities(CLIENTS)
SIGNED = MaskedSum(DIRECTORY)
RING = MaskedSum(mode="semi-honest", graph=2, share_threshold=2, corrupt=0.0, dropout=0.0)
SCHEMES = {
    "signed": SIGNED,
    "semi-honest": MaskedSum(mode="semi-honest"),
    "packed": MaskedSum(DIRECTORY, packed=True),
    "ring": RING,
}


def fresh() -> dict[int, Credentials]:
    return {c: Credentials(c, own.signing, own.box) for c, own in CREDENTIALS.items()}


class Room:
    """A sum of four clients, each with a memory of its own."""

    def __init__(self, scheme: MaskedSum = SIGNED, context: bytes = b"saved") -> None:
        self.scheme, self.task = scheme, SumTask(context, CLIENTS, 3, 3, Ring(24), 9)
        self.memory: dict[int, Any] = {c: TasksInMemory() for c in CLIENTS}
        self.server: MaskedServer = scheme.server(self.task)
        self.sessions = {c: self.client(c) for c in CLIENTS}

    def client(self, me: int) -> MaskedClient:
        vector = np.full(3, me)
        return self.scheme.client(self.task, me, vector, credentials=CREDENTIALS[me], tasks=self.memory[me])

    def restored(self, me: int, state: bytes) -> MaskedClient:
        return self.scheme.resume_client(self.task, me, state, credentials=CREDENTIALS[me], tasks=self.memory[me])

    def start(self) -> dict[int, bytes]:
        for client, session in self.sessions.items():
            self.server.receive(client, session.start())
        return dict(self.server.advance())

    def deliver(self, mail: dict[int, bytes]) -> dict[int, bytes]:
        for client, message in mail.items():
            answer = self.sessions[client].receive(message)
            assert answer is not None
            self.server.receive(client, answer)
        return dict(self.server.advance())

    def until(self, step: str) -> dict[int, bytes]:
        mail = self.start()
        while self.server.step != step:
            mail = self.deliver(mail)
        return mail

    def finish(self, mail: dict[int, bytes]) -> None:
        while self.server.result is None:
            mail = self.deliver(mail)
        assert self.server.result.total.tolist() == [6, 6, 6]
        assert self.server.result.survivors == set(CLIENTS)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_client_and_the_server_are_killed_after_every_message(name: str) -> None:
    room = Room(SCHEMES[name], context=name.encode())
    for client in CLIENTS:
        room.server.receive(client, room.sessions[client].start())
        room.server = room.scheme.resume(room.task, room.server.to_bytes())
    while room.server.result is None:
        mail = room.server.advance()
        if room.server.result is None:
            room.server = room.scheme.resume(room.task, room.server.to_bytes())
        for client, message in mail.items():
            room.sessions[client] = room.restored(client, room.sessions[client].to_bytes())
            answer = room.sessions[client].receive(message)
            assert answer is not None
            room.sessions[client] = room.restored(client, room.sessions[client].to_bytes())
            assert room.sessions[client].receive(message) == answer == room.sessions[client].last_message
            room.server.receive(client, answer)
            room.server = room.scheme.resume(room.task, room.server.to_bytes())
    assert room.server.result.total.tolist() == [6, 6, 6]


def test_a_server_that_lost_messages_gets_them_again() -> None:
    """It was saved after `advance`, took the answers, and died: the same messages bring the same answers."""
    room = Room()
    mail = room.start()
    while room.server.result is None:
        saved = room.server.to_bytes()
        for client, message in mail.items():
            room.server.receive(client, room.sessions[client].receive(message) or b"")
        room.server = room.scheme.resume(room.task, saved)
        mail = room.deliver(mail)
    assert room.server.result.total.tolist() == [6, 6, 6]


@pytest.mark.parametrize("step", ["ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"])
def test_the_bytes_hold_no_long_term_key_and_the_vector_only_until_it_is_sent(step: str) -> None:
    room = Room()
    room.until(step)
    state = room.sessions[2].to_bytes()
    assert CREDENTIALS[2].signing.secret not in state
    assert CREDENTIALS[2].box.secret not in state
    words = room.task.ring.reduce(np.full(3, 2)).tobytes()
    assert (words in state) == (step in ("ShareKeys", "MaskedInput"))
    assert "secret" not in repr(room.sessions[2]._peers)


def test_one_state_is_restored_at_most_once_whoever_asks(tmp_path: Path) -> None:
    """A folder of tasks is shared by all processes of the client."""
    room = Room()
    room.memory[0] = TasksInFolder(tmp_path / "tasks")
    room.sessions[0] = room.client(0)
    mail = room.until("ConsistencyCheck")
    state = room.sessions[0].to_bytes()
    room.sessions[0] = room.restored(0, state)
    for memory in (room.memory[0], TasksInFolder(tmp_path / "tasks")):
        room.memory[0] = memory
        with pytest.raises(StateError, match="restored before"):
            room.restored(0, state)
    room.finish(mail)


def test_a_session_that_went_on_leaves_its_saved_state_behind() -> None:
    """Else the two of them could sign two lists of survivors."""
    room = Room()
    mail = room.until("ConsistencyCheck")
    state = room.sessions[0].to_bytes()
    assert room.sessions[0].receive(mail[0]) is not None
    with pytest.raises(StateError, match="went on"):
        room.restored(0, state)


def test_a_session_whose_state_was_restored_answers_nothing_more() -> None:
    room = Room()
    mail = room.until("ConsistencyCheck")
    left, last = room.sessions[0], room.sessions[0].last_message
    room.sessions[0] = room.restored(0, left.to_bytes())
    other = Survivors(Bitmap.of(4, (0, 1, 2))).to_bytes(sender=SERVER, task=room.scheme.terms(room.task).digest())
    assert left.last_message == last
    with pytest.raises(LocalProtocolError, match="goes on elsewhere"):
        left.receive(other)
    assert left.state == "aborted"
    room.finish(mail)


def test_an_aborted_session_takes_its_saved_state_with_it() -> None:
    room = Room()
    room.until("ConsistencyCheck")
    state = room.sessions[0].to_bytes()
    lie = Survivors(Bitmap.of(4, (0,))).to_bytes(sender=SERVER, task=room.scheme.terms(room.task).digest())
    with pytest.raises(TooFewSurvivors):
        room.sessions[0].receive(lie)
    with pytest.raises(StateError, match="restored before"):
        room.restored(0, state)
    with pytest.raises(StateError, match="nothing to save"):
        room.sessions[0].to_bytes()


def test_what_cannot_be_saved_or_restored() -> None:
    room = Room()
    with pytest.raises(StateError, match="not started"):
        room.sessions[0].to_bytes()
    room.start()
    state = room.sessions[0].to_bytes()
    for bad in (b"", state[:-1], state + b"\0", b"x" + state[1:], state[:80] + b"\xff" + state[81:]):
        with pytest.raises(StateError):
            room.restored(0, bad)
    with pytest.raises(StateError, match="other terms"):
        Room(context=b"another").restored(0, state)
    with pytest.raises(StateError, match="that of client 0"):
        room.restored(1, state)
    with pytest.raises(ConfigError, match="credentials of client 0"):
        room.scheme.resume_client(room.task, 0, state)
    bare = Room(SCHEMES["semi-honest"])
    bare.start()
    with pytest.raises(ConfigError, match="at most once"):
        bare.scheme.resume_client(bare.task, 0, bare.sessions[0].to_bytes())
    assert room.restored(0, state).state == "advertised"  # none of these used it up


def test_a_client_restarts_from_its_files_alone(tmp_path: Path) -> None:
    """Credentials, the tasks beside them, and a store: what a site's agent keeps."""
    room, store = Room(), SessionStore(tmp_path / "sessions")
    save_credentials(tmp_path / "client", CREDENTIALS[0])
    own = load_credentials(tmp_path / "client")
    session = room.scheme.client(room.task, 0, np.zeros(3, np.int64), credentials=own)
    room.server.receive(0, session.start())
    store.put("round-1", session.to_bytes())
    for client in CLIENTS[1:]:
        room.server.receive(client, room.sessions[client].start())
    mail = dict(room.server.advance())
    while room.server.result is None:
        own = load_credentials(tmp_path / "client")
        session = room.scheme.resume_client(room.task, 0, store.take("round-1"), credentials=own)
        answer = session.receive(mail.pop(0)) or b""
        store.put("round-1", session.to_bytes())
        room.server.receive(0, answer)
        mail = room.deliver(mail)
    assert room.server.result.total.tolist() == [6, 6, 6]
    with pytest.raises(PlanRejected):
        room.scheme.client(room.task, 0, np.zeros(3, np.int64), credentials=own).start()


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_store_gives_each_state_once(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions")
    with pytest.raises(StateError, match="no saved session 'a'"):
        store.take("a")
    store.put("a", b"one")
    store.put("a", b"two")
    assert "a" in store
    assert (tmp_path / "sessions" / "a").stat().st_mode & 0o777 == 0o600
    assert SessionStore(tmp_path / "sessions").take("a") == b"two"
    assert "a" not in store
    with pytest.raises(StateError, match="taken before"):
        store.take("a")
    assert not list((tmp_path / "sessions").iterdir())


def test_of_many_that_take_one_state_one_gets_it(tmp_path: Path) -> None:
    store, got = SessionStore(tmp_path), []
    gate = threading.Barrier(8)

    def take() -> None:
        gate.wait()
        with contextlib.suppress(StateError):
            got.append(store.take("one"))

    for _ in range(10):
        store.put("one", b"state")
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [b"state"] * 10


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 101, "a b"])
def test_names_that_could_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        SessionStore(tmp_path).put(name, b"")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_state_without_the_last_answer_goes_on_and_repeats_nothing(name: str) -> None:
    room = Room(SCHEMES[name])
    mail, before = room.start(), b""
    while room.server.result is None:
        whole, state = room.sessions[0].to_bytes(), room.sessions[0].to_bytes(repeats=False)
        sent = room.sessions[0].last_message
        assert sent is not None
        assert len(whole) == len(state) + len(sent)
        room.sessions[0] = room.restored(0, state)
        assert room.sessions[0].last_message is None
        assert len(room.sessions[0].to_bytes()) == len(state)  # it has no answer to save
        if before:
            with pytest.raises(WireError, match="kept apart from the session"):
                room.sessions[0].receive(before)
        before = mail[0]
        mail = room.deliver(mail)
    assert room.server.result.total.tolist() == [sum(CLIENTS)] * 3
