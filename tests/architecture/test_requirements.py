"""What the library imports is declared in pyproject.toml, in the extra that its errors name, and held at a version."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import common, compat

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_USERS = {"dp", "allocation", "torch", "opacus", "he", "data", "tables", "plot"}
ENGINES = {"flower", "nvflare", "ray"}  # each has an environment of its own
PROVIDES = {  # where the name of what is imported is not the name of what is installed
    "sklearn": "scikit-learn",
    "pydantic_core": "pydantic",  # which pins one version of it
    "_sealapi_cpp": "tenseal",
}
FILES = {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted((ROOT / "privfl").rglob("*.py"))}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    """The names of requirements, less extras, versions and markers; privfl's own extras are not followed."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normal(match[0]) for match in found if match} - {"privfl"}


CORE = declared(PROJECT["dependencies"])
ADAPTED = {extra for extra in ENGINES if list((ROOT / "privfl").glob(f"[ae]*/{extra}*"))}  # adapters, engine
OPTIONAL = {extra: declared(EXTRAS[extra]) for extra in sorted(FOR_USERS | ADAPTED)}


def modules(text: str) -> Iterator[str]:
    """Top names of what a file imports, those included that it imports by a string."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
    if "import_module(" in text:
        known = CORE.union(*OPTIONAL.values())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and normal(node.value) in known:
                yield node.value


def packages(text: str) -> set[str]:
    """The packages, as pyproject.toml names them, that a file needs."""
    outside = set(modules(text)) - set(sys.stdlib_module_names) - {"privfl", "__future__"}
    return {normal(PROVIDES.get(module, module)) for module in outside}


def extras_named(path: str) -> set[str]:
    """The extras that a file's errors name, or those of the packages around it."""
    around = [f"{parent.as_posix()}/__init__.py" for parent in Path(path).parents if parent != Path()]
    found: set[str] = set()
    for file in [path, *around]:
        for node in ast.walk(ast.parse(FILES.get(file, ""))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingExtra":
                found |= {a.value for a in node.args[1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def undeclared(text: str, extras: set[str]) -> set[str]:
    """The packages that a file needs and that neither the core nor these extras install."""
    return packages(text) - CORE - set().union(*(OPTIONAL.get(extra, set()) for extra in extras))


@pytest.mark.parametrize("path", FILES)
def test_what_is_imported_is_declared_in_the_extra_that_the_error_names(path: str) -> None:
    assert undeclared(FILES[path], extras_named(path)) == set()


@pytest.mark.parametrize(
    ("text", "extras"),
    [
        ("import click", set()),
        ("def late():\n    from click.exceptions import Abort", {"he"}),
        ("import torch.nn", {"dp"}),
        ("import sklearn", {"dp", "plot"}),
        ("from pandas import DataFrame", {"data"}),
        ("import importlib\nimportlib.import_module('zstandard')", set()),
    ],
)
def test_the_rule_can_fail(text: str, extras: set[str]) -> None:
    assert undeclared(text, extras)


def test_nothing_is_declared_in_vain() -> None:
    needed = set().union(*(packages(text) for text in FILES.values()))
    assert CORE.union(*OPTIONAL.values()) - needed == set()


def test_every_extra_is_for_users_for_developers_or_an_engine() -> None:
    developers = {"demo", "notebooks", "docs", "lint", "test", "release", "all"}
    assert set(EXTRAS) == FOR_USERS | developers | ENGINES


def test_constraints_hold_every_declared_package_within_its_bounds() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    held = {normal(name): version for name, version in pins.items()}
    everything = [*PROJECT["dependencies"], *(r for extra in set(EXTRAS) - ENGINES for r in EXTRAS[extra])]
    assert declared(everything) <= set(held)
    for requirement in everything:
        bound = re.match(r"([\w.-]+)>=([\d.]+)", requirement)
        if bound:
            numbers = [[int(n) for n in re.findall(r"\d+", version)] for version in (held[normal(bound[1])], bound[2])]
            assert numbers[0] >= numbers[1], requirement


def test_the_environment_of_flower_holds_a_version_within_its_bounds() -> None:
    held = re.search(r"^flwr==(\d+)\.(\d+)", (ROOT / "constraints-flower.txt").read_text(), re.MULTILINE)
    bounds = re.search(r"flwr>=(\d+)\.(\d+),<(\d+)\.(\d+)", EXTRAS["flower"][0])
    assert held is not None
    assert bounds is not None
    low, high = [(int(bounds[at]), int(bounds[at + 1])) for at in (1, 3)]
    assert low <= (int(held[1]), int(held[2])) < high


def test_torch_is_held_at_its_lowest_version() -> None:
    """`make compat` leaves torch out because the suite runs its lowest version."""
    lowest = {r.partition(">=")[2] for extra in ("torch", "opacus") for r in EXTRAS[extra] if r.startswith("torch")}
    assert len(lowest) == 1
    held = re.search(r"^torch==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert held is not None
    assert held[1].startswith(lowest.pop())


def test_python_versions_are_the_same_everywhere() -> None:
    versions = compat.named_versions()
    assert versions[0] == tuple(int(n) for n in PROJECT["requires-python"].removeprefix(">=").split("."))
    assert versions == [(3, minor) for minor in range(versions[0][1], versions[-1][1] + 1)]


def test_lowest_and_newest_versions_are_tried_with_every_extra_that_has_no_torch() -> None:
    assert {row.resolution for row in compat.ROWS.values()} == {"lowest-direct", "highest"}
    for row in compat.ROWS.values():
        assert set(row.extras) == FOR_USERS - {"torch", "opacus"} | {"test"}
        assert all((ROOT / path).exists() for path in row.tests if path.startswith("tests/"))
    assert not ENGINES & {extra for row in compat.ROWS.values() for extra in row.extras}


def test_no_file_of_the_checkout_is_left_out_of_the_source_archive() -> None:
    """A folder or a file at the top that MANIFEST.in and setuptools do not know would be missing."""
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    known = {"privfl", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", ".ci", ".gitignore", *manifest}
    assert {path.split("/")[0] for path in common.files_of_checkout()} <= known
