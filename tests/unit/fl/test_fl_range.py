"""The range of a run without noise: limbs of metrics, room for weights, and the ring that a tolerance needs."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from builders import a_plan
from hypothesis import given
from hypothesis import strategies as st

from privfl.codec import FixedPoint
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, Mechanism
from privfl.errors import CapacityError, ConfigError, PrivacyError, RemoteProtocolError
from privfl.fl.client import ClientUpdate
from privfl.fl.counts import Counts, from_limbs, limb_bits, limb_count, to_limbs
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.range import NARROW_BITS, TOLERANCE, WIDE_BITS, Range, RangeRule, caveats, overflows
from privfl.fl.server_round import ServerRound
from privfl.fl.slots import Metric
from privfl.fl.state import ServerState
from privfl.he.plan import plan_ckks
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.sums import PlainSum, SumTask

RNG = np.random.default_rng(0)
BASE = UpdateEncoding(3, FixedPoint(1.0, Ring(31)), ElementClip(8.0, 3), metrics=(Metric("loss", 2.0**64),))
WEIGHTED = dataclasses.replace(BASE, weighting="examples")
FREE = RangeRule(entries=True)


def weighted_rule(*sizes: int, bits: int | None = None) -> RangeRule:
    return RangeRule(entries=True, bits=bits, sizes=tuple(sorted(sizes, reverse=True)))


@given(st.floats(-(2.0**64), 2.0**64), st.integers(1, 1 << 20), st.integers(2, 1 << 40))
def test_a_metric_survives_its_limbs(value: float, weight: int, top: int) -> None:
    top = max(top, weight)
    limbs = to_limbs(value, weight, limb_count(2.0**64, weight, top), top)
    assert all(abs(limb) < 1 << limb_bits(top) <= top for limb in limbs)
    assert from_limbs(limbs, weight, top) == pytest.approx(value, rel=1e-15, abs=2.0**-33)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(1, 500)), min_size=1, max_size=9))
def test_the_mean_metric_is_that_of_exact_fractions(reports: list[tuple[float, int]]) -> None:
    encoding = weighted_rule(*[500] * 9).encoding(WEIGHTED, Range(), 9)
    updates = [ClientUpdate(np.ones(3), weight, {"loss": loss}) for loss, weight in reports]
    total = np.sum([encoding.encode(update, RNG) for update in updates], axis=0)
    _, metrics = encoding.decode(total, math.nan)
    exact = sum(Fraction(loss) * weight for loss, weight in reports) / sum(weight for _, weight in reports)
    assert metrics["loss"] == pytest.approx(float(exact), rel=1e-12, abs=1e-9)


def test_slots_that_count_are_named_and_bounded() -> None:
    encoding = weighted_rule(7, 5).encoding(WEIGHTED, Range(), 2)
    names = ["update", "loss", "loss.weight", "clipped", "range", "rejected", "empty", "unsummed", "excess", "weight"]
    assert [slot.name for slot in encoding.slots] == names
    flat = dataclasses.replace(BASE, clip=FlatClip(1.0))
    assert [slot.name for slot in FREE.encoding(flat, Range(), 2).slots] == [*names[:4], *names[5:8]]
    assert sum(slot.length for slot in encoding.slots) == encoding.total_length
    vector = encoding.encode(ClientUpdate(np.array([600.0, -9.0, 1.0]), 9, {"loss": 2.0**70}), RNG)
    found = encoding.counted(vector, 1)
    # a loss beyond every bound counts as not reported
    assert found == Counts(1, clipped=2, above=(1, 0, 0, 0, 0, 0, 0, 0), excess=2, weight=7)
    assert found.steps == 2
    assert np.abs(vector).max() <= encoding.entry_bound


@pytest.mark.parametrize(("cohort", "bits"), [(2, NARROW_BITS), (20, NARROW_BITS), (100, WIDE_BITS), (5000, WIDE_BITS)])
def test_the_first_ring_follows_the_size_of_the_cohort(cohort: int, bits: int) -> None:
    encoding = FREE.encoding(BASE, Range(), cohort)
    assert encoding.codec.ring.bits == bits
    assert encoding.entry_bound * cohort < encoding.codec.ring.half
    assert RangeRule(True, bits=36).encoding(BASE, Range(), cohort).codec.ring.bits == 36


def test_the_wide_ring_is_one_that_ckks_has_for_1007_clients_and_no_more() -> None:
    assert plan_ckks(5000, 1007, Ring(WIDE_BITS)).bits == WIDE_BITS
    with pytest.raises(CapacityError, match="ring of at most 41 bits"):
        plan_ckks(5000, 1008, Ring(WIDE_BITS))


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.booleans(), st.sampled_from(["nearest", "stochastic"])
)
def test_the_fullest_contributions_of_a_whole_cohort_fit_the_ring(
    sizes: list[int], rotated: bool, rounding: str
) -> None:
    base = dataclasses.replace(WEIGHTED, rounding=rounding, rotation=Rotation(3, 1) if rotated else None)  # type: ignore[arg-type]
    encoding, rng = weighted_rule(*sizes).encoding(base, Range(), len(sizes)), np.random.default_rng(sizes)
    vectors = [encoding.encode(ClientUpdate(np.full(3, 8.0), n, {"loss": 2.0**64}), rng) for n in sizes]
    total = np.sum(vectors, axis=0)
    assert np.abs(total).max() < encoding.codec.ring.half
    counts = encoding.counted(total, len(sizes))
    assert counts is not None
    assert (counts.weight, counts.excess, overflows(encoding, counts)) == (sum(sizes), 0, False)
    mean, metrics = encoding.decode(total, math.nan)
    assert np.abs(mean - 8.0).max() <= encoding.rounding_error(counts) + 1e-12
    assert metrics["loss"] == 2.0**64


@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=40))
def test_precision_follows_the_total_weight_and_not_the_largest(sizes: list[int]) -> None:
    encoding = weighted_rule(*sizes, bits=WIDE_BITS).encoding(WEIGHTED, Range(), len(sizes))
    error = encoding.rounding_error(Counts(len(sizes), weight=sum(sizes)))
    assert error <= 2 * 8.0 * len(sizes) / encoding.codec.ring.half


def test_weights_that_no_ring_of_these_bits_holds_are_refused_with_one_that_does() -> None:
    with pytest.raises(CapacityError, match=r"set sum\.bits = (\d+)") as caught:
        weighted_rule(10**6, 5, bits=12).encoding(WEIGHTED, Range(), 2)
    bits = int(str(caught.value).split("= ")[-1])
    assert weighted_rule(10**6, 5, bits=bits).encoding(WEIGHTED, Range(), 2).codec.ring.bits == bits


def test_the_range_grows_by_what_was_missing_and_no_more() -> None:
    rule, counts = weighted_rule(100, 100), Counts(2, clipped=3, above=(2, 1, 0, 0, 0, 0, 0, 0), excess=40, weight=200)
    encoding = rule.encoding(WEIGHTED, Range(), 2)
    after, why = rule.after(encoding, Range(), counts, largest=1.0, floor=0.0)
    assert after == Range(8.0 * 64**3, None, 140, 480)
    assert "clipped" in why
    assert "examples" in why
    kept = dataclasses.replace(rule, entries=False)
    assert kept.after(encoding, Range(), dataclasses.replace(counts, excess=0), largest=1.0, floor=0.0) == (Range(), "")
    again = rule.encoding(WEIGHTED, after, 2)
    assert (again.clip.max_abs, again.max_weight, again.max_total_weight) == (8.0 * 64**3, 140, 280)  # type: ignore[union-attr]


def test_the_ring_is_widened_in_time_and_repeated_only_when_it_is_late() -> None:
    encoding, counts = FREE.encoding(BASE, Range(), 2), Counts(2, weight=2)
    error = encoding.rounding_error(counts)
    for largest, bits, repeated in ((error / TOLERANCE * 3, None, False), (error / TOLERANCE * 1.5, WIDE_BITS, False),
                                    (error / TOLERANCE * 0.9, WIDE_BITS, True), (0.0, WIDE_BITS, True)):  # fmt: skip
        after, why = FREE.after(encoding, Range(), counts, largest=largest, floor=0.0)
        assert (after.bits, bool(why)) == (bits, repeated)
    assert FREE.after(encoding, Range(), counts, largest=0.0, floor=error) == (
        Range(),
        "",
    )  # below the model's precision
    given = RangeRule(True, bits=31)
    assert given.after(encoding, Range(), counts, largest=0.0, floor=0.0) == (Range(), "")
    assert any("precision" in said for said in caveats(encoding, counts, largest=0.0, floor=0.0))


def test_weights_beyond_the_planned_total_are_seen_and_change_nothing() -> None:
    """Two clients report ten times the examples that the plan has room for: the sum left the ring unseen."""
    encoding = weighted_rule(1000, 10, 10).encoding(WEIGHTED, Range(None, None, 1000, 1020), 3)
    model = np.zeros(3)
    plan = a_plan(model=model, encoding=encoding)
    server = ServerRound(ServerState(model), plan, scheme=PlainSum())
    for client in range(3):
        vector = encoding.encode(ClientUpdate(np.full(3, 8.0), 1000), RNG)
        server.receive(client, PlainSum().client(plan.task(PlainSum()), client, vector).start())
    server.advance()
    outcome = server.outcome
    assert (outcome.trained, outcome.update_norm) == (False, 0.0)
    assert not outcome.state.model.any()
    assert any("beyond what the sum had room for" in said for said in outcome.caveats)
    after, why = weighted_rule(1000, 10, 10).after(encoding, Range(), outcome.counts, largest=0.0, floor=0.0)  # type: ignore[arg-type]
    assert (after.max_weight, after.max_total_weight) == (1000, 6000)
    assert why


def test_counts_and_noise_exclude_each_other() -> None:
    with pytest.raises(PrivacyError, match="count_bound"):
        a_plan(encoding=FREE.encoding(dataclasses.replace(BASE, length=4, clip=FlatClip(1.0)), Range(), 3),
               mechanism=Mechanism("central", 1.0))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"count_bound": 1}, "at least 2"),
        ({"count_bound": -1}, "count_bound"),
        ({"count_bound": 9, "weighting": "examples", "max_weight": 10}, "at least 2"),
        ({"max_total_weight": 5}, "max_total_weight"),
        ({"count_bound": 9, "metrics": (Metric("loss", 2.0, 7),)}, "units"),
        ({"count_bound": 9, "metrics": (Metric("loss"), Metric("loss.weight"))}, "distinct"),
        ({"count_bound": 9, "weighting": "examples", "max_weight": 5, "max_total_weight": 4}, "at least max_weight"),
    ],
)
def test_contradicting_counts_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]


def test_an_adaptive_clip_counts_nothing() -> None:
    clip = AdaptiveClip(1.0, units=1 << 16, indicator_units=1 << 10)
    with pytest.raises(ConfigError, match="adaptive"):
        UpdateEncoding(3, clip.codec(Ring(40)), clip, count_bound=9)


def test_a_plan_whose_counts_or_weights_leave_the_ring_is_refused() -> None:
    fitted = weighted_rule(1000, 10, 10).encoding(
        dataclasses.replace(WEIGHTED, length=4, clip=FlatClip(1.0)), Range(), 3
    )
    assert a_plan(encoding=fitted).task(PlainSum()).max_sum == fitted.codec.ring.half - 1
    for changes in (
        {"count_bound": fitted.count_bound * 2},
        {"codec": FixedPoint(fitted.codec.scale * 2, fitted.codec.ring)},
    ):
        with pytest.raises(CapacityError, match="do not fit"):
            a_plan(encoding=dataclasses.replace(fitted, **changes)).task(PlainSum())  # type: ignore[arg-type]


def test_a_task_may_bound_the_sum_instead_of_its_parts() -> None:
    ring = Ring(10)
    with pytest.raises(CapacityError):
        SumTask(b"", (0, 1, 2), 1, 2, ring, 300)
    task = SumTask(b"", (0, 1, 2), 1, 2, ring, 300, 400)
    assert [task.limit(survivors) for survivors in (1, 2, 3)] == [300, 400, 400]
    assert task.digest() != SumTask(b"", (0, 1, 2), 1, 2, Ring(11), 300).digest()
    for max_sum in (299, 900, 1000):
        with pytest.raises(ConfigError, match="max_sum"):
            SumTask(b"", (0, 1, 2), 1, 2, ring, 300, max_sum)
    server = PlainSum().server(task)
    for client in range(3):
        server.receive(client, PlainSum().client(task, client, np.array([150, -1])).start())
    with pytest.raises(RemoteProtocolError, match="max_sum of 400"):
        server.advance()
