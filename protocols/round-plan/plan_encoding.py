"""The encoding of an update, with its clip, metrics, blocks and examples: sections 4.1 and 5.7 of SPEC.md."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from plan_values import demand, integer, keys, real

RESERVED = {"update", "clip", "weight", "clipped", "range", "rejected", "empty", "unsummed", "excess", ""}


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


def model_length(encoding: dict[str, Any]) -> int:
    return int(encoding["length"] - sum(block["length"] for block in encoding["blocks"]))
