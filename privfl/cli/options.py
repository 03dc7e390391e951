"""Options that several verbs share, and how overrides are read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from privfl.errors import ConfigError
from privfl.files import user_path
from privfl.report.canvas import plot_path

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of data split, training and dropouts; never of secure noise.")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", parser=user_path, help="The folder of runs.")]
Delta = Annotated[float, typer.Option("--delta", help="Probability with which the promise may fail, below 1/clients.")]


def plot_file(text: str) -> Path:
    """The file of `--plot`, which ends in .png, .pdf or .svg and whose folder exists."""
    try:
        return plot_path(text)
    except ConfigError as error:  # which typer would replace by the text alone
        raise typer.BadParameter(str(error)) from error


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`["rounds=5", "sum.scheme=masked"]` -> `{"rounds": 5, "sum.scheme": "masked"}`.

    A value is read as TOML, and as text where it is none; an empty one restores the default. Raises `ConfigError` for
    what is not KEY=VALUE, and for a key that is given twice.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, such as sum.scheme=masked, not {pair!r}")
        if key.strip() in overrides:
            raise ConfigError(f"{key.strip()} is given twice on the command line: give it once")
        overrides[key.strip()] = _value(value.strip()) if value.strip() else None
    return overrides


def parse_values(pairs: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """`["privacy.epsilon=1,8"]` -> `{"privacy.epsilon": (1, 8)}`; raises `ConfigError` as `parse_overrides` does."""
    values: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise ConfigError(f"--over takes KEY=V1,V2, such as sum.scheme=plain,masked, not {pair!r}")
        if key.strip() in values:
            raise ConfigError(f"{key.strip()} is given twice on the command line: give it once")
        values[key.strip()] = tuple(_value(part.strip()) for part in text.split(","))
    return values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def print_json(value: Any) -> None:
    """One JSON object on the standard output; infinities are not JSON, and refused."""
    typer.echo(json.dumps(value, allow_nan=False))
