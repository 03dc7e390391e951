"""The privacy ledger of SPEC.md, slow and readable.

Run it to write vectors/*.json. It never imports privfl, and privfl never imports it.
"""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

ZEROS = "0" * 64
REASONS = ("never_asked", "too_few_survivors", "aborted_before_opening")
PLACEMENTS = ("none", "central", "distributed", "local")
LAWS = ("none", "rounded_gaussian", "skellam", "discrete_gaussian", "float_gaussian")
SAMPLINGS = {
    "everyone": set(),
    "poisson": {"probability"},
    "truncated_poisson": {"probability", "cap", "population"},
    "fixed_size": {"size", "population"},
}
FIELDS = {
    "round", "attempt", "opening", "placement", "law", "secure", "declared_stddev", "realized_stddev", "norm_bound",
    "l1_bound", "sampling", "server_sees", "participants", "count",
}  # fmt: skip


class StateError(Exception):
    pass


def demand(condition: bool, reason: str) -> None:
    if not condition:
        raise StateError(reason)


# --- section 3: file --------------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def chain(records: list[dict[str, Any]]) -> bytes:
    lines, prev = b"", ZEROS
    for record in records:
        digest = hashlib.sha256(prev.encode() + b"\n" + canonical(record)).hexdigest()
        lines += canonical({"hash": digest, "prev": prev, "record": record}) + b"\n"
        prev = digest
    return lines


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


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_sampling(sampling: Any) -> None:
    demand(isinstance(sampling, dict) and sampling.get("kind") in SAMPLINGS, "sampling")
    values = {k: v for k, v in sampling.items() if k != "kind"}
    demand(set(values) == SAMPLINGS[sampling["kind"]], "sampling fields")
    for name, value in values.items():
        if name == "probability":
            demand(number(value) and 0 < value <= 1, "probability")
        else:
            demand(isinstance(value, int) and not isinstance(value, bool) and value >= 1, name)
    demand("size" not in values or values["size"] <= values["population"], "size")


def check_release(r: Any) -> None:
    demand(isinstance(r, dict) and set(r) == FIELDS, "release fields")
    for name in ("round", "attempt", "opening"):
        demand(isinstance(r[name], int) and not isinstance(r[name], bool) and r[name] >= 0, name)
    demand(isinstance(r["count"], int) and not isinstance(r["count"], bool) and r["count"] >= 1, "count")
    demand(r["placement"] in PLACEMENTS and r["law"] in LAWS, "placement or law")
    demand((r["placement"] == "none") == (r["law"] == "none"), "placement and law")
    demand(isinstance(r["secure"], bool), "secure")
    demand(not (r["secure"] and r["law"] == "float_gaussian"), "floating-point noise is not secure")
    demand(number(r["norm_bound"]) and r["norm_bound"] > 0, "norm_bound")
    demand(r["l1_bound"] is None or (number(r["l1_bound"]) and r["l1_bound"] > 0), "l1_bound")
    declared, realized = r["declared_stddev"], r["realized_stddev"]
    demand(number(declared) and number(realized), "deviations")
    if r["placement"] == "none":
        demand(declared == 0 and realized == 0, "deviations without noise")
    else:
        demand(declared > 0 and realized >= declared, "deviations")
    check_sampling(r["sampling"])
    demand(r["server_sees"] in ("vectors", "sum", "ciphertexts"), "server_sees")
    ids = r["participants"]
    if ids is not None:
        demand(isinstance(ids, list) and all(isinstance(c, int) and 0 <= c < 2**32 - 1 for c in ids), "participants")
        demand(ids == sorted(set(ids)), "participants increase")


def covers(worst: dict[str, Any], real: dict[str, Any]) -> bool:
    same = ("round", "attempt", "opening", "placement", "law", "secure", "sampling", "server_sees")
    if any(worst[name] != real[name] for name in same) or real["count"] > worst["count"]:
        return False
    if real["declared_stddev"] < worst["declared_stddev"]:
        return False
    if Fraction(real["declared_stddev"]) / Fraction(real["norm_bound"]) < Fraction(worst["declared_stddev"]) / Fraction(
        worst["norm_bound"]
    ):
        return False
    ratios = [Fraction(0 if r["l1_bound"] is None else r["l1_bound"]) for r in (worst, real)]
    if ratios[1] * Fraction(worst["declared_stddev"]) > ratios[0] * Fraction(real["declared_stddev"]):
        return False
    mine, theirs = worst["participants"], real["participants"]
    return mine is None or (theirs is not None and set(theirs) <= set(mine))


