"""Replay of whole runs: private facts that do not change a contribution change no file, no message and no report."""

import json
import os
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from replay import DIRECTORY, KEYS, Coins

from privfl.experiment import Experiment
from privfl.fl import server_round
from privfl.fl.client import ClientUpdate
from privfl.secagg import MaskedSum

ME = 3
WORLD: dict[str, object] = {}
TIMES = {"seconds", "seal"}
"""What differs between any two runs: the time of a round, and the hash that a stored model has over its report."""


def train(model, client, round, rng):
    """Updates above the clip; the data of one client differ between the worlds."""
    delta = np.linspace(-50.0, 60.0, len(model)) * (1 + client)
    if client == ME:
        return WORLD["make"](delta)
    return ClientUpdate(delta, 20, {"loss": 0.5})


WORLDS = {
    "far above the clip": (
        lambda delta: ClientUpdate(delta, 20, {"loss": 0.5}),
        lambda delta: ClientUpdate(delta * 2.0**9, 3000, {"loss": 0.5}),
    ),
    "no data or broken data": (
        lambda delta: ClientUpdate(np.zeros_like(delta), 1, {"loss": 0.0}),
        lambda delta: ClientUpdate(np.full_like(delta, np.nan), 900, {"loss": 0.0}),
    ),
    "a metric beyond its bound": (
        lambda delta: ClientUpdate(delta, 20, {"loss": 1e3}),
        lambda delta: ClientUpdate(delta, 21, {"loss": 1e30}),
    ),
}


def untimed(value):
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if key not in TIMES}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def model_file(data):
    """The header of a stored model, with the report in its metadata, and its tensors."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    facts = {name: read(text) for name, text in header.pop("__metadata__").items()}
    return untimed(facts), header, data[8 + size :]


def read(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def play(folder, make, settings):
    """Everything that a run leaves, by name, without times; and its messages."""
    WORLD["make"], messages, coins = make, [], Coins("run")
    given = {"sum": MaskedSum(DIRECTORY), "credentials": KEYS} if settings.get("masked") else {}
    overrides = {"name": "run", "rounds": 2, "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.5}
    overrides |= {key: value for key, value in settings.items() if key != "masked"}
    with mock.patch.object(os, "urandom", coins):
        experiment = Experiment(
            train=train, initial=np.zeros(6), clients=6, runs=folder, overrides=overrides, **given,
            tap=lambda way, client, message: messages.append((way, client, len(message))),
        )  # fmt: skip
        reports = list(experiment.run())
    found = {"messages": messages, "requests": coins.requests}
    found["reports"] = [untimed(json.loads(json.dumps(report.record()))) for report in reports]
    for path in sorted(experiment.folder.rglob("*")):
        if path.is_file():
            name, data = path.relative_to(experiment.folder).as_posix(), path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                found[name] = [untimed(json.loads(line)) for line in data.splitlines()]
            else:
                found[name] = model_file(data) if path.suffix == ".safetensors" else data
    return found


SETTINGS = {
    "central": {"privacy.placement": "central", "cohort.sampling": "poisson", "cohort.probability": 0.8},
    "central-seeded": {"privacy.placement": "central", "privacy.noise": "simulation"},
    "distributed": {"privacy.placement": "distributed", "cohort.dropout": 0.2},
    "local": {"privacy.placement": "local"},
    "loss": {"privacy.placement": "central", "privacy.loss_bound": 10.0, "privacy.noise_multiplier": 0.2},
    "masked": {"privacy.placement": "distributed", "masked": True},
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_equal_contributions_leave_equal_folders(name, world, tmp_path):
    left, right = WORLDS[world]
    one, two = (play(tmp_path / side, make, SETTINGS[name]) for side, make in (("a", left), ("b", right)))
    assert {"messages", "reports", "ledger.jsonl", "metrics.jsonl"} <= set(one)
    assert len(one["reports"]) == 2
    assert [key for key in set(one) | set(two) if one.get(key) != two.get(key)] == []


def test_a_report_that_names_broken_updates_is_found(tmp_path, monkeypatch):
    read = server_round.ServerRound._read

    def fault(self, summed):
        outcome = read(self, summed)
        broken = WORLD["make"](np.ones(6)).examples > 100
        return replace(outcome, caveats=(*outcome.caveats, *["one update was not finite"] * broken))

    monkeypatch.setattr(server_round.ServerRound, "_read", fault)
    left, right = WORLDS["no data or broken data"]
    one, two = (play(tmp_path / side, make, SETTINGS["central"]) for side, make in (("a", left), ("b", right)))
    assert one["reports"] != two["reports"]
