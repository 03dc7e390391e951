"""What a masked sum will cost and promise, worked out before anybody starts one: the figures of `privfl plan`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.checks import check_type
from privfl.crypto import AgreementKey, SigningKey, add_keystreams
from privfl.crypto.sealed import TAG_BYTES
from privfl.crypto.shamir import SHARE_BYTES
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import ConfigError
from privfl.ring import Ring
from privfl.secagg.messages import BOX_BYTES, HASH_BYTES, KEYS_BYTES
from privfl.secagg.planner import MAX_CLIENTS
from privfl.secagg.terms import Assumptions, GraphChoice, Mode, choose_graph, complete_threshold
from privfl.wire import HEADER_BYTES

COMPUTATIONAL_BITS: Final = 128
"""What X25519, and so everything keyed by it, is held to give."""

_COUNT: Final = 4
_LENGTH: Final = 8  # of a blob


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that one core takes: a byte of mask expanded and added, an agreement with its key derivation, a
    signature verified, one multiplication in the sharing's field. The defaults are those of a cloud core of 2020.
    """

    mask_byte: float = 0.5e-9
    agreement: float = 60e-6
    verification: float = 120e-6
    multiplication: float = 0.25e-6


@dataclass(frozen=True, slots=True)
class SumPlan:
    """One sum with everybody there, but for the `server_seconds`, which count the dropouts planned for.

    Bytes and messages are a client's, headers included; bytes are exact. `security_bits` is the smaller of 128 and
    the ring's at the roster where they are fewest; `correctness_bits` is infinite in a complete graph, where the
    threshold alone decides. Fewer than `min_roster` advertisements start nothing.
    """

    protocol: str
    clients: int
    length: int
    bits: int
    degree: int
    share_threshold: int
    min_roster: int
    max_dropouts: int
    messages_up: int
    messages_down: int
    bytes_up: int
    bytes_down: int
    client_seconds: float
    server_seconds: float
    security_bits: float
    correctness_bits: float
    assumptions: str


def plan_sum(
    clients: int,
    length: int,
    *,
    bits: int = 32,
    corrupt: float = 0.05,
    dropout: float = 0.1,
    mode: Mode = "signed",
    graph: GraphChoice = "auto",
    packed: bool = False,
    share_threshold: int | None = None,
    security_bits: int = 40,
    correctness_bits: int = 20,
    speed: Speed = Speed(),
) -> SumPlan:
    """The plan for `clients` (1 to 10^8) vectors of `length` values; the other arguments are those of `MaskedSum`.

    Raises `ConfigError` with the reason for settings that cannot be met.
    """
    check_type("clients", clients, int)
    check_type("length", length, int)
    if not 1 <= clients <= MAX_CLIENTS or length < 1:
        raise ConfigError(f"a plan is for 1 to {MAX_CLIENTS} clients and at least one value, not {clients}, {length}")
    signed = mode == "signed"
    assume = Assumptions(corrupt, dropout, security_bits, correctness_bits)
    ring_plan = choose_graph(clients, signed, graph, share_threshold, assume)
    ring = Ring(bits)
    if ring_plan is None:
        degree, holders = clients - 1, clients
        threshold = least = complete_threshold(clients, signed, share_threshold, assume)
        colluding = math.floor(corrupt * clients + 1e-9)
        secure, correct = float(COMPUTATIONAL_BITS), float("inf")
    else:
        degree = holders = ring_plan.degree
        threshold, least = ring_plan.threshold, ring_plan.min_roster
        colluding = math.ceil(corrupt * clients - 1e-9)
        secure, correct = min(float(COMPUTATIONAL_BITS), ring_plan.security_bits), ring_plan.correctness_bits
    layout = "complete graph" if ring_plan is None else f"ring of degree {degree}"
    up, down = _bytes(clients, degree, holders, signed, ring.packed_bytes(length, dense=packed))
    stream = length * ring.dtype.itemsize * speed.mask_byte
    client = (degree + 1) * stream + 2 * degree * (speed.agreement + (speed.verification if signed else 0.0))
    client += 2 * holders * threshold * speed.multiplication
    gone = int(dropout * clients)
    pairs = gone * degree * (1 - dropout)
    server = (clients - gone + pairs) * stream + pairs * speed.agreement + 2 * clients * speed.agreement
    weights = threshold if ring_plan is None else clients * threshold
    server += (weights * threshold + clients * threshold) * speed.multiplication
    return SumPlan(
        protocol=f"masked-sum/1, {mode}, {layout}",
        clients=clients,
        length=length,
        bits=bits,
        degree=degree,
        share_threshold=threshold,
        min_roster=least,
        max_dropouts=clients - threshold if ring_plan is None else gone,
        messages_up=5 if signed else 4,
        messages_down=4 if signed else 3,
        bytes_up=up,
        bytes_down=down,
        client_seconds=client,
        server_seconds=server,
        security_bits=secure,
        correctness_bits=correct,
        assumptions=f"{colluding} of {clients} clients collude with the server, which "
        + ("may lie" if signed else "follows the protocol")
        + f", and may all be among the {least} that start the sum; {dropout:.3g} of them drop out",
    )


def measure_speed() -> Speed:
    """This machine's figures, the best of a few tries, in about a tenth of a second."""
    words = np.zeros(1 << 19, "<u4")
    key, peer = AgreementKey(bytes(range(32))), AgreementKey(bytes(range(1, 33)))
    signing = SigningKey(bytes(32))
    signature = signing.sign("measure")

    def best(action: Callable[[], object], repeats: int) -> float:
        spent = []
        for _ in range(repeats):
            start = time.perf_counter()
            action()
            spent.append(time.perf_counter() - start)
        return min(spent)

    return Speed(
        mask_byte=best(lambda: add_keystreams(words, [key.secret]), 8) / words.nbytes,
        agreement=best(lambda: key.agree(peer.public), 50),
        verification=best(lambda: signing.public.verify(signature, "measure"), 50),
    )


def _bytes(clients: int, degree: int, holders: int, signed: bool, vector: int) -> tuple[int, int]:
    """(up, down) of one client, by the table in messages.py."""
    signature = SIGNATURE_BYTES if signed else 0
    up = [
        KEYS_BYTES + _LENGTH + signature,
        HASH_BYTES + _LENGTH + BOX_BYTES * degree,
        TAG_BYTES + _LENGTH + vector,
        _bitmap(holders) + _LENGTH + SHARE_BYTES * holders,
    ]
    down = [
        _LENGTH + (4 + KEYS_BYTES + signature) * clients,
        _bitmap(clients) + _LENGTH + BOX_BYTES * degree,
        _bitmap(clients),
    ]
    if signed:
        up.append(SIGNATURE_BYTES)
        down.append(_bitmap(degree) + _LENGTH + SIGNATURE_BYTES * degree)
    return sum(up) + HEADER_BYTES * len(up), sum(down) + HEADER_BYTES * len(down)


def _bitmap(count: int) -> int:
    return _COUNT + -(-count // 8)
