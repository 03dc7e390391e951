"""Checks that a run's algorithm, evaluation and choice of a model fit its other settings."""

from __future__ import annotations

from privfl.data import Dataset, FederatedData
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import build
from privfl.experiment.config import Config
from privfl.fl.algorithms import Method
from privfl.fl.client_state import Stateful
from privfl.fl.selection import Selection


def weighted(config: Config, method: Method) -> Config:
    """The settings with uniform weights, where the algorithm knows no others.

    Args:
        config: The settings.
        method: The algorithm's method.

    Raises:
        ConfigError: If the settings ask for weights by examples.
    """
    if not method.aggregation.uniform:
        return config
    if config.server.weighting == "examples":
        raise ConfigError(
            "server.weighting = 'examples' does not fit SCAFFOLD, whose control variates are plain means: leave "
            "server.weighting out, or set it to 'uniform'"
        )
    return config.with_overrides({"server.weighting": "uniform"})


def check_tuning(config: Config, learner: build.Learner, method: Method) -> None:
    """Raise `ConfigError` where no client has a tuned model that could be evaluated.

    Args:
        config: The settings.
        learner: The model and its evaluation.
        method: The algorithm's method.
    """
    if not config.client.tuning:
        return
    if config.privacy.placement != "none" or learner.public_measure is not None:
        raise ConfigError(
            "client.tuning evaluates tuned models on the clients' own test examples, which this run does not use: set "
            "client.tuning = 0, or data.test = 'local' in a run without noise"
        )
    if isinstance(method.train, Stateful):
        raise ConfigError("client.tuning is for clients without a state: set client.tuning = 0")


def check_selection(config: Config, learner: build.Learner, selection: Selection, *, taken: bool) -> None:
    """Refuse a choice by the examples of clients in a run that claims privacy.

    Args:
        config: The settings.
        learner: The model and its evaluation.
        selection: The rule of the choice.
        taken: Whether the public test examples were taken from the people that epsilon is about; see `is_taken`.

    Raises:
        PrivacyError: If the choice would release something that no ledger holds.
    """
    if not selection.judges or config.privacy.placement == "none":
        return
    if learner.public_measure is None or taken:
        raise PrivacyError(
            "server.metric would choose a model, or the end of the run, by test examples of the people that epsilon is "
            "about, and nobody accounts for that choice: give public test examples of your own "
            "(FederatedData(test=...) or `public_measure`), or leave server.choose and server.patience out"
        )


def is_taken(config: Config, data: Dataset | FederatedData | None, federation: FederatedData) -> bool:
    """True if the public test examples were taken from a user's own examples without being named as tests.

    Args:
        config: The settings; the partition and a file of test examples decide.
        data: The data that a program gave.
        federation: The clients and their examples.
    """
    if not isinstance(data, Dataset):
        # a named data set is published; clients that a program gave bring their public tests
        return data is None and federation.dataset.own and config.data.test_path is None
    return not len(data.test) or config.data.dealing.startswith("natural")


def check_noise(config: Config) -> None:
    """Raise `PrivacyError` for noise settings without noise, `ConfigError` for noise whose size is not given."""
    privacy = config.privacy
    if privacy.placement == "none" and (privacy.epsilon, privacy.noise_multiplier) != (None, None):
        raise PrivacyError(
            "privacy.epsilon and privacy.noise_multiplier speak of noise, and privacy.placement is 'none': choose "
            "'central', 'distributed', 'mesh' or 'local'"
        )
    if privacy.placement == "none" and privacy.correlation != "none":
        raise PrivacyError(
            f"privacy.correlation = {privacy.correlation!r} is of central noise, and privacy.placement is 'none': "
            "choose 'central', or leave privacy.correlation out"
        )
    if privacy.placement != "none" and (privacy.epsilon, privacy.noise_multiplier) == (None, None):
        raise ConfigError(
            "privacy.noise_multiplier is missing: set it, or set privacy.epsilon, and the least noise for the planned "
            "rounds is found"
        )
