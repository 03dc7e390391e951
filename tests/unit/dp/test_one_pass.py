"""One pass over clients: what a ledger charges, and what correlated noise costs by the column norm."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from ledgers import CKKS, MASKED, PLAIN

from privfl.dp import (
    Accountant,
    Budget,
    Everyone,
    History,
    Ledger,
    OnePass,
    Plan,
    Poisson,
    PrivacyCurve,
    PrivacyUnit,
    Release,
    Slot,
    calibrate,
    epsilon,
    max_rounds,
    what_if,
)
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.accounting.interchange import export_events
from privfl.dp.draws import round_turn
from privfl.dp.noise.toeplitz import column_norm
from privfl.errors import BudgetExceeded, ConfigError, PrivacyError, StateError, UnsupportedRelease

DELTA = 1e-5
UNIT = PrivacyUnit()


def release(round: int, z: float = 2.0, *, correlation: str = "toeplitz", **changes: Any) -> Release:
    terms: dict[str, Any] = {
        "round": round, "placement": "central", "law": "rounded_gaussian", "secure": True, "declared_stddev": z * 1024,
        "realized_stddev": z * 1024, "norm_bound": 1024.0, "length": 10, "sampling": OnePass(3), "views": PLAIN,
        "participants": (3 * round, 3 * round + 1), "correlation": correlation,
    }  # fmt: skip
    return Release(**terms | changes)


def ledger_of(releases: Iterable[Release], unit: PrivacyUnit = UNIT) -> Ledger:
    ledger = Ledger(unit)
    for one in releases:
        if ledger.draw_of(one.round) is None:
            ledger.draw(one.round, one.sampling, 0.0)
        ledger.reserve(one)
    return ledger


def priced(z: float, rounds: int = 1, factor: int = 1) -> float:
    """The closed form at the multiplier that the specification gives."""
    return gaussian_epsilon(z / column_norm(rounds) / factor, DELTA)


@pytest.mark.parametrize("rounds", [1, 2, 100, 1000])
def test_the_price_is_the_column_norm(rounds: int) -> None:
    ledger = ledger_of(release(r) for r in range(1, rounds + 1))
    for observer in ("outsider", "participant"):
        assert epsilon(ledger, DELTA, observer=observer).epsilon == pytest.approx(priced(2.0, rounds), rel=1e-12)
    assert math.isinf(epsilon(ledger, DELTA, observer="server").epsilon)


@pytest.mark.parametrize("adjacency", ["add_remove", "zero_out", "replace_one"])
def test_planned_and_finished_runs_cost_the_same(adjacency: Any) -> None:
    unit = PrivacyUnit("client", adjacency)
    for correlation in ("none", "toeplitz"):
        finished = ledger_of((release(r, correlation=correlation) for r in range(1, 31)), unit)
        for observer in ("outsider", "participant"):
            planned = what_if(
                sampling=OnePass(3), noise_multiplier=2.0, rounds=30, delta=DELTA, unit=unit, observer=observer,
                views=PLAIN, correlation=correlation,
            )  # fmt: skip
            found = epsilon(finished, DELTA, observer=observer)
            assert planned.epsilon == pytest.approx(found.epsilon, rel=1e-12)
            rounds = 30 if correlation == "toeplitz" else 1
            assert found.epsilon == pytest.approx(priced(2.0, rounds, unit.factor), rel=1e-12)


def test_independent_noise_costs_one_round_the_worst() -> None:
    ledger = ledger_of(release(r, z=3.0 if r != 4 else 1.5, correlation="none") for r in range(1, 9))
    for observer in ("outsider", "participant"):
        assert epsilon(ledger, DELTA, observer=observer).epsilon == pytest.approx(priced(1.5), rel=1e-12)


def test_a_round_that_was_tried_twice_costs_twice_only_if_its_noise_is_fresh() -> None:
    twice = [release(1), release(2), release(2, attempt=1), release(3)]
    assert epsilon(ledger_of(twice), DELTA).epsilon == pytest.approx(priced(2.0, 3), rel=1e-12)
    fresh = [release(1, correlation="none"), release(1, correlation="none", attempt=1)]
    for observer in ("outsider", "participant"):
        found = epsilon(ledger_of(fresh), DELTA, observer=observer).epsilon
        assert found == pytest.approx(priced(2.0 / math.sqrt(2)), rel=1e-12)


def test_skipped_rounds_count_between_the_first_release_and_the_last() -> None:
    found = epsilon(ledger_of([release(5), release(11)]), DELTA).epsilon
    assert found == pytest.approx(priced(2.0, 7), rel=1e-12)


def test_the_weakest_noise_and_the_largest_norm_of_a_ledger_count() -> None:
    ledger = ledger_of([release(1, z=4.0), release(2, z=2.0), release(3, norm_bound=2048.0)])
    assert epsilon(ledger, DELTA).epsilon == pytest.approx(priced(1.0, 3), rel=1e-12)


def test_one_client_of_each_ledger_and_other_releases_compose() -> None:
    first, second = ledger_of(release(r) for r in range(1, 11)), ledger_of([release(1, correlation="none")])
    mu = math.hypot(column_norm(10) / 2.0, 1 / 2.0)
    for observer in ("outsider", "participant"):
        found = epsilon([first, second], DELTA, observer=observer).epsilon
        assert found == pytest.approx(gaussian_epsilon(1 / mu, DELTA), rel=1e-12)
    mixed = ledger_of(
        [
            *(release(r, correlation="none") for r in (1, 2)),
            release(3, correlation="none", sampling=Everyone(), participants=(3, 6)),
        ]
    )
    assert epsilon(mixed, DELTA).epsilon == pytest.approx(priced(2.0 / math.sqrt(2)), rel=1e-12)
    # A client of the third round only pays half of that, and client 3 was in the first too.
    assert epsilon(mixed, DELTA, observer="participant").epsilon == pytest.approx(priced(2.0 / math.sqrt(2)), rel=1e-12)


def test_a_client_that_comes_back_is_refused() -> None:
    ledger = ledger_of([release(1), release(2)])
    ledger.draw(3, OnePass(3), 0.0)
    with pytest.raises(PrivacyError, match="round 3 asks a client of round 2 again"):
        ledger.reserve(release(3, participants=(7, 9)))
    token = ledger.reserve(release(3, participants=(9, 10, 11)))
    ledger.settle(token, release(3, participants=(9, 11)))
    ledger.draw(4, OnePass(3), 0.0)
    ledger.reserve(release(4, participants=(10,)))  # it had dropped out
    ledger.draw(5, OnePass(3), 0.0)
    refunded = ledger.reserve(release(5, participants=(20, 21)))
    ledger.refund(refunded, "never_asked")
    ledger.draw(6, OnePass(3), 0.0)
    ledger.reserve(release(6, participants=(20, 22)))


def test_groups_and_curves() -> None:
    ledger = ledger_of(release(r) for r in range(1, 101))
    assert epsilon(ledger, DELTA, group=3).epsilon == pytest.approx(priced(2.0 / 3, 100), rel=1e-12)
    for observer in ("outsider", "participant"):
        curve = PrivacyCurve(ledger, observer=observer)
        found = epsilon(ledger, DELTA, observer=observer).epsilon
        assert curve.delta(found) == pytest.approx(DELTA, rel=1e-5)


def test_a_budget_stops_before_the_round_that_costs_too_much() -> None:
    budget, ledger = Budget(priced(2.0, 5) * (1 + 1e-9), DELTA), Ledger(UNIT)
    for r in range(1, 6):
        ledger.draw(r, OnePass(3), 0.0)
        spent = budget.check(ledger, ledger.draw_of(r), release(r))
        assert spent == pytest.approx(priced(2.0, r), rel=1e-9)
        ledger.reserve(release(r))
    ledger.draw(6, OnePass(3), 0.0)
    with pytest.raises(BudgetExceeded):
        budget.check(ledger, ledger.draw_of(6), release(6))


def test_planning() -> None:
    settings: dict[str, Any] = {"sampling": OnePass(10), "rounds": 100, "correlation": "toeplitz"}
    plan = calibrate(epsilon=2.0, delta=DELTA, **settings)
    assert plan.epsilon(DELTA) <= 2.0 < Plan(**settings, noise_multiplier=plan.noise_multiplier * 0.999).epsilon(DELTA)
    alone = calibrate(epsilon=2.0, delta=DELTA, **settings | {"correlation": "none"})
    assert plan.noise_multiplier / alone.noise_multiplier == pytest.approx(column_norm(100), rel=1e-4)
    rounds = max_rounds(epsilon=2.0, delta=DELTA, plan=plan)
    assert 100 <= rounds < 105
    assert column_norm(rounds) <= plan.noise_multiplier / alone.noise_multiplier * (1 + 1e-4)
    for bad in ({"sampling": Everyone()}, {"sampling": Poisson(0.1)}):
        with pytest.raises(ConfigError, match="one-pass"):
            Plan(**settings | bad, noise_multiplier=1.0)
    with pytest.raises(ConfigError, match="central noise"):
        Plan(**settings, noise_multiplier=1.0, placement="local")
    local = Plan(sampling=OnePass(10), rounds=50, noise_multiplier=1.0, placement="local")
    assert local.epsilon(DELTA) == pytest.approx(priced(1.0), rel=1e-12)
    shared = Plan(
        sampling=OnePass(10), rounds=50, noise_multiplier=1.0, placement="distributed",
        slots=(Slot("update", 100, 2.0**20, 1.0),),
    )  # fmt: skip
    assert shared.epsilon(DELTA) == pytest.approx(priced(1.0), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampling": Everyone()}, "the sampling must be OnePass, not Everyone"),
        ({"sampling": Poisson(0.1)}, "the sampling must be OnePass, not Poisson"),
        ({"placement": "local"}, "central, rounded Gaussian"),
        ({"law": "discrete_gaussian"}, "central, rounded Gaussian"),
        ({"opening": 1}, "one opening"),
        ({"count": 2}, "one opening"),
        ({"correlation": "banded"}, "correlation"),
    ],
)
def test_a_release_that_nobody_can_price_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        release(1, **changes)


def test_records() -> None:
    for one in (release(1), release(1, correlation="none")):
        assert Release.read(one.record()) == one
    assert "correlation" not in release(1, correlation="none").record()
    with pytest.raises(StateError, match="missing or too many"):
        Release.read(release(1).record() | {"correlation": "none"})
    assert not release(1).covers(release(1, correlation="none"))
    with pytest.raises(PrivacyError, match="4 took part, and the declared size is 3"):
        release(1, participants=(1, 2, 3, 4))
    with pytest.raises(ConfigError):
        OnePass(0)
    ledger = Ledger(PrivacyUnit("example", "add_remove"))
    with pytest.raises(StateError, match="over clients"):
        ledger.reserve(release(1, correlation="none"))


def test_a_published_ledger_gives_the_outsider_the_same(tmp_path: Any) -> None:
    ledger = ledger_of(release(r, views=MASKED) for r in range(1, 21))
    ledger.publish(tmp_path / "public.jsonl")
    public = Ledger.read(tmp_path / "public.jsonl")
    assert epsilon(public, DELTA).epsilon == epsilon(ledger, DELTA).epsilon
    with pytest.raises(UnsupportedRelease, match="withholds who took part"):
        epsilon(public, DELTA, observer="participant")


def test_rounds_that_may_be_skipped() -> None:
    assert round_turn(OnePass(4), 10, lambda size: 0.0) == 0.0
    assert round_turn(OnePass(4), 10, lambda size: None) is None
    assert round_turn(OnePass(4), 10, lambda size: 1e-6 * (size < 3), adjacency="zero_out") == 0.0
    # Cohorts of 4, and of 2 in the end: both count.
    found = round_turn(OnePass(4), 10, lambda size: {4: 1e-6, 3: 2e-6, 2: 5e-6, 1: 1e-5}[size])
    assert found == pytest.approx(1.8e-5, rel=1e-2)
    history = History.planned(UNIT, release(1, correlation="none"), rounds=4, turn=1e-7)
    report = Accountant(DELTA).report(history)
    assert report.epsilon == pytest.approx(priced(2.0), rel=1e-3)
    unbounded = History.planned(UNIT, release(1), rounds=4, turn=None)
    report = Accountant(DELTA).report(unbounded)
    assert (report.unit.adjacency, report.epsilon) == ("zero_out", pytest.approx(priced(2.0, 4), rel=1e-12))
    assert "one pass" in report.sampling


def test_an_export_is_the_worst_round() -> None:
    exported = export_events(ledger_of(release(r) for r in range(1, 101)))
    (event,) = exported.event.events
    assert event.noise_multiplier == pytest.approx(2.0 / column_norm(100), rel=1e-12)
    assert any("takes part once" in warning for warning in exported.warnings)


def test_a_key_holder_sees_through_central_noise() -> None:
    ledger = ledger_of([release(1, views=CKKS)])
    assert math.isinf(epsilon(ledger, DELTA, observer="key_holder").epsilon)
