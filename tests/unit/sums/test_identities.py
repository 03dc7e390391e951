"""Identities as they come out of arrays and engines, and sources of random bytes that give too few."""

import os
from typing import Any

import numpy as np
import pytest

from privfl.checks import draw
from privfl.crypto import AgreementKey, Credentials, SigningKey, generate_identities
from privfl.crypto.sealed import seal
from privfl.crypto.shamir import split
from privfl.errors import ConfigError
from privfl.he import CkksSum
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumTask, number_clients, run_sum

CREDENTIALS, DIRECTORY = generate_identities(range(4))


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.int16])
@pytest.mark.parametrize(
    "scheme", [PlainSum(), MaskedSum(DIRECTORY), CkksSum(DIRECTORY)], ids=["plain", "masked", "ckks"]
)
def test_a_numpy_integer_is_an_identity(scheme: Any, kind: Any) -> None:
    task = SumTask(os.urandom(8), (0, 1, 2, 3), 3, 1, Ring(23), 9)
    session = scheme.client(task, kind(3), np.ones(1, np.int64), credentials=CREDENTIALS[3])
    server = scheme.server(task)
    server.receive(3, session.start())
    assert server.awaiting == {0, 1, 2}


@pytest.mark.parametrize("bad", [True, -1, 2**32 - 1, 2**64 - 1, "a", None, 1.0, b"\0"])
def test_other_identities_are_refused_before_anything_is_used_up(bad: Any) -> None:
    own = Credentials.generate(3)
    task = SumTask(b"refused", (0, 1, 2, 3), 3, 1, Ring(23), 9)
    with pytest.raises(ConfigError, match="identity"):
        Credentials.generate(bad)
    with pytest.raises(ConfigError):
        generate_identities([0, bad])
    with pytest.raises(ConfigError):
        SumTask(b"", (0, bad), 1, 1, Ring(23), 9)
    with pytest.raises(ConfigError):
        MaskedSum(DIRECTORY).client(task, bad, np.ones(1, np.int64), credentials=own)
    assert MaskedSum(DIRECTORY).client(task, 3, np.ones(1, np.int64), credentials=own).start()


def test_names_of_any_kind_get_numbers_that_everybody_agrees_on() -> None:
    names = ["berlin", 16463882520193523894, "aachen", 3, -7]
    numbers = number_clients(names)
    assert numbers == {-7: 0, 3: 1, 16463882520193523894: 2, "aachen": 3, "berlin": 4}
    assert number_clients(reversed(names)) == numbers
    more = number_clients(["aachen", "cologne", 5], numbers)
    assert more == {**numbers, 5: 5, "cologne": 6}
    credentials, directory = generate_identities(numbers.values())
    task = SumTask(b"named", tuple(sorted(numbers.values())), 3, 1, Ring(32), 9)
    vectors = {number: np.array([number]) for number in numbers.values()}
    assert run_sum(MaskedSum(directory), task, vectors, credentials=credentials).total.tolist() == [10]


@pytest.mark.parametrize("names", [["a", "a"], [1, True], [1.5], [None], [b"a"]])
def test_names_that_are_no_names(names: list[Any]) -> None:
    with pytest.raises(ConfigError, match="name"):
        number_clients(names)


def test_more_names_than_numbers() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        number_clients(["a", "b"], {"z": 2**32 - 3})
    assert number_clients(["a"], {"z": 2**32 - 3})["a"] == 2**32 - 2


SHORT = {
    "none": lambda n: b"",
    "one byte less": lambda n: os.urandom(max(n - 1, 0)),
    "at most 48": lambda n: os.urandom(min(n, 48) - (n <= 48)),
    "too many": lambda n: os.urandom(n + 1),
    "no bytes": lambda n: [0] * n,
}


@pytest.mark.parametrize("name", SHORT)
def test_a_source_of_too_few_random_bytes_is_refused_everywhere(name: str) -> None:
    source: Any = SHORT[name]
    task = SumTask(b"", (0, 1, 2, 3), 3, 1, Ring(23), 9)
    vector = np.ones(1, np.int64)
    for use in (
        lambda: draw(source, 32),
        lambda: split(bytes(32), [1, 2, 3], 3, source),
        lambda: AgreementKey.generate(source),
        lambda: SigningKey.generate(source),
        lambda: Credentials.generate(0, source),
        lambda: seal(bytes(32), b"content", associated=b"", entropy=source),
        lambda: MaskedSum(DIRECTORY).client(task, 0, vector, credentials=CREDENTIALS[0], entropy=source),
        lambda: CkksSum(DIRECTORY).client(task, 0, vector, credentials=CREDENTIALS[0], entropy=source),
    ):
        with pytest.raises(ConfigError, match="random bytes"):
            use()
    assert draw(os.urandom, 0) == b""
