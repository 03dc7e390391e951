"""A delta of 1/population or more promises nothing to one unit: it needs a flag, whatever the door."""

from pathlib import Path
from typing import Any

import pytest

from privfl.cli.app import run
from privfl.errors import ConfigError
from privfl.experiment import Experiment

NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def an_experiment(tmp_path: Path, **privacy: Any) -> Experiment:
    overrides = NOISE | {f"privacy.{key}": value for key, value in privacy.items()}
    return Experiment(rounds=1, runs=tmp_path, overrides=overrides | {"data.clients": 10})


@pytest.mark.parametrize("delta", [0.1, 0.5, 0.99])
def test_a_run_refuses_it_and_names_both_ways_out(tmp_path: Path, delta: float) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.delta below 0\.1, or privacy\.allow_large_delta = true"):
        an_experiment(tmp_path, delta=delta)
    allowed = an_experiment(tmp_path, delta=delta, allow_large_delta=True)
    allowed.run()
    report = allowed.epsilon()
    assert report is not None
    assert any("not below 1/10" in caveat for caveat in report.caveats)


def test_a_delta_just_below_needs_no_flag(tmp_path: Path) -> None:
    assert an_experiment(tmp_path, delta=0.0999).delta == 0.0999


def test_a_question_about_a_finished_run_is_answered_with_a_caveat(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path)
    experiment.run()
    report = experiment.epsilon(delta=0.2)
    assert report is not None
    assert any("not below 1/10" in caveat for caveat in report.caveats)


EPSILON = ["epsilon", "--noise-multiplier", "2", "--rounds", "3"]
CALIBRATE = ["calibrate", "--epsilon", "8", "--rounds", "3"]


@pytest.mark.parametrize("verb", [EPSILON, CALIBRATE])
def test_the_verbs_take_a_flag(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*verb, "--sampling", "poisson", "--population", "100", "--cohort", "10", "--delta", "0.01"]
    assert run(arguments) == 2
    assert "--allow-large-delta" in capsys.readouterr().err.replace("\n", " ")
    assert run([*arguments, "--allow-large-delta"]) == 0


def test_the_population_that_is_found_is_the_one_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["calibrate", "--find", "population", "--epsilon", "2", "--cohort", "10", "--noise-multiplier", "1"]
    asked += ["--rounds", "10", "--sampling", "poisson", "--delta", "0.05"]
    code, text = run(asked), capsys.readouterr()
    assert code == 0 or "--allow-large-delta" in text.err.replace("\n", " ")
    assert run([*asked[:-1], "1e-5"]) == 0
