"""The costs and the guarantees of a masked sum, computed before it starts: the figures of `privfl plan`."""

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
"""The bits of security of X25519, and so of everything keyed by it."""

_COUNT: Final = 4
_RECEIVER: Final = 4
_LENGTH: Final = 8  # of a blob


@dataclass(frozen=True, slots=True)
class Speed:
    """The seconds that one core takes for each operation. The defaults are those of a cloud core of 2020.

    Attributes:
        mask_byte: Seconds to expand and add one byte of mask.
        agreement: Seconds for one key agreement with its key derivation.
        verification: Seconds to verify one signature.
        multiplication: Seconds for one multiplication in the sharing's field.
        noise_value: Seconds to sample one value of noise.
    """

    mask_byte: float = 0.5e-9
    agreement: float = 60e-6
    verification: float = 120e-6
    multiplication: float = 0.25e-6
    noise_value: float = 0.1e-6


@dataclass(frozen=True, slots=True)
class SumPlan:
    """The estimated costs and the guarantees of one sum in which no client drops out.

    Attributes:
        protocol: The protocol, its mode and its graph, in words.
        clients: The number of clients.
        length: The number of values of a vector.
        bits: The bits of the ring.
        degree: The neighbors of each client.
        share_threshold: The shares that open a secret.
        min_roster: The fewest advertisements that start the sum.
        max_dropouts: The most dropouts with which a complete graph still opens; on a ring, the dropouts planned for.
        messages_up: Messages that one client sends.
        messages_down: Messages that one client receives.
        bytes_up: Exact bytes that one client sends, headers included.
        bytes_down: Exact bytes that one client receives, headers included.
        client_seconds: Seconds of one core at one client.
        server_seconds: Seconds of one core at the server, where the clients planned to drop out do.
        security_bits: The smaller of 128 and the ring's bits at the roster where they are fewest.
        correctness_bits: Infinite in a complete graph, where the threshold alone decides.
        assumptions: The assumptions of the plan, in words.
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

    @property
    def bytes_per_value(self) -> float:
        """`bytes_up` divided by the number of values of the vector."""
        return self.bytes_up / self.length


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
    """The plan of one masked sum. Arguments that `MaskedSum` has too mean the same here.

    Args:
        clients: The number of clients, 1 to 10^8.
        length: The number of values of a vector, at least 1.
        bits: The bits of the ring, 8 to 64; 32 by default.
        corrupt: The fraction of corrupt clients.
        dropout: The fraction of clients that drop out.
        mode: "signed" or "semi-honest".
        graph: "complete", an even degree, or "auto".
        packed: True sends exactly `bits` bits a value; False, the default, sends whole words.
        share_threshold: The shares that open a secret, or None.
        security_bits: The bits of security that a ring must reach.
        correctness_bits: The bits of correctness that a ring must reach.
        speed: The seconds of each operation on one core.

    Raises:
        ConfigError: The settings cannot be met; the error gives the reason.
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
    """Measure the seconds of each operation on this machine: the best of a few tries, in about a tenth of a second."""
    from privfl.dp.noise.skellam import skellam  # only here: importing privfl.secagg stays light

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
        noise_value=best(lambda: skellam(2.0**30, 1 << 15), 3) / (1 << 15),
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
        _RECEIVER + _bitmap(clients) + _LENGTH + BOX_BYTES * degree,
        _bitmap(clients),
    ]
    if signed:
        up.append(SIGNATURE_BYTES)
        down.append(_RECEIVER + _bitmap(degree) + _LENGTH + SIGNATURE_BYTES * degree)
    return sum(up) + HEADER_BYTES * len(up), sum(down) + HEADER_BYTES * len(down)


def _bitmap(count: int) -> int:
    return _COUNT + -(-count // 8)
