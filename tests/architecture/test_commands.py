"""Every command that the README, docs/ and the notebooks' page show works; long ones run with small settings."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "notebooks" / "README.md"]
WALKED = {"tutorial.md"}  # test_walks runs these in order, in one folder
FENCE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\.venv/bin/)?(?:privfl|make|pytest|python3?|pip) [^`]+)`")
SMALL = {
    "attack": ["--trials", "20", "--images", "1"],
    "compare": ["--rounds", "1", "--seeds", "1", "--clients", "4", "--epsilon", "8", "--sums", "plain"],
}
TABLE = [(50, "f", "no"), (71, "m", "yes"), (64, "f", "yes")]


def commands() -> list[str]:
    found: dict[str, None] = {}
    for page in PAGES:
        if page.name in WALKED:
            continue
        text = page.read_text()
        lines = [line.partition(" #")[0].strip() for block in FENCE.findall(text) for line in block.splitlines()]
        found |= dict.fromkeys([line for line in lines if line] + [" ".join(c.split()) for c in INLINE.findall(text)])
    return list(found)


def works(command: list[str], folder: Path) -> str:
    # A child that thinks itself a worker of this test run would refuse to measure.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_a_command_that_is_shown_works(command: str, folder: Path) -> None:
    program, *arguments = shlex.split(command)
    program = program.removeprefix(".venv/bin/")
    python = [sys.executable, *arguments]
    if program == "make":
        assert works(["make", "--dry-run", *arguments], ROOT)
    elif program == "privfl":
        _privfl(arguments, folder)
    elif program == "pip":
        _pip(arguments)
    elif program == "pytest":
        assert "test_bench" in works([sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments], ROOT)
    elif arguments[:2] == ["-m", "venv"]:
        works([*python, "--without-pip"], folder)
        assert (folder / arguments[2] / "bin" / "python").exists()
    elif arguments[:2] == ["-m", "pytest"]:
        works([*python, "--version"], ROOT)
    else:  # a benchmark against a peer, or a notebook: minutes
        assert "usage" in works([*python, "--help"], ROOT)


def _privfl(arguments: list[str], folder: Path) -> None:
    privfl = [sys.executable, "-m", "privfl"]
    if arguments[0] == "report":
        works([*privfl, "run", "examples/breast_cancer.toml"], folder)
        arguments = ["breast_cancer" if argument == "RUN" else argument for argument in arguments] + ["--to", "r.html"]
    if arguments[0] == "data":
        people = [f"{hospital},{age},{sex},{died}" for hospital in "ab" for age, sex, died in TABLE]
        (folder / "patients.csv").write_text("\n".join(["hospital,age,sex,died", *people]) + "\n")
        if arguments[1] == "check":
            columns = ["--target", "died", "--client", "hospital", "--output", "schema.toml"]
            works([*privfl, "data", "inspect", "patients.csv", *columns], folder)
    if arguments == ["compare", "CONFIG.toml"]:
        arguments = ["compare", "--help"]  # unit/cli/test_cli_compare compares a table of one's own
    if arguments[0] == "table" and arguments[1:]:
        over = ["--set", "rounds=1", "--set", "privacy.noise_multiplier=", "--over", "privacy.epsilon=4,16"]
        works([*privfl, "sweep", "examples/breast_cancer.toml", *over], folder)
    if arguments[0] not in ("demo", "doctor") and all(argument.isalpha() for argument in arguments[1:]):
        arguments = [*arguments, "--help"]  # a verb that is only named
    works([*privfl, *arguments, *SMALL.get(arguments[0], [])], folder)


def _pip(arguments: list[str]) -> None:
    """What it would install is there; `make setup` runs the same line."""
    assert arguments[:4] == ["install", "-c", "constraints.txt", "-e"]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", arguments[4])
    assert extras is not None
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras[1].split(",")) <= set(known)
    assert (ROOT / "constraints.txt").exists()


def test_commands_are_found() -> None:
    found = commands()
    assert {"make demo", "make test", ".venv/bin/privfl demo", "privfl compare --data diabetes"} <= set(found)
    assert len(found) >= 15
