"""A proposed schema as TOML text, with a remark next to each column that needs a look."""

from __future__ import annotations

from privfl.data.inspect import Proposal
from privfl.experiment.config import toml_text

_HEAD = """\
# The schema of {name}, proposed from {examples} examples. Correct it: in a run with noise it counts as public.
# kind is number, category or ignore. missing is refuse, mean or a number (numbers), zeros or own (categories).
# low and high state the public range of a number; data.standardize = "public" needs them.
"""


def schema_text(proposal: Proposal, name: str) -> str:
    """The TOML file of a proposal.

    Args:
        proposal: The proposal.
        name: The name of the table, for the first line.
    """
    values = proposal.schema.to_mapping()
    columns = values.pop("columns")
    parts = [_HEAD.format(name=name, examples=proposal.examples) + toml_text(values)]
    for column, settings in columns.items():
        note = proposal.notes.get(column)
        remark = f"# {note}\n" if note else ""
        parts.append(remark + toml_text({"columns": {column: settings}}))
    return "\n".join(parts)
