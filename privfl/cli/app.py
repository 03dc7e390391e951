"""The application: global options, the verbs, and what happens to errors."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, cast

import typer
from rich.console import Console
from rich.markup import escape

import privfl
from privfl.cli import (
    attack,
    audit,
    calibrate,
    compare,
    config,
    data,
    demo,
    doctor,
    epsilon,
    ledger,
    plan,
    report,
    runs,
    site,
    sweep,
)
from privfl.cli import run as run_verb
from privfl.cli.once import Once
from privfl.errors import (
    BudgetExceeded,
    ConfigError,
    PrivflError,
    StateError,
    TooFewSurvivors,
    UnsupportedRelease,
)

app = typer.Typer(
    name="privfl",
    help="Privacy-preserving federated learning with secure aggregation.",
    epilog="Start with: [bold]privfl demo[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo", cls=Once, epilog=demo.EXAMPLE)(demo.demo)
app.command("run", cls=Once, epilog=run_verb.EXAMPLE)(run_verb.run)
app.add_typer(runs.app, name="runs")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(ledger.app, name="ledger")
app.add_typer(site.app, name="site")
app.command("epsilon", cls=Once, epilog=epsilon.EXAMPLE)(epsilon.epsilon)
app.command("audit", cls=Once, epilog=audit.EXAMPLE)(audit.audit_verb)
app.command("attack", cls=Once, epilog=attack.EXAMPLE)(attack.attack_verb)
app.command("calibrate", cls=Once, epilog=calibrate.EXAMPLE)(calibrate.calibrate_verb)
app.command("plan", cls=Once, epilog=plan.EXAMPLE)(plan.plan)
app.command("compare", cls=Once, epilog=compare.EXAMPLE)(compare.compare)
app.command("sweep", cls=Once, epilog=sweep.EXAMPLE)(sweep.sweep)
app.command("table", cls=Once, epilog=sweep.TABLE_EXAMPLE)(sweep.table)
app.command("report", cls=Once, epilog=report.EXAMPLE)(report.report)
app.command("doctor", cls=Once, epilog=doctor.EXAMPLE)(doctor.doctor)

USAGE: Final = 2
INTERRUPTED: Final = 130
# Typer exports one of its usage errors; the base of that one is the class of all, in click or in typer's copy of it.
_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
TERMINATED: Final = 143


class Terminated(BaseException):
    """The process was asked to end (SIGTERM): what has to be closed is closed on the way out."""


def remedy_for(error: BaseException, verb: str) -> str:
    """Return the next step after an error, true for the verb that raised it; empty where there is none.

    Args:
        error: The error.
        verb: The words of the verb, such as "runs show".
    """
    trains = verb in ("run", "compare", "demo")
    another = {
        "run": "Start it again under another name: --set name=NAME.",
        "compare": "Write another comparison: --to FOLDER.",
    }
    remedies: tuple[tuple[type[BaseException], str], ...] = (
        (BudgetExceeded, "Raise privacy.epsilon, plan fewer rounds, or let `privfl calibrate` find the noise."),
        (TooFewSurvivors, "Lower cohort.min_survivor_fraction or cohort.dropout." if verb == "run" else ""),
        (StateError, another.get(verb, "`privfl run CONFIG.toml --set name=NAME` makes another run.")),
        (UnsupportedRelease, "`privfl epsilon --help` lists what can be judged."),
        (
            ConfigError,
            "`privfl run --help` and `privfl config reference` list what is allowed."
            if verb == "run"
            else f"`privfl {verb} --help` lists what is allowed.".replace("  ", " "),
        ),
        (OSError, "Check the path, its permissions and the space on the disk."),
    )
    if isinstance(error, StateError) and not trains and not verb.startswith(("runs", "report")):
        return ""
    return next((text for kind, text in remedies if isinstance(error, kind)), "")


def _verb(arguments: Sequence[str]) -> str:
    """Return the words of the verb that the arguments begin with."""
    groups = {group.name for group in app.registered_groups}
    words = [argument for argument in arguments if not argument.startswith("-")]
    return " ".join(words[: 2 if words and words[0] in groups else 1])


def _version(value: bool) -> None:
    if value:
        typer.echo(f"privfl {privfl.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages; anywhere.")] = False,
) -> None:
    """Options of every verb."""
    if debug:
        logging.basicConfig(level=logging.DEBUG)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with `arguments`, and return its exit code.

    An error prints one sentence and a remedy, and gives 2; with --debug (or PRIVFL_DEBUG set) it is raised instead.
    """
    debug = "--debug" in arguments or bool(os.environ.get("PRIVFL_DEBUG"))
    # --debug may stand anywhere: people add it at the end of the line that just failed.
    rest = [argument for argument in arguments if argument != "--debug"]
    command, verb = typer.main.get_command(app), _verb(rest)
    try:
        with _ended_by_signal():
            code = command.main((["--debug"] if debug else []) + rest, prog_name="privfl", standalone_mode=False)
    except _UsageError as error:
        message = error.format_message()
        if not message:  # no command was given, and typer has printed the help
            return USAGE
        where = error.ctx.command_path if error.ctx else "privfl"
        return fail(message, f"`{where} --help` shows what is allowed.")
    except typer.Abort:
        code = INTERRUPTED
    except Terminated:
        code = TERMINATED
    except (PrivflError, OSError) as error:
        if debug:
            raise
        return fail(str(error), remedy_for(error, verb))
    if code in (INTERRUPTED, TERMINATED):  # typer turns Ctrl-C into the first
        word = "interrupted" if code == INTERRUPTED else "terminated"
        kept = {"run": "rounds", "compare": "arms", "sweep": "runs"}.get(verb)
        again = "The same command" if verb == "sweep" else f"`privfl {verb} ... --resume`"
        if kept is None:
            fail(word)
        else:
            fail(f"{word}; {kept} that were finished are kept", f"{again} goes on after them.")
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` while the block runs, so workers and locks are closed; in a main thread only."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fail(message: str, remedy: str = "") -> int:
    """Print one sentence and a remedy to the standard error, and return the exit code.

    Args:
        message: The sentence.
        remedy: The next step; empty where there is none.
    """
    sentence = message if message.endswith((".", "?", "!")) else message + "."
    text = f"[bold red]privfl:[/] {escape(sentence)} {escape(remedy)}".rstrip()
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return USAGE
