"""Errors keep their fields and their sentence, also when they cross from one process to another."""

import copy
import json
import re

import numpy as np
import pytest

from privfl import errors
from privfl.errors import (
    BudgetExceeded,
    CapacityError,
    ClientFailed,
    ConfigError,
    DataError,
    MissingExtra,
    PlanRejected,
    PrivflError,
    RemoteProtocolError,
    TooFewSurvivors,
    WireError,
    reason_of,
)
from privfl.ring import Ring

SAMPLES = [
    ConfigError("a"),
    CapacityError("b"),
    RemoteProtocolError("c", sender=7),
    RemoteProtocolError("d"),
    TooFewSurvivors(2, 3),
    PlanRejected("too small"),
    BudgetExceeded(1.5, 1.0),
    MissingExtra("torch", "torch"),
    ClientFailed(4, "out of memory"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_trip_between_processes(error: PrivflError) -> None:
    again = copy.copy(error)  # by the same protocol that a process pool sends errors with
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_sentences_name_what_was_found_and_what_is_allowed() -> None:
    assert str(TooFewSurvivors(2, 3)) == "2 clients are left, and 3 are needed: nothing was opened"
    assert str(PlanRejected("x")) == "plan rejected: x"
    assert "1.5000, above the budget of 1.0000" in str(BudgetExceeded(1.5, 1.0))
    assert "pip install 'privfl[torch]'" in str(MissingExtra("torch", "torch"))
    assert str(ClientFailed(4, "x")) == "client 4 failed: x"


@pytest.mark.parametrize(
    "error", [KeyError("Smith"), ValueError("Smith"), type("Own", (ConfigError,), {})("Smith"), OSError(2, "Smith")]
)
def test_the_reason_of_an_error_holds_no_text_but_privfls_own(error: Exception) -> None:
    def fails() -> None:
        raise error

    assert reason_of(error) == type(error).__name__  # never raised: no place
    with pytest.raises(type(error)) as caught:
        fails()
    assert re.fullmatch(type(error).__name__ + r" in fails \(test_errors.py, line \d+\)", reason_of(caught.value))


def test_the_reason_names_the_last_line_outside_installed_packages() -> None:
    with pytest.raises(ValueError, match="Smith") as caught:
        np.array(["Smith"]).astype(float)
    assert re.fullmatch(r"ValueError in test_the_reason_\w+ \(test_errors.py, line \d+\)", reason_of(caught.value))
    with pytest.raises(ValueError, match="Expecting value") as caught:
        json.loads("Smith")
    assert re.fullmatch(r"JSONDecodeError in test_the_\w+ \(test_errors.py, line \d+\)", reason_of(caught.value))
    with pytest.raises(ConfigError) as ours:
        Ring(0)
    assert reason_of(ours.value) == "ConfigError: a ring has 8 to 64 bits, not 0"


def test_bad_values_are_value_errors_and_a_missing_extra_is_an_import_error() -> None:
    for kind in (ConfigError, CapacityError, DataError, WireError):
        assert issubclass(kind, ValueError)
    assert issubclass(MissingExtra, ImportError)


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    drawn = [line.replace("|", " ").replace("`-", "  ").replace("-", " ").split()[0] for line in _tree()]
    assert sorted(drawn) == sorted(c.__name__ for c in classes)
    for c in classes:
        assert issubclass(c, PrivflError)


def _tree() -> list[str]:
    lines = (errors.__doc__ or "").splitlines()
    start = lines.index("PrivflError")
    return [line for line in lines[start:] if line.strip()]
