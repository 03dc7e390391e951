"""Writes docs/cli.md from the commands themselves: `python -m tools.cli_page`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

from privfl.cli.app import app

PAGE: Final = Path(__file__).parents[1] / "docs" / "cli.md"

_HEAD: Final = """# Command line

Every verb with its arguments and options. This page is generated: change the words in `privfl/cli`, then run
`make cli`. `--help` after a verb prints the same.

Verbs that print tables take `--json` and print one JSON object instead. The exit code is 0 after success, 2 after an
error that a setting or a file can mend, and 130 after an interruption. An error is one sentence with the next step;
`--debug` shows the traceback.
"""


def page() -> str:
    """The page as Markdown."""
    return _HEAD + "".join(_verbs(get_command(app), "privfl"))


def examples() -> list[str]:
    """The command lines that the verbs show as examples."""
    return [line for _, command in _walk(get_command(app), "privfl") for line in _examples(command)]


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for verb, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from _walk(child, f"{name} {verb}")
        else:
            yield f"{name} {verb}", child


def _verbs(group: Any, name: str) -> Iterator[str]:
    for title, command in _walk(group, name):
        lines = [f"\n## {title}", _plain(command.help or ""), ""]
        lines += [_entry(param) for param in command.params if "--help" not in param.opts and not _hidden(param)]
        lines += ["", *(f"    {line}" for line in _examples(command)), ""]
        yield "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _examples(command: Any) -> list[str]:
    return [_plain(line) for line in re.findall(r"\[bold\](.*?)\[/\]", command.epilog or "")]


def _entry(param: Any) -> str:
    option = param.param_type_name == "option"
    name = ", ".join((*param.opts, *param.secondary_opts)) if option else (param.metavar or param.name.upper())
    flag = option and getattr(param, "is_flag", False)
    kind = "" if flag or not option else f" {param.metavar or _kind(param)}"
    facts = _plain(getattr(param, "help", None) or "").rstrip(".")
    default = param.default
    if default not in (None, "", False, ()) and "default" not in facts and not callable(default):
        facts += f"; {getattr(default, 'value', default)} by default"
    return f"- `{name}{kind}`: {facts}."


def _kind(param: Any) -> str:
    name = str(param.type.name).upper()
    return {"INTEGER RANGE": "N", "INTEGER": "N", "FLOAT": "X", "FLOAT RANGE": "X"}.get(name, name.split()[0])


def _hidden(param: Any) -> bool:
    return bool(getattr(param, "hidden", False))


def _plain(text: str) -> str:
    return re.sub(r"\[/?(?:bold|dim)?\]", "", " ".join(text.split()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
