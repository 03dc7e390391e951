"""The fields of a plan and of its mechanism, and the cohorts that a sampling can produce.

Sections 4, 4.2 and 5.6 to 5.9 of SPEC.md; `plan_encoding.py` has section 4.1.
"""

from __future__ import annotations

from typing import Any

from plan_encoding import check_encoding
from plan_values import demand, integer, keys, real

PUBLIC = ("everyone", "one_pass")


def check(plan: dict[str, Any]) -> None:
    fields = "run round attempt model cohort state_rounds population sampling survivors encoding mechanism scheme"
    keys(plan, f"{fields} parameters seed chunking bases")
    for name, digits in (("run", 32), ("model", 64)):
        demand(len(plan[name]) == digits and not set(plan[name]) - set("0123456789abcdef"), name)
    for name, low, high in (
        ("round", 0, 1 << 32),
        ("attempt", 0, 1 << 32),
        ("population", 1, (1 << 32) - 1),
        ("seed", 0, (1 << 64) - 1),
    ):
        integer(plan[name], low, high)
    for client in plan["cohort"]:
        integer(client, 0, (1 << 32) - 2)
    demand(plan["cohort"] == sorted(set(plan["cohort"])), "the cohort is not increasing")
    demand(len(plan["state_rounds"]) in (0, len(plan["cohort"])), "state_rounds")
    for number in plan["state_rounds"]:
        integer(number, 0, max(0, plan["round"] - 1))
    demand(bool(plan["bases"]) or len(plan["cohort"]) in sizes(plan), "the sampling cannot produce this cohort")
    keys(plan["survivors"], "fraction floor")
    real(plan["survivors"]["fraction"], positive=False)
    demand(0 <= plan["survivors"]["fraction"] <= 1, "fraction")
    integer(plan["survivors"]["floor"], 0, 1 << 32)
    demand(type(plan["scheme"]) is str and type(plan["parameters"]) is dict, "scheme")
    for value in plan["parameters"].values():
        demand(type(value) in (str, int, float, bool), "a parameter")
    for base in plan["bases"]:
        keys(base, "model weight")
        demand(len(base["model"]) == 64 and not set(base["model"]) - set("0123456789abcdef"), "base")
        real(base["weight"])
        demand(base["weight"] <= 1, "weight")
    if plan["bases"]:
        demand(len(plan["bases"]) == len(plan["cohort"]) <= plan["population"] and not plan["state_rounds"], "bases")
        demand(plan["encoding"]["examples"] is None, "bases and examples")
        demand(plan["sampling"] == {"kind": "everyone"}, "bases and sampling")
    keys(plan["chunking"], "kind size")
    demand(plan["chunking"]["kind"] in ("single", "batched"), "chunking")
    if plan["chunking"]["kind"] == "batched":
        demand(plan["encoding"]["examples"] is None, "batches of clients")
    integer(plan["chunking"]["size"], 1, 1 << 16)
    check_mechanism(plan["mechanism"])
    check_encoding(plan["encoding"])
    if plan["mechanism"]["placement"] != "none":
        demand(plan["encoding"]["weighting"] == "uniform", "noise and weights")
        demand(plan["encoding"]["count_bound"] == 0, "noise and counts")
        demand(not plan["encoding"]["blocks"], "noise and blocks")
    if plan["encoding"]["examples"] is not None:
        demand(plan["sampling"] == {"kind": "everyone"}, "sites and examples that are sampled")
        demand(plan["mechanism"]["placement"] != "local", "local noise over examples")
        named = plan["encoding"]["examples"]["sampling"].get("probabilities")
        demand(named is None or set(plan["cohort"]) <= {site for site, _ in named}, "a site without a probability")
    if plan["mechanism"]["correlation"] != "none":
        demand(plan["sampling"]["kind"] == "one_pass", "correlated noise for clients that come again")
        demand(plan["encoding"]["clip"]["kind"] != "adaptive", "correlated noise of changing size")


def check_mechanism(mechanism: dict[str, Any]) -> None:
    keys(
        mechanism, "placement noise_multiplier source colluders discrete spare members min_members_to_open correlation"
    )
    placement = mechanism["placement"]
    demand(placement in ("none", "central", "distributed", "mesh", "local"), "placement")
    real(mechanism["noise_multiplier"], positive=placement != "none")
    demand(placement != "none" or mechanism["noise_multiplier"] == 0, "a multiplier without noise")
    demand(mechanism["source"] in ("secure", "simulation"), "source")
    integer(mechanism["colluders"], 0, 1 << 32)
    demand(type(mechanism["discrete"]) is bool, "discrete")
    demand(not mechanism["discrete"] or placement in ("central", "local"), "a discrete Gaussian elsewhere")
    spare, members, minimum = (mechanism[name] for name in ("spare", "members", "min_members_to_open"))
    for count in (spare, members, minimum):
        integer(count, 0, 1 << 32)
    demand(mechanism["correlation"] in ("none", "toeplitz"), "correlation")
    if mechanism["correlation"] != "none":
        demand(placement == "central" and not mechanism["discrete"], "correlated noise of another kind")
    demand(placement == "mesh" or spare == members == minimum == 0, "members of other noise than mesh")
    if placement == "mesh":
        demand(mechanism["colluders"] == 0, "colluders of mesh noise")
        demand(members == 0 or members > max(1, spare), "too few members")
        demand(minimum == 0 or spare < minimum <= (members or minimum), "min_members_to_open")


def sizes(plan: dict[str, Any]) -> range:
    sampling, population = plan["sampling"], plan["population"]
    kind = sampling["kind"]
    if kind == "everyone":
        keys(sampling, "kind")
        return range(population + 1)
    if kind == "one_pass":
        keys(sampling, "kind size")
        integer(sampling["size"], 1, 1 << 62)
        return range(min(sampling["size"], population) + 1)
    if kind == "random_allocation":
        keys(sampling, "kind selected rounds")
        integer(sampling["rounds"], 1, 1 << 62)
        integer(sampling["selected"], 1, sampling["rounds"])
        return range(population + 1)
    if kind == "fixed_size":
        keys(sampling, "kind size population")
        integer(sampling["size"], 1, sampling["population"])
        return range(sampling["size"], sampling["size"] + 1)
    real(sampling["probability"])
    demand(sampling["probability"] <= 1, "probability")
    if kind == "truncated_poisson":
        keys(sampling, "kind probability cap population")
        integer(sampling["cap"], 1, 1 << 62)
        return range(min(sampling["cap"], population) + 1)
    demand(kind == "poisson", "kind")
    keys(sampling, "kind probability")
    return range(population + 1)
