"""The data sets that come with scikit-learn: no download, no folder. The only module that imports sklearn."""

from __future__ import annotations

from typing import Any

import numpy as np

from privfl.data.sets import Dataset
from privfl.errors import MissingExtra


def breast_cancer() -> Dataset:
    """Breast Cancer Wisconsin (Diagnostic): 569 examples, 30 features in their own units, benign = 1.

    Wolberg, Mangasarian, Street, Street (1993), UCI. Raises `MissingExtra` without scikit-learn.
    """
    raw = _sklearn().load_breast_cancer()
    return Dataset(
        name="breast_cancer",
        task="binary",
        features=raw.data.astype(np.float32),
        targets=raw.target.astype(np.int64),
        feature_names=tuple(str(name) for name in raw.feature_names),
        classes=tuple(str(name) for name in raw.target_names),
    )


def breast_cancer_description() -> str:
    """Return the text that is published with the set; it lists the smallest and largest value of each feature."""
    return str(_sklearn().load_breast_cancer().DESCR)


def digits() -> Dataset:
    """Handwritten digits of 8 x 8 pixels: 1797 examples, 64 features in [0, 1], ten classes.

    Alpaydin, Kaynak (1998), UCI. Raises `MissingExtra` without scikit-learn.
    """
    raw = _sklearn().load_digits()
    return Dataset(
        name="digits",
        task="multiclass",
        features=(raw.data / 16.0).astype(np.float32),  # 16 gray levels: a public constant
        targets=raw.target.astype(np.int64),
        feature_names=tuple(str(name) for name in raw.feature_names),
        classes=tuple(str(name) for name in raw.target_names),
    )


def diabetes() -> Dataset:
    """Diabetes progression after one year: 442 examples, 10 features in their own units, a regression.

    Efron, Hastie, Johnstone, Tibshirani (2004). The unscaled values: scikit-learn's default was standardized over all
    examples, which no client could have done alone. Raises `MissingExtra` without scikit-learn.
    """
    raw = _sklearn().load_diabetes(scaled=False)
    return Dataset(
        name="diabetes",
        task="regression",
        features=raw.data.astype(np.float32),
        targets=raw.target.astype(np.float32),
        feature_names=tuple(str(name) for name in raw.feature_names),
    )


def _sklearn() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("scikit-learn", "data") from error
    return datasets
