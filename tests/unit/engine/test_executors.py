"""Executors: the same sum however clients are executed, and nothing left behind when one fails."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from each_client import One, each

from privfl.codec import FixedPoint, Vector
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ClientFailed, ConfigError, LocalProtocolError, TooFewSurvivors
from privfl.fl.client import Executor, client_rng
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumTask, run_sum

CODEC = FixedPoint(2.0**20, Ring(40))
MODEL = np.linspace(-1.0, 1.0, 50)
COHORT = tuple(range(0, 40, 3))


def an_order(round: int, seed: int) -> bytes:
    """What stands for the bytes of a plan here."""
    return json.dumps([round, seed]).encode()


def work(model: Vector, client: int, order: bytes) -> Ints:
    """A training that depends on all that it may depend on; of a module, so that spawned workers find it."""
    round, seed = json.loads(order)
    rng = client_rng(seed, round, client)
    step = rng.normal(size=len(model)) * 0.01 + model * (client % 5) / (1 + round)
    return CODEC.encode(step, max_norm=10.0)


def models(executor: Executor, rounds: int = 3, slow: One = work) -> list[Vector]:
    model, seen = MODEL, []
    for number in range(rounds):
        task = SumTask(b"", COHORT, 1, len(MODEL), CODEC.ring, CODEC.bound(10.0))
        result = run_sum(PlainSum(), task, each(executor, slow, model, COHORT, order=an_order(number, 7)))
        assert result.survivors == set(COHORT)
        model = model + CODEC.decode(result.total) / len(COHORT)
        seen.append(model)
    executor.close()
    return seen


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = {*Path("/dev/shm").iterdir()}  # noqa: S108 - looked at, not written to
    yield
    assert multiprocessing.active_children() == []
    assert {path for path in Path("/dev/shm").iterdir() if "pym" in path.name} <= before  # noqa: S108


def test_the_model_is_bit_identical_for_any_executor_and_any_order_of_arrival() -> None:
    expected = models(LoopExecutor())
    for workers in (1, 2, 3):
        np.testing.assert_array_equal(models(ProcessExecutor(workers)), expected)

    def shuffled(model: Vector, client: int, order: bytes) -> Ints:
        time.sleep(0.02 * ((client * 7 + order[1]) % 3))  # the first shall be last
        return work(model, client, order)

    np.testing.assert_array_equal(models(ProcessExecutor(3), slow=shuffled), expected)


def test_contributions_come_as_they_are_ready() -> None:
    def first_is_slow(model: Vector, client: int, order: bytes) -> Ints:
        if client == 0:
            time.sleep(0.4)
        return work(model, client, order)

    with ProcessExecutor(2) as executor:
        order = [client for client, _ in each(executor, first_is_slow, MODEL, COHORT, order=an_order(0, 0))]
    assert sorted(order) == list(COHORT)
    assert order.index(0) >= len(COHORT) - 2  # the one client given ahead of time to the slow worker comes after it


def test_a_round_can_be_replayed_alone() -> None:
    whole = dict(each(LoopExecutor(), work, MODEL, COHORT, order=an_order(5, 3)))
    with ProcessExecutor(2) as executor:
        [(client, alone)] = each(executor, work, MODEL, [9], order=an_order(5, 3))
    assert client == 9
    np.testing.assert_array_equal(alone, whole[9])
    np.testing.assert_array_equal(alone, work(MODEL, 9, an_order(5, 3)))
    assert (whole[9] != dict(each(LoopExecutor(), work, MODEL, COHORT, order=an_order(5, 4)))[9]).any()


def test_a_yielded_contribution_stays_as_it_was() -> None:
    with ProcessExecutor(1) as executor:
        kept = dict(each(executor, work, MODEL, COHORT, order=an_order(0, 0)))
    for client, contribution in each(LoopExecutor(), work, MODEL, COHORT, order=an_order(0, 0)):
        np.testing.assert_array_equal(kept[client], contribution)


def test_the_pool_is_kept_for_one_work_and_one_form_of_model() -> None:
    def pid(model: Vector, client: int, order: bytes) -> Ints:
        return np.array([os.getpid(), int(model[0])])

    class Method:
        def pid(self, model: Vector, client: int, order: bytes) -> Ints:
            return pid(model, client, order)

    with ProcessExecutor(1) as executor:

        def run(work: One, model: Vector) -> tuple[int, int]:
            [(_, got)] = each(executor, work, model, [0], order=an_order(0, 0))
            return int(got[0]), int(got[1])

        first, seen = run(pid, MODEL)
        assert (first, seen) != (os.getpid(), -1)
        assert run(pid, MODEL + 10) == (first, 9)  # a new model, the same process
        assert run(pid, MODEL.astype(np.float32))[0] != first
        method = Method()
        second, _ = run(method.pid, MODEL)
        assert run(method.pid, MODEL)[0] == second != first
        assert run(Method().pid, MODEL)[0] != second


def test_seeds_and_rounds_of_any_size_reach_the_workers() -> None:
    with ProcessExecutor(1) as executor:
        [(_, got)] = each(executor, work, MODEL, [2**32 - 2], order=an_order(2**40, 2**200))
    np.testing.assert_array_equal(got, work(MODEL, 2**32 - 2, an_order(2**40, 2**200)))


def failing(model: Vector, client: int, order: bytes) -> Ints:
    if client == 9:
        raise ZeroDivisionError("nine")
    return work(model, client, order)


def test_a_client_that_raises_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ClientFailed, match=r"client 9 failed: ZeroDivisionError in failing \(test_executors.py, line \d+\)$"
    ) as caught:
        list(each(LoopExecutor(), failing, MODEL, COHORT, order=an_order(0, 0)))
    assert caught.value.client == 9
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    executor = ProcessExecutor(2)
    with pytest.raises(
        ClientFailed, match=r"client 9 failed: ZeroDivisionError in failing \(test_executors.py, line \d+\)$"
    ) as caught:
        list(each(executor, failing, MODEL, COHORT, order=an_order(0, 0)))
    assert caught.value.client == 9
    trace = str(caught.value.__cause__)  # the worker's own traceback, for the owner of the process
    assert "in failing" in trace
    assert "ZeroDivisionError: nine" in trace
    assert not hasattr(pickle.loads(pickle.dumps(caught.value)), "__notes__")  # noqa: S301 - our own bytes
    assert pickle.loads(pickle.dumps(caught.value)).__cause__ is None  # noqa: S301
    assert multiprocessing.active_children() == []
    assert len(list(each(executor, work, MODEL, COHORT, order=an_order(0, 0)))) == len(COHORT)  # a new pool
    executor.close()
    executor.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_is_reported_with_its_client(number: signal.Signals) -> None:
    def dying(model: Vector, client: int, order: bytes) -> Ints:
        if client == 12:
            os.kill(os.getpid(), number)
        return np.array([os.getpid()])

    pids: set[int] = set()
    arrived = each(ProcessExecutor(3), dying, MODEL, COHORT, order=an_order(0, 0))
    with pytest.raises(ClientFailed, match=f"ended with signal {number.name}") as caught:
        pids.update(int(got[0]) for _, got in arrived)
    assert caught.value.client == 12
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_exits_while_idle_is_noticed() -> None:
    executor = ProcessExecutor(1)
    [(_, got)] = each(executor, lambda *_: np.array([os.getpid()]), MODEL, [0], order=an_order(0, 0))
    executor.close()

    def pid(model: Vector, client: int, order: bytes) -> Ints:
        return np.array([os.getpid()])

    [(_, got)] = each(executor, pid, MODEL, [0], order=an_order(0, 0))
    os.kill(int(got[0]), signal.SIGKILL)
    multiprocessing.connection.wait([child.sentinel for child in multiprocessing.active_children()])
    with pytest.raises(ClientFailed, match="SIGKILL"):
        list(each(executor, pid, MODEL, [4], order=an_order(1, 0)))
    assert len(list(each(executor, pid, MODEL, [4], order=an_order(1, 0)))) == 1
    executor.close()


def test_a_consumer_that_stops_early_ends_the_pool() -> None:
    def endless(model: Vector, client: int, order: bytes) -> Ints:
        if client > 5:
            time.sleep(60)
        return work(model, client, order)

    executor = ProcessExecutor(2)
    for client, _ in each(executor, endless, MODEL, COHORT, order=an_order(0, 0)):
        assert client in (0, 3)
        with pytest.raises(LocalProtocolError, match="another round"):
            next(each(executor, work, MODEL, COHORT, order=an_order(1, 0)))
        break
    gc.collect()
    assert multiprocessing.active_children() == []
    assert len(list(each(executor, work, MODEL, COHORT, order=an_order(1, 0)))) == len(COHORT)
    executor.close()


def test_no_client_at_all_is_an_error() -> None:
    with pytest.raises(TooFewSurvivors):
        list(each(LoopExecutor(), work, MODEL, [], order=an_order(0, 0)))
    with ProcessExecutor(2) as executor, pytest.raises(TooFewSurvivors):
        list(each(executor, work, MODEL, [], order=an_order(0, 0)))


@pytest.mark.parametrize("result", [None, np.zeros(3), np.zeros((2, 2), np.int64), np.zeros(3, np.int32)])
def test_a_contribution_of_another_kind_is_refused(result: object) -> None:
    def wrong(model: Vector, client: int, order: bytes) -> Ints:
        return result  # type: ignore[return-value]

    for executor in (LoopExecutor(), ProcessExecutor(1)):
        with pytest.raises(ClientFailed, match="a contribution is a flat int64 array, not"):
            list(each(executor, wrong, MODEL, [4], order=an_order(0, 0)))


def test_a_contribution_longer_than_its_slot_is_refused() -> None:
    executor = ProcessExecutor(1, length=49)
    with pytest.raises(ClientFailed, match="50 entries, and length is 49"):
        list(each(executor, work, MODEL, [4], order=an_order(0, 0)))


def test_the_model_is_lent_read_only() -> None:
    def writing(model: Vector, client: int, order: bytes) -> Ints:
        model += 1
        return work(model, client, order)

    for executor in (LoopExecutor(), ProcessExecutor(1)):
        with pytest.raises(ClientFailed, match="ValueError in writing") as caught:
            list(each(executor, writing, MODEL, [4], order=an_order(0, 0)))
        assert "read-only" in str(caught.value.__cause__)
    assert MODEL.flags.writeable


def test_the_initializer_runs_once_in_each_worker_and_its_failure_is_told() -> None:
    ran = multiprocessing.get_context("fork").Value("i", 0)

    def initialize() -> None:
        with ran.get_lock():
            ran.value += 1

    with ProcessExecutor(3, initializer=initialize) as executor:
        for number in range(2):
            list(each(executor, work, MODEL, COHORT, order=an_order(number, 0)))
    assert ran.value == 3

    def broken() -> None:
        raise SystemExit(3)

    with pytest.raises(ClientFailed, match="ended with exit code 3"):
        list(each(ProcessExecutor(2, initializer=broken), work, MODEL, COHORT, order=an_order(0, 0)))


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": -1}, {"workers": 2, "length": 0}])
def test_wrong_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        ProcessExecutor(**options)


def test_the_order_reaches_the_workers_that_are_there_already() -> None:
    def echo(model: Vector, client: int, order: bytes) -> Ints:
        return np.array([len(order), int(order[:1]), client, os.getpid()])

    for executor in (LoopExecutor(), ProcessExecutor(1), ProcessExecutor(3)):
        pids = set()
        for order in (b"5", b"7", b"7" * 200_000, b"3\n\x00\xff"):
            got = dict(each(executor, echo, MODEL, COHORT, order=order))
            assert {(int(answer[0]), int(answer[1])) for answer in got.values()} == {(len(order), int(order[:1]))}
            assert [int(got[client][2]) for client in COHORT] == list(COHORT)
            pids |= {int(answer[3]) for answer in got.values()}
        assert len(pids) <= getattr(executor, "workers", 1)
        executor.close()


def in_a_pool(_: int) -> list[bytes]:
    with ProcessExecutor(2) as executor:
        return [model.tobytes() for model in models(executor)]


def test_an_executor_inside_a_worker_of_a_pool_runs_its_clients_itself() -> None:
    expected = [model.tobytes() for model in models(LoopExecutor())]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(in_a_pool, range(2)) == [expected] * 2
        pool.terminate()
        pool.join()


def test_an_executor_that_was_forked_starts_workers_of_its_own() -> None:
    with ProcessExecutor(2) as executor:
        expected = dict(each(executor, work, MODEL, COHORT, order=an_order(0, 0)))
        child = os.fork()
        if not child:
            got = dict(each(executor, work, MODEL, COHORT, order=an_order(0, 0)))
            executor.close()
            os._exit(0 if all((got[c] == expected[c]).all() for c in COHORT) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(dict(each(executor, work, MODEL, COHORT, order=an_order(1, 0)))) == len(COHORT)


def test_where_there_is_no_fork_clients_are_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = models(LoopExecutor())
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    np.testing.assert_array_equal(models(ProcessExecutor(2)), expected)
    executor = ProcessExecutor(2)
    [(_, got)] = each(executor, lambda *_: np.array([os.getpid()]), MODEL, [0], order=an_order(0, 0))
    assert int(got[0]) == os.getpid()
    with pytest.raises(TooFewSurvivors):
        list(each(executor, work, MODEL, [], order=an_order(0, 0)))
