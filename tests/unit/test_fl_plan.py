"""The round's plan: what a contribution is bounded by, and what enters the digest."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfl.codec import FixedPoint, square_norm
from privfl.dp import ElementClip, FlatClip
from privfl.errors import CapacityError, ConfigError, PlanRejected
from privfl.fl.client import ClientUpdate
from privfl.fl.plan import ClientPolicy, Metric, RoundPlan, UpdatePlan, model_hash
from privfl.ring import Ring
from privfl.sums import SumPolicy

CODEC = FixedPoint(2.0**16, Ring(40))
RNG = np.random.default_rng(0)


def a_plan(**changes: object) -> RoundPlan:
    plan = RoundPlan(3, 0, "ab" * 32, (0, 1, 2), 2, UpdatePlan(4, CODEC, FlatClip(1.0)), "plain-sum/1", 7)
    return dataclasses.replace(plan, **changes)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), st.integers(1, 500))
def test_a_weighted_update_stays_within_the_clip(values: list[float], examples: int) -> None:
    plan = UpdatePlan(4, CODEC, FlatClip(1.5), weighting="examples", max_weight=100)
    vector = plan.encode(ClientUpdate(np.array(values), examples), RNG)
    weight = min(examples, 100)
    assert vector[-1] == weight
    assert math.isqrt(square_norm(vector[:4])) <= CODEC.scale * 1.5 * weight / 100 + 2


def test_the_mean_over_examples_is_exact_up_to_rounding() -> None:
    plan = UpdatePlan(4, CODEC, ElementClip(8.0, 4), weighting="examples", max_weight=50, metrics=(Metric("loss"),))
    updates = [ClientUpdate(RNG.normal(size=4), n, {"loss": float(n)}) for n in (10, 20, 50)]
    total = np.sum([plan.encode(update, RNG) for update in updates], axis=0)
    mean, metrics = plan.decode(total, math.nan)
    weights = np.array([10, 20, 50]) / 80
    np.testing.assert_allclose(mean, sum(w * u.delta for w, u in zip(weights, updates, strict=True)), atol=1e-4)
    assert metrics["loss"] == pytest.approx(10 / 8 + 20 / 4 + 32 * 50 / 80, abs=1e-3)  # 50 is counted as the bound, 32


def test_the_uniform_mean_divides_by_the_given_denominator() -> None:
    plan = UpdatePlan(2, CODEC, FlatClip(10.0))
    total = plan.encode(ClientUpdate(np.array([1.0, -3.0]), 9), RNG)
    mean, _ = plan.decode(total, 4.0)
    np.testing.assert_allclose(mean, [0.25, -0.75])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_an_unsound_update_contributes_nothing_at_all(bad: float, weighting: str) -> None:
    plan = UpdatePlan(2, CODEC, FlatClip(1.0), weighting=weighting, max_weight=5, metrics=(Metric("loss"),))
    assert not plan.encode(ClientUpdate(np.array([bad, 1.0]), 5), RNG).any()
    assert not plan.encode(ClientUpdate(np.array([0.5, 1.0]), 5, {"loss": bad}), RNG).any()


def test_a_sum_without_examples_is_a_zero_update() -> None:
    plan = UpdatePlan(2, CODEC, FlatClip(1.0), weighting="examples", max_weight=5)
    mean, metrics = plan.decode(plan.encode(ClientUpdate(np.ones(2), 0), RNG), math.nan)
    assert not mean.any()
    assert not metrics


def test_an_update_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="3"):
        UpdatePlan(2, CODEC, FlatClip(1.0)).encode(ClientUpdate(np.ones(3), 1), RNG)


def test_every_field_of_the_plan_enters_its_digest() -> None:
    update = UpdatePlan(4, CODEC, FlatClip(1.0))
    changes: list[dict[str, object]] = [
        {"round": 4}, {"attempt": 1}, {"model_hash": "cd" * 32}, {"cohort": (0, 1, 3)}, {"min_survivors": 3},
        {"scheme": "masked-sum/1"}, {"denominator": 2.0}, {"noise_stddev": 1.0}, {"noise_room": 1}, {"terms": {"a": 1}},
        {"update": dataclasses.replace(update, length=5)},
        {"update": dataclasses.replace(update, codec=FixedPoint(2.0**15, Ring(40)))},
        {"update": dataclasses.replace(update, codec=FixedPoint(2.0**16, Ring(41)))},
        {"update": dataclasses.replace(update, clip=FlatClip(2.0))},
        {"update": dataclasses.replace(update, clip=ElementClip(1.0, 4))},
        {"update": dataclasses.replace(update, weighting="examples")},
        {"update": dataclasses.replace(update, max_weight=2)},
        {"update": dataclasses.replace(update, metrics=(Metric("loss"),))},
        {"update": dataclasses.replace(update, rounding="stochastic")},
    ]  # fmt: skip
    digests = {a_plan().digest(), *(a_plan(**change).digest() for change in changes)}
    assert len(digests) == len(changes) + 1
    # The seed is each party's own affair: it never reaches a peer.
    assert a_plan(seed=8).digest() == a_plan().digest()


def test_the_task_holds_the_largest_contribution_or_is_refused() -> None:
    assert a_plan().task().bound == 2**16
    assert a_plan(noise_room=100).task().bound == 2**16 + 100
    with pytest.raises(CapacityError, match="bits"):
        a_plan(update=UpdatePlan(4, FixedPoint(2.0**16, Ring(18)), FlatClip(1.0))).task()


def test_a_client_rejects_a_plan_below_its_policy() -> None:
    ClientPolicy().check(a_plan())
    for policy in (
        ClientPolicy(least_noise_stddev=0.5),
        ClientPolicy(greatest_clip=0.5),
        ClientPolicy(sum=SumPolicy(least_cohort=4)),
        ClientPolicy(sum=SumPolicy(least_survivors=3)),
    ):
        with pytest.raises(PlanRejected):
            policy.check(a_plan())


def test_contradicting_settings_are_refused() -> None:
    for settings in (
        {"weighting": "size"},
        {"max_weight": 0},
    ):
        with pytest.raises(ConfigError):
            UpdatePlan(4, CODEC, FlatClip(1.0), **settings)  # type: ignore[arg-type]


def test_the_model_hash_sees_dtype_length_and_values() -> None:
    models = [np.zeros(3), np.zeros(3, np.float32), np.zeros(4), np.array([0.0, 0.0, -0.0])]
    assert len({model_hash(model) for model in models}) == 4
