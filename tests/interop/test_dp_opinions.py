"""All accountants next to each other, all observers next to each other, and what a curve says in single numbers."""

import math

import pytest
from ledgers import CKKS, MASKED
from scipy import stats

from privfl.dp import (
    EpsilonReport,
    Everyone,
    FixedSize,
    Plan,
    Poisson,
    PrivacyUnit,
    Slot,
    TruncatedPoisson,
    by_observer,
    opinions,
    what_if,
)
from privfl.errors import ConfigError, MissingExtra, UnsupportedRelease

REPLACE = PrivacyUnit("client", "replace_one")
INTEGERS = {"placement": "distributed", "slots": (Slot("update", 7850, 2.0**14, 1.0),)}


def others():
    pytest.importorskip("opacus")
    from privfl.adapters.opacus import prv_bounds

    return {"PRV (Opacus)": prv_bounds}


def figures(found):
    return {(opinion.accountant.split(" ")[0], opinion.bound): opinion.epsilon for opinion in found}


@pytest.mark.parametrize(("q", "z", "rounds"), [(0.01, 1.0, 1000), (0.1, 0.8, 100), (0.2, 3.0, 50), (1.0, 2.0, 10)])
def test_lower_bounds_are_below_upper_bounds(q, z, rounds):
    plan = Plan(sampling=Poisson(q) if q < 1 else Everyone(), noise_multiplier=z, rounds=rounds)
    found = opinions(plan.history(), 1e-5, others=others())
    assert all(opinion.note == "" and opinion.seconds >= 0 for opinion in found)
    upper = [opinion.epsilon for opinion in found if opinion.bound == "upper bound"]
    lower = [opinion.epsilon for opinion in found if opinion.bound == "lower bound"]
    assert len(upper) == 5
    assert len(lower) == 1
    assert max(lower) < min(upper)
    assert min(upper) == pytest.approx(plan.epsilon(1e-5), rel=2e-4)
    assert max(lower) > min(upper) - 0.03  # PRV's bounds are 0.01 from its estimate, each
    (limit,) = (opinion.epsilon for opinion in found if opinion.bound == "limit, no bound")
    if q == 1.0:
        assert limit == pytest.approx(plan.epsilon(1e-5), rel=1e-9)


def test_the_limit_is_no_bound():
    found = figures(opinions(Plan(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000).history(), 1e-5))
    assert found["Gaussian", "limit, no bound"] == pytest.approx(1.61771, abs=1e-5)  # mu = q sqrt(T (e - 1)) = .41452
    assert found["Gaussian", "limit, no bound"] < found["PLD", "upper bound"] - 0.2
    assert found["closed", "upper bound"] > 600  # without sampling


def test_what_an_accountant_does_not_know_has_a_reason():
    for plan in (
        Plan(sampling=FixedSize(10, 100), noise_multiplier=3.0, rounds=2, unit=REPLACE),
        Plan(sampling=TruncatedPoisson(0.1, 13, 100), noise_multiplier=3.0, rounds=2),
        Plan(sampling=Poisson(0.1), noise_multiplier=3.0, rounds=2, unit=REPLACE),
    ):
        found = opinions(plan.history(), 1e-5, others=others())
        without = {opinion.accountant.split(" ")[0] for opinion in found if opinion.epsilon is None}
        assert without == {"Renyi", "PRV", "Gaussian"}
        assert all(opinion.note for opinion in found if opinion.epsilon is None)
        known = [opinion.epsilon for opinion in found if opinion.epsilon is not None]
        assert known[0] == pytest.approx(known[1], rel=1e-3)
        assert known[0] == pytest.approx(plan.epsilon(1e-5), rel=1e-3)


def test_integer_noise_has_two_accountants():
    plan = Plan(sampling=Poisson(0.1), noise_multiplier=0.936, rounds=100, **INTEGERS)
    compared, renyi = opinions(plan.history(), 1e-5)
    assert 7.99877 < compared.epsilon < 7.9990
    assert 8.98 < renyi.epsilon < 8.99
    coarse = {"placement": "distributed", "slots": (Slot("update", 7850, 8.0, 1.0),)}
    compared, renyi = opinions(Plan(sampling=Poisson(0.1), noise_multiplier=0.936, rounds=10, **coarse).history(), 1e-5)
    assert compared.epsilon is None
    assert "too small" in compared.note
    assert renyi.epsilon > 0


