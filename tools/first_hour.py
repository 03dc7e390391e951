"""The first hour of a new user: the wheel with the newest versions, an empty folder, and the pages as they stand.

`make first-hour` builds the wheel and installs it with the newest packages that `pyproject.toml` allows, by uv or,
where there is none, by pip. Then it walks
`docs/tutorial.md`: from a CSV file to a report with privacy and a public test set, and to a table. It fails if a
step fails, if a way takes more commands or lines than the page promises, or if it takes more than five minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tools.common import ROOT, build, copy_checkout, new_environment, output_of, uv, uv_path
from tools.walk import Step, steps, take

PAGE: Final = ROOT / "docs" / "tutorial.md"
EXTRAS: Final = "demo,tables,he"
MAX_SECONDS: Final = 300.0
MAX_COMMANDS: Final = 6
MAX_TABLE_COMMANDS: Final = 2
MAX_LINES: Final = 12
TABLE: Final = "A table for a paper"


def main() -> None:
    """Walk both ways, and print what each took."""
    page = [step for step in steps(PAGE) if not step.text.startswith("pip ")]
    report, table = [s for s in page if s.section != TABLE], [s for s in page if s.section == TABLE]
    _check_counts(report, table)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        started = time.perf_counter()
        python = _install(place)
        sys.stdout.write(f"build and install with {'uv' if uv_path() else 'pip'}: {_since(started)}\n")
        sys.stdout.write(output_of([python, "-m", "privfl", "--version"], place))
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        folder = place / "empty"
        folder.mkdir()
        for name, way in (("from a CSV file to a report", report), ("a table for a paper", table)):
            seconds = 0.0
            for step in way:
                took = take(step, folder, python, variables)
                first = step.text.strip().splitlines()[0]
                sys.stdout.write(f"{took:6.1f} s  {step.kind}: {first}\n")
                seconds += took
            sys.stdout.write(f"{name}: {_commands(way)} commands, {seconds:.0f} s\n")
            if seconds > MAX_SECONDS:
                raise SystemExit(f"{name} took {seconds:.0f} s; it may take {MAX_SECONDS:.0f}")
        for file in (
            "schema.toml",
            "report.html",
            "runs/patients/ledger.jsonl",
            "runs/run/report.html",
            "sweep/runs.csv",
        ):
            if not (folder / file).is_file():
                raise SystemExit(f"{file} was not written")


def _install(place: Path) -> Path:
    """Build the wheel and install it with the newest packages, by uv or else by pip; return the interpreter."""
    copy_checkout(place / "source")
    if uv_path() is not None:
        wheel, _ = build(place / "source", place / "dist")
        python = new_environment(place / "environment", sys.executable)
        uv("pip", "install", "--quiet", "--python", python, f"{wheel}[{EXTRAS}]")
        return python
    output_of([sys.executable, "-m", "venv", place / "environment"])
    python = place / "environment" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    output_of([*pip, "wheel", "--no-deps", "--wheel-dir", place / "dist", place / "source"])
    (wheel,) = (place / "dist").glob("*.whl")
    output_of([*pip, "install", f"{wheel}[{EXTRAS}]"])
    return python


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"


def _check_counts(report: list[Step], table: list[Step]) -> None:
    """The ways are as short as they are promised to be; the first Python block only makes up the data."""
    if _commands(report) > MAX_COMMANDS or _commands(table) > MAX_TABLE_COMMANDS:
        raise SystemExit(f"{_commands(report)} commands to a report and {_commands(table)} to a table are too many")
    (_, lines) = [step.text for step in report if step.kind == "python"]
    count = sum(bool(line.strip()) for line in lines.splitlines())
    if count > MAX_LINES:
        raise SystemExit(f"{count} lines of Python to a report; there may be {MAX_LINES}")


def _commands(way: list[Step]) -> int:
    return sum(len(step.text.strip().splitlines()) for step in way if step.kind == "sh")


if __name__ == "__main__":
    main()
