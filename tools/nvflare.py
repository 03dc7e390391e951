"""The NVFlare adapter in an environment of its own, with the versions of constraints-nvflare.txt.

`make nvflare` runs its fast tests, and `python -m tools.nvflare -m slow` those that start NVFlare's simulator.
"""

from __future__ import annotations

import sys
from typing import Final

from tools.engines import Engine

NVFLARE: Final = Engine("nvflare", ("tests/adapters/test_nvflare_job.py", "tests/adapters/test_nvflare_example.py"))

if __name__ == "__main__":
    sys.exit(NVFLARE.test(*sys.argv[1:]))
