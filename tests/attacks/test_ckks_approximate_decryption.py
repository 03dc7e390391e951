"""Published approximate decryptions give the secret key away; what this package publishes does not.

Li and Micciancio 2021, "On the security of homomorphic encryption on approximate numbers", section 3: a decryption
m' of (c0, c1) that still carries its noise satisfies m' = c0 + c1*s exactly, so that s = (m' - c0) / c1.
"""

from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.he import CkksPlan, CkksSum, plan_ckks, plan_for
from privfl.he.authenticator import SessionCipher
from privfl.he.keys import secret_polynomial
from privfl.he.messages import AskOpener
from privfl.he.opening import ApproximateSum, decrypt_sum
from privfl.he.packing import unpack
from privfl.he.seal import _parameters
from privfl.ring import Ring
from privfl.sums import SumTask
from privfl.wire import decode

KEY = bytes(range(32))


def powers(plan: CkksPlan) -> Any:
    """(bit-reversed exponents, a primitive 2N-th root of unity modulo q): the transform, written out."""
    n, q = plan.degree, plan.modulus
    parts = _parameters(n, q, plan.security)
    one = np.zeros(n, np.int8)
    one[1] = 1  # the transform of X is the list of roots themselves
    return parts.transform(one).astype(object)


def evaluate_slots(values: Any, plan: CkksPlan) -> Any:
    """The integer polynomial nearest to the one whose slots are `values`: the encoder, by a direct inverse."""
    n = plan.degree
    slots = values[: n // 2] + 1j * values[n // 2 :]
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    spectrum = np.zeros(2 * n, np.complex128)
    spectrum[exponents] = slots
    spectrum[2 * n - exponents] = np.conj(slots)
    # m_j = (1/N) sum_k z_k zeta^(-jk) over the 2N-th roots of odd exponent
    coefficients = np.fft.fft(spectrum)[:n].real / n * plan.scale
    return [int(c) for c in np.rint(coefficients)]


def attack(values: Any, block: Any, halves: Any, plan: CkksPlan) -> Any:
    """The would-be secret, in the transformed domain: (m' - c0) / c1."""
    q = plan.modulus
    roots = powers(plan)
    polynomial = evaluate_slots(values, plan)
    transformed = np.zeros(plan.degree, object)
    for coefficient in reversed(polynomial):
        transformed = (transformed * roots + coefficient) % q
    difference = (transformed - block.astype(object)) % q
    return np.array([int(d) * pow(int(a), -1, q) % q for d, a in zip(difference, halves, strict=True)], np.uint64)


def expand(seeds: list[bytes], plan: CkksPlan) -> Any:
    """The sum of the random halves: public, for the seeds are."""
    parts = _parameters(plan.degree, plan.modulus, plan.security)
    cipher = parts.expand(seeds)
    return [cipher[i] for i in range(plan.degree, 2 * plan.degree)]


@pytest.fixture(scope="module")
def summed() -> Any:
    plan = plan_ckks(2048, 10, Ring(23))
    cipher = SessionCipher(plan, KEY, bytes(32))
    rng = np.random.default_rng(3)
    total, seeds = np.zeros(2048, np.uint64), []
    for _ in range(4):
        # DP noise in the inputs makes no difference to the attack
        block, seed = cipher.ckks.encrypt(
            rng.integers(-1000, 1000, 2048) + np.rint(rng.normal(0, 500, 2048)).astype(np.int64)
        )
        total = (total + block) % np.uint64(plan.modulus)
        seeds.append(seed)
    secret = _parameters(plan.degree, plan.modulus, plan.security).transform(secret_polynomial(KEY, plan))
    return plan, cipher, total, seeds, expand(seeds, plan), secret


def test_the_attack_takes_every_coefficient_of_the_key_from_one_unsafe_output(summed: Any) -> None:
    plan, cipher, total, seeds, halves, secret = summed
    unsafe = decrypt_sum(plan, total, seeds, cipher, unsafe_approximate=True)
    assert isinstance(unsafe, ApproximateSum)
    assert unsafe.key_holder_only
    assert "values" not in repr(unsafe)
    assert np.array_equal(attack(unsafe.values, total, halves, plan), secret)


def test_the_attack_takes_nothing_from_the_rounded_sum(summed: Any) -> None:
    plan, cipher, total, seeds, halves, secret = summed
    safe = decrypt_sum(plan, total, seeds, cipher)
    assert isinstance(safe, np.ndarray)
    found = attack(safe.astype(float), total, halves, plan)
    assert (found == secret).sum() <= 2, "agreement by chance only: one in 2^40 a coefficient"


def test_the_attack_takes_nothing_from_what_a_sum_publishes() -> None:
    """Everything that crosses the wire in a whole sum, and its result, against the session key of that sum."""
    task = SumTask(b"published", (0, 1, 2), 2, 2048, Ring(23), 1_000_000)
    credentials, directory = generate_identities(task.clients)
    scheme, plan = CkksSum(directory), plan_for(task)
    rng = np.random.default_rng(0)
    server = scheme.server(task)
    sessions = {
        c: scheme.client(task, c, rng.integers(-1000, 1000, 2048), credentials=credentials[c]) for c in task.clients
    }
    wire: list[bytes] = []
    held = sessions[0]._secrets
    for client, session in sessions.items():
        wire.append(session.start())
        server.receive(client, wire[-1])
    while server.result is None:
        for client, message in server.advance().items():
            wire.append(message)
            answer = sessions[client].receive(message)
            if answer is not None:
                wire.append(answer)
                server.receive(client, answer)
    assert held is not None
    key = held.session_key
    assert key is not None
    ask = next(m for m in wire if m[5:7] == AskOpener.KIND.to_bytes(2, "little"))
    _, request = decode(ask, [AskOpener], max_length=1 << 30)
    assert isinstance(request, AskOpener)
    halves = expand([bytes(header.seeds) for header in request.headers], plan)
    secret = _parameters(plan.degree, plan.modulus, plan.security).transform(secret_polynomial(key, plan))
    found = attack(server.result.total.astype(float), unpack(request.block, plan), halves, plan)
    assert (found == secret).sum() <= 2
    assert all(key not in message and secret.tobytes() not in message for message in wire)
    assert server.result.total.dtype == np.int64
