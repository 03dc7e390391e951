"""`privfl plan`: what a secure sum will cost and promise, before anybody starts one."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from privfl.cli.noise import (
    FailureOption,
    MembersOption,
    MinMembersOption,
    NoiseFlag,
    NoisePlot,
    SpareOption,
    check_no_noise_flags,
    print_noise,
)
from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output
from privfl.errors import ConfigError

EXAMPLE: Final = (
    "Example: [bold]privfl plan --clients 1000 --dropout 0.1 --corrupt 0.05 --length 100000[/]\n\n"
    "Example: [bold]privfl plan --sum ckks --clients 100 --length 1000000 --bits 23[/]\n\n"
    "Example: [bold]privfl plan --noise --clients 5 --dropout 0.05 --spare 1 --length 10000[/]"
)


def plan(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients of one sum.")],
    length: Annotated[int, typer.Option("--length", min=1, help="Entries of a vector.")],
    sum_: Annotated[
        str | None, typer.Option("--sum", metavar="NAME", help="The secure sum; a masked one if absent.")
    ] = None,
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
    plot: NoisePlot = None,
    as_json: Json = False,
) -> None:
    """Plan a masked or an encrypted sum: threshold or quorum, messages, bytes, security; masked: seconds.

    With --noise, plan the noise inside a masked sum instead: what each way of adding it costs.
    """
    from privfl.experiment.costs import CostQuestion
    from privfl.experiment.schemes import SCHEMES, describe

    name = next(name for name, each in SCHEMES.items() if each.costs is not None) if sum_ is None else sum_
    scheme = describe(name)
    if noise:
        if not scheme.mesh_noise:
            raise ConfigError(f"--noise plans noise inside a masked sum, and --sum is {name}; leave --sum out")
        print_noise(
            clients, length, dropout=dropout, corrupt=corrupt, semi_honest=semi_honest, measure=measure, spare=spare,
            failure=failure, members=members, min_members=min_members, plot=plot, as_json=as_json,
        )  # fmt: skip
        return
    check_no_noise_flags(spare=spare, failure=failure, members=members, min_members=min_members, plot=plot)
    if scheme.costs is None:
        known = ", ".join(name for name, each in SCHEMES.items() if each.costs is not None)
        raise ConfigError(f"a {name} sum has no parameters to plan; name one of: {known}")
    costs = scheme.costs(
        CostQuestion(
            clients=clients, length=length, dropout=dropout, bits=bits, corrupt=corrupt, degree=degree,
            semi_honest=semi_honest, measure=measure,
        )
    )  # fmt: skip
    if as_json:
        print_json(dict(costs.record))
    else:
        output().print(facts_table("Plan of one sum; bytes and messages are a client's", list(costs.rows)))
