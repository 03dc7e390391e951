"""The rule by which a run keeps the models of its rounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from privfl.errors import ConfigError

ALWAYS: Final = 2
"""The last models that every rule keeps: a run goes on from the last, and may have to settle the round before it."""

_FORM: Final = re.compile(r"all|(last|every):([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Keep:
    """Which rounds keep their model; the others keep their report and the hash of the model.

    Attributes:
        kind: "all"; "last" keeps the last `count` models; "every" keeps those of each `count`-th round, from round 0.
        count: At least 1; 1 for "all".
    """

    kind: Literal["all", "last", "every"] = "all"
    count: int = 1

    @classmethod
    def read(cls, rule: str) -> Keep:
        """The rule "all", "last:5" or "every:10"; raises `ConfigError` for another text."""
        match = _FORM.fullmatch(rule)
        if match is None:
            raise ConfigError(f"keep must be 'all', or such as 'last:5' or 'every:10', not {rule!r}")
        if match[1] is None:
            return cls()
        return cls("last" if match[1] == "last" else "every", int(match[2]))

    def holds(self, round: int, latest: int) -> bool:
        """True if the model of `round` is kept.

        Args:
            round: The round, from 0.
            latest: The latest round that is stored.
        """
        if round > latest - ALWAYS or self.kind == "all":
            return True
        return round > latest - self.count if self.kind == "last" else round % self.count == 0


KEEP_ALL: Final = Keep()
