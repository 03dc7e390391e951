"""Clients whose training raises an error and who drop out of the round: what is kept of the error is its type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_MAX_LETTERS: Final = 100


def kind_of(error: BaseException) -> str:
    """The name of the error's type, at most 100 letters: all that a round keeps of the error."""
    return type(error).__name__[:_MAX_LETTERS]


def count_errors(kinds: Iterable[str]) -> dict[str, int]:
    """Count the errors of each type, the most frequent first."""
    return dict(sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0])))


def in_words(errors: Mapping[str, int]) -> str:
    """The counts of `count_errors` as a phrase, such as `2 ValueError, 1 KeyError`."""
    return ", ".join(f"{count} {kind}" for kind, count in errors.items())


def caveat(errors: Mapping[str, int]) -> tuple[str, ...]:
    """The sentence about clients whose training raised an error; empty if there are none.

    Args:
        errors: The counts by type, from `count_errors`.
    """
    if not errors:
        return ()
    total = sum(errors.values())
    whose = "a client" if total == 1 else f"{total} clients"
    verb = "it" if total == 1 else "they"
    return (f"the training of {whose} raised an error ({in_words(errors)}), and {verb} dropped out",)
