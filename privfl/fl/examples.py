"""Example-level privacy through the sum: one step of DP-SGD over the examples of all sites (Abadi et al. 2016).

In each step a site samples its own examples by coins that no other party knows, clips the gradient of each, and sums
them as integers. A contribution is the exact sum of the integers of its examples. So one example more or less changes
it by at most scale * clip_norm in any batch: no sum is rounded, and no order of summation matters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from privfl.checks import check_positive
from privfl.codec import FixedPoint, Vector
from privfl.dp.noise.sampler import Entropy, seeded_entropy
from privfl.dp.unit import Everyone, Poisson, PoissonBySite
from privfl.errors import ConfigError, PrivacyError
from privfl.ring import Ints
from privfl.wire import ClientId

if TYPE_CHECKING:
    from privfl.fl.plan import RoundPlan

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MAX_UNITS: Final = 2.0**40
"""The largest scale * clip_norm: sums of up to 2^22 examples stay within 62 bits."""

COINS_STREAM: Final = (8, 1)
"""Last words of the key (seed, round, client, 8, 1) of the coins of a simulation."""

_ROWS: Final = 1 << 12  # float64 sums of so many integers below 2^40 are exact
_MARGIN: Final = 1.0 - 2.0**-40  # above the rounding of a norm, of its quotient and of a product
_COIN_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class ExampleRule:
    """The terms of a plan about single examples, all of them public constants.

    Attributes:
        sampling: The probability with which a site samples each of its examples; one for all sites, or one for each.
        denominator: The positive number that the sum of all clipped gradients is divided by.
        max_entry: The bound of each entry of a site's sum, in clip norms and positive. Larger entries are clamped to
            it, which never increases what one example changes.

    Raises:
        ConfigError: A value is out of range.
    """

    sampling: Poisson | PoissonBySite
    denominator: float
    max_entry: float

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Poisson | PoissonBySite):
            raise ConfigError(f"examples are sampled by Poisson sampling, not by {type(self.sampling).__name__}")
        check_positive("denominator", self.denominator)
        check_positive("max_entry", self.max_entry)

    def probability(self, client: ClientId) -> float:
        """The probability with which a site samples each of its examples."""
        return (self.sampling.of(client) if isinstance(self.sampling, PoissonBySite) else self.sampling).probability


@runtime_checkable
class ExampleGradients(Protocol):
    """A training that gives the gradients of single examples. `LinearTrain` is one.

    The examples of one person at a site share one coin and one clip. Unless a training knows better, each example is a
    person by itself.
    """

    def people(self, client: ClientId) -> int:
        """The number of people whose examples a client holds."""
        ...

    def gradients(self, model: Vector, client: ClientId, chosen: Indices) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yield the gradients of some people, in parts of a few people each.

        A gradient is the sum over the person's examples, and the same to the last bit for any others that are chosen.

        Args:
            model: The global model, float `[d]`.
            client: The client.
            chosen: The numbers of the people, increasing, each in [0, people).

        Yields:
            float `[n, d]`, in the order of `chosen`.
        """
        ...


@runtime_checkable
class ExampleSums(Protocol):
    """A training that samples its examples by coins of its own, as a site does whose child process holds the data."""

    def example_sum(self, plan: RoundPlan, model: Vector, client: ClientId) -> Ints:
        """One site's contribution to a step, as `sampled_sum` gives it.

        Args:
            plan: The plan of the round.
            model: The global model, float `[d]`.
            client: The site.

        Returns:
            int64 `[d]`.
        """
        ...


def example_sum(train: object, plan: RoundPlan, model: Vector, client: ClientId) -> Ints:
    """One site's contribution to a step: the sum of the clipped negative gradients of the examples that it samples.

    An `ExampleSums` has coins of its own. Else secure coins are the operating system's, new ones for each attempt. In a
    simulation, and without noise, they follow from the plan's seed.

    Args:
        train: The training, an `ExampleGradients` or an `ExampleSums`.
        plan: The plan of the round.
        model: The global model, float `[d]`.
        client: The site.

    Returns:
        int64 `[d]`.

    Raises:
        ConfigError: The plan is not about examples, or the training gives no gradients of examples.
    """
    rule_of(plan)
    if isinstance(train, ExampleSums):
        return _checked(train.example_sum(plan, model, client), plan)
    if not isinstance(train, ExampleGradients):
        raise ConfigError(
            "a step over examples needs their gradients: give a training with `people` and `gradients`, such as "
            "LinearTrain"
        )
    secure = plan.mechanism.claims and plan.mechanism.source == "secure"
    entropy = os.urandom if secure else seeded_entropy(plan.seed, plan.round, client, *COINS_STREAM)
    return sampled_sum(train, plan, model, client, entropy=entropy)


