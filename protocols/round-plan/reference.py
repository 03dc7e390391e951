"""The round plan of SPEC.md, slow and readable. Run it to write vectors/*.json (section 9).

It never imports privfl, and privfl never imports it. The page as code, in the order of its sections:

- `plan_form.py`: the bytes of a plan and its digest (3, 5.1);
- `plan_values.py`, `plan_fields.py`, `plan_encoding.py`: what a plan may hold (4);
- `plan_slots.py`, `plan_noise.py`: what follows from a plan (5);
- `plan_cases.py`: the plans of the vectors (9).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plan_cases import BASE, INVALID, SPELLINGS, VALID
from plan_fields import check
from plan_form import LINE, digest, read, write
from plan_noise import denominator, mesh_noise, min_survivors, share_variance
from plan_slots import limb_count, limbs, norm_bound, slots, task_bounds
from plan_values import WireError


def valid_case(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    check(read(write(plan)))
    return {
        "name": name,
        "plan": write(plan).decode(),
        "digest": digest(plan),
        "slots": [list(slot) for slot in slots(plan)],
        "min_survivors": min_survivors(plan, len(plan["cohort"])),
        "denominator": denominator(plan),
        "norm_bound": norm_bound(plan),
        "share_variance": share_variance(plan),
        "mesh": mesh_noise(plan),
        "task_bounds": task_bounds(plan),
        "limbs": metric_limbs(plan),
    }


def metric_limbs(plan: dict[str, Any]) -> list[list[Any]]:
    """[value, weight, its limbs] of some values of the first metric, for an encoding that counts."""
    encoding = plan["encoding"]
    if not (encoding["count_bound"] and encoding["metrics"]):
        return []
    weight, top, bound = encoding["max_weight"], encoding["count_bound"], encoding["metrics"][0]["bound"]
    count = limb_count(bound, weight, top)
    return [[value, weight, limbs(value, weight, count, top)] for value in (0.0, 0.1, -1000.0, bound, 2.0**-33)]


def refused(name: str, data: bytes) -> dict[str, str]:
    try:
        read(data)
    except WireError:
        return {"name": name, "bytes": data.hex()}
    raise AssertionError(name)


def main() -> None:
    folder = Path(__file__).parent / "vectors"
    valid = [valid_case(name, plan) for name, plan in VALID.items()]
    good = write(BASE)
    invalid = [refused(name, write(plan)) for name, plan in INVALID.items()]
    invalid += [refused(name, good.replace(*change)) for name, change in SPELLINGS.items()]
    cuts = {"empty": b"", "cut short": good[:-1], "a byte too many": good + b"\n", "no first line": good[len(LINE) :]}
    invalid += [refused(name, data) for name, data in cuts.items()]
    for name, cases in (("valid", valid), ("invalid", invalid)):
        text = json.dumps({"version": 1, "cases": cases}, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
