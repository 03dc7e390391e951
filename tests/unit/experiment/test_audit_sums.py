"""Audits of sums over examples: bounds below the stated figure for one example and for copies, and faults found."""

import dataclasses
from unittest import mock

import numpy as np
import pytest

from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import Data, Experiment, Privacy, Server, Sum
from privfl.experiment.audit import sums as audited
from privfl.experiment.audit.measure import AuditPlan, audit

PLAN = AuditPlan(trials=4000, check=2, seed=1)


def an_experiment(scheme="masked", placement="mesh", q=0.5, z=1.5, **privacy):
    terms = {"unit": "example", "clip_norm": 1.0, "sampling_probability": q, "denominator": 100.0, "delta": 1e-4}
    return Experiment(
        rounds=8,
        data=Data(name="breast_cancer", clients=4, standardize="public", test="public"),
        server=Server(eta=1.0),
        sum=Sum(scheme=scheme),
        privacy=Privacy(placement=placement, noise_multiplier=z, **terms | privacy),
    )


@pytest.mark.parametrize(
    ("scheme", "placement", "observer"),
    [("masked", "mesh", "server"), ("masked", "distributed", "server"), ("plain", "central", "outsider")],
)
def test_a_lower_bound_stays_below_the_stated_figure(scheme, placement, observer):
    result = audit(an_experiment(scheme, placement), observer=observer, plan=PLAN)
    assert result.stated.unit.level == "example"
    assert 0.25 * result.stated.epsilon < result.lower.epsilon <= result.stated.epsilon
    assert result.checked == 2
    assert not result.refuted


def test_copies_at_two_sites_are_held_to_the_figure_of_two():
    one = an_experiment(q=0.9, z=3.0)
    two = an_experiment(q=0.9, z=3.0, sites_per_person=2)
    plan = dataclasses.replace(PLAN, trials=20_000)
    alone, copied = audit(one, observer="server", plan=plan), audit(two, observer="server", plan=plan)
    assert copied.stated.group == 2
    assert copied.lower.epsilon <= copied.stated.epsilon
    assert alone.lower.epsilon <= alone.stated.epsilon < copied.lower.epsilon


def test_less_noise_than_stated_is_refuted():
    experiment = an_experiment(q=0.9)
    short = mock.patch.object(audited, "skellam", lambda variance, count: np.zeros(count, np.int64) + np.rint(
        np.random.default_rng(0).normal(0, variance**0.5 / 3, count)).astype(np.int64))  # fmt: skip
    with short:
        result = audit(experiment, observer="server", plan=PLAN)
    assert result.refuted


def test_an_example_that_moves_others_is_found():
    experiment = an_experiment()
    whole = audited.example_sum

    def leaky(train, plan, model, client):
        total = whole(train, plan, model, client)
        return total + (total != 0).any() * np.arange(len(total))

    with mock.patch.object(audited, "example_sum", leaky), pytest.raises(PrivacyError, match="own clipped gradient"):
        audit(experiment, observer="server", plan=dataclasses.replace(PLAN, check=6))


def test_other_canaries_and_plain_servers_are_refused():
    with pytest.raises(ConfigError, match="one example"):
        audit(an_experiment(), observer="server", plan=dataclasses.replace(PLAN, canary="gradient"))
    with pytest.raises(ConfigError, match="no epsilon"):
        audit(an_experiment("plain", "central"), observer="server", plan=PLAN)
