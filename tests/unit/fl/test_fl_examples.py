"""Sums over examples: coins, clips and integers of single examples, and the terms of a plan."""

import dataclasses
import os
from fractions import Fraction

import numpy as np
import pytest

from privfl.codec import FixedPoint, square_norm
from privfl.dp import Accountant, Budget, ElementClip, Everyone, FlatClip, Ledger, Mechanism, Poisson, PrivacyUnit
from privfl.dp.unit import PoissonBySite
from privfl.errors import ConfigError, PlanRejected, PrivacyError, WireError
from privfl.fl.client_round import Contribution
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.examples import ExampleGradients, ExampleRule, clipped_sum, example_sum, sampled_people
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.payment import Payment
from privfl.fl.people import parts_of, people_of
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.policy import ClientPolicy
from privfl.fl.slots import Metric
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.sums import PlainSum

MODEL = LinearModel("softmax", 5, 3)
CODEC = FixedPoint(2.0**20, Ring(42))
RNG = np.random.default_rng(7)
ROWS = {me: (RNG.normal(size=(40 + me, 5)), RNG.integers(0, 3, 40 + me).astype(float)) for me in range(4)}
TRAIN = LinearTrain(MODEL, ROWS.__getitem__)
RULE = ExampleRule(Poisson(0.25), 40.0, 50.0)
CLIP = 0.5


def an_encoding(**changes):
    return UpdateEncoding(MODEL.length, CODEC, FlatClip(CLIP), **{"examples": RULE} | changes)


def a_plan(model, **changes):
    terms = {
        "run": b"r" * 16,
        "round": 3,
        "model_hash": model_hash(model),
        "cohort": (0, 1, 2, 3),
        "population": 4,
        "sampling": Everyone(),
        "survivor_rule": SurvivorRule(0.5, 1),
        "encoding": an_encoding(),
        "mechanism": Mechanism("none"),
        "scheme": "plain-sum/1",
        "seed": 11,
    }
    return RoundPlan(**terms | changes)


# --- integers of single examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "logistic", "softmax"])
@pytest.mark.parametrize("features", [1, 5, 130])
def test_a_gradient_is_the_same_to_the_last_bit_whatever_else_is_in_the_batch(kind, features):
    rng = np.random.default_rng(features)
    model = LinearModel(kind, features, 3 if kind == "softmax" else 1)
    x, y = rng.normal(size=(33, features)).astype(np.float32), rng.integers(0, 2, 33).astype(float)
    at = rng.normal(size=model.length)
    together = model.example_gradients(at, x, y)
    for i in range(33):
        alone = model.example_gradients(at, x[i : i + 1], y[i : i + 1])[0]
        assert np.array_equal(alone, together[i])
        assert np.allclose(alone, model.gradient(at, x[i : i + 1].astype(float), y[i : i + 1]), atol=1e-12)


def test_the_integers_of_a_batch_are_the_sum_of_those_of_its_examples():
    gradients = np.random.default_rng(1).normal(size=(5000, 18)) * np.logspace(-3, 3, 5000)[:, None]
    whole = clipped_sum([gradients], CODEC, CLIP, 18)
    parts = [clipped_sum([gradients[i : i + 1]], CODEC, CLIP, 18) for i in range(5000)]
    assert np.array_equal(whole, np.sum(parts, axis=0))
    assert np.array_equal(whole, clipped_sum(np.array_split(gradients, 7), CODEC, CLIP, 18))
    limit = (Fraction(CODEC.scale) * Fraction(CLIP)) ** 2
    assert all(square_norm(part) <= limit for part in parts)
    sizes = np.linalg.norm(gradients, axis=1)
    expected = gradients * np.minimum(1, CLIP / sizes)[:, None] * CODEC.scale
    assert np.max(np.abs(np.array(parts) - expected)) <= 1 + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_counts_as_zero_and_harms_no_other(bad):
    gradients = np.ones((3, 4))
    gradients[1, 2] = bad
    assert np.array_equal(clipped_sum([gradients], CODEC, CLIP, 4), 2 * clipped_sum([np.ones((1, 4))], CODEC, CLIP, 4))


