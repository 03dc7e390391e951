"""The only door to TenSEAL: secret-key CKKS through `tenseal.sealapi`, one prime, seeds in place of random halves.

SEAL's bindings read and write files only, and write them compressed. What SEAL reads is put together here,
uncompressed, from residues and seeds that were checked before, in an anonymous memory file: no byte that a peer chose
is ever parsed by SEAL. What SEAL encrypted is read out of its memory (privfl/he/memory.py), or where that cannot be
done from the same file, inflated and taken apart here. At first use a self-test holds both ways, this layout, the
transform and the generator against pinned values.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from privfl.errors import ConfigError, MissingExtra
from privfl.he.channel import Buffer, Channel
from privfl.he.keys import Ternary
from privfl.he.memory import Window
from privfl.he.packing import ROWS, Reals, Residues, from_coefficients, from_slots, to_slots
from privfl.he.plan import PRIMES, SEED_BYTES, CkksPlan
from privfl.ring import Ints

_OUTER: Final = struct.Struct("<HBBBBHQ")  # magic, header size, version (2), compression, reserved, total size
_MAGIC: Final = 0xA15E
_FIXED: Final = 97  # bytes before the residues of a ciphertext, its own header not counted
_GENERATOR: Final = 17  # bytes between the residues and the seed: a nested header and the generator's type
_BLAKE2XB: Final = 1
_PINNED: Final = {
    (2048, 40): "84654c52c16894033b5092153e8e1ae06c26e4faebb516618c3b555b2c6c1f8e",
    (2048, 48): "d3ec1fc92620646f28fe187b10b6070f08c41bae69738272484e3b54e64e5669",
    (4096, 40): "8d8f4402d7cb60bbbcb95876bb675cd663ce4e83908228c614f634dfd07ed2ba",
    (4096, 48): "389daaac870eb613dab3a7b20e25ff441051389889b7752002f77dcedf14e6d6",
    (4096, 56): "1d35bb03bfaf8a512009582b033219f84df2226289ccbea865b447d45b2051e0",
    (4096, 60): "173a58de146bdc0c371fac5badc767e7ee39ded49d857428de588f001fab0bb0",
}


class SealCipher:
    """Encrypts and decrypts under one secret polynomial. Holds a secret key, which no server ever has."""

    def __init__(self, plan: CkksPlan, secret: Ternary) -> None:
        self._plan = plan
        self._parts = _parameters(plan.degree, plan.modulus, plan.security)
        self._seal = self._parts.seal
        key = self._parts.secret_key(secret)
        self._encryptor = self._seal.Encryptor(self._parts.context, key)
        self._decryptor = self._seal.Decryptor(self._parts.context, key)

    def __repr__(self) -> str:
        return f"SealCipher(degree={self._plan.degree}, prime_bits={self._plan.prime_bits})"

    def encrypt(self, values: Ints) -> tuple[Residues, bytes]:
        """int64 `[length]` -> (c0 residues `[chunks * degree]`, seeds); fresh randomness from SEAL at every call."""
        residues = np.empty((self._plan.chunks, self._plan.degree), np.uint64)
        seeds, at = [], 0
        for rows, some in self.encrypt_parts(values):
            residues[at : at + len(rows)] = rows
            seeds.append(some)
            at += len(rows)
        return residues.reshape(-1), b"".join(seeds)

    def encrypt_parts(self, values: Ints) -> Iterator[tuple[Residues, bytes]]:
        """`encrypt` by and by: residues `[at most 8, degree]`, which are good until the next come, and their seeds."""
        plan, parts = self._plan, self._parts
        residues = np.empty((min(ROWS, plan.chunks), plan.degree), np.uint64)
        plain = self._seal.Plaintext()
        for at in range(0, len(values), ROWS * plan.degree):
            seeds = []
            for row, slots in enumerate(to_slots(values[at : at + ROWS * plan.degree], plan.degree)):
                parts.encoder.encode(slots.tolist(), plan.scale, plain)
                cipher = self._encryptor.encrypt_symmetric(plain)
                seeds.append(parts.take_apart(cipher, plan.scale, residues[row]))
            yield residues[: len(seeds)], b"".join(seeds)

    def decrypt(self, total: Residues, seeds: Sequence[Buffer]) -> Iterator[Reals]:
        """Summed c0 residues `[k * degree]` and every client's seeds -> float64 `[at most 8, degree]`, by and by.

        These values are not rounded: whoever learns them learns the secret key (Li and Micciancio 2021).
        """
        plan, parts = self._plan, self._parts
        rows = total.reshape(-1, plan.degree)
        plain, carried = self._seal.Plaintext(), self._seal.Ciphertext(parts.context)
        for at in range(0, len(rows), ROWS):
            some = rows[at : at + ROWS]
            seen, unseen = np.zeros(some.shape, np.uint64), {}
            for row, block in enumerate(some):
                own = slice((at + row) * SEED_BYTES, (at + row + 1) * SEED_BYTES)
                cipher = parts.put_together(block, [bytes(seed[own]) for seed in seeds], plan.scale)
                self._decryptor.decrypt(cipher, plain)
                if not parts.coefficients(plain, plan.scale, carried, seen[row]):
                    unseen[row] = parts.values(plain)
            values = from_coefficients(seen, plan.modulus, plan.scale)
            for row, listed in unseen.items():
                values[row] = listed
            yield values


class _Parameters:
    """SEAL's public objects for one degree and prime, shared by all keys; they hold no secret."""

    def __init__(self, degree: int, modulus: int, security: int) -> None:
        self.seal = _sealapi()
        seal = self.seal
        self.degree, self.modulus = degree, modulus
        chosen = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        chosen.set_poly_modulus_degree(degree)
        self._prime = seal.Modulus(modulus)
        chosen.set_coeff_modulus([self._prime])
        level = getattr(seal.SEC_LEVEL_TYPE, f"TC{security}")
        self.context = seal.SEALContext(chosen, True, level)
        if not self.context.parameters_set():
            raise ConfigError(f"SEAL refuses the parameters: {self.context.parameters_error_message()}")
        self.encoder = seal.CKKSEncoder(self.context)
        self._util = seal.util
        self._tables = self._util.NTTTables(degree.bit_length() - 1, self._prime)
        self._evaluator = seal.Evaluator(self.context)
        self._identity = np.array(self.context.first_parms_id(), np.uint64).tobytes()
        self._channel = Channel()
        self._buffer = ctypes.create_string_buffer(16 * degree + 4096)  # no secret passes here, only ciphertexts
        written = seal.Serialization.SEALHeader()
        self._version = (written.version_major, written.version_minor)
        self._carriers: dict[float, Any] = {}
        self._window = Window(self._identity, degree, self._generator(), SEED_BYTES)

    def transform(self, secret: Ternary) -> Residues:
        """The number-theoretic transform of small coefficients, in SEAL's order."""
        reduced = (secret.astype(np.int64) % self.modulus).tolist()
        return np.array(self._util.ntt_negacyclic_harvey(reduced, self._tables), np.uint64)

    def secret_key(self, secret: Ternary) -> Any:
        """A SEAL secret key of these coefficients."""
        residues = self.transform(secret).tobytes()
        count = struct.pack("<Q", self.degree)
        body = self._identity + struct.pack("<Qd", self.degree, 1.0) + self._wrap(count + residues)
        key = self.seal.SecretKey()
        with self._channel as channel:
            channel.write(self._wrap(body))
            key.load(self.context, channel.path)
            channel.write(b"")
        return key

    def take_apart(self, serializable: Any, scale: float, out: Residues) -> bytes:
        """Write the c0 of what SEAL's symmetric encryption returned to `out`, and return the seed of its c1."""
        end = _FIXED + 8 * self.degree + _GENERATOR
        with self._channel:
            seed = self._window.read(serializable, scale, out)
            if seed is not None:
                return seed
            body = self._written(serializable)
            out[:] = np.frombuffer(body, np.uint64, self.degree, _FIXED)
            return bytes(body[end:])

    def put_together(self, block: Residues, seeds: Sequence[bytes], scale: float) -> Any:
        """The SEAL ciphertext (block, sum of what the seeds expand to)."""
        with self._channel as channel:
            total = self.seal.Ciphertext(self.context)
            channel.write(*self._form(np.ascontiguousarray(block).data, seeds[0], scale))
            total.load(self.context, channel.path)
            if len(seeds) == 1:
                return total
            other = self.seal.Ciphertext(self.context)
            channel.write(*self._form(bytes(8 * self.degree), seeds[0], scale))
            for seed in seeds[1:]:
                channel.patch(seed)  # the seed is the end of the file; the rest stays
                other.load(self.context, channel.path)
                self._evaluator.add_inplace(total, other)
        return total

    def values(self, plain: Any) -> Reals:
        """What SEAL decodes, float64 `[degree]`."""
        slots = np.fromiter(self.encoder.decode_complex(plain), np.complex128, self.degree // 2)
        values: Reals = from_slots(slots[None])[0]
        return values

    def coefficients(self, plain: Any, scale: float, carried: Any, out: Residues) -> bool:
        """Write the coefficients of a decrypted plaintext to `out`, if memory can be read; True if it could.

        `carried` is a SEAL ciphertext of the caller's, for what is as secret as the plaintext.
        """
        if not self._window.found:
            return False
        with self._channel:
            if scale not in self._carriers:
                # SEAL transforms ciphertexts only: the plaintext is added to one that is zero there.
                zeros = np.zeros(self.degree, np.uint64)
                self._carriers[scale] = self.put_together(zeros, [bytes(SEED_BYTES)], scale)
            self._evaluator.add_plain(self._carriers[scale], plain, carried)
            self._evaluator.transform_from_ntt_inplace(carried)
            return self._window.read_coefficients(carried, scale, out)

    def test(self, pinned: str) -> None:
        """Compare layout, transform and generator with what this module was written against; `ConfigError` if not."""
        digest = ""
        try:
            digest = self._probe()
        except (ValueError, IndexError, TypeError, AttributeError, RuntimeError, struct.error) as error:
            raise ConfigError(_unknown_layout()) from error
        if digest != pinned:
            raise ConfigError(_unknown_layout())

    def _probe(self) -> str:
        """SHA-256 of a known secret's transform and a known seed's expansion, after a checked round trip."""
        secret = (np.arange(self.degree) % 3 - 1).astype(np.int8)
        key = self.secret_key(secret)
        values = np.arange(self.degree) % 1000 - 500
        plain = self.seal.Plaintext()
        self.encoder.encode(to_slots(values, self.degree)[0].tolist(), 2.0**16, plain)
        fresh = self.seal.Encryptor(self.context, key).encrypt_symmetric(plain)
        with self._channel:
            body = bytes(self._written(fresh))
        end = _FIXED + 8 * self.degree
        if len(body) != end + _GENERATOR + SEED_BYTES or body[:_FIXED] != self._front(2.0**16):
            raise ValueError("another layout")
        if body[end : end + _GENERATOR] != self._generator():
            raise ValueError("another generator")
        block, again = np.empty((2, self.degree), np.uint64)
        seed = self.take_apart(fresh, 2.0**16, block)
        self._window.search(fresh, 2.0**16, block, seed)
        if self.take_apart(fresh, 2.0**16, again) != seed or not np.array_equal(again, block):
            raise ValueError("another memory")
        cipher = self.put_together(block, [seed], 2.0**16)
        self.seal.Decryptor(self.context, key).decrypt(cipher, plain)
        if not np.array_equal(np.rint(self.values(plain)), values):
            raise ValueError("another encoding")
        if self.coefficients(plain, 2.0**16, self.seal.Ciphertext(self.context), again):
            seen = from_coefficients(again[None], self.modulus, 2.0**16)
            if not np.array_equal(np.rint(seen[0]), values):
                raise ValueError("another transform")
        known = self.put_together(np.zeros(self.degree, np.uint64), [bytes(range(SEED_BYTES))], 1.0)
        expanded = np.array([known[i] for i in range(self.degree, 2 * self.degree)], np.uint64)
        return hashlib.sha256(self.transform(secret).tobytes() + expanded.tobytes()).hexdigest()

    def _form(self, block: Buffer, seed: bytes, scale: float) -> tuple[Buffer, ...]:
        front, generator = self._front(scale), self._generator()
        size = len(front) + 8 * self.degree + len(generator) + len(seed)
        return self._header(_OUTER.size + size) + front, block, generator + seed

    def _front(self, scale: float) -> bytes:
        """Everything before the residues: parameters, transformed form, 2 polynomials, N, 1 prime, scale, factor 1."""
        shape = struct.pack("<BQQQdQ", 1, 2, self.degree, 1, scale, 1)
        inner = self._header(_OUTER.size + 8 + 8 * self.degree) + struct.pack("<Q", self.degree)
        return self._identity + shape + inner

    def _generator(self) -> bytes:
        return self._header(_GENERATOR + SEED_BYTES) + bytes([_BLAKE2XB])

    def _wrap(self, body: bytes) -> bytes:
        return self._header(_OUTER.size + len(body)) + body

    def _header(self, size: int) -> bytes:
        return _OUTER.pack(_MAGIC, _OUTER.size, *self._version, 0, 0, size)

    def _written(self, thing: Any) -> memoryview:
        """What SEAL writes, inflated; good until the next exchange, and only within the channel's lock."""
        thing.save(self._channel.path)
        raw = self._channel.read()
        magic, header, _, _, compression, _, size = _OUTER.unpack_from(raw)
        if magic != _MAGIC or header != _OUTER.size or size != len(raw):
            raise ValueError("not a SEAL header")
        return _inflate(compression, raw, header, self._buffer)


def self_test(degree: int = 4096, prime_bits: int = 40, security: int = 128) -> None:
    """Check that this TenSEAL is the one that privfl knows; raises `ConfigError` or `MissingExtra` if not."""
    _parameters(degree, PRIMES[degree, prime_bits], security)


@lru_cache(maxsize=16)
def _parameters(degree: int, modulus: int, security: int) -> _Parameters:
    parts = _Parameters(degree, modulus, security)
    parts.test(_PINNED[degree, modulus.bit_length()])
    return parts


def _sealapi() -> Any:
    try:
        import tenseal.sealapi.util
    except ImportError as error:
        raise MissingExtra("tenseal", "he") from error
    return tenseal.sealapi


def _unknown_layout() -> str:
    return "this TenSEAL lays out or draws ciphertexts in a way that privfl does not know: use tenseal 0.3.15 to 0.3.18"


Scratch = ctypes.Array[ctypes.c_char]


def _inflate(compression: int, raw: bytes, header: int, buffer: Scratch) -> memoryview:
    """What SEAL compressed after a header, in a scratch buffer: 0 not at all, 1 with zlib, 2 with Zstandard."""
    if compression == 0:
        return memoryview(raw)[header:]
    if compression == 1:
        return memoryview(zlib.decompress(raw[header:]))
    return _zstandard()(raw[header:], buffer)


@lru_cache(maxsize=1)
def _zstandard() -> Callable[[bytes, Scratch], memoryview]:
    """A Zstandard decoder: the one inside TenSEAL's own library, or Python's or the zstandard package's."""
    library = ctypes.CDLL(importlib.import_module("_sealapi_cpp").__file__)
    try:
        decode = library.ZSTD_decompress
    except AttributeError:  # a build that hides its symbols
        return _packaged_zstandard()
    decode.restype = ctypes.c_size_t
    decode.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]

    def inflate(data: bytes, buffer: Scratch) -> memoryview:
        size = decode(buffer, len(buffer), data, len(data))
        if size > len(buffer):  # error codes are huge
            raise ValueError("not a Zstandard frame")
        return memoryview(buffer).cast("B")[:size]

    return inflate


def _packaged_zstandard() -> Callable[[bytes, Scratch], memoryview]:
    for name in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return lambda data, buffer: memoryview(module.decompress(data))
    raise MissingExtra("zstandard", "he")
