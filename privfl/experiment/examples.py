"""The settings of example-level privacy: what fits, what is refused, and the terms of a sum over examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from privfl.dp.unit import Poisson, PoissonBySite
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.config import Client, Config
from privfl.fl.examples import ExampleGradients, ExampleRule
from privfl.wire import ClientId

_MIN_ENTRY: Final = 8.0
"""The least bound of an entry of a client's sum, in clip norms."""

LOCAL_STEPS: Final = (
    "several local steps before a sum are refused for unit 'example': without noise between them the later gradients "
    "follow the first, and one example could move the update by much more than the clip norm. Take one step of a "
    "larger batch: leave client.epochs and client.steps out and raise privacy.sampling_probability, or set "
    "privacy.unit = 'client'"
)
_OF_EXAMPLES: Final = ("sampling_probability", "sampling_probabilities", "denominator", "person")


def check_example_settings(config: Config) -> None:
    """Refuse settings that would break a claim about single examples, and settings of examples without that claim.

    Raises:
        ConfigError: Settings do not fit the unit.
        PrivacyError: They would make an epsilon untrue.
    """
    privacy = config.privacy
    if privacy.unit == "client":
        given = [name for name in _OF_EXAMPLES if getattr(privacy, name)]
        if given or privacy.sites_per_person > 1:
            name = given[0] if given else "sites_per_person"
            raise ConfigError(f"privacy.{name} is about examples: set privacy.unit = 'example', or leave it out")
        return
    if privacy.clip_norm is None:
        raise ConfigError("privacy.clip_norm is missing: it bounds the gradient of each example")
    if (privacy.sampling_probability is None) == (not privacy.sampling_probabilities):
        raise ConfigError(
            "privacy.unit = 'example' needs privacy.sampling_probability, or privacy.sampling_probabilities with one "
            "value for each client: give one of the two"
        )
    if any(not 0 < probability <= 1 for probability in privacy.sampling_probabilities):
        raise ConfigError("privacy.sampling_probabilities must be numbers in (0, 1], one for each client")
    _check_noise(config)
    _check_training(config)


def _check_noise(config: Config) -> None:
    privacy = config.privacy
    if privacy.placement == "local":
        raise PrivacyError(
            "privacy.placement = 'local' makes each client pay for itself, which unit 'example' avoids: choose "
            "'distributed', 'mesh', 'private' or 'central'"
        )
    if privacy.clip != "flat" or privacy.clip_quantile is not None:
        raise PrivacyError(
            "unit 'example' clips each gradient to one fixed norm: leave privacy.clip and privacy.clip_quantile out"
        )
    if privacy.loss_bound is not None:
        raise PrivacyError(
            "privacy.loss_bound would release a loss of the sampled examples, which has no price here: leave it out, "
            "and evaluate on public examples"
        )
    if config.server.weighting == "examples":
        raise PrivacyError(
            "server.weighting = 'examples' would divide by the number of examples, which is no public constant: set "
            "privacy.denominator and leave server.weighting out"
        )
    if config.client.metrics:
        raise PrivacyError(
            "client.metrics would release something of the sampled examples, which has no price here: leave them out, "
            "and evaluate on public examples"
        )
    if config.cohort.sampling != "everyone":
        raise ConfigError(
            f"unit 'example' samples examples and not clients: cohort.sampling must be 'everyone', not "
            f"{config.cohort.sampling!r}"
        )
    if config.cohort.on_client_error != "raise":
        raise PrivacyError(
            "a client that drops out by an error of its training would reveal something of its examples: set "
            "cohort.on_client_error = 'raise'"
        )
    if config.sum.rotation or config.sum.rounding != "nearest" or config.sum.clip_entries is not None:
        raise ConfigError(
            "unit 'example' turns each gradient into integers by itself: leave sum.rotation, sum.rounding and "
            "sum.clip_entries out"
        )


def _check_training(config: Config) -> None:
    client, default = config.client, Client()
    if client.epochs != 1 or client.steps not in (None, 1):
        raise ConfigError(LOCAL_STEPS)
    if client.algorithm != "fedavg":
        raise ConfigError(
            f"client.algorithm = {client.algorithm!r} is about local steps, and unit 'example' takes one step for each "
            "sum: leave it out"
        )
    if client.batch_size is not None:
        raise ConfigError(
            "client.batch_size would cut a Poisson sample, which no accountant covers: set "
            "privacy.sampling_probability and leave it out"
        )
    if client.learning_rate != default.learning_rate or client.momentum:
        raise ConfigError(
            "unit 'example' takes its steps at the server: set server.eta (and server.momentum), and leave "
            "client.learning_rate and client.momentum out"
        )
    if config.model.l2:
        raise ConfigError("model.l2 is no part of an example's gradient: set model.l2 = 0 for unit 'example'")


