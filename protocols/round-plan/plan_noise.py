"""Survivors, denominator and noise: sections 5.3, 5.4 and 5.7 of SPEC.md."""

from __future__ import annotations

import math
from typing import Any

from plan_fields import PUBLIC, sizes
from plan_slots import norm_bound
from plan_values import demand


def min_survivors(plan: dict[str, Any], size: int) -> int:
    return max(plan["survivors"]["floor"], math.ceil(plan["survivors"]["fraction"] * size))


def opened(plan: dict[str, Any], size: int) -> int:
    """The fewest vectors that the plain sum, or a semi-honest masked sum of up to 100 clients, opens."""
    if plan["scheme"] == "plain-sum/1":
        return min_survivors(plan, size)
    return max(min_survivors(plan, size), size // 2 + 1, 3)


def denominator(plan: dict[str, Any]) -> float | None:
    if plan["encoding"]["examples"] is not None:
        return float(plan["encoding"]["examples"]["denominator"])
    if plan["mechanism"]["placement"] == "none":
        return None
    sampling, population = plan["sampling"], plan["population"]
    return {
        "everyone": lambda: float(max(1, len(plan["cohort"]))),
        "one_pass": lambda: float(max(1, len(plan["cohort"]))),
        "fixed_size": lambda: float(sampling["size"]),
        "random_allocation": lambda: sampling["selected"] / sampling["rounds"] * population,
        "poisson": lambda: sampling["probability"] * population,
        "truncated_poisson": lambda: min(sampling["probability"] * population, float(sampling["cap"])),
    }[sampling["kind"]]()


def spread(plan: dict[str, Any]) -> float:
    if plan["mechanism"]["placement"] != "distributed":
        return 1.0
    found = []
    known = [len(plan["cohort"])] if plan["sampling"]["kind"] in PUBLIC else sizes(plan)
    for size in known:
        if size and opened(plan, size) <= size:
            counted = opened(plan, size) - 1 - plan["mechanism"]["colluders"]
            demand(counted >= 1, "no noise share counts")
            found.append(size / counted)
    return max(found)


def share_variance(plan: dict[str, Any]) -> float:
    """The variance of what each client adds, in integer units squared; an implementation rounds it up a little."""
    declared = plan["mechanism"]["noise_multiplier"] * norm_bound(plan)
    if plan["mechanism"]["placement"] == "distributed":
        return declared**2 * spread(plan) / max(1, len(plan["cohort"]))
    return declared**2 if plan["mechanism"]["placement"] == "local" else 0.0


def mesh(plan: dict[str, Any], size: int) -> tuple[int, int] | None:
    """Section 5.4: the members of a cohort and how many a sum needs, or None if none opens."""
    wanted, asked_for = plan["mechanism"]["min_members_to_open"], plan["mechanism"]["members"] or size
    members = min(asked_for, size)
    certain = members - (size - opened(plan, size))
    if opened(plan, size) > size or max(wanted, certain) > members:
        return None
    demand(max(wanted, certain) > plan["mechanism"]["spare"] and members >= 2, "no noise counts")
    return members, max(wanted, certain)


def mesh_noise(plan: dict[str, Any]) -> dict[str, float] | None:
    """The numbers of mesh noise that the sum of this cohort needs; variances in integer units squared."""
    if plan["mechanism"]["placement"] != "mesh":
        return None
    spare = plan["mechanism"]["spare"]
    declared = (plan["mechanism"]["noise_multiplier"] * norm_bound(plan)) ** 2

    def largest(size: int) -> float:
        found = mesh(plan, size)
        if found is None:
            return 0.0
        members, least = found
        return max(
            s * (1 + (m - s) / (least - spare)) / (m - spare)
            for m in range(least, members + 1)
            for s in range(least, m + 1)
        )

    known = plan["sampling"]["kind"] in PUBLIC
    constant = 0.0 if known else max(largest(size) for size in sizes(plan) if size)
    own = mesh(plan, len(plan["cohort"]))
    if own is None:
        return None
    return {"members": own[0], "min_members_to_open": own[1], "variance": declared, "constant": declared * constant}
