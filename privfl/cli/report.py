"""`privfl report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.options import Json, Runs, print_json
from privfl.cli.show import output
from privfl.experiment.folder import find_run
from privfl.files import user_path

EXAMPLE: Final = "Example: [bold]privfl report breast_cancer --to report.html[/]"


def report(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or its folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="HTML", parser=user_path, help="Where the page goes.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Leave out what an outsider must not see for its epsilon to hold.")
    ] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page: results, privacy card, who saw what, lineage, how to reproduce it."""
    from privfl.report.page import write_report
    from privfl.report.run import read_run

    files = find_run(runs, name)
    path = write_report(read_run(files), to or files.path / "report.html", public=public)
    if as_json:
        print_json({"report": str(path), "public": public})
    else:
        output().print(f"report: {path.resolve()}", markup=False, soft_wrap=True)
