"""The encoding of an update: what a contribution is bounded by, and what its sum decodes to."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import CODEC
from hypothesis import given
from hypothesis import strategies as st

from privfl.codec import FixedPoint, square_norm
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Slot
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.slots import Metric
from privfl.ring import Ring
from privfl.rotation import Rotation

RNG = np.random.default_rng(0)
ADAPTIVE = AdaptiveClip(1.0, units=1 << 16, indicator_units=1 << 10)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), st.integers(1, 500))
def test_a_weighted_update_stays_within_the_clip(values: list[float], examples: int) -> None:
    encoding = UpdateEncoding(4, CODEC, FlatClip(1.5), weighting="examples", max_weight=100)
    vector = encoding.encode(ClientUpdate(np.array(values), examples), RNG)
    weight = min(examples, 100)
    assert vector[encoding.places["weight"]] == weight
    assert math.isqrt(square_norm(vector[encoding.places["update"]])) <= CODEC.scale * 1.5 * weight / 100 + 2


def test_the_mean_over_examples_is_exact_up_to_rounding() -> None:
    encoding = UpdateEncoding(
        4, CODEC, ElementClip(8.0, 4), weighting="examples", max_weight=50, metrics=(Metric("loss"),)
    )
    updates = [ClientUpdate(RNG.normal(size=4), n, {"loss": float(n)}) for n in (10, 20, 50)]
    total = np.sum([encoding.encode(update, RNG) for update in updates], axis=0)
    mean, metrics = encoding.decode(total, math.nan)
    weights = np.array([10, 20, 50]) / 80
    np.testing.assert_allclose(mean, sum(w * u.delta for w, u in zip(weights, updates, strict=True)), atol=1e-4)
    assert metrics["loss"] == pytest.approx(10 / 8 + 20 / 4 + 32 * 50 / 80, abs=1e-3)  # 50 is counted as the bound, 32


def test_the_uniform_mean_divides_by_the_given_denominator() -> None:
    encoding = UpdateEncoding(2, CODEC, FlatClip(10.0))
    total = encoding.encode(ClientUpdate(np.array([1.0, -3.0]), 9), RNG)
    mean, _ = encoding.decode(total, 4.0)
    np.testing.assert_allclose(mean, [0.25, -0.75])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weights", [{}, {"weighting": "examples", "max_weight": 5}])
def test_an_update_that_is_not_finite_contributes_nothing_at_all(bad: float, weights: dict[str, object]) -> None:
    encoding = UpdateEncoding(2, CODEC, FlatClip(1.0), metrics=(Metric("loss"),), **weights)  # type: ignore[arg-type]
    assert not encoding.encode(ClientUpdate(np.array([bad, 1.0]), 5), RNG).any()
    assert not encoding.encode(ClientUpdate(np.array([0.5, 1.0]), 5, {"loss": bad}), RNG).any()


def test_a_sum_without_examples_is_a_zero_update() -> None:
    encoding = UpdateEncoding(2, CODEC, FlatClip(1.0), weighting="examples", max_weight=5)
    mean, metrics = encoding.decode(encoding.encode(ClientUpdate(np.ones(2), 0), RNG), math.nan)
    assert not mean.any()
    assert not metrics


def test_an_update_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="3"):
        UpdateEncoding(2, CODEC, FlatClip(1.0)).encode(ClientUpdate(np.ones(3), 1), RNG)


def test_the_slots_name_every_entry_of_the_vector_once_and_in_order() -> None:
    encoding = UpdateEncoding(
        5, ADAPTIVE.codec(Ring(40)), ADAPTIVE, metrics=(Metric("loss", 2.0, 100), Metric("accuracy", 1.0))
    )
    assert [slot.name for slot in encoding.slots] == ["update", "loss", "accuracy", "clip"]
    assert encoding.slots[1] == Slot("loss", 1, 50.0, 2.0)
    entries = np.arange(encoding.total_length)
    np.testing.assert_array_equal(np.concatenate([entries[place] for place in encoding.places.values()]), entries)
    weighted = UpdateEncoding(5, CODEC, FlatClip(1.0), weighting="examples", max_weight=9)
    assert [slot.name for slot in weighted.slots] == ["update", "weight"]
    assert weighted.slots[-1].norm_bound == 9


def test_a_rotated_update_has_the_slot_of_the_rotated_size() -> None:
    encoding = UpdateEncoding(5, CODEC, FlatClip(1.0), rotation=Rotation(5, 0))
    assert encoding.slots[0].length == encoding.width == 8
    mean, _ = encoding.decode(encoding.encode(ClientUpdate(np.full(5, 0.25), 1), RNG), 1.0)
    np.testing.assert_allclose(mean, 0.25, atol=1e-4)


def test_an_adaptive_clip_moves_by_the_indicator_and_keeps_every_integer_bound() -> None:
    encoding = UpdateEncoding(2, ADAPTIVE.codec(Ring(40)), ADAPTIVE)
    inside = encoding.encode(ClientUpdate(np.array([0.1, 0.0]), 1), RNG)
    outside = encoding.encode(ClientUpdate(np.array([9.0, 0.0]), 1), RNG)
    assert encoding.next_clip_norm(inside + inside, 2.0) < 1.0 < encoding.next_clip_norm(outside + outside, 2.0)  # type: ignore[operator]
    assert encoding.next_clip_norm(inside + outside, 2.0) == pytest.approx(1.0)
    later = encoding.in_round(0.37)
    assert later.clip.clip_norm == 0.37
    assert later.slots == encoding.slots
    assert later.entry_bound <= encoding.entry_bound == 1 << 16
    assert encoding.in_round(None) is encoding
    assert UpdateEncoding(2, CODEC, FlatClip(1.0)).next_clip_norm(inside[:2], 2.0) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weighting": "size"}, "weighting"),
        ({"rounding": "down"}, "rounding"),
        ({"max_weight": 0}, "max_weight"),
        ({"max_weight": 2}, "uniform"),
        ({"length": 0}, "length"),
        ({"metrics": (Metric("loss"), Metric("loss"))}, "distinct"),
        ({"rotation": Rotation(5, 0)}, "rotation"),
        ({"clip": ElementClip(1.0, 5)}, "entries"),
        ({"clip": LayerClip.of([2, 3], 1.0)}, "entries"),
        ({"clip": replace(ADAPTIVE, clip_norm=0.5)}, "codec"),
        ({"clip": ADAPTIVE, "weighting": "examples"}, "uniform"),
    ],
)
def test_contradicting_parts_are_refused(changes: dict[str, object], match: str) -> None:
    settings: dict[str, object] = {"length": 4, "codec": CODEC, "clip": FlatClip(1.0)} | changes
    with pytest.raises(ConfigError, match=match):
        UpdateEncoding(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["update", "clip", "weight", ""])
def test_a_metric_cannot_take_the_name_of_another_slot(name: str) -> None:
    with pytest.raises(ConfigError, match="named"):
        Metric(name)


def test_a_clip_norm_of_the_round_belongs_to_an_adaptive_clip() -> None:
    with pytest.raises(ConfigError, match="fixed"):
        UpdateEncoding(4, FixedPoint(2.0, Ring(40)), FlatClip(1.0)).in_round(0.5)
