"""A sum of sums is the flat sum, whatever the schemes; partial sums count as what they are in policies and ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.dp import Ledger
from privfl.dp.unit import CLIENT_UNIT
from privfl.errors import ConfigError, LocalProtocolError, PlanRejected, RemoteProtocolError, TooFewSurvivors
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import Drop, PlainSum, Region, RegionalSum, SumPolicy, SumTask, run_sum
from privfl.sums.driver import never

CLIENTS = 12
NORTH, SOUTH, WEST = frozenset({0, 1, 2, 3, 11}), frozenset({4, 5, 6, 7}), frozenset({8, 9, 10})
RNG = np.random.default_rng(0)
TASK = SumTask(b"t", tuple(range(CLIENTS)), 6, 9, Ring(31), 1 << 20)
VECTORS = {client: RNG.integers(-(1 << 20), 1 << 20, 9, endpoint=True) for client in TASK.clients}


def regional(kind: str) -> tuple[RegionalSum, dict[int, Any]]:
    """The sum, and its clients' credentials."""
    identities, directory = generate_identities(range(CLIENTS))  # new ones: no client enters one task twice
    keys: dict[int, Any] = dict(identities)
    masked, plain = MaskedSum(directory), PlainSum()
    if kind == "plain":
        return RegionalSum([Region(c, plain) for c in (NORTH, SOUTH, WEST)], plain), keys
    if kind == "masked":
        return RegionalSum([Region(c, masked) for c in (NORTH, SOUTH, WEST)], plain), keys
    root_identities, root_directory = generate_identities(range(3))
    root = MaskedSum(root_directory)
    if kind == "mixed":
        keys |= {client: StandingCredentials(identities[client], KeyStore(20)) for client in SOUTH}
        regions = [Region(NORTH, masked), Region(SOUTH, CkksSum(directory)), Region(WEST, plain)]
        return RegionalSum(regions, root, root_identities), keys
    inner = RegionalSum([Region(frozenset({0, 1}), plain), Region(frozenset({2}), plain)], plain)
    return RegionalSum([Region(c, masked) for c in (NORTH, SOUTH, WEST)], inner), keys


KINDS = ("plain", "masked", "mixed", "nested")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [(), (1, 9), (0, 4)])
def test_a_sum_of_sums_is_the_flat_sum_of_its_survivors(kind: str, lost: tuple[int, ...]) -> None:
    scheme, keys = regional(kind)
    result = run_sum(scheme, TASK, VECTORS, credentials=keys, drop=lambda client, step: client in lost)
    left = {client: v for client, v in VECTORS.items() if client in result.survivors}
    flat = run_sum(PlainSum(), TASK, left)
    np.testing.assert_array_equal(result.total, flat.total)
    if kind == "plain":
        assert result.survivors == set(VECTORS) - set(lost)
    else:
        assert result.survivors <= set(VECTORS) - set(lost)
    assert "region's server saw the sum of its region" in result.caveats[0]


def test_a_region_with_too_few_survivors_drops_out_with_all_its_clients() -> None:
    scheme, keys = regional("masked")
    result = run_sum(scheme, TASK, VECTORS, credentials=keys, drop=lambda client, step: client == 9)
    assert result.survivors == NORTH | SOUTH  # two of the three clients in the west are too few for a masked sum
    np.testing.assert_array_equal(result.total, sum(VECTORS[c] for c in NORTH | SOUTH))
    scheme, keys = regional("masked")
    with pytest.raises(TooFewSurvivors) as failure:
        run_sum(scheme, TASK, VECTORS, credentials=keys, drop=lambda client, step: client in (4, 5, 6, 9))
    assert (failure.value.survivors, failure.value.threshold, failure.value.opened) == (5, 6, True)
    scheme, keys = regional("masked")
    with pytest.raises(TooFewSurvivors) as nothing:
        run_sum(scheme, TASK, VECTORS, credentials=keys, drop=lambda client, step: True)
    assert not nothing.value.opened


def test_a_root_that_cannot_open_the_regions_that_are_left_opens_nothing_more() -> None:
    scheme, keys = regional("mixed")
    with pytest.raises(TooFewSurvivors) as failure:
        run_sum(scheme, TASK, VECTORS, credentials=keys, drop=lambda client, step: client in (4, 5, 6))
    assert failure.value.opened  # two regional sums, which a masked sum of the root would have hidden


def test_a_cohort_with_a_region_that_never_opens_asks_nobody() -> None:
    scheme, keys = regional("masked")
    task = SumTask(b"t", (0, 1, 2, 3, 8), 3, 9, Ring(31), 1 << 20)
    with pytest.raises(TooFewSurvivors) as failure:
        run_sum(scheme, task, {c: VECTORS[c] for c in task.clients}, credentials=keys)
    assert not failure.value.opened


