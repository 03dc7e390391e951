"""A whole sum of ten thousand clients on a ring, all of them in this process, with dropouts.

    python benchmarks/secagg/ten_thousand.py [CLIENTS [LENGTH [DROPPED]]]      by default 10000 100 0.05

Every client does all it would do at home: it reads and checks the roster, verifies its neighbors' signatures, agrees on
keys, shares, masks, and checks the list of survivors. Seconds, processor seconds and peak memory go to
benchmarks/results/secagg-<CLIENTS>.json. Planned for 2 % corrupt clients and for DROPPED.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import harness
from parties import play

CORRUPT = 0.02


def main(clients: int, length: int, dropped: float) -> None:
    """Play, and write the figures down."""
    started, computed = time.perf_counter(), time.process_time()

    def tell(step: str) -> None:
        print(f"{time.perf_counter() - started:7.0f} s  {step}", file=sys.stderr, flush=True)

    played = play(clients, length, dropped=dropped, dropout=dropped, corrupt=CORRUPT, tell=tell)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = asdict(played) | {"corrupt": CORRUPT, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}
    harness.write(f"secagg-{clients}", [row])
    print(row)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        int(given[0]) if given else 10_000,
        int(given[1]) if len(given) > 1 else 100,
        float(given[2]) if len(given) > 2 else 0.05,
    )
