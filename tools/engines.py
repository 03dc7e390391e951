"""The adapters of engines, each in an environment of its own: engines hold packages at other versions than we do."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.common import ROOT, output_of


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        name: its name: the environment is build/NAME, and constraints-NAME.txt holds its versions.
        tests: the adapter's tests, which run only in that environment.
        variables: variables of a process in it, besides those that every engine needs.
    """

    name: str
    tests: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> Path:
        """The interpreter of the environment; it is made where it is absent, or holds other versions."""
        folder, pins = ROOT / "build" / self.name, ROOT / f"constraints-{self.name}.txt"
        inside, mark = folder / "bin" / "python", folder / "pins.txt"
        if mark.exists() and mark.read_bytes() == pins.read_bytes():
            return inside
        print(f"installing {self.name} in an environment of its own; about a minute", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        output_of([inside, "-m", "pip", "install", "--quiet", "--requirement", pins])
        mark.write_bytes(pins.read_bytes())
        return inside

    def run(self, arguments: Sequence[str]) -> int:
        """Run the interpreter with arguments, this checkout first, one thread; the exit code."""
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.variables}
        command = [str(self.environment()), *arguments]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, check=False).returncode

    def test(self, *options: str) -> int:
        """Run the adapter's tests with further options of pytest; the exit code."""
        return self.run(["-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *options, *self.tests])
