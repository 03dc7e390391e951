"""The holders of each client's shares: all clients, or its neighbors on a ring that no party chose.

The ring is that of Bell et al. 2020, "Secure single-server aggregation with (poly)logarithmic overhead", section 3. The
n clients of the roster lie in the order of a permutation, each joined with the degree / 2 next ones on both sides.
The permutation comes from the roster's digest: each client computes it for itself, and no one picks a place.

    key   = derive(roster digest, "masked-sum ring", session)
    words = the first n 64-bit little-endian words of the AES-256-CTR stream of that key
    order = the places, sorted by (their word, their place)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from privfl.crypto import add_keystreams
from privfl.secagg.messages import Bitmap


class Graph:
    """The holders of each client's shares. Clients are named by their places in the roster.

    In the complete graph a client is one of its own holders, and the threshold counts shares among all clients. On a
    ring a client is not its own holder, and the threshold counts shares among its `degree` neighbors.

    Args:
        size: The number of clients.
        degree: The number of neighbors, even; 0 is the complete graph.
        key: The key of the ring's permutation; not used in the complete graph.
    """

    def __init__(self, size: int, degree: int, key: bytes) -> None:
        self._size, self._degree, self._key = size, degree, key

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return permutation(self._size, self._key)

    @cached_property
    def _rank(self) -> npt.NDArray[np.int64]:
        rank = np.empty(self._size, np.int64)
        rank[self._order] = np.arange(self._size)
        return rank

    def holders(self, place: int) -> list[int]:
        """The places, increasing, of the clients that hold shares of the client at `place` and deal shares to it."""
        if self._degree == 0:
            return list(range(self._size))
        half = self._degree // 2
        rank = int(self._rank[place])
        steps = [*range(rank - half, rank), *range(rank + 1, rank + half + 1)]
        return sorted(self._order[[step % self._size for step in steps]].tolist())

    def neighbors(self, place: int) -> list[int]:
        """The holders without the client itself: with these it shares a pairwise mask."""
        return [other for other in self.holders(place) if other != place]

    def min_arc(self, members: Bitmap) -> int:
        """Return the smallest number of members in any degree / 2 consecutive places of the ring.

        Two such arcs without an honest member would cut the ring, and with it the sum, in two (Bell et al. 2020,
        section 3.3). This number must therefore be above what corrupt clients could make up. In a complete graph there
        is nothing to cut, and it is the number of members.
        """
        if self._degree == 0:
            return len(members)
        raw = np.frombuffer(members.mask.to_bytes(-(-self._size // 8), "little"), np.uint8)
        ring = np.unpackbits(raw, count=self._size, bitorder="little")[self._order]
        half = self._degree // 2
        sums = np.cumsum(np.concatenate([[0], ring, ring[:half]]), dtype=np.int64)
        return int((sums[half:] - sums[:-half]).min())


def permutation(size: int, key: bytes) -> npt.NDArray[np.int64]:
    """The places of a roster in the order of a key that nobody chose, int64 `[size]`.

    Args:
        size: The number of clients.
        key: The key, 32 bytes.
    """
    words = np.zeros(size, "<u8")
    add_keystreams(words, [key])
    return np.argsort(words, kind="stable")


def member_places(size: int, members: int, key: bytes) -> Bitmap:
    """The places of a roster that add noise: all, or the first `members` of a permutation.

    Args:
        size: The number of clients.
        members: The most members.
        key: The key of the permutation; not used where all are members.
    """
    return Bitmap.of(size, range(size) if size <= members else permutation(size, key)[:members].tolist())
