"""Clients whose training raises an error and who drop out of the round: what is kept of the error is its type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from privfl.ring import Ints

_MARK: Final = -(1 << 63)
"""The first entry in place of a contribution. No entry of a contribution is this large."""

_MAX_LETTERS: Final = 100


def fault(error: BaseException) -> Ints:
    """Make the stand-in for the contribution of a client whose training raised `error`.

    Returns:
        int64: a mark that no contribution begins with, and the letters of the name of the error's type.
    """
    return np.array([_MARK, *map(ord, type(error).__name__[:_MAX_LETTERS])], np.int64)


def fault_of(contribution: Ints) -> str | None:
    """The type of error in place of a contribution, int64 `[length]`; None for a contribution."""
    if len(contribution) == 0 or contribution[0] != _MARK:
        return None
    return "".join(map(chr, contribution[1:]))


def counted(kinds: Iterable[str]) -> dict[str, int]:
    """Count the errors of each type, the most frequent first."""
    return dict(sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0])))


def in_words(errors: Mapping[str, int]) -> str:
    """The counts of `counted` as a phrase, such as `2 ValueError, 1 KeyError`."""
    return ", ".join(f"{count} {kind}" for kind, count in errors.items())


def caveat(errors: Mapping[str, int]) -> tuple[str, ...]:
    """The sentence about clients whose training raised an error; none without such clients.

    Args:
        errors: The counts by type, from `counted`.
    """
    if not errors:
        return ()
    total = sum(errors.values())
    whose = "a client" if total == 1 else f"{total} clients"
    verb = "it" if total == 1 else "they"
    return (f"the training of {whose} raised an error ({in_words(errors)}), and {verb} dropped out",)
