import math

import numpy as np
import pytest
from ledgers import MASKED, Judge, noise_of, worst_case

from privfl.codec import square_norm
from privfl.dp import AdaptiveClip, Everyone, Mechanism, PrivacyUnit, Slot
from privfl.dp.slots import norm_bound
from privfl.errors import ConfigError
from privfl.ring import Ring


def state(start, z=1.0, cohort=100):
    return AdaptiveClip.plan(start, units=1 << 12, noise_multiplier=z, denominator=cohort)


@pytest.mark.parametrize("start", [0.1, 10.0])
def test_it_finds_the_norms(start):
    adaptive, releases = state(start), []
    rng = np.random.default_rng(3)
    for round in range(60):
        plan = noise_of(Mechanism("central", 1.0, "simulation"), adaptive.slots(20), cohort=100, min_survivors=100)
        total = np.zeros(21, np.int64)
        for client in range(100):
            update = rng.normal(size=20)
            clipped = adaptive(update / np.linalg.norm(update))
            ints = adaptive.codec(Ring(32)).encode(clipped.vector, max_norm=adaptive.clip_norm)
            ints = np.append(ints, adaptive.indicator(clipped.within))
            assert square_norm(ints) <= plan.norm_bound**2 * (1 + 1e-9)
            total += plan.contribute(ints, key=(round, client))
        total = plan.opening(key=(round, 1 << 32))(total, frozenset(range(100)))
        releases.append(worst_case(plan, round=round, sampling=Everyone(), views=MASKED, cohort=range(100)))
        adaptive = adaptive.next(int(total[-1]), 100.0)
    assert 0.8 <= adaptive.clip_norm <= 1.25
    # Integer bounds, noise and so the charge are the same in every round.
    assert len({(r.declared_stddev, r.norm_bound) for r in releases}) <= 2
    assert Judge(PrivacyUnit(), 1e-5, assume_secure_noise=True).report(releases, cross_checks=False).epsilon < 100


def test_the_noise_multipliers_of_blocks_add_up():
    slots = [Slot("update", 10, 1000.0, 0.7), Slot("clip", 1, 80.0, 0.5), Slot("loss", 2, 3.0, 4.0)]
    plan = noise_of(Mechanism("central", 1.7), slots, cohort=10, min_survivors=5)
    inverse = sum(s.noise_multiplier(plan.noise_stddev) ** -2 for s in slots)
    assert inverse**-0.5 == pytest.approx(1.7)
    assert norm_bound(slots) == pytest.approx(math.sqrt(700**2 + 40**2 + 12**2))


def test_the_indicator_is_no_noisier_than_planned():
    adaptive = state(1.0, z=2.0, cohort=200)
    plan = noise_of(Mechanism("central", 2.0), adaptive.slots(20), cohort=300, min_survivors=5)
    assert plan.noise_stddev / adaptive.indicator_units / 200 <= 0.05 * 1.01


@pytest.mark.parametrize(
    "change",
    [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"clip_norm": 0.0},
        {"indicator_units": 3},
        {"units": 0},
    ],
)
def test_bad_settings_are_refused(change):
    settings = {"clip_norm": 1.0, "units": 100, "indicator_units": 4, **change}
    with pytest.raises(ConfigError):
        AdaptiveClip(**settings)


def test_too_small_a_cohort_is_refused():
    with pytest.raises(ConfigError, match="allow a stddev above"):
        AdaptiveClip.plan(1.0, units=100, noise_multiplier=2.0, denominator=10)
