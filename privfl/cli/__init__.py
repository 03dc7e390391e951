"""The command line: one thin file a verb, over `privfl.experiment`, `privfl.dp` and the planners."""

from __future__ import annotations


def main() -> None:
    """The entry point of the `privfl` command."""
    import sys

    from privfl.cli.app import run

    sys.exit(run(sys.argv[1:]))
