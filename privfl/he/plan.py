"""The public parameters of a CKKS sum: ring, prime, slot scale, exact sizes, quorum. Needs no TenSEAL."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from privfl.crypto import KeyDirectory
from privfl.errors import CapacityError, ConfigError
from privfl.ring import MIN_BITS, Ring
from privfl.sums import SumTask
from privfl.sums.base import MAX_CLIENTS
from privfl.wire import HEADER_BYTES

SEED_BYTES: Final = 64
"""What stands for the random half of one ciphertext: a seed of the Blake2xb generator."""

MIN_SCALE_BITS: Final = 16
MIN_MARGIN: Final = 14.0
"""The fewest standard deviations of the noise in half a unit: rounding fails with probability below 2^-145 a slot."""

MAX_DEVIATIONS: Final = 10.0
"""A slot more standard deviations than this off an integer was not summed from honest frames."""

NOISE_VARIANCE: Final = 10.5
"""The variance of one coefficient of a fresh ciphertext: SEAL samples it as a centered binomial over 42 coins."""

ROUNDING_VARIANCE: Final = 1 / 12
"""The variance of the rounding error: the encoder rounds every coefficient of a plaintext to an integer."""

FLOAT_ERROR: Final = 2.0**-50
"""The standard deviation of the double-precision transforms, relative to the largest slot."""

HE_STANDARD: Final = {
    1024: {128: 27, 192: 19, 256: 14},
    2048: {128: 54, 192: 37, 256: 29},
    4096: {128: 109, 192: 75, 256: 58},
    8192: {128: 218, 192: 152, 256: 118},
}
"""Largest log2 of the modulus by ring degree and security level, for uniform ternary secrets and classical attacks
(HomomorphicEncryption.org security standard 2018, table 1)."""

PRIMES: Final = {
    (2048, 40): 0xFF_FFFF_7001,
    (4096, 40): 0xFF_FFFD_C001,
    (2048, 48): 0xFFFF_FFFF_C001,
    (4096, 48): 0xFFFF_FFFF_C001,
    (4096, 56): 0xFF_FFFF_FFFB_A001,
    (4096, 60): 0xFFF_FFFF_FFFF_C001,
}
"""By degree and bits: the largest prime of so many bits that is 1 modulo twice the degree."""

MESSAGES_UP: Final = 3
"""Messages from a client that neither deals nor opens: advert, frame, consent. A dealer and an opener send one more."""

MESSAGES_DOWN: Final = 2
"""Messages to a client that neither deals nor opens: key, survivors. A dealer and an opener get one more."""

PRIME_BITS: Final = (40, 48, 56, 60)

_FRAME_FIXED: Final = HEADER_BYTES + 4 + 32 + 32 + 8 + 32 + 16 + 64 + 8
_HEADER_FIXED: Final = 4 + 32 + 32 + 8 + 32 + 16 + 64
_RECEIVER: Final = 4
_SIGNATURE_ENTRY: Final = 4 + 64
_MAX_MESSAGE_BYTES: Final = (1 << 32) - 1
_LABEL: Final = b"privfl/1 ckks-sum parameters"


@dataclass(frozen=True, slots=True)
class CkksPlan:
    """The parameters of one CKKS sum, as `plan_ckks` chose them.

    Attributes:
        length: Values of a vector.
        clients: Clients of the cohort.
        bits: Bits of the ring of the integer sum.
        degree: N, the values of one ciphertext, two in each slot.
        prime_bits: Bits of the one prime q.
        scale_bits: One integer unit is D = 2^`scale_bits` in a slot.
        security: Security level in bits, 128, 192 or 256.
    """

    length: int
    clients: int
    bits: int
    degree: int
    prime_bits: int
    scale_bits: int
    security: int

    @property
    def modulus(self) -> int:
        """The prime q."""
        return PRIMES[self.degree, self.prime_bits]

    @property
    def scale(self) -> float:
        """D, the slot units of one integer unit."""
        return 2.0**self.scale_bits

    @property
    def residue_bytes(self) -> int:
        """Bytes of one residue on the wire."""
        return -(-self.prime_bits // 8)

    @property
    def chunks(self) -> int:
        """Ciphertexts of one vector."""
        return -(-self.length // self.degree)

    @property
    def block_bytes(self) -> int:
        """Bytes of one c0 block: all residues of one vector."""
        return self.chunks * self.degree * self.residue_bytes

    @property
    def seeds_bytes(self) -> int:
        """Bytes of one vector's seeds."""
        return self.chunks * SEED_BYTES

    @property
    def bytes_up(self) -> int:
        """The exact size of one client's frame."""
        return _FRAME_FIXED + self.seeds_bytes + self.block_bytes

    @property
    def bytes_per_value(self) -> float:
        """`bytes_up` a value of the vector."""
        return self.bytes_up / self.length

    def open_bytes(self, survivors: int) -> int:
        """Return the most bytes of a request to open a sum of `survivors` clients: headers, seeds, and one block."""
        headers = survivors * (_HEADER_FIXED + self.seeds_bytes + _SIGNATURE_ENTRY)
        return HEADER_BYTES + _RECEIVER + 4 + 4 + headers + 8 + self.block_bytes

    @property
    def bytes_down(self) -> int:
        """The bytes that the opener receives when all clients survive; the others receive a few hundred bytes."""
        return self.open_bytes(self.clients)

    @property
    def bytes_opened(self) -> int:
        """The bytes that the opener sends: the sum as words of the task's ring, and a signature."""
        return HEADER_BYTES + 8 + Ring(self.bits).packed_bytes(self.length) + 64

    def error_stddev(self, clients: int | None = None) -> float:
        """Return the standard deviation of the CKKS encryption error of a summed slot; it is not privacy noise.

        It is the error of the real or imaginary part, in integer units. A slot is the plaintext polynomial at a root of
        unity of order 2N. Its real part is sum_j e_j cos(t_j) with sum_j cos(t_j)^2 = N/2. Each e_j is the
        sum of `clients` independent noises and roundings. The result is `sqrt(clients * (10.5 + 1/12) * N/2) / D`, to
        which the float error of the transforms is added.

        Args:
            clients: The number of vectors in the sum; None means the whole cohort.
        """
        count = self.clients if clients is None else clients
        variance = count * (NOISE_VARIANCE + ROUNDING_VARIANCE) * self.degree / 2
        return math.hypot(math.sqrt(variance) / self.scale, FLOAT_ERROR * 2.0 ** (self.bits - 1))

    @property
    def margin(self) -> float:
        """Half a unit in standard deviations of the noise of the whole cohort."""
        return 0.5 / self.error_stddev()

    @property
    def identifier(self) -> bytes:
        """32 bytes that stand for these parameters in every frame."""
        numbers = (self.length, self.clients, self.bits, self.degree, self.prime_bits, self.scale_bits, self.security)
        form = b"".join(n.to_bytes(8, "little") for n in (*numbers, self.modulus))
        return hashlib.sha256(_LABEL + form).digest()


