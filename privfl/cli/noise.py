"""`privfl plan --noise`: the price of each way to add noise inside a masked sum."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from privfl.cli.options import plot_file, print_json
from privfl.cli.show import output
from privfl.errors import ConfigError
from privfl.files import byte_size
from privfl.secagg.noiseplan import NoisePlan, NoisePrice, plan_noise, variance_over_dropout
from privfl.secagg.plan import Speed, measure_speed
from privfl.secagg.terms import Mode

NoiseFlag = Annotated[
    bool, typer.Option("--noise", help="Plan the noise inside a masked sum; --dropout is each client's probability.")
]
SpareOption = Annotated[
    int | None,
    typer.Option(
        "--spare", min=0, help="Noise: most clients of one coalition, the observer's included.", show_default="1"
    ),
]
FailureOption = Annotated[
    float | None,
    typer.Option("--failure", help="Noise: probability that a sum does not open.", show_default="0.01"),
]
MembersOption = Annotated[
    int | None, typer.Option("--members", min=2, help="Noise: clients that add mesh noise. Chosen if absent.")
]
MinMembersOption = Annotated[
    int | None,
    typer.Option("--min-members", min=1, help="Noise: fewest members in a sum that opens. Follows from --failure."),
]

NoisePlot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", parser=plot_file, help="Noise: draw the variance over the dropout rate."),
]

_RATES: Final = 21
_NAMES: Final = {
    "mesh": "mesh",
    "shares": "shares",
    "groups": "groups",
    "add-then-remove": "XNoise*",
}


def check_no_noise_flags(
    *,
    spare: int | None,
    failure: float | None,
    members: int | None,
    min_members: int | None,
    plot: Path | None,
) -> None:
    """Raise `ConfigError` for a flag of noise where no noise is planned.

    Args:
        spare: The flag --spare.
        failure: The flag --failure.
        members: The flag --members.
        min_members: The flag --min-members.
        plot: The flag --plot.
    """
    given = {
        "--spare": spare,
        "--failure": failure,
        "--members": members,
        "--min-members": min_members,
        "--plot": plot,
    }
    found = [flag for flag, value in given.items() if value is not None]
    if found:
        raise ConfigError(f"{', '.join(found)} is about the noise inside a sum: add --noise, or leave it out")


def print_noise(
    clients: int,
    length: int,
    *,
    dropout: float,
    corrupt: float | None,
    semi_honest: bool,
    measure: bool,
    spare: int | None,
    failure: float | None,
    members: int | None,
    min_members: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Print the prices of all ways to add noise inside a masked sum.

    Args:
        clients: The clients of the sum.
        length: The entries of a vector.
        dropout: The probability that one client drops out before its vector is sent.
        corrupt: The fraction of clients that collude with a server that lies; None takes those of `spare` besides the
            observer.
        semi_honest: Whether the server is trusted to follow the protocol.
        measure: Whether the seconds are measured on this machine.
        spare: The most clients of one coalition; None is 1.
        failure: The probability that a sum does not open; None is 0.01.
        members: The members of mesh noise, or None.
        min_members: The fewest members in a sum that opens, or None.
        plot: The file of a plot over dropout rates from 0 to twice `dropout`, or None.
        as_json: Whether to print JSON.
    """
    plan = plan_noise(
        clients,
        dropout=dropout,
        spare=1 if spare is None else spare,
        max_failure=0.01 if failure is None else failure,
        length=length,
        mode="semi-honest" if semi_honest else "signed",
        corrupt=None if corrupt is None else math.floor(corrupt * clients + 1e-9),
        members=members,
        min_members_to_open=min_members,
        speed=measure_speed() if measure else Speed(),
    )
    drawn = None if plot is None else _draw(plan, "semi-honest" if semi_honest else "signed", plot)
    if as_json:
        print_json(asdict(plan) | ({} if drawn is None else {"plot": str(drawn)}))
        return
    output().print(_table(plan))
    output().print(_sentence(plan), style="dim")
    if drawn is not None:
        output().print(f"plot: {drawn}", soft_wrap=True)


def _draw(plan: NoisePlan, mode: Mode, path: Path) -> Path:
    """Draw the mean variance of each way; the minimum and the members are chosen again at every rate."""
    from privfl.report.noise import plot_noise

    top = 2 * plan.dropout if 0 < plan.dropout < 0.5 else 0.2
    rates = [top * part / (_RATES - 1) for part in range(_RATES)]
    curves = variance_over_dropout(plan.clients, plan.spare, rates, mode=mode, max_failure=plan.max_failure)
    caption = (
        f"{plan.clients} clients, {plan.spare} of one coalition, {mode}; at most {100 * plan.max_failure:g} % of the "
        "sums fail, except where the share threshold asks for more members"
    )
    return plot_noise(rates, curves, path, caption=caption)


def _table(plan: NoisePlan) -> Table:
    table = Table(
        title="Noise inside one masked sum; variance divided by that of central noise",
        caption="opens: the fewest members, or groups, in a sum. * add-then-remove: figures only, it is not built",
    )
    for heading in ("way", "all stay", "mean", "worst", "opens", "fails", "bytes", "client s", "server s"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for cost in plan.prices:
        table.add_row(_NAMES[cost.way], *_row(cost))
    return table


def _row(cost: NoisePrice) -> tuple[str, ...]:
    return (
        f"{cost.full_variance:.2f}",
        f"{cost.mean_variance:.2f}",
        f"{cost.max_variance:.2f}",
        f"{cost.min_members_to_open}" if cost.way == "groups" else f"{cost.min_members_to_open}/{cost.members}",
        f"{100 * cost.failure:.2g} %",
        byte_size(cost.bytes) if cost.bytes else "0",
        f"{cost.client_seconds:.2g}",
        f"{cost.server_seconds:.2g}" if cost.server_samples else "0",
    )


def _sentence(plan: NoisePlan) -> str:
    mesh, everybody = plan.mesh, plan.mesh.members == plan.clients
    threshold = f"; the share threshold may be {plan.min_threshold} or more, and at most {mesh.min_members_to_open}"
    return (
        f"{plan.clients} clients, each drops out with probability {plan.dropout:g}. A coalition holds up to "
        f"{plan.spare} of them, the observer's own place included"
        + ("" if everybody else ", and all of these may be members")
        + ". "
        f"Chosen for mesh noise: members = {mesh.members}, min_members_to_open = {mesh.min_members_to_open}"
        + (threshold if everybody else "")
        + "."
    )
