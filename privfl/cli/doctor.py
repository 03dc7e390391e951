"""`privfl doctor`: what is installed, what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any, Final

from rich.console import Console
from rich.table import Table

import privfl
from privfl.cli.options import Json, print_json

EXAMPLE: Final = "Example: [bold]privfl doctor --json[/]"

PACKAGES: Final = (
    ("numpy", "", "vectors"),
    ("cryptography", "", "keys, masks, signatures"),
    ("safetensors", "", "model files"),
    ("pydantic", "", "configurations"),
    ("tomli-w", "", "configuration files"),
    ("dp-accounting", "dp", "epsilon"),
    ("scikit-learn", "data", "bundled data sets"),
    ("matplotlib", "plot", "plots"),
    ("torch", "torch", "neural networks"),
    ("opacus", "opacus", "example-level privacy"),
    ("tenseal", "he", "homomorphic summation"),
)


def diagnose() -> dict[str, Any]:
    """Versions by package, None where one is missing, and the pip line for what is missing."""
    found = {name: _version(name) for name, _, _ in PACKAGES}
    extras = sorted({extra for name, extra, _ in PACKAGES if extra and found[name] is None})
    return {
        "privfl": privfl.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "data_folder": os.environ.get("PRIVFL_DATA"),
        "packages": found,
        "install": f"pip install 'privfl[{','.join(extras)}]'" if extras else None,
    }


def doctor(as_json: Json = False) -> None:
    """Show what is installed, what is missing, and the pip line that installs it."""
    facts = diagnose()
    if as_json:
        print_json(facts)
        return
    console = Console()
    table = Table(title=f"privfl {facts['privfl']}, Python {facts['python']}, {facts['cores']} cores")
    for heading in ("package", "version", "for"):
        table.add_column(heading)
    for name, _, use in PACKAGES:
        table.add_row(name, facts["packages"][name] or "[yellow]missing[/]", use)
    console.print(table)
    console.print(f"data folder (PRIVFL_DATA): {facts['data_folder'] or 'not set; bundled data sets are used'}")
    if facts["install"]:
        console.print(f"To install what is missing: {facts['install']}", highlight=False, markup=False)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
