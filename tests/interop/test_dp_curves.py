"""Curves over a history and groups of units: reference values, consistency with epsilon, refusals."""

import math

import numpy as np
import pytest
from ledgers import MASKED, PLAIN
from scipy import stats

from privfl.dp import (
    Everyone,
    FixedSize,
    History,
    Plan,
    Poisson,
    PrivacyCurve,
    PrivacyUnit,
    Release,
    Slot,
    TruncatedPoisson,
    epsilon,
)
from privfl.errors import ConfigError, UnsupportedRelease

ROW_A = {"sampling": Poisson(0.01), "noise_multiplier": 1.0, "rounds": 1000}
ROW_C = {"sampling": Poisson(0.1), "noise_multiplier": 0.8, "rounds": 100}
GAUSSIAN = {"sampling": Everyone(), "noise_multiplier": 1.0, "rounds": 1}


def history(**settings):
    return Plan(**settings).history()


def curve(settings, **asked):
    return PrivacyCurve(history(**settings), **asked)


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        (ROW_A, [(0, 0.1610177), (0.5, 3.056804e-2), (1, 2.612424e-3), (2, 2.665578e-6), (3, 9.22191e-10)]),
        (ROW_C, [(1, 0.365030)]),
        (GAUSSIAN, [(0, 0.382925)]),
    ],
)
def test_profiles(settings, points):
    found = curve(settings)
    assert [value for _, value in found.profile(e for e, _ in points)] == pytest.approx(
        [d for _, d in points], rel=2e-4
    )


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        (ROW_A, [(0.01, 0.970861), (0.05, 0.888998), (0.1, 0.805798), (0.5, 0.341423)]),
        (ROW_C, [(0.05, 0.504876), (0.5, 0.051428)]),
        (GAUSSIAN, [(0.01, 0.907638), (0.05, 0.740489), (0.1, 0.610856), (0.5, 0.158655)]),
    ],
)
def test_tradeoffs(settings, points):
    found = [beta for _, beta in curve(settings).tradeoff([alpha for alpha, _ in points])]
    assert found == pytest.approx([beta for _, beta in points], abs=3e-6)


def test_the_tradeoff_of_one_gaussian_is_never_above_the_exact_one():
    alphas = np.linspace(0.0, 1.0, 41)
    for alpha, beta in curve({"sampling": Everyone(), "noise_multiplier": 1.5, "rounds": 3}).tradeoff(alphas):
        exact = stats.norm.cdf(stats.norm.isf(alpha) - math.sqrt(3) / 1.5)
        assert exact - 1e-5 <= beta <= exact


@pytest.mark.parametrize(
    "settings",
    [
        ROW_A,
        {"sampling": Poisson(0.2), "noise_multiplier": 2.0, "rounds": 30, "unit": PrivacyUnit("client", "replace_one")},
        {"sampling": FixedSize(20, 100), "noise_multiplier": 4, "rounds": 9, "unit": PrivacyUnit("client", "zero_out")},
        {"sampling": TruncatedPoisson(0.1, 13, 100), "noise_multiplier": 2.0, "rounds": 10},
        {
            "sampling": Poisson(0.05),
            "noise_multiplier": 1.5,
            "rounds": 40,
            "placement": "distributed",
            "slots": (Slot("update", 500, 2.0**14, 1.0),),
        },
        {
            "sampling": Poisson(0.05),
            "noise_multiplier": 1.5,
            "rounds": 40,
            "placement": "distributed",
            "slots": (Slot("update", 5, 10.0, 1.0),),
        },
        {"sampling": Poisson(0.05), "noise_multiplier": 1.5, "rounds": 40, "turn": 2e-8},
        {"sampling": Poisson(0.05), "noise_multiplier": 1.5, "rounds": 4, "turn": None},
        {"sampling": Everyone(), "noise_multiplier": 3.0, "rounds": 4, "observer": "participant", "views": MASKED},
    ],
    ids=lambda s: f"{s['sampling']}-{len(s)}",
)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_profile_and_epsilon_are_inverse(settings, delta):
    settings = dict(settings)
    observer = settings.get("observer", "outsider")
    run = history(**settings)
    figure = epsilon(run, delta, observer=observer, cross_checks=False).epsilon
    assert PrivacyCurve(run, observer=observer).delta(figure) == pytest.approx(delta, rel=0.02)
    assert PrivacyCurve(run, observer=observer).delta(figure * 0.9) > delta


