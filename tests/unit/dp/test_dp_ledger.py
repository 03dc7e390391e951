import pytest
from ledgers import MASKED, Judge, Purse, noise_of, worst_case

from privfl.dp import Ledger, Mechanism, Poisson, PrivacyUnit, Release, Slot, epsilon, what_if
from privfl.errors import BudgetExceeded, PrivacyError, StateError, UnsupportedRelease

UNIT = PrivacyUnit()
PLAN = noise_of(Mechanism("central", 1.0), [Slot("update", 10, 1024.0, 1.0)], cohort=100, min_survivors=2)


def release(round, ids=(1, 2, 3), **changes):
    base = worst_case(PLAN, round=round, sampling=Poisson(0.01), views=MASKED, cohort=ids)
    return Release.read({**base.record(), **changes})


def drawn(path=None, rounds=1):
    """A ledger in which the first rounds are drawn."""
    ledger = Ledger(UNIT, path)
    for round in range(rounds):
        ledger.draw(round, Poisson(0.01), 0.0)
    return ledger


def test_reserve_settle_and_resume_give_the_same_epsilon(tmp_path):
    ledger = drawn(tmp_path / "ledger.jsonl", 6)
    for i in range(5):
        token = ledger.reserve(release(i))
        ledger.settle(token, release(i, ids=(1, 3)))
    pending = ledger.reserve(release(5))
    again = Ledger(UNIT, tmp_path / "ledger.jsonl")
    assert again.releases == ledger.releases
    assert again.unsettled == (pending,)
    assert again.head == ledger.head
    assert Ledger.read(tmp_path / "ledger.jsonl").releases == ledger.releases
    assert epsilon(again, 1e-5) == epsilon(ledger, 1e-5)
    assert epsilon(again, 1e-5).rounds == 6


def test_a_refund_takes_the_charge_back(tmp_path):
    ledger = drawn(tmp_path / "l")
    token = ledger.reserve(release(0))
    ledger.refund(token, "too_few_survivors")
    assert ledger.releases == ()
    assert Ledger(UNIT, tmp_path / "l").releases == ()
    with pytest.raises(PrivacyError):
        ledger.refund(token, "too_few_survivors")


def test_a_second_opening_of_one_sum_is_charged_or_refused():
    ledger = drawn()
    ledger.reserve(release(0))
    with pytest.raises(PrivacyError, match="charged already"):
        ledger.reserve(release(0))
    ledger.reserve(release(0, opening=1))
    one, two = (Judge(UNIT, 1e-5).report(ledger.releases[:n]).epsilon for n in (1, 2))
    # Two looks at one sampled cohort are one look with noise smaller by sqrt(2), not two sampled looks.
    expected = what_if(sampling=Poisson(0.01), noise_multiplier=2**-0.5, rounds=1, delta=1e-5).epsilon
    assert one < two == pytest.approx(expected, abs=1e-3)


def test_settling_more_than_was_reserved_is_refused():
    ledger = drawn()
    token = ledger.reserve(release(0))
    for bad in (release(0, ids=(1, 9)), release(1), release(0, norm_bound=2000.0)):
        with pytest.raises(PrivacyError):
            ledger.settle(token, bad)


@pytest.mark.parametrize(
    "change",
    [
        {"declared_stddev": 1e9, "realized_stddev": 1e9},
        {"norm_bound": 1.0},
        {"l1_bound": 1.0},
        {"length": 1},
        {"sampling": {"kind": "poisson", "probability": 1e-9}},
        {"views": {"outsider": "release"}},
        {"secure": False},
        {"opening": 1},
    ],
)
def test_settling_cannot_lower_what_was_reserved(tmp_path, change):
    """A settlement that claims more noise, or a smaller contribution, would turn a paid round to nothing."""
    ledger = drawn(tmp_path / "l")
    token = ledger.reserve(release(0))
    before, size = epsilon(ledger, 1e-5).epsilon, (tmp_path / "l").stat().st_size
    with pytest.raises(PrivacyError, match="not covered"):
        ledger.settle(token, release(0, **change))
    assert epsilon(ledger, 1e-5).epsilon == before > 0.0
    assert (tmp_path / "l").stat().st_size == size
    ledger.settle(token, release(0, ids=(1, 3), realized_stddev=1e9))
    assert epsilon(ledger, 1e-5).epsilon == before


def test_another_unit_cannot_resume(tmp_path):
    drawn(tmp_path / "l").reserve(release(0))
    for other in (PrivacyUnit("example"), PrivacyUnit("client", "replace_one")):
        with pytest.raises(StateError, match="cannot be continued"):
            Ledger(other, tmp_path / "l")


def test_tampering_is_detected(tmp_path):
    path = tmp_path / "l"
    ledger = drawn(path)
    ledger.settle(ledger.reserve(release(0)), release(0))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"declared_stddev":1024.0', b'"declared_stddev":9024.0'))
    with pytest.raises(StateError):
        Ledger(UNIT, path)


def test_a_published_ledger_withholds_who_took_part(tmp_path):
    ledger = drawn()
    ledger.reserve(release(0, ids=(11, 777)))
    ledger.publish(tmp_path / "public")
    assert b"777" not in (tmp_path / "public").read_bytes()
    public = Ledger.read(tmp_path / "public")
    assert epsilon(public, 1e-5) == epsilon(ledger, 1e-5)
    for observer in ("participant", "server"):
        with pytest.raises(UnsupportedRelease, match="withholds"):
            epsilon(public, 1e-5, observer=observer)


def test_the_budget_is_checked_with_the_worst_case():
    budget = Purse(0.42, 1e-5, UNIT)
    spent = []
    for n in range(100):
        releases = [release(i) for i in range(n)]
        if budget.report([*releases, release(n)], cross_checks=False).epsilon > 0.42:
            break
        spent.append(budget.check(releases, release(n)))
    with pytest.raises(BudgetExceeded) as refused:
        budget.check(releases, release(n))
    assert refused.value.spent > 0.42 == refused.value.budget
    assert spent == sorted(spent)
    assert 0.4 < spent[-1] <= 0.42


def test_a_participant_gets_the_most_participating_client():
    releases = [release(i, ids=(1, 2) if i % 2 else (1, 3)) for i in range(10)]
    report = Judge(UNIT, 1e-5, observer="participant").report(releases)
    assert report.epsilon == pytest.approx(what_if_everyone(10), abs=1e-6)
    assert report.unit.adjacency == "zero_out"
    assert Judge(UNIT, 1e-5, observer="server").report(releases).epsilon == float("inf")


def what_if_everyone(rounds):
    from privfl.dp import Everyone

    return what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=rounds, delta=1e-5).epsilon
