"""UCI Adult (census income)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from privfl.data.folder import number, table, text
from privfl.data.sets import Dataset, Grouping, Indices
from privfl.errors import DataError

MISSING: Final = "?"
_NUMERIC: Final = ((0, "age"), (4, "education-num"), (10, "capital-gain"), (11, "capital-loss"), (12, "hours-per-week"))

# The values that the set's own description (adult.names) allows: public, so no vocabulary is learned from examples.
WORKCLASSES: Final = (
    "Private", "Self-emp-not-inc", "Self-emp-inc", "Federal-gov", "Local-gov", "State-gov", "Without-pay",
    "Never-worked",
)  # fmt: skip
EDUCATIONS: Final = (
    "Preschool", "1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th", "HS-grad", "Some-college",
    "Assoc-voc", "Assoc-acdm", "Bachelors", "Masters", "Prof-school", "Doctorate",
)  # fmt: skip
_MARITAL: Final = (
    "Married-civ-spouse", "Divorced", "Never-married", "Separated", "Widowed", "Married-spouse-absent",
    "Married-AF-spouse",
)  # fmt: skip
_OCCUPATIONS: Final = (
    "Tech-support", "Craft-repair", "Other-service", "Sales", "Exec-managerial", "Prof-specialty",
    "Handlers-cleaners", "Machine-op-inspct", "Adm-clerical", "Farming-fishing", "Transport-moving",
    "Priv-house-serv", "Protective-serv", "Armed-Forces",
)  # fmt: skip
_RELATIONSHIPS: Final = ("Wife", "Own-child", "Husband", "Not-in-family", "Other-relative", "Unmarried")
_RACES: Final = ("White", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other", "Black")
_SEXES: Final = ("Female", "Male")
COUNTRIES: Final = (
    "United-States", "Cambodia", "England", "Puerto-Rico", "Canada", "Germany", "Outlying-US(Guam-USVI-etc)", "India",
    "Japan", "Greece", "South", "China", "Cuba", "Iran", "Honduras", "Philippines", "Italy", "Poland", "Jamaica",
    "Vietnam", "Mexico", "Portugal", "Ireland", "France", "Dominican-Republic", "Laos", "Ecuador", "Taiwan", "Haiti",
    "Columbia", "Hungary", "Guatemala", "Nicaragua", "Scotland", "Thailand", "Yugoslavia", "El-Salvador",
    "Trinadad&Tobago", "Peru", "Hong", "Holand-Netherlands",
)  # fmt: skip
_ONE_HOT: Final = (
    (1, "workclass", WORKCLASSES),
    (5, "marital-status", _MARITAL),
    (6, "occupation", _OCCUPATIONS),
    (7, "relationship", _RELATIONSHIPS),
    (8, "race", _RACES),
    (9, "sex", _SEXES),
    (13, "native-country", COUNTRIES),
)
FEATURES: Final = len(_NUMERIC) + sum(len(allowed) for _, _, allowed in _ONE_HOT)
_GROUPINGS: Final = (
    (3, "education", EDUCATIONS),
    (1, "workclass", (*WORKCLASSES, MISSING)),
    (13, "native-country", (*COUNTRIES, MISSING)),
)


def adult(folder: str | os.PathLike[str] | None = None, *, verify: bool = True) -> Dataset:
    """Return 32,561 training and 16,281 test examples, 88 features, income above 50K = 1; `test` is adult.test.

    The features are five numbers in their own units and the one-hot of seven columns over the values that adult.names
    allows; a missing value (`?`) has no category set. Two columns are left out: fnlwgt, a survey weight, and education,
    of which education-num is the rank. Natural clients: education (16), workclass, native-country.

    Args:
        folder: The folder of data sets; the environment variable `PRIVFL_DATA` by default.
        verify: Compare the files' checksums; False takes other editions, at the caller's own risk.

    Raises:
        DataError: A file is absent, altered or malformed.
    """
    train = table("adult", "adult.data", text("adult", "adult.data", folder, verify=verify), 15)
    content = text("adult", "adult.test", folder, verify=verify)
    if content.startswith("|"):  # a first line that is a remark
        content = content.partition("\n")[2]
    test = table("adult", "adult.test", content, 15)
    columns = list(zip(*train, *test, strict=True))
    parts = [
        np.array(
            [number("adult", name, value, place=f"column {column}") for value in columns[column]], np.float32
        ).reshape(-1, 1)
        for column, name in _NUMERIC
    ]
    names = [name for _, name in _NUMERIC]
    for column, name, allowed in _ONE_HOT:
        codes = _codes(columns[column], (*allowed, MISSING), name)
        parts.append(np.eye(len(allowed) + 1, len(allowed), dtype=np.float32)[codes])  # the row of "?" is zero
        names += [f"{name}={value}" for value in allowed]
    targets = _codes([value.removesuffix(".") for value in columns[14]], ("<=50K", ">50K"), "income")
    return Dataset(
        name="adult",
        task="binary",
        features=np.concatenate(parts, axis=1),
        targets=targets,
        feature_names=tuple(names),
        classes=("<=50K", ">50K"),
        test=np.arange(len(train), len(train) + len(test)),
        groupings=tuple(
            Grouping(name, _codes(columns[column], allowed, name), allowed) for column, name, allowed in _GROUPINGS
        ),
    )


def _codes(values: Sequence[str], allowed: tuple[str, ...], name: str) -> Indices:
    positions = {value: code for code, value in enumerate(allowed)}
    try:
        return np.array([positions[value] for value in values], np.int64)
    except KeyError:
        raise DataError(f"adult: a value of {name} is not one of those allowed, {', '.join(allowed)}") from None
