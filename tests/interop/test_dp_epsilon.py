"""The figures that must be shown, each with its source."""

import pytest

from privfl.dp import Everyone, FixedSize, Poisson, PrivacyUnit, TruncatedPoisson, what_if
from privfl.dp.unit import CLIENT_UNIT

REPLACE = PrivacyUnit("client", "replace_one")

# (name, sampling, z, rounds, unit, truth). The truth is PLD with discretisation 5e-5 (dp-accounting 0.6, connect the
# dots, itself an upper bound within 1e-5), or the closed form of Balle and Wang 2018 where q = 1.
TABLE = [
    ("poisson-small", Poisson(0.01), 1.0, 1000, CLIENT_UNIT, 1.828236),
    ("poisson-large", Poisson(0.1), 0.8, 100, CLIENT_UNIT, 10.976377),
    ("closed-form", Everyone(), 1.0, 1, CLIENT_UNIT, 4.3771780957),
    ("replace-one", Everyone(), 1.0, 1, REPLACE, 9.9972561464),
    ("truncated", TruncatedPoisson(0.1, 130, 1000), 0.8, 100, CLIENT_UNIT, 12.10943),
    # Zhu, Dong and Wang 2022: the pair (1-q) N(0) + q N(2C) against N(0); 2.54086227 on ever finer grids.
    ("fixed-size", FixedSize(100, 1000), 4.0, 100, REPLACE, 2.540862),
    ("poisson-replace", Poisson(0.1), 4.0, 100, REPLACE, 1.989862),
]


@pytest.mark.parametrize(
    ("sampling", "z", "rounds", "unit", "truth"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE]
)
def test_at_most_a_thousandth_above_the_truth_and_never_below(sampling, z, rounds, unit, truth):
    report = what_if(sampling=sampling, noise_multiplier=z, rounds=rounds, delta=1e-5, unit=unit, cross_checks=False)
    assert truth <= report.epsilon <= truth + 1e-3


def test_zero_out_equals_add_remove():
    zero = what_if(
        sampling=Poisson(0.1), noise_multiplier=1, rounds=10, delta=1e-5, unit=PrivacyUnit("client", "zero_out")
    )
    add = what_if(sampling=Poisson(0.1), noise_multiplier=1, rounds=10, delta=1e-5)
    assert zero.epsilon == add.epsilon
    assert add.cross_checks["RDP (dp-accounting)"] >= add.epsilon
