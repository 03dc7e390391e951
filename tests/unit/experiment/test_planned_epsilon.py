"""Training at an epsilon: the noise that is found, in Python, TOML and the command line, and a run that keeps it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.data import Dataset
from privfl.dp import Everyone, Poisson, calibrate, default_delta
from privfl.errors import ConfigError, StateError
from privfl.experiment import Client, Config, Data, Experiment, Privacy, Sum, load_config

FEATURES = np.random.default_rng(3).normal(size=(80, 3)).astype(np.float32)
DATA = Dataset("points", "binary", FEATURES, (FEATURES[:, 0] > 0).astype(np.int64), classes=("a", "b"))


def test_the_example_of_the_front_door() -> None:
    experiment = Experiment(
        data=Data("breast_cancer", clients=10, partition="dirichlet:1", standardize="public"),
        client=Client(steps=40, learning_rate=1.0, batch_size=32),
        sum=Sum("masked"),
        privacy=Privacy("distributed", clip_norm=1.0, epsilon=8.0),
        rounds=10,
    )
    result = experiment.run()
    assert len(result.reports) == len(list(result)) == len(result) == 10
    assert result.accuracy is not None
    assert result.accuracy > 0.6
    assert result.epsilon is not None
    assert 7.5 < result.epsilon.epsilon <= 8.0
    assert result.folder == experiment.folder
    assert result.model.shape == (31,)


SETTINGS: list[dict[str, Any]] = [
    {"privacy.placement": "central"},
    {"privacy.placement": "local"},
    {"privacy.placement": "central", "sum.scheme": "masked", "privacy.adjacency": "replace_one"},
    {"privacy.placement": "central", "cohort.sampling": "poisson", "cohort.probability": 0.5},
    {"privacy.placement": "central", "privacy.loss_bound": 2.0, "data.clients": 30, "privacy.epsilon": 8.0},
    {"privacy.placement": "distributed", "sum.scheme": "masked", "cohort.min_survivor_fraction": 0.9},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_planned_rounds_fit_the_epsilon_and_hardly_less_noise_would(settings: dict[str, Any]) -> None:
    common: dict[str, Any] = {
        "rounds": 4,
        "data.clients": 12,
        "privacy.clip_norm": 1.0,
        "privacy.epsilon": 4.0,
        "client.steps": 1,
    }
    common |= settings
    target = common["privacy.epsilon"]
    experiment = Experiment(data=DATA, overrides=common)
    found = experiment.config.privacy.noise_multiplier
    assert found is not None
    assert experiment.parts.planned_epsilon() <= target
    less = Experiment(data=DATA, overrides=common | {"privacy.noise_multiplier": found * 0.995})
    assert less.parts.planned_epsilon() > target
    result = experiment.run()  # to the end: the budget is never exceeded
    assert len(result) == 4
    assert result.epsilon is not None
    assert result.epsilon.epsilon <= target


def test_for_gaussian_noise_it_is_what_calibrate_finds() -> None:
    for sampling, cohort in ((Everyone(), {}), (Poisson(0.5), {"cohort.sampling": "poisson"})):
        more = {"cohort.probability": 0.5} if cohort else {}
        overrides = {"rounds": 7, "data.clients": 16, "cohort.min_survivor_fraction": 0.01} | cohort | more
        central = Privacy("central", clip_norm=1.0, epsilon=2.0)
        experiment = Experiment(data=DATA, privacy=central, overrides=overrides)
        delta = default_delta(16)[0]
        plan = calibrate(epsilon=2.0, delta=delta, sampling=sampling, rounds=7)
        assert experiment.config.privacy.noise_multiplier == pytest.approx(plan.noise_multiplier, rel=0.05)
        assert (experiment.config.privacy.noise_multiplier or 0) >= plan.noise_multiplier


def test_the_multiplier_is_kept_and_a_resumed_run_uses_it(tmp_path: Path) -> None:
    def start(rounds: int, **changes: Any) -> Experiment:
        common = {"data.clients": 12, "client.steps": 1}
        privacy = Privacy("central", clip_norm=1.0, epsilon=4.0)
        return Experiment(data=DATA, privacy=privacy, rounds=rounds, runs=tmp_path, overrides=common | changes)

    whole = start(6)
    planned = whole.config.privacy.noise_multiplier
    rounds = whole.each_round()
    next(rounds)
    rounds.close()
    assert load_config(tmp_path / "run" / "config.toml").privacy.noise_multiplier == planned
    # What is planned now would need less noise; the run was started with another one, and stays with it.
    again = start(3)
    assert again.config.privacy.noise_multiplier == planned
    assert [report.round for report in again.each_round(resume=True)] == [2, 3]
    assert (again.epsilon() or pytest.fail("no figure")).epsilon < 4.0
    with pytest.raises(StateError, match="other settings"):
        start(6, **{"privacy.epsilon": 3.0}).run(resume=True)
    with pytest.raises(StateError, match="other settings"):
        start(6, **{"privacy.noise_multiplier": 9.0}).run(resume=True)
    assert len(start(6).run(resume=True)) == 6


def test_toml_and_the_command_line_do_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "eight.toml"
    toml.write_text(
        'name = "eight"\nrounds = 3\n[data]\nstandardize = "public"\n[client]\nsteps = 2\n'
        '[privacy]\nplacement = "central"\nclip_norm = 1.0\nepsilon = 8.0\n'
    )
    assert run(["run", str(toml), "--runs", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 7.9 < record["privacy"]["epsilon"] <= 8.0
    stored = load_config(tmp_path / "eight" / "config.toml")
    assert stored.privacy.noise_multiplier == Experiment.from_file(toml).config.privacy.noise_multiplier
    assert run(["run", str(toml), "--runs", str(tmp_path), "--json", "--set", "privacy.epsilon=2", "--resume"]) == 2
    assert "other settings" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("privacy", "sentence"),
    [
        (Privacy("central", clip_norm=1.0), "set privacy.epsilon"),
        (Privacy("central", epsilon=8.0), "clip_norm is missing"),
        (Privacy("central", clip_norm=1.0, epsilon=1e-7), "noise"),
    ],
)
def test_what_cannot_be_planned_is_told(privacy: Privacy, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Experiment(Config(privacy=privacy), data=DATA)


def test_nothing_silently_does_nothing(tmp_path: Path) -> None:
    experiment = Experiment(data=DATA, runs=tmp_path, rounds=2, overrides={"data.clients": 4})
    result = experiment.run()
    assert (tmp_path / "run" / "models" / "000002.safetensors").exists()
    assert result.accuracy == experiment.reports[-1].evaluation["accuracy"]
    assert [report.round for report in experiment.each_round(resume=True)] == []