def example_rule(config: Config, clients: int, sizes: Sequence[int]) -> ExampleRule | None:
    """The terms of a sum over examples; None for updates of clients.

    Args:
        config: The settings.
        clients: The number of clients.
        sizes: The numbers of examples of the clients, for a denominator that may publish their sum.

    Raises:
        ConfigError: The probabilities are of other clients, or a denominator is missing.
    """
    privacy = config.privacy
    if privacy.unit == "client":
        return None
    given = privacy.sampling_probabilities
    if given and len(given) != clients:
        raise ConfigError(
            f"privacy.sampling_probabilities has {len(given)} values for {clients} clients: give one each"
        )
    sampling = PoissonBySite(tuple(enumerate(given))) if given else Poisson(privacy.sampling_probability or 1.0)
    denominator = privacy.denominator
    if denominator is None:
        if privacy.adjacency == "add_remove" and privacy.placement != "none":
            raise ConfigError(
                "privacy.denominator is missing: under add_remove the number of examples is no public fact, so the "
                "divisor of the gradients cannot follow from it. Set a constant, such as the examples that you expect "
                "in a round over all clients"
            )
        rates = given or (sampling.probability,) * clients
        denominator = sum(rate * size for rate, size in zip(rates, sizes, strict=True)) or 1.0
    return ExampleRule(sampling, float(denominator), max(_MIN_ENTRY, float(denominator)))


def with_sites(rule: ExampleRule, clients: Sequence[ClientId]) -> ExampleRule:
    """The terms with the probability of each place given to the client at that place.

    Args:
        rule: The terms over places 0 to n - 1.
        clients: The identities, increasing.
    """
    if not isinstance(rule.sampling, PoissonBySite):
        return rule
    pairs = zip(clients, (probability for _, probability in rule.sampling.probabilities), strict=True)
    return dataclasses.replace(rule, sampling=PoissonBySite(tuple(pairs)))


def nominal_sites(rule: ExampleRule | None, cohort: tuple[ClientId, ...]) -> tuple[ClientId, ...]:
    """The cohort of a planned round: the clients that have a probability of their own, or the nominal ones.

    Args:
        rule: The terms of a sum over examples; None for updates of clients.
        cohort: The nominal cohort.
    """
    if rule is None or not isinstance(rule.sampling, PoissonBySite):
        return cohort
    return tuple(site for site, _ in rule.sampling.probabilities)


def check_sites(config: Config, *, stateful: bool) -> None:
    """Refuse settings of sums over examples that say something about data, which are at sites elsewhere.

    Args:
        config: The settings of the server.
        stateful: Whether the sites keep a state between rounds.

    Raises:
        ConfigError: Settings do not fit.
    """
    privacy = config.privacy
    if privacy.unit == "client":
        return
    if privacy.denominator is None:
        raise ConfigError(
            "privacy.denominator is missing: the examples are at the sites, so it cannot follow from them. Set a "
            "constant, such as the examples that you expect in a round over all sites"
        )
    if privacy.person is not None:
        raise ConfigError(
            "privacy.person names something of the data, which are at the sites: leave it out, and have each site's "
            "training take `persons`"
        )
    if stateful:
        raise ConfigError(
            "a sum over examples takes one step from the same model at every site, and no site keeps a state: leave "
            "`stateful` out, or set privacy.unit = 'client'"
        )


def unit_count(rule: ExampleRule | None, clients: int) -> int:
    """The number of units that a delta is compared with: clients, or the examples that public constants stand for.

    Args:
        rule: The terms of a sum over examples; None for updates of clients.
        clients: The number of clients.
    """
    return clients if rule is None else max(1, round(rule.denominator / rule.sampling.probability))


def delta_units(config: Config, clients: int) -> int:
    """`unit_count` of the settings of a run that was assembled.

    Args:
        config: The settings, with the denominator that was chosen.
        clients: The number of clients.
    """
    privacy = config.privacy
    if privacy.unit == "client" or privacy.denominator is None:
        return clients
    return unit_count(example_rule(config, clients, ()), clients)


def check_gradients(train: object, rule: ExampleRule | None) -> None:
    """Raise `ConfigError` for a training that gives no gradients of single examples, where they are needed.

    Args:
        train: The training under its algorithm.
        rule: The terms of a sum over examples; None needs no gradients.
    """
    if rule is not None and not isinstance(train, ExampleGradients):
        raise ConfigError(
            "privacy.unit = 'example' needs the gradients of single examples: give a `train` with `people` and "
            "`gradients`, such as privfl.fl.linear.LinearTrain or privfl.adapters.torch.TorchExamples"
        )
