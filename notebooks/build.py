"""Execute the notebooks and keep their outputs: `python -m notebooks.build [--only 03] [--quick | --check]`.

Each notebook is a pair: `NN_name.py`, its source (jupytext, percent format), and `NN_name.ipynb`, which this writes.
The metadata of the latter hold the hash of the code that gave its outputs, so that a test can tell when they are out
of date with it. With `--check` they run as they are and their text is compared with what is kept: that tells when the
outputs are older than the package. Words must be the same, and numbers to 2 % or 0.02; in cells with the tag "random",
which show fresh noise, numbers are free. With `--quick` the notebooks run with small settings (`PRIVFL_QUICK` is set).
Neither writes anything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SECONDS = 60.0
"""What one notebook may take of a processor: the time that it takes where nothing else runs."""
MAX_BYTES = 400_000
"""What one notebook with its outputs may weigh."""
MAX_COLUMNS = 88
"""The longest line of code, which fits a window next to another."""
KEY = "privfl"

_PATH = re.compile(r"(?:/(?:home|root|Users|tmp|var|opt|usr|work|mnt|private|etc)/|[A-Za-z]:\\\\?[A-Za-z])[^\s'\"]*")
_HASH = re.compile(r"\b[0-9a-f]{12,}\b")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
_WARNING = re.compile(r"\b\w*Warning\b")


def sources(only: str = "") -> list[Path]:
    """The notebooks' sources whose names start with `only`, in order."""
    return sorted(path for path in FOLDER.glob("[0-9][0-9]_*.py") if path.name.startswith(only))


def read_source(path: Path) -> Any:
    """The notebook in a percent-format source, without outputs."""
    import jupytext

    return jupytext.read(path)


