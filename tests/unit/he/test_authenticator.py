"""Tags, and the cipher of a session: sealing, opening, the worst rounding error."""

from typing import Any

import numpy as np
import pytest

from privfl.he import plan_ckks, seal
from privfl.he.authenticator import SessionCipher, Tagger
from privfl.he.packing import unpack
from privfl.ring import Ring

WIDTHS = [(23, 5), (31, 6), (39, 7), (43, 8)]
KEY = bytes(range(32))


@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_tags_of_frames_add_up_to_the_tag_of_the_sum(bits: int, size: int) -> None:
    plan = plan_ckks(200_000, 3, Ring(bits))
    tagger = Tagger(plan, KEY, bytes(32))
    rng = np.random.default_rng(0)
    count = plan.chunks * plan.degree
    blocks = [rng.integers(0, plan.modulus, count, dtype=np.uint64) for _ in range(3)]
    total = (sum(block.astype(object) for block in blocks) % plan.modulus).astype(np.uint64)
    tags = [(client, tagger.sign(tagger.block(block), client)) for client, block in enumerate(blocks)]
    assert tagger.total(tags) == tagger.block(total)
    for at in (0, 1, count - 1):
        changed = total.copy()
        changed[at] = (int(changed[at]) + 1) % plan.modulus
        assert tagger.total(tags) != tagger.block(changed)
    assert Tagger(plan, KEY, bytes([1]) * 32).block(total) != tagger.block(total)
    assert Tagger(plan, bytes(32), bytes(32)).block(total) != tagger.block(total)


def test_a_tag_is_the_polynomial_of_its_docstring() -> None:
    plan = plan_ckks(5000, 3, Ring(23))
    tagger = Tagger(plan, KEY, bytes(32))
    residues = np.random.default_rng(1).integers(0, plan.modulus, 2 * 4096, dtype=np.uint64)
    weights = [
        [sum(int(x) << 17 * i for i, x in enumerate(row[3 * t : 3 * t + 3])) for row in tagger._inner] for t in (0, 1)
    ]
    for t, tag in enumerate(tagger.block(residues)):
        inner = [sum(int(c) * r for c, r in zip(row, weights[t], strict=True)) for row in residues.reshape(2, 4096)]
        outer = [sum(int(x) << 17 * i for i, x in enumerate(row)) for row in tagger._outer[t]]
        assert tag == sum(w * v for w, v in zip(outer, inner, strict=True)) % plan.modulus


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 9 * 4096])
@pytest.mark.parametrize("bits", [23, 43])
def test_a_sealed_vector_opens_to_itself_and_no_randomness_occurs_twice(bits: int, size: int) -> None:
    plan = plan_ckks(size, 3, Ring(bits), degree=4096)
    cipher = SessionCipher(plan, KEY, bytes(32))
    values = np.random.default_rng(size).integers(-(1 << (bits - 4)), 1 << (bits - 4), size)
    all_seeds: set[bytes] = set()
    for sender in range(3):
        seeds, block, tag = cipher.seal(values, sender)
        residues = unpack(block, plan)
        assert tag == cipher.tagger.sign(cipher.tagger.block(residues), sender)
        rounded, worst = cipher.open(residues, [seeds], limit=0.4)
        assert np.array_equal(rounded[:size], values)
        assert not rounded[size:].any()
        assert worst < 10 * plan.error_stddev(1)
        all_seeds |= {seeds[at : at + 64] for at in range(0, len(seeds), 64)}
    assert len(all_seeds) == 3 * plan.chunks
    assert repr(cipher) == "SessionCipher(SealCipher(degree=4096, prime_bits=" + f"{plan.prime_bits}))"


@pytest.mark.parametrize("off", [0.3, -0.3])
def test_the_worst_slot_counts_whatever_its_sign_and_place(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    plan = plan_ckks(20 * 4096, 3, Ring(23))
    cipher = SessionCipher(plan, KEY, bytes(32))
    seeds, block, _ = cipher.seal(np.arange(20 * 4096), 0)
    decrypt, taken = seal.SealCipher.decrypt, []

    def altered(self: Any, total: Any, seeds: Any) -> Any:
        for number, values in enumerate(decrypt(self, total, seeds)):
            taken.append(number)
            values[-1, 17] += off if number == 1 else 0
            yield values

    monkeypatch.setattr(seal.SealCipher, "decrypt", altered)
    _, worst = cipher.open(unpack(block, plan), [seeds], limit=0.25)
    assert not worst <= 0.25
    assert taken == [0, 1], "what follows is not decrypted"
