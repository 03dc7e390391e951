"""What is refused with a typed error and no epsilon: one test each."""

import math

import numpy as np
import pytest
from ledgers import CKKS, MASKED, PLAIN, Judge

from privfl.dp import (
    Everyone,
    FixedSize,
    FlatClip,
    Ledger,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Release,
    TruncatedPoisson,
    epsilon,
    what_if,
)
from privfl.dp.accounting.compose import compose
from privfl.dp.accounting.events import gaussian_event
from privfl.errors import ConfigError, PrivacyError, StateError, UnsupportedRelease

UNIT = PrivacyUnit()
DELTA = 1e-5


POISSON = Poisson(0.1)


def release(round=0, sampling=POISSON, **changes):
    base = {
        "round": round,
        "placement": "central",
        "law": "rounded_gaussian",
        "secure": True,
        "declared_stddev": 1024.0,
        "realized_stddev": 1024.0,
        "length": 8,
        "norm_bound": 1024.0,
        "sampling": sampling,
        "views": MASKED,
        "participants": (1, 2, 3),
    }
    return Release(**{**base, **changes})


def drawn(path=None):
    """A ledger in which round 0 is drawn."""
    ledger = Ledger(UNIT, path)
    ledger.draw(0, POISSON, 0.0)
    return ledger


def test_amplification_for_a_cohort_that_was_not_poisson_sampled():
    # The same cohort in a further attempt must be the same: under Poisson sampling a cohort is never redrawn.
    ledger = drawn()
    ledger.reserve(release())
    with pytest.raises(PrivacyError, match="never replaced"):
        ledger.reserve(release(attempt=1, participants=(4, 5)))
    # One draw has one sampling, and no more take part than were drawn.
    with pytest.raises(StateError, match="sampled otherwise"):
        ledger.reserve(release(attempt=1, sampling=Everyone()))
    for sampling in (FixedSize(2, 100), TruncatedPoisson(0.1, 2, 100)):
        with pytest.raises(PrivacyError, match="3 took part"):
            release(sampling=sampling)
    # Without its draw a release of a client could not be told from one of a cohort chosen afterwards.
    with pytest.raises(StateError, match="was not sampled"):
        Ledger(UNIT).reserve(release())


@pytest.mark.parametrize("observer", ["participant", "server", "key_holder"])
def test_amplification_against_an_observer_who_knows_the_cohort(observer):
    with pytest.raises(UnsupportedRelease, match="knows who took part"):
        compose({gaussian_event(1.0, Poisson(0.1)): 1}, UNIT, DELTA, observer=observer)
    plan = {"noise_multiplier": 1, "rounds": 1, "delta": DELTA, "observer": observer}
    open_to_all = dict.fromkeys(("outsider", observer), "release")
    assert what_if(sampling=Poisson(0.1), views=open_to_all, **plan).epsilon > 4.37


def test_surviving_noise_below_declared():
    # z = 10 over 100 rounds is 4.377 at declared noise; with a fifth of the shares lost it would be 4.983.
    with pytest.raises(PrivacyError, match="surviving noise"):
        release(declared_stddev=10240.0, realized_stddev=10240.0 * math.sqrt(0.8))
    honest = [
        release(i, Everyone(), declared_stddev=1e4 * math.sqrt(0.8), realized_stddev=1e4, norm_bound=1e3)
        for i in range(100)
    ]
    assert Judge(UNIT, DELTA).report(honest).epsilon == pytest.approx(4.983, abs=1e-3)


@pytest.mark.parametrize("noise", [math.nan, 0.0, -1.0, math.inf])
def test_noise_that_is_none(noise):
    for make in (
        lambda: release(declared_stddev=noise, realized_stddev=noise),
        lambda: Mechanism("central", noise),
        lambda: what_if(sampling=Everyone(), noise_multiplier=noise, rounds=1, delta=DELTA),
    ):
        with pytest.raises(ConfigError):
            make()


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_delta_outside_the_unit_interval(delta):
    with pytest.raises(ConfigError, match="delta"):
        Judge(UNIT, delta)
    with pytest.raises(ConfigError, match="delta"):
        what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=delta)


def test_a_delta_that_the_transforms_do_not_resolve():
    with pytest.raises(UnsupportedRelease, match="resolves a delta of 1e-12"):
        what_if(sampling=Poisson(1e-9), noise_multiplier=0.4, rounds=10**7, delta=1e-12)


