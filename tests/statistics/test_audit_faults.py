"""Each planted fault is caught by an audit, and the same run without it is not refuted."""

import time

import pytest
from audits import FAULTS, Fault


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.pairs is not None], ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault) -> None:
    assert fault.pairs is not None
    assert fault.audit(fault.pairs).refuted


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.pairs is not None], ids=lambda fault: fault.name)
def test_the_same_run_without_the_fault_stands(fault: Fault) -> None:
    assert fault.pairs is not None
    assert not fault.audit(fault.pairs, planted=False).refuted


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_with_ten_thousand_pairs_in_two_minutes(fault: Fault) -> None:
    started = time.perf_counter()
    result = fault.audit(10_000)
    assert result.refuted, result.sentence
    assert time.perf_counter() - started < 120
