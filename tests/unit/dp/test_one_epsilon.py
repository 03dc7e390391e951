"""Epsilon is one function of ledgers: draws, several ledgers, published ones, and planned runs take the same path."""

import math
import re

import pytest
from ledgers import CKKS, MASKED, PLAIN, SUMS, noise_of, realized, worst_case

from privfl.dp import (
    Budget,
    Draw,
    Everyone,
    FixedSize,
    History,
    Ledger,
    Mechanism,
    Plan,
    Poisson,
    PrivacyUnit,
    Slot,
    TruncatedPoisson,
    calibrate,
    epsilon,
    max_rounds,
    min_population,
    what_if,
)
from privfl.errors import BudgetExceeded, ConfigError, StateError, UnsupportedRelease
from privfl.files import HashChain

UNIT = PrivacyUnit()
ZERO_OUT, REPLACE_ONE = PrivacyUnit("client", "zero_out"), PrivacyUnit("client", "replace_one")
SLOTS = (Slot("update", 20, 4096.0, 1.0),)
DELTA = 1e-5


def a_plan(placement="central", z=1.0):
    return noise_of(Mechanism(placement, z), SLOTS, cohort=6, min_survivors=4)


def a_ledger(sampling, rounds=3, *, turn=0.0, placement="central", unit=UNIT, path=None, views=MASKED, absent=()):
    """A run in which six clients are sampled, those of `absent` drop out, and every round is settled."""
    ledger, plan = Ledger(unit, path), a_plan(placement)
    for round in range(rounds):
        ledger.draw(round, sampling, turn)
        token = ledger.reserve(worst_case(plan, round=round, sampling=sampling, views=views, cohort=range(6)))
        survivors = set(range(6)) - set(absent)
        ledger.settle(token, realized(plan, round=round, sampling=sampling, views=views, survivors=survivors))
    return ledger


def figure(ledgers, delta=DELTA, **settings):
    return epsilon(ledgers, delta, cross_checks=False, **settings).epsilon


def test_what_skipped_rounds_tell_is_taken_off_delta():
    plain, some = a_ledger(Poisson(0.1), 4), a_ledger(Poisson(0.1), 4, turn=1e-5)
    report = epsilon(some, DELTA)
    assert figure(plain) < report.epsilon
    assert report.epsilon == pytest.approx(figure(plain, DELTA - 4 * 0.1 * 1e-5), rel=1e-12)
    assert report.delta == DELTA
    assert any("4.0e-06 of delta" in caveat for caveat in report.caveats)
    # All others know who took part, and a skip tells them nothing.
    assert figure(some, observer="participant") == figure(plain, observer="participant")


@pytest.mark.parametrize("rounds", [1, 5])
def test_where_they_tell_too_much_sampling_is_not_counted(rounds):
    drowned = epsilon(a_ledger(Poisson(0.1), rounds, turn=1e-4), DELTA)
    assert drowned.epsilon == figure(a_ledger(Everyone(), rounds))
    assert drowned.unit.adjacency == "zero_out"
    assert any("more than half of delta" in caveat for caveat in drowned.caveats)


def test_a_draw_without_a_bound_counts_as_one_of_everyone():
    mixed = Ledger(UNIT)
    for round, turn in enumerate((0.0, None, 0.0)):
        mixed.draw(round, Poisson(0.1), turn)
        mixed.reserve(worst_case(a_plan(), round=round, sampling=Poisson(0.1), views=MASKED, cohort=range(6)))
    report = epsilon(mixed, DELTA)
    assert report.unit.adjacency == "zero_out"
    assert figure(a_ledger(Poisson(0.1), 3)) < report.epsilon < figure(a_ledger(Everyone(), 3))
    assert "everyone" in report.sampling
    assert "Poisson" in report.sampling


def test_a_skipped_round_counts_though_nothing_was_released():
    ledger = a_ledger(Poisson(0.1), 2)
    before = figure(ledger)
    ledger.draw(2, Poisson(0.1), 3e-5)
    assert before < figure(ledger)
    assert figure(ledger) == pytest.approx(figure(a_ledger(Poisson(0.1), 2), DELTA - 3e-6), rel=1e-12)
    ledger.draw(3, Poisson(0.1), None)
    assert epsilon(ledger, DELTA).unit.adjacency == "zero_out"


