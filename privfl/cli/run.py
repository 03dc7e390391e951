"""`privfl run`: train what a TOML file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from privfl.cli.options import Json, Runs, Seed, parse_overrides, print_json
from privfl.cli.show import facts_table, follow, output
from privfl.errors import BudgetExceeded
from privfl.experiment import Experiment, load_config
from privfl.files import byte_size, user_path
from privfl.fl.classes import constant_warning

PRIVATE: Final = "not_for_publication"

EXAMPLE: Final = "Example: [bold]privfl run examples/digits.toml --set sum.scheme=masked --set rounds=5[/]"


def run(
    *,
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", parser=user_path, help="What to train; see examples/.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished round.")] = False,
    runs: Runs = Path("runs"),
    seed: Seed = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as sum.scheme=ckks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train what CONFIG.toml describes, and keep models, metrics and ledger in a folder of runs."""
    overrides = parse_overrides([*(set_ or []), *([] if seed is None else [f"seed={seed}"])])
    experiment = Experiment(load_config(config), runs=runs, overrides=overrides)
    done = max(experiment.store.rounds(), default=0) if resume else 0
    budget, rounds = experiment.config.privacy.epsilon, experiment.config.rounds
    reports = experiment.each_round(resume=resume)
    try:
        for _ in follow(reports, rounds=rounds, budget=budget, done=done, quiet=as_json):
            pass
    except BudgetExceeded:
        _tell(experiment, as_json=as_json)  # the rounds that were paid for stand
        raise
    _tell(experiment, as_json=as_json)


def _tell(experiment: Experiment, *, as_json: bool) -> None:
    if as_json:
        print_json(record(experiment))
    else:
        output().print(facts_table(f"run {experiment.config.name!r}", _rows(experiment)))


def record(experiment: Experiment) -> dict[str, Any]:
    """Return the record that `--json` prints. With an epsilon, all that depends on the cohorts is under `PRIVATE`."""
    reports, report = experiment.reports, experiment.epsilon()
    counts = {
        "dropouts": sum(len(r.dropouts) for r in reports),
        "bytes_up": sum(r.bytes_up for r in reports),
        "bytes_down": sum(r.bytes_down for r in reports),
        "seconds": sum(r.seconds for r in reports),
    }
    answers = experiment.files.answers(experiment.config)
    return {
        "name": experiment.config.name,
        "folder": str(experiment.folder),
        "rounds": len(reports),
        "skipped": sum(r.status == "skipped" for r in reports),
        "sum": experiment.scheme.name,
        "evaluation": dict(reports[-1].evaluation) if reports else {},
        "warning": constant_warning(reports[-1].evaluation) if reports else "",
        "model": reports[-1].model if reports else None,
        "selected_rounds": list(experiment.parts.selection.rounds(reports)) if reports else [],
        "privacy": None if report is None else report.as_dict(),
        "answers": answers.describe() if answers else None,
        **(counts if report is None else {PRIVATE: counts}),
    }


def _rows(experiment: Experiment) -> list[tuple[str, str]]:
    reports, report = experiment.reports, experiment.epsilon()
    rows = [("data", experiment.federation.dataset.name), ("sum", experiment.scheme.name)]
    rows.append(("clients", str(len(experiment.federation.clients))))
    if not reports:
        return [*rows, ("rounds", "none")]
    skipped = sum(r.status == "skipped" for r in reports)
    rows.append(("rounds", f"{len(reports)}" + (f", {skipped} of them skipped" if skipped else "")))
    rows += [(name, f"{value:.4f}") for name, value in reports[-1].evaluation.items()]
    rows += [("warning", text) for text in [constant_warning(reports[-1].evaluation)] if text]
    if report is not None:
        rows += [("privacy", str(report)), ("which means", report.sentence), ("assuming", "; ".join(report.caveats))]
    answers = experiment.files.answers(experiment.config)
    rows += [("noisy answers", answers.describe())] if answers else []
    rows.append(("dropouts", str(sum(len(r.dropouts) for r in reports))))
    up, down = sum(r.bytes_up for r in reports), sum(r.bytes_down for r in reports)
    rows.append(("bytes", f"{byte_size(up)} up, {byte_size(down)} down, all clients and rounds together"))
    rows.append(("seconds", f"{sum(r.seconds for r in reports):.1f}"))
    rows += [("caveat", text) for text in sorted({c for r in reports for c in r.caveats})]
    selected = experiment.parts.selection.rounds(reports)
    if selected != (reports[-1].round,):
        rows.append(("selected model", f"the mean of the models of rounds {selected[0]} to {selected[-1]}"))
    return [*rows, ("model", f"{reports[-1].model[:16]}... in {experiment.folder}")]
