"""The only door to TenSEAL: secret-key CKKS through `tenseal.sealapi`, one prime, seeds in place of random halves.

SEAL's bindings read and write files only, and compress what they write (`he.exchange`). Every byte that SEAL reads is
put together here, uncompressed, from checked residues and seeds: SEAL never parses a byte that a peer chose. Every
ciphertext that SEAL writes is inflated and taken apart here. A self-test at first use compares this layout, the
transform and the generator with pinned values.
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
from privfl.he.exchange import Buffer, ExchangeFile
from privfl.he.keys import Ternary
from privfl.he.packing import ROWS, Reals, Residues, from_slots, to_slots
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
_UNKNOWN: Final = (
    "this TenSEAL lays out or draws ciphertexts in a way that privfl does not know: use tenseal 0.3.15 to 0.3.18"
)


class SealCipher:
    """Encrypts and decrypts under one secret polynomial. Holds a secret key, which no server ever has."""

    def __init__(self, plan: CkksPlan, secret: Ternary) -> None:
        """Prepare SEAL's objects.

        Args:
            plan: The parameters of the sum.
            secret: The secret polynomial, int8 `[degree]`, from `secret_polynomial`.

        Raises:
            ConfigError: This TenSEAL, or this system, cannot be used.
            MissingExtra: TenSEAL is not installed.
        """
        self._plan = plan
        self._parts = _parameters(plan.degree, plan.modulus, plan.security)
        self._seal = self._parts.seal
        key = self._parts.secret_key(secret)
        self._encryptor = self._seal.Encryptor(self._parts.context, key)
        self._decryptor = self._seal.Decryptor(self._parts.context, key)

    def __repr__(self) -> str:
        return f"SealCipher(degree={self._plan.degree}, prime_bits={self._plan.prime_bits})"

    def encrypt(self, values: Ints) -> tuple[Residues, bytes]:
        """Encrypt one vector, with fresh randomness from SEAL at every call.

        Args:
            values: int64 `[length]`.

        Returns:
            The c0 residues, uint64 `[chunks * degree]`, and the seeds of the random halves, 64 bytes a chunk.
        """
        residues = np.empty((self._plan.chunks, self._plan.degree), np.uint64)
        seeds, at = [], 0
        for rows, some in self.encrypt_parts(values):
            residues[at : at + len(rows)] = rows
            seeds.append(some)
            at += len(rows)
        return residues.reshape(-1), b"".join(seeds)

    def encrypt_parts(self, values: Ints) -> Iterator[tuple[Residues, bytes]]:
        """Yield the result of `encrypt` in batches of at most 8 chunks.

        Args:
            values: int64 `[length]`.

        Yields:
            Residues `[at most 8, degree]`, which the next batch overwrites, and the seeds of these chunks.
        """
        plan, parts = self._plan, self._parts
        residues = np.empty((min(ROWS, plan.chunks), plan.degree), np.uint64)
        plain = self._seal.Plaintext()
        for at in range(0, len(values), ROWS * plan.degree):
            seeds = []
            with ExchangeFile() as file:  # one for the batch: a file costs as much as a tenth of an encryption
                for row, slots in enumerate(to_slots(values[at : at + ROWS * plan.degree], plan.degree)):
                    parts.encoder.encode(slots.tolist(), plan.scale, plain)
                    seeds.append(parts.take_apart(self._encryptor.encrypt_symmetric(plain), residues[row], file))
            yield residues[: len(seeds)], b"".join(seeds)

    def decrypt(self, total: Residues, seeds: Sequence[Buffer]) -> Iterator[Reals]:
        """Yield the values of a sum before rounding, which reveal the secret key (Li and Micciancio 2021).

        Args:
            total: Summed c0 residues, uint64 `[k * degree]`.
            seeds: The seeds of each client, 64 bytes a chunk.

        Yields:
            float64 `[at most 8, degree]`, the next chunks each time.
        """
        plan, parts = self._plan, self._parts
        rows = total.reshape(-1, plan.degree)
        plain = self._seal.Plaintext()
        for at in range(0, len(rows), ROWS):
            values = np.empty((len(rows[at : at + ROWS]), plan.degree))
            with ExchangeFile() as file:
                for row in range(len(values)):
                    own = slice((at + row) * SEED_BYTES, (at + row + 1) * SEED_BYTES)
                    cipher = parts.put_together(rows[at + row], [bytes(seed[own]) for seed in seeds], plan.scale, file)
                    self._decryptor.decrypt(cipher, plain)
                    values[row] = parts.values(plain)
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
        self._buffer = ctypes.create_string_buffer(16 * degree + 4096)  # no secret passes here, only ciphertexts
        written = seal.Serialization.SEALHeader()
        self._version = (written.version_major, written.version_minor)

    def transform(self, secret: Ternary) -> Residues:
        """Return the number-theoretic transform of small coefficients, in SEAL's order."""
        reduced = (secret.astype(np.int64) % self.modulus).tolist()
        return np.array(self._util.ntt_negacyclic_harvey(reduced, self._tables), np.uint64)

    def secret_key(self, secret: Ternary) -> Any:
        """Return a SEAL secret key of these coefficients."""
        residues = self.transform(secret).tobytes()
        count = struct.pack("<Q", self.degree)
        body = self._identity + struct.pack("<Qd", self.degree, 1.0) + self._wrap(count + residues)
        key, content = self.seal.SecretKey(), self._wrap(body)
        with ExchangeFile() as file:
            try:
                file.write(content)
                key.load(self.context, file.path)
            finally:
                file.write(bytes(len(content)))
        return key

    def take_apart(self, serializable: Any, out: Residues, file: ExchangeFile) -> bytes:
        """Write the c0 of a result of SEAL's symmetric encryption to `out`, and return the seed of its c1."""
        body = self._written(serializable, file)
        out[:] = np.frombuffer(body, np.uint64, self.degree, _FIXED)
        return bytes(body[_FIXED + 8 * self.degree + _GENERATOR :])

    def put_together(self, block: Residues, seeds: Sequence[bytes], scale: float, file: ExchangeFile) -> Any:
        """Return the SEAL ciphertext (block, sum of the expanded seeds)."""
        total = self.seal.Ciphertext(self.context)
        file.write(*self._form(np.ascontiguousarray(block).data, seeds[0], scale))
        total.load(self.context, file.path)
        if len(seeds) == 1:
            return total
        other = self.seal.Ciphertext(self.context)
        file.write(*self._form(bytes(8 * self.degree), seeds[0], scale))
        for seed in seeds[1:]:
            file.patch(seed)  # the seed is the end of the file; the rest stays
            other.load(self.context, file.path)
            self._evaluator.add_inplace(total, other)
        return total

    def expand(self, seeds: Sequence[bytes]) -> Any:
        """Return a SEAL ciphertext whose second polynomial is the sum of the expanded seeds (SPEC.md, section 5)."""
        with ExchangeFile() as file:
            return self.put_together(np.zeros(self.degree, np.uint64), seeds, 1.0, file)

    def values(self, plain: Any) -> Reals:
        """Return the values that SEAL decodes, float64 `[degree]`."""
        slots = np.fromiter(self.encoder.decode_complex(plain), np.complex128, self.degree // 2)
        values: Reals = from_slots(slots[None])[0]
        return values

    def test(self, pinned: str) -> None:
        """Compare layout, transform and generator with those this module was written for; `ConfigError` if another."""
        digest = ""
        try:
            digest = self._probe()
        except (ValueError, IndexError, TypeError, AttributeError, RuntimeError, struct.error) as error:
            raise ConfigError(_UNKNOWN) from error
        if digest != pinned:
            raise ConfigError(_UNKNOWN)

    def _probe(self) -> str:
        """SHA-256 of a known secret's transform and a known seed's expansion, after a checked round trip."""
        secret = (np.arange(self.degree) % 3 - 1).astype(np.int8)
        key = self.secret_key(secret)
        values = np.arange(self.degree) % 1000 - 500
        plain = self.seal.Plaintext()
        self.encoder.encode(to_slots(values, self.degree)[0].tolist(), 2.0**16, plain)
        fresh = self.seal.Encryptor(self.context, key).encrypt_symmetric(plain)
        with ExchangeFile() as file:
            body = bytes(self._written(fresh, file))
        end = _FIXED + 8 * self.degree
        if len(body) != end + _GENERATOR + SEED_BYTES or body[:_FIXED] != self._front(2.0**16):
            raise ValueError("another layout")
        if body[end : end + _GENERATOR] != self._generator():
            raise ValueError("another generator")
        block = np.empty(self.degree, np.uint64)
        with ExchangeFile() as file:
            seed = self.take_apart(fresh, block, file)
            cipher = self.put_together(block, [seed], 2.0**16, file)
        self.seal.Decryptor(self.context, key).decrypt(cipher, plain)
        if not np.array_equal(np.rint(self.values(plain)), values):
            raise ValueError("another encoding")
        known = self.expand([bytes(range(SEED_BYTES))])
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

    def _written(self, thing: Any, file: ExchangeFile) -> memoryview:
        """The bytes that SEAL writes, inflated into a buffer that is shared as long as the exchange lasts."""
        thing.save(file.path)
        raw = file.read()
        magic, header, _, _, compression, _, size = _OUTER.unpack_from(raw)
        if magic != _MAGIC or header != _OUTER.size or size != len(raw):
            raise ValueError("not a SEAL header")
        return _inflate(compression, raw, header, self._buffer)


def self_test(degree: int = 4096, prime_bits: int = 40, security: int = 128) -> None:
    """Check that this TenSEAL is the one that privfl was written for.

    Args:
        degree: Ring degree, 2048 or 4096.
        prime_bits: Bits of the prime, 40, 48, 56 or 60.
        security: Security level in bits, 128, 192 or 256.

    Raises:
        ConfigError: Layout, transform or generator are others.
        MissingExtra: TenSEAL is not installed.
    """
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


Scratch = ctypes.Array[ctypes.c_char]


def _inflate(compression: int, raw: bytes, header: int, buffer: Scratch) -> memoryview:
    """Inflate SEAL's bytes after a header into a scratch buffer: 0 not at all, 1 with zlib, 2 with Zstandard."""
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
