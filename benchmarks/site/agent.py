"""The agent of a site against a bare `ClientRound`: the seconds that frames, signatures, files and the socket add.

    python benchmarks/site/agent.py [--rounds 5]

Runs masked rounds of five sites over models of 1,000 and of 1,000,000 entries. One site answers through its agent: the
relay, the socket, the child that trains, and every write to the disk. The same rounds run once more with a bare
`ClientRound` in its place. The limit for each step is 10 ms, and 100 ms for each million entries. The time in which
the disk syncs is reported by itself: it belongs to the disk, and no answer may leave before.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from harness import write  # noqa: E402
from sites import Federation, a_federation  # noqa: E402

from privfl.dp import Mechanism  # noqa: E402
from privfl.fl.client import ClientUpdate  # noqa: E402
from privfl.fl.client_round import ClientRound, Contribution  # noqa: E402
from privfl.fl.frames import Invitation, Up, frame_hash, open_down, seal_up  # noqa: E402
from privfl.site import Site  # noqa: E402
from privfl.site.agent import Agent  # noqa: E402
from privfl.site.training import ChildTraining  # noqa: E402

STEP_SECONDS = 0.010
SECONDS_PER_MILLION = 0.100


def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    """A training that takes no time."""
    return ClientUpdate(np.full(len(model), 1e-4), 10)


class Disk:
    """The seconds that this process spent in fsync."""

    def __init__(self) -> None:
        self.seconds, self._real = 0.0, os.fsync
        os.fsync = self.sync  # type: ignore[assignment]

    def sync(self, handle: int) -> None:
        """Sync, timed."""
        began = time.perf_counter()
        self._real(handle)
        self.seconds += time.perf_counter() - began


DISK = Disk()


class Bare:
    """A site without an agent: the client's half of a round, behind frames that cost nothing that is measured."""

    def __init__(self, trial: Federation, client: int) -> None:
        self.trial, self.client = trial, client
        self.own = trial.homes[client].credentials()
        self.half: ClientRound | None = None
        self.seconds: dict[int, list[float]] = {}

    def answer(self, frame: bytes, model: bytes) -> bytes:
        """Answer a frame; the seconds of the client's half alone are kept."""
        charter = self.trial.charter.digest()
        down = open_down(frame, self.trial.key.public, charter=charter, me=self.client)
        order = bytes(Invitation.from_bytes(down.body).plan) if down.step == 0 else b""
        message, vector = bytes(down.body), np.frombuffer(model)
        began = time.perf_counter()
        if down.step == 0:
            contribution = Contribution(train, self.trial.scheme)
            credentials = self.own
            self.half = ClientRound.trained(
                order, vector, self.client, contribution=contribution, credentials=credentials
            )
            body: bytes | None = self.half.start()
        else:
            assert self.half is not None
            body = self.half.receive(message)
        self.seconds.setdefault(down.step, []).append(time.perf_counter() - began)
        up = Up(down.round, down.attempt, down.step, frame_hash(frame), body or b"", ())
        return seal_up(up, self.own.signing, charter=charter, me=self.client)


class Timed:
    """A site whose answers are timed as the relay sees them."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes]) -> None:
        self.inner, self.seconds = answer, dict[int, list[tuple[float, float]]]()
        self.step = 0

    def answer(self, frame: bytes, model: bytes) -> bytes:
        """Answer a frame, timed."""
        began, disk = time.perf_counter(), DISK.seconds
        answer = self.inner(frame, model)
        taken, synced = time.perf_counter() - began, DISK.seconds - disk
        self.step = 0 if model else self.step + 1
        self.seconds.setdefault(self.step, []).append((taken - synced, synced))
        return answer


def measure(length: int, rounds: int) -> list[dict[str, Any]]:
    """The least seconds of each step, through the agent and bare: what other programs take is no cost of the agent."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    try:
        policy = "answer_after = 0.0\nepsilon = 1e9\nread_seconds = 60.0"
        mechanism = Mechanism("distributed", 2.0)
        trial = a_federation(folder / "sites", 5, length=length, now=time.time(), policy=policy, mechanism=mechanism)
        me = min(trial.homes)
        child = ChildTraining(lambda: train)
        bare = {client: Bare(trial, client) for client in trial.homes}
        with Site(trial.homes[me].folder, child) as site:
            path = folder / "a" / "s"
            agent, ended = Agent(site, path, trial.homes[me].policy().agent), threading.Event()
            thread = threading.Thread(target=agent.serve, args=(lambda: not ended.is_set(),))
            thread.start()
            relay = runpy.run_path(str(ROOT / "examples" / "site_relay.py"))["Relay"](str(path))
            timed = Timed(relay.answer)
            for round in range(1, rounds + 2):
                trial.clock.now = time.time()
                if round == 2:  # the first one warms everything
                    timed.seconds.clear()
                trial.round({client: site.answer for client, site in bare.items()} | {me: timed.answer}, round)
            alone = bare[max(trial.homes)].seconds
            ended.set()
            thread.join()
        child.close()
    finally:
        shutil.rmtree(folder)
    found = []
    for step in sorted(timed.seconds):
        (agent_seconds, disk), own = min(timed.seconds[step]), min(alone[step][1:])
        found.append(
            {
                "length": length,
                "step": step,
                "agent_seconds": agent_seconds,
                "client_round_seconds": own,
                "added_seconds": agent_seconds - own,
                "limit_seconds": STEP_SECONDS + SECONDS_PER_MILLION * length / 1e6,
                "disk_seconds": disk,
            }
        )
    return found


def main() -> int:
    """Exit code 1 when a step is above its limit."""
    parser = argparse.ArgumentParser(description="the seconds that the agent of a site adds to each step")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    results = [row for length in (1000, 1_000_000) for row in measure(length, rounds)]
    for row in results:
        print(
            f"{row['length']:>8} entries, step {row['step']}: agent {1e3 * row['agent_seconds']:7.1f} ms, bare "
            f"{1e3 * row['client_round_seconds']:7.1f} ms, added {1e3 * row['added_seconds']:7.1f} ms, limit "
            f"{1e3 * row['limit_seconds']:.0f} ms; the disk {1e3 * row['disk_seconds']:.1f} ms"
        )
    write("site-agent", results, limits={"step_ms": 1e3 * STEP_SECONDS, "million_ms": 1e3 * SECONDS_PER_MILLION})
    return int(any(row["added_seconds"] > row["limit_seconds"] for row in results))


if __name__ == "__main__":
    raise SystemExit(main())
