import numpy as np
import pytest
from ledgers import MASKED, noise_of, worst_case

from privfl.dp import Everyone, Mechanism, Slot
from privfl.errors import ConfigError, LocalProtocolError

SEGMENTS = [Slot("update", 4000, 1024.0, 0.5), Slot("clip", 1, 512.0, 0.5)]


def test_central_noise_is_added_once_where_the_sum_is_opened():
    plan = noise_of(Mechanism("central", 2.0), SEGMENTS, cohort=10, min_survivors=3)
    assert plan.norm_bound == pytest.approx(np.hypot(512, 256))
    ints = np.arange(4001)
    assert plan.contribute(ints) is ints
    opening = plan.opening()
    noisy = opening(ints, frozenset({1, 2, 3}))
    assert (noisy - ints).std() == pytest.approx(plan.noise_stddev, rel=0.1)
    with pytest.raises(LocalProtocolError):
        opening(ints, frozenset({1, 2, 3}))


def test_local_noise_is_whole_at_each_client():
    plan = noise_of(Mechanism("local", 2.0), SEGMENTS, cohort=10, min_survivors=3)
    ints = np.zeros(4001, np.int64)
    assert plan.contribute(ints).std() == pytest.approx(plan.noise_stddev, rel=0.1)
    assert plan.opening()(ints, frozenset({1})) is ints
    assert plan.total_stddev == pytest.approx(plan.noise_stddev * 10**0.5)
    assert plan.noise_reach > 20 * plan.noise_stddev


def test_simulation_noise_repeats_and_says_so():
    plan = noise_of(Mechanism("central", 2.0, "simulation"), SEGMENTS, cohort=10, min_survivors=3)
    ints = np.zeros(4001, np.int64)
    a, b = (plan.opening(key=(1, 2))(ints, frozenset({1})) for _ in range(2))
    assert np.array_equal(a, b)
    worst = worst_case(plan, round=0, sampling=Everyone(), views=MASKED, cohort=[1, 2])
    assert not worst.secure
    with pytest.raises(ConfigError):
        plan.opening()
    with pytest.raises(ConfigError):
        noise_of(Mechanism("central", 2.0), SEGMENTS, cohort=10, min_survivors=3).opening(key=(1,))


@pytest.mark.parametrize("z", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_noise_is_refused(z):
    with pytest.raises(ConfigError):
        Mechanism("central", z)
