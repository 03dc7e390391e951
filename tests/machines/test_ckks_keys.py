"""Session keys of CKKS sums over several sums: dealt, used again, rotated, and dealt outside."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from ckks_sums import People, task_of, vectors_of

from privfl.errors import ConfigError
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.messages import Deal, Dealt, UseKey
from privfl.sums import SumTask, run_sum
from privfl.wire import peek


def kinds(scheme: CkksSum, task: SumTask, credentials: Mapping[int, object]) -> set[int]:
    """Runs a sum and tells which kinds of message were sent."""
    seen: set[int] = set()
    vectors = vectors_of(task)
    result = run_sum(
        scheme,
        task,
        vectors,
        credentials=credentials,
        tap=lambda way, client, message: seen.add(peek(message, max_length=1 << 30)[0].kind),
    )
    assert np.array_equal(result.total, sum(vectors[c] for c in result.survivors))
    return seen


def test_a_session_key_is_dealt_anew_after_its_rotation(
    people: People,
) -> None:
    credentials, directory = people
    scheme = CkksSum(directory)
    standing = {c: StandingCredentials(credentials[c], KeyStore(rotation=3)) for c in range(4)}
    dealt = [Deal.KIND in kinds(scheme, task_of(4, 1, bytes([n])), standing) for n in range(8)]
    assert dealt == [True, False, False, True, False, False, True, False]


def test_a_newcomer_makes_everybody_take_a_fresh_key(people: People) -> None:
    credentials, directory = people
    scheme = CkksSum(directory)
    standing = {c: StandingCredentials(credentials[c], KeyStore(rotation=9)) for c in range(5)}
    four = {c: standing[c] for c in range(4)}
    assert Deal.KIND in kinds(scheme, task_of(4, 1, b"1"), four)
    assert UseKey.KIND in kinds(scheme, task_of(4, 1, b"2"), four)
    before = standing[0].store.held
    assert Dealt.KIND in kinds(scheme, task_of(5, 1, b"3"), standing)
    assert standing[0].store.held not in (before, bytes(32))
    assert len({own.store.held for own in standing.values()}) == 1


def test_a_key_dealt_outside_is_used_as_it_is(people: People) -> None:
    credentials, directory = people
    shared = {c: dataclasses.replace(credentials[c], session_key=bytes(range(32))) for c in range(3)}
    for n in range(3):
        seen = kinds(CkksSum(directory), task_of(3, 1, bytes([n])), shared)
        assert UseKey.KIND in seen
        assert Deal.KIND not in seen


def test_fresh_keys_by_default(people: People) -> None:
    credentials, directory = people
    for n in range(2):
        assert Deal.KIND in kinds(CkksSum(directory), task_of(3, 1, bytes([n])), credentials)


def test_credentials_must_be_ones_own(people: People) -> None:
    credentials, directory = people
    task = task_of(3, 1)
    for bad in (None, b"key", credentials[1]):
        with pytest.raises(ConfigError):
            CkksSum(directory).client(task, 0, vectors_of(task)[0], credentials=bad)
    with pytest.raises(ConfigError):
        KeyStore(rotation=0)
