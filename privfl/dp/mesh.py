"""Mesh noise: Skellam noise of the clients of one sum, tied together in pairs that stand in for dropouts.

Every member i of a roster of m members adds u_i + sum over j > i of v_ij - sum over j < i of v_ji. The noise u_i is its
own, and v_ij is known to i and j alone. Between two members in the sum v_ij cancels. Towards a member that drops out
it stays, and replaces the noise that the dropout takes away. For a target variance V, k spare members and at least l
members in the sum,

    a = V / (m - k)  is the variance of each u,   b = a / (l - k)  of each v.

A sum of s members carries s (a + (m - s) b). A coalition of k members leaves H = m - k honest ones, h of them in
the sum. Their noise h (a + (H - h) b) is unknown to it. As a function of h it is concave, and it is V at h = l - k and
at h = H. So it is never below V.

Independent noise next to noise that cancels is known from CAPE, GOPA, IncA and CorDP-DME. Dordis removes surplus noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfl.checks import check_count, check_positive
from privfl.dp.noise.sampler import Entropy, seeded_entropy
from privfl.dp.noise.skellam import skellam, skellam_reach
from privfl.errors import ConfigError
from privfl.ring import Ints
from privfl.wire import ClientId

_OWN: Final = 5
_PAIR: Final = 6
_TOP: Final = 7
"""Streams of simulation noise: each is keyed by (seed, round, stream, clients)."""


@dataclass(frozen=True, slots=True)
class MeshNoise:
    """The mesh noise of one sum: how large each part is, and how a member and the server sample theirs.

    Attributes:
        variance: The variance V, in squared integer units, that no coalition of `spare` members can get below.
        members: The most members; a roster of fewer clients has one for each client. At least 2.
        spare: The most members that one coalition holds, the observer's own place included; at least 0.
        min_members_to_open: The fewest members in a sum that opens, from spare + 1 to `members`.
        constant: The variance to which the server fills up the noise of every sum, so an outsider cannot infer from the
            noise who took part; 0 adds nothing.
        key: The start of the key of simulation noise, such as (seed, round); None samples from the sum's own secrets.
        reach: The bound on each entry of a member's noise, except with probability 2^-128.

    Raises:
        ConfigError: If a value is out of range.
    """

    variance: float
    members: int
    spare: int
    min_members_to_open: int
    constant: float = 0.0
    key: tuple[int, ...] | None = field(default=None, repr=False)
    reach: int = field(init=False)

    def __post_init__(self) -> None:
        check_positive("variance", self.variance)
        check_count("members", self.members)
        if self.members < 2:
            raise ConfigError(f"mesh noise has at least 2 members, not {self.members}")
        if type(self.spare) is not int or not 0 <= self.spare < self.members:
            raise ConfigError(f"spare must be an integer in [0, {self.members - 1}], not {self.spare!r}")
        low = self.spare + 1
        if type(self.min_members_to_open) is not int or not low <= self.min_members_to_open <= self.members:
            raise ConfigError(
                f"min_members_to_open must be in [{low}, {self.members}] for {self.members} members of whom "
                f"{self.spare} are spare, not {self.min_members_to_open!r}"
            )
        # One member's noise is largest where the roster is smallest: a + (m - 1) b does not grow in m.
        smallest = self.min_members_to_open
        largest = self.own_variance(smallest) + (smallest - 1) * self.pair_variance(smallest)
        object.__setattr__(self, "reach", skellam_reach(largest))

    def own_variance(self, members: int) -> float:
        """The variance a of a member's own noise, where the roster has `members` members."""
        return self.variance / (members - self.spare)

    def pair_variance(self, members: int) -> float:
        """The variance b of the noise of two members, where the roster has `members` members."""
        return self.own_variance(members) / (self.min_members_to_open - self.spare)

    def total_variance(self, members: int, present: int) -> float:
        """The variance of the noise in a sum, before the server fills it up.

        Args:
            members: The members of the roster.
            present: The members in the sum.
        """
        return present * (self.own_variance(members) + (members - present) * self.pair_variance(members))

    def counted_variance(self, members: int, present: int) -> float:
        """The variance of the noise that is unknown to a coalition of `spare` members, all of them in the sum.

        Args:
            members: The members of the roster.
            present: The members in the sum.
        """
        honest = present - self.spare
        return honest * (self.own_variance(members) + (members - present) * self.pair_variance(members))

    def max_variance(self, members: int) -> float:
        """The largest `total_variance` of a sum that opens, in a roster of up to `members` members.

        It grows with the roster, and in the members present it is concave.
        """
        size = min(members, self.members)
        top = (size + self.min_members_to_open - self.spare) // 2
        around = {min(max(present, self.min_members_to_open), size) for present in (top, top + 1)}
        return max(self.total_variance(size, present) for present in around)

    def sample(
        self,
        me: ClientId,
        others: Sequence[ClientId],
        length: int,
        *,
        own: Entropy,
        pair: Callable[[ClientId], Entropy],
    ) -> Ints:
        """One member's noise: its own, and that of each pair, added towards higher identities and subtracted else.

        Args:
            me: The member.
            others: All other members of the roster, present in the sum or not.
            length: The entries of a vector.
            own: The member's own source of random bytes.
            pair: The stream that the member shares with each other member, from its start.

        Returns:
            int64 `[length]`.
        """
        noise = np.zeros(length, np.int64)
        for _, part in self.parts(me, others, length, own=own, pair=pair):
            np.add(noise, part, out=noise)
        return noise

    def parts(
        self,
        me: ClientId,
        others: Sequence[ClientId],
        length: int,
        *,
        own: Entropy,
        pair: Callable[[ClientId], Entropy],
    ) -> Iterator[tuple[ClientId, Ints]]:
        """Yield the parts of `sample`, each with the other client that knows it: the member itself for its own part.

        Args:
            me: The member.
            others: All other members of the roster, present in the sum or not.
            length: The entries of a vector.
            own: The member's own source of random bytes.
            pair: The stream that the member shares with each other member, from its start.
        """
        size = len(others) + 1
        entropy = own if self.key is None else seeded_entropy(*self.key, _OWN, me)
        yield me, skellam(self.own_variance(size), length, entropy=entropy)
        variance = self.pair_variance(size)
        for other in others:
            low, high = min(me, other), max(me, other)
            stream = pair(other) if self.key is None else seeded_entropy(*self.key, _PAIR, low, high)
            shared = skellam(variance, length, entropy=stream)
            yield other, shared if me == low else -shared

    def fill(self, total: Ints, members: int, present: int, *, entropy: Entropy = os.urandom) -> Ints:
        """Add the server's noise. The sum then carries the variance `constant`, however many members are in it.

        Args:
            total: The opened sum, int64 `[length]`.
            members: The members of the roster.
            present: The members in the sum.
            entropy: Where secure noise comes from.

        Returns:
            int64 `[length]`; `total` itself where nothing is to be added.
        """
        missing = self.constant - self.total_variance(members, present)
        if missing <= 0:
            return total
        source = entropy if self.key is None else seeded_entropy(*self.key, _TOP)
        filled: Ints = total + skellam(missing, len(total), entropy=source)
        return filled
