"""The masked sum at the speed of memory: ratios to keystream + add, to one thread, and to flwr's SecAgg+.

The peer is measured in a process of its own (benchmarks/peers/flwr_secagg.py) if FLWR_PYTHON names an interpreter that
has flwr 1.41.0; without one these ratios are skipped. PRIVFL_BENCH=full adds n = 100 and n = 1000, which take minutes.
PRIVFL_QUIET=1 says that nothing else runs, so that two threads are held to their limit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

sys.path.insert(0, str(Path(__file__).parent))
from parties import Played, play

from privfl.crypto import add_keystreams
from privfl.crypto.keystream import CHUNK_BYTES

LENGTH = 1_000_000
FULL = os.environ.get("PRIVFL_BENCH") == "full"
QUIET = os.environ.get("PRIVFL_QUIET") == "1" or os.getloadavg()[0] < 0.5
PEER = os.environ.get("FLWR_PYTHON")
SCRIPT = Path(__file__).parents[1] / "peers" / "flwr_secagg.py"
full = pytest.mark.skipif(not FULL, reason="takes minutes: set PRIVFL_BENCH=full")
peer = pytest.mark.skipif(PEER is None, reason="set FLWR_PYTHON to an interpreter with flwr 1.41.0")


def floor(words: Any, key: bytes) -> None:
    """The keystream of one key and one addition, over chunks of the same size: nothing less can be done."""
    cipher, size = Cipher(AES256(key), CTR(bytes(16))).encryptor(), CHUNK_BYTES // 4
    zeros, out = bytes(CHUNK_BYTES), np.empty(CHUNK_BYTES + 16, np.uint8)
    stream = out[:CHUNK_BYTES].view("<u4")
    for at in range(0, len(words), size):
        part = words[at : at + size]
        cipher.update_into(zeros[: part.nbytes], out.data)
        np.add(part, stream[: len(part)], out=part)


def ask_peer(what: str, *arguments: int) -> dict[str, float]:
    """The peer's seconds, from a process of its own."""
    command = [str(PEER), str(SCRIPT), what, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_mask_expansion() -> None:
    words = np.zeros(LENGTH, "<u4")
    keys = [os.urandom(32) for _ in range(8)]
    results = [
        harness.ratio(
            "8 masks added",
            lambda: add_keystreams(words, keys),
            peer="keystream + add alone",
            against=lambda: [floor(words, key) for key in keys],
            repeats=15,
            limit=1.5,
        ),
        harness.ratio(
            "8 masks added by 2 threads",
            lambda: add_keystreams(words, keys, threads=2),
            peer="by 1 thread",
            against=lambda: add_keystreams(words, keys),
            repeats=15,
            limit=1 / 1.5 if QUIET else None,  # two idle cores are needed
        ),
    ]
    harness.write("secagg-masks", results)
    harness.check(*results)


def keystream_alone(size: int, key: bytes) -> None:
    """The bytes of one mask and no addition: what AES-256 itself takes on this processor."""
    cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    zeros, out = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES + 16)
    for at in range(0, size, CHUNK_BYTES):
        cipher.update_into(zeros[: size - at], out)


@peer
def test_mask_expansion_against_flwr() -> None:
    """Five times the peer: more than AES-256 and one addition reach on a processor without wide AES instructions.

    Their own rows tell how far it can be reached; where "keystream + add alone" misses the limit, so does this.
    """
    words, key = np.zeros(LENGTH, "<u4"), os.urandom(32)
    actions: dict[str, Callable[[], object]] = {
        "1 mask added": lambda: add_keystreams(words, [key]),
        "1 mask added by 2 threads": lambda: add_keystreams(words, [key], threads=2),
        "keystream + add alone": lambda: floor(words, key),
        "keystream alone": lambda: keystream_alone(words.nbytes, key),
    }
    mine, theirs = dict.fromkeys(actions, float("inf")), float("inf")
    for _ in range(4):  # in turns, for the machine is not the same from one second to the next
        theirs = min(theirs, ask_peer("expand", LENGTH)["seconds"])
        for name, action in actions.items():
            mine[name] = min(mine[name], *(harness.seconds(action) for _ in range(20)))
    limits = {"1 mask added": 1 / 5}
    rows = [
        harness.Ratio(name, "flwr's generator and add", took, theirs, took / theirs, limits.get(name), 80)
        for name, took in mine.items()
    ]
    harness.write("secagg-masks-flwr", rows)
    harness.check(*rows)


def against_flwr(clients: int, client_limit: float, server_limit: float, repeats: int) -> None:
    mine = [play(clients, LENGTH, dropped=0.3, dropout=0.3) for _ in range(repeats)]
    theirs = ask_peer("round", clients, LENGTH, int(0.3 * clients))
    client, server = min(p.client_seconds for p in mine), min(p.server_seconds for p in mine)
    rows = [
        harness.Ratio(
            f"client, n = {clients}", "flwr", client, theirs["client"], client / theirs["client"], client_limit, repeats
        ),
        harness.Ratio(
            f"server, n = {clients}", "flwr", server, theirs["server"], server / theirs["server"], server_limit, repeats
        ),
    ]
    harness.write(f"secagg-flwr-{clients}", rows)
    harness.check(*rows)


@peer
def test_32_clients_against_flwr() -> None:
    against_flwr(32, 1 / 6, 1 / 30, 2)


@peer
@full
def test_100_clients_against_flwr() -> None:
    against_flwr(100, 1 / 15, 1 / 50, 1)


def test_bytes() -> None:
    played = play(32, LENGTH)
    assert played.bytes_up <= 1.01 * 4 * LENGTH


@full
def test_scale() -> None:
    """A thousand clients on a ring, 100k values, a tenth of them silent: the whole round in this process."""
    started, computed = time.perf_counter(), time.process_time()
    played = play(1000, 100_000, dropped=0.1)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    harness.write(
        "secagg-scale", [{**asdict(played), "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}]
    )


@full
def test_growth() -> None:
    """Seconds over n, d and dropouts, for the plot of benchmarks/secagg/plot.py."""
    rows: list[Played] = [play(n, 2_000) for n in (10, 20, 50, 100, 200)]
    rows += [play(20, d) for d in (1_000, 10_000, 100_000, 1_000_000)]
    rows += [play(50, 2_000, dropped=f, dropout=0.3) for f in (0.02, 0.1, 0.2, 0.3)]
    harness.write("secagg-growth", [asdict(row) for row in rows])
