"""A linear authenticator of c0 blocks: the tags of the frames sum up to the tag of the summed block.

The opener receives one summed block in place of all frames, so no hash in a frame can vouch for it. Under the
session key, which the server lacks, every client adds to its signed header

    tag_t = sum_k w[t,k] * sum_j r[t,j] * c0[k,j] + pad_t   (mod q),   t = 0, 1

with r, w derived from (session key, task) and the one-time pad from (session key, task, sender) (Carter and Wegman
1981, section 3). The opener subtracts the pads and compares with the tag of the block it was given. A block other
than the sum of the signed ones passes with probability below (4 / 2^40)^2 for the smallest prime. Without this a
server could shift slots by a little and learn, from the opener's refusal or consent, bits of the noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.crypto import derive
from privfl.he.keys import keystream
from privfl.he.packing import Residues
from privfl.he.plan import CkksPlan
from privfl.wire import ClientId

_TAGS: Final = 2
_DATA_BITS: Final = 24
_WEIGHT_BITS: Final = 17
_ROWS: Final = 8  # chunks a pass: 256 KiB stay in the cache

Reals = npt.NDArray[np.float64]


class Tagger:
    """Computes tags for one task under one session key."""

    def __init__(self, plan: CkksPlan, session_key: bytes, task: bytes) -> None:
        self._plan = plan
        self._pads = derive(session_key, "ckks-sum tag pads", task)
        weights = self._draw(derive(session_key, "ckks-sum tag weights", task), _TAGS * (plan.degree + plan.chunks))
        inner = weights[: _TAGS * plan.degree].reshape(_TAGS, plan.degree)
        # Matrix products of 24-bit by 17-bit limbs over at most 4096 entries stay below 2^53: float64 is exact.
        self._inner = np.concatenate([_limbs(row, _WEIGHT_BITS, plan.prime_bits) for row in inner]).T.copy()
        self._outer = weights[_TAGS * plan.degree :].reshape(_TAGS, plan.chunks)

    def block(self, residues: Residues) -> tuple[int, ...]:
        """The tag of one block of reduced residues, without any pad."""
        q, chunks = self._plan.modulus, self._plan.chunks
        rows = residues.reshape(chunks, self._plan.degree)
        totals = [0] * _TAGS
        for at in range(0, chunks, _ROWS):
            products = _limbs(rows[at : at + _ROWS], _DATA_BITS, self._plan.prime_bits) @ self._inner
            for tag, columns in enumerate(np.split(products, _TAGS, axis=2)):
                for row, weight in enumerate(self._outer[tag, at : at + _ROWS]):
                    inner = sum(
                        int(product) << (_DATA_BITS * i + _WEIGHT_BITS * j)
                        for i, line in enumerate(columns[:, row])
                        for j, product in enumerate(line)
                    )
                    totals[tag] = (totals[tag] + int(weight) * inner) % q
        return tuple(totals)

    def sign(self, residues: Residues, sender: ClientId) -> bytes:
        """The 16-byte tag of `sender`'s own block."""
        pairs = zip(self.block(residues), self._pad(sender), strict=True)
        return b"".join(((tag + pad) % self._plan.modulus).to_bytes(8, "little") for tag, pad in pairs)

    def total(self, tags: Iterable[tuple[ClientId, bytes]]) -> tuple[int, ...]:
        """The tag that the sum of all senders' blocks must have."""
        totals = [0] * _TAGS
        for sender, signed in tags:
            for tag, pad in enumerate(self._pad(sender)):
                totals[tag] += int.from_bytes(signed[8 * tag : 8 * tag + 8], "little") - pad
        return tuple(total % self._plan.modulus for total in totals)

    def _pad(self, sender: ClientId) -> tuple[int, ...]:
        drawn = self._draw(derive(self._pads, "ckks-sum tag pad", sender.to_bytes(4, "little")), _TAGS)
        return tuple(int(word) for word in drawn)

    def _draw(self, key: bytes, count: int) -> Residues:
        """Residues whose probabilities differ by less than a factor of two: the top bits of stream words, minus q."""
        words = np.frombuffer(keystream(key, 8 * count), np.uint64) >> np.uint64(64 - self._plan.prime_bits)
        return np.where(words >= self._plan.modulus, words - np.uint64(self._plan.modulus), words)


def _limbs(words: Residues, bits: int, whole: int) -> Reals:
    """uint64 `[...]` -> float64 `[limbs, ...]`, least significant limb first."""
    limbs = np.empty((-(-whole // bits), *words.shape))
    part = np.empty_like(words)
    for index, limb in enumerate(limbs):
        np.right_shift(words, np.uint64(bits * index), out=part)
        if index < len(limbs) - 1:  # nothing is above the last one
            np.bitwise_and(part, np.uint64((1 << bits) - 1), out=part)
        limb[...] = part
    return limbs
