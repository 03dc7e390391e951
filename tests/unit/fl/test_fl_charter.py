"""The charter: one form, one digest, and which plans are its rounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_plan, an_encoding

from privfl.crypto import SigningKey
from privfl.dp import AdaptiveClip, ElementClip, Everyone, FlatClip, Mechanism
from privfl.errors import ConfigError, PlanRejected, StateError, WireError
from privfl.fl.charter import Charter
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import EVALUATION, RoundPlan
from privfl.fl.slots import Metric
from privfl.ring import Ring
from privfl.sums import PlainSum

MODEL = np.zeros(4)
KEY = SigningKey(bytes([1]) * 32).public.public.hex()


def a_charter(plan: RoundPlan, **changes: Any) -> Charter:
    settings: dict[str, Any] = {"name": "trial", "rounds": 3, "directory": "d" * 64, "server": KEY}
    members = tuple(range(plan.population))
    return Charter(**(settings | {"terms": Charter.terms_of(plan), "members": members} | changes))


def test_a_charter_comes_back_from_its_bytes_and_its_file(tmp_path: Path) -> None:
    charter = a_charter(a_plan(PlainSum(), MODEL), layout="a" * 64, training="b" * 64, min_interval=60)
    assert Charter.from_bytes(charter.to_bytes()).digest() == charter.digest()
    charter.write(tmp_path / "charter.json")
    assert Charter.read(tmp_path / "charter.json").to_bytes() == charter.to_bytes()
    assert charter.digest() != replace(charter, rounds=4).digest()
    with pytest.raises(WireError):
        Charter.from_bytes(charter.to_bytes() + b" ")
    with pytest.raises(StateError, match="cannot be read"):
        Charter.read(tmp_path / "none.json")
    assert charter.in_words()["rounds"] == "3"


def test_a_plan_of_the_run_is_a_round_of_its_charter_and_any_other_is_not() -> None:
    plan = a_plan(PlainSum(), MODEL, mechanism=Mechanism("distributed", 2.0))
    charter = a_charter(plan)
    charter.check(replace(plan, round=3, attempt=2, model_hash="5" * 64))
    for changes, match in (
        ({"round": 4}, "rounds 1 to 3"),
        ({"round": 0}, "rounds 1 to 3"),
        ({"run": b"x" * 16}, "run"),
        ({"mechanism": Mechanism("distributed", 1.0)}, "mechanism"),
        ({"encoding": an_encoding(5)}, "encoding"),
        ({"scheme": "masked-sum/1"}, "scheme"),
        ({"seed": 99}, "seed"),
    ):
        with pytest.raises(PlanRejected, match=match):
            charter.check(replace(plan, **changes))
    with pytest.raises(PlanRejected, match="not a member"):
        a_charter(plan, members=tuple(range(10, 10 + plan.population))).check(plan)


def test_an_adaptive_clip_may_move_and_without_noise_the_range() -> None:
    clip = AdaptiveClip(1.0, 1 << 16, 1 << 16, 0.5, 0.2)
    encoding = UpdateEncoding(4, clip.codec(Ring(32)), clip)
    plan = a_plan(PlainSum(), MODEL, encoding=encoding, mechanism=Mechanism("central", 2.0))
    a_charter(plan).check(replace(plan, encoding=encoding.in_round(0.5)))
    wider = a_plan(PlainSum(), MODEL)
    a_charter(wider).check(replace(wider, encoding=replace(wider.encoding, clip=FlatClip(0.5))))


def test_a_charter_of_impossible_values_is_refused() -> None:
    plan = a_plan(PlainSum(), MODEL)
    for changes in (
        {"rounds": 0},
        {"name": ""},
        {"terms": plan},
        {"members": (2, 1, 0)},
        {"directory": "short"},
        {"server": ""},
        {"layout": "G" * 64},
        {"min_interval": -1},
    ):
        with pytest.raises(ConfigError):
            a_charter(plan, **changes)


def test_a_charter_states_what_may_be_evaluated() -> None:
    plan = a_plan(PlainSum(), MODEL)
    metric = replace(
        an_encoding(1), clip=ElementClip(1.0, 1), weighting="examples", max_weight=10, metrics=(Metric("error"),)
    )
    asked = replace(plan, round=1, attempt=EVALUATION + 5, encoding=metric, sampling=Everyone())
    with pytest.raises(PlanRejected, match="the charter none"):
        a_charter(plan).check(asked)
    charter = a_charter(plan, evaluation=("error", "accuracy"))
    charter.check(asked)
    assert Charter.from_bytes(charter.to_bytes()) == charter
    assert charter.in_words()["evaluated without noise"] == "error, accuracy"
    for other in (
        replace(asked, encoding=replace(metric, metrics=(Metric("age"),))),
        replace(asked, encoding=replace(metric, metrics=())),
        replace(asked, encoding=replace(plan.encoding, metrics=(Metric("error"),))),
        replace(asked, attempt=5),
        replace(asked, seed=plan.seed + 1),
    ):
        with pytest.raises(PlanRejected):
            charter.check(other)
