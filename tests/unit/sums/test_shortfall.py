"""The bound on "too few stay": against all patterns of dropouts, in exact fractions, and for every sum."""

import itertools
import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError, TooFewSurvivors
from privfl.he import CkksSum
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.sums.shortfall import binomial_shortfall

CREDENTIALS, DIRECTORY = generate_identities(range(8))
CHANCES = (0.0, 1e-9, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0)


def truth(cohort: int, min_vectors: int, dropout: float) -> Fraction:
    """F_k(m - 1), the distribution function of Bin(k, 1 - p), in fractions."""
    p = Fraction(dropout)
    return sum(
        (math.comb(cohort, j) * (1 - p) ** j * p ** (cohort - j) for j in range(min(min_vectors, cohort + 1))),
        Fraction(0),
    )


@pytest.mark.parametrize("dropout", CHANCES)
@pytest.mark.parametrize("cohort", [0, 1, 2, 3, 7, 20, 101])
def test_the_bound_is_the_truth_rounded_up(cohort: int, dropout: float) -> None:
    for min_vectors in sorted({0, 1, 2, 3, cohort // 2 + 1, 2 * cohort // 3 + 1, cohort, cohort + 1}):
        found, exact = binomial_shortfall(cohort, min_vectors, dropout), truth(cohort, min_vectors, dropout)
        assert exact <= Fraction(found) <= 1
        assert found <= float(exact) * (1 + 1e-7) ** max(1, cohort) + 5e-324 or dropout == 1e-9


def test_the_bound_never_falls_as_dropouts_grow() -> None:
    rng = np.random.default_rng(5)
    for cohort, min_vectors in [(5, 4), (30, 21), (100, 67), (100, 51), (999, 667)]:
        near = [0.1 + i * 2.0**-50 for i in range(60)]
        chances = sorted([*rng.uniform(0, 1, 60), *rng.uniform(0, 1e-3, 20), *near, 0.0, 1.0])
        figures = [binomial_shortfall(cohort, min_vectors, float(p)) for p in chances]
        assert figures == sorted(figures)
        assert (figures[0], figures[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    for scheme in (PlainSum(), MaskedSum(DIRECTORY), CkksSum(DIRECTORY)):
        with pytest.raises(ConfigError, match="probability"):
            scheme.shortfall(5, dropout)


def openings(scheme: Any, cohort: int, steps: int, min_survivors: int, chance: Fraction) -> Fraction:
    """The exact probability that nothing opens when each client leaves before a step of its own, or stays."""
    failed = Fraction(0)
    for leaves in itertools.product(range(steps + 1), repeat=cohort):
        task = SumTask(os.urandom(8), tuple(range(cohort)), min_survivors, 1, Ring(16), 1)
        try:
            run_sum(
                scheme,
                task,
                dict.fromkeys(task.clients, np.ones(1, np.int64)),
                credentials=CREDENTIALS,
                drop=lambda c, s, at=leaves: s >= at[c],
            )
        except TooFewSurvivors:
            # A client stays with probability 1 - p, and leaves at each of the steps with p / steps.
            weights = [1 - chance if at == steps else chance / steps for at in leaves]
            failed += math.prod(weights, start=Fraction(1))
    return failed


@pytest.mark.parametrize(
    ("make", "cohort", "steps"),
    [
        (PlainSum, 5, 1),
        (lambda: MaskedSum(mode="semi-honest"), 4, 4),
        (lambda: MaskedSum(DIRECTORY), 3, 5),
        (lambda: MaskedSum(mode="semi-honest", min_vectors=1, corrupt=0.0), 3, 4),
    ],
)
def test_whatever_the_step_at_which_clients_leave_the_bound_holds(
    make: Callable[[], Any], cohort: int, steps: int
) -> None:
    for min_survivors in (1, 2):
        scheme = make()
        bound = scheme.shortfall(cohort, 0.25, min_survivors=min_survivors)
        assert bound is not None
        failed = openings(scheme, cohort, steps, min_survivors, Fraction(1, 4))
        assert failed <= Fraction(bound)
        if steps == 1:
            assert float(failed) == pytest.approx(bound, rel=1e-9)


def test_each_sum_states_its_own_minimum() -> None:
    masked, ckks = MaskedSum(DIRECTORY, graph="complete"), CkksSum(DIRECTORY)
    for cohort in (3, 4, 5, 10, 57, 100, 300):
        assert masked.min_survivors_of(cohort, 1) == 2 * cohort // 3 + 1
        assert ckks.min_survivors_of(cohort, 1) == max(3, cohort // 2 + 1)
        assert PlainSum().min_survivors_of(cohort, 1) == 1
        for scheme in (masked, ckks, PlainSum()):
            assert scheme.min_survivors_of(cohort, cohort) == cohort
            task = SumTask(b"", tuple(range(cohort)), 2, 1, Ring(32), 1)
            assert scheme.min_survivors_to_open(task) == scheme.min_survivors_of(cohort, 2)
            least = scheme.min_survivors_of(cohort, 2)
            assert scheme.shortfall(cohort, 0.1, min_survivors=2) == binomial_shortfall(cohort, least, 0.1)


def test_a_cohort_that_can_never_open_falls_short_with_certainty() -> None:
    for scheme in (MaskedSum(DIRECTORY), MaskedSum(mode="semi-honest"), CkksSum(DIRECTORY)):
        for cohort in (0, 1, 2):
            assert scheme.shortfall(cohort, 0.0) == 1.0
            with pytest.raises(ConfigError):
                scheme.min_survivors_of(cohort, 1)
        assert scheme.shortfall(5, 0.0, min_survivors=6) == 1.0
        with pytest.raises(ConfigError, match="never opens"):
            scheme.min_survivors_of(5, 6)
    assert PlainSum().shortfall(0, 0.5) == 1.0
    with pytest.raises(ConfigError):
        PlainSum().min_survivors_of(3, 4)


def test_a_ring_states_its_minimum_and_a_bound_of_three_tails() -> None:
    ring = MaskedSum(mode="semi-honest", graph=4, share_threshold=3, corrupt=0.0)
    assert ring.min_survivors_of(9, 1) == 3
    assert ring.min_survivors_of(9, 7) == 7
    assert MaskedSum(mode="semi-honest", graph=2, share_threshold=1, corrupt=0.0).min_survivors_of(9, 1) == 3
    terms = ring.terms(SumTask(b"", tuple(range(9)), 1, 1, Ring(16), 1))
    for dropout in (0.0, 1e-6, 0.01, 0.1, 0.5, 1.0):
        tails = truth(9, max(3, terms.min_roster), dropout)
        tails += 9 * (truth(2, terms.arc, dropout) + truth(4, terms.threshold, dropout))
        found = ring.shortfall(9, dropout)
        assert found is not None
        assert min(Fraction(1), tails) <= Fraction(found) <= 1
        assert found == pytest.approx(min(1.0, float(tails)), rel=1e-6)


def test_the_bound_of_a_planned_ring_is_small_where_few_drop_out() -> None:
    for scheme in (MaskedSum(DIRECTORY), MaskedSum(mode="semi-honest")):
        for cohort in (101, 150, 400):
            figures = [scheme.shortfall(cohort, p) for p in (0.0, 0.01, 0.02, 0.05, 0.2, 1.0)]
            assert figures == sorted(figures)
            assert figures[0] == 0.0
            assert figures[1] < 1e-4
            assert figures[-1] == 1.0


class Watched(MaskedSum):
    """A masked sum that keeps its last server session, for its ring."""

    def server(self, task: SumTask, **arguments: Any) -> Any:
        self.session = super().server(task, **arguments)
        return self.session


def conditions_hold(scheme: Watched, terms: Any, stay: set[int]) -> bool:
    """The three conditions of `ring_shortfall`, on the ring of the last sum."""
    session, half = scheme.session, terms.degree // 2
    if len(session.state.adverts) < terms.min_roster:
        return False
    ring = [session._clients[place] in stay for place in session._graph._order]
    arcs = [sum(ring[(first + step) % len(ring)] for step in range(half)) for first in range(len(ring))]
    near = [arcs[place - half] + arcs[(place + 1) % len(ring)] for place in range(len(ring))]
    return sum(ring) >= max(3, terms.threshold) and min(arcs) >= terms.arc and min(near) >= terms.threshold


def count_aborts(scheme: Watched, steps: int, dropout: float, tries: int) -> int:
    """The sums that open nothing. A sum opens wherever the three conditions hold."""
    rng, failed = np.random.default_rng(7), 0
    for _ in range(tries):
        task = SumTask(os.urandom(8), tuple(range(8)), 1, 1, Ring(16), 1)
        leaves = np.where(rng.random(8) < dropout, rng.integers(0, steps, 8), steps)
        try:
            run_sum(
                scheme,
                task,
                dict.fromkeys(task.clients, np.ones(1, np.int64)),
                credentials=CREDENTIALS,
                drop=lambda c, s, at=leaves: s >= at[c],
            )
        except TooFewSurvivors:
            failed += 1
            assert not conditions_hold(scheme, scheme.terms(task), {c for c in range(8) if leaves[c] == steps})
    return failed


RINGS = {
    "signed": (lambda: Watched(DIRECTORY, graph=4, share_threshold=3, corrupt=0.0, dropout=0.1), 5),
    "semi-honest": (lambda: Watched(mode="semi-honest", graph=6, share_threshold=2, corrupt=0.0, dropout=0.3), 4),
}


@pytest.mark.parametrize("mode", RINGS)
@pytest.mark.parametrize(
    ("dropout", "tries"),
    [(0.02, 40), (0.3, 40), *(pytest.param(p, 1500, marks=pytest.mark.slow) for p in (0.005, 0.02, 0.06))],
)
def test_rings_abort_no_more_often_than_the_bound_says(mode: str, dropout: float, tries: int) -> None:
    make, steps = RINGS[mode]
    scheme = make()
    bound = scheme.shortfall(8, dropout)
    failed = count_aborts(scheme, steps, dropout, tries)
    assert failed <= tries * bound + 4 * math.sqrt(tries * bound)
    assert failed > 0 or dropout < 0.3  # many drop out: the conditions are tried


def test_a_plain_sum_may_open_whatever_arrives() -> None:
    task = SumTask(b"", (1, 2), 0, 2, Ring(16), 3)
    assert PlainSum().shortfall(0, 1.0, min_survivors=0) == 0.0
    assert PlainSum().shortfall(9, 0.9, min_survivors=0) == 0.0
    result = run_sum(PlainSum(), task, {})
    assert (result.total.tolist(), result.survivors) == ([0, 0], frozenset())
    for scheme in (MaskedSum(DIRECTORY, min_vectors=1), CkksSum(DIRECTORY, min_vectors=1)):
        with pytest.raises(ConfigError, match="1 or more"):
            scheme.server(task)
