"""The reference implementations of protocols/, loaded so that no two of them meet."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

PROTOCOLS = Path(__file__).parents[1] / "protocols"
_LOADED: dict[str, dict[str, ModuleType]] = {}  # by protocol, then by bare name


def load(protocol: str, name: str) -> ModuleType:
    """A file of a protocol's folder, once in a process.

    The files of a folder import each other by their bare names, and several folders use the same name. So each folder
    has a space of its own: its names are seen while one of its files is loaded, and at no other time.
    """
    folder = PROTOCOLS / protocol
    own = _LOADED.setdefault(protocol, {})
    bare = {file.stem for file in folder.glob("*.py")}
    hidden = {each: sys.modules.pop(each) for each in bare & set(sys.modules)}
    sys.modules.update(own)
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        own.update({each: sys.modules.pop(each) for each in bare & set(sys.modules)})
        sys.modules.update(hidden)
    return own[name]


def sources(protocol: str) -> dict[str, str]:
    """The text of each Python file of a protocol's folder, by its name."""
    return {file.name: file.read_text(encoding="utf-8") for file in sorted((PROTOCOLS / protocol).glob("*.py"))}
