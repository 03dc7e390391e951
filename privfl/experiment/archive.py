"""Runs on the disk: where they are, and what they reported."""

from __future__ import annotations

import json
from pathlib import Path

from privfl.errors import ConfigError, StateError
from privfl.experiment.experiment import CONFIG, METRICS
from privfl.files import user_path
from privfl.fl.run import RoundReport


def find_runs(runs: Path) -> list[Path]:
    """The folders of all runs in `runs`, by name; none where there is no such folder."""
    return sorted(path.parent for path in runs.glob(f"*/{CONFIG}")) if runs.is_dir() else []


def find_run(runs: Path, name: str) -> Path:
    """The folder of the run that is called `name`, or that is that folder; raises `ConfigError`."""
    for folder in (runs / name, user_path(name)):
        if (folder / CONFIG).is_file():
            return folder
    known = ", ".join(path.name for path in find_runs(runs)) or "none"
    raise ConfigError(f"there is no run {name!r} in {runs}; there are: {known}")


def read_reports(folder: Path) -> list[RoundReport]:
    """The reports of a run, oldest first; raises `StateError` for a metrics file that is none."""
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [RoundReport.read(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} does not hold the reports of a run: {error}") from error
