"""The statistics of an audit: reference values, coverage, and what a bound may not do."""

import time

import numpy as np
import pytest
from scipy import stats

from privfl.dp import Accountant, History
from privfl.dp.accounting.audit import (
    GuessCounts,
    _improbable,
    clopper_pearson,
    free_bound,
    gaussian_bound,
    highest_rates,
    mu_epsilon,
    one_run_bound,
)
from privfl.dp.accounting.scores import Discriminant, Scores, StatedCurve, lies_above, score_bounds
from privfl.errors import ConfigError

DELTA = 1e-5


def scores(rng: np.random.Generator, count: int, mu: float) -> Scores:
    return Scores(without=rng.normal(0.0, 1 / mu, count), present=rng.normal(1.0, 1 / mu, count))


@pytest.mark.parametrize(
    ("trials", "hits", "mu", "gaussian", "free"),
    [
        (1_000, 691, 0.832184, 3.543097, 0.669206),
        (10_000, 6_915, 0.948519, 4.117814, 0.764544),
        (100_000, 69_146, 0.983697, 4.294709, 0.793506),
    ],
)
def test_the_bounds_are_those_of_the_specification(
    trials: int, hits: int, mu: float, gaussian: float, free: float
) -> None:
    errors = GuessCounts(hits, trials, trials - hits, trials)
    bound = gaussian_bound(errors, delta=DELTA)
    assert bound.mu == pytest.approx(mu, abs=1e-6)
    assert bound.epsilon == pytest.approx(gaussian, abs=1e-6)
    assert free_bound(errors, delta=DELTA).epsilon == pytest.approx(free, abs=1e-6)


@pytest.mark.parametrize(("wins", "trials"), [(0, 50), (1, 50), (17, 50), (49, 50), (50, 50)])
def test_clopper_pearson_is_that_of_scipy(wins: int, trials: int) -> None:
    low, high = clopper_pearson(wins, trials, 0.025)
    interval = stats.binomtest(wins, trials).proportion_ci(0.95, method="exact")
    assert float(low) == pytest.approx(interval.low, abs=1e-12)
    assert float(high) == pytest.approx(interval.high, abs=1e-12)


def test_a_million_pairs_take_less_than_a_second() -> None:
    rng = np.random.default_rng(1)
    training, test = scores(rng, 500_000, 1.0), scores(rng, 500_000, 1.0)
    started = time.process_time()
    gaussian, free = score_bounds(training, test, delta=DELTA)
    assert time.process_time() - started < 1.0
    assert 0.98 < (gaussian.mu or 0.0) < 1.0
    assert 2.0 < free.epsilon < 4.377


def test_the_bounds_hold_as_often_as_they_say() -> None:
    rng, alpha, above = np.random.default_rng(2), 0.2, np.zeros(2)
    truth = mu_epsilon(1.5, DELTA)
    for _ in range(300):
        training, test = scores(rng, 400, 1.5), scores(rng, 400, 1.5)
        above += [bound.epsilon > truth for bound in score_bounds(training, test, delta=DELTA, alpha=alpha)]
    assert (above <= 300 * alpha).all()


def test_the_bound_of_one_run_is_below_the_exact_tail() -> None:
    # Without abstentions the best guesses of a Gaussian are independent, each right with probability Phi(mu/2).
    for mu in (0.5, 1.0, 2.0):
        for correct in range(20, 41):
            if _improbable(mu, correct, 40, 40, 0.05):
                assert stats.binom.sf(correct - 1, 40, stats.norm.cdf(mu / 2)) < 0.05
    assert _improbable(0.5, 40, 40, 40, 0.05)


def test_the_bound_of_one_run_holds_and_grows_with_the_canaries() -> None:
    rng, medians = np.random.default_rng(3), []
    for count in (200, 2_000):
        figures = []
        for _ in range(60):
            included = rng.random(count) < 0.5
            order = np.argsort(rng.normal(size=count) + 2.0 * included)
            each = count // 20
            correct = int(included[order[-each:]].sum() + (~included[order[:each]]).sum())
            figures.append(one_run_bound(correct, 2 * each, count, delta=DELTA).mu or 0.0)
        assert sum(figure > 2.0 for figure in figures) <= 3
        medians.append(float(np.median(figures)))
    assert 0.5 < medians[0] < medians[1] < 2.0


def test_a_discriminant_uses_noise_that_was_reused() -> None:
    rng = np.random.default_rng(4)

    def features(sign: float) -> np.ndarray:
        noise = rng.normal(size=(2_000, 1))
        return sign * np.array([1.0, -1.0]) + np.hstack([noise, noise]) + 0.01 * rng.normal(size=(2_000, 2))

    fit = Discriminant.fit(features(0.0), features(1.0))
    test = Scores(without=fit(features(0.0)), present=fit(features(1.0)))
    assert test.errors(0.5).rates == (0.0, 1.0)
    assert abs(float(test.without.mean())) < 0.01
    assert abs(float(test.present.mean()) - 1) < 0.01


