"""What is kept of the error of a client whose training raised one."""

import pytest

from privfl.fl.faults import caveat, count_errors, in_words, kind_of


@pytest.mark.parametrize("error", [KeyError("Smith"), type("Übergröße", (Exception,), {})("Smith")])
def test_the_type_alone_is_kept(error: Exception) -> None:
    assert kind_of(error) == type(error).__name__


def test_a_long_name_is_cut() -> None:
    assert kind_of(type("E" * 500, (Exception,), {})()) == "E" * 100


def test_counts_and_sentences() -> None:
    errors = count_errors(["A", "B", "C", "B"])
    assert list(errors.items()) == [("B", 2), ("A", 1), ("C", 1)]
    assert in_words(errors) == "2 B, 1 A, 1 C"
    assert caveat(errors) == ("the training of 4 clients raised an error (2 B, 1 A, 1 C), and they dropped out",)
    assert caveat(count_errors(["A"])) == ("the training of a client raised an error (1 A), and it dropped out",)
    assert caveat({}) == ()
