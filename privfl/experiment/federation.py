"""From the `[data]` section to clients with examples that a model can be trained on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from privfl import data
from privfl.data import Channel, ClientExamples, Dataset, FederatedData, Schema
from privfl.data.schema import toml_key
from privfl.errors import ConfigError, DataError
from privfl.experiment.config import Config, Data
from privfl.fl.range import NARROW_BITS
from privfl.ring import Ring
from privfl.sums import SecureSum
from privfl.wire import ClientId

MAX_NAMED: Final = 5
"""The maximum number of columns that an error names."""


def build_federation(config: Config, dataset: Dataset | FederatedData | None) -> FederatedData:
    """The clients and their examples, as the configuration says.

    Args:
        config: The settings: `data`, the seed, and whether the run claims privacy.
        dataset: A data set to split, or a federation, which is taken as it is; None loads the set of `data.name`.

    Raises:
        ConfigError: The run claims privacy and the schema was inferred from the examples, or a setting does not fit the
            data.
        DataError: The data cannot be read.
    """
    if isinstance(dataset, FederatedData):
        return dataset
    settings = config.data
    whole = dataset if dataset is not None else load(settings, config.privacy.person)
    private = config.privacy.placement != "none"
    if private and whole.inferred:
        table = settings.table or "the table"
        raise ConfigError(
            f"privacy.placement = {config.privacy.placement!r} needs a declared schema: categories and types that were "
            f"read from the examples of {whole.name} would be released without noise. Write one with `privfl data "
            f"inspect {table} --output schema.toml`, correct it, and set data.schema = 'schema.toml'"
        )
    wanted = settings.test or ("public" if private or settings.test_path else None)
    if wanted == "public" and not len(whole.test):
        order = np.random.default_rng([config.seed, 0x7E57]).permutation(whole.example_count)
        whole = dataclasses.replace(
            whole, test=np.sort(order[: max(1, int(whole.example_count * settings.test_fraction))])
        )
    elif wanted == "local" and len(whole.test) and settings.dealing != "natural":
        whole = dataclasses.replace(whole, test=np.zeros(0, np.int64))
    clients = None if settings.dealing.startswith("natural") else settings.clients
    federation = data.partition(
        whole,
        settings.dealing,
        clients,
        config.seed,
        test_fraction=settings.test_fraction,
        min_examples=settings.min_examples,
    )
    return with_public_test(federation) if wanted == "public" else federation


def load(settings: Data, person: str | None = None) -> Dataset:
    """The data set that a `[data]` section names: one of the registry, or a table.

    Args:
        settings: The section.
        person: `privacy.person`, the column of a table that names the person of each example.

    Raises:
        ConfigError: The section or the schema contradicts itself or the table.
        DataError: A file is absent or malformed, or holds what its schema refuses.
    """
    if settings.table is None:
        if extra := [key for key in ("target", "client", "schema", "test_path") if getattr(settings, key) is not None]:
            raise ConfigError(f"data.{extra[0]} belongs to a table: set data.path, or leave data.{extra[0]} out")
        return data.load(settings.name, settings.folder)
    if settings.test_path is not None and settings.test == "local":
        raise ConfigError("data.test = 'local', and the examples of data.test_path belong to no client: remove one")
    return data.read_table(settings.table, schema_of(settings, person), test=settings.test_path)


def schema_of(settings: Data, person: str | None = None) -> Schema:
    """The schema of a section's table: the declared one, or else the one that its examples propose.

    Args:
        settings: The section.
        person: `privacy.person`; None takes the column that the schema names.

    Raises:
        ConfigError: `data.target`, `data.client` or `privacy.person` is not the schema's, or names no column.
    """
    if settings.schema is None:
        return data.propose(settings.table, settings.target, settings.client, person).schema
    schema = data.load_schema(settings.schema)
    for key in ("target", "client"):
        own, declared = getattr(settings, key), getattr(schema, key)
        if own is not None and own != declared:
            raise ConfigError(f"data.{key} = {own!r}, and the schema {settings.schema} says {declared!r}: remove one")
    if person is not None and person != schema.person:
        says = "names no person" if schema.person is None else f"says {schema.person!r}"
        raise ConfigError(
            f"privacy.person = {person!r}, and the schema {settings.schema} {says}: write "
            f"person = {json.dumps(person)} above its columns, and remove [columns.{toml_key(person)}] if it is there"
        )
    return schema


def with_named_columns(config: Config) -> Config:
    """The configuration with the columns of clients and persons that a declared schema names.

    A partition makes clients in place of the column, and only sums over examples have persons.
    """
    settings, privacy = config.data, config.privacy
    if not (settings.table and settings.schema):
        return config
    schema, named = data.load_schema(settings.schema), dict[str, str]()
    if schema.client is not None and settings.partition is None and settings.client is None:
        named["data.client"] = schema.client
    if schema.person is not None and privacy.unit == "example" and privacy.person is None:
        named["privacy.person"] = schema.person
    return config.with_overrides(named) if named else config


def with_public_test(federation: FederatedData) -> FederatedData:
    """The same clients, with all their test examples as public ones: a natural client owns its test examples."""
    owned = [client.test for client in federation.clients]
    if not any(len(examples) for examples in owned):
        return federation
    clients = tuple(ClientExamples(client.name, client.train) for client in federation.clients)
    return FederatedData(federation.dataset, clients, np.sort(np.concatenate([federation.test, *owned])))


def prepare(
    federation: FederatedData, config: Config, scheme: SecureSum, credentials: Mapping[ClientId, Any] | None
) -> FederatedData:
    """Standardize the features as the configuration says, except "noisy", which a run does as its round 0; see `Data`.

    Args:
        federation: The clients and their examples.
        config: The settings; `data.standardize` chooses the way.
        scheme: The sum that adds up the clients' statistics if `data.standardize` is "exact".
        credentials: The clients' credentials for that sum; None where it needs none.

    Raises:
        ConfigError: If an exact standardization would release means and variances in a run that claims privacy.
    """
    how = config.data.standardize
    if how in ("none", "noisy"):
        return federation
    if how == "local":
        return data.local_standardize(federation)
    if how == "public":
        return data.standardize(federation, data.public_standardizer(federation.dataset))
    if config.privacy.placement != "none":
        raise ConfigError(
            "data.standardize = 'exact' would release means and variances without noise in a run that claims privacy; "
            "use 'noisy', 'public' or 'local'"
        )
    context = b"privfl/1 standardize " + os.urandom(16)  # no client enters one task twice, after any earlier run
    channel = Channel(scheme, Ring(config.sum.bits or NARROW_BITS), context=context, credentials=credentials)
    return data.standardize(federation, data.exact_standardizer(federation, channel))


def check_complete(federation: FederatedData, *, private: bool) -> None:
    """Raise `DataError` for missing values, which no built-in model takes.

    Args:
        federation: The clients, standardized as the configuration says.
        private: Whether noise is added, which rules some remedies out.

    Raises:
        DataError: Names columns and counts, never an example.
    """
    dataset = federation.dataset
    if dataset.task in ("text", "own"):
        return
    counts = np.isnan(dataset.features).sum(axis=0)
    columns = np.flatnonzero(counts)
    if not len(columns):
        return
    names = dataset.feature_names or tuple(f"number {at}" for at in range(dataset.width))
    listed = ", ".join(f"{names[at]} ({counts[at]})" for at in columns[:MAX_NAMED])
    more = f" and {len(columns) - MAX_NAMED} more" if len(columns) > MAX_NAMED else ""
    if private:
        ways = "'local' and data.test = 'local'" if len(federation.test) else "'local'"
        ways = ways if dataset.ranges is None else f"'noisy', or {ways}"
    else:
        ways = "'exact'" if len(federation.test) else "'local' or 'exact'"
    raise DataError(
        f"{dataset.name} has missing values in the columns {listed}{more} of {dataset.example_count} examples, and no "
        f"model takes them. Set data.standardize = {ways}, which puts the mean of a column in their place, or fill "
        "them in"
    )
