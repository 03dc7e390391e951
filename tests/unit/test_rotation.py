"""The seeded rotation: a linear, orthogonal map, and what it is good for."""

import numpy as np
import pytest

from privfl.codec import FixedPoint, square_norm
from privfl.dp import FlatClip
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.ring import Ring
from privfl.rotation import Rotation

RNG = np.random.default_rng(4)


def hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 100, 1000])
def test_it_is_the_hadamard_matrix_times_signs(length: int) -> None:
    rotation = Rotation(length, 7)
    x = RNG.normal(size=length)
    signs = np.array([rotation.forward(row)[0] for row in np.eye(length)]) * np.sqrt(rotation.size)
    assert set(np.round(signs, 12)) <= {-1.0, 1.0}
    padded = np.zeros(rotation.size)
    padded[:length] = x * signs
    np.testing.assert_allclose(rotation.forward(x), hadamard(rotation.size) @ padded, atol=1e-12)


@pytest.mark.parametrize("length", [1, 5, 64, 4097])
def test_the_inverse_gives_the_vector_back_and_the_norm_is_kept(length: int) -> None:
    rotation = Rotation(length, 2**63)
    x = RNG.normal(size=length)
    turned = rotation.forward(x)
    assert turned.shape == (rotation.size,)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    np.testing.assert_allclose(rotation.inverse(turned), x, atol=1e-12 * np.abs(x).max())
    assert rotation.forward(x.astype(np.float32)).dtype == np.float64


def test_it_commutes_with_sums_and_seeds_differ() -> None:
    rotation, x, y = Rotation(300, 1), RNG.normal(size=300), RNG.normal(size=300)
    np.testing.assert_allclose(rotation.forward(x) + rotation.forward(y), rotation.forward(x + y), atol=1e-12)
    assert not np.allclose(rotation.forward(x), Rotation(300, 2).forward(x))
    assert Rotation(300, 1) == rotation
    # The stream that another language must reproduce.
    assert np.sign(Rotation(8, 1).forward(np.eye(8)[0]))[0] == 1 - 2 * (first_bits(1, 8)[0])


def first_bits(seed: int, length: int) -> np.ndarray:
    import hashlib

    label = b"privfl/1 rotation" + seed.to_bytes(8, "little") + length.to_bytes(8, "little")
    return np.unpackbits(np.frombuffer(hashlib.shake_256(label).digest(1), np.uint8), bitorder="little")


def test_the_largest_entry_of_a_spiky_vector_shrinks() -> None:
    rotation, x = Rotation(4000, 3), np.zeros(4000)
    x[[17, 1234]] = 1.0, -0.5
    assert np.abs(rotation.forward(x)).max() < 0.03
    for _ in range(20):
        x = RNG.standard_t(1.2, size=4000)
        bound = rotation.entry_bound(float(np.linalg.norm(x)))
        assert np.abs(rotation.forward(x)).max() < bound < 0.13 * np.linalg.norm(x)
    assert Rotation(16, 0).entry_bound(1.0) == 1.0


def an_encoding(bits: int, rotation: Rotation | None, scale: float) -> UpdateEncoding:
    return UpdateEncoding(4000, FixedPoint(scale, Ring(bits)), FlatClip(1.0), rotation=rotation)


def test_fewer_bits_suffice_for_the_same_precision() -> None:
    plain, turned = (an_encoding(40, rotation, 2.0**16) for rotation in (None, Rotation(4000, 3)))
    assert turned.entry_bound < plain.entry_bound / 7  # nearly three bits less for any number of clients
    assert turned.slots[0].norm_bound == plain.slots[0].norm_bound


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_integer_norm_is_exact_after_rotation_and_rounding(rounding: str) -> None:
    for scale in (3.0, 1000.0, 2.0**20):
        plan = UpdateEncoding(
            4000, FixedPoint(scale, Ring(40)), FlatClip(1.0), rotation=Rotation(4000, 9), rounding=rounding
        )
        for spread in (1.0, 1e-3):
            update = ClientUpdate(RNG.standard_t(1.5, size=4000) * spread, 1)
            ints = plan.encode(update, np.random.default_rng(1))
            assert len(ints) == plan.total_length == 4096
            assert square_norm(ints) <= scale * scale
            assert np.abs(ints).max() <= plan.entry_bound


def test_the_mean_is_turned_back() -> None:
    plan = an_encoding(40, Rotation(4000, 3), 2.0**24)
    updates = [RNG.normal(size=4000) for _ in range(5)]
    total = sum((plan.encode(ClientUpdate(u, 1), np.random.default_rng(0)) for u in updates), np.zeros(4096, np.int64))
    mean, metrics = plan.decode(total, 5.0)
    expected = np.mean([u / max(1.0, np.linalg.norm(u)) for u in updates], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert metrics == {}


def test_bad_rotations_are_refused() -> None:
    for length, seed in ((0, 1), (4, -1), (4, 2**64)):
        with pytest.raises(ConfigError):
            Rotation(length, seed)
    for bad in (np.zeros(3), np.zeros((4, 1)), np.zeros(4, np.int64)):
        with pytest.raises(ConfigError, match="4 floats"):
            Rotation(4, 0).forward(bad)
    with pytest.raises(ConfigError, match="4 floats"):
        Rotation(3, 0).inverse(np.zeros(3))
    with pytest.raises(ConfigError, match="entries"):
        UpdateEncoding(5, FixedPoint(1.0, Ring(40)), FlatClip(1.0), rotation=Rotation(4, 0))
