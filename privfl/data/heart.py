"""UCI Heart Disease in four hospitals, after the rule of FLamby's Fed-Heart-Disease."""

from __future__ import annotations

import math
import os
from typing import Final

import numpy as np

from privfl.data.folder import number, table, text
from privfl.data.sets import Dataset, Grouping, Indices
from privfl.errors import DataError

HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
FEATURES: Final = (
    "age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak",
    "cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2",
)  # fmt: skip
_NUMERIC: Final = (0, 1, 3, 4, 5, 7, 8, 9)
_ONE_HOT: Final = ((2, (1.0, 2.0, 3.0, 4.0)), (6, (0.0, 1.0, 2.0)))  # cp and restecg, the first category dropped
_KEPT: Final = (*range(10), 13)  # slope, ca and thal are missing in most rows outside cleveland
_COLUMNS: Final = 14
_SEED: Final = 43
_TRAIN: Final = 0.66


def heart(folder: str | os.PathLike[str] | None = None, *, verify: bool = True) -> Dataset:
    """Return 740 patients of four hospitals, 13 features in their own units, disease = 1.

    This is FLamby's rule (Ogier du Terrail et al. 2022, appendix on Fed-Heart-Disease; `fed_heart_disease/dataset.py`).
    It drops slope, ca and thal, then every patient with a missing value: 303, 261, 46 and 130 patients stay. It one-hot
    encodes cp and restecg without their first category, giving 13 columns, and does not scale. Each hospital is split
    66:34 by scikit-learn's stratified split with seed 43, or its plain one where a class has at most two patients:
    199/104, 172/89, 30/16, 85/45. Switzerland trains on one class only. FLamby then scales each hospital by its own
    training examples: `privfl.data.local_standardize`.

    Args:
        folder: The folder of data sets; the environment variable `PRIVFL_DATA` by default.
        verify: Compare the files' checksums; False takes other editions, at the caller's own risk.

    Raises:
        DataError: A file is absent, altered or malformed.
    """
    features: list[list[float]] = []
    labels: list[int] = []
    codes: list[int] = []
    test: list[Indices] = []
    for code, hospital in enumerate(HOSPITALS):
        start = len(labels)
        file = f"processed.{hospital}.data"
        for values in table("heart", file, text("heart", file, folder, verify=verify), _COLUMNS):
            if any(values[column] == "?" for column in _KEPT):
                continue
            row = [
                number("heart", file, value, place=f"column {at}") if value != "?" else math.nan
                for at, value in enumerate(values)
            ]
            features.append(_features(row, file))
            labels.append(int(row[13] > 0))
        own = np.array(labels[start:], np.int64)
        if len(own) < 2:
            raise DataError(f"heart/{file}: {len(own)} rows without missing values, expected 2 or more")
        codes += [code] * len(own)
        test.append(start + split(own)[1])
    return Dataset(
        name="heart",
        task="binary",
        features=np.array(features, np.float32),
        targets=np.array(labels, np.int64),
        feature_names=FEATURES,
        classes=("healthy", "disease"),
        test=np.concatenate(test),
        groupings=(Grouping("hospital", np.array(codes, np.int64), HOSPITALS),),
    )


def _features(row: list[float], file: str) -> list[float]:
    out = [row[column] for column in _NUMERIC]
    for column, categories in _ONE_HOT:
        if row[column] not in categories:
            raise DataError(f"heart/{file}: a value of column {column} is not one of those allowed, {categories}")
        out += [float(row[column] == category) for category in categories[1:]]
    return out


def split(labels: Indices) -> tuple[Indices, Indices]:
    """Return (train, test) positions, increasing, as scikit-learn's `train_test_split` gives FLamby for 0/1 labels
    `[n]`.

    The split is written out, because then it needs no scikit-learn and cannot change with it; a test compares the two.
    The generator is numpy's legacy one, whose stream is frozen.
    """
    rng = np.random.RandomState(_SEED)
    count = len(labels)
    n_train, n_test = math.floor(_TRAIN * count), math.ceil((1.0 - _TRAIN) * count)
    classes = np.bincount(labels, minlength=2)
    if classes.min() <= 2:
        order = rng.permutation(count)
        return np.sort(order[n_test : n_test + n_train]), np.sort(order[:n_test])
    trains = _allocate(classes, n_train, rng)
    tests = _allocate(classes - trains, n_test, rng)
    train_parts, test_parts = [], []
    for label in (0, 1):
        members = np.flatnonzero(labels == label)[rng.permutation(classes[label])]
        train_parts.append(members[: trains[label]])
        test_parts.append(members[trains[label] : trains[label] + tests[label]])
    return np.sort(np.concatenate(train_parts)), np.sort(np.concatenate(test_parts))


def _allocate(counts: Indices, draws: int, rng: np.random.RandomState) -> Indices:
    """Split `draws` among the classes in proportion; the largest fraction gets the remainder, ties at random."""
    exact = counts / counts.sum() * draws
    shares: Indices = np.floor(exact).astype(np.int64)
    missing = draws - int(shares.sum())
    fractions = exact - shares
    for value in sorted(set(fractions.tolist()), reverse=True):
        if missing <= 0:
            break
        tied = np.flatnonzero(fractions == value)
        take = min(len(tied), missing)
        shares[rng.choice(tied, size=take, replace=False)] += 1
        missing -= take
    return shares