def plan_ckks(
    length: int,
    clients: int,
    ring: Ring | None = None,
    *,
    clip: float | None = None,
    scale: float | None = None,
    max_weight: float = 1.0,
    security: int = 128,
    degree: int | None = None,
    public_key: bool = False,
) -> CkksPlan:
    """Choose the cheapest exact parameters for a sum.

    The prime is the smallest (40, 48, 56 or 60 bits) that holds the sum at a slot scale of at least 2^16 with a margin
    of 14 standard deviations. The slot scale is then the largest that fits. The range of the sum comes from `ring`, or
    from `clip`, `scale` and `max_weight`.

    Args:
        length: Values of a vector, at least 1.
        clients: Clients of the cohort, at least 1.
        ring: The ring of the integer sum; None derives one from `clip` and `scale`.
        clip: The largest entry of a vector, in real units.
        scale: Integer units per 1.0.
        max_weight: The largest weight of a client.
        security: Security level in bits, 128, 192 or 256.
        degree: Ring degree, 2048 or 4096; None takes 4096, or 2048 for vectors that fit into it.
        public_key: Refused; it is here to say why.

    Raises:
        CapacityError: No prime suffices; names the widest ring and the most clients that fit.
        ConfigError: Parameters outside the security table, a vector too long for a message, public-key encryption.
    """
    if public_key:
        raise ConfigError(
            "public-key encryption is not exact with one prime: its noise is about sqrt(4N/3) times that of the "
            "symmetric mode; deal a session key instead"
        )
    if not isinstance(length, int) or length < 1 or not isinstance(clients, int) or not 1 <= clients <= MAX_CLIENTS:
        raise ConfigError(
            f"length is an integer of at least 1 and clients one of 1 to {MAX_CLIENTS}, not {length!r} and {clients!r}"
        )
    if security not in HE_STANDARD[1024]:
        raise ConfigError(f"security is one of {sorted(HE_STANDARD[1024])} bits, not {security!r}")
    if ring is not None and (clip is not None or scale is not None):
        raise ConfigError("give either a ring, or clip and scale")

    def bits_for(count: int) -> int:
        return ring.bits if ring is not None else _ring_bits(count, clip, scale, max_weight)

    def smallest(count: int, bits: int) -> CkksPlan | None:
        for prime_bits in PRIME_BITS:
            chosen = _degree(length, prime_bits, security, degree)
            plan = _widest(CkksPlan(length, count, bits, chosen, prime_bits, MIN_SCALE_BITS, security))
            if plan is not None:
                return plan
        return None

    bits = bits_for(clients)
    plan = smallest(clients, bits)
    if plan is None:
        widest = next(b for b in range(bits - 1, MIN_BITS - 1, -1) if smallest(clients, b))
        max_clients = bisect.bisect_left(
            range(1, clients), True, key=lambda count: smallest(count, bits_for(count)) is None
        )
        given = "ring" if ring is not None else "clip and scale"
        raise CapacityError(
            f"a ring of {bits} bits with {_clients(clients)} leaves less than {MIN_MARGIN:.0f} standard "
            f"deviations of room at a slot scale of 2^{MIN_SCALE_BITS} in a prime of {PRIME_BITS[-1]} bits: "
            f"use a ring of at most {widest} bits (sum.bits = {widest})"
            + (f", or at most {_clients(max_clients)} with this {given}" if max_clients else "")
        )
    if max(plan.bytes_up, plan.bytes_down) > _MAX_MESSAGE_BYTES:
        raise ConfigError(f"{clients} vectors of {length} values need a message above 4 GiB: sum them in parts")
    return plan


