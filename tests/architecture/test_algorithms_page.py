"""The figures on the page of algorithms are those of the kept results."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "algorithms.md").read_text()


def kept(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_table_is_the_one_that_was_measured() -> None:
    table = kept("algorithms-digits")["table"]
    lines = {line.split("|")[1].strip(" `"): line for line in PAGE.splitlines() if line.startswith("|")}
    for name in table["alike"]:
        for cells in table.values():
            rounds = cells[name]["rounds to 90 %"]
            reached = "not in 60" if rounds is None else f"{rounds:g} round"
            assert f"{100 * cells[name]['accuracy']:.1f} %, {reached}" in lines[name]


def test_scaffold_needs_at_most_seven_tenths_of_the_rounds_under_label_skew() -> None:
    found = kept("algorithms-mnist")["found"]
    best = {
        name: min(f["rounds to 95 %"] for key, f in found.items() if key.startswith(name) and f["rounds to 95 %"])
        for name in ("fedavg", "scaffold")
    }
    ratio = best["scaffold"] / best["fedavg"]
    assert ratio <= 0.7
    assert f"in {best['scaffold']} rounds" in PAGE
    assert f"in {best['fedavg']}" in PAGE.replace("\n", " ")
    assert f"the ratio is {ratio:.2f}" in PAGE
