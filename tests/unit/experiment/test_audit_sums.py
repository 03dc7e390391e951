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


VARIANTS = {
    "mesh, server": ("masked", "mesh", "server", {}),
    "mesh, server with two members": ("masked", "mesh", "server", {"spare": 2}),
    "mesh, a member": ("masked", "mesh", "participant", {}),
    "mesh, outsider": ("masked", "mesh", "outsider", {}),
    "distributed, server": ("masked", "distributed", "server", {}),
    "distributed in ckks, server": ("ckks", "distributed", "server", {}),
    "central, outsider": ("plain", "central", "outsider", {}),
    "replaced, server": ("masked", "mesh", "server", {"adjacency": "replace_one"}),
    "by site, server": (
        "masked",
        "mesh",
        "server",
        {"sampling_probability": None, "sampling_probabilities": (0.5, 0.3, 0.2, 0.1)},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_lower_bound_stays_below_the_stated_figure(name):
    scheme, placement, observer, terms = VARIANTS[name]
    result = audit(an_experiment(scheme, placement, **terms), observer=observer, plan=PLAN)
    assert result.stated.unit.level == "example"
    assert 0.1 * result.stated.epsilon < result.lower.epsilon <= result.stated.epsilon
    assert result.checked == 2
    assert not result.refuted


@pytest.mark.parametrize("observer", ["server", pytest.param("participant", marks=pytest.mark.slow)])
def test_copies_at_two_sites_are_held_to_the_figure_of_two(observer):
    one = an_experiment(q=1.0, z=4.0)
    two = an_experiment(q=1.0, z=4.0, sites_per_person=2)
    plan = dataclasses.replace(PLAN, trials=40_000)
    alone, copied = (audit(each, observer=observer, plan=plan) for each in (one, two))
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
