"""Noisy answers as round 0 of a run: one ledger, one epsilon, one budget, and nobody is asked twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.app import run as command
from privfl.data import Dataset
from privfl.dp import History, Ledger, epsilon
from privfl.errors import BudgetExceeded, ConfigError, StateError
from privfl.experiment import Client, Experiment, answers
from privfl.experiment.answers import read_answers
from privfl.experiment.audit.measure import AuditPlan, audit
from privfl.experiment.fitting import calibrated
from privfl.report.page import render
from privfl.report.run import read_run

CLIENTS = 12
FIXED = {"privacy__epsilon": None, "privacy__noise_multiplier": 2.0}


EXAMPLES = {
    "privacy__unit": "example",
    "privacy__sampling_probability": 0.5,
    "privacy__denominator": 10.0,
    "client__steps": None,
    "client__learning_rate": 0.1,
}


def a_dataset(clients: int = CLIENTS, seed: int = 0) -> Dataset:
    """20 examples a client: an age, a pressure of which some are missing, a common and a rare ward."""
    rng = np.random.default_rng(seed)
    n = 20 * clients
    age, pressure = rng.normal(50, 15, n), rng.normal(120, 20, n)
    x = np.stack([age, pressure, rng.random(n) < 0.6, rng.random(n) < 0.01], axis=1)
    y = (age / 15 + pressure / 20 + rng.normal(0, 1, n) > 9.3).astype(np.int64)
    x[::7, 1] = np.nan
    ranges = ((0.0, 120.0), (50.0, 250.0), (0.0, 1.0), (0.0, 1.0))
    names = ("age", "pressure", "ward=general", "ward=eyes")
    return Dataset(
        "wards", "binary", x.astype(np.float32), y, names, ("no", "yes"), np.arange(0, n, 10), ranges=ranges, own=True
    )


def an_experiment(folder: Path, *, rounds: int = 3, data: Dataset | None = None, **settings: Any) -> Experiment:
    values = {
        "data.standardize": "noisy",
        "data.clients": CLIENTS,
        "privacy.placement": "central",
        "privacy.adjacency": "zero_out",
        "privacy.clip_norm": 1.0,
        "privacy.epsilon": 8.0,
    }
    return Experiment(
        name="answers",
        data=data or a_dataset(),
        rounds=rounds,
        client=Client(steps=5, learning_rate=0.5),
        runs=folder,
        overrides=values | {key.replace("__", "."): value for key, value in settings.items()},
    )


def parted(ledger: Ledger, *, answers: bool) -> Ledger:
    """A ledger of the answers alone, or of the training rounds alone."""
    part = Ledger(ledger.unit)
    for draw in ledger.draws:
        if (draw.round == 0) == answers:
            part.draw(draw.round, draw.sampling, draw.turn, void=draw.void)
    for release in ledger.releases:
        if (release.round == 0) == answers:
            part.reserve(release)
    return part


@pytest.mark.parametrize(
    "settings",
    [
        {"sum__scheme": "masked", "privacy__placement": "distributed", **FIXED},
        {"sum__scheme": "masked", "privacy__placement": "mesh", **FIXED},
        {"privacy__placement": "central", "privacy__noise": "simulation"},
        {"cohort__sampling": "poisson", "cohort__probability": 0.3, "privacy__adjacency": "add_remove", **FIXED},
    ],
    ids=["distributed", "mesh", "simulation", "poisson"],
)
def test_the_epsilon_of_a_run_is_that_of_its_answers_and_its_rounds_together(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    experiment = an_experiment(tmp_path, rounds=2, **({"privacy__epsilon": 8.0} | settings))
    planned = experiment.parts.planned_epsilon()
    experiment.run()
    ledger, delta = Ledger.read(experiment.files.ledger_path), experiment.delta
    assert [release.round for release in ledger.releases] == [0, 1, 2]
    asked, trained = parted(ledger, answers=True), parted(ledger, answers=False)
    secure = experiment.config.privacy.noise == "secure"

    def spent(*parts: Ledger) -> float:
        return epsilon(list(parts), delta, assume_secure_noise=not secure).epsilon

    stated = experiment.epsilon()
    assert stated is not None
    assert stated.epsilon == pytest.approx(spent(asked, trained), rel=1e-6)
    assert max(spent(asked), spent(trained)) < stated.epsilon
    assert stated.epsilon <= planned * (1 + 1e-6)
    assert planned <= (experiment.config.privacy.epsilon or planned)


def test_answers_are_near_the_truth_and_standardize_the_training(tmp_path: Path) -> None:
    data = a_dataset(400)
    settings: dict[str, Any] = {"data__clients": 400, "data__noise_multiplier": 1.0, "privacy__epsilon": 12.0}
    experiment = an_experiment(tmp_path, data=data, rounds=1, data__min_category_fraction=0.1, **settings)
    before = experiment.federation.dataset.features
    experiment.run()
    found = read_answers(experiment.folder)
    assert found is not None
    assert found.features == data.feature_names
    assert found.mean == pytest.approx(np.nanmean(data.features, axis=0), rel=0.1, abs=0.05)
    assert found.stddev[:2] == pytest.approx([15, 20], rel=0.5)
    assert found.dropped == (3,)
    after = experiment.federation.dataset.features
    assert abs(after[:, 0].mean()) < abs(before[:, 0].mean())
    assert not after[:, 3].any()
    assert np.isfinite(after).all()


def test_a_resumed_run_asks_nobody_again_and_ends_alike(tmp_path: Path) -> None:
    simulated = {"privacy__noise": "simulation", **FIXED}
    whole = an_experiment(tmp_path / "whole", rounds=4, **simulated).run()
    an_experiment(tmp_path / "parts", rounds=2, **simulated).run()
    again = an_experiment(tmp_path / "parts", rounds=4, **simulated)
    assert read_answers(again.folder) is not None
    assert again.federation.fingerprint() == whole.experiment.federation.fingerprint()  # before it runs
    again.run(resume=True)
    assert [release.round for release in Ledger.read(again.files.ledger_path).releases] == [0, 1, 2, 3, 4]
    assert [report.model for report in again.reports] == [report.model for report in whole.reports]


def test_a_kill_before_the_answers_are_stored_is_charged_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answers, "atomic_write", killed)
        with pytest.raises(KeyboardInterrupt):
            an_experiment(tmp_path, **FIXED).run()
    resumed = an_experiment(tmp_path, **FIXED)
    resumed.run(resume=True)
    releases = Ledger.read(resumed.files.ledger_path).releases
    assert [(release.round, release.attempt) for release in releases] == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]


def test_the_budget_pays_for_the_answers(tmp_path: Path) -> None:
    asked: list[object] = []
    tight = an_experiment(tmp_path, privacy__epsilon=1.0, privacy__noise_multiplier=1.0)
    tight._tap = lambda *message: asked.append(message)
    with pytest.raises(BudgetExceeded):
        tight.run()
    assert not asked
    assert not tight.files.exists
    with pytest.raises(ConfigError, match=r"data\.noise_multiplier = 0\.1 spends epsilon .* raise data"):
        an_experiment(tmp_path, data__noise_multiplier=0.1)
    with pytest.raises(ConfigError, match="needs more noise"):
        calibrated(lambda _: tight.parts, 1.0, 6.0)


def test_an_audit_repeats_the_training_rounds_alone(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, data__noise_multiplier=50.0, **FIXED)
    plan = AuditPlan(trials=200)
    assert audit(experiment, plan=plan).rounds == 3  # as many as epsilon pays for with the noise of a round
    experiment.run()
    ledger = History.of(Ledger.read(experiment.files.ledger_path))
    result = audit(experiment, plan=plan, observer="participant", history=ledger)
    assert (result.rounds, result.refuted) == (3, False)


def test_lost_and_foreign_answers_are_refused(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, rounds=1)
    experiment.run()
    path = experiment.folder / answers.FILE
    stored = path.read_text()
    path.unlink()
    with pytest.raises(StateError, match="lost, and 1 rounds were trained"):
        experiment.epsilon()
    with pytest.raises(StateError, match="is lost"):
        an_experiment(tmp_path, rounds=2).run(resume=True)
    path.write_text(stored.replace(experiment.files.store.load(0).hash, "0" * 64).replace('"ledger":"', '"ledger":"0'))
    with pytest.raises(StateError, match="not in the ledger"):
        experiment.epsilon()
    path.write_text("{}")
    with pytest.raises(StateError, match="was altered"):
        an_experiment(tmp_path, rounds=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"privacy__placement": "none", "privacy__epsilon": None}, "data.standardize = 'exact', or choose a placement"),
        (
            EXAMPLES,
            "or privacy.unit = 'client'",
        ),
        (
            {"data__standardize": "public", "data__noise_multiplier": 1.0},
            "data.noise_multiplier is about noisy answers",
        ),
        ({"data__standardize": "none", "data__min_category_fraction": 0.1}, "data.min_category_fraction is about"),
    ],
    ids=["no noise", "examples", "a multiplier", "a fraction"],
)
def test_settings_that_do_not_fit_are_named(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        an_experiment(tmp_path, **settings)


def test_answers_need_public_ranges_and_examples_that_are_here(tmp_path: Path) -> None:
    bare = Dataset("bare", "binary", np.ones((80, 1), np.float32), np.arange(80) % 2, classes=("a", "b"), own=True)
    with pytest.raises(ConfigError, match="'noisy' needs the public range of every number of bare"):
        an_experiment(tmp_path, data=bare)
    with pytest.raises(ConfigError, match="'noisy' asks about examples that privfl holds"):
        Experiment(
            clients=8,
            train=lambda *_: None,
            initial=np.zeros(2),
            overrides={"data.standardize": "noisy", "privacy.placement": "central", "privacy.noise_multiplier": 1.0},
        )


def test_the_report_and_the_command_line_name_the_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text(
        'name = "scan"\nrounds = 1\ndata = { name = "breast_cancer", clients = 20, standardize = "noisy" }\n'
        'privacy = { placement = "central", adjacency = "zero_out", clip_norm = 1.0, noise_multiplier = 3.0 }\n'
    )
    assert command(["run", str(toml), "--runs", str(tmp_path / "runs")]) == 0
    assert "noisy answers" in capsys.readouterr().out
    page = render(read_run(tmp_path / "runs" / "scan"), public=True)
    assert "30 features, from one noisy sum over all clients: round 0 of the ledger, counted in epsilon" in page
