"""A client's memory between rounds: training that keeps a state, the state as bytes, and when a site commits it.

A state belongs to a client and to the last round that the client survived, which is the last round whose sum holds its
update. The round's plan names that round for every client of the cohort (`RoundPlan.state_rounds`), so a new state
counts from the moment that a plan names its round. A state of a round that the client did not survive is never named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError, StateError
from privfl.files import atomic_write, canonical_json, existing_parent, read_json
from privfl.fl.client import ClientUpdate
from privfl.fl.plan import RoundPlan
from privfl.wire import ClientId

ClientState = Mapping[str, npt.NDArray[Any]]
"""A client's state: named arrays of numbers, of any shape. It is empty before the first round."""

StatefulTrain = Callable[[Vector, ClientId, int, np.random.Generator, ClientState], tuple[ClientUpdate, ClientState]]
"""(model, client, round, rng, state) -> (update, new state)."""

_MAGIC: Final = b"privfl/1 client state\n"
_SITE: Final = b"privfl/1 site state\n"
_LENGTH_BYTES: Final = 8
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Stateful:
    """Training that keeps a state at each client. It stands wherever a `Train` does.

    Attributes:
        train: Called as `train(model, client, round, rng, state)`, and returns the update and the new state. It is
            pure: equal arguments give an equal result, and it changes none of them. The arrays of `state` are
            read-only.
    """

    train: StatefulTrain

    def __call__(
        self, model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """Train one client.

        Args:
            model: The global model, float `[d]`, read-only; the blocks that an algorithm shares follow it.
            client: The client.
            round: The round.
            rng: The client's own randomness in this round.
            state: The state that the client kept after the last round that it survived; empty before the first.

        Returns:
            The update, and the state that the client keeps if its update is in the round's sum.
        """
        return self.train(model, client, round, rng, state)


def pack_state(state: ClientState) -> bytes:
    """The one byte form of a state; b"" for an empty one.

    Raises:
        ConfigError: If an entry is no array of integers, floats or truth values, or its name is no text.
    """
    if not state:
        return b""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in state.items():
        array = np.asarray(value)
        if not isinstance(name, str) or array.dtype.kind not in "iufb":
            raise ConfigError(
                f"a client's state maps names to arrays of numbers, and {name!r} is {array.dtype}: keep numbers only"
            )
        arrays[name] = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    header = canonical_json([[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in sorted(arrays)])
    parts = [_MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header]
    return b"".join([*parts, *(arrays[name].tobytes() for name in sorted(arrays))])


def unpack_state(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The state of `pack_state`'s bytes, as read-only arrays; raises `StateError` for other bytes."""
    if not data:
        return {}
    start = len(_MAGIC) + _LENGTH_BYTES
    size = int.from_bytes(data[len(_MAGIC) : start], "little")
    try:
        if not data.startswith(_MAGIC):
            raise ValueError("another first line")
        at, state = start + size, dict[str, npt.NDArray[Any]]()
        for name, kind, shape in read_json(data[start:at]):
            dtype, count = np.dtype(kind), math.prod(shape)
            state[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
        if at != len(data):
            raise ValueError("of another length")
    except (ValueError, TypeError) as error:
        raise StateError(f"these bytes are not a client's state: {error}") from error
    return state


class SiteState:
    """The state of one client, kept at its own site: one file, replaced in one atomic step.

    The site cannot know at the end of a round if its update is in the sum. It therefore keeps the new state next to the
    old one, and commits the new one when a plan names its round (`RoundPlan.state_rounds`).

        keeper = SiteState(folder / "state", me)
        before = keeper.begin(plan)            # the state to train from
        vector, after = contribution.with_state(model, me, order, before)
        keeper.propose(plan, after)            # durable; then send the vector

    Args:
        path: The file. It need not exist yet.
        me: The client.
    """

    def __init__(self, path: Path | str, me: ClientId) -> None:
        self.path, self.me = existing_parent(path), me

    def begin(self, plan: RoundPlan) -> bytes:
        """The state that this client trains from under `plan`; commits the proposed one if the plan names its round.

        Raises:
            StateError: If the plan names a round whose state this site does not hold, or the file was altered.
            ConfigError: If the plan keeps no states, or does not ask this client.
        """
        named = plan.state_round(self.me)
        held = self._read()
        if named == 0:
            return b""
        if named not in held:
            raise StateError(
                f"the plan of round {plan.round} starts client {self.me} from its state of round {named}, and "
                f"{self.path} holds {', '.join(map(str, sorted(held))) or 'none'}: restore the file, or leave the "
                "federation and join it as a new client"
            )
        if set(held) != {named}:
            self._write({named: held[named]})
        return held[named]

    def propose(self, plan: RoundPlan, state: bytes) -> None:
        """Keep the new state of the plan's round next to the present one, durably; call it before the update leaves.

        Args:
            plan: The plan of the round.
            state: The new state, as `pack_state` gives it.
        """
        named = plan.state_round(self.me)
        held = {round: kept for round, kept in self._read().items() if round == named}
        self._write(held | {plan.round: state})

    def _write(self, held: Mapping[int, bytes]) -> None:
        header = canonical_json({"client": self.me, "states": [[round, len(held[round])] for round in sorted(held)]})
        whole = _SITE + header + b"\n" + b"".join(held[round] for round in sorted(held))
        atomic_write(self.path, whole + hashlib.sha256(whole).digest())

    def _read(self) -> dict[int, bytes]:
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
        if not whole.startswith(_SITE) or hashlib.sha256(whole).digest() != digest:
            raise StateError(f"{self.path} is not a client's state, or was altered: restore it from a copy")
        line, _, rest = whole[len(_SITE) :].partition(b"\n")
        record, held, at = read_json(line), dict[int, bytes](), 0
        if record["client"] != self.me:
            raise StateError(f"{self.path} holds the state of client {record['client']}, and this is client {self.me}")
        for round, size in record["states"]:
            held[int(round)] = rest[at : at + size]
            at += size
        return held