def sampled_sum(train: ExampleGradients, plan: RoundPlan, model: Vector, client: ClientId, *, entropy: Entropy) -> Ints:
    """The sum of the clipped negative gradients of the people whom these coins sample.

    Args:
        train: The training.
        plan: The plan of the round.
        model: The global model, float `[d]`.
        client: The site.
        entropy: Where the coins come from.

    Returns:
        int64 `[d]`.

    Raises:
        ConfigError: The plan is not about examples, or the training gives other gradients than one for each person.
    """
    encoding, rule = plan.encoding, rule_of(plan)
    chosen = sampled_people(train.people(client), rule.probability(client), entropy)
    gradients = _one_each(train.gradients(model, client, chosen), len(chosen)) if len(chosen) else iter(())
    total = clipped_sum(gradients, encoding.codec, encoding.clip.clip_norm, encoding.length)
    bound = encoding.entry_bound
    return np.clip(-total, -bound, bound)


def rule_of(plan: RoundPlan) -> ExampleRule:
    """The terms of a plan about single examples; raises `ConfigError` for a plan about clients."""
    if plan.encoding.examples is None:
        raise ConfigError("the plan sums updates of clients: give its encoding `examples` for sums over examples")
    return plan.encoding.examples


def _checked(total: Ints, plan: RoundPlan) -> Ints:
    """A sum that was made elsewhere, within its bounds."""
    if total.shape != (plan.encoding.length,) or total.dtype != np.int64:
        raise ConfigError(
            f"a sum of {total.dtype} of shape {total.shape} came back, and the plan sums int64 of "
            f"{plan.encoding.length} entries"
        )
    bound = plan.encoding.entry_bound
    return np.clip(total, -bound, bound)


def _one_each(
    gradients: Iterable[npt.NDArray[np.floating[Any]]], people: int
) -> Iterator[npt.NDArray[np.floating[Any]]]:
    """The gradients; raises `ConfigError` unless there is one for each person, whose clip holds for one alone."""
    left = people
    for part in gradients:
        left -= len(part)
        if left < 0:
            break
        yield part
    if left:
        raise ConfigError(
            "`gradients` must give one gradient for each person that was chosen: sum those of one person's examples"
        )


def check_plan(plan: RoundPlan) -> None:
    """Refuse settings of a plan that would break its claim about single examples; other plans pass.

    Raises:
        ConfigError: Cohorts are sampled, or a client of the cohort has no probability.
        PrivacyError: Each contribution would carry the whole noise.
    """
    rule = plan.encoding.examples
    if rule is None:
        return
    if not isinstance(plan.sampling, Everyone):
        raise ConfigError(
            "in a sum over examples every site takes part in every step, because the sites sample their examples: set "
            "cohort.sampling = 'everyone'"
        )
    if plan.mechanism.placement == "local":
        raise PrivacyError(
            "local noise would make each site pay for itself: in a sum over examples set privacy.placement = "
            "'distributed', 'mesh' or 'central'"
        )
    for client in plan.cohort:
        rule.probability(client)


def sampled_people(people: int, probability: float, entropy: Entropy) -> Indices:
    """The people of a Poisson sample, increasing; each is in it with `probability`, or up to 2^-64 less.

    Args:
        people: How many there are.
        probability: In (0, 1].
        entropy: Where the coins come from.
    """
    if probability >= 1:
        return np.arange(people)
    limit = np.uint64(math.floor(math.ldexp(probability, 64)))
    return np.flatnonzero(np.frombuffer(entropy(_COIN_BYTES * people), np.dtype("<u8")) < limit)


def clipped_sum(
    gradients: Iterable[npt.NDArray[np.floating[Any]]], codec: FixedPoint, clip_norm: float, length: int
) -> Ints:
    """The sum of gradients, each clipped to an l2 norm of `clip_norm` and cut to integers towards zero.

    The integers of one gradient have a norm of at most scale * clip_norm and depend on that gradient alone. A gradient
    with a NaN or an infinity counts as zero.

    Args:
        gradients: Arrays `[n, length]`, each with the gradients of n people.
        codec: The scale.
        clip_norm: The bound of each gradient, positive.
        length: The entries of a gradient.

    Returns:
        int64 `[length]`.

    Raises:
        ConfigError: A gradient has another length.
    """
    total = np.zeros(length, np.int64)
    for part in gradients:
        if part.ndim != 2 or part.shape[1] != length:
            raise ConfigError(f"gradients of shape {part.shape} came back for a model of {length} entries")
        for start in range(0, len(part), _ROWS):
            rows = part[start : start + _ROWS].astype(np.float64)
            rows *= _factors(rows, codec.scale, clip_norm)[:, None]
            np.trunc(rows, out=rows)
            total += np.add.reduce(rows, axis=0).astype(np.int64)
    return total


def _factors(rows: Floats, scale: float, clip_norm: float) -> Floats:
    """The factor of each gradient that clips and scales it; gradients that are not finite become zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.add.reduce(np.square(rows), axis=1))
    for row in np.flatnonzero(~np.isfinite(norms)):
        largest = float(np.max(np.abs(rows[row])))
        if math.isfinite(largest):  # its squares leave the floats
            norms[row] = largest * math.sqrt(float(np.add.reduce(np.square(rows[row] / largest))))
        else:
            rows[row], norms[row] = 0.0, 1.0
    limit = clip_norm * _MARGIN
    with np.errstate(divide="ignore"):
        factors: Floats = scale * np.where(norms > limit, limit / norms, 1.0)
    return factors
