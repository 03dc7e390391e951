"""Reads a privacy ledger of version 2 strictly, after sections 3 to 5 of SPEC.md."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

ZEROS = "0" * 64
REASONS = ("never_asked", "too_few_survivors", "aborted_before_opening")
OBSERVERS = ("outsider", "participant", "server", "key_holder")
NO_FIGURE = {  # by placement: the views that see through the noise
    "none": ("vectors", "sum", "release"), "central": ("vectors", "sum"), "distributed": ("vectors",),
    "mesh": ("vectors",), "local": (),
}  # fmt: skip
LAWS = ("none", "rounded_gaussian", "skellam", "discrete_gaussian", "float_gaussian")
EVERYONE = (("kind", "everyone"),)
COUNTS = {"cap", "size", "population"}
AMONG = {"truncated_poisson": "cap", "fixed_size": "size", "one_pass": "size"}
SAMPLINGS = {
    "everyone": set(), "one_pass": {"size"}, "poisson": {"probability"}, "poisson_by_site": {"probabilities"},
    "truncated_poisson": {"probability", "cap", "population"},
    "fixed_size": {"size", "population"},
}  # fmt: skip
FIELDS = {
    "round", "attempt", "opening", "placement", "law", "secure", "declared_stddev", "realized_stddev", "norm_bound",
    "l1_bound", "length", "sampling", "views", "participants", "count",
}  # fmt: skip


class StateError(Exception):
    """The bytes are no ledger."""


def demand(condition: bool, reason: str) -> None:
    if not condition:
        raise StateError(reason)


# --- section 3: file --------------------------------------------------------------------------------------------
def canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def unchain(data: bytes) -> list[tuple[dict[str, Any], str]]:
    found, prev = [], ZEROS
    for line in data.split(b"\n")[:-1]:  # what follows the last newline was cut short, and is dropped
        try:
            entry = json.loads(line)
            record, digest = entry["record"], entry["hash"]
            right = hashlib.sha256(prev.encode() + b"\n" + canonical(record)).hexdigest()
            whole = entry["prev"] == prev and digest == right and canonical(entry) == line
        except (ValueError, KeyError, TypeError) as error:
            raise StateError("not a line of a hash chain") from error
        demand(whole, "the hash does not fit")
        found.append((record, digest))
        prev = digest
    return found


# --- sections 4 and 5: records ----------------------------------------------------------------------------------
def number(value: Any, minimum: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= minimum


def integer(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def check_sampling(sampling: Any) -> None:
    demand(isinstance(sampling, dict) and sampling.get("kind") in SAMPLINGS, "sampling")
    values = {k: v for k, v in sampling.items() if k != "kind"}
    demand(set(values) == SAMPLINGS[sampling["kind"]], "sampling fields")
    demand(all(integer(values[name], 1) for name in COUNTS & set(values)), "a count of the sampling")
    demand("probability" not in values or (number(values["probability"]) and 0 < values["probability"] <= 1), "chance")
    pairs = values.get("probabilities", [[0, 1.0]])
    demand(isinstance(pairs, list) and pairs and all(isinstance(p, list) and len(p) == 2 for p in pairs), "pairs")
    demand(all(integer(s, 0) and s < 2**32 - 1 and number(q) and 0 < q <= 1 for s, q in pairs), "a site's probability")
    demand([s for s, _ in pairs] == sorted({s for s, _ in pairs}), "sites increase")
    demand("population" not in values or values.get("size", 0) <= values["population"], "size")


def counted_sampling(r: dict[str, Any]) -> tuple[Any, ...]:
    """The sampling of a release; of sites with a probability each, the one with the largest."""
    largest = max((q for _, q in r["sampling"].get("probabilities", [])), default=None)
    return tuple(sorted((r["sampling"] if largest is None else {"kind": "poisson", "probability": largest}).items()))


def chance(sampling: dict[str, Any]) -> float:
    """The probability with which a client takes part in a round."""
    fixed = sampling["kind"] == "fixed_size"
    return sampling["size"] / sampling["population"] if fixed else sampling.get("probability", 1.0)


def check_draw(d: dict[str, Any], level: str) -> None:
    demand(level == "client", "examples have no draws")
    demand(set(d) in ({"type", "round", "sampling", "turn"}, {"type", "round", "sampling", "turn", "void"}), "draw")
    demand(integer(d["round"], 0) and d.get("void", True) is True, "draw")
    check_sampling(d["sampling"])
    t = d["turn"]
    demand(t is None or (isinstance(t, float) and 0 <= t <= 1 and float(f"{t:.3g}") == t), "turn")


def check_release(r: Any) -> None:
    demand(isinstance(r, dict), "a release")
    known = FIELDS | ({"spare"} if r.get("placement") == "mesh" else set())
    demand(set(r) - {"draw_known_to", "correlation"} == known, "release fields")
    demand(r.get("draw_known_to", "site") == "site", "draw_known_to")
    demand(all(integer(r[name], 0) for name in ("round", "attempt", "opening")), "round, attempt or opening")
    demand(integer(r["count"], 1) and integer(r["length"], 1), "count or length")
    demand(r["placement"] in NO_FIGURE and r["law"] in LAWS, "placement or law")
    demand((r["placement"] == "none") == (r["law"] == "none"), "placement and law")
    demand(r["placement"] != "mesh" or (r["law"] == "skellam" and integer(r["spare"], 0)), "mesh noise")
    demand(isinstance(r["secure"], bool), "secure")
    demand(not (r["secure"] and r["law"] == "float_gaussian"), "floating-point noise is not secure")
    demand(number(r["norm_bound"]) and r["norm_bound"] > 0, "norm_bound")
    demand(r["l1_bound"] is None or (number(r["l1_bound"]) and r["l1_bound"] > 0), "l1_bound")
    declared, realized = r["declared_stddev"], r["realized_stddev"]
    demand(number(declared) and number(realized), "standard deviations")
    bare = r["placement"] == "none"
    demand(declared == realized == 0 if bare else 0 < declared <= realized, "standard deviations")
    check_sampling(r["sampling"])
    demand("draw_known_to" in r or r["sampling"]["kind"] != "poisson_by_site", "sites that do not sample")
    if "correlation" in r:
        demand(r["correlation"] == "toeplitz" and r["sampling"]["kind"] == "one_pass", "correlation")
        demand((r["placement"], r["law"]) == ("central", "rounded_gaussian"), "correlated noise")
        demand((r["opening"], r["count"]) == (0, 1), "correlated noise")
    views, ids = r["views"], r["participants"]
    demand(isinstance(views, dict) and views.get("outsider") == "release" and set(views) <= set(OBSERVERS), "views")
    demand(all(view in ("vectors", "sum", "release") for view in views.values()), "views")
    if ids is not None:
        demand(isinstance(ids, list) and all(integer(c, 0) and c < 2**32 - 1 for c in ids), "participants")
        demand(ids == sorted(set(ids)), "participants increase")
        most = AMONG.get(r["sampling"]["kind"])
        demand(most is None or len(ids) <= r["sampling"][most], "more took part than were sampled")


def sees_through(observer: str, r: dict[str, Any]) -> bool:
    """True if an observer has no finite figure. With no spare members, a member knows its own part of mesh noise."""
    own = observer in ("participant", "key_holder") and r.get("spare") == 0
    return own or r["views"][observer] in NO_FIGURE[r["placement"]]


def covers(worst: dict[str, Any], real: dict[str, Any]) -> bool:
    free = {"realized_stddev", "participants", "count"}
    fixed = (FIELDS | {"spare", "draw_known_to", "correlation"}) - free
    if any(worst.get(name) != real.get(name) for name in fixed) or real["count"] > worst["count"]:
        return False
    mine, theirs = worst["participants"], real["participants"]
    return mine is None or (theirs is not None and set(theirs) <= set(mine))


def read(data: bytes) -> dict[str, Any]:
    """The unit, the draws, the charged releases in order, and the tokens of open reservations."""
    lines = unchain(data)
    header = lines[0][0] if lines else None
    demand(isinstance(header, dict) and header.get("type") == "ledger" and header.get("version") == 2, "header")
    unit = (header.get("level"), header.get("adjacency"))
    demand(unit[0] in ("client", "example") and unit[1] in ("add_remove", "replace_one", "zero_out"), "unit")
    draws: dict[int, dict[str, Any]] = {}
    charged: dict[str, dict[str, Any]] = {}
    waiting: dict[str, dict[str, Any]] = {}
    for record, digest in lines[1:]:
        kind = record.get("type")
        demand(kind in ("draw", "reserve", "charge", "settle", "refund"), "type")
        if kind == "draw":
            check_draw(record, unit[0])
            demand(record["round"] not in draws, "drawn twice")
            draws[record["round"]] = record
            continue
        release = record.get("release")
        if kind != "refund":
            check_release(release)
        if kind in ("reserve", "charge"):
            draw = draws.get(release["round"], {})
            demand(unit[0] == "example" or draw.get("sampling") == release["sampling"], "no draw of this sampling")
            demand(unit[0] == "example" or "draw_known_to" not in release, "clients are not sampled by sites")
            for other in (o for o in charged.values() if o["round"] == release["round"]):
                demand(any(other[k] != release[k] for k in ("attempt", "opening")), "charged twice")
                a, b = other["participants"], release["participants"]
                demand(a is None or b is None or set(a) <= set(b) or set(b) <= set(a), "redrawn")
            if release["sampling"]["kind"] == "one_pass":
                demand(unit[0] == "client", "one pass of examples")
                for other in (o for o in charged.values() if o["round"] != release["round"]):
                    once = other["sampling"]["kind"] == "one_pass"
                    demand(
                        not once or not set(other["participants"] or ()) & set(release["participants"] or ()), "twice"
                    )
            charged[digest] = release
            waiting |= {digest: release} if kind == "reserve" else {}
            continue
        token = record.get("token")
        demand(token in waiting, "token")
        if kind == "settle":
            demand(covers(waiting[token], release), "not covered")
            charged[token] = release
        else:
            demand(record.get("reason") in REASONS, "reason")
            del charged[token]
        del waiting[token]
    state = {"unit": list(unit), "draws": list(draws.values()), "charged": list(charged.values())}
    return {**state, "waiting": list(waiting)}
