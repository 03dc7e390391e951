"""The files of a release: two archives, pinned requirements with hashes, a bill of materials, and checksums.

`make release` writes them to `dist`, from the last commit. It builds twice, from two folders, and stops if one byte
differs, so that anyone can build the same archives from the same commit.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.common import CONSTRAINTS, ROOT, attempt, build, output_of, uv

DIST: Final = ROOT / "dist"
LIGHT: Final = ("dp", "he", "data", "plot")
ALL: Final = (*LIGHT, "torch", "opacus")  # the other extras are for developers


def commit_sources(target: Path) -> int:
    """Write the files of the last commit.

    Args:
        target: the folder that gets them; made here.

    Returns:
        The time of the commit, in seconds since 1970.
    """
    packed = target.with_suffix(".tar")
    output_of(["git", "archive", "--format=tar", f"--output={packed}", "HEAD"])
    with tarfile.open(fileobj=io.BytesIO(packed.read_bytes())) as archive:
        archive.extractall(target, filter="data")
    return int(output_of(["git", "log", "-1", "--format=%ct"]))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_twice(target: Path) -> tuple[Path, Path]:
    """Build the last commit in two folders, and compare.

    Args:
        target: the folder that the archives are written to.

    Returns:
        The paths of the wheel and of the source archive.

    Raises:
        SystemExit: the two builds differ.
    """
    made: list[tuple[Path, Path]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second-folder"):
            source = Path(folder, name)
            epoch = commit_sources(source)
            made.append(build(source, Path(folder, f"{name}-dist"), epoch))
        for one, other in zip(*made, strict=True):
            if one.name != other.name or sha256(one) != sha256(other):
                raise SystemExit(f"two builds of {one.name} differ")
        target.mkdir(parents=True, exist_ok=True)
        wheel, archive = (Path(shutil.copyfile(path, target / path.name)) for path in made[0])
    return wheel, archive


def write_requirements(target: Path, extras: Sequence[str]) -> None:
    """Write every package that some extras need, at the versions of constraints.txt, with the hashes of its files.

    Args:
        target: the file; `pip install --require-hashes -r` reads it, on any system.
        extras: the extras.
    """
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    chosen = [argument for extra in extras for argument in ("--extra", extra)]
    uv(
        "pip", "compile", "--quiet", "--universal", "--python-version", oldest, *chosen, "--constraints", CONSTRAINTS,
        "--generate-hashes", "--no-header", "--no-annotate", "pyproject.toml", "--output-file", target,
    )  # fmt: skip


def write_bill(requirements: Path, target: Path) -> None:
    """Write the bill of materials, in the format CycloneDX 1.6.

    Args:
        requirements: the pinned requirements with hashes.
        target: the JSON file, which depends on the requirements and on pyproject.toml alone.
    """
    output_of(
        [
            Path(sys.executable).parent / "cyclonedx-py", "requirements", "--pyproject", ROOT / "pyproject.toml",
            "--mc-type", "library", "--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON",
            "--output-file", target, requirements,
        ],
        PYTHONWARNINGS="ignore",  # requirements say what is needed, and not by whom
    )  # fmt: skip


def main() -> int:
    """Write the files of a release to `dist`; the working tree must have no changes."""
    if attempt(["git", "status", "--porcelain"]).output:
        raise SystemExit("a release is made from a commit: commit or stash the changes first")
    shutil.rmtree(DIST, ignore_errors=True)
    wheel, archive = build_twice(DIST)
    light, complete = DIST / "requirements.txt", DIST / "requirements-torch.txt"
    write_requirements(light, LIGHT)
    write_requirements(complete, ALL)
    bill = DIST / wheel.name.replace("-py3-none-any.whl", ".cdx.json")
    write_bill(complete, bill)
    files = sorted([wheel, archive, light, complete, bill])
    (DIST / "SHA256SUMS").write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))
    for file in [*files, DIST / "SHA256SUMS"]:
        print(file.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
