"""Ranges of features that were published with a data set, before any run: scaling by them costs no privacy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from privfl.data.adult import EDUCATIONS
from privfl.data.adult import FEATURES as ADULT_FEATURES
from privfl.data.bundled import breast_cancer_description
from privfl.data.preprocess import Standardizer, public_standardize
from privfl.data.sets import Dataset
from privfl.errors import ConfigError

_ROW: Final = re.compile(r"[a-z ]+ \((?:mean|standard error|worst)\):\s+([\d.]+)\s+([\d.]+)")
_CENTER: Final = 0.3  # what is measured or earned is skewed: the typical value lies low in its range
_WIDTH: Final = 5.0  # a range is taken for five standard deviations


def public_standardizer(dataset: Dataset) -> Standardizer:
    """The standardizer of a data set by its public ranges; raises `ConfigError` for a set without them."""
    ranges = public_ranges(dataset, "public")
    mean, std = zip(*((0.0, 1.0) if each == (0.0, 1.0) else _typical(*each) for each in ranges), strict=True)
    return public_standardize(mean, std)


def public_ranges(dataset: Dataset, purpose: str) -> tuple[tuple[float, float], ...]:
    """The public (low, high) of each feature: published with the set, or stated by its schema.

    Args:
        dataset: The data set.
        purpose: The value of `data.standardize` that needs them; an error shows it.

    Raises:
        ConfigError: Some feature has no public range.
    """
    if dataset.ranges is not None:
        return dataset.ranges
    if dataset.own:
        raise ConfigError(
            f"data.standardize = {purpose!r} needs the public range of every number of {dataset.name}: set low and "
            "high in its schema, as in [columns.age] low = 0, high = 120"
        )
    if dataset.name not in _TABLES:
        raise ConfigError(
            f"data.standardize = {purpose!r} needs public ranges, and none were published with {dataset.name!r}: they "
            f"are known for {', '.join(_TABLES)}. Set data.standardize = 'none', or give a table with a schema"
        )
    return _TABLES[dataset.name]()


def _typical(low: float, high: float) -> tuple[float, float]:
    """The mean and standard deviation that a quantity of this range is taken to have."""
    return low + _CENTER * (high - low), (high - low) / _WIDTH


def _adult() -> tuple[tuple[float, float], ...]:
    """The survey's own codes (adult.names: who is in it, and 16 educations): ages of 17 to 90 and over, dollars in five
    digits, 1 to 99 hours a week. One-hot columns stay as they are.
    """
    ranges = ((17, 90), (1, len(EDUCATIONS)), (0, 99_999), (0, 99_999), (1, 99))
    return (*ranges, *((0.0, 1.0),) * (ADULT_FEATURES - len(ranges)))


def _breast_cancer() -> tuple[tuple[float, float], ...]:
    """The table of smallest and largest values in the description that comes with the data (Wolberg et al. 1995)."""
    rows = (_ROW.fullmatch(line.strip()) for line in breast_cancer_description().splitlines())
    found = tuple((float(row[1]), float(row[2])) for row in rows if row)
    if len(found) != 30:
        raise ConfigError(f"the description of breast_cancer lists {len(found)} ranges, 30 were expected")
    return found


_TABLES: Final[dict[str, Callable[[], tuple[tuple[float, float], ...]]]] = {
    "adult": _adult,
    "breast_cancer": _breast_cancer,
}
