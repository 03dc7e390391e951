"""Which libraries a run was made with: noted when it starts, and again when it goes on with others."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import privfl
from privfl.errors import StateError
from privfl.files import atomic_write, canonical_json, read_json

VERSIONS: Final = "versions.json"
LIBRARIES: Final = (
    "numpy",
    "cryptography",
    "safetensors",
    "pydantic",
    "dp-accounting",
    "scikit-learn",
    "torch",
    "tenseal",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The libraries that rounds were made with.

    Attributes:
        from_round: The first of these rounds, counted from 1.
        versions: Versions by library.
    """

    from_round: int
    versions: dict[str, str]


def versions_here() -> dict[str, str]:
    """Versions of privfl, Python and the libraries that are installed, by name."""
    found = {"privfl": privfl.__version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def note_origin(folder: Path, next_round: int) -> None:
    """Note that the next rounds of a run are made with the versions that are installed here.

    Args:
        folder: The folder of the run.
        next_round: The first of these rounds, counted from 1.
    """
    here, noted = Origin(next_round, versions_here()), read_origins(folder)
    if noted and noted[-1].versions == here.versions:
        return
    kept = [origin for origin in noted if origin.from_round < next_round]  # of others no round was made
    atomic_write(folder / VERSIONS, canonical_json([asdict(origin) for origin in (*kept, here)]) + b"\n")


def read_origins(folder: Path) -> tuple[Origin, ...]:
    """The noted origins, oldest first; empty without a file. Raises `StateError` for a file of another form."""
    path = folder / VERSIONS
    if not path.exists():
        return ()
    try:
        entries = read_json(path.read_text(encoding="utf-8"))
        return tuple(
            Origin(
                int(entry["from_round"]),
                {str(name): str(version) for name, version in entry["versions"].items()},
            )
            for entry in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} does not hold the versions of a run: {error}") from error
