"""Composition by tilted transforms, against references, dp-accounting, closed forms and direct integration."""

import itertools
import math
import random

import mpmath
import numpy as np
import pytest
from scipy import stats

from privfl.dp import Everyone, FixedSize, Poisson, TruncatedPoisson
from privfl.dp.accounting.gaussian import gaussian_epsilon, log_delta
from privfl.dp.accounting.losses import GaussianPair, Loss
from privfl.dp.accounting.orders import orders_of
from privfl.dp.accounting.profiles import fixed_size_delta
from privfl.dp.accounting.tilted import Composition, tilted_epsilon
from privfl.errors import UnsupportedRelease

# Name, q, z, rounds, delta, the figures on 80 and 160 points in a standard deviation, and an independent value.
TABLE = [
    ("E", 6500 / 3e6, 7.0, 2000, 1e-10, 0.075374582, 0.0753738405, 0.0753738),
    ("A'", 0.01, 1.0, 1000, 1e-15, 4.85455664, 4.85454254, 4.854536),
    ("C'", 0.1, 0.8, 100, 1e-15, 24.3819751, 24.3818798, 24.381846),
    ("E'", 6500 / 3e6, 7.0, 2000, 1e-15, 0.100356607, 0.100355641, 0.1003553),
    ("L'", 0.5, 5.0, 1000, 1e-15, 30.1291548, 30.1288163, 30.128701),
    ("G", 1.0, 10.0, 100, 1e-15, 8.16569466, 8.16560815, 8.16557970),
    # These have no independent value; the central limit of "tiny" is 0.0104997.
    ("I'", 0.001, 0.8, 10**6, 1e-15, 17.1545268, 17.1543455, None),
    ("tiny", 8.419e-5, 12.75, 676300, 5.58e-5, 0.0105010, 0.0105009, None),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_small_deltas(row):
    _, q, z, rounds, delta, coarse, fine, truth = row
    orders = orders_of([(z, Poisson(q), rounds)], "add_remove")
    quick, figure = tilted_epsilon(orders, delta, quick=True), tilted_epsilon(orders, delta)
    assert figure <= quick
    assert quick == pytest.approx(coarse, rel=2e-5)
    assert fine * (1 - 2e-5) <= figure <= coarse * (1 + 2e-5)
    if truth is not None:
        assert truth * (1 - 1e-5) <= figure <= truth * (1 + 5e-4)


def test_rare_draws_with_little_noise_keep_their_error():
    orders = orders_of([(0.6, Poisson(1e-6), 10**5)], "add_remove")
    assert 0.0149 <= tilted_epsilon(orders, 1e-8) <= 0.0155


def one_step(z, q):
    """(P, Q, ln(P/Q)) of the sampled pair, in mpmath."""

    def normal(x, mean):
        return mpmath.npdf(x, mean, z)

    return lambda x: (1 - q) * normal(x, 0) + q * normal(x, 1), lambda x: normal(x, 0)


def last_step(z, q, swapped, epsilon):
    """delta(epsilon) of one step, for any epsilon, from normal distribution functions."""
    a = mpmath.e**epsilon
    if not swapped:
        if a <= 1 - q:
            return 1 - a
        x = z**2 * mpmath.log((a - (1 - q)) / q) + mpmath.mpf(1) / 2
        above = mpmath.ncdf(-x / z)
        return (1 - q) * above + q * mpmath.ncdf(-(x - 1) / z) - a * above
    if 1 / a <= 1 - q:
        return mpmath.mpf(0)
    x = z**2 * mpmath.log((1 / a - (1 - q)) / q) + mpmath.mpf(1) / 2
    below = mpmath.ncdf(x / z)
    return below - a * ((1 - q) * below + q * mpmath.ncdf((x - 1) / z))


def integrated(z, q, swapped, epsilon, rounds):
    """delta(epsilon) of a composition, by integrating over all steps but the last."""
    if rounds == 1:
        return last_step(z, q, swapped, epsilon)
    p, base = one_step(z, q)
    first = base if swapped else p

    def integrand(x):
        loss = mpmath.log(p(x) / base(x))
        return first(x) * integrated(z, q, swapped, epsilon - (-loss if swapped else loss), rounds - 1)

    return mpmath.quad(integrand, [z * piece for piece in range(-12, 16)])


def check(z, q, swapped, rounds, *, epsilon, delta):
    pair = GaussianPair(z, (0.0, 1.0), (1 - q, q), (1.0, 0.0))
    got = tilted_epsilon([[(Loss(((1.0, pair),), swapped=swapped), rounds)]], delta)
    assert epsilon * (1 - 1e-9) <= got <= epsilon * (1 + 1e-4)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("q", "z", "epsilon", "rounds"), [(0.3, 0.7, 3.0, 1), (0.2, 1.0, 2.5, 2), (0.05, 0.8, 3.0, 2)])