def test_nothing_to_compare_where_nothing_is_promised():
    plan = Plan(sampling=Poisson(0.1), noise_multiplier=1.0, rounds=3, views=MASKED, observer="server")
    (only,) = opinions(plan.history(), 1e-5, observer="server")
    assert only.epsilon == math.inf
    assert "before its noise" in only.note
    assert only.as_dict()["epsilon"] == "infinity"


def test_other_accountants_may_be_absent():
    def absent(*_):
        raise MissingExtra("opacus", "opacus")

    found = opinions(
        Plan(sampling=Poisson(0.1), noise_multiplier=2.0, rounds=3).history(), 1e-5, others={"PRV": absent}
    )
    (prv,) = (opinion for opinion in found if opinion.accountant == "PRV")
    assert (prv.epsilon, "privfl[opacus]" in prv.note) == (None, True)


def test_every_observer_has_a_figure_and_a_reason():
    found = {
        figure.observer: figure
        for figure in by_observer(
            Plan(sampling=Poisson(0.1), noise_multiplier=2.0, rounds=20, views=CKKS).history(), 1e-5
        )
    }
    assert list(found) == ["outsider", "participant", "server", "key_holder"]
    assert found["outsider"].report.epsilon < found["server"].report.epsilon < math.inf
    assert "Poisson" in found["outsider"].reason
    assert "no amplification" in found["server"].reason
    for name in ("participant", "key_holder"):
        assert found[name].report.epsilon == math.inf
        assert "before its noise" in found[name].reason or "can open it" in found[name].reason
    assert found["server"].as_dict() == {
        "observer": "server",
        "epsilon": found["server"].report.epsilon,
        "reason": found["server"].reason,
    }


def test_a_withheld_cohort_leaves_the_others_without_a_figure():
    from dataclasses import replace

    from privfl.dp import History

    run = Plan(sampling=Poisson(0.1), noise_multiplier=2.0, rounds=1, views=MASKED).history()
    ((drawn, times),) = run.rounds
    published = History(
        run.unit, ((replace(drawn, releases=tuple(release.public_version() for release in drawn.releases)), times),)
    )
    outsider, participant, server = by_observer(published, 1e-5)
    assert outsider.report.epsilon > 0
    assert participant.report is None
    assert server.report is None
    assert "withholds" in server.reason
    assert server.as_dict()["epsilon"] is None


def test_single_numbers_of_one_gaussian():
    report = what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=1e-5)
    assert report.advantage == pytest.approx(0.382925, abs=1e-6)
    assert report.bayes_risk() == pytest.approx(stats.norm.cdf(-0.5), rel=1e-6)  # the error of the best threshold
    for prior in (0.1, 0.3, 0.9):
        cut = 0.5 + math.log((1 - prior) / prior)  # of the likelihood ratio at mu = 1
        exact = (1 - prior) * stats.norm.sf(cut) + prior * stats.norm.cdf(cut - 1)
        assert exact * (1 - 1e-5) <= report.bayes_risk(prior) <= exact
    low, high = report.posterior_odds(0.25)
    exact = 0.5 - stats.norm.ppf(1e-5)  # ln of the likelihood ratio is N(1/2, 1)
    assert exact <= math.log(3 * high) <= exact + 0.25
    assert low * high == pytest.approx(1 / 9)
    assert report.profile([0.0, 1.0])[0] == (0.0, report.advantage)
    assert report.tradeoff([0.5])[0][1] == pytest.approx(0.158655, abs=1e-6)
    assert len(report.profile()) == 61
    assert len(report.tradeoff()) == 101


def test_nothing_promised_in_single_numbers():
    plan = Plan(sampling=Everyone(), noise_multiplier=1.0, rounds=1, views=MASKED, observer="server")
    report = plan.report(1e-5)
    assert (report.advantage, report.bayes_risk()) == (1.0, 0.0)
    assert report.posterior_odds(0.5) == (0.0, math.inf)
    assert {delta for _, delta in report.profile()} == {1.0}


def test_wrong_questions():
    report = what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=1e-5)
    for prior in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="prior"):
            report.bayes_risk(prior)
        with pytest.raises(ConfigError, match="prior"):
            report.posterior_odds(prior)
    bare = EpsilonReport(1.0, 1e-5, "none", PrivacyUnit(), "", "outsider", 1)
    with pytest.raises(ConfigError, match="no curve"):
        bare.profile()


def test_prv_is_not_asked_what_it_does_not_know():
    bounds = others()["PRV (Opacus)"]
    for sampling, unit in ((FixedSize(10, 100), PrivacyUnit()), (Poisson(0.1), REPLACE)):
        with pytest.raises(UnsupportedRelease, match="PRV"):
            bounds([(1.0, sampling, 1)], unit, 1e-5)
