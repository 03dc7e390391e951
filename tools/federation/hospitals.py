"""Five hospitals and a server, as their administrators would set them up, each in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tomli_w

from privfl.crypto.members import Members
from privfl.data import FederatedData
from privfl.experiment.config import Config, to_toml
from privfl.experiment.federation import build_federation, prepare
from privfl.site import SiteHome
from privfl.sums import PlainSum
from privfl.wire import ClientId
from tools.common import ROOT

APP: Final = ROOT / "examples" / "flower"
NAMES: Final = ("aldgate", "borough", "camden", "dulwich", "euston")
ROUNDS: Final = 3
KILL_ROUND: Final = 2  # the round in which an agent is killed
DAY: Final = 86400
BUDGET: Final = 50.0  # epsilon against the server, at DELTA, under replace_one: three rounds fit, and no fourth
DELTA: Final = 1e-5


def settings(seed: int, data: Path | None) -> Config:
    """The settings of the run; the data section says only how the demonstration splits one public set."""
    chosen = {"data.name": "breast_cancer"} if data is None else {"data.name": "heart", "data.folder": str(data)}
    return Config(name="run", seed=seed, rounds=ROUNDS).with_overrides(
        {
            **chosen,
            "data.clients": len(NAMES),
            "data.partition": "iid",
            "data.test": "public" if data is None else "local",
            "data.test_fraction": 0.4,
            "data.standardize": "public" if data is None else "local",
            "sum.scheme": "masked",
            "cohort.min_survivor_fraction": 0.8,
            "privacy.placement": "distributed",
            "privacy.clip_norm": 0.7,
            "privacy.noise_multiplier": 1.25,
            "privacy.delta": DELTA,
        }
    )


@dataclass(frozen=True)
class Hospital:
    """One site.

    Attributes:
        home: its folder.
        name: its name.
        client: its identity in every sum.
        socket: the socket of its agent.
    """

    home: Path
    name: str
    client: ClientId
    socket: Path


def split(config: Config) -> FederatedData:
    """The public data set, split among the hospitals."""
    return prepare(build_federation(config, None), config, PlainSum(), None)


def test_examples(data: FederatedData) -> tuple[np.ndarray, np.ndarray]:
    """The examples that the server tests models on, which are published: of the set, or of all hospitals together."""
    if len(data.test):
        return data.public_test()
    parts = [data.local_test(place) for place in range(len(NAMES))]
    return np.concatenate([features for features, _ in parts]), np.concatenate([labels for _, labels in parts])


def make_hospitals(folder: Path, data: FederatedData, server_key: str) -> tuple[list[Hospital], Members]:
    """Make the sites' folders and their signed directory.

    Args:
        folder: where they are made.
        data: each hospital's examples.
        server_key: the server's key, 64 hexadecimal digits, which each policy pins.

    Returns:
        The hospitals, and the directory that all of them have signed and installed.
    """
    now = time.time()
    training = (APP / "hospitals" / "training.py").read_bytes()
    folder.mkdir()
    homes = [SiteHome.make(folder / name, name, now=now) for name in NAMES]
    for place, home in enumerate(homes):
        features, labels = data.train(place)
        np.savez(home / "data.npz", features=features, labels=labels)
        (home / "train.py").write_bytes(training)
        policy = {
            "server": {"key": server_key},
            "demands": {"min_cohort": 5, "min_survivors": 4, "max_clip_norm": 1.0, "max_rounds": ROUNDS},
            "budget": {"epsilon": BUDGET, "delta": DELTA},
            "training": {
                "entry": "train.py:make",
                "sha256": hashlib.sha256(training).hexdigest(),
                "data": "data.npz",
                "answer_after": 1.0,
            },
        }
        (home / "policy.toml").write_bytes(tomli_w.dumps(policy).encode())
    members = Members([home.card for home in homes], issued=int(now), expires=int(now) + DAY, quorum=len(homes))
    for home in homes:
        members = members.signed(home.credentials().signing)
    for home in homes:
        members.write(home / "directory.json")
    sites = [
        Hospital(home.folder, name, home.card.client, home.socket(home.policy()))
        for name, home in zip(NAMES, homes, strict=True)
    ]
    return sites, members


def make_server(home: Path, config: Config, data: FederatedData) -> None:
    """Make the server's folder, without its directory, which the sites make."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "federation.toml").write_text(to_toml(config), encoding="utf-8")
    features, labels = test_examples(data)
    np.savez(home / "test.npz", features=features, labels=labels)


def copy_app(folder: Path) -> Path:
    """A copy of the app, which `flwr run` builds; the checkout stays as it is."""
    return Path(shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__")))


def steps(home: Path) -> list[dict[str, float]]:
    """The lines that the server wrote, one a step."""
    path = home / "run" / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