def read(data: bytes) -> dict[str, Any]:
    """The unit, the charged releases in order, and the tokens of open reservations."""
    lines = unchain(data)
    demand(bool(lines), "empty")
    header = lines[0][0]
    demand(isinstance(header, dict) and header.get("type") == "ledger" and header.get("version") == 1, "header")
    unit = (header.get("level"), header.get("adjacency"))
    demand(unit[0] in ("client", "example") and unit[1] in ("add_remove", "replace_one", "zero_out"), "unit")
    charged: dict[str, dict[str, Any]] = {}
    waiting: dict[str, dict[str, Any]] = {}
    for record, digest in lines[1:]:
        kind = record.get("type")
        demand(kind in ("reserve", "charge", "settle", "refund"), "type")
        if kind in ("reserve", "charge"):
            release = record["release"]
            check_release(release)
            for other in charged.values():
                if other["round"] != release["round"]:
                    continue
                key = ("attempt", "opening")
                demand(any(other[k] != release[k] for k in key), "charged twice")
                a, b = other["participants"], release["participants"]
                demand(a is None or b is None or set(a) <= set(b) or set(b) <= set(a), "redrawn")
            charged[digest] = release
            if kind == "reserve":
                waiting[digest] = release
            continue
        token = record["token"]
        demand(token in waiting, "token")
        if kind == "settle":
            check_release(record["release"])
            demand(covers(waiting[token], record["release"]), "not covered")
            charged[token] = record["release"]
        else:
            demand(record["reason"] in REASONS, "reason")
            del charged[token]
        del waiting[token]
    return {"unit": list(unit), "charged": list(charged.values()), "waiting": list(waiting)}


def publish(data: bytes) -> bytes:
    """Section 6."""
    state = read(data)
    header = {"type": "ledger", "version": 1, "level": state["unit"][0], "adjacency": state["unit"][1]}
    shown = [{**r, "participants": None, "realized_stddev": r["declared_stddev"]} for r in state["charged"]]
    return chain([header, *({"type": "charge", "release": r} for r in shown)])


# --- vectors ----------------------------------------------------------------------------------------------------

HEADER = {"type": "ledger", "version": 1, "level": "client", "adjacency": "add_remove"}


def release(round: int, **changes: Any) -> dict[str, Any]:
    base = {
        "round": round, "attempt": 0, "opening": 0, "placement": "central", "law": "rounded_gaussian", "secure": True,
        "declared_stddev": 2048.0, "realized_stddev": 2048.0, "norm_bound": 1024.0, "l1_bound": None,
        "sampling": {"kind": "poisson", "probability": 0.1}, "server_sees": "sum", "participants": [1, 4, 9],
        "count": 1,
    }  # fmt: skip
    return {**base, **changes}


def token(records: list[dict[str, Any]]) -> str:
    return unchain(chain(records))[-1][1]


def reserved(*releases: dict[str, Any]) -> list[dict[str, Any]]:
    return [HEADER, *({"type": "reserve", "release": r} for r in releases)]


def settled(worst: dict[str, Any], real: dict[str, Any]) -> list[dict[str, Any]]:
    records = reserved(worst)
    return [*records, {"type": "settle", "token": token(records), "release": real}]


