"""The agent: a whole round over Unix sockets through the stand-alone relay, and the limits of a hostile peer."""

import ast
import contextlib
import os
import runpy
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sites import Federation, a_federation, log_of, real_now

from privfl.errors import ConfigError, StateError
from privfl.fl.frames import REFUSAL
from privfl.site.agent import Agent
from privfl.site.policy import AgentLimits, Policy

RELAY = Path(__file__).parents[3] / "examples" / "site_relay.py"
Relay = runpy.run_path(str(RELAY))["Relay"]


@contextlib.contextmanager
def served(trial: Federation, client: int, how: Any = None, **changes: Any) -> Iterator[Path]:
    """An agent in a thread of this process; yields its socket."""
    home = trial.homes[client]
    limits = replace(AgentLimits(read_seconds=1.0), **changes)
    with trial.site(client, *([how] if how else []), clock=time.time, sleep=time.sleep) as site:
        path = Path(f"/tmp/privfl-{os.getpid()}-{client}") / "agent.sock"  # noqa: S108 (a socket's path is short)
        agent, going = Agent(site, path, limits), threading.Event()
        thread = threading.Thread(target=agent.serve, args=(lambda: not going.is_set(),))
        thread.start()
        try:
            yield path
        finally:
            going.set()
            thread.join()
            path.parent.rmdir()
    assert home.folder.exists()


@pytest.fixture
def trial(tmp_path: Path) -> Federation:
    made = a_federation(tmp_path, now=real_now(), policy="answer_after = 0.0")
    made.clock.now = time.time()
    return made


def test_a_round_over_sockets_through_the_relay(trial: Federation) -> None:
    with contextlib.ExitStack() as stack:
        relays = {client: Relay(str(stack.enter_context(served(trial, client)))) for client in trial.homes}
        for round in (1, 2):
            server = trial.round({client: relay.answer for client, relay in relays.items()}, round)
            assert server.outcome.survivors == set(trial.homes)


def test_the_relay_is_short_and_imports_nothing_of_privfl() -> None:
    tree = ast.parse(RELAY.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"socket", "struct"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    body = [
        line for line in RELAY.read_text().splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))
    ]
    assert len(body) <= 24


def test_the_socket_and_its_folder_are_for_one_group(trial: Federation) -> None:
    with served(trial, min(trial.homes)) as path:
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.parent.stat().st_mode & 0o777 == 0o750
        with trial.site(max(trial.homes)) as other, pytest.raises(StateError, match="another agent"):
            Agent(other, path, AgentLimits())
    with trial.site(max(trial.homes)) as other, pytest.raises(ConfigError, match="no such group"):
        Agent(other, trial.folder / "x" / "agent.sock", AgentLimits(group="privfl-no-such-group"))


def test_another_user_is_not_heard(trial: Federation) -> None:
    me = min(trial.homes)
    with served(trial, me, relay_uids=(os.getuid() + 1,)) as path, pytest.raises(ConnectionError):
        Relay(str(path)).answer(*trial.first(me))
    assert "not in agent.relay_uids" in log_of(trial.homes[me])


def test_bytes_and_time_of_a_request_are_limited(trial: Federation) -> None:
    me = min(trial.homes)
    with served(trial, me, read_seconds=0.3) as path:
        for head in (struct.pack("<IQ", 1 << 31, 0), struct.pack("<IQ", 10, 1 << 40)):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                peer.sendall(head)
                assert peer.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(path))
            slow.sendall(b"\x01")
            began = time.monotonic()
            assert slow.recv(1) == b""
            assert time.monotonic() - began < 5
        assert Relay(str(path)).answer(*trial.first(me)) != REFUSAL
    log = log_of(trial.homes[me])
    assert "a request announces" in log
    assert "did not arrive" in log


def test_a_flood_of_new_requests_and_idle_connections_does_not_stop_a_round(trial: Federation) -> None:
    me = min(trial.homes)
    frame, model = trial.first(me)
    with served(trial, me, max_connections=4, read_seconds=20.0) as path:
        relay = Relay(str(path))
        assert relay.answer(frame, model) != REFUSAL
        replies: list[bytes] = []

        def flood() -> None:
            with contextlib.suppress(OSError):
                replies.append(relay.answer(b"\x00" * 100, b""))

        idle = [socket.socket(socket.AF_UNIX) for _ in range(12)]
        try:
            for peer in idle:
                peer.connect(str(path))
            threads = [threading.Thread(target=flood) for _ in range(12)]
            for thread in threads:
                thread.start()
            reply = b""
            for _ in range(3):
                with contextlib.suppress(OSError):
                    reply = relay.answer(trial.down(me, trial.plan(), 1, b"x"), b"")  # of the round in progress
                    break
            for thread in threads:
                thread.join()
            assert reply == REFUSAL  # the session judged it: not one of its messages
            assert set(replies) <= {REFUSAL}
            assert relay.answer(frame, model) != REFUSAL
        finally:
            for peer in idle:
                peer.close()
    assert "agent.max_connections is reached" in log_of(trial.homes[me])


def test_the_last_place_is_kept_for_a_round_in_progress(trial: Federation) -> None:
    me, model = min(trial.homes), trial.first(min(trial.homes))[1]
    with trial.site(me, clock=time.time) as site:
        agent = Agent(site, trial.folder / "a" / "s.sock", AgentLimits(max_connections=2))
        try:
            frame = trial.first(me)[0]
            known = trial.down(me, trial.plan(), 1, b"x")
            with agent._place(frame) as free, agent._place(b"another") as second, agent._place(known) as third:
                assert (free, second, third) == (True, False, False)  # nothing is in progress yet
            assert site.answer(frame, model) != REFUSAL
            with agent._place(frame) as free, agent._place(known) as third:
                assert (free, third) == (True, True)
        finally:
            agent.close()
    with trial.site(me, clock=time.time) as again:  # and after a restart
        assert again.is_known(known)
        assert not again.is_known(frame)


def test_an_agent_whose_disk_is_full_goes_on(trial: Federation) -> None:
    """The refusal of a user is written by the thread that accepts connections: its failure ended the agent."""
    resource = pytest.importorskip("resource", reason="Unix limits the size of a file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    me = min(trial.homes)

    def refused() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(5.0)
            peer.connect(str(path))
            assert peer.recv(1) == b""

    with served(trial, me, relay_uids=(os.getuid() + 1,)) as path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            refused()
            refused()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        refused()
    assert '"unwritten_before":2' in log_of(trial.homes[me])


@pytest.mark.parametrize("place", ["", "agent.sock", "../agent.sock", "agent/../agent.sock"])
def test_the_socket_never_opens_the_sites_own_folder(trial: Federation, place: str) -> None:
    home = trial.homes[min(trial.homes)]
    with pytest.raises(ConfigError, match="name a folder of its own"):
        home.socket(Policy(agent=AgentLimits(socket=place)))
    assert home.socket(Policy()) == home / "agent" / "agent.sock"


def test_the_folder_of_the_socket_is_the_agents_own(trial: Federation, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with trial.site(min(trial.homes)) as site, pytest.raises(ConfigError, match="belongs to other users, too"):
        Agent(site, shared / "agent.sock", AgentLimits())
    assert shared.stat().st_mode & 0o777 == 0o777
