"""Whether a round is skipped may turn on one client: its probability, against the reference that tries all cases."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from privfl.dp import Accountant, Budget, Everyone, Mechanism, Poisson, PrivacyUnit, Slot
from privfl.dp.accounting.accountant import SKIPS
from privfl.dp.skips import pivot_probability, skip_delta
from privfl.errors import ConfigError

FOLDER = Path(__file__).parents[3] / "protocols" / "privacy-ledger"
SPEC = importlib.util.spec_from_file_location("ledger_reference_skips", FOLDER / "reference.py")
REFERENCE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(REFERENCE)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_it_is_the_sum_over_all_cases(empty, dropout):
    for population, q, least, share in itertools.product((1, 2, 12), (0.3, 1.0), (1, 2, 5), (0.3, 0.5, 1.0)):
        expected = REFERENCE.pivot_probability(
            population, q, least=least, share=share, dropout=dropout, empty_released=empty
        )
        found = pivot_probability(
            population=population, probability=q, least=least, share=share, dropout=dropout, empty_released=empty
        )
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_central_noise_and_no_silence_leave_nothing_to_tell():
    settings = {"population": 1000, "probability": 0.1, "share": 0.5, "dropout": 0.0}
    assert pivot_probability(least=1, empty_released=True, **settings) == 0.0
    threshold = pivot_probability(least=60, **settings)
    assert 1e-7 < threshold < 1e-4
    assert skip_delta(threshold, rounds=100, probability=0.1) == pytest.approx(10 * threshold)


def release(sampling):
    plan = Mechanism("central", 1.0).plan([Slot("update", 4, 1024.0, 1.0)], cohort=3, min_survivors=1)
    return plan.worst_case(round=1, sampling=sampling, server_sees="sum", cohort=(0, 1, 2))


def test_what_skips_tell_is_taken_off_delta():
    plain = Accountant(PrivacyUnit(), 1e-5).report([release(Poisson(0.1))])
    some = Accountant(PrivacyUnit(), 1e-5, skips=4e-6).report([release(Poisson(0.1))])
    assert some.delta == 1e-5
    assert some.epsilon == Accountant(PrivacyUnit(), 6e-6).report([release(Poisson(0.1))]).epsilon > plain.epsilon
    assert any("4.0e-06 of delta" in caveat for caveat in some.caveats)
    assert SKIPS in plain.caveats
    assert SKIPS not in some.caveats
    assert Budget(10.0, 1e-5, PrivacyUnit(), skips=4e-6).check([], release(Poisson(0.1))) >= some.epsilon


def test_where_they_tell_too_much_sampling_does_not_count():
    found = Accountant(PrivacyUnit(), 1e-5, skips=6e-6).report([release(Poisson(0.1))])
    assert found.epsilon == Accountant(PrivacyUnit(), 1e-5).report([release(Everyone())]).epsilon
    assert found.unit.adjacency == "zero_out"
    assert any("too much of delta" in caveat for caveat in found.caveats)
    # Others than the outsider know who took part, and Everyone leaves nothing to tell.
    server = Accountant(PrivacyUnit(), 1e-5, observer="participant", skips=6e-6).report([release(Poisson(0.1))])
    assert not any("delta" in caveat for caveat in server.caveats)
    with pytest.raises(ConfigError, match="skips"):
        Accountant(PrivacyUnit(), 1e-5, skips=-1.0)


@pytest.mark.parametrize("change", [{"dropout": 1.0}, {"population": 0}, {"probability": 0.0}, {"share": 2.0}])
def test_bad_settings_are_refused(change):
    settings = {"population": 10, "probability": 0.1, "least": 1, "share": 0.5, "dropout": 0.0}
    with pytest.raises(ConfigError):
        pivot_probability(**settings | change)