def test_gradients_whose_squares_leave_the_floats_are_clipped_too():
    one = clipped_sum([np.full((1, 4), 1e300)], CODEC, CLIP, 4)
    assert np.array_equal(one, clipped_sum([np.ones((1, 4))], CODEC, CLIP, 4))
    assert not clipped_sum([np.full((1, 4), 1e-300)], CODEC, CLIP, 4).any()
    assert not clipped_sum([], CODEC, CLIP, 4).any()
    with pytest.raises(ConfigError, match="shape"):
        clipped_sum([np.ones((1, 3))], CODEC, CLIP, 4)


def test_coins_are_poisson_and_come_from_the_entropy():
    counts = np.array([len(sampled_people(1000, 0.1, os.urandom)) for _ in range(200)])
    assert 95 < counts.mean() < 105
    assert 70 < counts.var() < 115
    assert len(sampled_people(1000, 1.0, os.urandom)) == 1000
    assert len(sampled_people(0, 0.1, os.urandom)) == 0
    half = (2**63).to_bytes(8, "little")
    assert len(sampled_people(3, 0.5, lambda count: half * 3)) == 0
    assert len(sampled_people(3, 0.5, lambda count: (2**63 - 1).to_bytes(8, "little") * 3)) == 3


def test_people_share_a_coin_and_a_clip():
    persons = {0: np.array(["b", "a", "b", "c", "a", "b"])}
    assert people_of(persons.__getitem__, 0, 6) == 3
    assert people_of(None, 0, 6) == 6
    values = np.arange(6.0)[:, None]
    for size in (1, 3, 100):
        parts = list(parts_of(persons.__getitem__, 0, 6, np.array([0, 1, 2]), size))
        assert np.concatenate([part.sums(values[part.examples]) for part in parts]).ravel().tolist() == [5, 7, 3]
    assert [p.examples.tolist() for p in parts_of(persons.__getitem__, 0, 6, np.array([1]), 9)] == [[0, 2, 5]]
    with pytest.raises(ConfigError, match="one label for each"):
        people_of(persons.__getitem__, 0, 5)
    x = np.tile(np.array([[3.0, 0, 0, 0, 0]]), (4, 1))
    rows = lambda client: (x, np.zeros(4))  # noqa: E731
    alone, shared = LinearTrain(MODEL, rows), LinearTrain(MODEL, rows, persons=lambda client: np.zeros(4))
    at, rule = MODEL.initial(), dataclasses.replace(RULE, sampling=Poisson(1.0))
    plan = a_plan(at, encoding=an_encoding(examples=rule))
    four, one = (example_sum(train, plan, at, 0) for train in (alone, shared))
    assert np.linalg.norm(four) == pytest.approx(4 * CLIP * CODEC.scale, rel=1e-5)
    assert np.linalg.norm(one) == pytest.approx(CLIP * CODEC.scale, rel=1e-5)


def test_entries_are_clamped_and_never_refused():
    rule = dataclasses.replace(RULE, sampling=Poisson(1.0), max_entry=2.0)
    at = MODEL.initial()
    plan = a_plan(at, encoding=an_encoding(examples=rule))
    bound = plan.encoding.entry_bound
    assert bound == 2 * CLIP * CODEC.scale
    total = example_sum(TRAIN, plan, at, 0)
    free = example_sum(TRAIN, a_plan(at, encoding=an_encoding(examples=dataclasses.replace(rule, max_entry=99))), at, 0)
    assert np.abs(free).max() > bound
    assert np.array_equal(total, np.clip(free, -bound, bound))


# --- the terms of a plan --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Poisson(0.25), PoissonBySite(((0, 0.1), (1, 0.2), (2, 0.3), (3, 1.0)))])
def test_a_plan_carries_its_terms(sampling):
    at = MODEL.initial()
    rule = dataclasses.replace(RULE, sampling=sampling)
    plan = a_plan(at, encoding=an_encoding(examples=rule), mechanism=Mechanism("central", 1.0))
    assert RoundPlan.from_bytes(plan.to_bytes()) == plan
    assert plan.level == "example"
    assert plan.denominator == 40.0
    release = plan.worst_case(PlainSum())
    assert (release.sampling, release.draw_known_to) == (sampling, "site")
    assert release.norm_bound == CLIP * CODEC.scale
    assert [rule.probability(me) for me in plan.cohort][-1] == sampling.probability or sampling == Poisson(0.25)
    with pytest.raises(WireError):
        RoundPlan.from_bytes(plan.to_bytes().replace(b'"denominator":40.0', b'"denominator":-1.0'))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clip": ElementClip(0.1, MODEL.length)}, "FlatClip"),
        ({"metrics": (Metric("loss"),)}, "update alone"),
        ({"weighting": "examples", "max_weight": 5}, "update alone"),
        ({"rotation": Rotation(MODEL.length, 0)}, "update alone"),
        ({"rounding": "stochastic"}, "update alone"),
        ({"count_bound": 5}, "update alone"),
        ({"codec": FixedPoint(2.0**50, Ring(62))}, "units"),
    ],
)
def test_encodings_that_would_break_the_claim_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(an_encoding(), **changes)


