"""`privfl plan`: what a secure sum will cost and promise, before anybody starts one."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output, size
from privfl.he import CkksPlan, plan_ckks
from privfl.ring import Ring
from privfl.secagg import Speed, SumPlan, measure_speed, plan_sum

EXAMPLE: Final = "Example: [bold]privfl plan --clients 1000 --dropout 0.1 --corrupt 0.05 --length 100000[/]"


class Sum(StrEnum):
    """The sums that are planned; a plain one has no parameters."""

    MASKED = "masked"
    CKKS = "ckks"


def plan(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients of one sum.")],
    length: Annotated[int, typer.Option("--length", min=1, help="Entries of a vector.")],
    sum_: Annotated[Sum, typer.Option("--sum", help="The secure sum.")] = Sum.MASKED,
    dropout: Annotated[float, typer.Option("--dropout", help="Share of clients that may fall silent.")] = 0.1,
    corrupt: Annotated[float, typer.Option("--corrupt", help="Share of clients in league with the server.")] = 0.05,
    bits: Annotated[int, typer.Option("--bits", help="Bits of the ring.")] = 32,
    degree: Annotated[
        int | None, typer.Option("--degree", min=0, help="Neighbors in a ring; 0: everybody. Chosen if absent.")
    ] = None,
    semi_honest: Annotated[
        bool, typer.Option("--semi-honest", help="Trust the server to follow the protocol: no signatures.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine for the seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Plan a masked or an encrypted sum: degree, threshold, messages, bytes, seconds, security."""
    if sum_ is Sum.CKKS:
        ckks = plan_ckks(length, clients, Ring(bits))
        _tell(_ckks_record(ckks), _ckks_rows(ckks), as_json=as_json)
        return
    masked = plan_sum(
        clients,
        length,
        bits=bits,
        corrupt=corrupt,
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
    chance = (
        "whenever the threshold is met" if math.isinf(plan.correctness_bits) else f"{plan.correctness_bits:.0f} bits"
    )
    return [
        ("protocol", plan.protocol),
        ("degree", f"{plan.degree} neighbors a client"),
        ("share threshold", str(plan.share_threshold)),
        ("dropouts survived", f"up to {plan.most_dropouts} of {plan.clients}"),
        ("messages", f"{plan.messages_up} up, {plan.messages_down} down"),
        (
            "bytes",
            f"{size(plan.bytes_up)} up ({plan.bytes_up / plan.length:.2f} a value), {size(plan.bytes_down)} down",
        ),
        ("seconds", f"{plan.client_seconds:.3g} a client, {plan.server_seconds:.3g} the server (estimates, one core)"),
        ("security", f"{plan.security_bits:.0f} bits"),
        ("correctness", chance),
        ("assuming", plan.assumptions),
    ]


def _ckks_record(plan: CkksPlan) -> dict[str, Any]:
    return asdict(plan) | {
        "protocol": "ckks-sum/1",
        "bytes_up": plan.bytes_up,
        "bytes_down": plan.bytes_down,
        "bytes_per_value": plan.bytes_per_value,
        "noise_stddev": plan.noise_stddev(),
        "margin": plan.margin,
    }


def _ckks_rows(plan: CkksPlan) -> list[tuple[str, str]]:
    return [
        ("protocol", "ckks-sum/1: symmetric CKKS, one prime, exact rounding on opening"),
        ("ring degree", f"{plan.degree}, {plan.chunks} ciphertexts a vector"),
        ("prime", f"{plan.prime_bits} bits, slot scale 2^{plan.scale_bits}"),
        ("bytes", f"{size(plan.bytes_up)} up ({plan.bytes_per_value:.2f} a value)"),
        ("opener", f"{size(plan.bytes_down)} down, {size(plan.bytes_opened)} up, once a sum"),
        ("noise", f"deviation {plan.noise_stddev():.2e} of a unit; half a unit is {plan.margin:.0f} deviations"),
        ("security", f"{plan.security} bits by the HomomorphicEncryption.org table, for whoever does not hold the key"),
    ]
