"""The hook for noise that needs the roster: the clients of one sum add it inside the sum.

Such noise is sized by the clients that start a sum, and parts of it are known to two of them. Only the sum knows its
roster, and only it has keys that two clients share. So the sum calls the noise: `sample` at each member before its
vector is masked, and `fill` at the server once the sum is opened. The noise itself knows nothing of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from privfl.errors import ConfigError
from privfl.ring import Ints
from privfl.wire import ClientId

Bytes = Callable[[int], bytes]
"""n -> n random bytes."""


class MemberCount(NamedTuple):
    """The members of one sum: how many the roster has, and how many of them are in the sum."""

    roster: int
    present: int


class RosterNoise(Protocol):
    """Noise that members of a roster add inside a sum. All parties of the sum agree on its numbers."""

    @property
    def variance(self) -> float:
        """The variance, in squared integer units, that no coalition of `spare` members can get below."""
        ...

    @property
    def members(self) -> int:
        """The most members; a smaller roster has one for each of its clients."""
        ...

    @property
    def spare(self) -> int:
        """The most members that one coalition holds."""
        ...

    @property
    def min_members_to_open(self) -> int:
        """The fewest members in a sum that opens."""
        ...

    @property
    def reach(self) -> int:
        """The bound on each entry of one member's noise."""
        ...

    def sample(
        self, me: ClientId, others: Sequence[ClientId], length: int, *, own: Bytes, pair: Callable[[ClientId], Bytes]
    ) -> Ints:
        """One member's noise, int64 `[length]`.

        Args:
            me: The member.
            others: The other members of the roster.
            length: The entries of a vector.
            own: The member's own source of random bytes.
            pair: The stream that the member shares with another one, from its start.
        """
        ...

    def fill(self, total: Ints, members: int, present: int) -> Ints:
        """The opened sum with the noise that the server adds to it, if it adds any.

        Args:
            total: The opened sum, int64 `[length]`.
            members: The members of the roster.
            present: The members in the sum.
        """
        ...


def refuse_noise(noise: RosterNoise | None, name: str) -> None:
    """Raise `ConfigError` if a task asks a sum for noise that it cannot add.

    Args:
        noise: The noise of the task, or None.
        name: The name of the sum.
    """
    if noise is not None:
        raise ConfigError(
            f"{name} cannot add noise that needs the roster, such as privacy.placement = 'mesh'; use a masked sum, or "
            "another placement"
        )
