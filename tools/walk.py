"""Does what a page says, in order, in one folder: `python -m tools.walk docs/tutorial.md FOLDER`.

Blocks of Python are run, commands are given to the shell, and a block of TOML is written to the file whose name stands
in backquotes before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"^```(python|sh|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One block of a page.

    Attributes:
        section: The heading above it.
        kind: "python", "sh" or "toml".
        text: The block.
        file: The file that a block of TOML is written to; empty for other blocks.
    """

    section: str
    kind: str
    text: str
    file: str = ""


def steps(page: Path) -> list[Step]:
    """The blocks of a page in their order."""
    text, found = page.read_text(encoding="utf-8"), []
    for block in _BLOCK.finditer(text):
        before = text[: block.start()]
        section = re.findall(r"^#+ (.*)$", re.sub(_BLOCK, "", before), re.MULTILINE)[-1]
        file = re.findall(r"`([\w.-]+\.toml)`", before)[-1] if block[1] == "toml" else ""
        found.append(Step(section, block[1], block[2], file))
    return found


def take(step: Step, folder: Path, python: Path, environment: dict[str, str] | None = None) -> float:
    """Do one step, and return the seconds it took; raises `SystemExit` with its output when it fails.

    Args:
        step: The step.
        folder: Where it runs.
        python: The interpreter, next to which the command `privfl` lies.
        environment: Variables in place of this process's own.
    """
    started = time.perf_counter()
    if step.kind == "toml":
        (folder / step.file).write_text(step.text, encoding="utf-8")
        return time.perf_counter() - started
    variables = dict(os.environ) if environment is None else dict(environment)
    variables["PATH"] = f"{python.parent}{os.pathsep}{variables.get('PATH', '')}"
    command = [str(python), "-c", step.text] if step.kind == "python" else ["/bin/sh", "-euc", step.text]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step.section}:\n{step.text}\n{done.stdout}{done.stderr}")
    sys.stdout.write(done.stdout)
    return time.perf_counter() - started


def main(page: str, folder: str) -> None:
    """Do all steps of a page.

    Args:
        page: The page.
        folder: Where its steps run.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for step in steps(Path(page)):
        seconds = take(step, Path(folder), Path(sys.executable))
        sys.stdout.write(f"{step.section}: {step.kind}, {seconds:.1f} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
