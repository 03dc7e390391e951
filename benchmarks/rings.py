"""Measure what a ring of 42 bits costs against one of 31: bytes up per value, and processor time of a round.

Run `python benchmarks/rings.py`. Rounds of both widths alternate; the figure of a width is the least of several rounds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

CLIENTS, LENGTH, ROUNDS = 10, 200_000, 5
WIDTHS = (31, 42)


def measured(scheme: str, bits: int) -> tuple[float, float]:
    """Bytes up per value, and seconds of processor time, of one round."""
    update = np.random.default_rng(0).normal(size=LENGTH)
    run = Experiment(
        train=lambda model, client, round, rng: ClientUpdate(update, 1),
        initial=np.zeros(LENGTH),
        clients=CLIENTS,
        rounds=1,
        overrides={"sum.scheme": scheme, "sum.bits": bits},
    )
    started = time.process_time()
    (report,) = run.run()
    return report.bytes_up / CLIENTS / LENGTH, time.process_time() - started


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for scheme in ("plain", "masked", "ckks"):
        rounds = [[measured(scheme, bits) for bits in WIDTHS] for _ in range(ROUNDS)]
        narrow, wide = (min(pair[at][1] for pair in rounds) for at in range(2))
        up = " and ".join(f"{rounds[0][at][0]:.2f}" for at in range(2))
        print(f"{scheme}: {up} bytes a value; {1000 * narrow:.0f} and {1000 * wide:.0f} ms, {wide / narrow:.2f} times")


if __name__ == "__main__":
    main()
