"""Disputes about shares, and who is guilty of them: section 9 of SPEC.md."""

from __future__ import annotations

from dataclasses import dataclass, field

from masked_primitives import polynomials
from masked_terms import Terms


@dataclass
class Disputes:
    """Pairs (dealer, holder, kind); of the disputed ones one of the two is corrupt, the noted ones prove nothing."""

    terms: Terms
    disputed: set[tuple[int, int, str]] = field(default_factory=set)
    noted: set[tuple[int, int, str]] = field(default_factory=set)

    @property
    def max_corrupt(self) -> int:
        t, m = self.terms.threshold, self.terms.degree or len(self.terms.clients)
        return 2 * t - m - 1 if self.terms.signed else t - 1

    def wrong(self, dealer: int, holders: set[int], shares: int) -> None:
        agreeing = shares - len(holders) - self.terms.threshold + 2
        clear = agreeing > len(holders) and 2 * agreeing > self.max_corrupt
        (self.disputed if clear else self.noted).update((dealer, holder, "wrong") for holder in holders)

    def unopened(self, dealer: int, shares: dict[int, int]) -> None:
        off = min((wrong for _, wrong in polynomials(shares, self.terms.threshold)), key=len, default=set(shares))
        clear = len(shares) - len(off) >= self.terms.threshold + self.max_corrupt
        for holder in shares:
            (self.disputed if clear and holder not in off else self.noted).add((dealer, holder, "unopened"))

    def bad_dealer(self, dealer: int) -> bool:
        holders = {holder for d, holder, kind in self.disputed if d == dealer and kind != "wrong"}
        return len(holders) > self.max_corrupt

    def guilty(self) -> set[int]:
        others: dict[int, set[int]] = {}
        for dealer, holder, _ in self.disputed:
            others.setdefault(dealer, set()).add(holder)
            others.setdefault(holder, set()).add(dealer)
        return {client for client, met in others.items() if len(met) > self.max_corrupt}

    def undecided(self) -> list[tuple[int, int, str]]:
        guilty = self.guilty()
        return sorted(pair for pair in self.disputed | self.noted if not guilty & set(pair[:2]))