def test_a_feature_without_noise_separates() -> None:
    rng = np.random.default_rng(5)
    without = np.column_stack([rng.normal(size=100), np.zeros(100)])
    present = np.column_stack([rng.normal(size=100), np.ones(100)])
    fit = Discriminant.fit(without, present)
    assert Scores(without=fit(without), present=fit(present)).errors(0.5).rates == (0.0, 1.0)


def test_worlds_that_are_equal_bound_nothing() -> None:
    fit = Discriminant.fit(np.zeros((10, 2)), np.zeros((10, 2)))
    test = Scores(without=fit(np.zeros((10, 2))), present=fit(np.zeros((10, 2))))
    assert [bound.epsilon for bound in score_bounds(test, test, delta=DELTA)] == [0.0, 0.0]


def test_a_stated_curve_is_never_below_the_promise_and_close_to_it() -> None:
    curve = StatedCurve.of(lambda delta: Accountant(delta).spent(_one_gaussian()))
    rates = np.linspace(0.001, 0.999, 200)
    truth = stats.norm.sf(stats.norm.isf(rates) - 1.0)
    assert (curve(rates) >= truth - 1e-9).all()
    assert (curve(rates) <= truth + 0.01).all()
    points = curve.points()
    assert points[0][1] < 0.001
    assert points[-1] == (1.0, 1.0)


def test_scores_above_a_stated_curve_are_seen() -> None:
    curve, rng = StatedCurve.of(lambda delta: Accountant(delta).spent(_one_gaussian())), np.random.default_rng(6)
    assert not lies_above(curve, scores(rng, 5_000, 1.0), scores(rng, 5_000, 1.0))
    assert lies_above(curve, scores(rng, 5_000, 1.3), scores(rng, 5_000, 1.3))


def _one_gaussian() -> History:
    from privfl.dp import Everyone, Plan

    plan = Plan(sampling=Everyone(), noise_multiplier=1.0, rounds=1)
    history = plan.history()
    assert Accountant(DELTA).spent(history) == pytest.approx(4.377178, abs=1e-5)
    return history


def test_what_is_no_outcome_is_refused() -> None:
    for errors in ((3, 2, 0, 1), (0, 0, 0, 1), (-1, 2, 0, 1)):
        with pytest.raises(ConfigError):
            GuessCounts(*errors)
    with pytest.raises(ConfigError, match="no such outcome"):
        one_run_bound(3, 2, 4, delta=DELTA)
    with pytest.raises(ConfigError, match="two trials"):
        Discriminant.fit(np.zeros((1, 1)), np.zeros((2, 1)))


def test_the_curve_of_a_bound_goes_through_its_own_rates() -> None:
    errors = GuessCounts(800, 1_000, 200, 1_000)
    rates = np.array([0.0, 0.2, 1.0])
    gaussian = gaussian_bound(errors, delta=DELTA)
    assert highest_rates(gaussian, DELTA, rates)[1] < 0.8
    assert highest_rates(gaussian, DELTA, rates)[[0, 2]].tolist() == [0.0, 1.0]
    free = free_bound(errors, delta=DELTA)
    highest = highest_rates(free, DELTA, rates)
    assert highest[0] == pytest.approx(DELTA)
    assert 0.2 < highest[1] < 0.8
    assert highest[2] == pytest.approx(1.0)


def test_scores_have_a_curve_and_a_reverse() -> None:
    both = Scores(without=np.array([0.0, 0.1, 0.9]), present=np.array([0.2, 0.8, 1.0]))
    assert both.errors(0.5) == GuessCounts(2, 3, 1, 3)
    assert both.errors(0.5, above=False) == GuessCounts(2, 3, 1, 3)
    assert both.errors(0.95, above=False) == GuessCounts(3, 3, 2, 3)
    curve = both.curve(5)
    assert curve[0] == (0.0, 0.0)
    assert [y for _, y in curve] == sorted(y for _, y in curve)


def test_guesses_that_are_always_wrong_bound_nothing() -> None:
    errors = GuessCounts(0, 10, 10, 10)
    assert gaussian_bound(errors, delta=DELTA).epsilon == 0.0
    assert free_bound(errors, delta=DELTA).epsilon == 0.0
    assert one_run_bound(0, 10, 10, delta=DELTA).epsilon == 0.0
    assert one_run_bound(4_000, 4_000, 4_000, delta=DELTA).epsilon > 14
