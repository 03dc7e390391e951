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

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from privfl.crypto.kdf import derive
from privfl.he.exchange import Buffer
from privfl.he.keys import keystream, secret_polynomial
from privfl.he.packing import ROWS, Reals, Residues, pack_into
from privfl.he.plan import CkksPlan
from privfl.he.seal import SealCipher
from privfl.ring import Ints
from privfl.wire import ClientId

Tag = tuple[int, ...]
"""Numbers below the prime; those of blocks add up modulo it."""

_TAGS: Final = 2
_DATA_BITS: Final = 24
_WEIGHT_BITS: Final = 17
_HALF_BITS: Final = 26
_HALF: Final = (1 << _HALF_BITS) - 1


class Tagger:
    """Computes tags for one task under one session key."""

    def __init__(self, plan: CkksPlan, session_key: bytes, task: bytes) -> None:
        """Derive weights and the root of the pads.

        Args:
            plan: The parameters of the sum.
            session_key: 32 secret bytes.
            task: The task's digest, 32 bytes.
        """
        self._plan = plan
        self._pads = derive(session_key, "ckks-sum tag pads", task)
        weights = self._draw(derive(session_key, "ckks-sum tag weights", task), _TAGS * (plan.degree + plan.chunks))
        inner = weights[: _TAGS * plan.degree].reshape(_TAGS, plan.degree)
        # Matrix products of 24-bit by 17-bit limbs over at most 4096 entries stay below 2^53: float64 is exact.
        self._inner = np.concatenate([_limbs(row, _WEIGHT_BITS, plan.prime_bits) for row in inner]).T.copy()
        outer = weights[_TAGS * plan.degree :].reshape(_TAGS, plan.chunks)
        self._outer = _limbs(outer, _WEIGHT_BITS, plan.prime_bits).transpose(1, 2, 0).copy()
        self._data = np.empty((-(-plan.prime_bits // _DATA_BITS), min(ROWS, plan.chunks), plan.degree))
        limbs = len(self._inner.T) // _TAGS
        self._shape = (_TAGS, 2, len(self._data), limbs, limbs)

    def block(self, residues: Residues) -> Tag:
        """Return the tag of one block of reduced residues, uint64 `[chunks * degree]`, without any pad."""
        rows = residues.reshape(self._plan.chunks, self._plan.degree)
        return self.combine(self.part(rows[at : at + ROWS], at) for at in range(0, self._plan.chunks, ROWS))

    def part(self, rows: Residues, first: int) -> Ints:
        """Return what a few chunks contribute to the tag of their block.

        Args:
            rows: Reduced residues of at most 8 chunks, uint64 `[k, degree]`.
            first: The number of the first of these chunks in the block.

        Returns:
            int64 `[tag, half, data limb, weight limb, outer limb]`: coefficients below 2^47 for `combine`.
        """
        count = len(rows)
        products = _limbs(rows, _DATA_BITS, self._plan.prime_bits, self._data[:, :count]) @ self._inner
        exact = products.astype(np.int64)  # below 2^53
        halves = np.stack([exact & _HALF, exact >> _HALF_BITS]).astype(np.float64)
        halves = halves.reshape(2, len(products), count, _TAGS, -1).transpose(3, 0, 1, 4, 2)
        outer = self._outer[:, None, None, first : first + count]
        part: Ints = (halves @ outer).astype(np.int64)  # 8 products of 27 by 17 bits
        return part

    def combine(self, parts: Iterable[Ints]) -> Tag:
        """Return the tag of a block from all of its parts. Give fewer than 2^16 parts; this is not checked."""
        totals = np.sum(list(parts), axis=0).reshape(self._shape).astype(object)
        return tuple(
            sum(
                int(value) << (_HALF_BITS * half + _DATA_BITS * data + _WEIGHT_BITS * (inner + outer))
                for (half, data, inner, outer), value in np.ndenumerate(total)
            )
            % self._plan.modulus
            for total in totals
        )

    def sign(self, block: Tag, sender: ClientId) -> bytes:
        """Return the 16 bytes that a client sends: the tag of its own block plus its pads.

        Args:
            block: The tag of the client's block, without pads.
            sender: The client.
        """
        pairs = zip(block, self._pad(sender), strict=True)
        return b"".join(((tag + pad) % self._plan.modulus).to_bytes(8, "little") for tag, pad in pairs)

    def total(self, tags: Iterable[tuple[ClientId, bytes]]) -> Tag:
        """Return the tag that the sum of all senders' blocks must have."""
        totals = [0] * _TAGS
        for sender, signed in tags:
            for tag, pad in enumerate(self._pad(sender)):
                totals[tag] += int.from_bytes(signed[8 * tag : 8 * tag + 8], "little") - pad
        return tuple(total % self._plan.modulus for total in totals)

    def _pad(self, sender: ClientId) -> Tag:
        drawn = self._draw(derive(self._pads, "ckks-sum tag pad", sender.to_bytes(4, "little")), _TAGS)
        return tuple(int(word) for word in drawn)

    def _draw(self, key: bytes, count: int) -> Residues:
        """Residues whose probabilities differ by less than a factor of two: the top bits of stream words, minus q."""
        words = np.frombuffer(keystream(key, 8 * count), np.uint64) >> np.uint64(64 - self._plan.prime_bits)
        return np.where(words >= self._plan.modulus, words - np.uint64(self._plan.modulus), words)


class SessionCipher:
    """Seals and opens vectors of one task under one session key. Holds secrets.

    Attributes:
        ckks: Encrypts and decrypts.
        tagger: Computes the tags.
    """

    def __init__(self, plan: CkksPlan, session_key: bytes, task: bytes) -> None:
        """Derive everything from the session key.

        Args:
            plan: The parameters of the sum.
            session_key: 32 secret bytes.
            task: The task's digest, 32 bytes.

        Raises:
            ConfigError: This TenSEAL, or this system, cannot be used.
            MissingExtra: TenSEAL is not installed.
        """
        self._plan = plan
        self.ckks = SealCipher(plan, secret_polynomial(session_key, plan))
        self.tagger = Tagger(plan, session_key, task)

    def __repr__(self) -> str:
        return f"SessionCipher({self.ckks!r})"

    def seal(self, vector: Ints, sender: ClientId) -> tuple[bytes, memoryview, bytes]:
        """Encrypt, pack and tag one vector.

        Residues are packed and tagged while they are in the cache, so no array of 8 bytes a value is ever made.

        Args:
            vector: int64 `[length]`.
            sender: The client whose vector it is.

        Returns:
            The seeds, the packed c0 block, and the tag with the pads of `sender`.
        """
        size, degree = self._plan.residue_bytes, self._plan.degree
        seeds, block, parts, done = [], bytearray(self._plan.block_bytes), [], 0
        for rows, some in self.ckks.encrypt_parts(vector):
            seeds.append(some)
            pack_into(block, done * degree, rows.reshape(-1), size)
            parts.append(self.tagger.part(rows, done))
            done += len(rows)
        return b"".join(seeds), memoryview(block), self.tagger.sign(self.tagger.combine(parts), sender)

    def open(self, total: Residues, seeds: Sequence[Buffer], *, limit: float) -> tuple[Ints, float]:
        """Decrypt and round a sum; ends early, with values missing, at one farther than `limit` off an integer.

        Args:
            total: Summed c0 residues, uint64 `[chunks * degree]`.
            seeds: The seeds of each client, 64 bytes a chunk.
            limit: The largest rounding error of an honest sum, in integer units.

        Returns:
            The rounded values, int64 `[chunks * degree]`, and the largest rounding error.
        """
        rounded, worst = np.zeros((self._plan.chunks, self._plan.degree), np.int64), np.float64(0)
        done = 0
        for values in self.ckks.decrypt(total, seeds):
            nearest = np.rint(values)
            rounded[done : done + len(values)] = nearest
            done += len(values)
            np.subtract(values, nearest, out=nearest)
            worst = np.max([worst, nearest.max(), -nearest.min()])
            if not worst <= limit:
                break
        return rounded.reshape(-1), float(worst)


def _limbs(words: Residues, bits: int, width: int, out: Reals | None = None) -> Reals:
    """uint64 `[...]` of `width` bits -> float64 `[limbs, ...]`, least significant limb first."""
    limbs = np.empty((-(-width // bits), *words.shape)) if out is None else out
    part = np.empty_like(words)
    for index, limb in enumerate(limbs):
        low = np.right_shift(words, np.uint64(bits * index), out=part) if index else words
        if index < len(limbs) - 1:  # nothing is above the last one
            low = np.bitwise_and(low, np.uint64((1 << bits) - 1), out=part)
        limb[...] = low.view(np.int64)  # small enough to be either, and faster to convert
    return limbs
