"""Mask streams: AES-256 in counter mode (NIST SP 800-38A, 6.5), added to ring words in place.

The stream of a 32-byte key is AES-256-CTR over zeros. Its counter is 128-bit, big-endian, and starts at zero. Every
mask key is used for one stream only, so no nonce is needed. The stream is read as little-endian words of the vector's
own width, and word i of the stream is added to (or subtracted from) entry i.

The outer loop runs over chunks of the vector, the inner loop over the keys. A chunk therefore stays in the cache while
all streams are added to it, and one scratch buffer serves all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from privfl.crypto.kdf import check_key
from privfl.errors import ConfigError

CHUNK_BYTES: Final = 1 << 18
"""Zeros, stream and vector chunk together stay within a second-level cache."""

_BLOCK: Final = 16
_ZEROS: Final = bytes(CHUNK_BYTES)
_BATCH: Final = 256  # cipher contexts alive at once

Words = npt.NDArray[np.unsignedinteger[Any]]


def add_keystreams(words: Words, plus: Sequence[bytes], minus: Sequence[bytes] = (), *, threads: int = 1) -> None:
    """Add the streams of the keys `plus` to `words` and subtract those of `minus`, in place, in the native word.

    Args:
        words: A contiguous, writable array `[d]` of uint16, uint32 or uint64. A ring narrower than its word masks it
            afterwards.
        plus: The keys of the streams to add, 32 bytes each.
        minus: The keys of the streams to subtract.
        threads: The number of threads, at least 1. They split the vector, so the result does not depend on them. They
            gain only where the cipher releases the interpreter's lock: cryptography 50 does, older ones may not.

    Raises:
        ConfigError: An argument has another form.
    """
    if words.ndim != 1 or words.dtype.str not in ("<u2", "<u4", "<u8") or not words.flags.carray:
        raise ConfigError("masks are added to a flat, contiguous, writable array of little-endian uint16, 32 or 64")
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}")
    for key in (*plus, *minus):
        check_key(key, "a mask key")
    signed = [(key, np.add) for key in plus] + [(key, np.subtract) for key in minus]
    for at in range(0, len(signed), _BATCH):
        _add_batch(words, signed[at : at + _BATCH], threads)


def _add_batch(words: Words, signed: Sequence[tuple[bytes, np.ufunc]], threads: int) -> None:
    step = CHUNK_BYTES // words.dtype.itemsize
    chunks = -(-len(words) // step)
    if threads == 1 or chunks < 2 * threads:
        _add_range(words, signed, 0)
        return
    cuts = [chunks * part // threads * step for part in range(threads)] + [len(words)]
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(_add_range, words[a:b], signed, a) for a, b in itertools.pairwise(cuts)]
    for part in parts:
        part.result()


def _add_range(words: Words, signed: Sequence[tuple[bytes, np.ufunc]], start: int) -> None:
    """Add the streams from word `start` on, which lies on a chunk boundary, to `words`."""
    size = words.dtype.itemsize
    step = CHUNK_BYTES // size
    counter = (start * size // _BLOCK).to_bytes(_BLOCK, "big")
    streams: list[tuple[CipherContext, np.ufunc]] = [
        (Cipher(AES256(key), CTR(counter)).encryptor(), combine) for key, combine in signed
    ]
    # update_into asks for a block of slack behind the output, which counter mode never writes.
    scratch = np.empty(min(len(words) * size, CHUNK_BYTES) + _BLOCK, np.uint8)
    zeros = memoryview(_ZEROS)
    for at in range(0, len(words), step):
        chunk = words[at : at + step]
        stream = scratch[: chunk.nbytes].view(words.dtype)
        for cipher, combine in streams:
            cipher.update_into(zeros[: chunk.nbytes], scratch.data)
            combine(chunk, stream, out=chunk)


def read_keystream(key: bytes) -> Callable[[int], bytes]:
    """A function that returns the next n bytes of a key's stream at each call: a source of random bytes.

    Two parties that hold one key read the same bytes in the same order. One key serves one reader at each of them.
    """
    cipher = Cipher(AES256(check_key(key, "a stream's key")), CTR(bytes(_BLOCK))).encryptor()
    return lambda count: cipher.update(bytes(count))