def refunded(worst: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    records = reserved(worst)
    return [*records, {"type": "refund", "token": token(records), "reason": reason}]


SKELLAM = {"placement": "distributed", "law": "skellam", "l1_bound": 5000.0}

VALID = {
    "only a header": [HEADER],
    "reserved and never settled": reserved(release(0)),
    "settled with fewer and more noise": settled(
        release(0, **SKELLAM), release(0, **SKELLAM, realized_stddev=2100.5, participants=[1, 9])
    ),
    "refunded": refunded(release(0), "too_few_survivors"),
    "a retry and a second opening": reserved(release(3), release(3, attempt=1), release(3, attempt=1, opening=1)),
    "every sampling": reserved(
        release(0, sampling={"kind": "everyone"}),
        release(1, sampling={"kind": "truncated_poisson", "probability": 0.25, "cap": 3, "population": 100}),
        release(2, sampling={"kind": "fixed_size", "size": 3, "population": 100}),
    ),
    "no noise": reserved(release(0, placement="none", law="none", declared_stddev=0.0, realized_stddev=0.0)),
    "seeded noise": reserved(release(0, secure=False), release(1, secure=False, law="float_gaussian")),
    "steps of one round": reserved(release(0, placement="local", secure=False, law="float_gaussian", count=50)),
    "nobody was drawn": reserved(release(0, participants=[])),
}

INVALID = {
    "no header": reserved(release(0))[1:],
    "a second header": [HEADER, HEADER],
    "another version": [{**HEADER, "version": 2}],
    "an unknown unit": [{**HEADER, "level": "household"}],
    "an unknown type": [HEADER, {"type": "bonus"}],
    "charged twice": reserved(release(0), release(0)),
    "a cohort drawn anew": reserved(release(0), release(0, attempt=1, participants=[2, 3])),
    "less noise realized than declared": reserved(release(0, realized_stddev=2047.9)),
    "noise of nothing": reserved(release(0, declared_stddev=0.0)),
    "a law without a placement": reserved(release(0, placement="none")),
    "secure floating point": reserved(release(0, law="float_gaussian")),
    "a probability above one": reserved(release(0, sampling={"kind": "poisson", "probability": 1.5})),
    "a cohort above its population": reserved(release(0, sampling={"kind": "fixed_size", "size": 9, "population": 8})),
    "a sampling with a field too many": reserved(release(0, sampling={"kind": "everyone", "probability": 0.5})),
    "participants out of order": reserved(release(0, participants=[4, 1])),
    "a participant that is the server": reserved(release(0, participants=[2**32 - 1])),
    "a count of nothing": reserved(release(0, count=0)),
    "settled with more steps": settled(release(0), release(0, count=2)),
    "a negative round": reserved(release(-1)),
    "a field missing": reserved({k: v for k, v in release(0).items() if k != "l1_bound"}),
    "a field too many": reserved(release(0, epsilon=1.0)),
    "settled by another round": settled(release(0), release(1)),
    "settled with less noise": settled(release(0), release(0, declared_stddev=1024.0)),
    "settled with a longer contribution": settled(release(0), release(0, norm_bound=1025.0)),
    "settled with a longer l1 norm": settled(release(0, **SKELLAM), release(0, **{**SKELLAM, "l1_bound": 6000.0})),
    "settled with a stranger": settled(release(0), release(0, participants=[1, 2])),
    "settled twice": [*settled(release(0), release(0)), settled(release(0), release(0))[-1]],
    "an unknown token": [*reserved(release(0)), {"type": "refund", "token": ZEROS, "reason": "never_asked"}],
    "an unknown reason": refunded(release(0), "timeout"),
}


def bent() -> dict[str, bytes]:
    """Bytes that are no chain."""
    whole = chain(VALID["a retry and a second opening"])
    lines = whole.split(b"\n")
    return {
        "a value altered": whole.replace(b"2048.0", b"4096.0", 1),
        "a line removed": b"\n".join([lines[0], *lines[2:]]),
        "lines exchanged": b"\n".join([lines[0], lines[2], lines[1], *lines[3:]]),
        "a line repeated": b"\n".join([*lines[:2], *lines[1:]]),
        "white space": whole.replace(b'{"hash"', b'{ "hash"', 1),
        "not JSON": whole + b"ledger\n",
        "empty": b"",
    }


# --- section 9: skipped rounds ----------------------------------------------------------------------------------


def pivot_probability(population, probability, *, least, share, dropout, empty_released=False):
    """The chance that one client, were it drawn, would decide whether a round is skipped, by looking at all cases."""

    def skipped(alive, silent):
        if alive + silent == 0 and empty_released:
            return False
        return alive < max(least, math.ceil(share * (alive + silent)))

    def binomial(n, k, p):
        return math.comb(n, k) * p**k * (1 - p) ** (n - k)

    total = 0.0
    for drawn in range(population):
        for alive in range(drawn + 1):
            silent = drawn - alive
            chance = binomial(population - 1, drawn, probability) * binomial(drawn, alive, 1 - dropout)
            without = skipped(alive, silent)
            total += chance * (1 - dropout) * (skipped(alive + 1, silent) != without)
            total += chance * dropout * (skipped(alive, silent + 1) != without)
    return total


def main() -> None:
    folder = Path(__file__).parent / "vectors"
    valid = []
    for name, records in VALID.items():
        data = chain(records)
        state = read(data)
        valid.append({"name": name, "file": data.decode(), **state, "published": publish(data).decode()})
    cut = chain(VALID["a retry and a second opening"])
    valid.append({
        "name": "a last line cut short", "file": cut[:-20].decode(), **read(cut[:-20]),
        "published": publish(cut[:-20]).decode(),
    })  # fmt: skip
    refused = {name: chain(records) for name, records in INVALID.items()} | bent()
    invalid = []
    for name, data in refused.items():
        try:
            read(data)
        except StateError as error:
            invalid.append({"name": name, "file": data.decode(), "error": "StateError", "why": str(error)})
        else:
            raise AssertionError(f"{name} was accepted")
    for name, cases in (("valid", valid), ("invalid", invalid)):
        (folder / f"{name}.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
