"""Sites as a server knows them: their directory, their training by its digest, and their secure evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import numpy as np

from privfl.codec import FixedPoint, Vector
from privfl.crypto import KeyDirectory, VerifyKey
from privfl.dp import ElementClip
from privfl.dp.unit import Everyone
from privfl.errors import ConfigError, RemoteProtocolError, StateError, TooFewSurvivors
from privfl.experiment.assemble import Assembly
from privfl.experiment.examples import with_sites
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.metrics import Evaluation
from privfl.fl.plan import NO_NOISE, RoundPlan, model_hash
from privfl.fl.progress import Progress
from privfl.fl.range import WIDE_BITS, Range, RangeRule
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import CohortSampler, Uniforms
from privfl.fl.slots import Metric
from privfl.fl.state import ServerState
from privfl.fl.traffic import guarded
from privfl.ring import Ring
from privfl.wire import ClientId

MAX_EXAMPLES: Final = 1 << 10
"""The weight of a client that a run without noise has room for at first. A larger client repeats the first round."""

UNBOUNDED: Final = 2.0**64
"""A metric without noise is averaged as it was reported, up to here."""

REPEATS: Final = 3
"""The most attempts of one evaluation: it is repeated with more room for weights."""

_AT_SITES: Final = "the sites train, not the server: run the round through a transport"


class SiteDirectory(KeyDirectory, Protocol):
    """The sites of a federation and their keys."""

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """The sites, in increasing order."""
        ...

    @property
    def names(self) -> Mapping[str, ClientId]:
        """The identity of each site, by its name."""
        ...

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over the whole directory; charter and sites name it."""
        ...

    def check(self, now: float) -> None:
        """Raise an error unless the directory counts at a time, in seconds since 1970."""
        ...

    def current(self, now: float) -> KeyDirectory:
        """The keys that count at a time; those that have expired are not in it."""
        ...


@dataclass(frozen=True, slots=True)
class CurrentKeys:
    """A directory in which the keys of sites count until they expire.

    Attributes:
        directory: The sites.
        clock: The time in seconds since 1970.
    """

    directory: SiteDirectory
    clock: Callable[[], float]

    def verify_key(self, client: ClientId) -> VerifyKey:
        """See `KeyDirectory.verify_key`."""
        return self.directory.current(self.clock()).verify_key(client)


def check_current(directory: SiteDirectory, now: float) -> None:
    """Raise `StateError` unless the directory and the key of every site are valid now.

    Sites refuse a plan that asks a member whose key has expired, so a round would only be wasted.

    Args:
        directory: The sites.
        now: The present time, in seconds since 1970.
    """
    directory.check(now)
    current = directory.current(now)
    for client in directory.clients:
        try:
            current.verify_key(client)
        except RemoteProtocolError as error:
            raise StateError(
                f"the key of client {client} has expired: have the site renew it, and start a run with a new directory"
            ) from error


@dataclass(frozen=True, slots=True)
class SiteTraining:
    """A stand-in for the training of sites at the server: it states the digest of the charter, and never trains.

    Attributes:
        digest: The digest of the training function; empty if each site chooses its own.
    """

    digest: str = ""

    def __call__(
        self, model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: object = None
    ) -> NoReturn:
        """Raise `ConfigError`: nothing is trained where the server runs."""
        raise ConfigError(_AT_SITES)

    def people(self, client: ClientId) -> NoReturn:
        """Raise `ConfigError`, as a call does: no example is where the server runs."""
        raise ConfigError(_AT_SITES)

    def gradients(self, model: Vector, client: ClientId, chosen: object) -> NoReturn:
        """Raise `ConfigError`, as a call does.

        Args:
            model: Not used, like the other arguments.
            client: See model.
            chosen: See model.
        """
        raise ConfigError(_AT_SITES)

    def fingerprint(self) -> str:
        """The digest."""
        return self.digest


