"""The round plan of SPEC.md, slow and readable.

Run it to write vectors/*.json. It never imports privfl, and privfl never imports it.
"""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

LINE = b"privfl/1 round-plan\n"


class WireError(Exception):
    pass


def demand(condition: bool, reason: str) -> None:
    if not condition:
        raise WireError(reason)


# --- section 3: form ---------------------------------------------------------------------------------------------


def write(plan: dict[str, Any]) -> bytes:
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return LINE + text.encode()


def read(data: bytes) -> dict[str, Any]:
    demand(len(data) <= 1 << 24, "too long")
    demand(data.startswith(LINE), "another first line")
    try:
        plan = json.loads(data[len(LINE) :])
        check(plan)
        again = write(plan)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise WireError(str(error)) from error
    demand(again == data, "not the canonical form")
    return plan


# --- section 4: fields -------------------------------------------------------------------------------------------


def integer(value: Any, low: int, high: int) -> None:
    demand(type(value) is int and low <= value <= high, f"{value!r} is not an integer in [{low}, {high}]")


def real(value: Any, *, positive: bool = True) -> None:
    demand(type(value) is float and math.isfinite(value) and (value > 0 or not positive), f"{value!r}")


def keys(value: Any, names: str) -> None:
    demand(type(value) is dict and set(value) == set(names.split()), f"fields {names} expected")


PUBLIC = ("everyone", "one_pass")
RESERVED = {"update", "clip", "weight", "clipped", "range", "rejected", "empty", "unsummed", "excess", ""}


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
        demand(not plan["state_rounds"] and plan["encoding"]["examples"] is None, "batches of clients")
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


def check_encoding(encoding: dict[str, Any]) -> None:
    fields = "length bits scale clip weighting max_weight max_total_weight count_bound metrics blocks rounding rotation"
    keys(encoding, f"{fields} examples")
    integer(encoding["length"], 1, 1 << 28)
    integer(encoding["bits"], 8, 64)
    real(encoding["scale"])
    demand(2.0**-512 <= encoding["scale"] <= 2.0**512, "scale")
    demand(encoding["weighting"] in ("uniform", "examples"), "weighting")
    integer(encoding["max_weight"], 1, 1 << 62)
    demand(encoding["weighting"] == "examples" or encoding["max_weight"] == 1, "max_weight")
    counts, total = encoding["count_bound"], encoding["max_total_weight"]
    integer(counts, 0, (1 << 62) - 1)
    integer(total, 0, (1 << 62) - 1)
    demand(not counts or counts >= max(2, encoding["max_weight"]), "count_bound")
    demand(not total or (counts > 0 and total >= encoding["max_weight"]), "max_total_weight")
    demand(not counts or encoding["clip"]["kind"] != "adaptive", "an adaptive clip and counts")
    demand(encoding["rounding"] in ("nearest", "stochastic"), "rounding")
    if encoding["rotation"] is not None:
        integer(encoding["rotation"], 0, (1 << 64) - 1)
    names = [metric["name"] for metric in encoding["metrics"]]
    demand(not set(names) & RESERVED, "metric names")
    names += [f"{name}.weight" for name in names]
    for block in encoding["blocks"]:
        keys(block, "name length")
        demand(type(block["name"]) is str, "name")
        demand(block["name"] not in RESERVED, "block names")
        integer(block["length"], 1, 1 << 28)
        names.append(block["name"])
    demand(len(set(names)) == len(names), "names of metrics and blocks")
    if encoding["blocks"]:
        demand(encoding["rotation"] is None and encoding["clip"]["kind"] != "adaptive", "blocks")
        demand(model_length(encoding) >= 1, "the blocks leave no update")
    for metric in encoding["metrics"]:
        keys(metric, "name bound units")
        demand(type(metric["name"]) is str, "name")
        real(metric["bound"])
        if metric["units"] is not None:
            demand(not counts, "units of a metric next to counts")
            integer(metric["units"], 1, 1 << 62)
    check_clip(encoding)
    if encoding["examples"] is not None:
        check_examples(encoding)


