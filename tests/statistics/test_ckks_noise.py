"""The planner's noise, measured; and that public-key encryption with one prime would not be exact."""

import math

import numpy as np
import pytest

from privfl.he import plan_ckks
from privfl.he.authenticator import SessionCipher
from privfl.he.opening import ApproximateSum, decrypt_sum
from privfl.ring import Ring


def errors(clients: int, bits: int, *, full: bool = False, length: int = 4096) -> tuple[float, float, float]:
    """(deviation, worst, predicted deviation) of one chunk summed over `clients`, whose rounded sum is exact."""
    plan = plan_ckks(length, clients, Ring(bits))
    cipher = SessionCipher(plan, bytes([bits]) * 32, bytes(32))
    rng = np.random.default_rng([clients, bits])
    bound = (Ring(bits).half - 1) // clients
    total, exact, seeds = np.zeros(plan.degree, np.uint64), np.zeros(length, np.int64), []
    for _ in range(clients):
        values = np.full(length, bound) if full else rng.integers(-bound, bound, length, endpoint=True)
        block, seed = cipher.ckks.encrypt(values)
        total = (total + block) % np.uint64(plan.modulus)
        exact += values
        seeds.append(seed)
    opened = decrypt_sum(plan, total, seeds, cipher, unsafe_approximate=True)
    assert isinstance(opened, ApproximateSum)
    assert np.array_equal(decrypt_sum(plan, total, seeds, cipher)[:length], exact)  # type: ignore[index]
    error = opened.values[:length] - exact
    return float(error.std()), float(np.abs(error).max()), plan.error_stddev()


@pytest.mark.parametrize(("clients", "bits"), [(1, 23), (10, 23), (128, 23), (10, 31), (4, 16)])
def test_the_deviation_is_the_predicted_one(clients: int, bits: int) -> None:
    """4096 slots give the deviation to 1.1 %, one standard deviation; five are allowed."""
    measured, worst, predicted = errors(clients, bits)
    assert measured == pytest.approx(predicted, rel=0.06)
    assert worst < 6 * predicted


@pytest.mark.parametrize("bits", [39, 40, 43])
@pytest.mark.parametrize("full", [False, True])
def test_float_errors_stay_below_their_share_in_the_widest_rings(bits: int, full: bool) -> None:
    measured, worst, predicted = errors(2, bits, full=full)
    assert measured < 1.06 * predicted
    assert worst < 10 * predicted


def test_small_degree_too() -> None:
    measured, _, predicted = errors(10, 23, length=2048)
    assert measured == pytest.approx(predicted, rel=0.08)


def test_exact_for_128_clients_at_16_bits_and_100_at_24() -> None:
    """The two settings that the parameters were first measured with."""
    for clients, width, prime_bits in ((128, 16, 40), (100, 24, 48)):
        bits = width + math.ceil(math.log2(clients))
        plan = plan_ckks(4096, clients, Ring(bits))
        assert (plan.degree, plan.prime_bits, plan.scale_bits) == (4096, prime_bits, 16)
        _, worst, predicted = errors(clients, bits)
        assert worst < 0.25
        assert predicted * 14 <= 0.5


def test_public_key_encryption_with_one_prime_is_not_exact() -> None:
    seal = pytest.importorskip("tenseal.sealapi")
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(4096, [40]))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    generator = seal.KeyGenerator(context)
    public = seal.PublicKey()
    generator.create_public_key(public)
    encoder, plain, cipher = seal.CKKSEncoder(context), seal.Plaintext(), seal.Ciphertext()
    encoder.encode([complex(i % 100, -i % 100) for i in range(2048)], 2.0**16, plain)
    seal.Encryptor(context, public).encrypt(plain, cipher)
    seal.Decryptor(context, generator.secret_key()).decrypt(cipher, plain)
    slots = np.array(encoder.decode_complex(plain))
    deviation = float((slots - np.rint(slots.real) - 1j * np.rint(slots.imag)).std())
    symmetric = plan_ckks(4096, 1, Ring(23)).error_stddev()
    assert deviation > 30 * symmetric, "a handful of clients would round wrongly"
