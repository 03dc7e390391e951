"""The costs of one sum before it starts: what each sum's description states, and `privfl plan` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from privfl.crypto import MemoryDirectory
from privfl.errors import ConfigError
from privfl.files import byte_size
from privfl.fl.range import NARROW_BITS
from privfl.he import CkksPlan, CkksSum, plan_ckks
from privfl.he.messages import NAME as CKKS
from privfl.he.plan import MESSAGES_DOWN, MESSAGES_UP, quorum_of
from privfl.ring import Ring
from privfl.secagg import SumPlan, plan_sum
from privfl.secagg.plan import Speed, measure_speed

_WORD_BITS: Final = 32
_CORRUPT: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CostQuestion:
    """A question about one sum; None stands for the sum's own default.

    Attributes:
        clients: The number of clients.
        length: The entries of a vector.
        dropout: The fraction of clients that may drop out, in [0, 1).
        bits: The bits of the ring.
        corrupt: The fraction of clients that collude with the server.
        degree: The neighbors of a client in a ring; 0 for everybody.
        semi_honest: Whether the server is trusted to follow the protocol.
        measure: Whether this machine is measured for the seconds.
    """

    clients: int
    length: int
    dropout: float
    bits: int | None = None
    corrupt: float | None = None
    degree: int | None = None
    semi_honest: bool = False
    measure: bool = False


@dataclass(frozen=True, slots=True)
class SumCosts:
    """The answer: for programs and for people.

    Attributes:
        record: A JSON object.
        rows: Pairs of a label and its text.
    """

    record: Mapping[str, Any]
    rows: tuple[tuple[str, str], ...]


def masked_costs(question: CostQuestion) -> SumCosts:
    """The costs of a masked sum; raises `ConfigError` where the question cannot be met."""
    degree = question.degree
    plan = plan_sum(
        question.clients,
        question.length,
        bits=_WORD_BITS if question.bits is None else question.bits,
        corrupt=_CORRUPT if question.corrupt is None else question.corrupt,
        dropout=question.dropout,
        mode="semi-honest" if question.semi_honest else "signed",
        graph="auto" if degree is None else degree or "complete",
        speed=measure_speed() if question.measure else Speed(),
    )
    record = asdict(plan)
    if math.isinf(plan.correctness_bits):
        record["correctness_bits"] = None  # nothing is left to chance
    return SumCosts(record, tuple(_masked_rows(plan)))


def ckks_costs(question: CostQuestion) -> SumCosts:
    """The costs of a CKKS sum; raises `ConfigError` where the question cannot be met, or is about a masked sum."""
    _refuse_masked_flags(question)
    plan = plan_ckks(question.length, question.clients, Ring(NARROW_BITS if question.bits is None else question.bits))
    needed = _min_survivors(question.clients, question.dropout)
    record = asdict(plan) | {
        "protocol": CKKS,
        "quorum": quorum_of(plan.clients),
        "min_survivors": needed,
        "max_dropouts": plan.clients - needed,
        "messages_up": MESSAGES_UP,
        "messages_down": MESSAGES_DOWN,
        "bytes_up": plan.bytes_up,
        "bytes_down": plan.bytes_down,
        "bytes_per_value": plan.bytes_per_value,
        "error_stddev": plan.error_stddev(),
        "margin": plan.margin,
        "dropout": question.dropout,
    }
    return SumCosts(record, tuple(_ckks_rows(plan, record)))


def _masked_rows(plan: SumPlan) -> list[tuple[str, str]]:
    bits = plan.correctness_bits
    chance = "whenever the threshold is met" if math.isinf(bits) else f"{math.floor(bits)} bits"
    return [
        ("protocol", plan.protocol),
        ("degree", f"{plan.degree} neighbors a client"),
        ("share threshold", str(plan.share_threshold)),
        ("smallest roster", f"{plan.min_roster} of {plan.clients} clients"),
        ("dropouts survived", f"up to {plan.max_dropouts} of {plan.clients}"),
        ("messages", f"{plan.messages_up} up, {plan.messages_down} down"),
        (
            "bytes",
            f"{byte_size(plan.bytes_up)} up ({plan.bytes_per_value:.2f} a value), {byte_size(plan.bytes_down)} down",
        ),
        ("seconds", f"{plan.client_seconds:.3g} a client, {plan.server_seconds:.3g} the server (estimates, one core)"),
        ("security", f"{math.floor(plan.security_bits)} bits"),
        ("correctness", chance),
        ("assuming", plan.assumptions),
    ]


def _refuse_masked_flags(question: CostQuestion) -> None:
    """Refuse the flags that say nothing about a CKKS sum."""
    if question.degree is not None:
        raise ConfigError(
            f"--degree {question.degree} is of a masked sum: every client of a CKKS sum shares one key; leave it out"
        )
    if question.corrupt is not None:
        raise ConfigError(
            f"--corrupt {question.corrupt:g} is of a masked sum: one client that colludes with the server reads every "
            "vector of a CKKS sum; leave it out, or plan a masked sum"
        )
    if question.semi_honest:
        raise ConfigError("--semi-honest is of a masked sum: messages of a CKKS sum are always signed; leave it out")
    if question.measure:
        raise ConfigError(
            "--measure is of a masked sum: seconds of a CKKS sum are measured by `pytest benchmarks/ckks`; leave it out"
        )


def _min_survivors(clients: int, dropout: float) -> int:
    """The fewest clients that open the sum; refuses more dropouts than that allows, and a fraction outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is a fraction in [0, 1), not {dropout!r}")
    needed = CkksSum(MemoryDirectory({})).min_survivors_of(clients, 1)
    dropouts = math.floor(dropout * clients + 1e-9)
    if clients - dropouts < needed:
        raise ConfigError(
            f"dropout {dropout:g} plans for {dropouts} of {clients} clients dropping out, and a sum that needs "
            f"{needed} vectors allows {clients - needed}: nothing would be opened; plan for fewer"
        )
    return needed


def _ckks_rows(plan: CkksPlan, record: dict[str, Any]) -> list[tuple[str, str]]:
    assumptions = (
        "no client colludes with the server, because one that does opens every vector; "
        f"{record['dropout']:.3g} of the clients drop out"
    )
    return [
        ("protocol", f"{CKKS}: symmetric CKKS, one prime, exact rounding on opening"),
        ("ring degree", f"{plan.degree}, {plan.chunks} ciphertexts a vector"),
        ("prime", f"{plan.prime_bits} bits, slot scale 2^{plan.scale_bits}, for sums of {plan.bits} bits"),
        ("quorum", f"{record['quorum']} of {plan.clients} clients sign the one list of survivors"),
        ("dropouts survived", f"up to {record['max_dropouts']} of {plan.clients}"),
        ("messages", f"{MESSAGES_UP} up, {MESSAGES_DOWN} down; one more each way for the dealer, and for the opener"),
        ("bytes", f"{byte_size(plan.bytes_up)} up in the frame ({plan.bytes_per_value:.2f} a value)"),
        ("opener", f"{byte_size(plan.bytes_down)} down, {byte_size(plan.bytes_opened)} up, once a sum"),
        (
            "encryption error",
            f"standard deviation {plan.error_stddev():.2e} of a unit; half a unit is {plan.margin:.0f} of them",
        ),
        (
            "security",
            f"{plan.security} bits by the HomomorphicEncryption.org table, against every party without the key",
        ),
        ("assuming", assumptions),
    ]