@dataclass(frozen=True, slots=True)
class NamedSampler:
    """A sampler of places 0 to n - 1, for sites that have identities of their own.

    Attributes:
        inner: Samples and declares.
        clients: The identity at each place, increasing.
    """

    inner: CohortSampler
    clients: tuple[ClientId, ...]

    def declare(self, population: int) -> Any:
        """See `CohortSampler.declare`."""
        return self.inner.declare(population)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`."""
        return tuple(self.clients[place] for place in self.inner.sample(population, uniforms))


def federated(parts: Assembly, clients: tuple[ClientId, ...], metrics: tuple[str, ...]) -> Assembly:
    """The parts of a run whose clients have identities, sizes and metrics that the settings do not know.

    Args:
        parts: The parts that the settings make.
        clients: The sites.
        metrics: The training metrics that are summed in a run without noise.

    Raises:
        ConfigError: If the settings ask for asynchronous rounds.
    """
    if parts.config.buffer.size is not None:
        raise ConfigError("rounds over a network are synchronous: leave buffer.size out")
    encoding, rule = parts.encoding, parts.range_rule
    if encoding.examples is not None:
        encoding = dataclasses.replace(encoding, examples=with_sites(encoding.examples, clients))
    if rule is not None:
        summed = tuple(Metric(name, UNBOUNDED) for name in metrics)
        sizes = (MAX_EXAMPLES,) * len(clients) if rule.sizes else ()
        rule = dataclasses.replace(rule, bits=rule.bits or WIDE_BITS, sizes=sizes)  # a repeated round costs more
        encoding = rule.encoding(dataclasses.replace(encoding, metrics=summed), Range(), len(clients))
    return dataclasses.replace(parts, encoding=encoding, range_rule=rule, sampler=NamedSampler(parts.sampler, clients))


def evaluate_at_sites(
    run: FederatedRun, progress: Progress, clients: tuple[ClientId, ...], names: tuple[str, ...], *, first: int
) -> Evaluation:
    """Sum the metrics of the latest model over the sites' own test examples.

    Args:
        run: The run, whose driver carries the frames.
        progress: The position of the run.
        clients: The sites that are asked: all of them.
        names: The metrics.
        first: The number of the first attempt, above those of all earlier evaluations: no site enters one task twice,
            or goes back. Up to `REPEATS` numbers are used.

    Returns:
        The means over all test examples; none where too few sites answered.
    """
    metrics = tuple(Metric(name, UNBOUNDED) for name in names)
    base = UpdateEncoding(
        1, FixedPoint(1.0, Ring(WIDE_BITS)), ElementClip(1.0, 1), weighting="examples", metrics=metrics
    )
    rule = RangeRule(entries=False, bits=WIDE_BITS, sizes=(MAX_EXAMPLES,) * len(clients))
    model, room = progress.latest.model, Range()
    for attempt in range(first, first + REPEATS):
        plan = RoundPlan(
            run=progress.start.nonce,
            round=progress.latest.round,
            attempt=attempt,
            model_hash=model_hash(model),
            cohort=clients,
            population=run.population,
            sampling=Everyone(),
            survivor_rule=run.survivor_rule,
            encoding=rule.encoding(base, room, len(clients)),
            mechanism=NO_NOISE,
            scheme=run.parts.scheme.name,
            parameters=run.parts.scheme.parameters,
            seed=run.seed,
        )
        try:
            result = run.driver(ServerState(model), plan, run.parts, tap=guarded(run.tap)).result
        except (TooFewSurvivors, RemoteProtocolError) as error:
            return Evaluation({}, (f"nothing is evaluated: {error}",))
        if result is None:
            break
        decoded = plan.decode(result.total, len(result.survivors))
        if decoded.counts is None or not decoded.counts.excess:
            return Evaluation(decoded.metrics, result.caveats)
        room, _ = rule.after(plan.encoding, room, decoded.counts, largest=1.0, floor=float("inf"))
    return Evaluation({}, ("nothing is evaluated: the sites' numbers of test examples kept growing",))
