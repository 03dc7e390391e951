"""The task, its digest, the policy, and the driver's own rules."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from privfl.errors import CapacityError, ConfigError, PlanRejected, TooFewSurvivors
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumPolicy, SumTask, run_sum
from privfl.sums.base import MAX_CLIENTS, MAX_LENGTH, KeyedOpening, identity
from privfl.wire import SERVER

GOOD: dict[str, Any] = {
    "context": b"ctx",
    "clients": (1, 2, 7),
    "min_survivors": 2,
    "length": 4,
    "ring": Ring(16),
    "bound": 100,
}
TASK = SumTask(**GOOD)


def test_the_digest_is_the_hash_of_the_documented_form() -> None:
    form = (3).to_bytes(8, "little") + b"ctx"
    form += b"".join(n.to_bytes(4, "little") for n in (3, 1, 2, 7))
    form += b"".join(n.to_bytes(8, "little") for n in (2, 4)) + (16).to_bytes(2, "little") + (100).to_bytes(8, "little")
    assert TASK.digest() == hashlib.sha256(b"privfl/1 sum-task" + form).digest()
    assert SumTask(**GOOD) == TASK
    assert hash(TASK) == hash(SumTask(**GOOD))


@pytest.mark.parametrize(
    "change",
    [
        {"context": b"ctX"},
        {"clients": (1, 2, 8)},
        {"min_survivors": 3},
        {"length": 5},
        {"ring": Ring(17)},
        {"bound": 99},
    ],
)
def test_every_part_of_a_task_is_in_its_digest(change: dict[str, Any]) -> None:
    other = dataclasses.replace(TASK, **change)
    assert other.digest() != TASK.digest()
    assert other != TASK


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": bytes(1025)}, "1025 bytes, at most 1024"),
        ({"clients": ()}, "1 to 100000 clients, not 0"),
        ({"clients": tuple(range(MAX_CLIENTS + 1)), "bound": 0}, "not 100001"),
        ({"clients": (2, 1, 7)}, "strictly increasing"),
        ({"clients": (1, 1, 7)}, "strictly increasing"),
        ({"clients": (-1, 1, 7)}, "strictly increasing"),
        ({"clients": (1, 2, SERVER)}, "strictly increasing"),
        ({"clients": (1, 2, np.int64(7))}, "a client must be an int"),
        ({"clients": (False, True)}, "a client must be an int"),
        ({"min_survivors": -1}, r"in \[0, 3\], not -1"),
        ({"min_survivors": 4}, r"in \[0, 3\], not 4"),
        ({"min_survivors": 2.0}, "min_survivors must be an int"),
        ({"length": 0}, "length must be in"),
        ({"length": MAX_LENGTH + 1}, "length must be in"),
        ({"length": np.int32(4)}, "length must be an int"),
        ({"bound": -1}, "bound must be at least 0"),
        ({"bound": 1.5}, "bound must be an int"),
    ],
)
def test_a_contradictory_task_cannot_be_made(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SumTask(**{**GOOD, **change})


def test_the_ring_must_hold_the_sum_of_all_bounds() -> None:
    SumTask(**{**GOOD, "bound": (2**15 - 1) // 3})
    with pytest.raises(CapacityError, match="need a ring of 17 bits, not 16"):
        SumTask(**{**GOOD, "bound": (2**15 - 1) // 3 + 1})


def test_the_longest_task_fits_a_message() -> None:
    size = Ring(64).packed_bytes(MAX_LENGTH)
    assert size + 1024 < 1 << 32


def test_a_policy_compares_each_of_its_demands() -> None:
    SumPolicy(3, 2, 5).check(TASK, threshold=5)
    SumPolicy(3, 2, 5).check(TASK)  # a scheme without shares has no threshold to judge
    for policy, reason in [
        (SumPolicy(min_cohort=4), "cohort is 3, and this client insists on at least 4"),
        (SumPolicy(min_survivors=3), "min_survivors is 2"),
        (SumPolicy(min_threshold=6), "share_threshold is 5"),
    ]:
        with pytest.raises(PlanRejected, match=reason):
            policy.check(TASK, threshold=5)


VECTORS = {c: np.array([c, -c, 0, 100]) for c in TASK.clients}


def test_a_run_reads_a_generator_once_and_in_its_order() -> None:
    made = []

    def train() -> Any:
        for client in (7, 1, 2):
            made.append(client)
            yield client, VECTORS[client]

    result = run_sum(PlainSum(), TASK, train())
    assert made == [7, 1, 2]
    assert result.total.tolist() == [10, -10, 0, 300]


def test_whoever_is_missing_or_drops_is_not_in_the_sum() -> None:
    two = {c: VECTORS[c] for c in (1, 7)}
    assert run_sum(PlainSum(), TASK, two).survivors == {1, 7}
    assert run_sum(PlainSum(), TASK, VECTORS, drop=lambda c, step: c == 2).survivors == {1, 7}
    with pytest.raises(TooFewSurvivors):
        run_sum(PlainSum(), TASK, two, drop=lambda c, step: c == 7)


def test_a_run_refuses_two_vectors_of_one_client_and_missing_credentials() -> None:
    with pytest.raises(ConfigError, match="client 1 has two vectors"):
        run_sum(PlainSum(), TASK, [(1, VECTORS[1]), (1, VECTORS[1])])
    with pytest.raises(ConfigError, match="client 2 has no credentials"):
        run_sum(PlainSum(), TASK, VECTORS, credentials={1: None})
    assert run_sum(PlainSum(), TASK, VECTORS, credentials=dict.fromkeys(TASK.clients)).survivors == {1, 2, 7}


def test_the_tap_sees_every_message() -> None:
    seen: list[tuple[str, int, int]] = []
    run_sum(PlainSum(), TASK, VECTORS, tap=lambda way, client, message: seen.append((way, client, len(message))))
    assert seen == [("up", c, 47 + 8 + 8) for c in TASK.clients]


def test_the_plain_openings() -> None:
    total = np.array([1, 2])
    assert identity(total, frozenset()) is total

    def make(entropy: Any) -> Any:
        def add(total: Ints, survivors: frozenset[int]) -> Ints:
            return total + len(entropy(5)) + len(survivors)

        return add

    assert KeyedOpening(make)(total, frozenset({1})).tolist() == [7, 8]


class Chatty:
    """Three steps: clients echo what the server says, and the server refuses the second word of client 1."""

    name = "chatty/1"
    opener = "server"

    def client(self, task: SumTask, me: int, vector: Ints, **how: Any) -> Any:
        return ChattyClient(me)

    def server(self, task: SumTask, *, opening: Any = identity) -> Any:
        return ChattyServer(task)


class ChattyClient:
    def __init__(self, me: int) -> None:
        self.me = me

    def start(self) -> bytes:
        return b"0"

    def receive(self, message: bytes) -> bytes | None:
        return None if message == b"3" else message


class ChattyServer:
    def __init__(self, task: SumTask) -> None:
        self.task, self.step, self.heard = task, 0, []  # type: ignore[var-annotated]
        self.result: Any = None
        self.ready, self.awaiting = True, frozenset()  # type: ignore[var-annotated]

    def drop(self, client: int) -> None:
        """Nobody is awaited here."""

    def receive(self, sender: int, message: bytes) -> None:
        from privfl.errors import RemoteProtocolError

        self.heard.append((sender, message.decode()))
        if (sender, message) == (1, b"2"):
            raise RemoteProtocolError("rude", sender=1)

    def advance(self) -> Any:
        self.step += 1
        if self.step == 4:
            self.result = self.heard
            return {}
        return {client: str(self.step).encode() for client in (*self.task.clients, 99)}


def test_dropouts_fall_silent_from_their_step_on_and_refusals_do_not_end_the_run() -> None:
    down = []
    heard = run_sum(
        Chatty(),  # type: ignore[arg-type]
        TASK,
        VECTORS,
        drop=lambda client, step: (client, step) == (2, 1),
        tap=lambda way, client, message: down.append((client, message)) if way == "down" else None,
    )
    assert heard == [(1, "0"), (2, "0"), (7, "0"), (1, "1"), (7, "1"), (1, "2"), (7, "2")]
    assert down == [(c, str(s).encode()) for s in (1, 2, 3) for c in (1, 7)]


class Touchy(Chatty):
    """Its client 7 refuses the second word, and its server needs all three clients in the end, if `strict`."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict

    def client(self, task: SumTask, me: int, vector: Ints, **how: Any) -> Any:
        session = ChattyClient(me)
        if me == 7:
            genuine = session.receive

            def receive(message: bytes) -> bytes | None:
                if message == b"2":
                    raise PlanRejected("no")
                return genuine(message)

            session.receive = receive  # type: ignore[method-assign]
        return session

    def server(self, task: SumTask, *, opening: Any = identity) -> Any:
        server = ChattyServer(task)
        if self.strict:
            genuine = server.advance

            def advance() -> Any:
                if server.step == 3:
                    raise TooFewSurvivors(2, 3)
                return genuine()

            server.advance = advance  # type: ignore[method-assign]
        return server


def test_a_client_that_refuses_has_dropped_out() -> None:
    heard = run_sum(Touchy(strict=False), TASK, VECTORS)  # type: ignore[arg-type]
    assert heard == [(1, "0"), (2, "0"), (7, "0"), (1, "1"), (2, "1"), (7, "1"), (1, "2"), (2, "2")]


def test_where_refusals_leave_too_few_the_first_one_is_told() -> None:
    with pytest.raises(TooFewSurvivors) as caught:
        run_sum(Touchy(strict=True), TASK, VECTORS)  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, PlanRejected)
