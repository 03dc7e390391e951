"""Epsilon of examples that their sites sample: amplified against every observer, by site, and for people at k sites."""

import math
from dataclasses import replace

import pytest
import references
from ledgers import MASKED, PLAIN

from privfl.dp import Budget, Everyone, History, Ledger, Plan, Poisson, PrivacyUnit, Release, calibrate, epsilon
from privfl.dp.accounting.by_observer import by_observer
from privfl.dp.unit import PoissonBySite, read_sampling, sampling_record
from privfl.errors import BudgetExceeded, ConfigError, StateError, UnsupportedRelease

EXAMPLES = PrivacyUnit("example", "add_remove")
Q, STEPS, DELTA = 1 / 60, 600, 1e-5


def a_release(z=0.919, *, placement="mesh", sampling=None, known="site", count=STEPS, **changes):
    skellam = placement in ("mesh", "distributed")
    terms = {
        "round": 1,
        "placement": placement,
        "law": "skellam" if skellam else "rounded_gaussian",
        "secure": True,
        "declared_stddev": z * 2.0**20,
        "realized_stddev": z * 2.0**20,
        "norm_bound": 2.0**20,
        "l1_bound": 2.0**25 if skellam else None,
        "length": 1000,
        "sampling": sampling or Poisson(Q),
        "views": MASKED,
        "spare": 1 if placement == "mesh" else None,
        "draw_known_to": known,
        "count": count,
    }
    return Release(**terms | changes)


def a_ledger(*releases, unit=EXAMPLES, path=None):
    ledger = Ledger(unit, path)
    for release in releases:
        ledger.settle(ledger.reserve(release), release)
    return ledger


def figure(ledgers, observer="server", **settings):
    return epsilon(ledgers, DELTA, observer=observer, cross_checks=False, **settings).epsilon


@pytest.mark.parametrize(("sites", "z"), [(1, 0.919), (2, 1.392), (3, 1.912)])
def test_the_noise_for_a_person_with_an_example_at_each_of_k_sites(sites, z):
    # An independent computation gave .919, 1.392 and 1.912 for epsilon 3, q 1/60 and 600 steps, for k = 1, 2, 3.
    assert figure(a_ledger(a_release(z)), group=sites) <= 3
    assert figure(a_ledger(a_release(z - 5e-3)), group=sites) > 3


def test_noise_is_calibrated_for_people_at_several_sites():
    settings = {"sampling": Everyone(), "rounds": 4, "unit": EXAMPLES, "epsilon": 3, "delta": DELTA}
    one, two = (calibrate(**settings, group=group).noise_multiplier for group in (1, 2))
    assert two == pytest.approx(2 * one, rel=1e-3)
    assert figure(a_ledger(a_release(two, placement="central", sampling=Everyone(), count=4)), "outsider", group=2) <= 3


@pytest.mark.parametrize("observer", ["outsider", "server", "participant"])
def test_every_observer_gets_the_amplification_of_coins_that_the_site_alone_knows(observer):
    assert figure(a_ledger(a_release()), observer) == pytest.approx(2.994, abs=2e-3)
    central = a_ledger(a_release(placement="central", views={"outsider": "release", "server": "sum"}))
    assert math.isinf(figure(central, "server"))


def test_coins_that_others_know_amplify_nothing():
    known = a_release(placement="central", known=None, views=MASKED | {"server": "release"})
    hidden = replace(known, draw_known_to="site")
    assert figure(a_ledger(known)) == pytest.approx(468.6, abs=1)
    assert figure(a_ledger(hidden)) == pytest.approx(2.994, abs=2e-3)
    both = a_ledger(replace(hidden, round=2), known)
    assert figure(both) > 467


def test_an_exchanged_example_costs_more():
    exchanged = figure(a_ledger(a_release(), unit=PrivacyUnit("example", "replace_one")))
    assert figure(a_ledger(a_release())) < exchanged < 6
    with pytest.raises(UnsupportedRelease, match="group"):
        figure(a_ledger(a_release(), unit=PrivacyUnit("example", "replace_one")), group=2)


