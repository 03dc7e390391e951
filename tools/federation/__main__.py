"""One real federation on loopback: five hospitals with agents, a SuperLink with TLS, five authenticated SuperNodes.

Three rounds with distributed noise under the masked sum. In round 2 one hospital's agent is killed between its key step
and its vector; after it the server app is killed, and a second one goes on. What is printed at the end comes from the
ledgers of the server and of each site. The exit code is 1 if a promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfl.crypto import SigningKey
from tools.common import ROOT
from tools.federation.certificates import make_certificates, make_node_key
from tools.federation.hospitals import (
    APP,
    KILL_ROUND,
    NAMES,
    Hospital,
    copy_app,
    make_hospitals,
    make_server,
    settings,
    split,
    steps,
)
from tools.federation.processes import Processes, free_port, is_open, script, wait_for
from tools.federation.shown import check_and_print

FOLDER: Final = ROOT / "build" / "federation"
KILLED: Final = 2  # the place of the hospital whose agent is killed
KEY_STEP: Final = 1
PATIENCE: Final = 900.0

sys.path.insert(0, str(APP))


@dataclass
class Stage:
    """Everything that runs.

    Attributes:
        processes: the processes.
        hospitals: the sites.
        home: the server's folder.
        app: the copy of the app that `flwr run` builds.
        port: the port of the SuperLink.
    """

    processes: Processes
    hospitals: list[Hospital]
    home: Path
    app: Path
    port: int

    def say(self, text: str) -> None:
        """Tell the reader, with the time."""
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    def start_agent(self, hospital: Hospital) -> None:
        """Start a hospital's agent, and wait for its socket."""
        hospital.socket.unlink(missing_ok=True)
        self.processes.start(f"agent-{hospital.name}", [sys.executable, "-m", "privfl", "site", "serve", hospital.home])
        wait_for(f"agent of {hospital.name}", hospital.socket.exists, 60)

    def flwr_run(self, **settings: str) -> None:
        """Submit the app."""
        config = " ".join(f"{key}={value}" for key, value in {"home": f'"{self.home}"', **settings}.items())
        self.processes.run("flwr run", [script("flwr"), "run", self.app, "local", "--run-config", config])

    def stored(self, round: int) -> bool:
        """True once the model of a round is stored."""
        self.processes.check()
        return (self.home / "run" / "models" / f"{round:06}.safetensors").exists()

    def step_done(self, round: int, step: int) -> bool:
        """True once a step of a round is closed at the server."""
        self.processes.check()
        return any((line["round"], line["step"]) == (round, step) for line in steps(self.home))


def main() -> int:
    """Run the federation; 1 if a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="a folder with the heart data; bundled data by default")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the processes are ended on the way out
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    stage, config, data = _prepare(arguments.seed, arguments.data)
    with stage.processes.all():
        _start(stage)
        _run(stage)
    left = stage.processes.left()
    victim = stage.hospitals[KILLED]
    code = check_and_print(stage.home, stage.hospitals, config, data, victim=victim, left=left)
    print(f"{time.monotonic() - began:.0f} s in all")
    return code


def _prepare(seed: int, folder: Path | None):  # type: ignore[no-untyped-def]
    """The folders of server and sites, and their agreement: directory, charter and approvals."""
    from hospitals.federation import open_server, server_key

    config, home = settings(seed, folder), FOLDER / "server"
    data = split(config)
    make_server(home, config, data)
    key: SigningKey = server_key(home)
    hospitals, members = make_hospitals(FOLDER / "sites", data, key.public.public.hex())
    members.write(home / "directory.json")
    with open_server(home) as server:
        charter = server.charter
    from privfl.site import SiteHome

    for hospital in hospitals:
        SiteHome(hospital.home).approve(charter)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(FOLDER / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "160",
    }
    processes = Processes(FOLDER / "logs", environment)
    return Stage(processes, hospitals, home, copy_app(FOLDER / "app"), free_port()), config, data


def _start(stage: Stage) -> None:
    certificates = make_certificates(FOLDER / "tls")
    (FOLDER / "flwr").mkdir()
    (FOLDER / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{stage.port}"\n'
        f'root-certificates = "{certificates.authority}"\n'
    )
    link = [
        script("flower-superlink"), "--ssl-ca-certfile", certificates.authority, "--ssl-certfile", certificates.server,
        "--ssl-keyfile", certificates.key, "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        "--port", str(stage.port),
    ]  # fmt: skip
    stage.processes.start("superlink", link)
    for hospital in stage.hospitals:
        stage.start_agent(hospital)
    wait_for("SuperLink", lambda: is_open(stage.port), 120)
    for hospital in stage.hospitals:
        key = FOLDER / "tls" / f"node-{hospital.name}"
        public = make_node_key(key)
        stage.processes.run("register", [script("flwr"), "supernode", "register", public, "local"])
        node = [
            script("flower-supernode"), "--root-certificates", certificates.authority, "--superlink",
            f"127.0.0.1:{stage.port}", "--auth-supernode-private-key", key, "--port", str(free_port()),
            "--node-config", f'client={hospital.client} socket="{hospital.socket}"',
        ]  # fmt: skip
        stage.processes.start(f"node-{hospital.name}", node)
    wait_for("SuperNodes", lambda: _online(stage) == len(NAMES), 180)
    stage.say(f"{len(NAMES)} agents, {len(NAMES)} SuperNodes with node keys, and a SuperLink with TLS are up")


def _online(stage: Stage) -> int:
    listed = stage.processes.run("list", [script("flwr"), "supernode", "list", "local", "--format", "json"])
    return listed.count('"online"')


def _run(stage: Stage) -> None:
    stage.flwr_run(floor="true")
    _wait(stage, "Flower's own floor", (stage.home / "floor.json").exists)
    stage.say(f"a plain message of Flower takes {min(json.loads((stage.home / 'floor.json').read_text())):.1f} s")
    stage.flwr_run()
    _wait(stage, "round 1", lambda: stage.stored(1))
    stage.say("round 1 is stored")
    victim = stage.hospitals[KILLED]
    _wait(stage, "the key step of round 2", lambda: stage.step_done(KILL_ROUND, KEY_STEP))
    stage.processes.kill(f"agent-{victim.name}")
    stage.say(f"the agent of {victim.name} is killed between its key step and its vector")
    _wait(stage, "round 2", lambda: stage.stored(KILL_ROUND))
    stage.processes.kill_owned("flwr-serverapp")
    stage.say("round 2 is stored without it, and the server app is killed")
    stage.start_agent(victim)
    stage.flwr_run()
    stage.say("a second server app resumes the run's folder")
    _wait(stage, "round 3", lambda: stage.stored(3))
    stage.say("round 3 is stored")
    _wait(stage, "the server app's end", lambda: not stage.processes.owned("flwr-serverapp"))


def _wait(stage: Stage, what: str, ready: Callable[[], bool]) -> None:
    def asked() -> bool:
        stage.processes.check()
        return ready()

    wait_for(what, asked, PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
