"""One epsilon, whoever is asked: the run, its ledger, its folder, the command line, and a verifier without privfl."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.cli.app import run as command
from privfl.dp import Ledger, epsilon
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate

VERIFIER = references.load("privacy-ledger", "reference")
CLIENTS = 8


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.full(len(model), 0.01 * client), 1)


samplings = st.one_of(
    st.just({}),
    st.floats(0.3, 1.0).map(lambda q: {"cohort.sampling": "poisson", "cohort.probability": q}),
    st.integers(5, 8).map(lambda n: {"cohort.sampling": "fixed-size", "cohort.size": n}),
    st.tuples(st.floats(0.3, 0.9), st.integers(5, 7)).map(
        lambda t: {"cohort.sampling": "truncated-poisson", "cohort.probability": t[0], "cohort.cap": t[1]}
    ),
)
configurations = st.fixed_dictionaries({
    "privacy.placement": st.sampled_from(["central", "distributed", "local"]),
    "privacy.adjacency": st.sampled_from(["add_remove", "zero_out", "replace_one"]),
    "privacy.noise_multiplier": st.floats(0.7, 6.0),
    "privacy.noise": st.sampled_from(["secure", "secure", "simulation"]),
    "privacy.clip_norm": st.sampled_from([0.1, 1.0, 30.0]),
    "privacy.delta": st.sampled_from([1e-5, 1e-6]),
    "privacy.colluders": st.sampled_from([0, 0, 1]),
    "sum.scheme": st.sampled_from(["plain", "plain", "masked", "masked", "ckks"]),
    "sum.bits": st.just(40),
    "cohort.dropout": st.sampled_from([0.0, 0.01, 0.2]),
    "cohort.too_few": st.sampled_from(["skip", "retry"]),
    "cohort.min_survivor_fraction": st.sampled_from([0.5, 0.8]),
    "rounds": st.integers(1, 4),
    "seed": st.integers(0, 99),
})  # fmt: skip


def check(folder: Path, overrides: dict[str, Any]) -> bool:
    """True when the configuration gives a run, all of whose figures are then compared."""
    own: dict[str, Any] = {"train": still, "initial": np.zeros(60), "clients": CLIENTS, "runs": folder}
    try:
        experiment = Experiment(name="run", overrides=overrides, **own)
        planned = experiment.parts.planned_epsilon()
        reports = experiment.run().reports
    except PrivflError:
        return False
    secure = overrides.get("privacy.noise", "secure") == "secure"
    key = "epsilon" if secure else "epsilon_if_the_noise_were_secure"
    path, delta = folder / "run" / "ledger.jsonl", experiment.parts.delta
    ledger, read = Ledger.read(path), [VERIFIER.read(path.read_bytes())]
    metrics = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    for observer in experiment.parts.scheme.views:
        figure = epsilon(ledger, delta, observer=observer, assume_secure_noise=not secure).epsilon
        asked = experiment.epsilon(observer)
        stored = RunFolder(folder / "run").epsilon(observer)
        assert asked is not None
        assert stored is not None
        assert asked.epsilon == stored.epsilon == figure
        options = ["--ledger", str(path), "--delta", repr(delta), "--observer", observer, "--json"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert command(["epsilon", *options]) == 0
        answer = json.loads(out.getvalue())
        told = answer.get(key, answer.get("epsilon"))  # of an empty ledger there is no noise to speak of
        assert (np.inf if told == "infinity" else told) == figure
        theirs = VERIFIER.epsilon(read, delta, observer)
        assert theirs == figure or abs(theirs - figure) <= 1e-3 * max(1.0, figure)
    spent = epsilon(ledger, delta, assume_secure_noise=not secure).epsilon
    assert metrics[key] == spent
    assert planned >= spent * (1 - 1e-9)
    everybody = overrides.get("cohort.sampling", "everyone") == "everyone" and not overrides.get("cohort.dropout")
    if everybody and all(report.status == "trained" for report in reports):
        assert planned == spent
    return True


def overrides(configuration: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
    return {"privacy.clip_norm": 1.0, "evaluate_every": 0, **configuration, **sampling}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(configurations, samplings)
def test_every_door_gives_one_figure(
    tmp_path_factory: pytest.TempPathFactory, configuration: dict[str, Any], sampling: dict[str, Any]
) -> None:
    check(tmp_path_factory.mktemp("run"), overrides(configuration, sampling))


@pytest.mark.slow
def test_every_door_gives_one_figure_for_200_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    compared = 0

    @settings(max_examples=800, deadline=None)
    @given(configurations, samplings)
    def each(configuration: dict[str, Any], sampling: dict[str, Any]) -> None:
        nonlocal compared
        if compared < 200:
            compared += check(tmp_path_factory.mktemp("run"), overrides(configuration, sampling))

    each()
    assert compared >= 200


@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_some_configurations_give_a_run(tmp_path: Path, placement: str, scheme: str) -> None:
    chosen = {"privacy.placement": placement, "sum.scheme": scheme, "privacy.noise_multiplier": 2.0, "rounds": 2}
    poisson = {"cohort.sampling": "poisson", "cohort.probability": 0.9, "cohort.min_survivor_fraction": 0.8}
    assert check(tmp_path, overrides(chosen, poisson))
