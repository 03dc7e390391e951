"""From the `[data]` section to clients with rows that a model can be trained on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from privfl import data
from privfl.data import Channel, Dataset, FederatedData
from privfl.errors import ConfigError
from privfl.experiment.config import Config
from privfl.ring import Ring
from privfl.sums import SecureSum
from privfl.wire import ClientId


def build_federation(config: Config, dataset: Dataset | FederatedData | None) -> FederatedData:
    """The clients and their rows, as the configuration says; a federation that is given is taken as it is."""
    if isinstance(dataset, FederatedData):
        return dataset
    settings = config.data
    whole = dataset if dataset is not None else data.load(settings.name, settings.folder)
    wanted = settings.test or ("public" if config.privacy.placement != "none" else None)
    if wanted == "public" and not len(whole.test):
        order = np.random.default_rng([config.seed, 0x7E57]).permutation(whole.rows)
        whole = dataclasses.replace(whole, test=np.sort(order[: max(1, int(whole.rows * settings.test_fraction))]))
    elif wanted == "local" and len(whole.test) and settings.partition != "natural":
        whole = dataclasses.replace(whole, test=np.zeros(0, np.int64))
    clients = None if settings.partition.startswith("natural") else settings.clients
    return data.partition(
        whole,
        settings.partition,
        clients,
        config.seed,
        test_fraction=settings.test_fraction,
        min_examples=settings.min_examples,
    )


def prepare(
    federation: FederatedData, config: Config, scheme: SecureSum, credentials: Mapping[ClientId, Any] | None
) -> FederatedData:
    """Standardize the features as the configuration says; see `Data`."""
    how = config.data.standardize
    if how == "none":
        return federation
    if how == "local":
        return data.local_standardize(federation)
    if how == "public":
        return data.standardize(federation, data.public_standardizer(federation.dataset.name))
    if config.privacy.placement != "none":
        raise ConfigError(
            "data.standardize = 'exact' would release means and variances without noise in a run that claims privacy; "
            "use 'public' or 'local'"
        )
    context = b"privfl/1 standardize " + os.urandom(16)  # no client enters one task twice, whatever runs came before
    channel = Channel(scheme, Ring(config.sum.bits), context=context, credentials=credentials)
    return data.standardize(federation, data.exact_standardizer(federation, channel))
