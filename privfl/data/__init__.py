"""Data: bundled sets, a user's own tables and arrays, partitions, and federated preprocessing."""

from privfl.data.analytics import Analytics, AnswerNoise, Cells, Quantile
from privfl.data.arrays import from_arrays, from_torch
from privfl.data.channel import MIN_CELL, Channel
from privfl.data.inspect import propose
from privfl.data.noised import noised_standardizer
from privfl.data.preprocess import (
    Standardizer,
    exact_standardizer,
    impute,
    local_standardize,
    public_standardize,
    standardize,
)
from privfl.data.public import public_ranges, public_standardizer
from privfl.data.registry import NAMES, SPECS, load, partition
from privfl.data.schema import Column, Schema, load_schema
from privfl.data.sets import ClientExamples, Dataset, FederatedData, Grouping
from privfl.data.tables import is_folder, is_table, read_table

__all__ = [
    "MIN_CELL",
    "NAMES",
    "SPECS",
    "Analytics",
    "AnswerNoise",
    "Cells",
    "Channel",
    "ClientExamples",
    "Column",
    "Dataset",
    "FederatedData",
    "Grouping",
    "Quantile",
    "Schema",
    "Standardizer",
    "exact_standardizer",
    "from_arrays",
    "from_torch",
    "impute",
    "is_folder",
    "is_table",
    "load",
    "load_schema",
    "local_standardize",
    "noised_standardizer",
    "partition",
    "propose",
    "public_ranges",
    "public_standardize",
    "public_standardizer",
    "read_table",
    "standardize",
]
