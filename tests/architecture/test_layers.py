"""The import contracts hold, and each of them fails when it is broken."""

import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [layer.split(" | ") for layer in CONTRACTS[0]["layers"]]
PROTECTED = {name: c["name"] for c in CONTRACTS[1:] for name in c["protected_modules"]}
PLACES = [(place, name) for c in CONTRACTS[1:] for place in c["allowed_importers"] for name in c["protected_modules"]]
UPWARD = [(low, high) for above, below in pairwise(LAYERS) for high in above for low in below]
SIDEWAYS = [(a, b) for layer in LAYERS for a in layer for b in layer if a != b]


def lint(folder: Path) -> str:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    where = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    run = subprocess.run(
        [sys.executable, "-c", command, *where],
        check=False,  # 1 says that a contract is broken
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with every layer, and in it nothing but the places that may import a heavy package, which do."""
    package = tmp_path_factory.mktemp("skeleton") / "privfl"
    for layer in LAYERS:
        for name in layer:
            (package / name).mkdir(parents=True)
            (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    for place, heavy in PLACES:
        folder = package.parent / place.replace(".", "/")
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / f"uses_{heavy}.py").write_text(f"def late():\n    import {heavy}.part\n")
    return package


@pytest.fixture
def package(skeleton: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(skeleton, tmp_path / "privfl"))


def test_every_contract_holds_here() -> None:
    told = lint(ROOT)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in told


def test_the_contracts_on_heavy_packages_protect_them_without_exceptions() -> None:
    for contract in CONTRACTS[1:]:
        assert contract["type"] == "protected"
        assert set(contract) == {"name", "type", "protected_modules", "allowed_importers"}


def test_a_package_whose_heavy_imports_are_in_their_places_keeps_every_contract(package: Path) -> None:
    assert "0 broken" in lint(package.parent)


def test_no_layer_imports_one_above_or_beside_it(package: Path) -> None:
    """All broken at once, each from a file of its own, and each must be told."""
    broken = UPWARD + SIDEWAYS
    for low, high in broken:
        (package / low / f"uses_{high}.py").write_text(f"def late():\n    from privfl import {high}\n")
    told = lint(package.parent)
    assert f"{CONTRACTS[0]['name']} BROKEN" in told
    for low, high in broken:
        assert f"privfl.{low}.uses_{high} -> privfl.{high}" in told


def test_a_new_package_must_find_its_layer(package: Path) -> None:
    (package / "helpers").mkdir()
    (package / "helpers" / "__init__.py").touch()
    assert "privfl.helpers" in lint(package.parent)


@pytest.mark.parametrize("heavy", PROTECTED)
def test_each_heavy_package_is_kept_in_its_place(package: Path, heavy: str) -> None:
    """Imported late and by a submodule, from two places that may not: below, and beside the one that may."""
    for place in ("sums", "adapters", "experiment"):
        (package / place / "stray.py").write_text(f"def late():\n    import {heavy}.anything\n")
    told = lint(package.parent)
    assert f"{PROTECTED[heavy]} BROKEN" in told
    for place in ("sums", "adapters", "experiment"):
        assert f"privfl.{place}.stray -> {heavy}" in told
    assert "1 broken" in told
