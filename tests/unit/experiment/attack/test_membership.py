"""Membership attacks: strong where nothing protects, blind at a tiny epsilon, and never above what epsilon allows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privfl.dp.accounting.scores import Scores, StatedCurve
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import AttackPlan, Experiment, MembershipResult, attack
from privfl.experiment.attack import rounds as rounds_module
from privfl.experiment.attack.cases import attack_cases
from privfl.experiment.attack.dealing import Deck, dealt_train
from privfl.experiment.attack.membership import _hands
from privfl.experiment.attack.rates import Rates, area, highest, power
from privfl.experiment.attack.ratio import RatioTest, SingleUpdates
from privfl.experiment.attack.rounds import check_rounds
from privfl.experiment.audit.noise import BulkNoise

DIGITS = {"data.name": "digits", "data.clients": 4, "client.update": "gradient"}

CLIPPED = {"privacy.clip_norm": 0.5, "privacy.noise_multiplier": 1.0}


def guessed(plan: AttackPlan, **overrides: object) -> MembershipResult:
    result = attack(Experiment(overrides={**DIGITS, **overrides}), "membership", plan=plan)
    assert isinstance(result, MembershipResult)
    return result


@pytest.fixture(scope="module")
def lone() -> MembershipResult:
    """Clients with one example each, at a large and at a tiny epsilon."""
    return guessed(AttackPlan(trials=200, examples=1, epsilons=(8.0, 0.02)))


def test_a_lone_example_is_always_noticed_in_a_plain_update(lone: MembershipResult) -> None:
    rates = lone.cases[0].rates
    assert rates.auc.value > 0.999
    assert rates.tpr.value > 0.99
    assert rates.advantage.low > 0.9


def test_a_small_sum_reveals_its_members_too(lone: MembershipResult) -> None:
    assert 0.95 < lone.cases[1].rates.auc.value < lone.cases[0].rates.auc.value


def test_a_tiny_epsilon_leaves_a_coin_flip(lone: MembershipResult) -> None:
    rates = lone.cases[3].rates
    assert rates.auc.low < 0.5 < rates.auc.high
    assert rates.auc.limit < 0.51
    assert rates.advantage.low < 0 < rates.advantage.high


def test_more_noise_leaves_less(lone: MembershipResult) -> None:
    areas = [case.rates.auc.value for case in lone.cases]
    assert areas == sorted(areas, reverse=True)
    assert 0.6 < areas[2] < 0.95


def test_no_figure_lies_above_what_epsilon_allows(lone: MembershipResult) -> None:
    assert not lone.refuted
    for case in lone.cases[2:]:
        for figure in (case.rates.auc, case.rates.tpr, case.rates.advantage):
            assert figure.low <= figure.value <= figure.high
            assert figure.low <= figure.limit


def test_trials_were_compared_with_the_parties(lone: MembershipResult) -> None:
    assert lone.checked == len(lone.cases) == 4


@pytest.mark.parametrize(
    "overrides",
    [
        {"privacy.placement": "distributed", "privacy.colluders": 1, "cohort.min_survivor_fraction": 0.8, **CLIPPED},
        {"privacy.placement": "local", **CLIPPED},
        {"cohort.sampling": "fixed-size", "cohort.size": 3, "client.update": "delta", "client.batch_size": 2},
        {
            "privacy.placement": "mesh",
            "privacy.clip_quantile": 0.5,
            "sum.scheme": "masked",
            **CLIPPED,
            "data.clients": 20,
        },
        {"sum.rotation": True, "sum.rounding": "stochastic"},
    ],
)
def test_rounds_over_arrays_are_those_of_the_parties(overrides: dict[str, object]) -> None:
    plan = AttackPlan(trials=20, examples=2, epsilons=(8.0,), rounds=2, check=2)
    assert guessed(plan, **overrides).checked == 2 * 2 * 3


def test_another_pipeline_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = AttackPlan(trials=20, examples=2, epsilons=())
    experiment = Experiment(overrides=DIGITS)
    deck = Deck.of(experiment.federation, clients=4, examples=2, seed=0)
    case = attack_cases(experiment.config, deck, epsilons=(), rounds=1, seed=0)[1]
    hands = _hands(deck, plan)
    assert check_rounds(case, hands, np.arange(1)) == 1
    whole = rounds_module._contributions

    def off_by_one(*args: object, **more: object) -> object:
        sums = whole(*args, **more)  # type: ignore[arg-type]
        return replace(sums, hidden=sums.hidden + 1)

    monkeypatch.setattr(rounds_module, "_contributions", off_by_one)
    with pytest.raises(PrivacyError, match="differs from that of the parties"):
        check_rounds(case, hands, np.arange(1))


def test_noise_that_is_left_out_is_refuted_and_said_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BulkNoise.mesh

    def without(*args: Any) -> Any:
        return tuple(np.zeros_like(part) for part in whole(*args))

    monkeypatch.setattr(BulkNoise, "mesh", without)
    result = guessed(AttackPlan(trials=200, examples=1, epsilons=(1.0,), check=0))
    assert result.refuted
    assert result.cases[2].above_curve
    assert "REFUTED" in result.sentence
    assert "epsilon 1" in result.sentence


def test_equal_seeds_give_equal_guesses() -> None:
    plan = AttackPlan(trials=20, examples=2, epsilons=(3.0,), check=0)
    assert guessed(plan).cases[2].points == guessed(plan).cases[2].points
    assert guessed(plan).cases[2].points != guessed(replace(plan, seed=1)).cases[2].points


def test_the_target_holds_the_candidate_in_half_of_the_trials_and_nobody_else_does() -> None:
    deck = Deck.of(Experiment(overrides=DIGITS).federation, clients=4, examples=5, seed=0)
    hands = _hands(deck, AttackPlan(trials=20))
    assert not np.isin(deck.reference, deck.pool).any()
    for trial in range(40):
        hands.take(trial)
        candidate = deck.pool[hands.candidates[trial]]
        assert (candidate in deck.data.dealt[0]) == (trial >= 20)
        assert all(candidate not in deck.data.dealt[client] for client in (1, 2, 3))
        assert all(len(rows) == 5 for rows in deck.data.dealt.values())


def test_a_default_client_is_as_large_as_the_run_makes_it() -> None:
    experiment = Experiment(overrides=DIGITS)
    deck = Deck.of(experiment.federation, clients=4, examples=None, seed=0)
    assert deck.examples == int(experiment.federation.sizes.mean())
    with pytest.raises(ConfigError, match="too few"):
        Deck.of(experiment.federation, clients=4, examples=1500, seed=0)


def test_the_factor_of_unclipped_gradients_is_one_and_explains_them() -> None:
    experiment = Experiment(overrides=DIGITS)
    deck = Deck.of(experiment.federation, clients=4, examples=3, seed=0)
    case = attack_cases(experiment.config, deck, epsilons=(), rounds=1, seed=0)[0]
    train, model = dealt_train(case.parts, deck), case.parts.method.initial
    law = SingleUpdates.at(train, deck, model, 1)
    encoding = case.subject.encoding
    test = RatioTest.of(law, train, deck, model=model, encoding=encoding, round=1, seed=0)
    assert test.factor == pytest.approx(1.0, abs=1e-4)
    assert test.error < 1e-8
    assert np.allclose(law.axes.T @ law.axes, np.eye(law.axes.shape[1]), atol=1e-6)
    assert not test.drift(train, deck, model, 1).any()


def test_the_score_is_the_logarithm_of_the_ratio_of_two_densities() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    law = SingleUpdates(
        rows=np.arange(3), updates=np.zeros((3, 6)), mean=rng.normal(size=6), pooled=np.zeros(6), axes=axes,
        variances=np.array([3.0, 0.5]), rest=0.2,
    )  # fmt: skip
    test = RatioTest(law=law, factor=0.7, error=0.01, examples=4)
    seen, candidate = rng.normal(size=6), rng.normal(size=6)
    shift = 0.7 * (candidate - law.mean) / (4 * 3)
    covariance = (0.49 / 12) * (axes * law.variances) @ axes.T + ((0.49 * 0.2 / 4 + 0.01) / 3 + 0.3**2) * np.eye(6)

    def log_density(mean: np.ndarray) -> float:
        return float(-0.5 * (seen - mean) @ np.linalg.solve(covariance, seen - mean))

    expected = log_density(0.7 * law.mean + shift) - log_density(0.7 * law.mean)
    assert test.score(seen, candidate, clients=3, noise=0.3) == pytest.approx(expected)


def test_rates_of_known_scores() -> None:
    without, present = np.arange(100.0), np.arange(100.0) + 50
    assert area(without, present) == pytest.approx(0.875)
    assert area(without, without) == pytest.approx(0.5)
    assert power(without, present) == pytest.approx(0.51)
    assert power(without, without) == pytest.approx(0.01)


def test_intervals_cover_the_figures_of_gaussian_scores() -> None:
    rng = np.random.default_rng(3)
    halves = [Scores(without=rng.normal(size=2000), present=rng.normal(1.0, 1.0, 2000)) for _ in range(2)]
    rates = Rates.of(*halves, None, 0)
    assert rates.auc.low < 0.7602 < rates.auc.high
    assert rates.advantage.low < 0.3829 < rates.advantage.high
    assert rates.tpr.low < 0.0924 < rates.tpr.high
    assert rates.auc.limit == 1.0


def test_the_most_that_a_curve_allows() -> None:
    none = StatedCurve(np.zeros(1), np.full(1, 1e-9))
    auc, tpr, advantage = highest(none)
    assert auc == pytest.approx(0.5, abs=1e-3)
    assert tpr == pytest.approx(0.01, abs=1e-3)
    assert advantage == pytest.approx(0.0, abs=1e-3)
    assert highest(StatedCurve(np.zeros(1), np.full(1, 0.3)))[2] == pytest.approx(0.3, abs=1e-3)
