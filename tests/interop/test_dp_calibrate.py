"""Least noise, most rounds, least population: on the right side of the budget, and close to it."""

from dataclasses import replace

import pytest
from ledgers import MASKED

from privfl.dp import (
    Everyone,
    FixedSize,
    Plan,
    Poisson,
    PrivacyUnit,
    Slot,
    calibrate,
    default_delta,
    max_rounds,
    min_population,
)
from privfl.dp.accounting import search
from privfl.dp.accounting.planning import over_delta, over_rounds
from privfl.errors import ConfigError

SEGMENTS = (Slot("update", 7850, 1024.0, 0.3),)


# dp-accounting 0.6, PLD on a grid of 5e-5 and bisection: 3.9417, 2.2478, 0.9360.
@pytest.mark.parametrize(("epsilon", "z"), [(1.0, 3.9417), (2.0, 2.2478), (8.0, 0.9360)])
def test_the_least_noise(epsilon, z):
    plan = calibrate(epsilon=epsilon, delta=1e-5, sampling=Poisson(0.1), rounds=100)
    assert z - 1e-4 <= plan.noise_multiplier <= z + 1e-3
    assert plan.epsilon(1e-5) <= epsilon
    assert replace(plan, noise_multiplier=plan.noise_multiplier - 2e-4).epsilon(1e-5) > epsilon


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": Everyone()},
        {"sampling": FixedSize(100, 1000), "unit": PrivacyUnit("client", "replace_one")},
        {"sampling": Poisson(0.1), "placement": "distributed", "slots": SEGMENTS},
        {"sampling": Poisson(0.1), "observer": "participant", "views": MASKED},
    ],
)
def test_never_over_budget(settings):
    plan = calibrate(epsilon=3.0, delta=1e-5, rounds=10, **settings)
    assert plan.epsilon(1e-5) <= 3.0
    assert replace(plan, noise_multiplier=plan.noise_multiplier * 0.999).epsilon(1e-5) > 3.0


def test_most_rounds():
    plan = Plan(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1)
    rounds = max_rounds(epsilon=1.0, delta=1e-5, plan=plan)
    assert replace(plan, rounds=rounds).epsilon(1e-5) <= 1.0 < replace(plan, rounds=rounds + 1).epsilon(1e-5)
    assert max_rounds(epsilon=0.1, delta=1e-5, plan=plan) == 0
    unsampled = Plan(sampling=Everyone(), noise_multiplier=1000.0, rounds=1)
    assert max_rounds(epsilon=1.0, delta=1e-5, plan=unsampled) > 10_000
    with pytest.raises(ConfigError, match="ask for less noise"):
        max_rounds(epsilon=1.0, delta=1e-5, plan=replace(unsampled, noise_multiplier=1e7))


def test_least_population():
    plan = Plan(sampling=Everyone(), noise_multiplier=1.0, rounds=20)

    def sampled(n):
        return Poisson(50 / n)

    people = min_population(epsilon=1.5, delta=1e-5, plan=plan, sampling_of=sampled, minimum=50)
    assert replace(plan, sampling=sampled(people)).epsilon(1e-5) <= 1.5
    assert replace(plan, sampling=sampled(people - 1)).epsilon(1e-5) > 1.5
    assert min_population(epsilon=50, delta=1e-5, plan=plan, sampling_of=sampled, minimum=50) == 50
    with pytest.raises(ConfigError, match="no population"):
        min_population(epsilon=1.0, delta=1e-5, plan=plan, sampling_of=lambda n: Everyone(), minimum=50)


def test_targets_out_of_reach_are_refused():
    with pytest.raises(ConfigError, match="above"):
        calibrate(epsilon=1e-9, delta=1e-5, sampling=Everyone(), rounds=10_000_000)
    with pytest.raises(ConfigError, match="no constraint"):
        calibrate(epsilon=1e6, delta=1e-5, sampling=Everyone(), rounds=1)
    for bad in ({"placement": "none"}, {"placement": "distributed"}, {"rounds": 0}, {"noise_multiplier": float("nan")}):
        with pytest.raises(ConfigError):
            Plan(**{"sampling": Everyone(), "noise_multiplier": 1.0, "rounds": 1, **bad})


def test_curves_rise_with_rounds_and_fall_with_delta():
    plan = Plan(sampling=Poisson(0.05), noise_multiplier=1.0, rounds=10)
    rounds = over_rounds(plan, 1e-5, [1, 5, 25])
    assert [n for n, _ in rounds] == [1, 5, 25]
    assert sorted(e for _, e in rounds) == [e for _, e in rounds]
    deltas = over_delta(plan, [1e-8, 1e-6, 1e-4])
    assert sorted((e for _, e in deltas), reverse=True) == [e for _, e in deltas]


def test_the_default_delta_is_explained():
    assert default_delta(100)[0] == 1e-5
    delta, why = default_delta(10**8)
    assert delta < 1 / 10**8
    assert "100000000 units" in why


@pytest.mark.parametrize("start", [2, 50, 51, 52, 99, 100])
@pytest.mark.parametrize("least", [2, 3, 50, 51, 52, 98, 100])
def test_the_gallop_finds_the_least(start, least):
    assert search._gallop(lambda n: n >= least, start, 1, 100) == least
