"""The output that verbs share: consoles, the live line of a training, and tables of two columns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from privfl.dp import format_epsilon
from privfl.fl.faults import in_words
from privfl.fl.report import RoundReport


def output() -> Console:
    """The standard output; nothing in it is colored unless a verb asks for it."""
    return Console(highlight=False)


def follow(
    reports: Iterable[RoundReport], *, rounds: int, budget: float | None = None, done: int = 0, quiet: bool = False
) -> Iterator[RoundReport]:
    """Pass the reports on while a bar shows rounds, the latest metric, and epsilon spent of `budget`.

    The bar goes to the standard error, because the standard output may be piped. Where that is no terminal, each round
    is a line.

    Args:
        reports: The reports of rounds, as they come.
        rounds: The number of rounds of the run.
        budget: The epsilon that may be spent.
        done: The rounds that were finished before.
        quiet: Show nothing.
    """
    columns = (
        TextColumn("[bold]round {task.completed}/{task.total}[/]"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with live(*columns, quiet=quiet) as (progress, say):
        task = progress.add_task("rounds", total=rounds, completed=done, facts="asking the clients")
        for report in reports:
            progress.update(task, completed=report.round, facts=facts(report, budget))
            say(f"round {report.round}/{rounds}  {facts(report, budget)}")
            yield report


@contextlib.contextmanager
def live(*columns: ProgressColumn, quiet: bool) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Show progress on the standard error: a bar on a terminal, and elsewhere a line for each thing that is done.

    Args:
        columns: The columns of the bar.
        quiet: Show nothing.

    Yields:
        The bar, and a function that prints one line, at once, where there is no terminal.
    """
    console = Console(stderr=True, highlight=False)
    lines = not quiet and not console.is_terminal

    def say(line: str) -> None:
        if lines:
            console.print(line, soft_wrap=True)
            console.file.flush()

    with Progress(*columns, console=console, disable=quiet or lines) as progress:
        yield progress, say


def facts(report: RoundReport, budget: float | None) -> str:
    """Return the latest round in a phrase: accuracy or error, epsilon spent of the budget, and the number of dropouts.

    Args:
        report: The report of the round.
        budget: The epsilon that may be spent.
    """
    parts = [f"{name} {value:.4g}" for name, value in headline(report.evaluation).items()]
    if report.status == "skipped":
        parts.append(f"[yellow]skipped: {_why_skipped(report)}[/]")
    if report.epsilon is not None:
        share = f" of {budget:g}" if budget is not None else ""
        label = "epsilon" if report.secure else "epsilon if the noise were secure"
        parts.append(f"{label} {format_epsilon(report.epsilon, 2)}{share}")
    if report.dropouts:
        errors = f" ({in_words(report.client_errors)})" if report.client_errors else ""
        parts.append(f"[yellow]{len(report.dropouts)} dropped out{errors}[/]")
    if report.rejected_updates:
        parts.append(f"[yellow]{report.rejected_updates} rejected[/]")
    return "  ".join(parts)


def _why_skipped(report: RoundReport) -> str:
    if not report.cohort:
        return "nobody was sampled"
    return "no update counted" if report.survivors else "too few survived"


def headline(evaluation: Mapping[str, float]) -> dict[str, float]:
    """Return the main metric of an evaluation: accuracy, r2 or mse, else the first one."""
    for name in ("accuracy", "r2", "mse"):
        if name in evaluation:
            return {name: evaluation[name]}
    return dict(list(evaluation.items())[:1])


def facts_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values; the values may hold any text.

    Args:
        title: The title.
        rows: Names and values.
    """
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def print_plot(path: Path | None) -> None:
    """Print where a plot was written, if there is one."""
    if path is not None:
        output().print(f"plot: {path.resolve()}", markup=False, soft_wrap=True)
