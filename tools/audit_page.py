"""Write docs/audit.md: audits of many runs and of planted faults, with seeds that are fixed in the tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from tools.common import ROOT
from tools.pages import replaced, table

sys.path.insert(0, str(ROOT / "tests"))

from audit_cells import ALPHA, PAIRS, TIGHT, Cell, cells
from audits import FAULTS

PAGE: Final = ROOT / "docs" / "audit.md"
WORKERS: Final = 2
FEW: Final = 1_000
"""The pairs of a fault that shows only in what the parties do."""


def main() -> None:
    """Run every cell and every fault, and write the page."""
    started = time.perf_counter()
    with ProcessPoolExecutor(WORKERS) as pool:
        running = [pool.submit(_fault, number) for number in range(len(FAULTS))]
        rows = list(pool.map(_cell, cells()))
        faults = [each.result() for each in running]
    minutes = (time.perf_counter() - started) / 60
    PAGE.write_text(_page(rows, faults))
    print(f"{PAGE}: {len(rows)} cells and {len(faults)} faults in {minutes:.0f} minutes")


def _cell(cell: Cell) -> tuple[Any, ...]:
    result = cell.audit(ALPHA / len(cells()))
    lower, stated = result.lower, result.stated.epsilon
    if result.refuted:
        raise SystemExit(f"{cell}: {result.sentence}")
    shaped = lower.mu is not None
    if shaped and lower.epsilon < TIGHT * stated:
        raise SystemExit(f"{cell}: only {lower.epsilon / stated:.3f} of the stated epsilon")
    print(cell.number, f"{lower.epsilon / stated:.3f}", flush=True)
    return (
        cell.number,
        cell.placement,
        cell.scheme,
        cell.observer.replace("_", " "),
        cell.adjacency,
        cell.dropouts,
        "; ".join([cell.clip, *_more(cell)]),
        f"{lower.epsilon:.3f}",
        f"{stated:.3f}",
        f"{lower.epsilon / stated:.2f}",
        "Gaussian" if shaped else "none",
    )


def _more(cell: Cell) -> list[str]:
    """What sets a cell apart besides its columns."""
    correlated = f", {cell.correlation}" if cell.correlation != "none" else ""
    members = [f"{cell.members} members"] if cell.members else []
    return [*([] if cell.sampling == "everyone" else [cell.sampling + correlated]), *members]


def _fault(number: int) -> tuple[Any, ...]:
    fault, started = FAULTS[number], time.perf_counter()
    pairs = FEW if fault.parties else PAIRS
    result = fault.audit(pairs)
    if not result.refuted:
        raise SystemExit(f"{fault.name}: {result.sentence}")
    seconds = time.perf_counter() - started
    print(fault.name, f"{seconds:.0f} s", flush=True)
    beyond = [bound.assumption for bound in result.bounds if bound.epsilon > result.stated.epsilon]
    by = [*({True: "Gaussian bound", False: "free bound"}["Gaussian" in name] for name in beyond)]
    return (
        fault.name,
        fault.observer,
        pairs,
        f"{result.stated.epsilon:.3f}",
        f"{result.lower.epsilon:.3f}",
        ", ".join([*by, *(["stated curve"] if result.above_curve else [])]),
        ", ".join(["audit", *(["replay"] if fault.replay else [])]),
    )


def _page(rows: Sequence[Sequence[Any]], faults: Sequence[Sequence[Any]]) -> str:
    """The page with its tables replaced."""
    columns = ("cell", "noise", "sum", "observer", "adjacency", "dropouts", "clip", "lower", "stated", "ratio", "shape")
    text = replaced(PAGE.read_text(), "cells", table(columns, rows), PAGE)
    columns = ("planted fault", "observer", "pairs", "stated", "lower", "refuted by", "caught by")
    return replaced(text, "faults", table(columns, faults), PAGE)


if __name__ == "__main__":
    main()