@pytest.mark.parametrize("delta", [1e-14, 1e-20, 1e-100, 1e-300])
def test_small_deltas_are_answered(delta):
    closed = what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=delta, cross_checks=False).epsilon
    sampled = what_if(sampling=Poisson(0.1), noise_multiplier=1.0, rounds=1, delta=delta, cross_checks=False).epsilon
    assert closed > 7
    # ln(1 + q(e^eps - 1)) amplifies a single round, at delta q (Li, Qardaji and Su 2012).
    whole = what_if(sampling=Everyone(), noise_multiplier=1.0, rounds=1, delta=10 * delta, cross_checks=False).epsilon
    assert sampled == pytest.approx(math.log1p(0.1 * math.expm1(whole)), rel=1e-4)


def test_replace_one_of_integer_noise_and_through_an_rdp_event():
    coarse = release(
        placement="distributed",
        law="skellam",
        declared_stddev=16.0,
        realized_stddev=16.0,
        norm_bound=16.0,
        l1_bound=16.0,
    )
    with pytest.raises(UnsupportedRelease):
        Judge(PrivacyUnit("client", "replace_one"), DELTA).report([coarse])
    fine = release(placement="distributed", law="skellam", l1_bound=1024.0)
    compared = Judge(PrivacyUnit("client", "replace_one"), DELTA).report([fine])
    assert compared.accountant == "comparison with Gaussian noise"
    report = what_if(
        sampling=Poisson(0.1), noise_multiplier=1, rounds=1, delta=DELTA, unit=PrivacyUnit("client", "replace_one")
    )
    assert report.cross_checks == {}
    assert report.epsilon <= compared.epsilon <= 1.01 * report.epsilon


def test_fixed_size_and_truncated_sampling_outside_their_adjacency():
    with pytest.raises(UnsupportedRelease, match="add_remove"):
        what_if(sampling=FixedSize(10, 100), noise_multiplier=1.0, rounds=1, delta=DELTA)
    with pytest.raises(UnsupportedRelease, match="truncated"):
        what_if(
            sampling=TruncatedPoisson(0.1, 20, 100),
            noise_multiplier=1.0,
            rounds=1,
            delta=DELTA,
            unit=PrivacyUnit("client", "replace_one"),
        )


def test_a_run_resumed_under_another_unit(tmp_path):
    drawn(tmp_path / "ledger").reserve(release())
    with pytest.raises(StateError, match="cannot be continued"):
        Ledger(PrivacyUnit("example"), tmp_path / "ledger")


def test_example_and_client_level_in_one_number():
    client, example = drawn(), Ledger(PrivacyUnit("example"))
    client.reserve(release())
    example.reserve(release(1))
    assert epsilon([client, client], DELTA).rounds == 2
    with pytest.raises(UnsupportedRelease, match="one number"):
        epsilon([client, example], DELTA)
    with pytest.raises(UnsupportedRelease, match="one number"):
        epsilon([client, Ledger(PrivacyUnit("client", "zero_out"))], DELTA)
    with pytest.raises(ConfigError, match="at least one"):
        epsilon([], DELTA)


@pytest.mark.parametrize("law", ["rounded_gaussian", "float_gaussian"])
def test_a_claim_over_seeded_or_floating_point_noise(law):
    seeded = release(secure=False, law=law)
    with pytest.raises(UnsupportedRelease, match="seeded or floating-point"):
        Judge(UNIT, DELTA).report([seeded])
    report = Judge(UNIT, DELTA, assume_secure_noise=True).report([seeded])
    assert str(report).startswith("epsilon if the noise were secure ")
    assert "epsilon" not in report.as_dict()
    assert "were secure" in report.sentence
    with pytest.raises(ConfigError, match="floating-point"):
        release(law="float_gaussian")


def test_two_openings_of_one_sum():
    ledger = drawn()
    ledger.reserve(release())
    with pytest.raises(PrivacyError, match="charged already"):
        ledger.reserve(release())


def test_a_client_whose_update_is_not_finite_contributes_zeros():
    update = np.ones(10)
    update[7] = np.nan
    clipped = FlatClip(1.0)(update)
    assert not clipped.finite
    assert not clipped.vector.any()


def test_whoever_sees_a_sum_before_its_noise_gets_infinity():
    for sees, observer in ((MASKED, "server"), (PLAIN, "server"), (CKKS, "key_holder"), (CKKS, "participant")):
        report = Judge(UNIT, DELTA, observer=observer).report([release(views=sees)])
        assert report.epsilon == math.inf
        assert report.as_dict()["epsilon"] == "infinity"
        assert report.sentence.startswith("Nothing is promised")
    assert Judge(UNIT, DELTA, observer="server").report([release(views=CKKS)]).epsilon < 5
    with pytest.raises(UnsupportedRelease, match="no key holder"):
        Judge(UNIT, DELTA, observer="key_holder").report([release()])
    nothing = release(placement="none", law="none", declared_stddev=0.0, realized_stddev=0.0)
    assert Judge(UNIT, DELTA).report([nothing]).epsilon == math.inf