def test_a_void_draw_takes_every_bound_back():
    ledger = a_ledger(Poisson(0.1), 3, turn=1e-9)
    ledger.draw(3, Poisson(0.1), 1e-9, void=True)
    report = epsilon(ledger, DELTA)
    assert report.epsilon == figure(a_ledger(Everyone(), 3))
    assert report.unit.adjacency == "zero_out"


def test_a_budget_counts_the_draw_that_comes_next():
    ledger, worst = a_ledger(Poisson(0.1), 2), None
    worst = worst_case(a_plan(), round=2, sampling=Poisson(0.1), views=MASKED, cohort=())
    three = figure(a_ledger(Poisson(0.1), 3))
    budget = Budget(three * 1.0001, DELTA)
    assert budget.check(ledger, Draw(2, Poisson(0.1), 0.0), worst) == three
    for draw in (Draw(2, Poisson(0.1), 4e-5), Draw(2, Poisson(0.1), None), Draw(2, Poisson(0.1), 0.0, void=True)):
        with pytest.raises(BudgetExceeded):
            budget.check(ledger, draw, worst)
    ledger.draw(2, Poisson(0.1), 0.0)
    assert budget.check(ledger, ledger.draw_of(2), worst) == three


def test_every_release_has_a_draw_before_it():
    ledger = Ledger(UNIT)
    worst = worst_case(a_plan(), round=0, sampling=Poisson(0.1), views=MASKED, cohort=range(6))
    with pytest.raises(StateError, match="was not sampled"):
        ledger.reserve(worst)
    ledger.draw(0, Poisson(0.2), 0.0)
    with pytest.raises(StateError, match="sampled otherwise"):
        ledger.reserve(worst)
    with pytest.raises(StateError, match="sampled before"):
        ledger.draw(0, Poisson(0.1), 0.0)
    with pytest.raises(StateError, match="no draws"):
        Ledger(PrivacyUnit("example")).draw(0, Poisson(0.1), None)
    with pytest.raises(ConfigError, match="turn"):
        ledger.draw(1, Poisson(0.1), 2.0)


@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
@pytest.mark.parametrize("turn", [0.0, 1e-6, None])
def test_a_published_ledger_gives_the_outsiders_figure_and_no_other(tmp_path, placement, turn):
    ledger = a_ledger(Poisson(0.3), 4, turn=turn, placement=placement, absent=(2, 5), views=CKKS)
    ledger.draw(4, Poisson(0.3), turn)  # skipped
    ledger.publish(tmp_path / "public")
    public = Ledger.read(tmp_path / "public")
    assert epsilon(public, DELTA) == epsilon(ledger, DELTA)
    assert public.draws == ledger.draws
    if placement != "central":
        for observer in ("participant", "server", "key_holder"):
            with pytest.raises(UnsupportedRelease, match="withholds"):
                epsilon(public, DELTA, observer=observer)


def test_a_published_ledger_does_not_count_retries(tmp_path):
    def published(failures):
        ledger = Ledger(UNIT)
        ledger.draw(0, Poisson(0.3), 0.0)
        for attempt in range(failures + 1):
            worst = worst_case(a_plan(), round=0, attempt=attempt, sampling=Poisson(0.3), views=MASKED, cohort=range(6))
            token = ledger.reserve(worst)
            if attempt < failures:
                ledger.refund(token, "too_few_survivors")
        ledger.publish(tmp_path / f"{failures}")
        return (tmp_path / f"{failures}").read_bytes()

    assert published(0) == published(1) == published(4)


