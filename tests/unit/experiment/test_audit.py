"""Audits of whole runs: bounds next to the stated figure, observers, kinds of canaries, and what is refused."""

import time
from typing import Any

import numpy as np
import pytest
from audits import an_audit, an_experiment

from privfl.errors import ConfigError
from privfl.experiment import AuditPlan, Experiment, audit
from privfl.experiment.audit.canaries import Role, contribution
from privfl.experiment.audit.measure import check_against_parties
from privfl.experiment.audit.subject import Subject
from privfl.observers import Observer

MASKED = {"privacy.placement": "distributed", "sum.scheme": "masked"}
MESH = {"privacy.placement": "mesh", "sum.scheme": "masked"}
STREAM = {"cohort.sampling": "one-pass", "cohort.size": 2, "rounds": 4, "privacy.correlation": "toeplitz"}
MASKED_STREAM = STREAM | {"sum.scheme": "masked", "cohort.size": 4, "rounds": 2}


@pytest.mark.parametrize(
    ("observer", "settings", "tight"),
    [
        ("outsider", {}, True),
        ("outsider", {"privacy.adjacency": "replace_one", "privacy.noise_multiplier": 2.0}, True),
        ("participant", MASKED, False),
        ("server", MASKED | {"privacy.colluders": 1}, False),
        ("outsider", MESH, False),
        ("participant", MESH, True),
        ("server", MESH | {"privacy.spare": 2}, True),
        ("server", MESH | {"privacy.spare": 0}, True),
        ("outsider", MESH | {"privacy.members": 5}, False),
        ("participant", MESH | {"privacy.members": 5}, True),
        ("server", MESH | {"privacy.members": 6, "privacy.spare": 2}, True),
        ("outsider", STREAM, True),
        ("participant", MASKED_STREAM | {"privacy.clip": "layers"}, True),
        ("outsider", STREAM | {"privacy.correlation": "none"}, True),
        ("participant", MASKED | {"sum.scheme": "ckks"}, True),
        ("server", {"privacy.placement": "local"}, True),
        ("participant", {"privacy.placement": "local", "sum.scheme": "masked"}, True),
        ("outsider", {"privacy.clip": "layers"}, True),
        ("outsider", {"privacy.clip": "entries"}, True),
        ("outsider", {"privacy.loss_bound": 2.0, "privacy.clip_quantile": 0.4, "privacy.noise_multiplier": 0.5}, True),
    ],
)
def test_the_lower_bound_is_below_the_stated_figure_and_close_where_nothing_is_wasted(
    observer: Observer, settings: dict[str, Any], tight: bool
) -> None:
    result = an_audit(an_experiment(8, **settings), observer, trials=2_000, one_run=True)
    assert not result.refuted, result.sentence
    assert all(bound.epsilon <= result.stated.epsilon for bound in result.bounds)
    assert len(result.bounds) == 3
    assert result.lower.epsilon >= (0.75 if tight else 0.4) * result.stated.epsilon


ADAPTIVE = {"privacy.loss_bound": 2.0, "privacy.clip_quantile": 0.4, "privacy.noise_multiplier": 0.5}
POISSON = {"cohort.sampling": "poisson", "cohort.probability": 0.8}
COMPARED: list[tuple[dict[str, Any], int]] = [
    ({}, 60),
    (POISSON, 20),
    ({"privacy.placement": "local"}, 30),
    (ADAPTIVE, 30),
    (MASKED, 16),
    (MESH | {"privacy.members": 5}, 10),
    (MESH | POISSON | {"privacy.members": 4, "privacy.min_members_to_open": 2}, 8),
    (STREAM, 20),
    (MASKED_STREAM | {"privacy.loss_bound": 2.0, "privacy.noise_multiplier": 0.2}, 6),
]
"""Runs, and how many of their trials are also run through the parties: 200 together."""


def test_two_hundred_trials_are_compared() -> None:
    assert sum(count for _, count in COMPARED) == 200


@pytest.mark.parametrize(("settings", "count"), COMPARED)
def test_arrays_and_parties_agree_to_the_last_bit(settings: dict[str, Any], count: int) -> None:
    experiment = an_experiment(8, **settings)
    subject = Subject.of(experiment.parts, observer="outsider", rounds=experiment.config.rounds)
    assert check_against_parties(subject, AuditPlan(trials=20, check=count)) == count


def test_sampled_cohorts_get_the_bound_without_a_shape() -> None:
    settings = {"cohort.sampling": "poisson", "cohort.probability": 0.5, "privacy.noise_multiplier": 0.6}
    result = an_audit(an_experiment(8, **settings), trials=1_000, one_run=True)
    assert [bound.mu for bound in result.bounds] == [None]
    assert 0 < result.lower.epsilon < result.stated.epsilon


@pytest.mark.parametrize("settings", [{}, {"privacy.clip": "layers"}, {"privacy.clip": "entries"}])
def test_the_worst_canary_reaches_the_norm_bound(settings: dict[str, Any]) -> None:
    subject = Subject.of(an_experiment(8, **settings).parts, rounds=1)
    noise = subject.plan(tuple(range(8)), round=1, seed=0).noise(subject.scheme)
    for role in (Role(0, 1), Role(1, -1), Role(3, 1)):
        vector = contribution(subject.encoding, role, np.random.default_rng(0))
        assert 0.999 < np.linalg.norm(vector) / noise.norm_bound <= 1.0


def real(**settings: Any) -> Experiment:
    overrides = {
        "data.clients": 4,
        "data.standardize": "public",
        "privacy.placement": "central",
        "privacy.clip_norm": 0.5,
        "privacy.noise_multiplier": 0.5,
        "privacy.delta": 1e-5,
        "rounds": 1,
    }
    return Experiment(overrides=overrides | settings)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace_one"])
@pytest.mark.parametrize("canary", ["gradient", "data"])
def test_canaries_next_to_clients_that_train(canary: Any, adjacency: str) -> None:
    result = audit(real(**{"privacy.adjacency": adjacency}), plan=AuditPlan(trials=100, canary=canary))
    assert result.checked == 0
    assert not result.refuted
    assert canary == "data" or result.lower.epsilon > 1.0


def test_trials_through_the_parties_use_the_runs_own_noise() -> None:
    result = audit(real(), plan=AuditPlan(trials=120, parties=True, one_run=False))
    assert not result.refuted
    assert result.lower.epsilon > 0.5  # this noise has no seed, so the figure varies


def test_ten_thousand_rounds_take_less_than_a_minute() -> None:
    started = time.perf_counter()
    an_audit(an_experiment(8, **MASKED, rounds=1), trials=5_000)
    assert time.perf_counter() - started < 60


def test_progress_reaches_the_end() -> None:
    steps: list[tuple[int, int]] = []
    audit(real(), plan=AuditPlan(trials=20, check=0), progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]


def test_equal_seeds_give_equal_bounds() -> None:
    plan = AuditPlan(trials=100, check=0)
    first, again = (audit(real(), plan=plan).as_dict() for _ in range(2))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 20 pairs"):
        AuditPlan(trials=3)
    with pytest.raises(ConfigError, match="alpha"):
        AuditPlan(alpha=0.0)
    with pytest.raises(ConfigError, match="no epsilon to audit"):
        audit(real(), observer="server")
    with pytest.raises(ConfigError, match="too few for a canary"):
        Subject.of(real(**{"privacy.colluders": 3}).parts, observer="participant", rounds=1)
