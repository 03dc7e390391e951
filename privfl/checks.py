"""The validators of arguments that every package may use: each raises `ConfigError` with what it found and allows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from privfl.errors import ConfigError


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`.

    Args:
        name: The name of the argument in the error.
        value: The value found.
        allowed: The values allowed.
    """
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def check_probability(name: str, value: float) -> None:
    """Raise `ConfigError` unless 0 < value <= 1.

    Args:
        name: The name of the argument in the error.
        value: The value found.
    """
    if not _is_number(value) or not 0 < value <= 1:
        raise ConfigError(f"{name} must be in (0, 1], not {value!r}")


def check_count(name: str, value: int) -> None:
    """Raise `ConfigError` unless `value` is an integer of at least 1.

    Args:
        name: The name of the argument in the error.
        value: The value found.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, not {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise `ConfigError` unless `value` is positive and finite.

    Args:
        name: The name of the argument in the error.
        value: The value found.
    """
    if not _is_number(value) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a positive finite number, not {value!r}")


def check_delta(delta: float) -> None:
    """Raise `ConfigError` unless 0 < delta < 1."""
    if not _is_number(delta) or not 0 < delta < 1:
        raise ConfigError(f"delta must be in (0, 1), not {delta!r}")


def check_type(name: str, value: object, *kinds: type) -> None:
    """Raise `ConfigError` unless `value` is of one of `kinds`; a bool is an int only where bool is one of them.

    Args:
        name: The name of the argument in the error.
        value: The value found. The error names its type only.
        kinds: The types allowed.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        allowed = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} must be of type {allowed}, not {type(value).__name__}")


def draw(entropy: Callable[[int], bytes], count: int) -> bytes:
    """Return exactly `count` bytes of `entropy`.

    Args:
        entropy: A source of random bytes, such as `os.urandom`.
        count: The number of bytes.

    Raises:
        ConfigError: The source gave another number of bytes; fewer would make keys and shares guessable.
    """
    given = entropy(count)
    if not isinstance(given, bytes) or len(given) != count:
        found = f"{len(given)} bytes" if isinstance(given, bytes) else f"a {type(given).__name__}"
        raise ConfigError(f"the source of random bytes gave {found} where {count} bytes were asked for")
    return given


def unwrap_numpy(value: object, *names: str) -> None:
    """Replace numpy scalars in a dataclass that is being made with the Python numbers that they are.

    A sweep over `np.arange` gives such scalars; kept, they would overflow silently, and have no canonical form.

    Args:
        value: The dataclass, frozen or not.
        names: The fields that hold numbers.
    """
    for name in names:
        found = getattr(value, name)
        if isinstance(found, np.generic):
            object.__setattr__(value, name, float(found) if isinstance(found, np.floating) else found.item())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
