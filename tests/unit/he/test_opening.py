"""What an opener lets out of its hands, and a server that adds more frames than fit a word unreduced."""

from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import CapacityError, RemoteProtocolError
from privfl.he import CkksPlan, CkksSum, plan_ckks, plan_for
from privfl.he.authenticator import SessionCipher
from privfl.he.opening import ApproximateSum, decrypt_sum
from privfl.he.seal import _parameters
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.sums.base import KeyedOpening


def a_sum(clients: int, bits: int, **changes: Any) -> tuple[Ints, Ints]:
    """(what was opened, the true sum)."""
    bound = (Ring(bits).half - 1) // clients
    task = SumTask(b"unit", tuple(range(clients)), 1, 10, Ring(bits), bound)
    credentials, directory = generate_identities(task.clients)
    vectors = {c: np.full(10, bound - c) for c in task.clients}
    return run_sum(CkksSum(directory), task, vectors, credentials=credentials, **changes).total, sum(vectors.values())  # type: ignore[return-value]


def test_an_opening_may_draw_bytes_that_every_opener_would_draw() -> None:
    drawn: list[bytes] = []

    def make(entropy: Any) -> Any:
        def opening(total: Ints, survivors: frozenset[int]) -> Ints:
            drawn.append(entropy(10))
            return total - np.frombuffer(drawn[-1], np.uint8)

        return opening

    found, exact = a_sum(3, 23, opening=KeyedOpening(make))
    assert np.array_equal(found, exact - np.frombuffer(drawn[0], np.uint8))


@pytest.mark.parametrize("shift", [1 << 22, -(1 << 23)])
def test_an_opened_sum_beyond_the_ring_is_refused(shift: int) -> None:
    with pytest.raises(CapacityError, match=rf"reaches {shift}, beyond a ring of 23 bits"):
        a_sum(3, 23, opening=lambda total, survivors: total * 0 + shift)


def test_residues_are_reduced_before_a_word_is_full() -> None:
    task = SumTask(b"", tuple(range(40)), 1, 10, Ring(40), 1)
    assert (1 << 64) // plan_for(task).modulus < 40
    found, exact = a_sum(40, 40)
    assert np.array_equal(found, exact)


class Shifted:
    """A sum of four honest frames, in a plan for ten, whose c0 can be shifted by a known polynomial."""

    def __init__(self) -> None:
        self.plan: CkksPlan = plan_ckks(2048, 10, Ring(23))
        self.cipher = SessionCipher(self.plan, bytes(range(32)), bytes(32))
        rng = np.random.default_rng(4)
        self.exact = np.zeros(2048, np.int64)
        self.total, self.seeds = np.zeros(2048, np.uint64), []
        for _ in range(4):
            values = rng.integers(-1000, 1000, 2048)
            block, seeds = self.cipher.ckks.encrypt(values)
            self.exact += values
            self.total = (self.total + block) % np.uint64(self.plan.modulus)
            self.seeds.append(seeds)

    def errors(self, block: Any) -> Any:
        """How far each value is off the true sum, before rounding."""
        opened = decrypt_sum(self.plan, block, self.seeds, self.cipher, unsafe_approximate=True)
        assert isinstance(opened, ApproximateSum)
        return opened.values - self.exact

    def until(self, deviations: float, power: int, sign: int) -> Any:
        """c0 plus the multiple of X^power that puts the worst value `deviations` off.

        X^0 moves the real part of every slot by the same amount, X^(N/2) the imaginary part by plus or minus that.
        """
        unit = np.zeros(2048, np.int8)
        unit[power] = sign
        transformed = _parameters(self.plan.degree, self.plan.modulus, 128).transform(unit)
        moves = np.zeros(2048)
        if power:
            moves[1024:] = [sign * (1 - 2 * (pow(3, i, 4) // 2)) for i in range(1024)]
        else:
            moves[:1024] = sign
        goal = deviations * self.plan.error_stddev(4)
        multiple = int(((goal - moves * self.errors(self.total))[moves != 0] * self.plan.scale).min())
        altered = (self.total.astype(object) + transformed.astype(object) * multiple) % self.plan.modulus
        return altered.astype(np.uint64)


@pytest.mark.parametrize("power", [0, 1024])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_slot_may_be_ten_deviations_off_and_no_more(power: int, sign: int) -> None:
    """Of the noise of as many frames as there are, not of as many as were planned for."""
    shifted = Shifted()
    deviation = shifted.plan.error_stddev(4)
    for deviations in (9.0, 9.9):
        block = shifted.until(deviations, power, sign)
        assert np.abs(shifted.errors(block)).max() == pytest.approx(deviations * deviation, rel=0.005)
        assert np.array_equal(decrypt_sum(shifted.plan, block, shifted.seeds, shifted.cipher), shifted.exact)
    for deviations in (10.1, 11.0):
        block = shifted.until(deviations, power, sign)
        assert np.abs(shifted.errors(block)).max() == pytest.approx(deviations * deviation, rel=0.005)
        with pytest.raises(RemoteProtocolError, match="off an integer"):
            decrypt_sum(shifted.plan, block, shifted.seeds, shifted.cipher)


def test_a_keyed_opening_works_at_a_server_too() -> None:
    def make(entropy: Any) -> Any:
        def opening(total: Ints, survivors: frozenset[int]) -> Ints:
            assert len(entropy(8)) == 8
            return total + len(survivors)

        return opening

    task = SumTask(b"", (1, 2), 1, 2, Ring(16), 5)
    result = run_sum(PlainSum(), task, {1: np.array([1, 2]), 2: np.array([3, 4])}, opening=KeyedOpening(make))
    assert result.total.tolist() == [6, 8]
