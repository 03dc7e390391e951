"""The chance that one client decides whether a round is skipped: its bound, the exact value, and its note."""

import math

import numpy as np
import pytest
from scipy import stats

from privfl.dp import Draw, Everyone, FixedSize, Poisson, TruncatedPoisson
from privfl.dp.draws import mean_shortfall, plausible, round_turn, rounded_up, sampled_share
from privfl.errors import ConfigError


def counting(least, dropout):
    """The shortfall of a sum that opens `least`(k) of k vectors."""
    return lambda k: float(stats.binom.cdf(least(k) - 1, k, 1 - dropout)) if least(k) <= k else 1.0


def masked(k):
    return 2 * k // 3 + 1


def encrypted(k):
    return k // 2 + 1


def exact_turn(n, q, p, least):
    """The sum over K of the exact chance that the client decides: protocols/privacy-ledger, section 9."""
    total = 0.0
    for k in range(n):
        a, b = least(k) if least(k) <= k else k + 1, least(k + 1)
        cdf = lambda x, k=k: float(stats.binom.cdf(x, k, 1 - p))  # noqa: E731
        stays, leaves = abs(cdf(a - 1) - cdf(b - 2)), abs(cdf(a - 1) - cdf(b - 1))
        total += float(stats.binom.pmf(k, n - 1, q)) * ((1 - p) * stays + p * leaves)
    return total


@pytest.mark.parametrize(
    ("setting", "exact", "bound"),
    [
        ((masked, 1000, 0.1, 0.1), 4.3087e-10, 1.4506e-9),
        ((masked, 1000, 0.05, 0.1), 6.2539e-6, 2.0611e-5),
        ((encrypted, 1000, 0.05, 0.1), 1.4861e-10, 2.9211e-10),
        ((masked, 60, 0.5, 0.3), 6.442e-2, 0.7252),
    ],
)
def test_reference_values(setting, exact, bound):
    least, n, q, p = setting
    assert exact_turn(n, q, p, least) == pytest.approx(exact, rel=1e-3)
    turn = round_turn(Poisson(q), n, counting(least, p))
    assert turn == rounded_up(turn)
    assert bound * (1 - 1e-4) <= turn <= bound * 1.01
    assert turn >= exact_turn(n, q, p, least)


def test_a_sum_that_opens_whatever_arrives_never_turns():
    for sampling in (Poisson(0.2), Everyone(), FixedSize(3, 10), TruncatedPoisson(0.5, 4, 10)):
        assert round_turn(sampling, 10, lambda k: 0.0) == 0.0


def test_everyone_turns_only_where_a_client_can_be_absent():
    shortfall = counting(masked, 0.2)
    assert round_turn(Everyone(), 9, shortfall, adjacency="zero_out") == 0.0
    assert round_turn(Everyone(), 9, shortfall, adjacency="replace_one") == 0.0
    assert round_turn(Everyone(), 9, shortfall) == rounded_up(shortfall(8) + shortfall(9))


def test_a_fixed_size_is_not_free_of_it():
    shortfall = counting(masked, 0.2)
    assert round_turn(FixedSize(9, 100), 100, shortfall) == rounded_up(2 * shortfall(9))


def test_sizes_that_never_open_tell_nothing():
    assert round_turn(Poisson(0.3), 2, lambda k: 1.0) == 0.0
    assert round_turn(Poisson(0.5), 4, lambda k: 0.0 if k == 4 else 1.0) == 0.126  # only from three others to four


def test_tries_add_up_to_at_most_one():
    shortfall = counting(masked, 0.2)
    once = round_turn(Everyone(), 9, shortfall)
    assert round_turn(Everyone(), 9, shortfall, tries=2) == pytest.approx(2 * once, rel=0.02)
    assert round_turn(Everyone(), 9, shortfall, tries=1000) == 1.0


def test_one_size_that_is_not_bounded_bounds_nothing():
    assert round_turn(Poisson(0.3), 20, lambda k: None if k == 7 else 0.0) is None
    assert mean_shortfall(Poisson(0.3), 20, lambda k: None if k == 7 else 0.0) is None


