"""Shamir's sharing against the definition, and against wrong shares."""

import itertools
import os
import random

import pytest

from privfl.crypto.shamir import PRIME, SHARE_BYTES, Combiner, share_from_bytes, share_to_bytes, split
from privfl.errors import ConfigError, RemoteProtocolError, WireError

SECRET = bytes(range(100, 132))


def lagrange_at_zero(points: list[int], shares: list[int]) -> int:
    total = 0
    for x, y in zip(points, shares, strict=True):
        term = y
        for other in points:
            if other != x:
                term = term * other * pow(other - x, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def is_secret(found: bytes) -> bool:
    return found == SECRET


def test_the_field_is_prime_and_holds_every_secret() -> None:
    assert PRIME > 2**256
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 40):  # Miller and Rabin
        value = pow(base, odd, PRIME)
        assert value in (1, PRIME - 1) or any(pow(value, 2**r, PRIME) == PRIME - 1 for r in range(twos))


@pytest.mark.parametrize("secret", [SECRET, bytes(32), b"\xff" * 32])
@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (4, 3), (5, 5), (20, 11)])
def test_every_threshold_of_shares_gives_the_secret(secret: bytes, count: int, threshold: int) -> None:
    points = random.Random(count).sample(range(1, 2**32), count)
    shares = split(secret, points, threshold)
    for chosen in itertools.islice(itertools.combinations(range(count), threshold), 20):
        xs, ys = [points[i] for i in chosen], [shares[i] for i in chosen]
        assert lagrange_at_zero(xs, ys).to_bytes(32, "little") == secret
        assert Combiner(xs, threshold).combine(ys, secret.__eq__) == (secret, frozenset())
    assert Combiner(points, threshold).combine(shares, secret.__eq__) == (secret, frozenset())


def test_fewer_shares_fit_every_secret() -> None:
    """threshold - 1 shares of one secret are as much shares of any other: the missing one can be solved for."""
    shares = split(SECRET, [1, 2, 3], 3)
    for other in (bytes(32), b"\x01" * 32):
        wanted = int.from_bytes(other, "little")
        # secret = 3 y1 - 3 y2 + y3 for the points 1, 2, 3
        third = (wanted - 3 * shares[0] + 3 * shares[1]) % PRIME
        assert Combiner([1, 2, 3], 3).combine([shares[0], shares[1], third], other.__eq__)[0] == other


@pytest.mark.parametrize(
    ("count", "threshold", "bad"),
    [(4, 3, 1), (5, 3, 2), (6, 3, 2), (9, 5, 4), (40, 27, 6), (100, 67, 16), (30, 1, 3)],
)
def test_wrong_shares_are_named_and_do_not_matter(count: int, threshold: int, bad: int) -> None:
    rng = random.Random(count)
    points = [i + 1 for i in range(count)]
    shares = list(split(SECRET, points, threshold))
    wrong = rng.sample(range(count), bad)
    for i in wrong:
        shares[i] = rng.randrange(PRIME)
    secret, blamed = Combiner(points, threshold).combine(shares, is_secret)
    assert secret == SECRET
    assert blamed == {points[i] for i in wrong}


def test_colluders_that_keep_the_secret_right_cannot_frame_others() -> None:
    points = [1, 2, 3, 4, 5, 6, 7]
    shares = list(split(SECRET, points, 3))
    weights = [lagrange_at_zero([1, 2, 3], [int(i == j) for j in range(3)]) for i in range(3)]
    shares[0] = (shares[0] + weights[1]) % PRIME
    shares[1] = (shares[1] - weights[0]) % PRIME
    assert Combiner(points, 3).combine(shares, is_secret) == (SECRET, frozenset({1, 2}))


def test_too_many_wrong_shares_give_an_error_and_no_secret() -> None:
    shares = list(split(SECRET, [1, 2, 3, 4], 3))
    shares[0] += 1
    shares[1] += 2
    with pytest.raises(RemoteProtocolError, match="no 3 of 4 shares"):
        Combiner([1, 2, 3, 4], 3).combine(shares, is_secret)
    with pytest.raises(RemoteProtocolError):
        Combiner([1, 2, 3], 3).combine(shares[:3], is_secret)
    with pytest.raises(RemoteProtocolError):  # all on one polynomial, and yet not the secret
        Combiner([1, 2, 3, 4, 5], 2).combine(split(bytes(32), [1, 2, 3, 4, 5], 2), is_secret)
    many = [os.urandom(31) for _ in range(100)]
    with pytest.raises(RemoteProtocolError):
        Combiner(range(1, 101), 50).combine([int.from_bytes(m, "little") for m in many], is_secret)


def test_a_secret_above_32_bytes_is_not_one() -> None:
    with pytest.raises(RemoteProtocolError):
        Combiner([1], 1).combine([PRIME - 1], lambda secret: True)


def test_shares_of_nothing_but_zero_are_decoded() -> None:
    zero = bytes(32)
    assert Combiner([1, 2, 3, 4, 5], 2).combine([0, 0, 0, 0, 7], zero.__eq__) == (zero, frozenset({5}))


def test_parameters_are_checked() -> None:
    for points in ([0, 1], [1, 1], [2**32]):
        with pytest.raises(ConfigError, match="points"):
            split(SECRET, points, 1)
        with pytest.raises(ConfigError, match="points"):
            Combiner(points, 1)
    for threshold in (0, 3):
        with pytest.raises(ConfigError, match="threshold"):
            split(SECRET, [1, 2], threshold)
        with pytest.raises(ConfigError, match="threshold"):
            Combiner([1, 2], threshold)
    with pytest.raises(ConfigError, match="32 bytes"):
        split(bytes(16), [1, 2], 1)


def test_shares_travel_as_33_canonical_bytes() -> None:
    for share in (0, 1, PRIME - 1):
        assert share_from_bytes(share_to_bytes(share)) == share
        assert len(share_to_bytes(share)) == SHARE_BYTES
    for data in (PRIME.to_bytes(33, "little"), bytes(32), bytes(34)):
        with pytest.raises(WireError):
            share_from_bytes(data)
