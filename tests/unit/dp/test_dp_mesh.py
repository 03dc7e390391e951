"""Mesh noise: the unknown variance by brute force over sums and coalitions, its sizes, and what a member samples."""

import itertools
import os
from collections.abc import Iterator

import numpy as np
import pytest

from privfl.dp.mesh import MeshNoise
from privfl.dp.noise.sampler import seeded_entropy
from privfl.dp.noise.skellam import skellam
from privfl.errors import ConfigError


def subsets(of: int, least: int, most: int) -> Iterator[set[int]]:
    for size in range(least, most + 1):
        yield from map(set, itertools.combinations(range(of), size))


def unknown(noise: MeshNoise, members: int, present: set[int], coalition: set[int]) -> float:
    """The variance, given all that the coalition's members know: the parts of the sum that are theirs drop out."""
    coefficients = dict.fromkeys(itertools.combinations(range(members), 2), 0)
    for i in present:
        for pair in coefficients:
            coefficients[pair] += (pair[0] == i) - (pair[1] == i)
    pairs = sum(c * c for pair, c in coefficients.items() if not coalition & set(pair))
    return len(present - coalition) * noise.own_variance(members) + pairs * noise.pair_variance(members)


@pytest.mark.parametrize("members", range(2, 7))
def test_no_coalition_of_spare_members_gets_below_the_variance(members: int) -> None:
    met = 0
    for spare in range(members):
        for least in range(spare + 1, members + 1):
            noise = MeshNoise(1.0, members, spare, least)
            for present in subsets(members, least, members):
                total = noise.total_variance(members, len(present))
                assert unknown(noise, members, present, set()) == pytest.approx(total, rel=1e-12)
                assert total <= noise.max_variance(members) * (1 + 1e-12)
                for coalition in subsets(members, 0, spare):
                    left = unknown(noise, members, present, coalition)
                    assert left >= 1 - 1e-12
                    counted = noise.counted_variance(members, len(present))
                    if len(coalition) == spare and coalition <= present:
                        assert left == pytest.approx(counted, rel=1e-12)
                    met += 1
    assert met > 2 ** (members - 1)


def test_a_coalition_of_one_more_member_gets_below_it() -> None:
    noise = MeshNoise(1.0, 5, 1, 4)
    assert unknown(noise, 5, {0, 1, 2, 3, 4}, {0, 1}) < 1
    assert unknown(noise, 5, {0, 1, 2, 3}, {0, 1}) < 1


@pytest.mark.parametrize(("spare", "least"), [(0, 3), (1, 4), (2, 5), (3, 4)])
def test_a_roster_of_fewer_members_still_reaches_the_variance(spare: int, least: int) -> None:
    noise = MeshNoise(1.0, 8, spare, least)
    tops = []
    for members in range(least, 9):
        totals = [noise.total_variance(members, s) for s in range(least, members + 1)]
        assert min(noise.counted_variance(members, s) for s in range(least, members + 1)) >= 1 - 1e-12
        assert noise.max_variance(members) == max(totals)
        tops.append(max(totals))
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(tops))
    assert noise.max_variance(20) == noise.max_variance(8)


def test_the_reach_is_that_of_the_largest_share_of_any_roster() -> None:
    noise = MeshNoise(1e6, 9, 2, 5)
    shares = [noise.own_variance(m) + (m - 1) * noise.pair_variance(m) for m in range(5, 10)]
    assert max(shares) == shares[0]
    assert noise.reach > 16 * shares[0] ** 0.5


def roster(noise: MeshNoise, clients: list[int], length: int, round: int) -> dict[int, np.ndarray]:
    def sample(me: int) -> np.ndarray:
        return noise.sample(
            me,
            [c for c in clients if c != me],
            length,
            own=seeded_entropy(round, me),
            pair=lambda other: seeded_entropy(round, min(me, other), max(me, other)),
        )

    return {me: sample(me) for me in clients}


@pytest.mark.parametrize("present", [[3, 5, 9, 11], [3, 9, 11], [5, 9]])
def test_the_measured_variance_is_the_planned_one(present: list[int]) -> None:
    noise, length = MeshNoise(50_000.0, 4, 1, 2), 40_000
    parts = roster(noise, [3, 5, 9, 11], length, 1)
    total = sum(parts[c] for c in present)
    assert float(np.var(total)) == pytest.approx(noise.total_variance(4, len(present)), rel=0.03)
    assert abs(float(np.mean(total))) < 5 * (noise.total_variance(4, len(present)) / length) ** 0.5
    assert float(np.var(parts[3])) == pytest.approx(noise.own_variance(4) + 3 * noise.pair_variance(4), rel=0.03)


def test_pairs_cancel_to_the_last_bit() -> None:
    noise, clients = MeshNoise(300.0, 4, 1, 2), [3, 5, 9, 11]
    total = sum(roster(noise, clients, 50, 2).values())
    own = sum(skellam(noise.own_variance(4), 50, entropy=seeded_entropy(2, me)) for me in clients)
    assert np.array_equal(total, own)


def test_simulation_noise_is_of_its_key_alone() -> None:
    noise, clients = MeshNoise(300.0, 4, 1, 2, key=(7, 1)), [3, 5, 9, 11]
    first, again = roster(noise, clients, 50, 2), roster(noise, clients, 50, 3)
    assert all(np.array_equal(first[c], again[c]) for c in clients)
    other = roster(MeshNoise(300.0, 4, 1, 2, key=(7, 2)), clients, 50, 2)
    assert not np.array_equal(first[3], other[3])


def test_the_server_fills_up_to_one_variance() -> None:
    noise = MeshNoise(20_000.0, 5, 1, 3, constant=31_000.0)
    zeros = np.zeros(40_000, np.int64)
    for members, present in ((5, 5), (5, 3), (4, 4)):
        missing = 31_000.0 - noise.total_variance(members, present)
        assert float(np.var(noise.fill(zeros, members, present, entropy=os.urandom))) == pytest.approx(
            missing, rel=0.04
        )
    full = MeshNoise(20_000.0, 5, 1, 3, constant=noise.total_variance(5, 4))
    assert full.fill(zeros, 5, 4) is zeros
    assert MeshNoise(20_000.0, 5, 1, 3).fill(zeros, 5, 5) is zeros


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.0, 5, 1, 3), "variance"),
        ((1.0, 1, 0, 1), "at least 2 members"),
        ((1.0, 5, 5, 5), r"\[0, 4\]"),
        ((1.0, 5, True, 5), r"\[0, 4\]"),
        ((1.0, 5, 2, 2), r"in \[3, 5\]"),
        ((1.0, 5, 2, 6), r"in \[3, 5\]"),
    ],
)
def test_values_out_of_range_are_refused(values: tuple, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        MeshNoise(*values)
