"""The attacks that SECURITY.md lists: each has a test, and each file of tests/attacks is in a list."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (tests/[^|]+) \|$", PAGE, flags=re.MULTILINE)


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of the tests at the top of a file."""
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def named(test: str) -> bool:
    """True if a file of that name has a test of that name."""
    file, _, name = test.partition("::")
    return name.startswith("test_") and (ROOT / file).is_file() and name in names_in(file)


@pytest.mark.parametrize(("attack", "test"), [(attack, test) for attack, _, test in ROWS])
def test_an_attack_has_its_test(attack: str, test: str) -> None:
    assert named(test), f"{attack}: no test {test}"


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert not named("tests/attacks/test_lying_server.py::test_nothing")
    assert not named("tests/attacks/test_nothing.py::test_second_unmask_request")


def test_every_row_of_an_attack_table_names_a_test() -> None:
    tables = re.findall(r"^\| attack on [^\n]*\n\|---\|---\|---\|\n((?:\|[^\n]*\n)+)", PAGE, flags=re.MULTILINE)
    assert len(tables) == 3
    assert [line for table in tables for line in table.splitlines() if line.count("| tests/") != 1] == []
    assert sum(len(table.splitlines()) for table in tables) == len(ROWS)


def test_every_file_of_attacks_is_in_a_table() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert files - {test.partition("::")[0] for _, _, test in ROWS} == set()
