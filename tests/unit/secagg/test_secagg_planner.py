"""The planner of rings against exact and simulated tails, and the ring itself."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.secagg import planner
from privfl.secagg.graph import Graph
from privfl.secagg.messages import Bitmap
from privfl.secagg.planner import assess_cohort, assess_graph, plan_graph


def exact_tail(population: int, marked: int, draws: int, least: int) -> float:
    """log2 P[Hyp >= least] in exact arithmetic."""
    hits = sum(
        math.comb(marked, i) * math.comb(population - marked, draws - i) for i in range(max(least, 0), draws + 1)
    )
    return -math.inf if hits == 0 else math.log2(Fraction(hits, math.comb(population, draws)))


def test_the_published_example() -> None:
    """n = 1000, 5 % corrupt, 5 % dropping out: 52 neighbors by the published conditions, if a server could not grind.

    The plan asks more: of the smallest roster, of the border of an arc, and 64 bits against grinding.
    """
    plan = plan_graph(1000, 0.05, 0.05, malicious=True)
    assert (plan.degree, plan.threshold, plan.min_roster) == (112, 90, 950)
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
    """At the smallest roster, with all corrupt clients of the cohort in it, and at the whole cohort."""
    n = 500
    plan = plan_graph(n, corrupt, dropout, malicious=malicious)
    k, t, half = plan.degree, plan.threshold, plan.degree // 2
    assert plan.min_roster == max(k + 1, n - int(n * dropout))
    c = math.ceil(corrupt * n)
    bits = 104 if malicious else 40
    for roster in (plan.min_roster, n):
        budget, d = math.log2(2 * roster), math.ceil(dropout * roster)
        assert half * math.log2((c + d) / roster) + budget <= -bits
        assert exact_tail(roster - 1, c, k, 2 * t - k if malicious else t) + budget <= -bits
        if malicious:
            assert exact_tail(roster - 1, c, half, t - half) + budget <= -bits
            assert 2 * (exact_tail(roster - 1, c, half, plan.arc) + math.log2(roster)) + 1 <= -bits
        assert exact_tail(roster - 1, d, k, k - t + 1) + budget <= -20
        assert exact_tail(roster - 1, d, half, half - plan.arc + 1) + budget <= -20


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "malicious"),
    [
        (1000, 0.05, 0.1, True),
        (10_000, 0.05, 0.3, True),
        (101, 0.05, 0.1, True),
        (737, 0.031, 0.17, True),
        (150, 0.1, 0.1, True),
        (300, 0.02, 0.25, True),
        (300, 0.1, 0.2, False),
        (1000, 0.3, 0.3, False),
    ],
)
def test_a_plan_holds_at_every_roster_that_may_start(
    clients: int, corrupt: float, dropout: float, malicious: bool
) -> None:
    """Whichever clients the server keeps out: the printed bits hold with all corrupt clients still there."""
    plan = plan_graph(clients, corrupt, dropout, malicious=malicious)
    marked = math.ceil(corrupt * clients - 1e-9)
    step = max(1, clients // 1000)
    for roster in [*range(plan.min_roster, clients, step), clients]:  # one client too many drops out, nowhere too few
        at = assess_graph(
            roster,
            marked / roster,
            math.ceil(dropout * roster - 1e-9) / roster,
            degree=plan.degree,
            threshold=plan.threshold,
            arc=plan.arc,
            malicious=malicious,
        )
        assert at.security_bits >= plan.security_bits - 1e-9 >= 40 - 1e-9
        assert at.correctness_bits >= plan.correctness_bits - 1e-9 >= 20 - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "corrupt", "dropout"), [(200, 0.1, 0.1), (400, 0.05, 0.2)])
def test_simulated_rings_fail_as_rarely_as_planned(clients: int, corrupt: float, dropout: float) -> None:
    """Rings of few bits, so that failures can be counted: secrecy at the smallest roster, correctness at the cohort.

    Each of the bounds is a union bound over clients, so the counted frequency is below it.
    """
    rng = np.random.default_rng(12)
    degree = 24
    half, threshold = degree // 2, 17
    arc = planner.cohort_arc(clients, dropout, degree, 4)
    marked, least = math.ceil(corrupt * clients - 1e-9), planner.smallest_roster(clients, dropout, degree)
    tries = 4000

    def rings(size: int, count: int) -> np.ndarray:
        """For each try: 1 at the places of `count` clients on a ring of `size`."""
        places = np.zeros((tries, size), np.int64)
        places[:, :count] = 1
        return rng.permuted(places, axis=1)

    def windows(ring: np.ndarray, width: int, skip: int = 0) -> np.ndarray:
        """The number of marked ones among the `width` places after each place, `skip` left out."""
        size = ring.shape[1]
        sums = np.cumsum(np.concatenate([np.zeros((tries, 1), np.int64), ring, ring, ring], axis=1), axis=1)
        first = np.arange(size) + skip
        return sums[:, first + width] - sums[:, first]

    corrupt_at = rings(least, marked)
    right, left = windows(corrupt_at, half, 1), np.roll(windows(corrupt_at, half), half, axis=1)
    both = (right + left >= 2 * threshold - degree).any(axis=1).mean()
    border = ((right >= threshold - half) | (left >= threshold - half)).any(axis=1).mean()
    plan = planner.assess_cohort(clients, corrupt, dropout, degree=degree, threshold=threshold, arc=arc, malicious=True)
    bound = 2.0 ** -(plan.security_bits + planner.GRINDING_BITS)
    assert max(both, border) <= bound + 3 * math.sqrt(min(bound, 1) / tries)
    gone = rings(clients, math.floor(dropout * clients + 1e-9))
    right, left = windows(gone, half, 1), np.roll(windows(gone, half), half, axis=1)
    late = ((right + left > degree - threshold).any(axis=1) | (right > half - arc).any(axis=1)).mean()
    bound = 2.0**-plan.correctness_bits
    assert 0 < late <= bound + 3 * math.sqrt(min(bound, 1) / tries)


def test_a_smaller_degree_would_not_do() -> None:
    plan = plan_graph(1000, 0.05, 0.05, malicious=True)
    less = plan.degree - 2
    for threshold in range(less // 2 + 1, less + 1):
        for arc in range(1, less // 2):
            at = assess_cohort(1000, 0.05, 0.05, degree=less, threshold=threshold, arc=arc, malicious=True)
            assert at.security_bits < 40 or at.correctness_bits < 20


def test_degrees_grow_slowly_up_to_a_hundred_million() -> None:
    degrees = [plan_graph(10**e, 0.05, 0.05, malicious=False).degree for e in range(3, 9)]
    assert degrees == sorted(degrees)
    assert degrees[-1] < 2 * degrees[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((1000, 0.34, 0.34), "340 corrupt clients may all be among the 660 .* above 0.758 of the neighbors"),
        ((50, 0.2, 0.2), "no degree up to 49"),
        ((2, 0.1, 0.1), "3 to"),
        ((10**9, 0.1, 0.1), "3 to"),
        ((100, 1.0, 0.0), "corrupt must be a fraction"),
        ((100, 0.0, -0.1), "dropout must be a fraction"),
        ((100, math.nan, 0.1), "corrupt must be a fraction"),
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


def test_min_arc_against_the_definition() -> None:
    rng = np.random.default_rng(3)
    for size, degree in [(31, 6), (9, 8), (20, 2), (12, 10)]:
        graph = Graph(size, degree, bytes(32))
        members = set(rng.choice(size, size // 2, replace=False).tolist())
        order = graph._order.tolist()
        arcs = [sum(order[(s + i) % size] in members for i in range(degree // 2)) for s in range(size)]
        assert graph.min_arc(Bitmap.of(size, members)) == min(arcs)
    assert Graph(5, 0, bytes(32)).min_arc(Bitmap.of(5, (1, 2))) == 2
