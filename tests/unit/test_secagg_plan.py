"""The planner against exact and simulated tails, the terms it leads to, and the figures of `privfl plan`."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError
from privfl.ring import Ring
from privfl.secagg import MaskedSum, plan_sum
from privfl.secagg.graph import Graph
from privfl.secagg.messages import Bitmap
from privfl.secagg.plan import measure_speed
from privfl.secagg.planner import assess_graph, plan_graph
from privfl.sums import SumTask, run_sum


def exact_tail(population: int, marked: int, draws: int, least: int) -> float:
    """log2 P[Hyp >= least] in exact arithmetic."""
    hits = sum(
        math.comb(marked, i) * math.comb(population - marked, draws - i) for i in range(max(least, 0), draws + 1)
    )
    return -math.inf if hits == 0 else math.log2(Fraction(hits, math.comb(population, draws)))


def test_the_published_example() -> None:
    """n = 1000, 5 % corrupt, 5 % silent: 74 neighbors against a lying server, 52 if it could not grind."""
    plan = plan_graph(1000, 0.05, 0.05, malicious=True)
    assert (plan.degree, plan.threshold) == (74, 56)
    assert plan.security_bits >= 40
    assert plan.correctness_bits >= 20

    def enough(degree: int) -> bool:
        half, budget = degree // 2, math.log2(2000)
        return any(
            exact_tail(999, 50, degree, 2 * t - degree) + budget <= -40
            and exact_tail(999, 50, degree, degree - t + 1) + budget <= -20
            and half * math.log2(0.1) + budget <= -40
            for t in range(half + 1, degree + 1)
        )

    assert next(degree for degree in range(2, 60, 2) if enough(degree)) == 52


@pytest.mark.parametrize("malicious", [True, False])
@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.05), (0.1, 0.1), (0.02, 0.3), (0.0, 0.2)])
def test_plans_keep_their_promise_in_exact_arithmetic(malicious: bool, corrupt: float, dropout: float) -> None:
    n = 500
    plan = plan_graph(n, corrupt, dropout, malicious=malicious)
    k, t, half, budget = plan.degree, plan.threshold, plan.degree // 2, math.log2(2 * n)
    c, d = math.ceil(corrupt * n), math.ceil(dropout * n)
    bits = 104 if malicious else 40
    assert half * math.log2(corrupt + dropout) + budget <= -bits
    assert exact_tail(n - 1, c, k, 2 * t - k if malicious else t) + budget <= -bits
    if malicious:
        assert exact_tail(n - 1, c, half, t - half) + budget <= -40
        assert 2 * (exact_tail(n - 1, c, half, plan.arc) + math.log2(n)) + 1 <= -bits
    assert exact_tail(n - 1, d, k, k - t + 1) + budget <= -20
    assert exact_tail(n - 1, d, half, half - plan.arc + 1) + budget <= -20


def test_a_smaller_degree_would_not_do() -> None:
    plan = plan_graph(1000, 0.05, 0.05, malicious=True)
    for threshold in range(37, 73):
        for arc in range(1, 36):
            less = assess_graph(1000, 0.05, 0.05, degree=72, threshold=threshold, arc=arc, malicious=True)
            assert less.security_bits < 40 or less.correctness_bits < 20
    assert plan.degree == 74


def test_degrees_grow_slowly_up_to_a_hundred_million() -> None:
    degrees = [plan_graph(10**e, 0.05, 0.05, malicious=False).degree for e in range(3, 9)]
    assert degrees == sorted(degrees)
    assert degrees[-1] < 2 * degrees[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((1000, 0.34, 0.34), "0.67 of the neighbors"),
        ((50, 0.2, 0.2), "complete graph"),
        ((2, 0.1, 0.1), "3 to"),
        ((10**9, 0.1, 0.1), "3 to"),
        ((100, 1.0, 0.0), "corrupt is a fraction"),
        ((100, 0.0, -0.1), "dropout is a fraction"),
        ((100, math.nan, 0.1), "corrupt is a fraction"),
    ],
)
def test_infeasible_settings_are_refused_with_a_reason(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_graph(*arguments, malicious=True)


# --- graphs --------------------------------------------------------------------------------------------------------


def test_the_ring_is_regular_symmetric_and_of_nobodys_choosing() -> None:
    graph = Graph(31, 6, bytes(32))
    holders = [set(graph.holders(i)) for i in range(31)]
    for i, around in enumerate(holders):
        assert len(around) == 6
        assert i not in around
        assert graph.holders(i) == sorted(around) == graph.neighbors(i)
        assert all(i in holders[j] for j in around)
    assert holders != [set(Graph(31, 6, b"\x01" * 32).holders(i)) for i in range(31)]
    complete = Graph(4, 0, bytes(32))
    assert complete.holders(2) == [0, 1, 2, 3]
    assert complete.neighbors(2) == [0, 1, 3]


def test_least_arc_against_the_definition() -> None:
    rng = np.random.default_rng(3)
    for size, degree in [(31, 6), (9, 8), (20, 2), (12, 10)]:
        graph = Graph(size, degree, bytes(32))
        members = set(rng.choice(size, size // 2, replace=False).tolist())
        order = graph._order.tolist()
        arcs = [sum(order[(s + i) % size] in members for i in range(degree // 2)) for s in range(size)]
        assert graph.min_arc(Bitmap.of(size, members)) == min(arcs)
    assert Graph(5, 0, bytes(32)).min_arc(Bitmap.of(5, (1, 2))) == 2


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
    assert MaskedSum(DIRECTORY, corrupt=0.3, dropout=0.3).terms(task(101)).degree == 0  # no ring does it
    assert MaskedSum(DIRECTORY, corrupt=0.3, dropout=0.0).terms(task(101, 80)).min_roster == 80
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
        (10, {"dropout": 0.5}, "5 of 10 clients falling silent, and a share_threshold of 7 allows 3"),
        (100, {"dropout": 0.4, "graph": "complete"}, "40 of 100 clients .* of 67 allows 33.*from 53 on"),
        (102, {"dropout": 0.4}, "40 of 102 clients .* share_threshold of 69 allows 33"),  # after no ring did it
        (1000, {"corrupt": 0.34, "dropout": 0.34}, "340 of 1000 clients .* 671 allows 329.*from 671 on"),
        (20, {"share_threshold": 19}, "2 of 20 clients .* 19 allows 1"),
    ],
)
def test_dropouts_beyond_what_the_threshold_allows(clients: int, changes: dict[str, Any], reason: str) -> None:
    """The complete graph is what is left when no degree does it, and is no way out when it would not do either."""
    with pytest.raises(ConfigError, match=reason):
        plan_sum(clients, 10, **changes)
    with pytest.raises(ConfigError, match=reason):
        MaskedSum(DIRECTORY, **changes).terms(task(clients))


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
    assert plan.protocol == "masked-sum/1, signed, ring of degree 104"
    assert plan.assumptions == "0.05 of the clients collude with the server, which may lie; 0.1 of them fall silent"
    assert 40 <= plan.security_bits < 128
    assert plan.max_dropouts == 100
    assert 0 < plan.client_seconds < plan.server_seconds
    small = plan_sum(10, 100, mode="semi-honest")
    assert small.protocol == "masked-sum/1, semi-honest, complete graph"
    assert "follows the protocol" in small.assumptions
    assert (small.security_bits, small.correctness_bits, small.max_dropouts) == (128, math.inf, 4)
    assert plan_sum(10**8, 1000).degree < 200
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