def code_hash(notebook: Any) -> str:
    """64 hex digits: SHA-256 over all code cells, in order."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = cell.source.strip().encode()
            digest.update(len(text).to_bytes(4, "little") + text)
    return digest.hexdigest()


def stored_hash(notebook: Any) -> str | None:
    """The hash of the code that gave the stored outputs."""
    stored: str | None = notebook.metadata.get(KEY, {}).get("code_sha256")
    return stored


def problems(notebook: Any) -> list[str]:
    """What an executed notebook must not show: an error, a warning, a path of the machine, a cell that never ran."""
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None and cell.source.strip():
            found.append(f"cell {index} was not executed")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index}: {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {index} wrote to stderr: {output.text.strip()[:200]}")
            for text in _texts(output):
                found += [f"cell {index} shows a path: {hit}" for hit in _PATH.findall(text)]
                found += [f"cell {index} shows a warning: {hit}" for hit in _WARNING.findall(text)]
    return found


def differences(kept: Any, fresh: Any) -> list[str]:
    """Where the text of a fresh run says something else than the one that is kept; see the top of this file."""
    found = []
    for index, (old, new) in enumerate(zip(kept.cells, fresh.cells, strict=True)):
        was, now = (
            [line for output in cell.get("outputs", []) for text in _texts(output) for line in text.splitlines()]
            for cell in (old, new)
        )
        free = "random" in new.metadata.get("tags", [])
        if len(was) != len(now):
            found.append(f"cell {index} shows {len(now)} lines, {len(was)} are kept")
        for a, b in zip(was, now, strict=False):
            if _words(a) != _words(b) or not (free or _close(a, b)):
                found.append(f"cell {index} shows {b.strip()!r}, {a.strip()!r} is kept")
    return found


def _words(line: str) -> str:
    """The line without its numbers and hashes, and without the space that they are padded with."""
    return " ".join(_NUMBER.sub("#", _HASH.sub("#", line)).replace("-", " ").split())


def _close(a: str, b: str) -> bool:
    pairs = zip(_NUMBER.findall(_HASH.sub("", a)), _NUMBER.findall(_HASH.sub("", b)), strict=True)
    values = ((float(x.replace(",", "")), float(y.replace(",", ""))) for x, y in pairs)
    return all(abs(x - y) <= max(0.02, 0.02 * abs(x)) for x, y in values)


def _texts(output: Any) -> list[str]:
    texts = [output.get("text", ""), *output.get("traceback", [])]
    texts += [value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return ["".join(text) if isinstance(text, list) else str(text) for text in texts]


def execute(path: Path, *, quick: bool, progress: bool = False) -> Any:
    """Run all cells of a source in a fresh kernel and a temporary folder; raises `CellExecutionError` where one fails.

    The kernel inherits the environment, finds this checkout first, and keeps its hands off the working tree.
    """
    from nbclient import NotebookClient

    notebook = read_source(path)
    environment = {**os.environ, "PRIVFL_QUICK": "1" if quick else ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]

    def show(cell: Any, cell_index: int) -> None:
        if progress and sys.stdout.isatty():
            print(f"\r{path.stem}: cell {code.index(cell_index) + 1} of {len(code)}", end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="privfl-notebook-") as folder:
        client = NotebookClient(
            notebook,
            timeout=10 * SECONDS,
            kernel_name="python3",  # the native kernel is always this interpreter's own
            resources={"metadata": {"path": folder}},
            record_timing=False,
            on_cell_start=show,
            extra_arguments=["--log-level=ERROR"],  # no word about TCP: it is this machine's loopback, and signed
        )
        client.execute(env=environment)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02}"  # equal sources give equal files
    notebook.metadata[KEY] = {"code_sha256": code_hash(notebook)}
    notebook.metadata.pop("language_info", None)
    return notebook


def build(path: Path, *, quick: bool, check: bool = False) -> list[str]:
    """Execute one notebook, write it unless `quick` or `check`, and return what is wrong with it."""
    import nbformat
    from nbclient.exceptions import CellExecutionError

    start, worked = time.perf_counter(), _worked()
    try:
        notebook = execute(path, quick=quick, progress=True)
    except CellExecutionError as error:
        print(f"\r{path.stem}: {error.ename}: {error.evalue}\n{error}", flush=True)
        return [error.ename]
    elapsed, seconds = time.perf_counter() - start, _worked() - worked
    found = problems(notebook)
    size = len(nbformat.writes(notebook))
    if seconds > SECONDS:
        found.append(f"took {seconds:.0f} s of a processor, {SECONDS:.0f} s are allowed")
    if size > MAX_BYTES:
        found.append(f"weighs {size} bytes, {MAX_BYTES} are allowed")
    if check:
        found += differences(nbformat.read(path.with_suffix(".ipynb"), as_version=4), notebook)
    if not (found or quick or check):
        nbformat.write(notebook, path.with_suffix(".ipynb"))
    verdict = "; ".join(found) or ("ran" if quick else "as it is kept" if check else "written")
    took = f"{elapsed:.1f} s ({seconds:.1f} s of a processor)"
    print(f"\r{path.stem}: {took}, {size / 1000:.0f} kB, {verdict}", flush=True)
    return found


def _worked() -> float:
    """Processor seconds of the kernels that have ended, or the wall clock where the system does not count them."""
    try:
        import resource
    except ImportError:
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Build what was asked for; 1 if something was wrong with a notebook."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.build", description="Execute the notebooks.")
    parser.add_argument("--only", default="", metavar="NN", help="only those whose names start so, such as 03")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="small settings, and nothing is written")
    how.add_argument("--check", action="store_true", help="compare with what is kept, and write nothing")
    arguments = parser.parse_args()
    chosen = sources(arguments.only)
    if not chosen:
        names = ", ".join(path.stem for path in sources())
        parser.error(f"no notebook starts with {arguments.only!r}; there are {names}")
    failed = 0
    for at, path in enumerate(chosen, start=1):
        print(f"[{at}/{len(chosen)}] ", end="" if not sys.stdout.isatty() else "\n", flush=True)
        failed += bool(build(path, quick=arguments.quick, check=arguments.check))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