@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
@pytest.mark.parametrize("unit", [UNIT, ZERO_OUT, REPLACE_ONE])
@pytest.mark.parametrize(
    "sampling", [Everyone(), Poisson(0.02), Poisson(0.97), Poisson(1.0), FixedSize(6, 7), TruncatedPoisson(0.9, 6, 7)]
)
@pytest.mark.parametrize("turn", [0.0, 2e-6, 1e-4, None])
def test_an_outsider_never_learns_more_than_one_who_knows_a_client_in_every_release(placement, unit, sampling, turn):
    ledger = a_ledger(sampling, 2, turn=turn, placement=placement, unit=unit, views=CKKS)
    try:
        outsider = figure(ledger)
    except UnsupportedRelease:
        return
    known = "server" if placement == "central" else "participant"
    assert 0 < outsider <= figure(ledger, observer=known)
    absent = a_ledger(sampling, 2, turn=turn, placement=placement, unit=unit, views=CKKS, absent=(0, 3))
    assert figure(absent) == outsider


def test_several_ledgers_are_judged_together(tmp_path):
    first, second = a_ledger(Poisson(0.2), 3, turn=1e-6), a_ledger(Everyone(), 2, placement="local")
    both = figure([first, second])
    assert max(figure(first), figure(second)) < both <= figure(first, DELTA / 2) + figure(second, DELTA / 2)
    assert figure([second, first]) == both
    assert figure([first, first]) == figure(a_ledger(Poisson(0.2), 6, turn=1e-6))
    assert epsilon([first, second], DELTA).rounds == 5
    for other in (ZERO_OUT, PrivacyUnit("example")):
        with pytest.raises(UnsupportedRelease, match="one number"):
            epsilon([first, Ledger(other)], DELTA)


@pytest.mark.parametrize(("observer", "views"), [("server", PLAIN), ("participant", MASKED), ("key_holder", CKKS)])
def test_a_client_of_one_ledger_may_be_any_client_of_another(observer, views):
    """Runs number their clients by themselves: client 0 here and client 5 there may be one hospital."""
    placement = "local" if views is PLAIN else "distributed"
    whole, one, other, nobody = (
        a_ledger(Everyone(), 2, placement=placement, views=views, absent=gone)
        for gone in ((), (0, 1), (4, 5), tuple(range(6)) if placement == "local" else ())
    )
    together = figure([one, other], observer=observer)
    assert together == figure([whole, whole], observer=observer)
    assert together == figure(a_ledger(Everyone(), 4, placement=placement, views=views), observer=observer)
    assert together > figure(one, observer=observer) == figure(other, observer=observer)
    assert figure([one, History.of([other, one])], observer=observer) > together
    caveat = "numbers its clients by itself"
    assert caveat in str(epsilon([one, other], DELTA, observer=observer).caveats)
    assert caveat not in str(epsilon(one, DELTA, observer=observer).caveats)
    if placement == "local":
        assert figure([nobody, one], observer=observer) == figure(one, observer=observer)


def test_the_worst_of_each_ledger_is_counted_event_by_event():
    """Client 0 is alone in a round with much noise, client 1 in one with little: no client of the ledger is in both."""
    mixed = Ledger(ZERO_OUT)
    for round, (z, client) in enumerate([(1.0, 0), (3.0, 1)]):
        mixed.draw(round, Everyone(), 0.0)
        plan = a_plan("local", z)
        mixed.reserve(worst_case(plan, round=round, sampling=Everyone(), views=PLAIN, cohort=[client]))
    alone = figure(mixed, observer="server")
    assert figure([mixed, Ledger(ZERO_OUT)], observer="server") >= alone
    assert figure([mixed, mixed], observer="server") > alone


def test_a_void_draw_speaks_of_its_own_ledger_only():
    void = a_ledger(Poisson(0.2), 2)
    void.draw(2, Poisson(0.2), 0.0, void=True)
    sound = a_ledger(Poisson(0.2), 2)
    assert figure([sound, sound]) < figure([sound, void]) < figure([void, void])


@pytest.mark.parametrize("observer", ["participant", "server", "key_holder"])
def test_a_plan_without_a_sum_is_judged_for_outsiders_only(observer):
    for ask in (
        lambda: what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=DELTA, observer=observer),
        lambda: calibrate(epsilon=8.0, delta=DELTA, sampling=Everyone(), rounds=1, observer=observer),
    ):
        with pytest.raises(ConfigError, match="--sum"):
            ask()


