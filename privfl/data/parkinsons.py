"""UCI Parkinsons Telemonitoring: a regression over 42 patients' voices."""

from __future__ import annotations

import os
from typing import Final, Literal, get_args

import numpy as np

from privfl.data.folder import number, table, text
from privfl.data.sets import Dataset, Grouping
from privfl.errors import ConfigError, DataError

_FILE: Final = "parkinsons_updrs.data"
_COLUMNS: Final = 22
Target = Literal["total_UPDRS", "motor_UPDRS"]


def parkinsons(
    folder: str | os.PathLike[str] | None = None, *, target: Target = "total_UPDRS", verify: bool = True
) -> Dataset:
    """Return 5,875 recordings of 42 patients: 19 features in their own units, the clinician's UPDRS score as target.

    Tsanas, Little (2009). Features: age, sex, test_time and 16 voice measures; neither score is a feature.

    Args:
        folder: The folder of data sets; the environment variable `PRIVFL_DATA` by default.
        target: The score to predict.
        verify: Compare the file's checksum; False takes other editions, at the caller's own risk.

    Raises:
        DataError: The file is absent, altered or malformed.
    """
    if target not in get_args(Target):
        raise ConfigError(f"target must be one of {', '.join(get_args(Target))}, not {target!r}")
    lines = table("parkinsons", _FILE, text("parkinsons", _FILE, folder, verify=verify), _COLUMNS)
    header, body = lines[0], lines[1:]
    expected = ["subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS"]
    if header[: len(expected)] != expected or not body:
        raise DataError(f"parkinsons/{_FILE}: the first line is not the header, or no line follows")
    values = np.array(
        [[number("parkinsons", _FILE, value, place=f"column {at}") for at, value in enumerate(line)] for line in body]
    )
    subjects, codes = np.unique(values[:, 0], return_inverse=True)
    kept = [column for column in range(1, _COLUMNS) if column not in (4, 5)]
    return Dataset(
        name="parkinsons",
        task="regression",
        features=values[:, kept].astype(np.float32),
        targets=values[:, header.index(target)].astype(np.float32),
        feature_names=tuple(header[column] for column in kept),
        groupings=(Grouping("patient", codes, tuple(f"patient {int(subject)}" for subject in subjects)),),
    )