def test_each_site_has_a_figure_of_its_own_and_the_card_shows_the_largest():
    sampling = PoissonBySite(((0, Q / 4), (3, Q), (4, Q / 2)))
    ledger = a_ledger(a_release(sampling=sampling))
    own = {site: figure(History.of(ledger, site=site)) for site, _ in sampling.probabilities}
    assert own[0] < own[4] < own[3] == figure(ledger) == figure(a_ledger(a_release()))
    assert own[4] == figure(a_ledger(a_release(sampling=Poisson(Q / 2))))
    with pytest.raises(ConfigError, match="site 1 has no probability"):
        History.of(ledger, site=1)
    assert read_sampling(sampling_record(sampling)) == sampling


@pytest.mark.parametrize(
    "pairs", [(), ((1, 0.1), (0, 0.1)), ((0, 0.1), (0, 0.2)), ((0, 1.5),), ((0, 0.0),), ((-1, 0.1),)]
)
def test_probabilities_by_site_are_checked(pairs):
    with pytest.raises(ConfigError):
        PoissonBySite(pairs)


def test_the_verifier_finds_the_same_figures(tmp_path):
    reference = references.load("privacy-ledger", "reference")
    sampling = PoissonBySite(((0, Q / 4), (3, Q)))
    for number, (release, unit) in enumerate(
        [
            (a_release(), EXAMPLES),
            (a_release(placement="distributed", sampling=sampling), EXAMPLES),
            (a_release(placement="central", views={"outsider": "release", "server": "release"}), EXAMPLES),
            (a_release(), PrivacyUnit("example", "replace_one")),
            (a_release(count=2, known=None), EXAMPLES),
        ]
    ):
        path = tmp_path / f"{number}"
        ledger = a_ledger(release, replace(release, round=2, count=1), unit=unit, path=path)
        read = reference.read(path.read_bytes())
        for observer in release.views:
            assert reference.epsilon([read], DELTA, observer) == pytest.approx(figure(ledger, observer), abs=1e-3)
        ledger.publish(tmp_path / f"{number}p")
        shown = reference.read((tmp_path / f"{number}p").read_bytes())
        assert reference.epsilon([shown], DELTA) == pytest.approx(figure(ledger, "outsider"), abs=1e-3)


def test_every_attempt_samples_again_and_openings_of_one_share_their_coins():
    one = a_release(2.0, count=1)
    retried = a_ledger(one, replace(one, attempt=1))
    twice = a_ledger(one, replace(one, opening=1))
    assert figure(retried) == figure(a_ledger(one, replace(one, round=2)))
    assert figure(twice) > figure(retried)


def test_what_the_ledger_refuses():
    clients = Ledger(PrivacyUnit("client", "add_remove"))
    clients.draw(1, Poisson(Q), 0.0)
    with pytest.raises(StateError, match="level 'example'"):
        clients.reserve(a_release())
    with pytest.raises(ConfigError, match="draw_known_to"):
        a_release(known="server")
    with pytest.raises(ConfigError, match="site only"):
        a_release(sampling=PoissonBySite(((0, 0.1),)), known=None)
    whole = a_ledger(a_release())
    others = Ledger(PrivacyUnit("client", "add_remove"))
    with pytest.raises(UnsupportedRelease, match="do not add up"):
        epsilon([whole, others], DELTA)
    ledger = Ledger(EXAMPLES)
    token = ledger.reserve(a_release())
    with pytest.raises(Exception, match="not covered"):
        ledger.settle(token, a_release(known=None))


def test_the_words_and_the_budget_speak_of_examples():
    ledger = a_ledger(a_release())
    report = epsilon(ledger, DELTA, observer="server")
    assert "single example" in report.sentence
    assert "Poisson" in report.sampling
    assert any("their own site only" in caveat for caveat in report.caveats)
    reasons = {entry.observer: entry.reason for entry in by_observer(ledger, DELTA)}
    assert "not which examples" in reasons["server"]
    assert Budget(3.1, DELTA).check(Ledger(EXAMPLES), None, a_release()) <= 3.1
    with pytest.raises(BudgetExceeded):
        Budget(3.1, DELTA).check(ledger, None, a_release(round=2))


def test_plans_of_sampled_examples():
    plan = Plan(
        sampling=Poisson(Q), noise_multiplier=0.919, rounds=STEPS, unit=EXAMPLES, observer="server", views=PLAIN,
        placement="central", draw_known_to="site",
    )  # fmt: skip
    assert plan.known_sampling == Poisson(Q)
    assert math.isinf(plan.epsilon(DELTA))
    assert replace(plan, draw_known_to=None).known_sampling == Everyone()
    with pytest.raises(ConfigError, match="about examples"):
        replace(plan, unit=PrivacyUnit())
