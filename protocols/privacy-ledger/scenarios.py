"""Ledgers that are valid, and ledgers that are not. Run it to write vectors/*.json, which `ledger.py` generates."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ledger import ZEROS, StateError, canonical, read, unchain


def chain(records: list[dict[str, Any]]) -> bytes:
    lines, prev = b"", ZEROS
    for record in records:
        digest = hashlib.sha256(prev.encode() + b"\n" + canonical(record)).hexdigest()
        lines += canonical({"hash": digest, "prev": prev, "record": record}) + b"\n"
        prev = digest
    return lines


def publish(data: bytes) -> bytes:
    """Section 6."""
    state = read(data)
    header = {"type": "ledger", "version": 2, "level": state["unit"][0], "adjacency": state["unit"][1]}
    attempts: dict[int, list[int]] = {}
    openings: Counter[tuple[int, int]] = Counter()
    shown = []
    for r in state["charged"]:  # numbered again from 0: they do not count retries
        known = attempts.setdefault(r["round"], [])
        known += [r["attempt"]] if r["attempt"] not in known else []
        place = r["round"], known.index(r["attempt"])
        number = {"attempt": place[1], "opening": openings[place]}
        openings[place] += 1
        shown.append({**r, **number, "participants": None, "realized_stddev": r["declared_stddev"]})
    return chain([header, *state["draws"], *({"type": "charge", "release": r} for r in shown)])


# --- vectors ----------------------------------------------------------------------------------------------------

HEADER = {"type": "ledger", "version": 2, "level": "client", "adjacency": "add_remove"}
EXAMPLES = {**HEADER, "level": "example"}
POISSON = {"kind": "poisson", "probability": 0.1}
CKKS = {"outsider": "release", "participant": "sum", "server": "release", "key_holder": "sum"}


def release(round: int, **changes: Any) -> dict[str, Any]:
    base = {
        "round": round, "attempt": 0, "opening": 0, "placement": "central", "law": "rounded_gaussian", "secure": True,
        "declared_stddev": 2048.0, "realized_stddev": 2048.0, "norm_bound": 1024.0, "l1_bound": None,
        "sampling": {"kind": "poisson", "probability": 0.1}, "participants": [1, 4, 9], "count": 1,
        "views": {"outsider": "release", "participant": "release", "server": "sum"}, "length": 50,
    }  # fmt: skip
    return {**base, **changes}


def token(records: list[dict[str, Any]]) -> str:
    return unchain(chain(records))[-1][1]


def draw(round: int, sampling: Any = POISSON, turn: Any = 1.45e-9, **more: Any) -> dict[str, Any]:
    return {"type": "draw", "round": round, "sampling": sampling, "turn": turn, **more}


def reserved(*releases: dict[str, Any], with_draws: bool = True) -> list[dict[str, Any]]:
    first = {r["round"]: r["sampling"] for r in reversed(releases)} if with_draws else {}
    draws = [draw(round, sampling) for round, sampling in sorted(first.items())]
    return [HEADER, *draws, *({"type": "reserve", "release": r} for r in releases)]


def settled(worst: dict[str, Any], real: dict[str, Any]) -> list[dict[str, Any]]:
    records = reserved(worst)
    return [*records, {"type": "settle", "token": token(records), "release": real}]


def refunded(worst: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    records = reserved(worst)
    return [*records, {"type": "refund", "token": token(records), "reason": reason}]


SKELLAM = {"placement": "distributed", "law": "skellam", "l1_bound": 5000.0}
MESH = SKELLAM | {"placement": "mesh", "spare": 1}
SITES = MESH | {"draw_known_to": "site"}
BY_SITE = {"kind": "poisson_by_site", "probabilities": [[1, 0.05], [4, 0.1], [9, 1.0]]}


def examples(*releases: dict[str, Any]) -> list[dict[str, Any]]:
    return [EXAMPLES, *({"type": "reserve", "release": r} for r in releases)]


ONE_PASS = {"kind": "one_pass", "size": 3}
STREAM = {"sampling": ONE_PASS, "correlation": "toeplitz"}

VALID = {
    "only a header": [HEADER],
    "reserved and never settled": reserved(release(0)),
    "settled with fewer and more noise": settled(
        release(0, **SKELLAM), release(0, **SKELLAM, realized_stddev=2100.5, participants=[1, 9])
    ),
    "settled mesh noise": settled(release(0, **MESH), release(0, **MESH, realized_stddev=2100.5, participants=[1, 9])),
    "mesh noise without spare members": reserved(release(0, **{**MESH, "spare": 0})),
    "refunded": refunded(release(0), "too_few_survivors"),
    "a retry and a second opening": reserved(release(3), release(3, attempt=1), release(3, attempt=1, opening=1)),
    "every sampling": reserved(
        release(0, sampling={"kind": "everyone"}),
        release(
            1, views=CKKS, sampling={"kind": "truncated_poisson", "probability": 0.25, "cap": 3, "population": 100}
        ),
        release(2, sampling={"kind": "fixed_size", "size": 3, "population": 100}),
    ),
    "no noise": reserved(release(0, placement="none", law="none", declared_stddev=0.0, realized_stddev=0.0)),
    "seeded noise": reserved(release(0, secure=False), release(1, secure=False, law="float_gaussian")),
    "steps of one round": [
        EXAMPLES,
        {"type": "reserve", "release": release(0, placement="local", secure=False, law="float_gaussian", count=50)},
    ],
    "examples that their sites sample": examples(
        release(0, **SITES), release(0, attempt=1, **SITES), release(1, **{**SITES, "sampling": BY_SITE})
    ),
    "draws without a bound, void, and skipped": [
        HEADER,
        draw(0, turn=None),
        draw(1, turn=0.0),
        {"type": "reserve", "release": release(1)},
        draw(2, turn=1.0),
        draw(7, turn=0.126, void=True),
        {"type": "reserve", "release": release(2)},
    ],
    "one pass": reserved(
        release(1, sampling=ONE_PASS),
        release(2, sampling=ONE_PASS, participants=[0, 2]),
        release(2, sampling=ONE_PASS, participants=[0], attempt=1),
    ),
    "one pass without participants": reserved(
        release(1, sampling=ONE_PASS, participants=None), release(2, sampling=ONE_PASS, participants=None)
    ),
    "correlated noise": reserved(
        release(1, **STREAM),
        release(2, **STREAM, participants=[0, 2]),
        release(7, **STREAM, participants=[3]),
        release(7, **STREAM, participants=[3], attempt=1),
    ),
    "settled correlated noise": settled(release(4, **STREAM), release(4, **STREAM, participants=[1, 9])),
    "nobody was sampled": reserved(release(0, participants=[])),
}

INVALID = {
    "no header": reserved(release(0))[1:],
    "a second header": [HEADER, HEADER],
    "another version": [{**HEADER, "version": 3}],
    "no draw": reserved(release(0), with_draws=False),
    "a draw afterwards": [*reserved(release(0), with_draws=False), draw(0)],
    "another sampling than in the draw": [
        *reserved(release(0)),
        {"type": "reserve", "release": release(0, attempt=1, sampling={"kind": "everyone"})},
    ],
    "drawn twice": [HEADER, draw(0), draw(0)],
    "a draw of examples": [EXAMPLES, draw(0)],
    "a turn of four digits": [HEADER, draw(0, turn=0.1234)],
    "a turn above one": [HEADER, draw(0, turn=1.5)],
    "a turn that is an integer": [HEADER, draw(0, turn=0)],
    "void that is false": [HEADER, draw(0, void=False)],
    "a draw with a field too many": [HEADER, draw(0, attempts=2)],
    "a draw without a turn": [HEADER, {"type": "draw", "round": 0, "sampling": POISSON}],
    "no noise coordinates": reserved(release(0, length=0)),
    "settled with a longer vector": settled(release(0), release(0, length=51)),
    "views without the outsider": reserved(release(0, views={"server": "sum"})),
    "views of an unknown observer": reserved(release(0, views={"outsider": "release", "neighbor": "sum"})),
    "an unknown view": reserved(release(0, views={"outsider": "release", "server": "all"})),
    "more than were sampled": reserved(release(0, sampling={"kind": "fixed_size", "size": 2, "population": 8})),
    "an unknown unit": [{**HEADER, "level": "household"}],
    "an unknown type": [HEADER, {"type": "bonus"}],
    "charged twice": reserved(release(0), release(0)),
    "a cohort sampled again": reserved(release(0), release(0, attempt=1, participants=[2, 3])),
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
    "settled with more declared noise": settled(release(0), release(0, declared_stddev=2049.0, realized_stddev=2049.0)),
    "settled with a shorter contribution": settled(release(0), release(0, norm_bound=1023.0)),
    "settled with a shorter l1 norm": settled(release(0, **SKELLAM), release(0, **{**SKELLAM, "l1_bound": 4999.0})),
    "settled with a shorter vector": settled(release(0), release(0, length=49)),
    "settled with a longer contribution": settled(release(0), release(0, norm_bound=1025.0)),
    "settled with a longer l1 norm": settled(release(0, **SKELLAM), release(0, **{**SKELLAM, "l1_bound": 6000.0})),
    "settled with a stranger": settled(release(0), release(0, participants=[1, 2])),
    "mesh noise of another law": reserved(release(0, **{**MESH, "law": "rounded_gaussian"})),
    "mesh noise that states no spare": reserved(release(0, **SKELLAM | {"placement": "mesh"})),
    "spare of shares": reserved(release(0, **SKELLAM, spare=1)),
    "a negative spare": reserved(release(0, **{**MESH, "spare": -1})),
    "settled with fewer spare": settled(release(0, **MESH), release(0, **{**MESH, "spare": 0})),
    "clients that their sites sample": reserved(release(0, draw_known_to="site")),
    "a draw that nobody knows": examples(release(0, draw_known_to=None)),
    "a draw that the server knows": examples(release(0, draw_known_to="server")),
    "a probability for each site that does not sample": examples(release(0, sampling=BY_SITE)),
    "sites out of order": examples(
        release(0, **{**SITES, "sampling": {**BY_SITE, "probabilities": [[4, 0.1], [1, 0.05]]}})
    ),
    "a site's probability above one": examples(
        release(0, **{**SITES, "sampling": {**BY_SITE, "probabilities": [[1, 1.5]]}})
    ),
    "no site": examples(release(0, **{**SITES, "sampling": {**BY_SITE, "probabilities": []}})),
    "settled as known to everybody": [
        *examples(release(0, **SITES)),
        {"type": "settle", "token": token(examples(release(0, **SITES))), "release": release(0, **MESH)},
    ],
    "a client of one pass in two rounds": reserved(
        release(1, sampling=ONE_PASS), release(2, sampling=ONE_PASS, participants=[0, 4])
    ),
    "more than one pass samples": reserved(release(1, sampling={"kind": "one_pass", "size": 2})),
    "one pass with a population": reserved(release(1, sampling={**ONE_PASS, "population": 100})),
    "one pass of nobody": reserved(release(1, sampling={"kind": "one_pass", "size": 0})),
    "one pass of examples": [EXAMPLES, {"type": "reserve", "release": release(1, sampling=ONE_PASS)}],
    "correlated noise of sampled cohorts": reserved(release(1, correlation="toeplitz")),
    "correlated noise of clients": reserved(release(1, **STREAM, placement="local")),
    "correlated noise of another law": reserved(release(1, **STREAM, law="discrete_gaussian")),
    "correlated noise opened again": reserved(release(1, **STREAM), release(1, **STREAM, opening=1)),
    "another correlation": reserved(release(1, **{**STREAM, "correlation": "banded"})),
    "a correlation of none": reserved(release(1, **{**STREAM, "correlation": "none"})),
    "settled with independent noise": settled(release(1, **STREAM), release(1, sampling=ONE_PASS)),
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
