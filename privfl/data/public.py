"""Ranges of features that were published with a data set, before any run: scaling by them costs no privacy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from privfl.data.bundled import breast_cancer_description
from privfl.data.preprocess import Standardizer, public_standardize
from privfl.errors import ConfigError

_ROW: Final = re.compile(r"[a-z ]+ \((?:mean|standard error|worst)\):\s+([\d.]+)\s+([\d.]+)")
_CENTER: Final = 0.3  # measured quantities of biopsies are skewed: the typical value lies low in its range
_WIDTH: Final = 5.0  # a range is taken for five standard deviations


def public_standardizer(name: str) -> Standardizer:
    """The standardizer of data set `name`; raises `ConfigError` for a set without published ranges."""
    if name not in _TABLES:
        raise ConfigError(f"no ranges were published with {name!r}; public scaling is known for {', '.join(_TABLES)}")
    ranges = _TABLES[name]()
    mean = [low + _CENTER * (high - low) for low, high in ranges]
    return public_standardize(mean, [(high - low) / _WIDTH for low, high in ranges])


def _breast_cancer() -> list[tuple[float, float]]:
    """The table of least and greatest values in the description that comes with the data (Wolberg et al. 1995)."""
    rows = (_ROW.fullmatch(line.strip()) for line in breast_cancer_description().splitlines())
    found = [(float(row[1]), float(row[2])) for row in rows if row]
    if len(found) != 30:
        raise ConfigError(f"the description of breast_cancer lists {len(found)} ranges, 30 were expected")
    return found


_TABLES: Final[dict[str, Callable[[], list[tuple[float, float]]]]] = {"breast_cancer": _breast_cancer}
