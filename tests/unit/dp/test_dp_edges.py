"""Corners of releases, plans and events that the other tests pass by."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from ledgers import CKKS, MASKED, PLAIN, Judge, Purse, noise_of, realized, worst_case

from privfl.dp import (
    Budget,
    Everyone,
    FixedSize,
    History,
    Ledger,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Release,
    RoundNoise,
    Slot,
    format_epsilon,
    unit,
    what_if,
)
from privfl.dp.accounting.compose import compose, cross_figures
from privfl.dp.accounting.events import exposure, gaussian_event
from privfl.dp.ledger import Token
from privfl.dp.noise import lattice, sampler
from privfl.dp.noise.discrete_gaussian import _sampler
from privfl.dp.noise.sampler import rounded_gaussian, seeded_entropy
from privfl.dp.slots import l1_bound, norm_bound
from privfl.errors import BudgetExceeded, ConfigError, MissingExtra, PrivacyError, StateError, UnsupportedRelease

UNIT = PrivacyUnit()
SEGMENTS = [Slot("update", 8, 16.0, 1.0)]


def release(round=0, **changes):
    base = {
        "round": round,
        "placement": "central",
        "law": "rounded_gaussian",
        "secure": True,
        "declared_stddev": 3.0,
        "realized_stddev": 3.0,
        "length": 8,
        "norm_bound": 1.0,
        "sampling": Everyone(),
        "views": CKKS,
        "participants": (1, 2),
    }
    return Release(**{**base, **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mechanism("distributed", 1.0, discrete=True),
        lambda: Mechanism("none", 1.0),
        lambda: Mechanism("central", 1.0, colluders=-1),
        lambda: noise_of(Mechanism("distributed", 1.0), SEGMENTS, cohort=2, min_survivors=3),
        lambda: RoundNoise(Mechanism("central", 1.0), tuple(SEGMENTS), 2).contribute(np.zeros(7, np.int64)),
        lambda: norm_bound([]),
        lambda: l1_bound([*SEGMENTS, *SEGMENTS]),
        lambda: release(round=-1),
        lambda: release(round=True),
        lambda: release(placement="none"),
        lambda: release(placement="none", law="none"),
        lambda: release(participants=(2, 1)),
        lambda: release(participants=(2**32,)),
        lambda: release(l1_bound=-1.0),
        lambda: release(law="laplace"),
        lambda: rounded_gaussian(2.0**45, 1),
        lambda: unit.read_sampling({"kind": "everyone", "size": 3}),
        lambda: unit.read_sampling({"kind": "sometimes"}),
        lambda: FixedSize(5, 4),
        lambda: FixedSize(True, 4),
        lambda: Poisson(0.0),
        lambda: Poisson("a"),  # type: ignore[arg-type]
        lambda: Budget(0.0, 1e-5),
        lambda: release(length=0),
        lambda: release(views={"server": "sum"}),
        lambda: release(views={"outsider": "release", "server": "all"}),
        lambda: release(views={"outsider": "release", "neighbor": "sum"}),
        lambda: release(views="sum"),
        lambda: PrivacyUnit("household"),  # type: ignore[arg-type]
    ],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_plan_without_noise():
    plan = noise_of(Mechanism("none"), SEGMENTS, cohort=4, min_survivors=2)
    ints = np.arange(8)
    assert plan.contribute(ints) is ints
    assert plan.law == "none"
    worst = worst_case(plan, round=0, sampling=Everyone(), views=MASKED, cohort=[3, 1])
    assert worst.participants == (1, 3)
    assert realized(plan, round=0, sampling=Everyone(), views=MASKED, survivors=[1]).realized_stddev == 0


def test_the_entry_bound_leaves_room_for_shares():
    plan = noise_of(Mechanism("distributed", 1.0), SEGMENTS, cohort=9, min_survivors=5)
    assert plan.noise_reach > 15 * plan.share_stddev
    assert plan.total_stddev == pytest.approx(3 * plan.share_stddev)
    discrete = noise_of(Mechanism("local", 1.0, discrete=True), SEGMENTS, cohort=9, min_survivors=5)
    assert discrete.contribute(np.zeros(8, np.int64)).any()


def test_events_of_rows_draw_anew_in_each_attempt():
    rows = PrivacyUnit("example")
    steps = [release(sampling=Poisson(0.1), count=5), release(attempt=1, sampling=Poisson(0.1), count=5)]
    history = History.hypothetical(rows, steps)
    (profile,) = exposure(history, "outsider").profiles
    assert profile == Counter({gaussian_event(3.0, Poisson(0.1)): 10})
    (known,) = exposure(history, "server").profiles
    assert known == Counter({gaussian_event(3.0): 10})
    with pytest.raises(UnsupportedRelease, match="cannot share"):
        Judge(UNIT, 1e-5).report(steps)


def test_releases_that_withhold_participants():
    open_to_all = [release(participants=None), release(1)]
    with pytest.raises(UnsupportedRelease, match="withholds"):
        Judge(UNIT, 1e-5, observer="server").report(open_to_all)
    report = Judge(UNIT, 1e-5).report(open_to_all)
    assert report.epsilon == what_if(sampling=Everyone(), noise_multiplier=3.0, rounds=2, delta=1e-5).epsilon
    assert Judge(UNIT, 1e-5, observer="server").report([]).epsilon == 0.0
    assert Judge(UNIT, 1e-5).report([]).epsilon == 0.0


def test_the_worst_of_several_profiles_counts():
    mixed = [
        release(0, participants=(1,)),
        release(1, participants=(2,), declared_stddev=1.0),
        release(2, participants=(1, 3)),
    ]
    report = Judge(UNIT, 1e-5, observer="server").report(mixed)
    assert report.epsilon == what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=1e-5).epsilon


def test_skellam_without_its_l1_bound():
    with pytest.raises(UnsupportedRelease, match="l1 bound"):
        Judge(UNIT, 1e-5).report([release(law="skellam", placement="distributed")])


def test_sampled_skellam_at_probability_one_is_unsampled():
    skellam = release(law="skellam", placement="distributed", norm_bound=1.0, l1_bound=2.0)
    one, all_ = (Judge(UNIT, 1e-5).report([replace(skellam, sampling=s)]).epsilon for s in (Poisson(1.0), Everyone()))
    assert one == all_


def test_sampled_and_unsampled_rounds_compose():
    both = Counter(
        {gaussian_event(2.0, Poisson(0.1)): 10, gaussian_event(3.0, Poisson(0.2)): 5, gaussian_event(8.0): 3}
    )
    epsilon = compose(both, UNIT, 1e-5)[0]
    parts = [compose(Counter({event: count}), UNIT, 1e-5)[0] for event, count in both.items()]
    assert max(parts) < epsilon < sum(parts)


def test_a_grid_that_would_be_too_fine_is_left_out():
    # A noise of a fiftieth: the losses reach thousands.
    loud = Counter({gaussian_event(0.02, Poisson(0.5)): 1, gaussian_event(1.0): 1})
    assert 1000 < compose(loud, UNIT, 1e-5)[0] < 3000


def test_zero_out_under_fixed_size_says_how_it_is_bounded():
    zero = PrivacyUnit("client", "zero_out")
    report = what_if(sampling=FixedSize(10, 100), noise_multiplier=4.0, rounds=2, delta=1e-5, unit=zero)
    replaced = what_if(
        sampling=FixedSize(10, 100),
        noise_multiplier=4.0,
        rounds=2,
        delta=1e-5,
        unit=PrivacyUnit("client", "replace_one"),
    )
    assert report.epsilon == replaced.epsilon
    assert any("zeros are other data" in caveat for caveat in report.caveats)


def test_epsilon_is_printed_rounded_up():
    assert format_epsilon(1.00001) == "1.0001"
    assert format_epsilon(1.0) == "1.0000"
    assert format_epsilon(math.inf) == "infinity"
    loud = what_if(sampling=Everyone(), noise_multiplier=0.05, rounds=1, delta=1e-5, cross_checks=False)
    assert "no protection in practice" in loud.sentence
    fair = what_if(sampling=Everyone(), noise_multiplier=5, rounds=1, delta=1e-5)
    assert "took part or not is wrong in at least 46 of 100 cases; a coin is wrong in 50." in fair.sentence
    implied = replace(fair, epsilon=math.log(3), delta=0.0, curve=None)
    assert implied.guess == "is wrong in at least 25 of 100 cases; a coin is wrong in 50"


def test_a_budget_on_the_edge_is_computed_finely():
    target = what_if(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000, delta=1e-5, cross_checks=False).epsilon
    releases = [release(i, sampling=Poisson(0.01), declared_stddev=1.0, realized_stddev=1.0) for i in range(999)]
    last = release(999, sampling=Poisson(0.01), declared_stddev=1.0, realized_stddev=1.0)
    budget = Purse(target, 1e-5, UNIT)
    assert budget.check(releases, last) == target
    assert budget.spent([*releases, last]) == target
    assert 0 < what_if(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=999, delta=1e-5).epsilon < target
    with pytest.raises(BudgetExceeded):
        Purse(target * 0.999, 1e-5, UNIT).check(releases, last)


def test_ledgers_in_odd_states(tmp_path):
    with pytest.raises(StateError, match="no ledger"):
        Ledger.read(tmp_path / "absent")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(StateError, match="empty"):
        Ledger.read(tmp_path / "empty")
    ledger = Ledger(UNIT)
    ledger.draw(0, Everyone(), 0.0)
    token = ledger.reserve(release())
    assert ledger.reserved(token) == release()
    assert ledger.pending(release()) == token
    assert ledger.pending(release(1)) is None
    with pytest.raises(PrivacyError, match="unknown"):
        ledger.reserved(Token("0" * 64))
    with pytest.raises(ConfigError, match="reason"):
        ledger.refund(token, "timeout")  # type: ignore[arg-type]
    for record in ({**release().record(), "secure": 1}, {**release().record(), "norm_bound": None}):
        with pytest.raises(StateError, match="not a release"):
            Release.read(record)
    whole = History.of([ledger, Ledger(UNIT), ledger])
    assert [r.round for r in whole.releases] == [0, 0]


def test_an_undecided_pair_is_drawn_until_it_is_decided():
    # v = 1/2^65 ... and an angle whose cosine puts the value on a half: the first 128 bits leave it open.
    assert sampler._exact_pair(1e30, 1, 1 << 62, 64) is None
    assert sampler._exact_pair(1.0, 0, 1 << 62, 64) is None
    assert sampler._exact_pair(1.0, 3 << 126, 1 << 120, 128) is not None


def test_proposals_on_the_border_are_settled_in_decimals():
    hat = _sampler(1000.0)
    border = int(hat._center_word).to_bytes(8, "little")
    sevens = b"\x77" * 8

    class Borders:
        """Every proposal's piece lies on the border, so that none is decided by floats."""

        def __init__(self):
            self.more = seeded_entropy(3)

        def __call__(self, count):
            if count % 25 or count < 400:
                return self.more(count)
            n = count // 25
            return border * n + sevens * n + b"\1" * (8 * n) + b"\1" * n

    draws = lattice.Hat.draw(hat, 20, Borders())
    assert len(draws) == 20


@pytest.mark.parametrize(("package", "asked"), [("scipy.special", compose), ("dp_accounting", cross_figures)])
def test_a_missing_extra_names_the_pip_line(monkeypatch, package, asked):
    import sys

    for name in ("special", "losses", "orders", "tilted"):
        monkeypatch.delitem(sys.modules, f"privfl.dp.accounting.{name}", raising=False)
        monkeypatch.delattr(f"privfl.dp.accounting.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"privfl\[dp\]"):
        asked(Counter({gaussian_event(2.0, Poisson(0.123)): 1}), UNIT, 1e-5)


@pytest.mark.parametrize(("sees", "finite"), [(PLAIN, True), (MASKED, True), (CKKS, False)])
def test_central_noise_against_a_participant_depends_on_who_holds_a_key(sees, finite):
    report = Judge(UNIT, 1e-5, observer="participant").report([release(views=sees)])
    assert np.isfinite(report.epsilon) == finite
