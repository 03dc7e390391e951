"""Running uv and other programs, environments, and building the wheel and the source archive."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CONSTRAINTS: Final = ROOT / "constraints.txt"
EPOCH: Final = 1577836800  # 2020-01-01, the date of files in archives that no commit dates


@dataclass(frozen=True)
class Done:
    """How a program ended.

    Attributes:
        code: its exit code.
        output: its standard output and standard error, in the order of writing.
    """

    code: int
    output: str


def attempt(command: Sequence[str | Path], cwd: Path = ROOT, **environment: str) -> Done:
    """Run a program to its end, whatever its exit code, without this process's PYTHONPATH.

    Args:
        command: the program and its arguments.
        cwd: its working directory; the checkout by default.
        environment: variables set in addition to those of this process.

    Returns:
        The exit code and the output.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        umask=0o022,  # the modes of files in a wheel must not depend on who builds it
    )
    return Done(done.returncode, done.stdout)


def output_of(command: Sequence[str | Path], cwd: Path = ROOT, **environment: str) -> str:
    """Run a program that must succeed.

    Args:
        command: the program and its arguments.
        cwd: its working directory; the checkout by default.
        environment: variables set in addition to those of this process.

    Returns:
        Its output, standard error included.

    Raises:
        SystemExit: the program failed; its output is the message.
    """
    done = attempt(command, cwd, **environment)
    if done.code:
        raise SystemExit(f"{done.output}\nexit code {done.code}: {' '.join(map(str, command))}")
    return done.output


def uv_path() -> Path | None:
    """The `uv` next to this interpreter, or else the one on PATH; None where there is none."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    return None if found is None else Path(found)


def uv(*arguments: str | Path, **environment: str) -> str:
    """The output of `uv`, which must succeed; raises `SystemExit` where it is not installed."""
    program = uv_path()
    if program is None:
        raise SystemExit("this needs uv: pip install uv")
    index = os.environ.get("PIP_INDEX_URL")
    if index and "UV_DEFAULT_INDEX" not in os.environ:  # one mirror for pip and uv
        environment["UV_DEFAULT_INDEX"] = index
    return output_of([program, "--no-config", *arguments], ROOT, **environment)


def new_environment(folder: Path, python: str | Path) -> Path:
    """Make an empty virtual environment, in place of one that is there.

    Args:
        folder: where it is made.
        python: the interpreter that it is for.

    Returns:
        The environment's own interpreter.
    """
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--no-project", "--python", python, folder)
    return folder / "bin" / "python"


def files_of_checkout() -> list[str]:
    """The paths of the checkout's files: those that git tracks or would, or all where there is no git."""
    listed = attempt(["git", "ls-files", "--cached", "--others", "--exclude-standard"])
    if listed.code == 0:
        return sorted({path for path in listed.output.splitlines() if (ROOT / path).is_file()})
    skipped = {".venv", "build", "dist", "__pycache__", "privfl.egg-info"}
    every = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return sorted(str(path) for path in every if not skipped & set(path.parts))


def copy_checkout(target: Path) -> None:
    """Copy the checkout's files to a new folder, with fixed permissions."""
    for path in files_of_checkout():
        copied = target / path
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copied)
        copied.chmod(0o755 if os.access(ROOT / path, os.X_OK) else 0o644)


def build(source: Path, target: Path, epoch: int = EPOCH) -> tuple[Path, Path]:
    """Build the source archive, and the wheel from that archive.

    The build tools are those of constraints.txt. Equal sources and dates give equal bytes.

    Args:
        source: a folder with the sources alone, such as `copy_checkout` makes; the build writes into it.
        target: the folder that the two archives are written to.
        epoch: the date of all files in them, in seconds since 1970.

    Returns:
        The paths of the wheel and of the source archive.
    """
    common: list[str | Path] = ["build", "--quiet", "--build-constraints", CONSTRAINTS, "--out-dir", target]
    dated = {"SOURCE_DATE_EPOCH": str(epoch)}
    uv(*common, "--sdist", source, **dated)
    (archive,) = target.glob("*.tar.gz")
    _normalize(archive, epoch)
    uv(*common, "--wheel", archive, **dated)
    (wheel,) = target.glob("*.whl")
    return wheel, archive


def _normalize(archive: Path, epoch: int) -> None:
    """Rewrite a source archive with one date, one owner and sorted names: setuptools takes those of the machine."""
    plain = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(plain.getvalue(), mtime=epoch))


def _environment(additional: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**inherited, **additional}
