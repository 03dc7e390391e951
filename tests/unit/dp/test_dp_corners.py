"""What the main tests of accounting and mechanisms pass by."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ledgers import CKKS, MASKED, Judge, noise_of, realized, worst_case
from scipy.stats import norm

from privfl.dp import Everyone, Mechanism, Poisson, PrivacyUnit, Release, Slot, default_delta
from privfl.dp.accounting.compose import discrete_gaussian_epsilon
from privfl.dp.noise.skellam import skellam
from privfl.dp.slots import side_bound
from privfl.errors import ConfigError, PrivacyError, UnsupportedRelease

SEGMENTS = [Slot("update", 50, 64.0, 1.0)]


def release(round: int, **changes: object) -> Release:
    base: dict[str, object] = {
        "round": round,
        "placement": "central",
        "law": "rounded_gaussian",
        "secure": True,
        "declared_stddev": 1024.0,
        "realized_stddev": 1024.0,
        "length": 8,
        "norm_bound": 1024.0,
        "sampling": Everyone(),
        "views": CKKS,
        "participants": (1, 2, 3),
    }
    return Release(**(base | changes))  # type: ignore[arg-type]


def test_the_worst_client_need_not_be_the_last_that_is_looked_at() -> None:
    # Client 1 saw the noisier rounds, but more of them; client 2 the quieter ones.
    quiet = [release(i, participants=(2,), declared_stddev=256.0, realized_stddev=256.0) for i in range(2)]
    loud = [release(10 + i, participants=(1,)) for i in range(3)]
    server = Judge(PrivacyUnit(), 1e-5, observer="server")
    worst = server.report(quiet).epsilon
    assert server.report([*quiet, *loud]).epsilon == worst > server.report(loud).epsilon
    assert server.report([*loud, *quiet]).epsilon == worst
    once = [release(20, participants=(1,), declared_stddev=512.0, realized_stddev=512.0)]
    assert server.report([*quiet, *once]).epsilon == worst > server.report(once).epsilon


def test_the_discrete_gaussian_has_figures_of_its_own() -> None:
    assert discrete_gaussian_epsilon(2, 2, 1e-5) == pytest.approx(4.4079, abs=5e-5)
    plan = noise_of(Mechanism("local", 1.0, discrete=True), SEGMENTS, cohort=3, min_survivors=2)
    found = worst_case(plan, round=0, sampling=Everyone(), views=MASKED, cohort=[1])
    assert Judge(PrivacyUnit(), 1e-5).report([found]).accountant.startswith("RDP")


def test_skellam_noise_without_its_l1_bound_is_not_judged() -> None:
    with pytest.raises(UnsupportedRelease, match="l1 bound"):
        Judge(PrivacyUnit(), 1e-5).report([release(0, placement="distributed", law="skellam")])


def test_the_participant_is_told_whose_noise_is_not_counted() -> None:
    plan = noise_of(Mechanism("distributed", 2.0), SEGMENTS, cohort=10, min_survivors=6)
    found = worst_case(plan, round=0, sampling=Poisson(0.5), views=MASKED, cohort=range(10))
    report = Judge(PrivacyUnit(), 1e-5, observer="participant").report([found])
    assert any("own noise" in caveat for caveat in report.caveats)


def test_shares_of_every_cohort_make_up_one_noise_and_the_opener_completes_it() -> None:
    plan = noise_of(Mechanism("distributed", 2.0, "simulation"), SEGMENTS, cohort=10, min_survivors=4, fraction=0.5)
    seven = replace(plan, cohort=7)
    assert seven.total_stddev == pytest.approx(plan.total_stddev, rel=1e-12)
    assert seven.share_stddev > plan.share_stddev
    for sampled in range(4, 11):
        least = max(4, int(np.ceil(0.5 * sampled)))
        assert replace(plan, cohort=sampled).realized_stddev(least) >= plan.noise_stddev
    with pytest.raises(PrivacyError, match="surviving noise"):
        realized(replace(plan, cohort=8), round=0, sampling=Poisson(0.5), views=MASKED, survivors=range(3))
    zeros = np.zeros(50, np.int64)
    whole = plan.opening(key=(1,))(zeros, frozenset(range(10)))
    assert whole is zeros
    completed = plan.opening(key=(1,))(zeros, frozenset(range(6)))
    assert np.array_equal(completed, plan.opening(key=(1,))(zeros, frozenset(range(6))))
    assert 0.5 < completed.std() / (plan.share_stddev * 2) < 1.5
    with pytest.raises(ConfigError, match="no cohort"):
        Mechanism("distributed", 2.0).spread(range(1, 4), lambda size: 4)


def test_a_proposal_is_settled_in_exact_arithmetic_when_floats_leave_it_open() -> None:
    # All-zero words lie on every edge; what is exactly decided may be accepted or not.
    for word in (b"\x00", b"\xff"):
        first = [True]

        def entropy(count: int, word: bytes = word, first: list[bool] = first) -> bytes:
            if first[0]:
                first[0] = False
                return word * count
            return np.random.default_rng(count).bytes(count)

        assert len(skellam(1e6, 5, entropy=entropy)) == 5


@pytest.mark.parametrize("change", [{"units": 0}, {"noise_multiplier": 0.0}, {"denominator": -1.0}, {"stddev": 0.0}])
def test_side_blocks_need_positive_settings(change: dict[str, float]) -> None:
    settings = {"units": 100, "noise_multiplier": 1.0, "denominator": 100.0, "stddev": 0.05}
    with pytest.raises(ConfigError):
        side_bound(**(settings | change))  # type: ignore[arg-type]


def test_a_default_delta_is_rounded_down() -> None:
    for population in (1, 30_000, 135_147, 10**6, 10**9):
        delta, why = default_delta(population)
        assert 0.85 * min(1e-5, population**-1.1) < delta <= min(1e-5, population**-1.1)
        assert "by default" in why


@pytest.mark.parametrize("probability", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("multiplier", [0.005, 0.05])
def test_hardly_any_noise_over_a_sampled_cohort_has_a_figure(probability: float, multiplier: float) -> None:
    """Removing a client leaves one loss only, -ln(1 - q), when the two noises hardly overlap."""
    event = release(0, sampling=Poisson(probability), declared_stddev=1024.0 * multiplier,
                    realized_stddev=1024.0 * multiplier, participants=None)  # fmt: skip
    one = Judge(PrivacyUnit(), 0.01).report([event]).epsilon
    # The loss at which the probability above it, of a client that takes part with probability q, is delta; the term
    # that delta subtracts lowers it by less than one.
    loss = 0.5 / multiplier**2 + norm.isf(0.01 / probability) / multiplier + math.log(probability)
    assert loss - 1.0 <= one <= loss + 1e-3
