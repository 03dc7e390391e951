"""`privfl plan`: what a secure sum will cost and promise, before anybody starts one."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from privfl.cli.noise import (
    FailureOption,
    MembersOption,
    MinMembersOption,
    NoiseFlag,
    SpareOption,
    check_no_noise_flags,
    tell_noise,
)
from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output, size
from privfl.crypto import MemoryDirectory
from privfl.errors import ConfigError
from privfl.fl.range import NARROW_BITS
from privfl.he import CkksPlan, CkksSum, plan_ckks
from privfl.he.plan import MESSAGES_DOWN, MESSAGES_UP, quorum_of
from privfl.ring import Ring
from privfl.secagg import SumPlan, plan_sum
from privfl.secagg.plan import Speed, measure_speed

EXAMPLE: Final = (
    "Example: [bold]privfl plan --clients 1000 --dropout 0.1 --corrupt 0.05 --length 100000[/]\n\n"
    "Example: [bold]privfl plan --sum ckks --clients 100 --length 1000000 --bits 23[/]\n\n"
    "Example: [bold]privfl plan --noise --clients 5 --dropout 0.05 --spare 1 --length 10000[/]"
)


class Sum(StrEnum):
    """The sums that are planned; a plain one has no parameters."""

    MASKED = "masked"
    CKKS = "ckks"


def plan(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients of one sum.")],
    length: Annotated[int, typer.Option("--length", min=1, help="Entries of a vector.")],
    sum_: Annotated[Sum, typer.Option("--sum", help="The secure sum.")] = Sum.MASKED,
    dropout: Annotated[float, typer.Option("--dropout", help="Fraction of clients that may drop out.")] = 0.1,
    corrupt: Annotated[
        float | None,
        typer.Option(
            "--corrupt",
            help="Masked only: fraction of clients that collude with the server.",
            show_default="0.05",
        ),
    ] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="Bits of the ring.", show_default="32; ckks: 31")] = None,
    degree: Annotated[
        int | None,
        typer.Option("--degree", min=0, help="Masked only: neighbors in a ring; 0: everybody. Chosen if absent."),
    ] = None,
    semi_honest: Annotated[
        bool,
        typer.Option("--semi-honest", help="Masked only: trust the server to follow the protocol: no signatures."),
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Masked only: measure this machine for the seconds.")
    ] = False,
    noise: NoiseFlag = False,
    spare: SpareOption = None,
    failure: FailureOption = None,
    members: MembersOption = None,
    min_members: MinMembersOption = None,
    as_json: Json = False,
) -> None:
    """Plan a masked or an encrypted sum: threshold or quorum, messages, bytes, security; masked: seconds.

    With --noise, plan the noise inside a masked sum instead: what each way of adding it costs.
    """
    if noise:
        if sum_ is Sum.CKKS:
            raise ConfigError("--noise plans noise inside a masked sum, and --sum is ckks; leave --sum out")
        tell_noise(
            clients, length, dropout=dropout, corrupt=corrupt, semi_honest=semi_honest, measure=measure, spare=spare,
            failure=failure, members=members, min_members=min_members, as_json=as_json,
        )  # fmt: skip
        return
    check_no_noise_flags(spare=spare, failure=failure, members=members, min_members=min_members)
    if sum_ is Sum.CKKS:
        _refuse_masked_flags(degree, corrupt, semi_honest=semi_honest, measure=measure)
        ckks = plan_ckks(length, clients, Ring(NARROW_BITS if bits is None else bits))
        record = _ckks_record(ckks, _min_survivors(clients, dropout)) | {"dropout": dropout}
        _tell(record, _ckks_rows(ckks, record), as_json=as_json)
        return
    masked = plan_sum(
        clients,
        length,
        bits=32 if bits is None else bits,
        corrupt=0.05 if corrupt is None else corrupt,
        dropout=dropout,
        mode="semi-honest" if semi_honest else "signed",
        graph="auto" if degree is None else degree or "complete",
        speed=measure_speed() if measure else Speed(),
    )
    _tell(_masked_record(masked), _masked_rows(masked), as_json=as_json)


def _tell(record: dict[str, Any], rows: list[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        output().print(facts_table("Plan of one sum; bytes and messages are a client's", rows))


def _masked_record(plan: SumPlan) -> dict[str, Any]:
    record = asdict(plan)
    if math.isinf(plan.correctness_bits):
        record["correctness_bits"] = None  # nothing is left to chance
    return record


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
            f"{size(plan.bytes_up)} up ({plan.bytes_up / plan.length:.2f} a value), {size(plan.bytes_down)} down",
        ),
        ("seconds", f"{plan.client_seconds:.3g} a client, {plan.server_seconds:.3g} the server (estimates, one core)"),
        ("security", f"{math.floor(plan.security_bits)} bits"),
        ("correctness", chance),
        ("assuming", plan.assumptions),
    ]


def _refuse_masked_flags(degree: int | None, corrupt: float | None, *, semi_honest: bool, measure: bool) -> None:
    """Refuse the flags that say nothing about a CKKS sum."""
    if degree is not None:
        raise ConfigError(
            f"--degree {degree} is of a masked sum: every client of a CKKS sum shares one key; leave it out"
        )
    if corrupt is not None:
        raise ConfigError(
            f"--corrupt {corrupt:g} is of a masked sum: one client that colludes with the server reads every vector of "
            "a CKKS sum; leave it out, or plan a masked sum"
        )
    if semi_honest:
        raise ConfigError("--semi-honest is of a masked sum: messages of a CKKS sum are always signed; leave it out")
    if measure:
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


def _ckks_record(plan: CkksPlan, min_survivors: int) -> dict[str, Any]:
    return asdict(plan) | {
        "protocol": "ckks-sum/1",
        "quorum": quorum_of(plan.clients),
        "min_survivors": min_survivors,
        "max_dropouts": plan.clients - min_survivors,
        "messages_up": MESSAGES_UP,
        "messages_down": MESSAGES_DOWN,
        "bytes_up": plan.bytes_up,
        "bytes_down": plan.bytes_down,
        "bytes_per_value": plan.bytes_per_value,
        "noise_stddev": plan.noise_stddev(),
        "margin": plan.margin,
    }


def _ckks_rows(plan: CkksPlan, record: dict[str, Any]) -> list[tuple[str, str]]:
    assumptions = (
        "no client colludes with the server, because one that does opens every vector; "
        f"{record['dropout']:.3g} of the clients drop out"
    )
    return [
        ("protocol", "ckks-sum/1: symmetric CKKS, one prime, exact rounding on opening"),
        ("ring degree", f"{plan.degree}, {plan.chunks} ciphertexts a vector"),
        ("prime", f"{plan.prime_bits} bits, slot scale 2^{plan.scale_bits}, for sums of {plan.bits} bits"),
        ("quorum", f"{record['quorum']} of {plan.clients} clients sign the one list of survivors"),
        ("dropouts survived", f"up to {record['max_dropouts']} of {plan.clients}"),
        ("messages", f"{MESSAGES_UP} up, {MESSAGES_DOWN} down; one more each way for the dealer, and for the opener"),
        ("bytes", f"{size(plan.bytes_up)} up in the frame ({plan.bytes_per_value:.2f} a value)"),
        ("opener", f"{size(plan.bytes_down)} down, {size(plan.bytes_opened)} up, once a sum"),
        ("noise", f"standard deviation {plan.noise_stddev():.2e} of a unit; half a unit is {plan.margin:.0f} of them"),
        (
            "security",
            f"{plan.security} bits by the HomomorphicEncryption.org table, against every party without the key",
        ),
        ("assuming", assumptions),
    ]