SEEN_BEFORE_NOISE = [("plain", "server"), ("masked", "server"), ("ckks", "participant"), ("ckks", "key_holder")]


@pytest.mark.parametrize(("name", "observer"), SEEN_BEFORE_NOISE)
def test_planned_central_noise_promises_nothing_to_those_who_see_the_sum_before_it(name, observer):
    plan = {"sampling": Poisson(0.1), "delta": DELTA, "observer": observer, "views": SUMS[name]}
    assert what_if(noise_multiplier=1.0, rounds=2, **plan).epsilon == math.inf
    with pytest.raises(ConfigError, match="before its noise"):
        calibrate(epsilon=8.0, rounds=2, **plan)
    made = Plan(sampling=Poisson(0.1), noise_multiplier=1.0, rounds=2, observer=observer, views=SUMS[name])
    with pytest.raises(ConfigError, match="no noise keeps"):
        max_rounds(epsilon=8.0, delta=DELTA, plan=made)
    with pytest.raises(ConfigError, match="no noise keeps"):
        min_population(epsilon=8.0, delta=DELTA, plan=made, sampling_of=lambda n: Poisson(10 / n), minimum=10)


def test_distributed_noise_is_none_against_a_server_that_sees_vectors():
    plan = {"sampling": Everyone(), "noise_multiplier": 1.0, "rounds": 1, "delta": DELTA, "observer": "server"}
    assert what_if(placement="distributed", slots=SLOTS, views=PLAIN, **plan).epsilon == math.inf
    assert what_if(placement="distributed", slots=SLOTS, views=MASKED, **plan).epsilon < 6
    with pytest.raises(ConfigError, match="no key holder"):
        what_if(**(plan | {"observer": "key_holder"}), views=MASKED)


@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
@pytest.mark.parametrize("name", ["plain", "masked", "ckks"])
@pytest.mark.parametrize("unit", [UNIT, ZERO_OUT, REPLACE_ONE])
@pytest.mark.parametrize("sampling", [Everyone(), Poisson(0.3), FixedSize(6, 12), TruncatedPoisson(0.5, 6, 12)])
@pytest.mark.parametrize("turn", [0.0, 1.23e-6, None])
def test_planned_is_finished(placement, name, unit, sampling, turn):
    """Equal where every client takes part in every round, and at least the finished one where some drop out."""
    views = SUMS[name]
    whole, absent = (
        a_ledger(sampling, 3, turn=turn, placement=placement, unit=unit, views=views, absent=gone)
        for gone in ((), (1, 4))
    )
    for observer in views:
        plan = Plan(
            sampling=sampling, noise_multiplier=1.0, rounds=3, unit=unit, observer=observer, placement=placement,
            slots=SLOTS, views=views, turn=turn,
        )  # fmt: skip
        try:
            planned = plan.epsilon(DELTA)
        except UnsupportedRelease:
            with pytest.raises(UnsupportedRelease):
                figure(whole, observer=observer)
            continue
        assert planned == figure(whole, observer=observer)
        assert planned >= figure(absent, observer=observer)
        assert plan.report(DELTA).unit == epsilon(whole, DELTA, observer=observer).unit


def test_a_long_plan_makes_no_object_for_each_round():
    plan = Plan(sampling=Poisson(1e-3), noise_multiplier=1.0, rounds=10**5, turn=1e-9)
    assert len(plan.history().rounds) == 1
    assert 0 < plan.epsilon(DELTA, quick=True) < 5


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_a_ledger_of_another_version_is_refused_by_its_number(tmp_path, version):
    path = tmp_path / "ledger.jsonl"
    HashChain(path).append({"type": "ledger", "version": version, "level": "client", "adjacency": "add_remove"})
    refusal = re.escape(f"of version {version!r}, and version 2 is read: start the run again under another name")
    with pytest.raises(StateError, match=refusal):
        Ledger.read(path)
    with pytest.raises(StateError, match=refusal):
        Ledger(PrivacyUnit("client"), path)
