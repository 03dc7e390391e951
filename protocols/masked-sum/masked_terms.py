"""The terms of a sum, its session, and the words of a vector: section 3 of SPEC.md."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from masked_messages import blob, require, u32, u64
from masked_noise import Noise
from masked_primitives import stream, words_of


@dataclass
class Terms:
    context: bytes
    clients: list[int]
    min_survivors: int
    length: int
    bits: int
    bound: int
    signed: bool
    packed: bool
    degree: int
    threshold: int
    arc: int
    min_roster: int
    min_vectors: int
    noise: Noise | None = None

    @property
    def session(self) -> bytes:
        task = blob(self.context) + u32(len(self.clients)) + b"".join(map(u32, self.clients))
        task += u64(self.min_survivors) + u64(self.length) + struct.pack("<H", self.bits) + u64(self.bound)
        task = hashlib.sha256(b"privfl/1 sum-task" + task).digest()
        form = task + bytes([self.signed, self.packed]) + u32(self.degree) + u32(self.threshold) + u32(self.arc)
        form += u32(self.min_roster) + u32(self.min_vectors) + (self.noise.form() if self.noise else b"")
        return hashlib.sha256(b"privfl/1 masked-sum terms" + form).digest()

    @property
    def width(self) -> int:
        return 2 if self.bits <= 16 else 4 if self.bits <= 32 else 8

    def mask(self, key: bytes) -> list[int]:
        return words_of(stream(key, self.length * self.width), self.width)

    def pack(self, words: list[int]) -> bytes:
        step = self.bits if self.packed else 8 * self.width
        number = sum(word << step * i for i, word in enumerate(words))
        return number.to_bytes(-(-len(words) * step // 8), "little")

    def unpack(self, data: bytes) -> list[int]:
        step = self.bits if self.packed else 8 * self.width
        require(len(data) == -(-self.length * step // 8), "another length of vector")
        number = int.from_bytes(data, "little")
        require(number >> step * self.length == 0, "padding bits")
        words = [number >> step * i & (1 << step) - 1 for i in range(self.length)]
        require(all(word < 1 << self.bits for word in words), "a word is not reduced")
        return words
