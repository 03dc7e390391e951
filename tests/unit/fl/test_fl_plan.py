"""The plan of a round: its digest, its bytes, and everything that is derived from it."""

import json
import math
from typing import Any

import numpy as np
import pytest
from builders import CODEC, a_plan, an_encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.codec import FixedPoint
from privfl.dp import (
    AdaptiveClip,
    ElementClip,
    Everyone,
    FixedSize,
    FlatClip,
    LayerClip,
    Mechanism,
    Poisson,
    TruncatedPoisson,
)
from privfl.errors import CapacityError, ConfigError, PlanRejected, PrivacyError, WireError
from privfl.files import canonical_json
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.planwire import MAX_PLAN_BYTES, PREFIX
from privfl.fl.policy import ClientPolicy
from privfl.fl.slots import Metric
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumPolicy

PLAIN = PlainSum()
MASKED = MaskedSum(mode="semi-honest")
ADAPTIVE = AdaptiveClip(0.3, units=1 << 16, indicator_units=1 << 10, quantile=0.4, learning_rate=0.1)

CHANGES: list[dict[str, Any]] = [
    {"run": bytes(16)},
    {"round": 4},
    {"attempt": 1},
    {"model_hash": "cd" * 32},
    {"cohort": (0, 1, 3)},
    {"population": 4, "sampling": FixedSize(3, 4)},
    {"population": 4, "sampling": Poisson(0.5)},
    {"population": 4, "sampling": TruncatedPoisson(0.5, 3, 4)},
    {"survivor_rule": SurvivorRule(0.0, 3)},
    {"survivor_rule": SurvivorRule(0.5, 2)},
    {"scheme": "masked-sum/1"},
    {"parameters": {"threshold": 3}},
    {"seed": 8},
    {"mechanism": Mechanism("central", 1.0)},
    {"mechanism": Mechanism("central", 1.0, discrete=True)},
    {"mechanism": Mechanism("central", 1.0, source="simulation")},
    {"mechanism": Mechanism("distributed", 1.0)},
    {"mechanism": Mechanism("distributed", 1.0, colluders=1)},
    {"encoding": an_encoding(5)},
    {"encoding": an_encoding(codec=FixedPoint(2.0**15, Ring(40)))},
    {"encoding": an_encoding(codec=FixedPoint(2.0**16, Ring(41)))},
    {"encoding": an_encoding(clip=FlatClip(2.0))},
    {"encoding": an_encoding(clip=ElementClip(1.0, 4))},
    {"encoding": an_encoding(clip=LayerClip.of([1, 3], 1.0))},
    {"encoding": UpdateEncoding(4, ADAPTIVE.codec(Ring(40)), ADAPTIVE)},
    {"encoding": an_encoding(weighting="examples")},
    {"encoding": an_encoding(weighting="examples", max_weight=2)},
    {"encoding": an_encoding(metrics=(Metric("loss"),))},
    {"encoding": an_encoding(metrics=(Metric("loss", 2.0, 7),))},
    {"encoding": an_encoding(rounding="stochastic")},
    {"encoding": an_encoding(rotation=Rotation(4, 1))},
]


def test_every_field_of_the_plan_enters_its_digest_and_its_bytes() -> None:
    plans = [a_plan(), *(a_plan(**change) for change in CHANGES)]
    assert len({plan.digest() for plan in plans}) == len({plan.to_bytes() for plan in plans}) == len(plans)


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=str)
def test_a_plan_is_rebuilt_whole_from_its_bytes(change: dict[str, Any]) -> None:
    plan = a_plan(**change)
    again = RoundPlan.from_bytes(plan.to_bytes())
    assert again == plan
    assert again.digest() == plan.digest()
    assert (again.encoding.slots, again.denominator) == (plan.encoding.slots, plan.denominator)


def _altered(plan: RoundPlan, path: str, value: Any) -> bytes:
    record = json.loads(plan.to_bytes()[len(PREFIX) :])
    target, names = record, path.split(".")
    for name in names[:-1]:
        target = target[name]
    if value is ...:
        del target[names[-1]]
    else:
        target[names[-1]] = value
    return PREFIX + canonical_json(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("round", 1.0), ("round", True), ("round", -1), ("round", "3"), ("round", ...), ("extra", 1),
        ("cohort", [1, 0, 2]),
        ("cohort", [0, 1, 2.0]), ("cohort", [0, 1, 2, 3]), ("run", "00"), ("run", "AB" * 16), ("model", "xy" * 32),
        ("sampling", {"kind": "everyone", "size": 3}), ("sampling.kind", "nobody"), ("survivors.fraction", 0),
        ("survivors.floor", True), ("survivors.more", 1), ("encoding.length", 1 << 40), ("encoding.length", 0),
        ("encoding.scale", 65536), ("encoding.scale", -1.0), ("encoding.bits", 99), ("encoding.clip.kind", "sharp"),
        ("encoding.clip.clip_norm", 0.0), ("encoding.clip.more", 1), ("encoding.metrics", [{"name": "a"}]),
        ("encoding.rotation", 1.0), ("mechanism.placement", "everywhere"), ("mechanism.noise_multiplier", 1.0),
        ("mechanism.more", 1), ("parameters", []), ("parameters", {"a": None}), ("parameters", {"a": [1]}),
        ("scheme", 3), ("seed", 1 << 64), ("seed", None),
    ],
)  # fmt: skip
def test_bytes_that_are_not_the_canonical_form_of_a_plan_are_refused(path: str, value: Any) -> None:
    with pytest.raises(WireError):
        RoundPlan.from_bytes(_altered(a_plan(), path, value))


