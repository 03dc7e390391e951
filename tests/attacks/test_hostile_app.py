"""A server ships a hostile app in place of the relay: nothing leaves a site except what its protocol gives, and the log
of the site states what was tried.

The app runs as a process of its own: under another user where this test may choose one. It gets what a relay gets: the
path of the socket, and the server's frames. It tries to read the site's folder, invents plans, asks out of order, asks
twice, sends foreign bytes, and floods the agent.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import Federation, a_federation, log_of, real_now, set_policy, train

from privfl.crypto import SigningKey
from privfl.dp import Mechanism
from privfl.fl.client import ClientUpdate
from privfl.fl.frames import REFUSAL, Down, model_to_bytes, open_up, seal_down
from privfl.site.agent import Agent

SECRET = b"PATIENT-4711"
RELAY = Path(__file__).parents[2] / "examples" / "site_relay.py"
NOBODY = 65534

APP = """
import json, os, runpy, socket, struct, sys, threading
job = json.loads(sys.stdin.read())
relay = runpy.run_path(job["relay"])["Relay"](job["socket"], 30.0)
if job["user"] is not None:  # before it looks at anything
    os.setgroups([])
    os.setgid(job["user"])
    os.setuid(job["user"])
said = {"read": [], "listed": None, "replies": [], "flood": []}
try:
    said["listed"] = sorted(os.listdir(job["home"]))
except OSError:
    pass
for folder in (job["home"], job["home"] + "/data", job["home"] + "/rounds"):
    for name in ("keys.json", "policy.toml", "receipts.jsonl", "log.jsonl", "data/patients.csv", "patients.csv"):
        try:
            said["read"].append(open(os.path.join(folder, name), "rb").read().hex())
        except OSError:
            pass
for frame, model in job["frames"]:
    try:
        said["replies"].append(relay.answer(bytes.fromhex(frame), bytes.fromhex(model)).hex())
    except OSError:
        said["replies"].append("")
def flood():
    try:
        said["flood"].append(relay.answer(os.urandom(300)).hex())
    except OSError:
        pass
threads = [threading.Thread(target=flood) for _ in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(said))
"""


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[tuple[Federation, int, Path]]:
    """An agent over data that hold a secret, with its socket outside of the site's folder."""
    trial = a_federation(tmp_path, now=real_now(), policy="answer_after = 0.0")
    me = min(trial.homes)
    home = trial.homes[me]
    (home / "data").mkdir()
    (home / "data" / "patients.csv").write_bytes(b"name\n" + SECRET + b"\n")
    uid = NOBODY if os.getuid() == 0 else os.getuid()
    set_policy(home, {"relay_uids": f"[{uid}]", "max_connections": "4"})

    def over_data(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        text = (home / "data" / "patients.csv").read_bytes()  # what a hostile app would like to return
        update = train(model, client, round, rng)
        return ClientUpdate(update.delta, len(text))

    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        Path(folder).chmod(0o755)
        with trial.site(me, over_data, clock=time.time, sleep=time.sleep) as site:
            limits = home.policy().agent
            agent, ended = Agent(site, Path(folder) / "agent" / "agent.sock", limits), threading.Event()
            if os.getuid() == 0:  # as agent.group does where there is a shared group
                os.chown(Path(folder) / "agent", -1, NOBODY)
                os.chown(Path(folder) / "agent" / "agent.sock", -1, NOBODY)
            thread = threading.Thread(target=agent.serve, args=(lambda: not ended.is_set(),))
            thread.start()
            yield trial, me, Path(folder) / "agent" / "agent.sock"
            ended.set()
            thread.join()


def run_app(trial: Federation, me: int, socket: Path, frames: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    relay = socket.parent.parent / "relay.py"
    relay.write_text(RELAY.read_text())
    job = {
        "relay": str(relay),
        "user": NOBODY if os.getuid() == 0 else None,
        "socket": str(socket),
        "home": str(trial.homes[me].folder),
        "frames": [(frame.hex(), model.hex()) for frame, model in frames],
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", APP],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd="/",
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_hostile_app_gets_nothing_but_the_protocols_own_messages(hospital: tuple[Federation, int, Path]) -> None:
    trial, me, socket = hospital
    trial.clock.now = time.time()
    plan, model, stranger = trial.plan(), model_to_bytes(trial.model), SigningKey.generate()
    charter = trial.charter.digest()
    good, _ = trial.first(me)
    later = int(trial.clock.now) + 600
    quiet = trial.plan(1, mechanism=Mechanism("none"))  # a plan without noise, to read the update
    invented = [
        seal_down(Down(1, 0, 0, me, later, trial.invitation(quiet)), stranger, charter=charter),
        seal_down(Down(1, 0, 0, me, later, trial.invitation(plan)), stranger, charter=charter),
        seal_down(Down(1, 0, 0, me, later, trial.invitation(plan)), stranger, charter=bytes(32)),
        good[:-64] + bytes(64),
        good[:200] + bytes([good[200] ^ 1]) + good[201:],
    ]
    order = [trial.down(me, plan, step, b"x" * 50) for step in (4, 3, 2)]
    frames = [(frame, model) for frame in invented]
    frames += [(frame, b"") for frame in order]
    frames += [(good, b"another model" * 2), (good, model), (good, model)]
    frames += [(trial.down(me, plan, 0, trial.invitation(plan), expires=later + 1), model)]
    frames += [(frame, b"") for frame in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(500), order[0])]
    said = run_app(trial, me, socket, frames)
    replies = [bytes.fromhex(reply) for reply in said["replies"]]
    taken = len(invented) + len(order) + 1
    assert [reply == REFUSAL for reply in replies[:taken]] == [True] * taken
    first = replies[taken]
    up = open_up(first, trial.members.verify_key(me), charter=charter, client=me, request=good)
    assert replies[taken + 1] == first  # twice the same bytes, twice the same answer
    assert set(replies[taken + 2 :]) == {REFUSAL}
    assert set(said["flood"]) <= {REFUSAL.hex()}
    everything = b"".join(replies) + b"".join(bytes.fromhex(text) for text in said["read"])
    if os.getuid() == 0:
        assert said["listed"] is None
        assert said["read"] == []
    else:  # one user for both: what an agent of its own user is for
        assert trial.homes[me].folder.stat().st_mode & 0o077 == 0
        everything = b"".join(replies)
    assert SECRET not in everything
    encoded = plan.encoding.encode(train(trial.model, me, 1, np.random.default_rng()), np.random.default_rng())
    assert encoded.astype("<i8").tobytes() not in everything
    assert len(up.body) < 300  # public keys and a signature
    log = log_of(trial.homes[me])
    for tried in (
        "does not verify",
        "no charter 0000000000000000 is approved",
        "is not in progress here",
        "are not the model that the plan names",
        "other bytes for a step that is answered",
        "is not due",
        "not a privfl message",
    ):
        assert tried in log, tried
    assert SECRET.decode() not in log
    assert len(re.findall(r'"event":"answered"', log)) == 1


def test_the_round_goes_on_beside_the_flood(hospital: tuple[Federation, int, Path]) -> None:
    """The other sites answer in this process, and the attacked one through the app's own relay."""
    trial, me, socket = hospital
    trial.clock.now = time.time()
    others = {client: trial.site(client) for client in trial.homes if client != me}

    def through_the_app(frame: bytes, model: bytes) -> bytes:
        return bytes.fromhex(run_app(trial, me, socket, [(frame, model)])["replies"][0])

    server = trial.round({client: site.answer for client, site in others.items()} | {me: through_the_app})
    assert server.outcome.survivors == set(trial.homes)
