"""The stand-in for the contribution of a client whose training raised an error."""

import numpy as np
import pytest

from privfl.fl.faults import caveat, counted, fault, fault_of, in_words


@pytest.mark.parametrize("error", [KeyError("Smith"), type("Übergröße", (Exception,), {})("Smith")])
def test_the_type_alone_travels(error: Exception) -> None:
    stand_in = fault(error)
    assert stand_in.dtype == np.int64
    assert fault_of(stand_in) == type(error).__name__
    assert len(stand_in) == 1 + len(type(error).__name__)


def test_a_long_name_is_cut() -> None:
    assert fault_of(fault(type("E" * 500, (Exception,), {})())) == "E" * 100


@pytest.mark.parametrize("contribution", [[0, 0], [], [-(2**63) + 1, 65], [75, 101, 121]])
def test_a_contribution_is_none(contribution: list[int]) -> None:
    assert fault_of(np.array(contribution, np.int64)) is None


def test_counts_and_sentences() -> None:
    errors = counted(["A", "B", "C", "B"])
    assert list(errors.items()) == [("B", 2), ("A", 1), ("C", 1)]
    assert in_words(errors) == "2 B, 1 A, 1 C"
    assert caveat(errors) == ("the training of 4 clients raised an error (2 B, 1 A, 1 C), and they dropped out",)
    assert caveat(counted(["A"])) == ("the training of a client raised an error (1 A), and it dropped out",)
    assert caveat({}) == ()
