"""The registry of sums: one description each, with everything that experiments and reports know of a sum by name.

What a sum promises it states itself (`SecureSum`): its minimum, its shortfall, its opener, what each observer sees, its
messages. This module adds what lies outside of a sum: how a configuration makes it and its clients' credentials. It
also adds the words that reports use for it, and where a client's vector stands in its messages.

A further sum is one entry of `SCHEMES`; configurations, sites' policies and commands take its name from there. Its
messages need a high byte of their own (`privfl.wire.Message`). If its sessions last several steps, implement
`privfl.sums.restore`: without it a crash costs a new attempt of the round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.crypto import Credentials, KeyDirectory, MemoryDirectory, generate_identities
from privfl.errors import ConfigError
from privfl.experiment.costs import CostQuestion, SumCosts, ckks_costs, masked_costs
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.messages import Frame
from privfl.observers import Observer, Views
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.messages import MaskedInput
from privfl.sums import PlainSum, SecureSum
from privfl.sums.plain import Upload
from privfl.wire import ClientId, Message

if TYPE_CHECKING:
    from privfl.experiment.config import Config

SeenValues = tuple[npt.NDArray[np.int64], int, int]
"""The numbers that the server reads in one message, and the smallest and the largest that it could read there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeDescription:
    """One sum, as experiments and reports know it.

    Attributes:
        title: The sum in a table's heading.
        method: The method that protects the vectors.
        build: Makes the sum from a configuration and the directory of its clients' keys.
        credentials: Makes one client's credentials from a configuration and its keys; None for a sum without keys.
        sees: What each observer sees, in a phrase that follows "sees". Its observers are those of the sum's `views`.
        vector_message: The message that carries a client's vector.
        vector_step: The client's step, counted from 0, from which on that message is missing if the client drops out.
        read_vector: Reads the server's numbers from that message, the ring and the length of the vector.
        entry: What one of those numbers is.
        looks_uniform: Whether those numbers look like uniform noise to the server.
        costs: Answers what one sum costs before it starts; None for a sum without parameters.
        mesh_noise: Whether the sum's planner also plans noise inside the sum.
    """

    title: str
    method: str
    build: Callable[[Config, KeyDirectory], SecureSum]
    credentials: Callable[[Config, Credentials], Any] | None
    sees: Mapping[Observer, str]
    vector_message: type[Message]
    vector_step: int
    read_vector: Callable[[Any, Ring, int], SeenValues]
    entry: Literal["entry", "byte"] = "entry"
    looks_uniform: bool = True
    costs: Callable[[CostQuestion], SumCosts] | None = None
    mesh_noise: bool = False

    def views(self, config: Config) -> Views:
        """The view that each observer has of the sum that `config` makes."""
        return self.build(config, MemoryDirectory({})).views

    def protocol(self, config: Config) -> str:
        """The name and the version of the protocol of the sum that `config` makes, such as "masked-sum/1"."""
        return self.build(config, MemoryDirectory({})).name

    @property
    def sentence(self) -> str:
        """The server's view, as the second half of a sentence."""
        return f"the server sees {self.sees['server']}"


def _ring_words(message: Any, ring: Ring, length: int) -> SeenValues:
    dense = len(message.values) != ring.packed_bytes(length)
    return ring.center(ring.unpack(message.values, length, dense=dense)), -ring.half, ring.half - 1


def _ciphertext_bytes(message: Any, ring: Ring, length: int) -> SeenValues:
    return np.frombuffer(bytes(message.block), np.uint8).astype(np.int64), 0, 255


SCHEMES: Final[dict[str, SchemeDescription]] = {
    "plain": SchemeDescription(
        title="plain sum",
        method="no protection",
        build=lambda config, directory: PlainSum(),
        credentials=None,
        sees={
            "outsider": "the released models",
            "participant": "the released models",
            "server": "every client's vector in the clear",
        },
        vector_message=Upload,
        vector_step=0,
        read_vector=_ring_words,
        looks_uniform=False,
    ),
    "masked": SchemeDescription(
        title="masked sum",
        method="secure aggregation",
        build=lambda config, directory: MaskedSum(directory, packed="wide", threads=config.engine.sum_workers),
        credentials=lambda config, own: own,
        sees={
            "outsider": "the released models",
            "participant": "the released models and who took part",
            "server": "masked vectors that look like uniform noise one by one, and their exact sum",
        },
        vector_message=MaskedInput,
        vector_step=2,
        read_vector=_ring_words,
        costs=masked_costs,
        mesh_noise=True,
    ),
    "ckks": SchemeDescription(
        title="CKKS sum",
        method="homomorphic encryption",
        build=lambda config, directory: CkksSum(directory),
        credentials=lambda config, own: StandingCredentials(own, KeyStore(config.sum.key_sums)),
        sees={
            "outsider": "the released models",
            "participant": "the exact sum, because every participant receives the session key",
            "server": "ciphertexts without the key, and what the opener releases",
            "key_holder": "the exact sum; with the server's traffic, every vector",
        },
        vector_message=Frame,
        vector_step=1,
        read_vector=_ciphertext_bytes,
        entry="byte",
        costs=ckks_costs,
    ),
}
"""Every sum, by its name in a configuration."""


def describe(name: str) -> SchemeDescription:
    """The description of the sum of this name; raises `ConfigError` for a name that is not in the registry."""
    if name not in SCHEMES:
        raise ConfigError(f"sum must be one of {', '.join(SCHEMES)}, not {name!r}")
    return SCHEMES[name]


def build_sum(config: Config, clients: int) -> tuple[SecureSum, Mapping[ClientId, Any] | None]:
    """The sum of a configuration, with fresh credentials of its clients.

    Args:
        config: Its section `sum` names the sum.
        clients: The number of clients, who are named 0 to clients - 1.

    Returns:
        The sum, and the credentials by client, or None for a sum without keys.
    """
    description = describe(config.sum.scheme)
    make = description.credentials
    if make is None:
        return description.build(config, MemoryDirectory({})), None
    identities, directory = generate_identities(range(clients))
    scheme = description.build(config, directory)
    return scheme, {client: make(config, own) for client, own in identities.items()}
