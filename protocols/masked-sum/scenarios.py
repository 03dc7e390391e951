"""Runs the reference against itself and writes vectors/*.json (section 14 of SPEC.md).

Whole transcripts are described here. `masked_refusals.py` and `masked_blame.py` have the failures, one a file, made by
`masked_play.py` with `masked_tampers.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from masked_blame import blamed
from masked_messages import SERVER, bitmap, message
from masked_play import FIVE, LONE, MESH, Play, mesh, terms
from masked_refusals import refusals

HERE = Path(__file__).parent


def transcripts() -> list[Play]:
    """Several sizes, thresholds, widths, both graphs, both modes, dropouts at every step."""
    every = {1: "AdvertiseKeys", 2: "ShareKeys", 3: "MaskedInput", 4: "ConsistencyCheck", 5: "Unmask"}
    return [
        Play("complete-3", terms([0, 1, 2], 3)),
        Play("complete-5-dropout", terms([1, 4, 9, 16, 25], 4), {9: "MaskedInput"}),
        Play("complete-11-dropout-at-every-step", terms(list(range(11)), 6), every),
        Play("complete-7-two-at-once", terms(list(range(7)), 5), {0: "MaskedInput", 6: "MaskedInput"}),
        Play("semi-honest-4", terms([2, 3, 5, 7], 3, signed=False), {5: "MaskedInput"}),
        Play("bits-16", terms([0, 1, 2, 3], 3, bits=16, bound=8000)),
        Play("bits-20-packed", terms([0, 1, 2, 3], 3, bits=20, packed=True, length=5), {1: "ConsistencyCheck"}),
        Play("bits-33-packed", terms([0, 1, 2, 3], 4, bits=33, packed=True, bound=2**30 - 1)),
        Play("bits-64-extreme-identities", terms([0, 1, 2**32 - 2], 3, bits=64, bound=2**60)),
        Play("length-1", terms([5, 6, 7], 3, length=1)),
        Play(
            "ring-12",
            terms(list(range(100, 112)), 4, degree=6, arc=1, min_roster=7),
            {103: "MaskedInput", 108: "MaskedInput"},
        ),
        Play(
            "ring-14-dropout-at-every-step",
            terms(list(range(14)), 4, degree=8, arc=1, min_roster=9, min_survivors=5),
            {9: "AdvertiseKeys", 2: "ShareKeys", 3: "MaskedInput", 4: "ConsistencyCheck", 5: "Unmask"},
        ),
        Play(
            "ring-9-semi-honest",
            terms(list(range(9)), 3, signed=False, degree=4, arc=1, min_roster=5),
            {4: "MaskedInput"},
        ),
        Play("mesh-3", MESH),
        Play("mesh-3-one-silent", MESH, {8: "MaskedInput"}),
        Play("mesh-3-two-silent", LONE, {3: "MaskedInput", 21: "MaskedInput"}),
        Play("mesh-of-three-members", mesh([0, 1, 2, 3, 4], 3, 3, 1, 2), {2: "ShareKeys"}),
        Play(
            "mesh-ring-9",
            mesh(list(range(9)), 3, 9, 2, 7, degree=4, arc=1, min_roster=7, length=2),
            {4: "MaskedInput"},
        ),
    ]


def repeats() -> dict[str, Any]:
    """One client's honest session in which messages come twice, late, and in another version."""
    play = Play("repeats", FIVE)
    roster_, boxes, survivors, signatures_ = play.inbox[1]
    share, masked, check, unmask = (sent.hex() for sent in play.outbox[1][1:])
    other = message("Survivors", SERVER, FIVE.session, bitmap(5, [0, 1, 2, 3]))
    refused = {"error": "RemoteProtocolError"}
    deliveries = [
        (roster_, {"answer": share}),
        (roster_, {"answer": share}),
        (boxes, {"answer": masked}),
        (roster_, {"answer": None}),
        (boxes, {"answer": masked}),
        (survivors, {"answer": check}),
        (other, refused),
        (survivors, {"answer": check}),
        (signatures_, {"answer": unmask}),
        (survivors, {"answer": None}),
        (signatures_, {"answer": unmask}),
    ]
    told = [{"message": message.hex()} | result for message, result in deliveries]
    return (
        play.head("repeats")
        | {"receiver": 1, "client": play.party(1), "start": play.outbox[1][0].hex()}
        | {"deliveries": told}
    )


def files() -> dict[str, str]:
    """Every vector file by name, as text."""
    made = {play.name: play.transcript() for play in [*transcripts(), *blamed()]}
    made |= {play.name: play.refusal() for play in refusals()} | {"repeats": repeats()}
    return {f"{name}.json": json.dumps(told, indent=1) + "\n" for name, told in made.items()}


if __name__ == "__main__":
    (HERE / "vectors").mkdir(exist_ok=True)
    for name, text in files().items():
        (HERE / "vectors" / name).write_text(text)