def test_a_policy_is_about_every_sum_that_a_party_opens() -> None:
    scheme, keys = regional("masked")
    with pytest.raises(PlanRejected, match="cohort is 5"):
        scheme.client(TASK, 0, VECTORS[0], credentials=keys[0], policy=SumPolicy(min_cohort=6))
    with pytest.raises(PlanRejected, match="min_survivors is 3"):
        scheme.client(TASK, 0, VECTORS[0], credentials=keys[0], policy=SumPolicy(min_survivors=4))
    scheme.client(TASK, 0, VECTORS[0], credentials=keys[0], policy=SumPolicy(min_cohort=5, min_survivors=3))


def test_whoever_opens_a_partial_sum_counts_as_one_who_sees_vectors() -> None:
    assert regional("masked")[0].views == {"outsider": "release", "participant": "release", "server": "vectors"}
    views = regional("mixed")[0].views
    assert (views["participant"], views["key_holder"], views["outsider"]) == ("vectors", "vectors", "release")
    assert regional("masked")[0].shortfall(12, 0.1) is None


def test_parameters_name_the_regions() -> None:
    one, other = regional("masked")[0], regional("mixed")[0]
    moved = RegionalSum([Region(NORTH | {4}, PlainSum()), Region(SOUTH - {4}, PlainSum())], PlainSum())
    kept = RegionalSum([Region(NORTH, PlainSum()), Region(SOUTH, PlainSum())], PlainSum())
    assert moved.parameters["regions"] != kept.parameters["regions"]
    assert one.parameters != other.parameters
    assert one.parameters["region 0"] == "masked-sum/1"


def test_the_server_waits_for_every_region() -> None:
    scheme, _ = regional("plain")
    server = scheme.server(TASK)
    assert server.awaiting == set(range(CLIENTS))
    for client in NORTH | SOUTH:
        server.receive(client, scheme.client(TASK, client, VECTORS[client]).start())
    assert (server.ready, server.awaiting) == (False, WEST)
    with pytest.raises(LocalProtocolError):
        server.advance()
    with pytest.raises(RemoteProtocolError):
        server.receive(99, b"")
    for client in WEST:
        server.drop(client)
    assert server.advance() == {}
    assert server.result is not None
    assert server.result.survivors == NORTH | SOUTH
    with pytest.raises(LocalProtocolError):
        server.advance()


def test_regions_without_sense_are_refused() -> None:
    for regions in ([], [Region(NORTH, PlainSum()), Region(NORTH, PlainSum())]):
        with pytest.raises(ConfigError, match="each client once"):
            RegionalSum(regions, PlainSum())
    with pytest.raises(ConfigError, match="opened by a client"):
        RegionalSum([Region(NORTH, PlainSum())], CkksSum(generate_identities(range(3))[1]))
    with pytest.raises(ConfigError, match="in no region"):
        RegionalSum([Region(NORTH, PlainSum())], PlainSum()).tasks(TASK)
    with pytest.raises(ConfigError, match="lower it"):
        regional("plain")[0].min_survivors_of(0, 0)


# --- in a run


def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(rng.normal(size=4) - 0.1 * model + client, 1 + client)


def run(runs: Path, scheme: Any, credentials: Any = None, dropouts: Any = None, **overrides: Any) -> Any:
    experiment = Experiment(
        train=train, initial=np.zeros(4), clients=CLIENTS, rounds=4, runs=runs, sum=scheme, credentials=credentials,
        dropouts=dropouts, overrides={name.replace("__", "."): value for name, value in overrides.items()},
    )  # fmt: skip
    return experiment.run()


@pytest.mark.parametrize("kind", ["plain", "masked", "mixed"])
def test_a_run_over_regions_is_the_flat_run(tmp_path: Path, kind: str) -> None:
    def first_lost(round: int, attempt: int) -> Drop:
        return lambda client, step: client == round % 4  # in the north, which has five clients

    scheme, keys = regional(kind)
    found = run(tmp_path / kind, scheme, keys, first_lost, server__weighting="examples")
    flat = run(tmp_path / "flat", PlainSum(), None, first_lost, server__weighting="examples")
    assert found.model.tobytes() == flat.model.tobytes()
    assert [r.dropouts for r in found] == [r.dropouts for r in flat]


def test_the_ledger_prices_partial_sums_as_single_vectors(tmp_path: Path) -> None:
    noise = {
        "privacy__placement": "distributed", "privacy__noise_multiplier": 1.0, "privacy__clip_norm": 1.0,
        "privacy__noise": "simulation",
    }  # fmt: skip
    scheme, keys = regional("masked")
    found = run(tmp_path / "regions", scheme, keys, lambda r, a: never, **noise)
    ledger = Ledger(CLIENT_UNIT, found.experiment.files.ledger_path)
    assert {release.views["server"] for release in ledger.releases} == {"vectors"}
    outsider, server = found.experiment.epsilon("outsider"), found.experiment.epsilon("server")
    assert outsider is not None
    assert server is not None
    assert server.epsilon > 2 * outsider.epsilon
