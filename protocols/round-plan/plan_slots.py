"""The slots of the vector, and the task of the sum: sections 5.2 and 5.5 of SPEC.md."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from plan_encoding import model_length


def slots(plan: dict[str, Any]) -> list[tuple[str, int, float, float, int]]:
    """(name, length, scale, bound, largest entry) of each slot, without a rotation."""
    encoding = plan["encoding"]
    clip, scale, length = encoding["clip"], encoding["scale"], encoding["length"]

    def units(value: float) -> int:
        return math.floor(Fraction(scale) * Fraction(value))

    if clip["kind"] == "adaptive":
        found = [("update", length, float(clip["units"]), 1.0, units(clip["clip_norm"]))]
    elif clip["kind"] == "flat" and encoding["examples"] is not None:
        top = units(clip["clip_norm"] * encoding["examples"]["max_entry"])
        found = [("update", length, scale, clip["clip_norm"], top)]
    elif clip["kind"] == "flat":
        found = [("update", length, scale, clip["clip_norm"], units(clip["clip_norm"]))]
    elif clip["kind"] == "layers":
        norm = math.hypot(*clip["norms"])
        found = [("update", length, scale, norm, units(norm))]
    else:
        norm = clip["max_abs"] * math.sqrt(length)
        found = [("update", length, scale, norm, units(clip["max_abs"]))]
    name, _, own, bound, top = found[0]
    found = [(name, model_length(encoding), own, bound, top)]
    found += [(block["name"], block["length"], own, bound, top) for block in encoding["blocks"]]
    if encoding["count_bound"]:
        return found + counting_slots(encoding)
    for metric in encoding["metrics"]:
        own = scale if metric["units"] is None else metric["units"] / metric["bound"]
        top = units(metric["bound"]) if metric["units"] is None else metric["units"]
        found.append((metric["name"], 1, own, metric["bound"], top))
    if clip["kind"] == "adaptive":
        found.append(("clip", 1, float(clip["indicator_units"]), 0.5, clip["indicator_units"] // 2))
    if encoding["weighting"] == "examples":
        found.append(("weight", 1, 1.0, float(encoding["max_weight"]), encoding["max_weight"]))
    return found


def counting_slots(encoding: dict[str, Any]) -> list[tuple[str, int, float, float, int]]:
    top, weight = encoding["count_bound"], encoding["max_weight"]
    found = []
    for metric in encoding["metrics"]:
        count = limb_count(metric["bound"], weight, top)
        found.append((metric["name"], count, 1.0, top * math.sqrt(count), top))
        found.append((f"{metric['name']}.weight", 1, 1.0, float(weight), weight))
    found.append(("clipped", 1, 1.0, float(top), top))
    if encoding["clip"]["kind"] == "entries":
        found.append(("range", 8, 1.0, math.sqrt(8), 1))
    found += [(name, 1, 1.0, 1.0, 1) for name in ("rejected", "empty", "unsummed")]
    if encoding["weighting"] == "examples":
        found += [("excess", 1, 1.0, float(top), top), ("weight", 1, 1.0, float(weight), weight)]
    return found


def limb_bits(count_bound: int) -> int:
    return count_bound.bit_length() - 1


def limb_count(bound: float, max_weight: int, count_bound: int) -> int:
    largest = math.ceil(Fraction(bound) * 2**32) * max_weight
    return -(-largest.bit_length() // limb_bits(count_bound))


def limbs(value: float, weight: int, count: int, count_bound: int) -> list[int]:
    """A metric times its weight, as `count` digits, least first."""
    rest, found = round(abs(Fraction(value)) * 2**32) * weight, []
    for _ in range(count):
        rest, digit = divmod(rest, 1 << limb_bits(count_bound))
        found.append(-digit if value < 0 else digit)
    return found


def task_bounds(plan: dict[str, Any]) -> list[int]:
    """The bound of an entry without noise, and max_sum (0: none)."""
    bound, half = max(slot[4] for slot in slots(plan)), 1 << (plan["encoding"]["bits"] - 1)
    limited = plan["encoding"]["max_total_weight"] and len(plan["cohort"]) * bound >= half
    return [bound, half - 1 if limited else 0]


def norm_bound(plan: dict[str, Any]) -> float:
    return math.sqrt(math.fsum((scale * bound) ** 2 for _, _, scale, bound, _ in slots(plan)))
