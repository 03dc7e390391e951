"""The plain sum: exact, streaming, and unmoved by misused messages."""

import hashlib
import tracemalloc
from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError, LocalProtocolError, PlanRejected, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumPolicy, SumTask
from privfl.sums.plain import Upload
from privfl.wire import HEADER_BYTES, SERVER

TASK = SumTask(b"round 1", (2, 3, 5, 8), 2, 6, Ring(20), 1000)


def vector(client: int) -> Ints:
    return np.arange(6) * client - 7


def upload(client: int, task: SumTask = TASK) -> bytes:
    return PlainSum().client(task, client, vector(client)).start()


@pytest.mark.parametrize("bits", [13, 16, 17, 32, 33, 64])
def test_the_sum_is_exact_at_the_bound(bits: int) -> None:
    bound = (Ring(bits).half - 1) // 4
    task = SumTask(b"", (0, 1, 2, 3), 1, 3, Ring(bits), bound)
    server = PlainSum().server(task)
    for client in task.clients:
        server.receive(client, PlainSum().client(task, client, np.array([bound, -bound, client - 2])).start())
    assert server.awaiting == frozenset()
    assert server.advance() == {}
    assert server.result is not None
    assert server.result.total.tolist() == [4 * bound, -4 * bound, -2]
    assert server.result.total.dtype == np.int64
    assert server.result.survivors == {0, 1, 2, 3}
    assert server.result.caveats == ("plain sum: the server saw every client's vector",)


def test_a_result_can_be_compared_and_hides_its_total_from_the_repr() -> None:
    server = PlainSum().server(TASK)
    for client in (2, 5):
        server.receive(client, upload(client))
    server.advance()
    assert server.result == server.result
    assert "total" not in repr(server.result)
    assert server.result is not None
    ids = bytes.fromhex("02000000 05000000")
    assert server.result.transcript == hashlib.sha256(b"privfl/1 plain-sum transcript" + TASK.digest() + ids).digest()


def test_the_opening_runs_once_on_the_sum_and_its_survivors() -> None:
    seen = []

    def opening(total: Ints, survivors: frozenset[int]) -> Ints:
        seen.append((total.tolist(), survivors))
        return total + 1

    server = PlainSum().server(TASK, opening=opening)
    for client in (3, 8):
        server.receive(client, upload(client))
    server.advance()
    expected = vector(3) + vector(8)
    assert seen == [(expected.tolist(), {3, 8})]
    assert server.result is not None
    np.testing.assert_array_equal(server.result.total, expected + 1)


def header(message: bytes, at: int, value: bytes) -> bytes:
    return message[:at] + value + message[at + len(value) :]


OTHER = SumTask(b"round 2", TASK.clients, 2, 6, Ring(20), 1000)
FULL = upload(3)
MISUSES: dict[str, bytes] = {
    "nothing": b"",
    "a cut message": FULL[:-1],
    "a byte too many": FULL + b"\0",
    "a header alone": FULL[:HEADER_BYTES],
    "another round": upload(3, OTHER),
    "another sender": upload(5),
    "the server's name": header(FULL, 7, SERVER.to_bytes(4, "little")),
    "another kind": header(FULL, 5, b"\x02\x01"),
    "another version": header(FULL, 4, b"\x02"),
    "a value outside the ring": FULL[:-4] + (1 << 20).to_bytes(4, "little"),
    "a value above the bound": FULL[:-4] + (1001).to_bytes(4, "little"),
    "a value below minus the bound": FULL[:-4] + ((1 << 20) - 1001).to_bytes(4, "little"),
    "too few values": Upload(Ring(20).pack(Ring(20).zeros(5))).to_bytes(sender=3, task=TASK.digest()),
    "too many values": Upload(Ring(20).pack(Ring(20).zeros(7))).to_bytes(sender=3, task=TASK.digest()),
    "a blob that says it is longer": header(FULL, HEADER_BYTES, (25).to_bytes(8, "little")),
    "a blob that says it is shorter": header(FULL, HEADER_BYTES, (20).to_bytes(8, "little")),
    "a blob beyond all memory": header(FULL, HEADER_BYTES, b"\xff" * 8),
}


UNUSABLE = {*list(MISUSES)[:9], "too many values"}  # refused before a field of them is read


@pytest.mark.parametrize("name", sorted(UNUSABLE))
def test_unusable_bytes_change_nothing(name: str) -> None:
    server = PlainSum().server(TASK)
    with pytest.raises(WireError):
        server.receive(3, MISUSES[name])
    assert server.awaiting == set(TASK.clients)
    assert not server.blamed
    server.receive(3, FULL)
    server.receive(5, upload(5))
    server.advance()
    assert server.result is not None
    np.testing.assert_array_equal(server.result.total, vector(3) + vector(5))


@pytest.mark.parametrize("name", sorted(set(MISUSES) - UNUSABLE))
def test_a_misused_message_costs_its_sender_the_round_and_nobody_else(name: str) -> None:
    server = PlainSum().server(TASK)
    server.receive(2, upload(2))
    with pytest.raises(RemoteProtocolError, match="client 3: ") as caught:
        server.receive(3, MISUSES[name])
    assert caught.value.sender == 3
    assert server.awaiting == {5, 8}
    with pytest.raises(RemoteProtocolError, match="nothing is awaited from client 3"):
        server.receive(3, FULL)  # it had its chance
    server.receive(8, upload(8))
    server.advance()
    assert server.result is not None
    np.testing.assert_array_equal(server.result.total, vector(2) + vector(8))
    assert server.result.survivors == {2, 8}
    assert set(server.result.blamed) == {3}


