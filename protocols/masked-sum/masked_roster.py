"""The roster of a sum: places, the graph, and the keys that are bound to it. Sections 5, 6 and 16.2 of SPEC.md."""

from __future__ import annotations

import itertools
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from masked_messages import TooFew, bitmap, require, u32
from masked_primitives import agree, derive, digest, framed, stream, words_of
from masked_terms import Terms


class View:
    """The consequences of a roster: places, the graph, and every key that is bound to it."""

    def __init__(self, terms: Terms, entries: bytes) -> None:
        size = 132 if terms.signed else 68
        require(len(entries) % size == 0, "not whole records")
        records = [entries[i : i + size] for i in range(0, len(entries), size)]
        self.terms, self.ids = terms, [int.from_bytes(record[:4], "little") for record in records]
        require(all(a < b for a, b in itertools.pairwise(self.ids)), "not strictly increasing")
        require(set(self.ids) <= set(terms.clients), "a stranger")
        require(len(self.ids) >= terms.min_roster, "a roster too small")
        self.keys = [record[4:68] for record in records]
        self.signatures = [record[68:] for record in records]
        halves = [half for keys in self.keys for half in (keys[:32], keys[32:])]
        require(len(set(halves)) == len(halves), "one key stands for two")
        self.session, self.size = terms.session, len(records)
        self.digest = digest("roster", self.session, entries)
        words = words_of(stream(derive(self.digest, "ring", self.session), 8 * self.size), 8)
        self.order = sorted(range(self.size), key=lambda place: (words[place], place))

    def members(self) -> list[int]:
        noise = self.terms.noise
        if noise is None or self.size <= noise.members:
            return list(range(self.size)) if noise else []
        words = words_of(stream(derive(self.digest, "members", self.session), 8 * self.size), 8)
        return sorted(sorted(range(self.size), key=lambda place: (words[place], place))[: noise.members])

    def noise_key(self, shared: bytes, own: int, other: int) -> bytes:
        low, high = sorted((self.ids[own], self.ids[other]))
        return derive(shared, "mesh noise", self.session, self.digest, u32(low), u32(high))

    def check_members(self, places: Any) -> None:
        noise = self.terms.noise
        present = len(set(self.members()) & set(places))
        require(noise is None or present >= noise.min_members_to_open, "too few members are left", TooFew)

    def holders(self, place: int) -> list[int]:
        degree = self.terms.degree
        if degree == 0:
            return list(range(self.size))
        rank = self.order.index(place)
        steps = [s for s in range(-degree // 2, degree // 2 + 1) if s]
        return sorted(self.order[(rank + s) % self.size] for s in steps)

    def neighbors(self, place: int) -> list[int]:
        return [other for other in self.holders(place) if other != place]

    def min_arc(self, members: list[int]) -> int:
        half = self.terms.degree // 2
        if not half:
            return len(members)
        ring = [place in members for place in self.order] * 2
        return min(sum(ring[i : i + half]) for i in range(self.size))

    def pairwise(self, secret: bytes, own: int, other: int) -> bytes:
        """`own` and `other` are places; `secret` is the mask key of `own`."""
        low, high = sorted((self.ids[own], self.ids[other]))
        shared = agree(secret, self.keys[other][:32])
        return derive(shared, "pairwise mask", self.session, self.digest, u32(low), u32(high))

    def self_mask(self, place: int, seed: bytes) -> bytes:
        return derive(seed, "self mask", self.session, self.digest, u32(self.ids[place]))

    def seed_hash(self, place: int, seed: bytes) -> bytes:
        return digest("seed hash", self.session, self.digest, u32(self.ids[place]), seed)

    def box_key(self, shared: bytes, sender: int, receiver: int) -> bytes:
        ids = u32(self.ids[sender]), u32(self.ids[receiver])
        return derive(shared, "box", self.session, self.digest, *ids)

    def box_context(self, sender: int, receiver: int) -> bytes:
        return framed(self.session, b"ShareKeys", u32(self.ids[sender]), u32(self.ids[receiver]))

    def input_check(self, place: int, values: bytes) -> bytes:
        key = derive(self.digest, "input", self.session, u32(self.ids[place]))
        return AESGCM(key).encrypt(bytes(12), b"", values)

    def statement(self, place: int, survivors: list[int]) -> tuple[bytes, ...]:
        return self.session, self.digest, u32(self.ids[place]), bitmap(self.size, survivors)