def test_a_second_spelling_of_the_same_plan_is_refused() -> None:
    data = a_plan().to_bytes()
    body = data[len(PREFIX) :]
    for other in (
        body,
        b"privfl/2 round-plan\n" + body,
        data + b"\n",
        data[:-1],
        PREFIX + body.replace(b'"round":3', b'"round": 3'),
        PREFIX + body.replace(b"65536.0", b"6.5536e4"),
        PREFIX + body.replace(b'"round":3', b'"round":3,"round":3'),
        PREFIX + b"[" * 100_000,
        PREFIX + b"9" * 5000,
        PREFIX + b"\xff" + body,
        PREFIX + b"NaN",
        b" " * (MAX_PLAN_BYTES + 1),
    ):
        with pytest.raises(WireError):
            RoundPlan.from_bytes(other)


@settings(max_examples=200)
@given(st.data())
def test_a_changed_byte_is_refused_or_gives_another_plan(data: st.DataObject) -> None:
    plan = a_plan(mechanism=Mechanism("distributed", 1.5))
    octets = bytearray(plan.to_bytes())
    at = data.draw(st.integers(0, len(octets) - 1))
    octets[at] ^= data.draw(st.integers(1, 255))
    try:
        other = RoundPlan.from_bytes(bytes(octets))
    except WireError:
        return
    assert other != plan
    assert other.digest() != plan.digest()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"run": b"short"}, ConfigError),
        ({"cohort": (0, 2, 1)}, ConfigError),
        ({"cohort": (0, 1, 1)}, ConfigError),
        ({"cohort": (0, 1, -1)}, ConfigError),
        ({"cohort": (0, 1, np.int64(2))}, ConfigError),
        ({"cohort": (0, 1, 2, 3), "population": 3}, ConfigError),
        ({"population": 4, "sampling": FixedSize(2, 4)}, ConfigError),
        ({"population": 4, "sampling": TruncatedPoisson(0.5, 2, 4)}, ConfigError),
        ({"attempt": -1}, ConfigError),
        ({"seed": 1.5}, ConfigError),
        ({"model_hash": "AB" * 32}, ConfigError),
        ({"mechanism": Mechanism("central", 1.0), "encoding": an_encoding(weighting="examples")}, PrivacyError),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        a_plan(**changes)


def test_a_survivor_rule_out_of_range_is_refused() -> None:
    for values in ((-0.1, 1), (1.1, 1), (0.5, -1), (0.5, True)):
        with pytest.raises(ConfigError):
            SurvivorRule(*values)


def test_the_task_holds_the_largest_contribution_with_its_noise_or_is_refused() -> None:
    assert a_plan().task(PLAIN).bound == 2**16
    local = a_plan(mechanism=Mechanism("local", 1.0))
    assert local.task(PLAIN).bound == 2**16 + local.noise(PLAIN).noise_reach > 2**16
    with pytest.raises(CapacityError, match="bits"):
        a_plan(encoding=an_encoding(codec=FixedPoint(2.0**16, Ring(18)))).task(PLAIN)


def test_a_plan_serves_the_sum_that_it_names_and_no_other() -> None:
    plan = a_plan()
    for derive in (plan.task, plan.noise, plan.opening, plan.worst_case, plan.noise_stddev, plan.check_scheme):
        with pytest.raises(ConfigError, match="plain-sum/1"):
            derive(MASKED)
    masked = a_plan(MASKED)
    masked.check_scheme(MASKED)
    with pytest.raises(ConfigError, match="threshold"):
        masked.task(MaskedSum(mode="semi-honest", share_threshold=3))


def test_noise_shares_are_sized_for_what_the_sum_opens() -> None:
    everybody = tuple(range(5))
    rule = SurvivorRule(0.5, 2)
    for scheme, opened in ((PLAIN, 3), (MASKED, 3), (MaskedSum(mode="semi-honest", share_threshold=4), 4)):
        plan = a_plan(scheme, cohort=everybody, survivor_rule=rule, mechanism=Mechanism("distributed", 1.0))
        noise = plan.noise(scheme)
        assert scheme.min_survivors_to_open(plan.task(scheme)) == opened
        assert noise.spread == pytest.approx(5 / (opened - 1))
        assert noise.realized_stddev(opened) == pytest.approx(noise.noise_stddev, rel=1e-9)
        assert noise.realized_stddev(opened) >= noise.noise_stddev


