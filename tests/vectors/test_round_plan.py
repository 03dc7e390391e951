"""privfl's plans against protocols/round-plan, whose reference shares no code with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import references

from privfl.errors import WireError
from privfl.fl.counts import from_limbs, to_limbs
from privfl.fl.plan import RoundPlan
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

FOLDER = Path(__file__).parents[2] / "protocols" / "round-plan"
SCHEMES = {"plain-sum/1": PlainSum(), "masked-sum/1": MaskedSum(mode="semi-honest", graph="complete")}


def cases(name: str) -> list[Any]:
    loaded = json.loads((FOLDER / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(case, id=case["name"]) for case in loaded["cases"]]


@pytest.mark.parametrize("case", cases("valid"))
def test_a_plan_and_all_that_follows_from_it_is_that_of_the_reference(case: dict[str, Any]) -> None:
    plan = RoundPlan.from_bytes(case["plan"].encode())
    assert plan.to_bytes().decode() == case["plan"]
    assert plan.digest().hex() == case["digest"]
    slots = plan.encoding.slots
    assert [[s.name, s.length, s.scale, s.bound] for s in slots] == [slot[:4] for slot in case["slots"]]
    assert plan.encoding.entry_bound == max(slot[4] for slot in case["slots"])
    assert plan.min_survivors == case["min_survivors"]
    assert plan.denominator == case["denominator"]
    scheme = SCHEMES[plan.scheme]
    noise = plan.noise(scheme)
    assert noise.norm_bound == pytest.approx(case["norm_bound"], rel=1e-15)
    assert noise.share_stddev**2 == pytest.approx(case["share_variance"], rel=1e-11)
    assert noise.share_stddev**2 >= case["share_variance"] * (1 - 1e-15)
    if plan.cohort:
        task = plan.task(scheme)
        assert (task.context, task.clients, task.min_survivors) == (plan.digest(), plan.cohort, plan.min_survivors)
        assert task.bound == plan.encoding.entry_bound + noise.noise_reach
        assert [task.bound - noise.noise_reach, task.max_sum] == case["task_bounds"]
        assert task.noise == noise.mesh
    assert (noise.mesh is None) == (case["mesh"] is None)
    if noise.mesh is not None:
        counts = ("members", "min_members_to_open")
        assert all(getattr(noise.mesh, name) == case["mesh"][name] for name in counts)
        assert noise.mesh.spare == plan.mechanism.spare
        for name in ("variance", "constant"):
            assert getattr(noise.mesh, name) == pytest.approx(case["mesh"][name], rel=1e-11)
            assert getattr(noise.mesh, name) >= case["mesh"][name] * (1 - 1e-15)
    top = plan.encoding.count_bound
    for value, weight, limbs in case["limbs"]:
        assert to_limbs(value, weight, len(limbs), top) == limbs
        assert from_limbs(limbs, weight, top) == pytest.approx(value, abs=2.0**-32)


@pytest.mark.parametrize("case", cases("invalid"))
def test_bytes_that_are_no_plan_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        RoundPlan.from_bytes(bytes.fromhex(case["bytes"]))


def test_the_vectors_are_those_of_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = references.load("round-plan", "reference")
    (tmp_path / "vectors").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "reference.py"))
    module.main()
    for name in ("valid.json", "invalid.json"):
        assert (tmp_path / "vectors" / name).read_bytes() == (FOLDER / "vectors" / name).read_bytes()