def check_examples(encoding: dict[str, Any]) -> None:
    rule = encoding["examples"]
    keys(rule, "sampling denominator max_entry")
    real(rule["denominator"])
    real(rule["max_entry"])
    sampling = rule["sampling"]
    if sampling["kind"] == "poisson":
        keys(sampling, "kind probability")
        pairs = [[0, sampling["probability"]]]
    else:
        demand(sampling["kind"] == "poisson_by_site", "sampling of examples")
        keys(sampling, "kind probabilities")
        pairs = sampling["probabilities"]
    demand(len(pairs) > 0 and [site for site, _ in pairs] == sorted({site for site, _ in pairs}), "sites")
    for site, probability in pairs:
        integer(site, 0, (1 << 32) - 2)
        real(probability)
        demand(probability <= 1, "probability")
    demand(encoding["clip"]["kind"] == "flat" and encoding["weighting"] == "uniform", "clip or weights of examples")
    demand(not encoding["metrics"] and not encoding["blocks"] and not encoding["count_bound"], "an update alone")
    demand(encoding["rounding"] == "nearest" and encoding["rotation"] is None, "rounding of examples")
    units = Fraction(encoding["scale"]) * Fraction(encoding["clip"]["clip_norm"])
    demand(1 <= units <= 1 << 40, "units of a clip norm")


def check_clip(encoding: dict[str, Any]) -> None:
    clip = encoding["clip"]
    kind = clip["kind"]
    if kind == "flat":
        keys(clip, "kind clip_norm")
        real(clip["clip_norm"])
    elif kind == "layers":
        keys(clip, "kind cuts norms")
        cuts, norms = clip["cuts"], clip["norms"]
        demand(len(cuts) == len(norms) + 1 and cuts[0] == 0 and cuts[-1] == encoding["length"], "cuts")
        for cut in cuts:
            integer(cut, 0, 1 << 28)
        demand(cuts == sorted(set(cuts)), "cuts")
        for norm in norms:
            real(norm)
    elif kind == "entries":
        keys(clip, "kind max_abs")
        real(clip["max_abs"])
    else:
        demand(kind == "adaptive", "kind")
        keys(clip, "kind clip_norm units indicator_units quantile learning_rate")
        for name in ("clip_norm", "quantile", "learning_rate"):
            real(clip[name])
        integer(clip["units"], 1, 1 << 62)
        integer(clip["indicator_units"], 1, 1 << 62)
        demand(clip["indicator_units"] % 2 == 0 and clip["quantile"] < 1, "indicator")
        demand(encoding["weighting"] == "uniform", "an adaptive clip and weights")
        scale = clip["units"] / clip["clip_norm"]
        if Fraction(scale) * Fraction(clip["clip_norm"]) > clip["units"]:
            scale = math.nextafter(scale, 0.0)
        demand(encoding["scale"] == scale, "the scale is not that of the adaptive clip")


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


# --- section 5: what follows -------------------------------------------------------------------------------------


def digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(b"privfl/1 round-plan digest" + write(plan)).hexdigest()


def model_length(encoding: dict[str, Any]) -> int:
    return int(encoding["length"] - sum(block["length"] for block in encoding["blocks"]))


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


# --- section 9: vectors ------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "run": "000102030405060708090a0b0c0d0e0f",
    "round": 3,
    "attempt": 0,
    "model": hashlib.sha256(b"float32:4\n" + bytes(16)).hexdigest(),
    "cohort": [0, 1, 2, 5],
    "state_rounds": [],
    "population": 4,
    "sampling": {"kind": "everyone"},
    "survivors": {"fraction": 0.5, "floor": 3},
    "encoding": {
        "length": 4,
        "bits": 40,
        "scale": 65536.0,
        "clip": {"kind": "flat", "clip_norm": 1.5},
        "weighting": "uniform",
        "max_weight": 1,
        "max_total_weight": 0,
        "count_bound": 0,
        "metrics": [],
        "blocks": [],
        "rounding": "nearest",
        "rotation": None,
        "examples": None,
    },
    "mechanism": {
        "placement": "none",
        "noise_multiplier": 0.0,
        "source": "secure",
        "colluders": 0,
        "discrete": False,
        "spare": 0,
        "members": 0,
        "min_members_to_open": 0,
        "correlation": "none",
    },
    "scheme": "plain-sum/1",
    "parameters": {},
    "seed": 7,
    "chunking": {"kind": "single", "size": 1},
    "bases": [],
}


