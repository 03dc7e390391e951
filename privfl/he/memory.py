"""Reads polynomials where SEAL keeps them, instead of having SEAL compress them into a file or list them.

SEAL's bindings hand a seeded ciphertext out through a compressed file only, and compressing random residues takes as
long as half of the encryption; slots they hand out as a list of Python's complex numbers. Linux shows a process its
own memory as a file, in which a wrong address is an error and no crash. Where in its object SEAL keeps the address of
the residues is not assumed but searched for, once, with a ciphertext whose content is known; and every later look is
compared with what must stand around the residues. Whenever something is not as expected, nothing is returned, and the
caller takes the other way. Memory is read, never written, and nothing in it is parsed that a peer sent.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any, Final

import numpy as np

from privfl.he.packing import Residues

_OBJECT: Final = struct.Struct("<32sB7xQQQdQ")  # parameters, transformed, polynomials, degree, primes, scale, factor
_MARKER: Final = b"\xff" * 8  # in place of the second polynomial: a generator and its seed follow
_WORDS: Final = 40  # of an object, among which its residues' address is searched


class Window:
    """Sees the seeded ciphertexts of one degree and prime; not thread-safe."""

    def __init__(self, identity: bytes, degree: int, generator: bytes, seed_bytes: int) -> None:
        self._identity, self._degree = identity, degree
        self._before = _MARKER + generator
        self._tail = bytearray(len(self._before) + seed_bytes)
        self._place: int | None = None
        self._open()

    def _open(self) -> None:
        self._process, self._memory = os.getpid(), -1
        if sys.implementation.name == "cpython" and sys.platform == "linux":
            try:
                self._memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # a process that hides its memory from itself too
                self._memory = -1

    @property
    def found(self) -> bool:
        """Whether ciphertexts can be seen here."""
        return self._place is not None

    def search(self, thing: Any, scale: float, block: Residues, seed: bytes) -> None:
        """Find out where a ciphertext of this content, read in another way, keeps its residues."""
        self._place = None
        out = np.empty(self._degree, np.uint64)
        for place in range(_OBJECT.size // 8, _WORDS):
            self._place = place
            if self.read(thing, scale, out) == seed and np.array_equal(out, block):
                return
        self._place = None

    def read(self, thing: Any, scale: float, out: Residues) -> bytes | None:
        """Copy the c0 of what `encrypt_symmetric` returned to `out`, uint64 `[degree]`, and return the seed of its c1.

        None, and `out` undefined, if it cannot be seen or is not what was expected.
        """
        if not self._copy(thing, scale, True, [out.data, self._tail]) or not self._tail.startswith(self._before):
            return None
        return bytes(self._tail[len(self._before) :])

    def read_coefficients(self, thing: Any, scale: float, out: Residues) -> bool:
        """Copy the first polynomial of a ciphertext that was transformed back to `out`, uint64 `[degree]`.

        False, and `out` undefined, if it cannot be seen or is not what was expected.
        """
        return self._copy(thing, scale, False, [out.data])

    def _copy(self, thing: Any, scale: float, transformed: bool, out: list[memoryview | bytearray]) -> bool:
        if self._place is None:
            return False
        if self._process != os.getpid():
            self._open()  # the file of a forked child's parent shows the parent's memory
        try:
            # A bound C++ object is a Python object that holds, after its head, the address of the C++ one.
            (inner,) = struct.unpack("<Q", self._look(id(thing) + object.__basicsize__, 8))
            words = self._look(inner, 8 * (self._place + 1))
            if _OBJECT.unpack_from(words) != (self._identity, transformed, 2, self._degree, 1, scale, 1):
                return False
            (residues,) = struct.unpack_from("<Q", words, 8 * self._place)
            return os.preadv(self._memory, out, residues) == sum(memoryview(part).nbytes for part in out)
        except (OSError, OverflowError, struct.error):
            return False

    def _look(self, address: int, size: int) -> bytes:
        return os.pread(self._memory, size, address)