def test_sampled_cohorts_share_one_total_variance_that_covers_each_of_them() -> None:
    rule, mechanism = SurvivorRule(0.5, 3), Mechanism("distributed", 1.0)
    totals = set()
    for size in range(3, 13):
        plan = a_plan(
            MASKED, cohort=tuple(range(size)), population=12, sampling=Poisson(0.5), survivor_rule=rule,
            mechanism=mechanism,
        )  # fmt: skip
        noise = plan.noise(MASKED)
        totals.add(round(noise.total_stddev, 6))
        opened = MASKED.min_survivors_to_open(plan.task(MASKED))
        assert noise.realized_stddev(opened) >= noise.noise_stddev
    assert len(totals) == 1


def test_distributed_noise_needs_a_noise_share_that_counts() -> None:
    for changes in (
        {"survivor_rule": SurvivorRule(0.0, 1)},
        {"survivor_rule": SurvivorRule(0.0, 3), "mechanism": Mechanism("distributed", 1.0, colluders=2)},
        {"survivor_rule": SurvivorRule(0.0, 4)},
    ):
        plan = a_plan(**{"mechanism": Mechanism("distributed", 1.0)} | changes)
        with pytest.raises(ConfigError):
            plan.noise(PLAIN)


def test_a_private_mean_has_the_public_denominator_of_its_sampling() -> None:
    noise = Mechanism("central", 1.0)
    assert a_plan().denominator is None
    assert a_plan(mechanism=noise).denominator == 3.0
    assert a_plan(mechanism=noise, population=9).denominator == 3.0  # a rule that anybody may know: nothing is claimed
    assert a_plan(mechanism=noise, population=10, sampling=Poisson(0.2)).denominator == 2.0
    assert a_plan(mechanism=noise, population=10, sampling=FixedSize(3, 10)).denominator == 3.0


def test_a_client_rejects_a_plan_below_its_policy() -> None:
    plan = a_plan()
    assert ClientPolicy().check(plan, PLAIN) == plan.task(PLAIN)
    for policy in (
        ClientPolicy(min_noise_stddev=0.5),
        ClientPolicy(max_clip_norm=0.5),
        ClientPolicy(placements=frozenset({"distributed", "local"})),
        ClientPolicy(sum=SumPolicy(min_cohort=4)),
        ClientPolicy(sum=SumPolicy(min_survivors=3)),
    ):
        with pytest.raises(PlanRejected):
            policy.check(plan, PLAIN)
    with pytest.raises(ConfigError, match="masked-sum"):
        ClientPolicy().check(plan, MASKED)


@pytest.mark.parametrize(
    "demand",
    [
        {"placements": frozenset({"central", "none"})},
        {"min_colluders": 1},
        {"min_spare": 1},
        {"min_members_to_open": 1},
        {"level": "client"},
    ],
    ids=lambda demand: next(iter(demand)),
)
def test_a_policy_with_a_demand_on_noise_refuses_noise_from_the_public_seed(demand: dict[str, Any]) -> None:
    policy = ClientPolicy(**demand)
    assert ClientPolicy().check(a_plan(mechanism=Mechanism("central", 1.0, source="simulation")), PLAIN)
    assert policy.check(a_plan(mechanism=Mechanism("central", 1.0)), PLAIN)
    assert policy.check(a_plan(), PLAIN)
    with pytest.raises(
        PlanRejected, match=f"public seed, and this client insists on noise by its {next(iter(demand))}"
    ):
        policy.check(a_plan(mechanism=Mechanism("central", 1.0, source="simulation")), PLAIN)


def test_a_policy_judges_the_mechanism_that_will_run() -> None:
    policy = ClientPolicy(min_noise_stddev=1.0, min_colluders=1)
    assert policy.check(a_plan(mechanism=Mechanism("central", 1.0)), PLAIN)
    for mechanism in (
        Mechanism("central", 0.5),
        Mechanism("central", 9.0, source="simulation"),
        Mechanism("distributed", 1.0),
        Mechanism("none"),
    ):
        with pytest.raises(PlanRejected):
            policy.check(a_plan(mechanism=mechanism, survivor_rule=SurvivorRule(0.0, 3)), PLAIN)
    assert math.isclose(a_plan(mechanism=Mechanism("central", 1.0)).noise_stddev(PLAIN), 1.0)


def test_the_model_hash_sees_dtype_length_and_values() -> None:
    models = [np.zeros(3), np.zeros(3, np.float32), np.zeros(4), np.array([0.0, 0.0, -0.0])]
    assert len({model_hash(model) for model in models}) == 4
    plan = a_plan(model=models[0])
    plan.check_model(models[0])
    for other in models[1:]:
        with pytest.raises(ConfigError, match="hash"):
            plan.check_model(other)


def test_the_sampling_of_a_plan_states_its_sizes() -> None:
    assert list(Everyone().sizes(2)) == [0, 1, 2]
    assert list(Poisson(0.5).sizes(3)) == [0, 1, 2, 3]
    assert list(TruncatedPoisson(0.5, 2, 9).sizes(9)) == [0, 1, 2]
    assert list(FixedSize(2, 9).sizes(9)) == [2]
    assert CODEC.scale == 2.0**16
