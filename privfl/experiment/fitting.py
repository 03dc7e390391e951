"""Checks that settings of a run fit each other, and the search for the least noise that its epsilon allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from privfl.data import Dataset, FederatedData
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import build
from privfl.experiment.answers import check_affordable
from privfl.experiment.config import Buffer, Config
from privfl.experiment.given import Given
from privfl.fl.algorithms import Method
from privfl.fl.bases import check_neighbors
from privfl.fl.client_state import Stateful
from privfl.fl.sampling import CohortSampler, OnePassSampler
from privfl.fl.selection import Selection

if TYPE_CHECKING:
    from privfl.experiment.assemble import Assembly

_STEPS: Final = (1.0, 1.0003, 1.003, 1.03, 1.3, 3.0)
_DIGITS: Final = 5


def weighted(config: Config, method: Method) -> Config:
    """The settings with uniform weights, where the algorithm or the rounds know no others.

    Args:
        config: The settings.
        method: The algorithm's method.

    Raises:
        ConfigError: If the settings ask for weights by examples.
    """
    buffered = config.buffer.size is not None
    if not (method.aggregation.uniform or buffered):
        return config
    if config.server.weighting == "examples":
        what = (
            "asynchronous rounds, which weigh updates by age"
            if buffered
            else ("SCAFFOLD, whose control variates are plain means")
        )
        raise ConfigError(
            f"server.weighting = 'examples' does not fit {what}: leave server.weighting out, or set it to 'uniform'"
        )
    return config.with_overrides({"server.weighting": "uniform"})


def check_buffer(config: Config, objects: Given, method: Method) -> None:
    """Refuse settings of asynchronous rounds that do not fit others, or that have no effect.

    Args:
        config: The settings.
        objects: The objects that the program gave.
        method: The algorithm's method.

    Raises:
        ConfigError: If settings contradict each other.
        PrivacyError: If noise meets asynchronous rounds that no accountant here can price.
    """
    buffer, privacy, default = config.buffer, config.privacy, Buffer()
    if buffer.size is None:
        names = [item.name for item in dataclasses.fields(buffer)]
        unused = [name for name in names if getattr(buffer, name) != getattr(default, name)]
        if unused or objects.times is not None:
            key = f"buffer.{unused[0]}" if unused else "`times`"
            raise ConfigError(f"{key} is about asynchronous rounds: set buffer.size, or leave it out")
        return
    if objects.sampler is not None or config.cohort.sampling != "everyone":
        found = "`sampler`" if objects.sampler is not None else f"cohort.sampling = {config.cohort.sampling!r}"
        raise ConfigError(f"{found} samples cohorts, and buffer.size lets arrivals make them: leave one of them out")
    if isinstance(method.train, Stateful):
        raise ConfigError(
            "asynchronous rounds keep no states of clients: set client.algorithm = 'fedavg', 'fedprox' or 'fednova', "
            "or leave buffer.size out"
        )
    if privacy.unit == "example":
        raise ConfigError("asynchronous rounds sum updates of clients: set privacy.unit = 'client'")
    if privacy.placement == "none":
        return
    check_neighbors(privacy.adjacency)
    if objects.times is not None:
        raise PrivacyError(
            "`times` of your own may follow from the clients' data, and who arrives is released: in a run with noise, "
            "take the seeded times of [buffer]"
        )
    if privacy.correlation != "none":
        raise ConfigError(
            f"privacy.correlation = {privacy.correlation!r} is priced for clients that take part in one round, and a "
            "client may arrive in several: set privacy.correlation = 'none', or leave buffer.size out"
        )


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


def checked_sampler(config: Config, objects: Given, method: Method, clients: int) -> CohortSampler:
    """The cohort sampler of the settings, or the program's own.

    Args:
        config: The settings.
        objects: The objects that the program gave.
        method: The algorithm's method.
        clients: The number of clients.

    Raises:
        ConfigError: If settings contradict each other, or one pass over the clients ends before the run does.
        PrivacyError: If noise meets asynchronous rounds that no accountant here can price.
    """
    check_buffer(config, objects, method)
    if config.buffer.size is not None:
        return build.build_arrivals(config, clients, objects.times)
    sampler = objects.sampler or build.build_sampler(config.cohort)
    if isinstance(sampler, OnePassSampler) and config.rounds > (top := sampler.max_rounds(clients)):
        raise ConfigError(
            f"rounds = {config.rounds}, and {top} rounds of cohort.size = {sampler.size} ask all {clients} clients: "
            "run fewer rounds, or set cohort.size lower"
        )
    return sampler


def without_data(config: Config, clients: int) -> Config:
    """The settings of a run whose training has its own data: weights by examples only where they are asked for.

    Args:
        config: The settings.
        clients: The number of clients.
    """
    return config.with_overrides({"data.clients": clients, "server.weighting": config.server.weighting or "uniform"})


def calibrated(parts: Callable[[float], Assembly], start: float, epsilon: float) -> Assembly:
    """The run with the least noise, to four digits, whose planned rounds and noisy answers stay within `epsilon`.

    Args:
        parts: Makes the run of a noise multiplier.
        start: The multiplier that is right for Gaussian noise on exact sums. Shares, side blocks, answers and the sum's
            own minimum make the figure of a real run larger, so the search goes up from there.
        epsilon: The most that the run may spend, positive.

    Raises:
        ConfigError: If the noise that is needed is far above `start`.
    """
    low = start
    for step in _STEPS:
        high = _rounded_up(start * step)
        best: Assembly = parts(high)
        if best.planned_epsilon() <= epsilon:
            break
        low = high
    else:
        check_affordable(best, epsilon)
        raise ConfigError(
            f"privacy.epsilon = {epsilon:g} needs more noise than {high:g} times the clip norm: plan fewer rounds, "
            "sample fewer clients, or set privacy.noise_multiplier"
        )
    while high > low * 1.0002:
        middle = _rounded_up(math.sqrt(low * high))
        found: Assembly = parts(middle)
        if found.planned_epsilon() <= epsilon:
            best, high = found, middle
        else:
            low = middle
    return best


def _rounded_up(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - _DIGITS)
    return float(f"{math.ceil(value / step * (1 - 1e-12)) * step:.{_DIGITS}g}")
