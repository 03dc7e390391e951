"""The terms that the planner leads to, and the figures of `privfl plan`."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError
from privfl.ring import Ring
from privfl.secagg import MaskedSum, plan_sum
from privfl.secagg.plan import measure_speed
from privfl.secagg.planner import assess_graph, plan_graph
from privfl.sums import SumTask, run_sum

# --- terms ---------------------------------------------------------------------------------------------------------

DIRECTORY = generate_identities(range(3))[1]


def task(clients: int, survivors: int = 1) -> SumTask:
    return SumTask(b"", tuple(range(clients)), survivors, 1, Ring(64), 1)


@pytest.mark.parametrize(("clients", "threshold"), [(1, 1), (2, 2), (3, 3), (4, 3), (10, 7), (100, 67)])
def test_default_thresholds_of_the_complete_graph(clients: int, threshold: int) -> None:
    terms = MaskedSum(DIRECTORY, min_vectors=1).terms(task(clients))
    assert (terms.degree, terms.threshold, terms.arc) == (0, threshold, 0)
    assert 2 * threshold > clients + math.floor(0.05 * clients)
    assert MaskedSum(mode="semi-honest", min_vectors=1).terms(task(clients)).threshold == clients // 2 + 1


def test_more_corrupt_clients_raise_the_default_threshold() -> None:
    assert MaskedSum(DIRECTORY, corrupt=0.6).terms(task(10)).threshold == 9
    assert MaskedSum(mode="semi-honest", corrupt=0.6).terms(task(10)).threshold == 7


def test_beyond_a_hundred_clients_the_planner_decides() -> None:
    plan = plan_graph(1000, 0.05, 0.1, malicious=True)
    terms = MaskedSum(DIRECTORY).terms(task(1000))
    assert (terms.degree, terms.threshold, terms.arc) == (plan.degree, plan.threshold, plan.arc)
    assert terms.min_roster == 900
    assert MaskedSum(DIRECTORY, corrupt=0.3, dropout=0.0, graph="complete").terms(task(101, 80)).min_roster == 80
    assert MaskedSum(DIRECTORY).terms(task(200, 195)).min_roster == 195
    assert MaskedSum(DIRECTORY, graph="complete").terms(task(200)).degree == 0
    more = MaskedSum(DIRECTORY, share_threshold=terms.threshold + 1).terms(task(1000))
    assert (more.degree, more.threshold, more.arc) == (terms.degree, terms.threshold + 1, terms.arc)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"share_threshold": 5}, "in \\[6, 10\\]"),
        ({"share_threshold": 11}, "in \\[6, 10\\]"),
        ({"share_threshold": 7, "corrupt": 0.4}, "in \\[8, 10\\]"),
        ({"graph": 3}, "even degree"),
        ({"graph": 10}, "even degree"),
        ({"graph": 0}, "even degree"),
        ({"graph": "ring"}, "even degree"),
        ({"graph": 4, "share_threshold": 2, "corrupt": 0}, "in \\[3, 4\\]"),
        ({"graph": 4, "share_threshold": 3, "corrupt": 0.2}, "bits of security"),
    ],
)
def test_thresholds_that_would_promise_nothing(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        MaskedSum(DIRECTORY, **changes).terms(task(10))


@pytest.mark.parametrize(
    ("clients", "changes", "reason"),
    [
        (10, {"dropout": 0.5}, "5 of 10 clients dropping out, and a share_threshold of 7 allows 3"),
        (100, {"dropout": 0.4, "graph": "complete"}, "40 of 100 clients .* of 67 allows 33.*from 53 on"),
        (102, {"dropout": 0.4, "graph": "complete"}, "40 of 102 clients .* share_threshold of 69 allows 33"),
        (1000, {"corrupt": 0.34, "dropout": 0.34}, "660 that start the sum.*fewer dropouts$"),  # nor the complete graph
        (
            1000,
            {"corrupt": 0.34, "dropout": 0.34, "graph": "complete"},
            "340 of 1000 clients .* 671 allows 329.*from 671 on",
        ),
        (20, {"share_threshold": 19}, "2 of 20 clients .* 19 allows 1"),
    ],
)
def test_dropouts_beyond_what_the_threshold_allows(clients: int, changes: dict[str, Any], reason: str) -> None:
    """Neither graph does it."""
    with pytest.raises(ConfigError, match=reason):
        plan_sum(clients, 10, **changes)
    with pytest.raises(ConfigError, match=reason):
        MaskedSum(DIRECTORY, **changes).terms(task(clients))


@pytest.mark.parametrize(
    ("clients", "changes"),
    [
        (101, {"corrupt": 0.3, "dropout": 0.3}),
        (101, {"corrupt": 0.1, "dropout": 0.2}),
        (150, {"corrupt": 0.3}),
        (1000, {"corrupt": 0.25, "dropout": 0.3}),
    ],
)
def test_where_no_ring_does_it_the_complete_graph_has_to_be_asked_for(clients: int, changes: dict[str, Any]) -> None:
    remedy = f"set graph = 'complete' .privfl plan: --degree 0., of {clients - 1} neighbors each"
    with pytest.raises(ConfigError, match=remedy):
        MaskedSum(DIRECTORY, **changes).terms(task(clients))
    with pytest.raises(ConfigError, match=remedy):
        plan_sum(clients, 10, **changes)
    assert MaskedSum(DIRECTORY, graph="complete", **changes).terms(task(clients)).degree == 0
    assert plan_sum(clients, 10, graph="complete", **changes).degree == clients - 1


def test_no_plan_expects_more_dropouts_than_it_survives() -> None:
    """Whatever is asked for: either a reason, or a plan under which its own dropouts are survived."""
    asked: list[tuple[int, float, float, Literal["signed", "semi-honest"]]] = [
        (clients, corrupt, dropout, mode)
        for clients in (1, 7, 100, 101, 300)
        for corrupt in (0.0, 0.1, 0.3)
        for dropout in (0.0, 0.2, 0.4, 0.7)
        for mode in ("signed", "semi-honest")
    ]
    planned = []
    for clients, corrupt, dropout, mode in asked:
        with contextlib.suppress(ConfigError):
            planned.append((dropout, plan_sum(clients, 10, corrupt=corrupt, dropout=dropout, mode=mode)))
    assert 20 < len(planned) < len(asked) - 20
    for dropout, plan in planned:
        assert math.floor(dropout * plan.clients) <= plan.max_dropouts
        assert plan.correctness_bits >= 20


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "key directory"),
        ({"directory": DIRECTORY, "mode": "semi-honest"}, "key directory"),
        ({"directory": DIRECTORY, "mode": "none"}, "mode is"),
        ({"directory": DIRECTORY, "threads": 0}, "threads"),
        ({"directory": DIRECTORY, "corrupt": 1.0}, "corrupt"),
        ({"directory": DIRECTORY, "dropout": -1}, "dropout"),
    ],
)
def test_schemes_that_contradict_themselves(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        MaskedSum(**arguments)


def test_signed_mode_needs_ones_own_credentials() -> None:
    credentials, directory = generate_identities(range(3))
    for wrong in (None, "key", credentials[1]):
        with pytest.raises(ConfigError, match="credentials of client 0"):
            MaskedSum(directory).client(task(3), 0, np.zeros(1, np.int64), credentials=wrong)


@pytest.mark.parametrize(
    ("clients", "settings"),
    [
        (1000, {}),
        (10_000, {"dropout": 0.3}),
        (101, {}),
        (400, {"corrupt": 0.1}),
        (2000, {"security_bits": 60}),
        (300, {"graph": 250, "share_threshold": 190}),
        (1000, {"mode": "semi-honest", "corrupt": 0.2}),
    ],
)
def test_terms_reach_the_bits_asked_for_at_the_roster_they_allow(clients: int, settings: dict[str, Any]) -> None:
    """And `privfl plan` prints the figure of that roster."""
    signed = settings.get("mode") != "semi-honest"
    terms = MaskedSum(DIRECTORY if signed else None, **settings).terms(task(clients))
    corrupt = settings.get("corrupt", 0.05)
    least = assess_graph(
        terms.min_roster,
        math.ceil(corrupt * clients - 1e-9) / terms.min_roster,
        0.0,
        degree=terms.degree,
        threshold=terms.threshold,
        arc=terms.arc,
        malicious=signed,
    )
    assert least.security_bits >= settings.get("security_bits", 40)
    plan = plan_sum(clients, 10, **settings)
    assert (plan.degree, plan.share_threshold, plan.min_roster) == (terms.degree, terms.threshold, terms.min_roster)
    assert settings.get("security_bits", 40) <= plan.security_bits <= least.security_bits + 1e-9


@pytest.mark.parametrize(
    ("clients", "dropout", "ring", "least"),
    [(1000, 0.1, (150, 112, 49), 900), (10_000, 0.3, (928, 562, 260), 7000)],
)
def test_a_degree_that_holds_for_the_cohort_only_is_refused(
    clients: int, dropout: float, ring: tuple[int, int, int], least: int
) -> None:
    """40 bits over the cohort, and fewer over the smallest roster that a server may choose from it."""
    degree, threshold, arc = ring
    whole = assess_graph(clients, 0.05, dropout, degree=degree, threshold=threshold, arc=arc, malicious=True)
    assert whole.security_bits >= 40
    with pytest.raises(ConfigError, match=f"{least} can start the sum, not 40"):
        MaskedSum(DIRECTORY, graph=degree, share_threshold=threshold, dropout=dropout).terms(task(clients))


# --- the figures of `privfl plan` ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["signed", "semi-honest"])
@pytest.mark.parametrize("graph", ["complete", 8])
@pytest.mark.parametrize(("bits", "packed"), [(16, False), (20, True), (64, False)])
def test_planned_bytes_are_those_on_the_wire(
    mode: Literal["signed", "semi-honest"], graph: Any, bits: int, packed: bool
) -> None:
    clients, length = 13, 777
    credentials, directory = generate_identities(range(clients))
    settings = {"mode": mode, "graph": graph, "packed": packed, "corrupt": 0.0}
    scheme = MaskedSum(directory if mode == "signed" else None, **settings)
    seen: dict[str, list[int]] = {"up": [], "down": []}

    def tap(direction: str, client: int, message: bytes) -> None:
        if client == 5:
            seen[direction].append(len(message))

    one = SumTask(b"", tuple(range(clients)), 2, length, Ring(bits), 1)
    run_sum(scheme, one, {c: np.ones(length, np.int64) for c in range(clients)}, credentials=credentials, tap=tap)
    plan = plan_sum(clients, length, bits=bits, **settings)
    assert (plan.bytes_up, plan.messages_up) == (sum(seen["up"]), len(seen["up"]))
    assert (plan.bytes_down, plan.messages_down) == (sum(seen["down"]), len(seen["down"]))
    assert plan.share_threshold == scheme.terms(one).threshold


def test_a_vector_costs_its_own_bytes_and_one_percent() -> None:
    for bits in (16, 32, 64):
        assert plan_sum(100, 1_000_000, bits=bits).bytes_up <= 1.01 * bits / 8 * 1_000_000


def test_plans_tell_what_they_assume() -> None:
    plan = plan_sum(1000, 100_000, speed=measure_speed())
    assert plan.protocol == "masked-sum/1, signed, ring of degree 156"
    assert plan.assumptions == (
        "50 of 1000 clients collude with the server, which may lie, and may all be among the 900 that start the sum; "
        "0.1 of them drop out"
    )
    assert 40 <= plan.security_bits < 128
    assert plan.max_dropouts == 100
    assert 0 < plan.client_seconds < plan.server_seconds
    small = plan_sum(10, 100, mode="semi-honest")
    assert small.protocol == "masked-sum/1, semi-honest, complete graph"
    assert "follows the protocol" in small.assumptions
    assert (small.security_bits, small.correctness_bits, small.max_dropouts) == (128, math.inf, 4)
    assert plan_sum(10**8, 1000).degree < 300
    for clients, length in ((0, 1), (10**8 + 1, 1), (5, 0)):
        with pytest.raises(ConfigError, match="a plan is for"):
            plan_sum(clients, length)


def test_import_loads_numpy_and_cryptography_only() -> None:
    code = "import sys, privfl.secagg; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    stray = {m for m in loaded - set(sys.stdlib_module_names) if not m.startswith("_")}
    assert stray - {"numpy", "cryptography", "privfl", "cython_runtime", "sitecustomize", "usercustomize"} == set()
