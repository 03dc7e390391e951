"""The refusal, and the values that a field may hold: section 4 of SPEC.md."""

from __future__ import annotations

import math
from typing import Any


class WireError(Exception):
    pass


def demand(condition: bool, reason: str) -> None:
    if not condition:
        raise WireError(reason)


def integer(value: Any, low: int, high: int) -> None:
    demand(type(value) is int and low <= value <= high, f"{value!r} is not an integer in [{low}, {high}]")


def real(value: Any, *, positive: bool = True) -> None:
    demand(type(value) is float and math.isfinite(value) and (value > 0 or not positive), f"{value!r}")


def keys(value: Any, names: str) -> None:
    demand(type(value) is dict and set(value) == set(names.split()), f"fields {names} expected")
