"""Parameters, ring arithmetic, encryption and tags: sections 4 to 6 of SPEC.md."""

import functools
import hashlib
import struct

import numpy as np
from blake2xb import MASK, blake2xb
from ckks_primitives import derive, stream, u32, u64

# Section 4: parameters. The vectors use ring degree 2048 only.

PRIMES = {(2048, 40): 0xFF_FFFF_7001, (2048, 48): 0xFFFF_FFFF_C001}


class Plan:
    def __init__(self, length, clients, bits):
        self.length, self.clients, self.bits, self.degree = length, clients, bits, 2048
        for self.prime_bits in (40, 48):
            self.q = PRIMES[self.degree, self.prime_bits]
            fits = [k for k in range(16, 49) if 2**0.5 * 2.0 ** (k + bits - 1) + 1000 < self.q / 2]
            if fits:
                break
        self.scale_bits = max(fits)
        self.size = self.prime_bits // 8
        numbers = (length, clients, bits, self.degree, self.prime_bits, self.scale_bits, 128, self.q)
        self.identifier = hashlib.sha256(b"privfl/1 ckks-sum parameters" + b"".join(map(u64, numbers))).digest()


# Section 5: ring arithmetic, expansion of seeds, encryption


def reverse(index, bits):
    return int(format(index, f"0{bits}b")[::-1], 2)


@functools.cache
def root_of_unity(n, q):
    """The smallest primitive 2n-th root modulo q."""
    base = next(r for x in range(2, 100) if pow(r := pow(x, (q - 1) // (2 * n), q), n, q) == q - 1)
    smallest, power = base, base
    for _ in range(n - 1):
        power = power * base * base % q
        smallest = min(smallest, power)
    return smallest


def transform(polynomial, plan):
    """Entry i is the polynomial at psi^(2 * reverse(i) + 1)."""
    bits = plan.degree.bit_length() - 1
    root = root_of_unity(plan.degree, plan.q)
    points = np.array([pow(root, 2 * reverse(i, bits) + 1, plan.q) for i in range(plan.degree)], object)
    value = np.zeros(plan.degree, object)
    for coefficient in reversed(list(polynomial)):
        value = (value * points + int(coefficient)) % plan.q
    return value


def inverse_transform(values, plan):
    """Centered coefficients of the polynomial with these values."""
    bits, n, q = plan.degree.bit_length() - 1, plan.degree, plan.q
    inverse = pow(root_of_unity(plan.degree, plan.q), -1, q)
    natural = np.empty(n, object)
    for i in range(n):
        natural[reverse(i, bits)] = int(values[i])
    powers = [1]
    for _ in range(2 * n - 1):
        powers.append(powers[-1] * inverse % q)
    table = np.array(powers, object)
    scale = pow(n, -1, q)
    odd = 2 * np.arange(n) + 1
    out = [int((natural * table[odd * j % (2 * n)]).sum()) * scale % q for j in range(n)]
    return [c - q if c > q // 2 else c for c in out]


def expand(seed, plan):
    """The random half of one ciphertext: 64-bit words of the stream, reduced; the topmost words are sampled again."""
    words, counter = [], 0
    limit = MASK - MASK % plan.q - 1
    while len(words) < plan.degree or any(word >= limit for word in words[: plan.degree]):
        words += struct.unpack("<512Q", blake2xb(seed, counter))
        counter += 1
        for i in range(plan.degree if len(words) > plan.degree else 0):
            while words[i] >= limit and len(words) > plan.degree:
                words[i] = words.pop(plan.degree)
    return np.array([word % plan.q for word in words[: plan.degree]], object)


def secret_polynomial(session_key, plan):
    key = derive(session_key, "ckks-sum secret", u32(plan.degree) + u64(plan.q))
    kept = [byte % 3 for byte in stream(key, 2 * plan.degree) if byte < 255][: plan.degree]
    return [-1 if value == 2 else value for value in kept]


@functools.cache
def transformed_secret(session_key, plan):
    return transform(secret_polynomial(session_key, plan), plan)


def encode(values, plan):
    """The polynomial with values[i] + i*values[N/2 + i], times D, at zeta^(3^i)."""
    n = plan.degree
    padded = np.zeros(n)
    padded[: len(values)] = values
    slots = padded[: n // 2] + 1j * padded[n // 2 :]
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    spectrum = np.zeros(2 * n, complex)
    spectrum[exponents], spectrum[2 * n - exponents] = slots, np.conj(slots)
    return [int(c) for c in np.rint(np.fft.fft(spectrum)[:n].real / n * 2.0**plan.scale_bits)]


def decode(polynomial, plan):
    n = plan.degree
    values = np.fft.ifft(np.concatenate([polynomial, np.zeros(n)]).astype(float)) * 2 * n / 2.0**plan.scale_bits
    slots = values[[pow(3, i, 2 * n) for i in range(n // 2)]]
    return np.concatenate([slots.real, slots.imag])


def encrypt(values, session_key, plan, randomness):
    """(c0, seed) with c0 = m + e - a*s, all transformed."""
    seed = derive(randomness, "vector seed") + derive(randomness, "vector seed 2")
    coins = np.unpackbits(np.frombuffer(stream(derive(randomness, "vector noise"), 6 * plan.degree), np.uint8))
    coins = coins.reshape(plan.degree, 48).astype(int)
    noise = coins[:, :21].sum(1) - coins[:, 21:42].sum(1)
    message = np.array(encode(values, plan), object) + noise
    secret = transformed_secret(session_key, plan)
    return (transform(message, plan) - expand(seed, plan) * secret) % plan.q, seed


def decrypt(block, seeds, session_key, plan):
    half = sum((expand(seed, plan) for seed in seeds), np.zeros(plan.degree, object))
    secret = transformed_secret(session_key, plan)
    return decode(inverse_transform((block + half * secret) % plan.q, plan), plan)


def pack(block, plan):
    return b"".join(int(word).to_bytes(plan.size, "little") for word in block)


# Section 6: tags


def draw(key, count, plan):
    words = [word >> (64 - plan.prime_bits) for word in struct.unpack(f"<{count}Q", stream(key, 8 * count))]
    return [word - plan.q if word >= plan.q else word for word in words]


def tag(block, sender, session_key, task, plan):
    n, chunks = plan.degree, 1
    weights = draw(derive(session_key, "ckks-sum tag weights", task), 2 * (n + chunks), plan)
    pads = draw(derive(derive(session_key, "ckks-sum tag pads", task), "ckks-sum tag pad", u32(sender)), 2, plan)
    out = b""
    for t in (0, 1):
        inner = sum(int(c) * r for c, r in zip(block, weights[t * n : (t + 1) * n], strict=True))
        out += u64((weights[2 * n + t * chunks] * inner + pads[t]) % plan.q)
    return out
