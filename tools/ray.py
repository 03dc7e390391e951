"""The Ray executor in an environment of its own, with the versions of constraints-ray.txt; `make ray` tests it."""

from __future__ import annotations

import sys
from typing import Final

from tools.engines import Engine

RAY: Final = Engine("ray", ("tests/unit/engine/test_ray.py",))

if __name__ == "__main__":
    sys.exit(RAY.test(*sys.argv[1:]))