def test_direct_integration_to_twenty_digits(q, z, epsilon, rounds, swapped):
    if swapped:
        epsilon = -0.8 * rounds * math.log1p(-q)  # of the losses that this order has
    with mpmath.workdps(20):
        delta = float(integrated(mpmath.mpf(z), mpmath.mpf(q), swapped, mpmath.mpf(epsilon), rounds))
    check(z, q, swapped, rounds, epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(("q", "z", "epsilon"), [(0.4, 1.5, 2.0), (0.1, 0.7, 4.0), (1.0, 2.0, 3.0)])
def test_direct_integration_over_two_of_three_rounds(q, z, epsilon):
    x = np.linspace(-11 * z, 11 * z + 1, 1500)
    loss = np.logaddexp(math.log1p(-q) if q < 1 else -np.inf, math.log(q) + (2 * x - 1) / (2 * z**2))
    density = stats.norm.pdf(x, 0, z) * np.exp(loss) * (x[1] - x[0])
    left = epsilon - loss[:, None] - loss[None, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        odds = left + (np.log(-np.expm1(math.log1p(-q) - left)) if q < 1 else 0.0) - math.log(q)
        at = z**2 * odds + 0.5
        at = np.where(np.isnan(at), -np.inf, at)
        above = stats.norm.sf(at / z)
        last = (1 - q) * above + q * stats.norm.sf((at - 1) / z) - np.exp(left) * above
    last = np.where(np.isneginf(at), -np.expm1(left), last)
    check(z, q, False, 3, epsilon=epsilon, delta=float(density @ last @ density))


def test_never_below_the_closed_form_without_sampling():
    rng = random.Random(5)
    for _ in range(25):
        z, rounds, delta = 10 ** rng.uniform(-1, 3), rng.randint(1, 1000), 10 ** rng.uniform(-30, -2)
        exact = gaussian_epsilon(z / math.sqrt(rounds), delta)
        got = tilted_epsilon(orders_of([(z, Everyone(), rounds)], "zero_out"), delta)
        assert exact * (1 - 2e-9) <= got <= exact * (1 + 5e-4) + 1e-12


# dp-accounting takes logarithms of zeros, and scipy divides by tiny numbers in them.
library = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def reference(events, adjacency, delta, grid):
    """dp-accounting's own composition, which connects the dots on a given grid."""
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.pld.privacy_loss_distribution import NeighborRel

    total = None
    for z, sampling, count in events:
        if isinstance(sampling, TruncatedPoisson):
            one = pld.from_truncated_subsampled_gaussian_mechanism(
                sampling.population, sampling.probability, sampling.cap, z, value_discretization_interval=grid
            )
        else:
            relation = NeighborRel.REPLACE_ONE if adjacency == "replace_one" else NeighborRel.ADD_OR_REMOVE_ONE
            q = sampling.probability if isinstance(sampling, Poisson) else 1.0
            one = pld.from_gaussian_mechanism(
                z, sampling_prob=q, value_discretization_interval=grid, neighboring_relation=relation
            )
        part = one.self_compose(count)
        total = part if total is None else total.compose(part)
    return total.get_epsilon_for_delta(delta)


def random_cases(kind, number):
    rng = random.Random(kind)
    for _ in range(number):
        q, z, rounds = 10 ** rng.uniform(-3, -0.05), 10 ** rng.uniform(-0.2, 0.8), int(10 ** rng.uniform(0.3, 2.7))
        delta = 10 ** rng.uniform(-8, -5)
        sampling = Poisson(q)
        if kind == "truncated":
            sampling = TruncatedPoisson(q, max(1, int(1000 * q * rng.uniform(0.9, 1.3))), 1000)
        events = [(z, sampling, rounds)]
        if kind == "several":
            events += [(1.7 * z, Poisson(min(1.0, 2 * q)), max(1, rounds // 3)), (4 * z, Everyone(), 2)]
        yield events, "replace_one" if kind == "replace_one" else "add_remove", delta


@library
@pytest.mark.parametrize(
    "kind", ["poisson", "replace_one", pytest.param("truncated", marks=pytest.mark.slow), "several"]
)
def test_agrees_with_dp_accounting(kind):
    for events, adjacency, delta in random_cases(kind, 8):
        figure = tilted_epsilon(orders_of(events, adjacency), delta)
        grid = min(max(figure / 3000, 2e-5), 1e-3)
        other = reference(events, adjacency, delta, grid)
        assert other * (1 - 1e-3) <= figure <= other * (1 + 1e-4), events


@library
@pytest.mark.parametrize(
    ("size", "z", "rounds", "delta"), [(100, 4.0, 100, 1e-5), (625, 1.46, 1, 1.9e-5), (24, 5.2, 12, 1e-7)]
)
def test_fixed_size_agrees_with_its_profile(size, z, rounds, delta):
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap

    grid, top = 1e-3, 40_000
    epsilons = np.arange(top + 1) * grid
    upper = np.minimum.accumulate(fixed_size_delta(z, size / 1000, epsilons))
    lower = 1.0 - np.exp(-epsilons[:0:-1]) * (1.0 - upper[:0:-1])
    pmf = create_pmf_pessimistic_connect_dots_fixed_gap(
        grid, -top, top, np.minimum.accumulate(np.concatenate([lower, upper]))
    )
    other = pmf.self_compose(rounds).get_epsilon_for_delta(delta)
    figure = tilted_epsilon(orders_of([(z, FixedSize(size, 1000), rounds)], "replace_one"), delta)
    assert other * (1 - 1e-3) <= figure <= other * (1 + 1e-4)


def test_falls_with_delta_and_noise_and_grows_with_rounds_and_sampling():
    def figure(q=0.02, z=1.1, rounds=300, delta=1e-9):
        return tilted_epsilon(orders_of([(z, Poisson(q), rounds)], "add_remove"), delta)

    for values in (
        [figure(delta=delta) for delta in (1e-3, 1e-6, 1e-12, 1e-20, 1e-60, 1e-150, 1e-300)],
        [figure(rounds=rounds) for rounds in (1, 2, 3, 10, 100, 1000, 10_000)],
        [figure(z=z) for z in (1e4, 100.0, 10.0, 3.0, 1.0, 0.5, 0.3)],
        [figure(q=q) for q in (1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.999999, 1.0)],
    ):
        assert all(before < after * (1 + 1e-4) for before, after in itertools.pairwise(values))
        assert 0.0 <= values[0] < values[-1] < math.inf


def test_full_sampling_is_the_limit_of_sampling():
    def figure(q):
        return tilted_epsilon(orders_of([(2.0, Poisson(q), 20)], "add_remove"), 1e-12)

    assert figure(1 - 1e-12) == pytest.approx(figure(1.0), rel=1e-4)


def test_both_orders_count():
    orders = orders_of([(1.0, Poisson(0.3), 5)], "add_remove")
    assert len(orders) == 2
    removed, added = (tilted_epsilon([order], 1e-6) for order in orders)
    assert tilted_epsilon(orders, 1e-6) == max(removed, added)
    assert added < removed
    assert len(orders_of([(1.0, Poisson(0.3), 5)], "replace_one")) == 1
    assert len(orders_of([(1.0, FixedSize(3, 10), 5), (2.0, Everyone(), 1)], "replace_one")) == 1


def test_a_cap_that_is_never_reached_costs_nothing():
    free = tilted_epsilon(orders_of([(1.0, Poisson(0.01), 50)], "add_remove"), 1e-8)
    capped = tilted_epsilon(orders_of([(1.0, TruncatedPoisson(0.01, 1000, 1000), 50)], "add_remove"), 1e-8)
    rarely = tilted_epsilon(orders_of([(1.0, TruncatedPoisson(0.01, 60, 1000), 50)], "add_remove"), 1e-8)
    assert capped == free
    assert rarely == pytest.approx(free, rel=1e-6)


def test_the_grid_keeps_both_probabilities():
    pair = GaussianPair(0.9, (0.0, 1.0), (0.8, 0.2), (1.0, 0.0))
    for swapped in (False, True):
        for h in (1e-4, 0.01, 0.5):
            cells = Loss(((1.0, pair),), swapped=swapped).cells(h, -60.0)
            losses = h * (cells.low + np.arange(len(cells.log_p)))
            assert np.exp(cells.log_p).sum() == pytest.approx(1.0, abs=1e-11)
            assert np.exp(cells.log_p - losses).sum() == pytest.approx(1.0, abs=1e-9)


def test_where_the_rounding_would_decide_it_is_refused():
    with pytest.raises(UnsupportedRelease, match="larger delta"):
        tilted_epsilon(orders_of([(0.4, Poisson(1e-9), 10**7)], "add_remove"), 1e-12)


def test_nothing_released_is_free():
    assert tilted_epsilon([[], []], 1e-9) == 0.0
    assert tilted_epsilon(orders_of([(1e4, Poisson(1e-4), 1)], "add_remove"), 1e-3) == 0.0


def test_a_composition_reports_delta_at_an_epsilon():
    (order,) = orders_of([(5.0, Everyone(), 25)], "zero_out")
    composition = Composition(order, math.log(1e-12))
    for epsilon in (0.5, 2.0, 5.0):
        transform = composition.transform(composition.tilt_for(epsilon))
        exact = log_delta(1.0, epsilon)
        assert exact <= transform.log_delta(epsilon) <= exact + 2e-3
