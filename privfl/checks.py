"""The validators of arguments that every package may use: each raises `ConfigError` with what it found and allows."""

from __future__ import annotations

import math

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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