BASES = [{"model": f"{age:064x}", "weight": 1 / (1.0 + age)} for age in (0, 3, 0, 1)]


def changed(**changes: Any) -> dict[str, Any]:
    """BASE with some fields replaced; a field of an inner object is named with two underscores."""
    plan = json.loads(json.dumps(BASE))
    for name, value in changes.items():
        target, *inner = name.split("__")
        if inner:
            plan[target][inner[0]] = value
        else:
            plan[target] = value
    return plan


ADAPTIVE = {
    "kind": "adaptive", "clip_norm": 0.3, "units": 65536, "indicator_units": 1024, "quantile": 0.5,
    "learning_rate": 0.2,
}  # fmt: skip
NOISE = {
    "placement": "distributed", "noise_multiplier": 1.1, "source": "secure", "colluders": 0, "discrete": False,
    "spare": 0, "members": 0, "min_members_to_open": 0, "correlation": "none",
}  # fmt: skip
STREAM = NOISE | {"placement": "central", "correlation": "toeplitz"}
ONE_PASS = {"kind": "one_pass", "size": 4}
MESH = NOISE | {"placement": "mesh", "spare": 1}
MASKED = {
    "mode": "semi-honest", "share_threshold": "auto", "graph": "complete", "corrupt": 0.05, "dropout": 0.1,
    "security_bits": 40, "correctness_bits": 20, "packed": False, "min_vectors": 3,
}  # fmt: skip

EXAMPLES = {"sampling": {"kind": "poisson", "probability": 0.0625}, "denominator": 40.0, "max_entry": 12.5}
BY_SITE = {"kind": "poisson_by_site", "probabilities": [[0, 0.1], [1, 0.2], [2, 0.05], [5, 1.0]]}

VALID: dict[str, dict[str, Any]] = {
    "everybody, no noise": BASE,
    "one pass with correlated noise": changed(sampling=ONE_PASS, mechanism=STREAM),
    "one pass with independent noise": changed(sampling=ONE_PASS, mechanism=NOISE),
    "weights and a metric": changed(
        encoding__weighting="examples", encoding__max_weight=250,
        encoding__metrics=[{"name": "loss", "bound": 32.0, "units": None}],
    ),
    "counts, weights by a total": changed(
        encoding__weighting="examples", encoding__max_weight=200000, encoding__max_total_weight=200015,
        encoding__count_bound=137438953471, encoding__scale=2.0**35,
        encoding__clip={"kind": "entries", "max_abs": 8.0},
        encoding__metrics=[{"name": "loss", "bound": 2.0**64, "units": None}],
    ),
    "counts, uniform": changed(
        encoding__count_bound=255, encoding__bits=11, encoding__scale=16.0,
        encoding__metrics=[{"name": "loss", "bound": 1024.0, "units": None}],
    ),
    "layers": changed(encoding__clip={"kind": "layers", "cuts": [0, 1, 4], "norms": [0.5, 0.25]}),
    "entries, stochastic": changed(
        encoding__clip={"kind": "entries", "max_abs": 8.0}, encoding__rounding="stochastic"
    ),
    "central, a noised loss": changed(
        mechanism=NOISE | {"placement": "central"},
        encoding__metrics=[{"name": "loss", "bound": 2.0, "units": 5000}],
    ),
    "distributed": changed(mechanism=NOISE),
    "distributed, fewer than everybody": changed(mechanism=NOISE, cohort=[0, 1, 5]),
    "distributed, Poisson": changed(
        mechanism=NOISE, population=12, sampling={"kind": "poisson", "probability": 0.4},
    ),
    "distributed, truncated, a colluder": changed(
        mechanism=NOISE | {"colluders": 1}, population=20, survivors={"fraction": 0.9, "floor": 4},
        sampling={"kind": "truncated_poisson", "probability": 0.25, "cap": 6, "population": 20},
    ),
    "mesh": changed(mechanism=MESH, scheme="masked-sum/1", parameters=MASKED),
    "mesh, three members of five": changed(
        mechanism=MESH | {"members": 3, "min_members_to_open": 2}, scheme="masked-sum/1", parameters=MASKED,
        cohort=[0, 1, 2, 5, 9], population=5,
    ),
    "mesh, Poisson": changed(
        mechanism=MESH, scheme="masked-sum/1", parameters=MASKED, population=12, cohort=[0, 1, 2, 5, 9],
        survivors={"fraction": 0.75, "floor": 4}, sampling={"kind": "poisson", "probability": 0.4},
    ),
    "local, fixed size": changed(
        mechanism=NOISE | {"placement": "local", "discrete": True}, population=9,
        sampling={"kind": "fixed_size", "size": 4, "population": 9},
    ),
    "adaptive, simulation": changed(
        mechanism=NOISE | {"placement": "central", "source": "simulation"}, encoding__clip=ADAPTIVE,
        encoding__scale=65536 / 0.3 if Fraction(65536 / 0.3) * Fraction(0.3) <= 65536
        else math.nextafter(65536 / 0.3, 0.0),
    ),
    "arrivals": changed(population=9, bases=BASES),
    "arrivals, central": changed(population=9, bases=BASES, mechanism=NOISE | {"placement": "central"}),
    "arrivals, distributed": changed(population=9, bases=BASES, mechanism=NOISE),
    "chunks": changed(chunking={"kind": "batched", "size": 32}),
    "states": changed(state_rounds=[2, 0, 1, 2]),
    "blocks": changed(
        encoding__count_bound=255, encoding__bits=11, encoding__scale=16.0, state_rounds=[0, 0, 0, 0],
        encoding__blocks=[{"name": "control", "length": 1}, {"name": "other", "length": 2}],
        encoding__clip={"kind": "entries", "max_abs": 8.0},
    ),
    "examples": changed(mechanism=NOISE, encoding__examples=EXAMPLES),
    "examples, a probability for each site": changed(encoding__examples=EXAMPLES | {"sampling": BY_SITE}),
    "nobody sampled": changed(
        cohort=[], population=9, sampling={"kind": "poisson", "probability": 1e-05},
        survivors={"fraction": 0.0, "floor": 0}, mechanism=NOISE | {"placement": "central"},
    ),
}  # fmt: skip

