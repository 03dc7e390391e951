"""Rounds of one pass, in which each client takes part once, and noise correlated across them (section 7 of SPEC.md)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any


def passes(ledgers: list[dict[str, Any]], event: Any) -> list[Counter[Any]]:
    """All that a client's one-pass rounds may have been: one choice of a round for each ledger, equal choices once.

    `event(n, release)` is what a release of ledger n is to the client. Correlated noise counts once.
    """
    single: list[dict[int, Counter[Any]]] = [{} for _ in ledgers]
    for n, ledger in enumerate(ledgers):
        for r in (r for r in ledger["charged"] if r["sampling"]["kind"] == "one_pass"):
            each, one = single[n].setdefault(r["round"], Counter()), event(n, r)
            each[one] = 1 if "correlation" in r else each[one] + 1
    rounds = [list({frozenset(c.items()): c for c in each.values()}.values()) for each in single if each]
    return [sum(choice, Counter()) for choice in itertools.product(*rounds)]


def stream(charged: list[dict[str, Any]]) -> tuple[Any, ...] | None:
    """The one look at a client that all rounds of correlated noise of a ledger allow."""
    found = [r for r in charged if "correlation" in r]
    if not found:
        return None
    z = min(r["declared_stddev"] for r in found) / max(r["norm_bound"] for r in found)
    square, c = 0.0, 1.0
    for i in range(max(r["round"] for r in found) - min(r["round"] for r in found) + 1):
        c *= (2 * i - 1) / (2 * i) if i else 1.0
        square += c * c
    return ("rounded_gaussian", z / math.sqrt(square), 0.0, 0.0, 0)
