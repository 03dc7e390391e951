"""Numbers for clients that are known by 64-bit numbers or by text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from privfl.errors import ConfigError
from privfl.wire import SERVER, ClientId

_NOBODY: Final[Mapping[str | int, ClientId]] = MappingProxyType({})


def number_clients(
    names: Iterable[str | int], known: Mapping[str | int, ClientId] = _NOBODY
) -> dict[str | int, ClientId]:
    """Give each name an identity that a sum can use: an integer in [0, 2^32 - 2].

    Keep the result next to the key directory and publish both: all parties must use the same numbers. The numbers are
    assigned in the order of the sorted names (integers before text), so equal names get equal numbers
    everywhere.

    Args:
        names: Text, or integers of any size, each once. Those that are in `known` keep their number.
        known: The numbers of an earlier call. New names get numbers that follow the largest of them.

    Returns:
        The numbers of `known` and of all names.

    Raises:
        ConfigError: A name occurs twice or is neither text nor an integer, or the numbers would exceed 2^32 - 2.
    """
    given = list(names)
    for name in given:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ConfigError(f"a name is text or an integer, not {type(name).__name__}")
    if len(set(given)) < len(given):
        raise ConfigError("a name occurs twice: each client needs one of its own")
    numbers = dict(known)
    first = max(numbers.values(), default=-1) + 1
    new = sorted((name for name in given if name not in numbers), key=lambda name: (isinstance(name, str), name))
    if first + len(new) > SERVER:
        raise ConfigError(f"{len(new)} new names do not fit below 2^32 - 1: the largest number is {first - 1}")
    numbers.update({name: first + place for place, name in enumerate(new)})
    return numbers