def plan_for(task: SumTask, *, security: int = 128) -> CkksPlan:
    """Return the parameters that every party derives from a task.

    Args:
        task: The sum.
        security: Security level in bits, 128, 192 or 256.

    Raises:
        CapacityError: As `plan_ckks`.
        ConfigError: As `plan_ckks`.
    """
    return plan_ckks(task.length, len(task.clients), task.ring, security=security)


def quorum_of(clients: int) -> int:
    """Return how many of `clients` must sign one survivor list: more than half, so no two lists have a quorum."""
    return clients // 2 + 1


@dataclass(frozen=True, slots=True)
class Terms:
    """The public parameters of one sum, the same at every client and at the server.

    Attributes:
        task: The sum.
        plan: Its CKKS parameters.
        directory: The clients' signing keys.
        quorum: Clients that must sign one survivor list.
        digest: The task's digest, 32 bytes.
        min_clients: The fewest clients that the sum goes on with and opens.
    """

    task: SumTask
    plan: CkksPlan
    directory: KeyDirectory
    quorum: int
    digest: bytes
    min_clients: int


def _clients(count: int) -> str:
    return f"{count} client" + ("s" if count != 1 else "")


def _ring_bits(clients: int, clip: float | None, scale: float | None, max_weight: float) -> int:
    if clip is None or scale is None:
        raise ConfigError("give either a ring, or clip and scale")
    for name, value in (("clip", clip), ("scale", scale), ("max_weight", max_weight)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive finite number, not {value!r}")
    largest = clients * math.floor(Fraction(scale) * Fraction(clip) * Fraction(max_weight))
    return max(MIN_BITS, largest.bit_length() + 1)


def _degree(length: int, prime_bits: int, security: int, wanted: int | None) -> int:
    """The wanted degree if the table and the primes allow it, or the one that suits `length`."""
    allowed = [n for n, bits in PRIMES if bits == prime_bits and HE_STANDARD[n][security] >= prime_bits]
    if wanted is None and allowed:
        return min(allowed) if length <= min(allowed) else max(allowed)
    if wanted not in allowed:
        name = "any degree" if wanted is None else f"degree {wanted}"
        raise ConfigError(
            f"a prime of {prime_bits} bits is beyond the {security}-bit security table for {name}; allowed: {allowed}"
        )
    return wanted


def _widest(plan: CkksPlan) -> CkksPlan | None:
    """The plan at the largest slot scale that the prime holds, or None if that leaves too little room for noise."""
    noise = MIN_MARGIN * math.sqrt(plan.clients * (NOISE_VARIANCE + ROUNDING_VARIANCE))
    for scale_bits in range(plan.prime_bits, MIN_SCALE_BITS - 1, -1):
        # No coefficient of a sum exceeds its largest slot, which is sqrt(2) * 2^(bits-1) when both parts are full.
        if math.sqrt(2) * 2.0 ** (scale_bits + plan.bits - 1) + noise < plan.modulus / 2:
            wider = dataclasses.replace(plan, scale_bits=scale_bits)
            return wider if wider.margin >= MIN_MARGIN else None
    return None
