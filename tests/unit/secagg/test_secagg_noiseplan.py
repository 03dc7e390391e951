"""The prices of noise inside a masked sum: published figures, a count over all patterns, and what is refused."""

import itertools
import math

import pytest

from privfl.dp.mesh import MeshNoise
from privfl.errors import ConfigError
from privfl.secagg.noiseplan import plan_noise, variance_over_dropout

TABLE = [  # clients, dropout, spare; mean and worst of mesh, shares and add-then-remove; all present of groups
    (5, 0.0, 1, (1.25, 1.25), (1.25, 1.25), (1.25, 1.25), 2.00),
    (5, 0.05, 1, (1.31, 1.50), (2.38, 2.50), (1.27, 1.50), 2.00),
    (5, 0.1, 2, (2.10, 3.00), (4.52, 5.00), (1.88, 3.00), None),
    (10, 0.05, 1, (1.13, 1.19), (1.58, 1.67), (1.12, 1.17), 1.33),
    (10, 0.2, 1, (1.29, 1.36), (2.01, 2.50), (1.15, 1.25), 2.00),
    (30, 0.1, 4, (1.20, 1.21), (1.42, 1.58), (1.17, 1.21), 1.50),
]


@pytest.mark.parametrize("row", TABLE)
def test_the_prices_of_the_specification(row):
    clients, dropout, spare, mesh, shares, removed, groups = row
    plan = plan_noise(clients, dropout=dropout, spare=spare, mode="semi-honest")
    found = {one.way: one for one in plan.prices}
    for way, expected in (("mesh", mesh), ("shares", shares), ("add-then-remove", removed)):
        assert (round(found[way].mean_variance, 2), round(found[way].max_variance, 2)) == expected, way
    assert ("groups" in found) == (groups is not None)
    if groups is not None:
        assert abs(found["groups"].full_variance - groups) < 0.01


def test_what_five_and_ten_sites_pay():
    five, ten = plan_noise(5, dropout=0.05).mesh, plan_noise(10, dropout=0.05).mesh
    assert five.full_variance <= 1.28
    assert five.mean_variance <= 1.35
    assert five.max_variance <= 1.53
    assert ten.mean_variance <= 1.16
    signed = plan_noise(5, dropout=0.05, corrupt=1)
    assert signed.min_threshold == signed.mesh.min_members_to_open == 4
    assert round(signed.mesh.failure, 3) == 0.023


@pytest.mark.parametrize(("clients", "spare", "least"), [(4, 1, 2), (5, 2, 3), (6, 0, 4)])
def test_the_mean_is_that_over_all_patterns_of_dropouts(clients, spare, least):
    dropout, noise = 0.13, MeshNoise(1.0, clients, spare, least)
    chance = mean = 0.0
    for pattern in itertools.product((0, 1), repeat=clients):
        present = sum(pattern)
        if present >= least:
            weight = (1 - dropout) ** present * dropout ** (clients - present)
            chance, mean = chance + weight, mean + weight * noise.total_variance(clients, present)
    plan = plan_noise(clients, dropout=dropout, spare=spare, mode="semi-honest", min_members_to_open=least)
    assert math.isclose(plan.mesh.mean_variance, mean / chance, rel_tol=1e-9)
    assert math.isclose(plan.mesh.failure, 1 - chance, rel_tol=1e-6)


def test_the_members_are_all_of_few_and_the_fewest_near_the_best_of_many():
    assert plan_noise(32, spare=2).mesh.members == 32
    plan = plan_noise(100, dropout=0.1, spare=11)
    everybody = plan_noise(100, dropout=0.1, spare=11, members=100).mesh
    assert plan.mesh.members < 100
    assert plan.mesh.mean_variance <= 1.03 * everybody.mean_variance
    fewer = plan_noise(100, dropout=0.1, spare=11, members=plan.mesh.members - 1).mesh
    assert fewer.mean_variance > 1.03 * everybody.mean_variance


def test_add_then_remove_costs_bytes_and_work_at_the_server():
    found = {one.way: one for one in plan_noise(100, dropout=0.1, spare=11, mode="semi-honest").prices}
    assert 118_000 < found["add-then-remove"].bytes < 120_000
    assert found["add-then-remove"].server_samples == 1800
    assert found["mesh"].bytes == found["mesh"].server_samples == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clients": 5, "min_members_to_open": 2}, "below the minimum share threshold of 3"),
        ({"clients": 5, "corrupt": 1, "min_members_to_open": 3}, "below the minimum share threshold of 4"),
        ({"clients": 5, "spare": 5}, "no noise would be left"),
        ({"clients": 5, "members": 6}, "2 to 5 members"),
        ({"clients": 1}, "2 to"),
        ({"clients": 5, "dropout": 1.0}, "probability"),
        ({"clients": 5, "max_failure": 0.0}, "probability"),
        ({"clients": 5, "spare": -1}, "0 or more spare"),
    ],
)
def test_refusals(options, reason):
    with pytest.raises(ConfigError, match=reason):
        plan_noise(**options)


def test_the_curves_of_the_plot_rise_with_dropouts_and_mesh_is_below_shares():
    curves = variance_over_dropout(10, 1, [0.0, 0.05, 0.1, 0.2], mode="semi-honest")
    assert curves["mesh"][0] == curves["shares"][0]
    assert all(a < b for a, b in zip(curves["mesh"][1:], curves["shares"][1:], strict=True))
    assert curves["mesh"] == sorted(curves["mesh"])
    assert math.isnan(variance_over_dropout(5, 2, [0.1])["groups"][0])
