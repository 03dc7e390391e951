"""Real agents in processes of their own, over the examples of their own files, killed in every step of a round."""

import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import Federation, a_federation, log_of, set_policy

from privfl.dp import Ledger, Poisson
from privfl.fl.examples import ExampleRule
from privfl.site.installed import file_hash

ROOT = Path(__file__).parents[2]
TRAIN = """
import numpy as np
from privfl.fl.linear import LinearModel, LinearTrain
def make(data):
    table = np.loadtxt(data, delimiter=",", skiprows=1)
    rows, person = (table[:, 1:-1], table[:, -1]), table[:, 0]
    return LinearTrain(LinearModel("logistic", 2), lambda client: rows, persons=lambda client: person)
"""


class Agents:
    """The processes of `privfl site serve`."""

    def __init__(self, trial: Federation) -> None:
        self.trial, self.processes = trial, dict[int, subprocess.Popen[str]]()
        self._relay = runpy.run_path(str(ROOT / "examples" / "site_relay.py"))["Relay"]
        for client in trial.homes:
            self.start(client)

    def start(self, client: int) -> None:
        command = [sys.executable, "-m", "privfl", "site", "serve", str(self.trial.homes[client].folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert "serves" in process.stdout.readline()
        self.processes[client] = process

    def relay(self, client: int) -> Any:
        return self._relay(str(self.trial.homes[client] / "agent" / "agent.sock"), 30.0)

    def end(self, client: int, with_signal: int = signal.SIGKILL) -> None:
        with self.processes.pop(client) as process:
            process.send_signal(with_signal)


@pytest.fixture
def agents() -> Iterator[Agents]:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        rule = ExampleRule(Poisson(0.5), 20.0, 40.0)
        policy = 'answer_after = 3.0\ndata = "data.csv"'
        trial = a_federation(Path(folder) / "f", now=time.time(), examples=rule, length=3, policy=policy)
        for client, home in trial.homes.items():
            rng = np.random.default_rng(client)
            lines = [f"{n // 2},{rng.normal():.3f},{rng.normal():.3f},{n % 2}" for n in range(40)]
            (home / "data.csv").write_text("\n".join(["patient,a,b,died", *lines]))
            (home / "train.py").write_text(TRAIN)
            set_policy(home, {"sha256": f'"{file_hash(home.folder, home.policy().training)}"'})
        made = Agents(trial)
        yield made
        for client in list(made.processes):
            made.end(client, signal.SIGTERM)


@pytest.mark.slow
def test_an_agent_killed_in_every_step_survives_and_is_charged_once(agents: Agents) -> None:
    trial, victim, step, killed = agents.trial, min(agents.trial.homes), -1, list[int]()

    def before(now: int) -> None:
        nonlocal step
        step, trial.clock.now = now, time.time()

    def answer_of(client: int) -> Callable[[bytes, bytes], bytes]:
        def answer(frame: bytes, model: bytes) -> bytes:
            trial.clock.now = time.time()
            if client == victim and step not in killed:
                killed.append(step)
                if step == 0:  # while its answer waits for its time
                    threading.Timer(1.0, agents.processes[client].kill).start()
                    with pytest.raises(OSError, match=r"."):
                        agents.relay(client).answer(frame, model)
                agents.end(client)
                agents.start(client)
            return bytes(agents.relay(client).answer(frame, model))

        return answer

    server = trial.round({client: answer_of(client) for client in trial.homes}, before=before)
    assert server.outcome.survivors == set(trial.homes)
    assert killed == [0, 1, 2, 3, 4]
    assert np.any(trial.model != 0)
    for home in trial.homes.values():
        (ledger,) = (Ledger.read(path) for path in (home / "ledgers").iterdir())
        assert (ledger.unit.level, len(ledger.releases)) == ("example", 1)
        assert "failed" not in log_of(home)
        assert not list((home / "rounds").glob("*.coins"))