def test_entries_at_the_bound_are_taken() -> None:
    for value in (1000, (1 << 20) - 1000):
        server = PlainSum().server(TASK)
        server.receive(3, FULL[:-4] + value.to_bytes(4, "little"))
        assert server.awaiting == {2, 5, 8}


def test_a_second_upload_and_a_stranger_leave_the_sum_as_it_was() -> None:
    server = PlainSum().server(TASK)
    for client in (2, 3):
        server.receive(client, upload(client))
    server.receive(2, upload(2))
    assert not server.ready or server.awaiting == {5, 8}
    with pytest.raises(WireError):
        server.receive(4, upload(2))
    stranger = header(upload(2), 7, (4).to_bytes(4, "little"))
    with pytest.raises(RemoteProtocolError, match="nothing is awaited from client 4"):
        server.receive(4, stranger)
    server.advance()
    server.receive(2, upload(2))  # late: ignored
    assert server.result is not None
    np.testing.assert_array_equal(server.result.total, vector(2) + vector(3))
    assert server.result.blamed == {}


def test_below_the_threshold_nothing_is_opened_and_the_session_is_over() -> None:
    opened = []
    server = PlainSum().server(TASK, opening=lambda total, survivors: opened.append(1) or total)
    server.receive(2, upload(2))
    assert not server.ready
    with pytest.raises(LocalProtocolError, match="too early"):
        server.advance()
    for client in server.awaiting:
        server.drop(client)
    with pytest.raises(TooFewSurvivors) as caught:
        server.advance()
    assert (caught.value.survivors, caught.value.threshold) == (1, 2)
    assert server.result is None
    assert opened == []
    for again in (server.advance, lambda: server.receive(3, FULL)):
        with pytest.raises(LocalProtocolError, match="over"):
            again()


def test_a_failing_opening_opens_nothing() -> None:
    def fail(total: Ints, survivors: frozenset[int]) -> Ints:
        raise RuntimeError("no noise")

    server = PlainSum().server(TASK, opening=fail)
    for client in (2, 3):
        server.receive(client, upload(client))
    with pytest.raises(RuntimeError, match="no noise"):
        server.advance()
    assert server.result is None
    with pytest.raises(LocalProtocolError):
        server.advance()


def test_a_client_speaks_once_and_is_not_spoken_to() -> None:
    client = PlainSum().client(TASK, 3, vector(3))
    client.start()
    with pytest.raises(LocalProtocolError):
        client.start()
    other = PlainSum().client(TASK, 3, vector(3))
    with pytest.raises(WireError):
        other.receive(b"hello")
    assert other.start() == upload(3)


@pytest.mark.parametrize(
    ("me", "values", "message"),
    [
        (4, np.zeros(6, int), "client 4 is not in the cohort"),
        (3, np.zeros(6), "array of integers"),
        (3, np.zeros(6, bool), "array of integers"),
        (3, [0] * 6, "array of integers"),
        (3, np.zeros(5, int), r"shape \(5,\)"),
        (3, np.zeros((6, 1), int), r"shape \(6, 1\)"),
        (3, np.full(6, 1001), "an entry is beyond the task's bound of 1000"),
        (3, np.full(6, -1001), "an entry is beyond the task's bound of 1000"),
        (3, np.full(6, 2**64 - 1, np.uint64), "an entry is beyond the task's bound of 1000"),
        (3, np.full(6, -(2**63)), "an entry is beyond the task's bound of 1000"),
    ],
)
def test_a_vector_outside_the_task_is_refused(me: int, values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlainSum().client(TASK, me, values)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64, ">i8"])
def test_any_integer_type_and_stride_sums(dtype: Any) -> None:
    values = np.arange(12).astype(dtype)[::2]
    assert PlainSum().client(TASK, 3, values).start() == PlainSum().client(TASK, 3, values.astype(np.int64)).start()


@pytest.mark.parametrize(
    ("policy", "reason"),
    [(SumPolicy(min_cohort=5), "cohort is 4"), (SumPolicy(min_survivors=3), "min_survivors is 2")],
)
def test_a_client_insists_on_its_policy(policy: SumPolicy, reason: str) -> None:
    with pytest.raises(PlanRejected, match=reason):
        PlainSum().client(TASK, 3, vector(3), policy=policy)


def test_the_server_holds_a_total_and_not_the_vectors() -> None:
    length = 200_000
    task = SumTask(b"", tuple(range(30)), 1, length, Ring(32), 1000)
    values = np.arange(length) % 1000
    message = PlainSum().client(task, 0, values).start()
    messages = {c: header(message, 7, c.to_bytes(4, "little")) for c in task.clients}
    tracemalloc.start()
    server = PlainSum().server(task)
    for client in task.clients:
        server.receive(client, messages[client])
    server.advance()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 4 * length
    assert server.result is not None
    np.testing.assert_array_equal(server.result.total, 30 * values)
