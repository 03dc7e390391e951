"""Sums of one cohort that overlap under one session key: every one of them opens, and no key is used too often."""

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import RemoteProtocolError, TooFewSurvivors
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.he.messages import NO_KEY, Advertise, AskDealer, Frame, UseKey
from privfl.ring import Ring
from privfl.sums import SumTask, run_sum
from privfl.wire import HEADER_BYTES, peek

IDS = (1, 4, 6)
LIMIT = 1 << 30


class Cohort:
    """Clients with a key that lasts, over any number of sums at once."""

    def __init__(self, rotation: int, used: int) -> None:
        fresh, self.directory = generate_identities(IDS)
        self.standing = {c: StandingCredentials(fresh[c], KeyStore(rotation=rotation)) for c in IDS}
        self.scheme = CkksSum(self.directory)
        self.uses: Counter[tuple[int, bytes]] = Counter()
        for number in range(used):
            Sum(self, b"before %d" % number).finish()


class Sum:
    """One sum of the cohort, step by step."""

    def __init__(self, cohort: Cohort, name: bytes) -> None:
        self.cohort, self.task = cohort, SumTask(name, IDS, 1, 4, Ring(23), 100)
        rng = np.random.default_rng(list(name))
        self.vectors = {c: rng.integers(-100, 100, 4) for c in IDS}
        self.server = cohort.scheme.server(self.task)
        self.sessions = {
            c: cohort.scheme.client(self.task, c, self.vectors[c], credentials=cohort.standing[c]) for c in IDS
        }
        self.dealt = False

    def start(self, client: int) -> bytes:
        """The key that this client advertises."""
        message = self.sessions[client].start()
        self.server.receive(client, message)
        return Advertise.from_body(memoryview(message)[HEADER_BYTES:]).advert.held

    def step(self) -> None:
        for client, message in self.server.advance().items():
            self.dealt |= peek(message, max_length=LIMIT)[0].kind == AskDealer.KIND
            answer = self.sessions[client].receive(message)
            assert answer is not None
            if peek(answer, max_length=LIMIT)[0].kind == Frame.KIND:
                key = Frame.from_body(memoryview(answer)[HEADER_BYTES:]).header.key
                self.cohort.uses[client, key] += 1
            self.server.receive(client, answer)

    def finish(self) -> None:
        for client in IDS:
            if client in self.server.awaiting and self.sessions[client].state == "new":
                self.start(client)
        while self.server.result is None:
            self.step()
        assert np.array_equal(self.server.result.total, sum(self.vectors.values()))
        assert self.server.result.blamed == {}


@pytest.mark.parametrize(("rotation", "used"), [(1, 1), (2, 0), (2, 1), (2, 2), (3, 1), (3, 2), (9, 3)])
def test_two_sums_that_advertise_before_either_goes_on_both_open(rotation: int, used: int) -> None:
    cohort = Cohort(rotation, used)
    sums = [Sum(cohort, b"A"), Sum(cohort, b"B")]
    keys = [{one.start(client) for client in IDS} for one in sums]
    left = 0 if used == 0 else (rotation - used) % rotation
    assert [held != {NO_KEY} for held in keys] == [left > 0, left > 1], "each sum has reserved a use of its own"
    for one in sums:
        one.finish()
    assert [one.dealt for one in sums] == [left == 0, left <= 1]
    assert max(cohort.uses.values()) <= rotation


@pytest.mark.parametrize("orders", [*itertools.product(("AB", "BA"), repeat=3)])
def test_clients_that_begin_the_sums_in_different_orders(orders: Iterable[str]) -> None:
    """One use is left, and the clients reserve it for different sums: those sums are dealt a key."""
    cohort = Cohort(rotation=2, used=1)
    sums = {name: Sum(cohort, name.encode()) for name in "AB"}
    for client, order in zip(IDS, orders, strict=True):
        for name in order:
            sums[name].start(client)
    for one in sums.values():
        one.finish()
    assert max(cohort.uses.values()) <= 2


@pytest.mark.parametrize("seed", range(40))
def test_any_interleaving_of_four_sums_opens_all_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = int(rng.integers(1, 6))
    cohort = Cohort(rotation, used=int(rng.integers(0, 4)))
    sums = [Sum(cohort, b"%d" % number) for number in range(4)]
    unstarted = [(one, client) for one in sums for client in IDS]
    rng.shuffle(unstarted)  # type: ignore[arg-type]
    while unstarted or any(one.server.result is None for one in sums):
        ready = [one for one in sums if one.server.result is None and all(one is not other for other, _ in unstarted)]
        if unstarted and (not ready or rng.random() < 0.6):
            one, client = unstarted.pop()
            one.start(client)
        else:
            ready[int(rng.integers(len(ready)))].step()
    for one in sums:
        one.finish()
    assert max(cohort.uses.values()) <= rotation


def test_a_reserved_use_counts_even_if_the_sum_is_never_opened() -> None:
    cohort = Cohort(rotation=3, used=1)
    abandoned = Sum(cohort, b"abandoned")
    assert {abandoned.start(client) for client in IDS} != {NO_KEY}
    following = Sum(cohort, b"following")
    assert {following.start(client) for client in IDS} != {NO_KEY}
    assert Sum(cohort, b"third").start(1) == NO_KEY
    following.finish()
    assert not following.dealt


def test_a_session_that_never_starts_reserves_nothing() -> None:
    cohort = Cohort(rotation=2, used=1)
    Sum(cohort, b"never started")
    held = cohort.standing[1].store.held
    assert Sum(cohort, b"next").start(1) == held != NO_KEY


def test_a_key_that_was_replaced_in_the_meantime_still_opens_the_sum_that_reserved_it() -> None:
    cohort = Cohort(rotation=2, used=1)
    first, second = Sum(cohort, b"first"), Sum(cohort, b"second")
    reserved = {first.start(client) for client in IDS}
    second.finish()  # is dealt another key
    assert second.dealt
    assert cohort.standing[1].store.held not in (NO_KEY, *reserved)
    first.finish()
    assert not first.dealt


def test_a_server_that_names_the_key_to_a_client_that_reserved_none_gets_no_frame() -> None:
    cohort = Cohort(rotation=2, used=1)
    first, second = Sum(cohort, b"first"), Sum(cohort, b"second")
    (key,) = {first.start(client) for client in IDS}
    assert second.start(1) == NO_KEY
    message = UseKey(key).to_bytes(sender=0xFFFF_FFFF, task=second.task.digest())
    with pytest.raises(RemoteProtocolError, match="does not hold"):
        second.sessions[1].receive(message)
    assert second.sessions[1].state == "aborted"
    first.finish()


def test_dropouts_of_one_sum_cost_the_other_nothing() -> None:
    cohort = Cohort(rotation=2, used=1)
    lonely, other = Sum(cohort, b"lonely"), Sum(cohort, b"other")
    lonely.start(IDS[0])
    for client in IDS:
        other.start(client)
    for client in lonely.server.awaiting:
        lonely.server.drop(client)
    with pytest.raises(TooFewSurvivors):
        lonely.server.advance()
    other.finish()
    assert other.dealt, "one client's last use went into the sum that was abandoned"
    task = SumTask(b"after", IDS, 1, 4, Ring(23), 100)
    run_sum(cohort.scheme, task, dict.fromkeys(IDS, np.arange(4)), credentials=cohort.standing)
