"""Noise that needs the roster, and the exact sampling of it: sections 16.1 and 16.3 of SPEC.md."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import struct
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from masked_messages import require, u32, u64
from masked_primitives import words_of

CONTEXT = Context(prec=90)


@dataclass
class Noise:
    members: int
    spare: int
    min_members_to_open: int
    variance: float
    reach: int

    def form(self) -> bytes:
        counts = u32(self.spare) + u32(self.min_members_to_open) + u32(self.members)
        return counts + struct.pack("<d", self.variance) + u64(self.reach)

    def variances(self, members: int) -> tuple[float, float]:
        own = self.variance / (members - self.spare)
        return own, own / (self.min_members_to_open - self.spare)


def skellam(variance: float, length: int, draw: Any) -> list[int]:
    """Section 16.3: the least k for which a real uniform number is below the distribution function at k."""
    below = distribution(variance)
    reach = len(below) // 2
    return [_invert(word, below, draw) - reach for word in words_of(draw(8 * length), 8)]


@functools.cache
def distribution(variance: float) -> list[Decimal]:
    """P(at most k) of Skellam(variance), from one end of its reach to the other."""
    require(variance < 4096, "this reference samples small variances only", ValueError)
    c = CONTEXT
    half, reach = Decimal(variance) / 2, math.ceil(32 * math.sqrt(variance)) + 64
    chances, first = [], c.exp(-Decimal(variance))
    for k in range(reach + 1):  # P(k) = e^-m times the sum over j of (m/2)^(2j + k) / (j! (j + k)!)
        term, total, j = first, Decimal(0), 0
        while term > Decimal("1e-80"):
            total, j = c.add(total, term), j + 1
            term = c.divide(c.multiply(term, c.multiply(half, half)), Decimal(j * (j + k)))
        chances.append(total)
        first = c.divide(c.multiply(first, half), Decimal(k + 1))
    return list(itertools.accumulate((chances[abs(k)] for k in range(-reach, reach + 1)), c.add))


def _invert(word: int, below: list[Decimal], draw: Any) -> int:
    known = 64
    while True:
        unit = Decimal(1 << known)
        low, high = CONTEXT.divide(Decimal(word), unit), CONTEXT.divide(Decimal(word + 1), unit)
        index = bisect.bisect_right(below, low)
        if index == bisect.bisect_left(below, high):
            return index
        word, known = word << 64 | int.from_bytes(draw(8), "little"), known + 64


def reader(key: bytes) -> Any:
    encryptor = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))
