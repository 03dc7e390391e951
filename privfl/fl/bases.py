"""The models that the clients of an asynchronous round trained from, as its plan lists them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from privfl.dp.unit import Adjacency, Everyone
from privfl.errors import ConfigError, PrivacyError
from privfl.fl.chunks import Chunk
from privfl.fl.client import ClientUpdate
from privfl.wire import ClientId

if TYPE_CHECKING:
    from privfl.fl.plan import RoundPlan

_HASH_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Base:
    """One client's part of a plan with arrivals.

    Attributes:
        model_hash: The hash of the model that the client trained from, 64 hexadecimal digits.
        weight: The factor of its update, in (0, 1]; it falls with the age of the update.
    """

    model_hash: str
    weight: float

    def __post_init__(self) -> None:
        if len(self.model_hash) != _HASH_DIGITS or set(self.model_hash) - set("0123456789abcdef"):
            raise ConfigError("the hash of a base model must be 64 hexadecimal digits, from model_hash(model)")
        if type(self.weight) is not float or not (math.isfinite(self.weight) and 0 < self.weight <= 1):
            raise ConfigError(f"the weight of an update must be a float in (0, 1], not {self.weight!r}")


def check_jobs(plan: RoundPlan) -> None:
    """Refuse bases and batched chunks in plans that they do not fit.

    Raises:
        ConfigError: The plan keeps states, sums over examples, or does not list a base for each client.
    """
    examples, states = plan.encoding.examples is not None, bool(plan.state_rounds)
    if plan.chunking.kind == "batched" and examples:
        raise ConfigError(
            "clients are not trained in batches where a plan sums over examples: set cohort.training = 'single'"
        )
    if not plan.bases:
        return
    fits = len(plan.bases) == len(plan.cohort) <= plan.population and type(plan.sampling) is Everyone
    if not fits or examples or states:
        raise ConfigError(
            f"bases must name a model for each of the {len(plan.cohort)} clients, in a plan without states, without "
            "sums over examples, and with the sampling Everyone(), which claims nothing"
        )


def check_neighbors(adjacency: Adjacency) -> None:
    """Refuse to charge an asynchronous round under add_remove.

    A neighbor with one client more or less has another schedule: the members of every later buffer change, and the
    noise hides one contribution to each. Under the other relations the clients, and so the schedule, are the same.

    Args:
        adjacency: The relation of neighboring data sets.

    Raises:
        PrivacyError: For add_remove.
    """
    if adjacency == "add_remove":
        raise PrivacyError(
            "adjacency = 'add_remove' does not fit asynchronous rounds: with one client more, other clients would fill "
            "every later buffer. Set privacy.adjacency = 'zero_out' or 'replace_one'"
        )


def base_of(plan: RoundPlan, client: ClientId) -> Base | None:
    """The base of a client of the cohort; None in a synchronous round.

    Args:
        plan: The round's plan.
        client: A client of its cohort.
    """
    return plan.bases[plan.cohort.index(client)] if plan.bases else None


def model_hash_of(plan: RoundPlan, client: ClientId | None) -> str:
    """The hash of the model that a client of the cohort trains from; the global model's for anybody else.

    Args:
        plan: The round's plan.
        client: The client; None for the server.
    """
    own = None if client is None or client not in plan.cohort else base_of(plan, client)
    return plan.model_hash if own is None else own.model_hash


def weighed(plan: RoundPlan, client: ClientId, update: ClientUpdate) -> ClientUpdate:
    """The update of a client times the weight that the plan gives it.

    Args:
        plan: The round's plan.
        client: The client.
        update: What its training returned.
    """
    base = base_of(plan, client)
    if base is None or base.weight == 1.0:
        return update
    blocks = {name: vector * base.weight for name, vector in update.blocks.items()}
    return dataclasses.replace(update, delta=update.delta * base.weight, blocks=blocks)


def jobs_of(plan: RoundPlan) -> list[tuple[str, list[Chunk]]]:
    """The chunks of a round by the hash of the model that their clients train from, in the order of the cohort."""
    if not plan.bases:
        return [(plan.model_hash, plan.chunking.of(plan.cohort))]
    groups: dict[str, list[ClientId]] = {}
    for client, base in zip(plan.cohort, plan.bases, strict=True):
        groups.setdefault(base.model_hash, []).append(client)
    return [(model, plan.chunking.of(clients)) for model, clients in groups.items()]
