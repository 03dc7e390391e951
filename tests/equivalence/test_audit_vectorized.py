"""The rounds that audits compute over arrays are those of the parties, to the last bit."""

from typing import Any

import pytest
from audits import an_experiment

from privfl.errors import PrivacyError
from privfl.experiment.audit import measure
from privfl.experiment.audit.measure import AuditPlan, check_against_parties
from privfl.experiment.audit.subject import Subject
from privfl.observers import Observer

CENTRAL = {"privacy.placement": "central"}
SHARES = {"privacy.placement": "distributed", "sum.scheme": "masked"}
MESH = {"privacy.placement": "mesh", "sum.scheme": "masked"}
LOCAL = {"privacy.placement": "local"}
SIDES = {"privacy.clip_quantile": 0.5, "privacy.loss_bound": 4.0, "privacy.noise_multiplier": 0.5}
POISSON = {"cohort.sampling": "poisson", "cohort.probability": 0.6}

CASES: list[tuple[Observer, dict[str, Any]]] = [
    ("outsider", CENTRAL),
    ("outsider", CENTRAL | SIDES),
    ("outsider", CENTRAL | POISSON | SIDES | {"privacy.noise_multiplier": 0.3, "sum.rounding": "stochastic"}),
    ("participant", CENTRAL | {"sum.scheme": "masked", "privacy.clip": "layers"}),
    ("server", CENTRAL | {"sum.scheme": "ckks"}),
    ("outsider", SHARES | POISSON | {"cohort.min_survivor_fraction": 0.8}),
    ("participant", SHARES | {"privacy.clip": "entries", "privacy.adjacency": "replace_one", "privacy.colluders": 1}),
    ("server", SHARES | {"sum.rotation": True, "cohort.sampling": "fixed-size", "cohort.size": 6}),
    ("server", MESH | {"privacy.spare": 2}),
    ("participant", MESH),
    ("outsider", MESH | POISSON | {"cohort.min_survivor_fraction": 0.8}),
    ("server", MESH | POISSON | {"cohort.min_survivor_fraction": 0.8}),
    ("key_holder", SHARES | {"sum.scheme": "ckks"}),
    ("server", LOCAL | {"privacy.adjacency": "replace_one"}),
    ("participant", LOCAL | {"sum.scheme": "masked"}),
]


def compared(observer: Observer, settings: dict[str, Any], dropouts: Any, trials: int) -> int:
    if settings.get("cohort.sampling") == "fixed-size":
        settings = settings | {"privacy.adjacency": "zero_out"}
    experiment = an_experiment(8, **({"rounds": 3} | settings))
    subject = Subject.of(experiment.parts, observer=observer, rounds=3, dropouts=dropouts)
    return check_against_parties(subject, AuditPlan(check=trials, seed=5))


@pytest.mark.parametrize("dropouts", ["fewest", "none"])
@pytest.mark.parametrize(("observer", "settings"), CASES)
def test_arrays_and_parties_agree(observer: Observer, settings: dict[str, Any], dropouts: str) -> None:
    assert compared(observer, settings, dropouts, 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("observer", "settings"), [case for case in CASES if case[1].get("sum.scheme") != "ckks"])
def test_arrays_and_parties_agree_in_two_hundred_trials(observer: Observer, settings: dict[str, Any]) -> None:
    assert compared(observer, settings, "fewest", 200) == 200


def test_a_difference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = measure.vectorized_looks

    def altered(*arguments: Any) -> Any:
        for looks in exact(*arguments):
            looks[1, 0] += 1
            yield looks

    monkeypatch.setattr(measure, "vectorized_looks", altered)
    with pytest.raises(PrivacyError, match="trial 1"):
        compared("outsider", CENTRAL, "fewest", 2)
