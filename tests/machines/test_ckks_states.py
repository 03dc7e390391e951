"""Every message of a CKKS sum in every state of a session, and a dealer whose message is refused."""

import pytest
from ckks_sums import People, task_of, vectors_of

from privfl.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he import CkksSum
from privfl.he.client import CkksClient
from privfl.he.messages import Deal


class Recorded:
    """One honest run, with what the server sent to client 1 (and to the dealer and the opener) at each step."""

    def __init__(self, people: People, stop: str, client: int) -> None:
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
    people: People,
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


def test_a_session_is_started_once_and_before_anything(people: People) -> None:
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


def test_a_refused_deal_passes_to_the_next(people: People) -> None:
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
