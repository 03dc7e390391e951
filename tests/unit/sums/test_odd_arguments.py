"""Arguments of another type: a typed error where they are given, and no sum of something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.checks import draw
from privfl.crypto import generate_identities
from privfl.crypto.shamir import split
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import rounded_gaussian
from privfl.dp.noise.skellam import skellam
from privfl.errors import ConfigError, PrivflError, StateError, WireError
from privfl.ring import Ring
from privfl.secagg import MaskedSum, plan_sum
from privfl.sums import SumPolicy, SumTask

CREDENTIALS, DIRECTORY = generate_identities(range(4))
TASK = SumTask(b"odd", (0, 1, 2, 3), 2, 2, Ring(32), 10)
SCHEME = MaskedSum(DIRECTORY)
VECTOR = np.ones(2, np.int64)

ODD: list[Any] = [None, "a", [], {}, object()]


def client(**changes: Any) -> Any:
    return SCHEME.client(**{"task": TASK, "me": 0, "vector": VECTOR, "credentials": CREDENTIALS[0], **changes})


ATTEMPTS: dict[str, Callable[[Any], object]] = {
    "context": lambda odd: SumTask(odd, (0, 1), 2, 2, Ring(32), 1),
    "clients": lambda odd: SumTask(b"", odd, 2, 2, Ring(32), 1),
    "a client": lambda odd: SumTask(b"", (0, odd), 2, 2, Ring(32), 1),
    "min_survivors": lambda odd: SumTask(b"", (0, 1), odd, 2, Ring(32), 1),
    "length": lambda odd: SumTask(b"", (0, 1), 2, odd, Ring(32), 1),
    "ring": lambda odd: SumTask(b"", (0, 1), 2, 2, odd, 1),
    "bound": lambda odd: SumTask(b"", (0, 1), 2, 2, Ring(32), odd),
    "min_cohort": lambda odd: SumPolicy(min_cohort=odd),
    "directory": MaskedSum,
    "threads": lambda odd: MaskedSum(DIRECTORY, threads=odd),
    "min_vectors": lambda odd: MaskedSum(DIRECTORY, min_vectors=odd),
    "graph": lambda odd: MaskedSum(DIRECTORY, graph=odd).terms(TASK),
    "corrupt": lambda odd: MaskedSum(DIRECTORY, corrupt=odd),
    "dropout": lambda odd: MaskedSum(DIRECTORY, dropout=odd),
    "security_bits": lambda odd: MaskedSum(DIRECTORY, security_bits=odd),
    "correctness_bits": lambda odd: MaskedSum(DIRECTORY, correctness_bits=odd),
    "packed": lambda odd: MaskedSum(DIRECTORY, packed=odd),
    "mode": lambda odd: MaskedSum(DIRECTORY, mode=odd),
    "task": SCHEME.terms,
    "me": lambda odd: client(me=odd),
    "vector": lambda odd: client(vector=odd),
    "credentials": lambda odd: client(credentials=odd),
    "policy": lambda odd: client(policy=odd),
    "entropy": lambda odd: client(entropy=odd),
    "planned clients": lambda odd: plan_sum(odd, 10),
    "planned length": lambda odd: plan_sum(10, odd),
    "planned corrupt": lambda odd: plan_sum(1000, 10, corrupt=odd),
    "dropped": lambda odd: SCHEME.server(TASK).drop(odd),
}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_argument_of_another_type_is_a_configuration_error(name: str, odd: Any) -> None:
    with pytest.raises(ConfigError):
        ATTEMPTS[name](odd)


@pytest.mark.parametrize("odd", [*ODD, 5], ids=lambda odd: type(odd).__name__)
def test_messages_and_states_that_are_no_bytes(odd: Any) -> None:
    server = SCHEME.server(TASK)
    before = server.to_bytes()
    with pytest.raises(WireError):
        server.receive(0, odd)
    assert server.to_bytes() == before
    with pytest.raises(StateError):
        SCHEME.resume(TASK, odd)


SHORT: dict[str, Callable[[int], Any]] = {
    "nothing": lambda count: b"",
    "one byte less": lambda count: os.urandom(count - 1),
    "one byte more": lambda count: os.urandom(count + 1),
    "at most 8 bytes": lambda count: os.urandom(min(count, 7)),
    "None": lambda count: None,
    "text": lambda count: "x" * count,
    "numbers": lambda count: [0] * count,
}


@pytest.mark.parametrize("source", SHORT.values(), ids=SHORT)
def test_a_source_that_gives_another_number_of_bytes_is_refused(source: Callable[[int], Any]) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: draw(source, 32),
        lambda: split(bytes(32), [1, 2, 3], 2, source),
        lambda: generate_identities(range(2), source),
        lambda: client(entropy=source),
        lambda: rounded_gaussian(3.0, 10, entropy=source),
        lambda: discrete_gaussian(3.0, 10, entropy=source),
        lambda: discrete_gaussian(1e5, 10, entropy=source),
        lambda: skellam(4.0, 10, entropy=source),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="the source of random bytes gave"):
            attempt()


def test_a_source_that_fails_later_is_refused_too() -> None:
    """The shares and the nonces of a session are taken from it after its keys."""
    given: list[int] = []

    def source(count: int) -> bytes:
        given.append(count)
        return os.urandom(count if len(given) <= 3 else 5)

    session, others = client(entropy=source), {}
    server = SCHEME.server(TASK)
    others = {c: SCHEME.client(TASK, c, VECTOR, credentials=CREDENTIALS[c]) for c in (1, 2, 3)}
    for me, one in {0: session, **others}.items():
        server.receive(me, one.start())
    roster = server.advance()[0]
    with pytest.raises(PrivflError, match="the source of random bytes gave 5 bytes"):
        session.receive(roster)