def test_falls_from_the_advantage():
    found = curve(ROW_A)
    deltas = [delta for _, delta in found.profile(np.linspace(0, 4, 60))]
    assert deltas == sorted(deltas, reverse=True)
    assert deltas[0] == found.advantage
    betas = [beta for _, beta in found.tradeoff(np.linspace(0, 1, 30))]
    assert betas == sorted(betas, reverse=True)
    assert betas[-1] == 0.0
    assert betas[0] > 1 - 1e-6


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        (ROW_A, {2: 3.97909, 3: 6.34294}),
        ({"sampling": Poisson(0.1), "noise_multiplier": 4.0, "rounds": 100}, {2: 2.12100, 3: 3.35597}),
        (GAUSSIAN, {2: 9.997256, 3: 16.675494, 4: 24.381611}),
    ],
)
def test_groups(settings, points):
    run = history(**settings)
    for group, figure in points.items():
        report = epsilon(run, 1e-5, group=group, cross_checks=False)
        assert figure - 2e-5 <= report.epsilon <= figure * (1 + 1e-4)
        assert f"group of {group} clients" in report.sentence
        assert report.as_dict()["group"] == group
        assert PrivacyCurve(run, group=group).delta(report.epsilon) == pytest.approx(1e-5, rel=0.01)
    assert epsilon(run, 1e-5, group=1, cross_checks=False).epsilon < min(points.values())


def test_a_group_against_those_who_know_the_cohorts():
    release = Release(
        round=0,
        placement="central",
        law="rounded_gaussian",
        secure=True,
        declared_stddev=2.0**12,
        realized_stddev=2.0**12,
        norm_bound=2.0**12,
        length=3,
        sampling=Poisson(0.1),
        views=PLAIN,
        participants=(1, 2, 3),
    )
    run = History.hypothetical(PrivacyUnit(), [release])
    known = epsilon(run, 1e-5, observer="participant", group=3, cross_checks=False)
    assert known.epsilon == pytest.approx(16.675494, abs=1e-5)
    assert PrivacyCurve(run, observer="participant", group=3).delta(known.epsilon) == pytest.approx(1e-5, rel=1e-3)
    assert epsilon(run, 1e-5, observer="server", group=3).epsilon == math.inf
    assert PrivacyCurve(run, observer="server").advantage == 1.0


@pytest.mark.parametrize(
    ("sampling", "adjacency"),
    [
        (Poisson(0.1), "replace_one"),
        (Everyone(), "replace_one"),
        (FixedSize(10, 100), "zero_out"),
        (TruncatedPoisson(0.1, 12, 100), "add_remove"),
    ],
)
def test_groups_that_are_refused(sampling, adjacency):
    run = history(sampling=sampling, noise_multiplier=2.0, rounds=3, unit=PrivacyUnit("client", adjacency))
    with pytest.raises(UnsupportedRelease, match="group"):
        epsilon(run, 1e-5, group=2)
    with pytest.raises(UnsupportedRelease, match="group"):
        PrivacyCurve(run, group=2)


def test_a_turn_is_bounded_for_one_client_only():
    run = history(**ROW_C, turn=1e-9)
    grouped = epsilon(run, 1e-5, group=2, cross_checks=False)
    assert grouped.epsilon == pytest.approx(
        epsilon(history(sampling=Everyone(), noise_multiplier=0.4, rounds=100), 1e-5).epsilon, rel=1e-6
    )
    assert any("sampling is not counted" in caveat for caveat in grouped.caveats)


def test_groups_of_integer_noise():
    slots = (Slot("update", 100, 2.0**16, 1.0),)
    run = history(**ROW_C | {"noise_multiplier": 4.0}, placement="distributed", slots=slots)
    central = history(**ROW_C | {"noise_multiplier": 4.0})
    ours, theirs = (epsilon(h, 1e-5, group=2, cross_checks=False).epsilon for h in (run, central))
    assert theirs < ours < theirs * 1.001


def test_wrong_arguments():
    found = curve(GAUSSIAN)
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="epsilon"):
            found.delta(value)
    with pytest.raises(ConfigError, match="alpha"):
        found.tradeoff([1.5])
    with pytest.raises(ConfigError, match="group"):
        curve(GAUSSIAN, group=0)
    with pytest.raises(ConfigError, match="observer"):
        curve(GAUSSIAN, observer="nobody")


def test_insecure_noise_needs_to_be_assumed_secure():
    release = Release(
        round=0,
        placement="central",
        law="rounded_gaussian",
        secure=False,
        declared_stddev=4096.0,
        realized_stddev=4096.0,
        norm_bound=4096.0,
        length=3,
        sampling=Everyone(),
        views=PLAIN,
    )
    run = History.hypothetical(PrivacyUnit(), [release])
    with pytest.raises(UnsupportedRelease, match="seeded"):
        PrivacyCurve(run)
    assert PrivacyCurve(run, assume_secure_noise=True).advantage == pytest.approx(0.382925, abs=1e-6)
