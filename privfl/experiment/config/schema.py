"""The JSON Schema of a configuration, for editors, and the reference page that is generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from privfl.experiment.config import SECTIONS, Config
from privfl.experiment.config.checked import json_schema_of

_LIMITS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}

_OPENING: Final = """\
Every key of a TOML file, and of the sections of `privfl.experiment`. This page is generated: change the descriptions in
`privfl/experiment/config`, then write the output of `privfl config reference` here. `privfl config schema` prints
the same as JSON Schema, which editors use to complete and check a file."""


def config_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file, with a description of every key."""
    schema = json_schema_of(Config)
    for table in (schema, *schema["$defs"].values()):
        table["description"] = table.get("description", "").partition("\n")[0]
        table["properties"] = {name: _without_null(value) for name, value in table["properties"].items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "privfl"}


def reference_page() -> str:
    """The configuration reference as Markdown: every section and key, with type, limits, default and meaning."""
    schema = config_schema()
    tables = [("Top level", "", schema)]
    tables += [(f"[{name}]", name, schema["$defs"][of.__name__]) for name, of in SECTIONS.items()]
    lines = ["# Configuration reference", "", _OPENING]
    for title, name, table in tables:
        lines += ["", f"## {title}", "", table["description"] if name else "Keys before the first section.", ""]
        lines += [f"- `{key}` ({_facts(value)}). {value['description']}" for key, value in _keys(table).items()]
    return "\n".join(lines) + "\n"


def _keys(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table["properties"].items() if "$ref" not in value}


def _without_null(value: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: a key that may be absent is simply not required."""
    value = {key: item for key, item in value.items() if key != "title" and item is not None}
    for kind in value.pop("anyOf", ()):
        value |= {} if kind == {"type": "null"} else kind
    # pydantic leaves the limits of an optional number under names of its own.
    return {_LIMITS.get(key, key): item for key, item in value.items()}


def _facts(value: Mapping[str, Any]) -> str:
    if "enum" in value:
        facts = ["one of " + ", ".join(value["enum"])]
    else:
        facts = [{"string": "text", "boolean": "true or false", "array": "list"}.get(value["type"], value["type"])]
    # Some versions of pydantic make an integer of a bound that is whole, others do not.
    limits = {bound: value[bound] for bound in _BOUNDS if bound in value}
    facts += [_BOUNDS[bound].format(int(x) if x == int(x) else x) for bound, x in limits.items()]
    default = value.get("default")
    if default is not None:
        facts.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
    return "; ".join(facts)