@pytest.mark.parametrize("n", [100, 20_000])
def test_large_populations_leave_out_only_what_cannot_matter(n):
    q, dropout = 50 / n, 0.1
    turn = round_turn(Poisson(q), n, counting(masked, dropout))
    k = np.arange(n)
    without = stats.binom.cdf(np.minimum(2 * k // 3, k), k, 1 - dropout)
    whole = np.append(without, stats.binom.cdf(2 * n // 3, n, 1 - dropout))
    never = 2 * np.arange(n + 1) // 3 + 1 > np.arange(n + 1)
    whole[never] = 1.0
    both = np.where(never[:-1] & never[1:], 0.0, np.minimum(1.0, whole[:-1] + whole[1:]))
    assert turn == pytest.approx(float(np.sum(stats.binom.pmf(k, n - 1, q) * both)), rel=0.011)


@pytest.mark.parametrize("sampling", [Poisson(0.4), TruncatedPoisson(0.4, 5, 9), FixedSize(4, 9), Everyone()])
def test_the_mean_shortfall_is_that_of_all_cohorts(sampling):
    shortfall = counting(encrypted, 0.25)
    found = mean_shortfall(sampling, 9, shortfall)
    rng = np.random.default_rng(0)
    sizes = {
        Poisson: lambda: rng.binomial(9, 0.4),
        TruncatedPoisson: lambda: min(5, rng.binomial(9, 0.4)),
        FixedSize: lambda: 4,
        Everyone: lambda: 9,
    }[type(sampling)]
    assert found == pytest.approx(np.mean([shortfall(sizes()) for _ in range(4000)]), abs=0.02)


def skip_delta(n, q, p, least, rounds):
    """The least delta at epsilon 0 of the skip bits of `rounds` rounds alone, with n clients against n - 1."""

    def skipped(population):
        return sum(float(stats.binom.pmf(k, population, q)) * counting(least, p)(k) for k in range(population + 1))

    a, b, j = skipped(n), skipped(n - 1), np.arange(rounds + 1)
    one, other = stats.binom.pmf(j, rounds, a), stats.binom.pmf(j, rounds, b)
    return float(np.maximum(one - other, 0).sum())


@pytest.mark.parametrize("least", [masked, encrypted, lambda k: max(1, math.ceil(0.9 * k))])
@pytest.mark.parametrize(("n", "q", "p"), [(4, 0.5, 0.3), (8, 0.3, 0.1), (12, 0.8, 0.05), (20, 0.2, 0.4)])
def test_the_theorem_covers_the_skip_bits_exactly(least, n, q, p):
    """Delta of the visible bits at epsilon 0 is at most the sum of q t over the rounds."""
    turn = round_turn(Poisson(q), n, counting(least, p))
    for rounds in (1, 3, 10):
        assert skip_delta(n, q, p, least, rounds) <= rounds * q * turn


def test_a_run_is_plausible_until_it_is_not():
    settings = {"sampling": Poisson(0.1), "population": 1000, "rounds": 100, "participants": 10_000}
    assert plausible(skipped=0, shortfall=0.0, **settings)
    assert not plausible(skipped=1, shortfall=0.0, **settings)
    assert plausible(skipped=20, shortfall=0.1, **settings)
    assert not plausible(skipped=45, shortfall=0.1, **settings)
    settings["participants"] = 10_700
    assert not plausible(skipped=0, shortfall=0.1, **settings)
    assert plausible(Poisson(0.1), 1000, rounds=0, skipped=0, participants=0, shortfall=0.0)
    assert plausible(Everyone(), 10, rounds=5, skipped=5, participants=50, shortfall=1.0)


@pytest.mark.parametrize(("n", "p", "k"), [(100, 0.1, 40), (100, 0.1, 45), (10_000, 0.01, 170), (10_000, 0.01, 165)])
def test_what_is_implausible_is_a_binomial_tail_below_a_billionth(n, p, k):
    implausible = float(stats.binom.sf(k - 1, n, p)) < 1e-9
    assert plausible(Everyone(), 1, rounds=n, skipped=k, participants=0, shortfall=p) != implausible


@pytest.mark.parametrize(("turn", "up"), [(0.0, 0.0), (1.0, 1.0), (0.12341, 0.124), (1.2e-7, 1.2e-7), (9.991e-9, 1e-8)])
def test_a_turn_has_three_digits_and_is_rounded_up(turn, up):
    assert rounded_up(turn) == up
    assert rounded_up(up) == up


@pytest.mark.parametrize(
    "make",
    [
        lambda: rounded_up(1.5),
        lambda: rounded_up(math.nan),
        lambda: Draw(-1, Everyone(), None),
        lambda: Draw(True, Everyone(), None),
        lambda: Draw(0, Everyone(), 0.12345),
        lambda: Draw(0, Everyone(), 2.0),
        lambda: Draw(0, Everyone(), None, void=1),
        lambda: Draw.read({"type": "draw", "round": 0, "sampling": {"kind": "everyone"}}),
        lambda: Draw.read({"type": "draw", "round": 0, "sampling": {"kind": "everyone"}, "turn": None, "void": False}),
        lambda: Draw.read({"type": "draw", "round": 0, "sampling": {"kind": "everyone"}, "turn": True}),
        lambda: Draw.read({"type": "draw", "round": 0, "sampling": {"kind": "everyone"}, "turn": None, "tries": 3}),
        lambda: round_turn(Poisson(0.5), 0, lambda k: 0.0),
        lambda: round_turn(Poisson(0.5), 3, lambda k: 0.0, tries=0),
        lambda: round_turn(Poisson(0.5), 3, lambda k: 1.5),
        lambda: round_turn(Poisson(0.5), 3, lambda k: math.nan),
    ],
)
def test_what_is_no_probability_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_draw_is_read_back():
    for draw in (Draw(0, Everyone(), None), Draw(3, FixedSize(2, 9), 0.125, void=True), Draw(1, Poisson(0.5), 0.0)):
        assert Draw.read(draw.record()) == draw
        assert 0 < sampled_share(draw.sampling) <= 1
