"""The blame for spoiled shares, derived from the pairs of a dealer and a holder that contradict each other.

One of the two clients of a *disputed* pair is corrupt, because an honest dealer's share at an honest holder is right.
An honest client is thus in dispute with corrupt clients only. So a client that is in dispute with more clients than can
be corrupt is corrupt itself; all other pairs stay undecided, and nobody is named for them.

A pair is disputed in three cases. "missing": the holder gave no share. "wrong": its share is off the polynomial of the
accepted secret. "unopened": the shares of `threshold` + `max_corrupt` holders, of whom at least `threshold` are honest,
lie on one polynomial whose secret is not accepted. The first and the last are certain. To put the holders of w wrong
shares among s in the wrong, a = s - w - threshold + 2 clients would have to agree on another polynomial with the same
secret. Wrong shares are disputed where a is more than w and more than half of `max_corrupt`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from privfl.sums.base import Dispute
from privfl.wire import ClientId

_TEXTS = {"missing": "did not open", "wrong": "is wrong", "unopened": "does not give the secret"}


class Disputes:
    """The bad shares of one opening, as pairs of a dealer and a holder, and the blame that follows from them.

    Args:
        max_corrupt: The most corrupt clients, among those that hold shares of one client, that the sum tolerates.
        threshold: The shares that open a secret.
    """

    def __init__(self, max_corrupt: int, threshold: int) -> None:
        self._max_corrupt, self._threshold = max_corrupt, threshold
        self._disputed: set[Dispute] = set()
        self._noted: set[Dispute] = set()

    def missing(self, dealer: ClientId, holder: ClientId) -> None:
        """Record that a holder gave no share of a dealer that shared.

        Args:
            dealer: The client whose secret was shared.
            holder: The client that owed the share.
        """
        self._disputed.add(Dispute(dealer, holder, "missing"))

    def wrong(self, dealer: ClientId, holders: Collection[ClientId], shares: int) -> None:
        """Record shares that are off the polynomial of the accepted secret.

        Args:
            dealer: The client whose secret was shared.
            holders: The clients that gave these shares.
            shares: The number of all shares of the dealer that were given.
        """
        agreeing = shares - len(holders) - self._threshold + 2
        clear = agreeing > max(len(holders), self._max_corrupt / 2)
        (self._disputed if clear else self._noted).update(Dispute(dealer, holder, "wrong") for holder in holders)

    def unopened(self, dealer: ClientId, holders: Iterable[ClientId], consistent: Collection[ClientId]) -> None:
        """Record shares that do not give the secret.

        Args:
            dealer: The client whose secret was shared.
            holders: The clients that gave shares.
            consistent: The holders whose shares lie on one polynomial; empty if no such polynomial was found.
        """
        clear = len(consistent) >= self._threshold + self._max_corrupt
        for holder in holders:
            pairs = self._disputed if clear and holder in consistent else self._noted
            pairs.add(Dispute(dealer, holder, "unopened"))

    def is_bad_dealer(self, dealer: ClientId) -> bool:
        """True if it is certain that `dealer` dealt bad shares."""
        pairs = [pair for pair in self._disputed if pair.dealer == dealer and pair.kind != "wrong"]
        return len({pair.holder for pair in pairs}) > self._max_corrupt

    def guilty(self) -> dict[ClientId, str]:
        """The clients in dispute with more clients than can be corrupt, and with whom."""
        pairs: dict[ClientId, set[Dispute]] = {}
        for pair in self._disputed:
            for client in (pair.dealer, pair.holder):
                pairs.setdefault(client, set()).add(pair)
        found = {}
        for client in sorted(pairs):
            others = {pair.holder if pair.dealer == client else pair.dealer for pair in pairs[client]}
            if len(others) > self._max_corrupt:
                told = "; ".join(_text(pair) for pair in sorted(pairs[client]))
                found[client] = f"in dispute with {len(others)} clients, more than {self._max_corrupt}: {told}"
        return found

    def undecided(self) -> tuple[Dispute, ...]:
        """The pairs in which nobody was found guilty, in order."""
        guilty = self.guilty()
        pairs = self._disputed | self._noted
        return tuple(sorted(pair for pair in pairs if pair.dealer not in guilty and pair.holder not in guilty))


def _text(pair: Dispute) -> str:
    return f"the share of dealer {pair.dealer} held by client {pair.holder} {_TEXTS[pair.kind]}"
