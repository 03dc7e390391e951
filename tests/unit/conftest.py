import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether the process of this number ends soon, waited for by its parent or not."""

    def ended(pid: int) -> bool:
        for _ in range(200):
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return True
            except OSError:
                return True
            time.sleep(0.05)
        return False

    return ended