def test_rules_and_plans_that_would_break_the_claim_are_refused():
    at = MODEL.initial()
    for changes in ({"denominator": 0.0}, {"max_entry": 0.0}, {"sampling": Everyone()}):
        with pytest.raises(ConfigError):
            dataclasses.replace(RULE, **changes)
    with pytest.raises(PrivacyError, match="local noise"):
        a_plan(at, mechanism=Mechanism("local", 1.0))
    with pytest.raises(ConfigError, match="everyone"):
        a_plan(at, sampling=Poisson(0.5))
    with pytest.raises(ConfigError, match="site 3 has no probability"):
        a_plan(at, encoding=an_encoding(examples=dataclasses.replace(RULE, sampling=PoissonBySite(((0, 0.1), (1, 0.1), (2, 0.1))))))  # fmt: skip  # noqa: E501
    with pytest.raises(ConfigError, match="sums over examples"):
        a_plan(at).encoding.encode(TRAIN(at, 0, 1, RNG), RNG)
    with pytest.raises(ConfigError, match="gradients"):
        example_sum(lambda *given: None, a_plan(at), at, 0)
    with pytest.raises(ConfigError, match="updates of clients"):
        example_sum(TRAIN, a_plan(at, encoding=an_encoding(examples=None)), at, 0)
    assert isinstance(TRAIN, ExampleGradients)


def test_clients_judge_the_unit_and_the_probability():
    plan = a_plan(MODEL.initial(), mechanism=Mechanism("central", 1.0))
    clients = a_plan(MODEL.initial(), mechanism=Mechanism("central", 1.0), encoding=an_encoding(examples=None))
    ClientPolicy(level="example", max_sampling_probability=0.25).check(plan, PlainSum())
    with pytest.raises(PlanRejected, match="insists on one client"):
        ClientPolicy(level="client").check(plan, PlainSum())
    with pytest.raises(PlanRejected, match="insists on one example"):
        ClientPolicy(level="example").check(clients, PlainSum())
    with pytest.raises(PlanRejected, match=r"allows 0\.2"):
        ClientPolicy(max_sampling_probability=0.2).check(plan, PlainSum())


def test_a_ledger_of_another_level_takes_no_charge():
    plan = a_plan(MODEL.initial(), mechanism=Mechanism("central", 1.0))
    clients = Payment(Ledger(PrivacyUnit("client")), Accountant(1e-5), Budget(1.0, 1e-5))
    with pytest.raises(PrivacyError, match="never added"):
        clients.reserve(plan, PlainSum())
    examples = Payment(Ledger(PrivacyUnit("example")), Accountant(1e-5))
    assert examples.reserve(plan, PlainSum()) is not None
    with pytest.raises(PrivacyError, match="hides one client"):
        examples.reserve(dataclasses.replace(plan, encoding=an_encoding(examples=None)), PlainSum())


def test_secure_coins_are_new_in_every_attempt_and_those_of_a_simulation_repeat():
    at = MODEL.initial()
    secure = a_plan(at, mechanism=Mechanism("central", 1.0))
    assert not np.array_equal(example_sum(TRAIN, secure, at, 0), example_sum(TRAIN, secure, at, 0))
    for plan in (a_plan(at), a_plan(at, mechanism=Mechanism("central", 1.0, "simulation"))):
        one = example_sum(TRAIN, plan, at, 0)
        assert np.array_equal(one, example_sum(TRAIN, plan, at, 0))
        assert not np.array_equal(one, example_sum(TRAIN, dataclasses.replace(plan, round=4), at, 0))


def test_a_contribution_of_a_round_is_the_sum_over_its_examples():
    at = MODEL.initial()
    plan = a_plan(at)
    vector = Contribution(TRAIN, PlainSum())(at, (2,), plan.to_bytes()).rows[0]
    assert np.array_equal(vector, example_sum(TRAIN, plan, at, 2))
