"""Data: sets bundled with scikit-learn or read from a folder, partitions, and federated preprocessing."""

from privfl.data.noised import noised_standardizer
from privfl.data.preprocess import (
    Channel,
    Standardizer,
    exact_standardizer,
    impute,
    local_standardize,
    public_standardize,
    standardize,
)
from privfl.data.public import public_standardizer
from privfl.data.registry import NAMES, SPECS, load, partition
from privfl.data.sets import ClientRows, Dataset, FederatedData, Grouping

__all__ = [
    "NAMES",
    "SPECS",
    "Channel",
    "ClientRows",
    "Dataset",
    "FederatedData",
    "Grouping",
    "Standardizer",
    "exact_standardizer",
    "impute",
    "load",
    "local_standardize",
    "noised_standardizer",
    "partition",
    "public_standardize",
    "public_standardizer",
    "standardize",
]
