"""The preparation of an experiment's or a comparison's worker processes, before their first work."""

from __future__ import annotations

import os
import sys


def single_threaded() -> None:
    """Limit this worker process to one thread of torch, which may be loaded or not yet.

    As many workers as cores are busy already, and a forked process that asks torch for its parent's threads hangs.
    """
    if "torch" in sys.modules:
        from privfl.adapters.torch.state import one_thread

        one_thread()
    else:
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # torch reads them when it is imported
