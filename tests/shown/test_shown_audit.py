"""The tables of docs/audit.md: what they must show, and that a cell comes out as it stands there."""

import re
from pathlib import Path

from audit_cells import ALPHA, TIGHT, cells
from audits import FAULTS

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def table(name: str) -> list[list[str]]:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", PAGE, re.DOTALL)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]


def test_every_cell_is_on_the_page_and_holds() -> None:
    rows = table("cells")
    assert len(rows) == len(cells()) >= 48
    for row, cell in zip(rows, cells(), strict=True):
        assert row[0] == str(cell.number)
        assert row[1:6] == [
            cell.placement, cell.scheme, cell.observer.replace("_", " "), cell.adjacency, cell.dropouts,
        ]  # fmt: skip
        lower, stated = float(row[7]), float(row[8])
        assert 0 < lower <= stated
        assert row[10] == "none" or lower >= TIGHT * stated


def test_the_cells_cover_every_level() -> None:
    for name, levels in {
        "placement": {"central", "distributed", "local", "mesh"},
        "sampling": {"everyone", "Poisson, 1/2", "one pass"},
        "correlation": {"none", "toeplitz"},
        "members": {0, 8},
        "scheme": {"plain", "masked", "ckks"},
        "adjacency": {"add_remove", "zero_out", "replace_one"},
        "dropouts": {"fewest", "none"},
        "clip": {"flat", "layers", "entries", "flat, loss", "adaptive, loss"},
        "observer": {"outsider", "participant", "server", "key_holder"},
    }.items():
        assert {getattr(cell, name) for cell in cells()} == levels


def test_a_cell_comes_out_as_on_the_page() -> None:
    cell = cells()[12]
    result = cell.audit(ALPHA / len(cells()))
    row = table("cells")[cell.number]
    assert (f"{result.lower.epsilon:.3f}", f"{result.stated.epsilon:.3f}") == (row[7], row[8])


def test_every_planted_fault_is_on_the_page_and_caught() -> None:
    rows = table("faults")
    assert [row[0] for row in rows] == [fault.name for fault in FAULTS]
    for row, fault in zip(rows, FAULTS, strict=True):
        assert float(row[4]) > float(row[3]) or row[5] == "stated curve"
        assert row[6] == ("audit, replay" if fault.replay else "audit")
