"""The place of a site's folder: a folder that was copied, restored or rebooted does not read earlier frames.

Old frames verify for as long as they are valid, and a restored folder has forgotten that it answered them. The site
therefore notes which file on which boot of the machine holds its keys. Where either changed, frames of step 0 count
only if the server made them after the site was opened again. Where the file is another one, open rounds are over, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from privfl.errors import StateError
from privfl.files import atomic_write, canonical_json, read_json

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def note_place(file: Path, keys: Path, now: float) -> None:
    """Note the place of a new or restored folder; frames count from now on.

    Args:
        file: Where the place is noted.
        keys: The file whose identity is the place; it is never rewritten.
        now: The present time, in seconds since 1970.
    """
    atomic_write(file, canonical_json(_place(keys) | {"since": float(now)}))


def since(file: Path, keys: Path, now: float) -> tuple[float, bool]:
    """Return the time from which frames of step 0 count, and whether the folder is a copy of the one that was noted.

    Args:
        file: Where the place is noted.
        keys: The file whose identity is the place.
        now: The present time, in seconds since 1970.

    Raises:
        StateError: The note was altered.
    """
    place = _place(keys)
    try:
        noted: dict[str, Any] = read_json(file.read_bytes()) if file.exists() else {}
        if {name: noted.get(name) for name in place} == place:
            return float(noted["since"]), False
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(f"{file} was altered") from error
    note_place(file, keys, now)
    return now, noted.get("keys") != place["keys"]


def _place(keys: Path) -> dict[str, Any]:
    status = keys.stat()
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    return {"keys": [status.st_ino, status.st_ctime_ns], "boot": boot}