INVALID: dict[str, dict[str, Any]] = {
    "correlated noise of everyone": changed(mechanism=STREAM),
    "correlated noise of clients": changed(sampling=ONE_PASS, mechanism=STREAM | {"placement": "local"}),
    "correlated discrete noise": changed(sampling=ONE_PASS, mechanism=STREAM | {"discrete": True}),
    "another correlation": changed(sampling=ONE_PASS, mechanism=STREAM | {"correlation": "banded"}),
    "correlated noise under an adaptive clip": changed(
        sampling=ONE_PASS,
        mechanism=STREAM,
        encoding__clip=ADAPTIVE,
        encoding__scale=math.nextafter(65536 / 0.3, 0.0)
        if Fraction(65536 / 0.3) * Fraction(0.3) > 65536
        else 65536 / 0.3,
    ),
    "more than one pass asks": changed(sampling=ONE_PASS | {"size": 3}),
    "a real number as round": changed(round=3.0),
    "a truth value as attempt": changed(attempt=True),
    "a cohort out of order": changed(cohort=[1, 0, 2, 5]),
    "a client twice": changed(cohort=[0, 1, 1, 5]),
    "the server in the cohort": changed(cohort=[0, 1, 2, (1 << 32) - 1]),
    "more than the population": changed(cohort=[0, 1, 2, 5, 6]),
    "above the cap": changed(
        population=20, sampling={"kind": "truncated_poisson", "probability": 0.5, "cap": 3, "population": 20}
    ),
    "an integer as scale": changed(encoding__scale=65536),
    "an integer as fraction": changed(survivors={"fraction": 1, "floor": 3}),
    "a length that is too long": changed(encoding__length=(1 << 28) + 1),
    "an unknown clip": changed(encoding__clip={"kind": "sharp"}),
    "a metric named as a slot": changed(encoding__metrics=[{"name": "update", "bound": 1.0, "units": None}]),
    "a scale that is not that of the adaptive clip": changed(encoding__clip=ADAPTIVE),
    "noise without a multiplier": changed(mechanism=NOISE | {"noise_multiplier": 0.0}),
    "a multiplier without noise": changed(mechanism=NOISE | {"placement": "none"}),
    "spare of other noise": changed(mechanism=NOISE | {"spare": 1}),
    "colluders of mesh noise": changed(mechanism=MESH | {"colluders": 1}),
    "one member": changed(mechanism=MESH | {"members": 1}),
    "a minimum that is spare": changed(mechanism=MESH | {"spare": 2, "min_members_to_open": 2}),
    "noise and weights": changed(mechanism=NOISE, encoding__weighting="examples"),
    "noise and counts": changed(mechanism=NOISE, encoding__count_bound=100),
    "a total weight without counts": changed(encoding__weighting="examples", encoding__max_total_weight=9),
    "a count bound below the largest weight": changed(
        encoding__weighting="examples", encoding__max_weight=50, encoding__count_bound=49
    ),
    "a metric named as a slot that counts": changed(
        encoding__metrics=[{"name": "rejected", "bound": 1.0, "units": None}]
    ),
    "a state of the round itself": changed(state_rounds=[3, 0, 0, 0]),
    "a state for some of the cohort": changed(state_rounds=[1, 1]),
    "blocks that leave no update": changed(encoding__blocks=[{"name": "control", "length": 4}]),
    "a block named as a slot": changed(encoding__blocks=[{"name": "weight", "length": 1}]),
    "noise and blocks": changed(mechanism=NOISE, encoding__blocks=[{"name": "control", "length": 1}]),
    "blocks and a rotation": changed(encoding__rotation=1, encoding__blocks=[{"name": "control", "length": 1}]),
    "examples of sampled sites": changed(encoding__examples=EXAMPLES, sampling={"kind": "poisson", "probability": 0.5}),
    "examples under local noise": changed(encoding__examples=EXAMPLES, mechanism=NOISE | {"placement": "local"}),
    "examples and a metric": changed(
        encoding__examples=EXAMPLES, encoding__metrics=[{"name": "loss", "bound": 2.0, "units": None}]
    ),
    "examples clipped by entries": changed(
        encoding__examples=EXAMPLES, encoding__clip={"kind": "entries", "max_abs": 8.0}
    ),
    "examples without a denominator": changed(encoding__examples=EXAMPLES | {"denominator": 0.0}),
    "examples of everyone": changed(encoding__examples=EXAMPLES | {"sampling": {"kind": "everyone"}}),
    "examples of a site without a probability": changed(
        encoding__examples=EXAMPLES | {"sampling": {**BY_SITE, "probabilities": [[0, 0.1]]}}
    ),
    "examples, rounded stochastically": changed(encoding__examples=EXAMPLES, encoding__rounding="stochastic"),
    "upper-case hexadecimal digits": changed(run="000102030405060708090A0B0C0D0E0F"),
    "a nested parameter": changed(parameters={"a": [1]}),
    "an unknown kind of chunk": changed(chunking={"kind": "whole", "size": 1}),
    "a batched chunk with states": changed(chunking={"kind": "batched", "size": 2}, state_rounds=[2, 0, 1, 2]),
    "a base for some of the cohort": changed(bases=BASES[:2]),
    "a base with a weight above 1": changed(bases=[*BASES[:3], BASES[3] | {"weight": 1.5}]),
    "bases and examples": changed(bases=BASES, encoding__examples=EXAMPLES),
    "bases and one pass": changed(bases=BASES, sampling=ONE_PASS, mechanism=NOISE),
    "bases and a sampling": changed(
        bases=BASES, population=9, sampling={"kind": "fixed_size", "size": 4, "population": 9}
    ),
    "a chunk of nobody": changed(chunking={"kind": "single", "size": 0}),
    "a seed of 65 bits": changed(seed=1 << 64),
    "a field too many": changed() | {"noise_stddev": 1.0},
}

SPELLINGS = {
    "white space": (b'"round":3', b'"round": 3'),
    "an exponent": (b"65536.0", b"6.5536e4"),
    "a key twice": (b'"round":3', b'"round":3,"round":3'),
    "an escape": (b'"everyone"', b'"every\\u006fne"'),
    "NaN": (b"65536.0", b"NaN"),
}


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
