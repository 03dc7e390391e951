"""Part of the test suite with other versions of the packages and of Python than constraints.txt holds.

`make compat` runs each row of `ROWS` in turn. torch is left out: its newest builds take gigabytes, and its lowest
version is the one in constraints.txt, with which the whole suite runs. `make compat-torch` runs the adapters with the
lowest versions of everything else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tools.common import CONSTRAINTS, ROOT, attempt, new_environment, output_of, uv

FOLDER: Final = ROOT / "build" / "compat"
CORE: Final = (
    "dp",
    "he",
    "allocation",
    "data",
    "tables",
    "plot",
    "test",
)  # extras; flower and nvflare hold other packages at old versions
TORCH: Final = ("dp", "torch", "opacus", "test")
SUBSET: Final = (  # a minute: what meets the packages whose versions change
    "tests/vectors",
    "tests/unit/dp",
    "tests/unit/fl",
    "tests/unit/he",
    "tests/unit/sums",
    "tests/unit/cli/test_cli_app.py",
    "tests/unit/cli/test_cli_epsilon.py",
    "tests/unit/cli/test_cli_run.py",
    "tests/unit/crypto/test_crypto_identity.py",
    "tests/unit/data/test_data_tables.py",
    "tests/unit/experiment/test_experiment_config.py",
    "tests/unit/report/test_report_page.py",
)
# typer before 0.26 imports names that click 8.5 deprecates. Nothing of privfl's is excused.
OLD_TYPER: Final = ("-W", "ignore::DeprecationWarning:typer")


@dataclass(frozen=True)
class Row:
    """One set of versions, and what is tested with it.

    Attributes:
        resolution: which version of each package that pyproject.toml names; what those need is always the newest.
        python: "this", the interpreter that runs this program, or "newest", the newest one found that the classifiers
            of pyproject.toml name.
        extras: the extras that are installed.
        tests: what pytest gets.
    """

    resolution: Literal["highest", "lowest-direct"]
    python: Literal["this", "newest"]
    extras: tuple[str, ...] = CORE
    tests: tuple[str, ...] = SUBSET


ROWS: Final = {
    "lowest": Row("lowest-direct", "this", tests=(*SUBSET, *OLD_TYPER)),
    # Most are those of constraints.txt, which the whole suite runs; the command line's are held back there.
    "newest": Row("highest", "this", tests=("tests/unit", "-k", "(cli or config or report or store) and not compare")),
    "newest-python": Row("highest", "newest"),
}
ON_REQUEST: Final = {
    "lowest-torch": Row("lowest-direct", "this", extras=TORCH, tests=("tests/adapters", *OLD_TYPER)),
}


def named_versions() -> list[tuple[int, int]]:
    """The versions of Python that the classifiers of pyproject.toml name, as (3, 11)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    last = [classifier.split(" :: ")[-1] for classifier in project["classifiers"] if "Python :: 3." in classifier]
    return sorted((int(major), int(minor)) for major, minor in (name.split(".") for name in last))


def newest_python() -> Path | None:
    """The newest interpreter on the path or of pyenv that the classifiers name; None if none is newer than this one."""
    for version in reversed(named_versions()):
        if version <= sys.version_info[:2]:
            return None
        for candidate in _candidates("{}.{}".format(*version)):
            found = attempt([candidate, "-c", "import sys; print(*sys.version_info[:2])"])
            if found.code == 0 and found.output.split() == [str(part) for part in version]:
                return candidate
    return None


def _candidates(version: str) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"), reverse=True)


def run(name: str, row: Row) -> bool | None:
    """Install the versions of a row and run its tests.

    Args:
        name: the row's name; its environment is made in `build/compat`.
        row: what to install and test.

    Returns:
        Whether the tests passed; None where the interpreter is absent.
    """
    python = Path(sys.executable) if row.python == "this" else newest_python()
    if python is None:
        return None
    inside = new_environment(FOLDER / name, python)
    pins = FOLDER / f"{name}.txt"
    extras = [argument for extra in row.extras for argument in ("--extra", extra)]
    excluded = FOLDER / "excluded.txt"
    excluded.write_text("torch\n")
    uv(
        "pip", "compile", "--quiet", "--no-header", "--python", inside, "--resolution", row.resolution, *extras,
        "--excludes", excluded, "pyproject.toml", "--output-file", pins,
    )  # fmt: skip
    if "torch" in row.extras:  # through pip, which finds the builds that its configuration names
        uv("pip", "install", "--quiet", "--python", inside, "pip")
        held = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
        output_of([inside, "-m", "pip", "install", "--quiet", "-r", pins, held])
    else:
        uv("pip", "install", "--quiet", "--python", inside, "--requirement", pins)
    command = [inside, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *row.tests]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    """Run the rows that the command line names, or all of `ROWS`; 1 if one fails."""
    every = {**ROWS, **ON_REQUEST}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*every, []], help="all but lowest-torch by default")
    names = parser.parse_args().rows or list(ROWS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names:
        print(f"== {name}: {every[name].resolution} versions", flush=True)
        began = time.monotonic()
        results[name] = run(name, every[name])
        words = {True: "passed", False: "FAILED", None: "left out: no newer Python is installed"}[results[name]]
        print(f"== {name}: {words}, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if False in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
