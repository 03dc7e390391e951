"""What every sum states about itself: observers, messages, parameters, caveats, and what an abort proves."""

import json
import os
import pickle
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError, ProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he import CkksSum
from privfl.observers import OBSERVERS, VIEWS
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.client import MaskedClient
from privfl.sums import PlainSum, SecureSum, SumTask, run_sum
from privfl.sums.checks import checked_total

CREDENTIALS, DIRECTORY = generate_identities(range(7))
SUMS: dict[str, SecureSum] = {
    "plain": PlainSum(),
    "masked": MaskedSum(DIRECTORY),
    "semi-honest": MaskedSum(mode="semi-honest"),
    "ckks": CkksSum(DIRECTORY),
}


def task_of(clients: int, min_survivors: int, bound: int = 10, context: bytes = b"") -> SumTask:
    return SumTask(context or os.urandom(8), tuple(range(clients)), min_survivors, 4, Ring(23), bound)


def summed(scheme: SecureSum, task: SumTask, **more: Any) -> Any:
    return run_sum(scheme, task, dict.fromkeys(task.clients, np.ones(4, np.int64)), credentials=CREDENTIALS, **more)


@pytest.mark.parametrize("name", SUMS)
def test_views_and_parameters_are_plain_values(name: str) -> None:
    scheme = SUMS[name]
    assert set(scheme.views) <= set(OBSERVERS)
    assert set(scheme.views.values()) <= set(VIEWS)
    assert scheme.views["outsider"] == "release"
    assert json.loads(json.dumps(dict(scheme.parameters))) == dict(scheme.parameters)


def test_what_each_observer_sees() -> None:
    assert SUMS["plain"].views["server"] == "vectors"
    assert SUMS["masked"].views == {"outsider": "release", "participant": "release", "server": "sum"}
    assert SUMS["ckks"].views["server"] == "release"
    assert SUMS["ckks"].views["participant"] == SUMS["ckks"].views["key_holder"] == "sum"


@pytest.mark.parametrize("name", SUMS)
def test_no_client_sends_more_messages_than_its_sum_states(name: str) -> None:
    sent = dict.fromkeys(range(5), 0)

    def count(direction: str, client: int, message: bytes) -> None:
        sent[client] += direction == "up"

    summed(SUMS[name], task_of(5, 3), tap=count)
    assert max(sent.values()) <= SUMS[name].messages_per_client
    assert max(sent.values()) == SUMS[name].messages_per_client or name == "ckks"


def test_other_parameters_are_stated_by_each_change() -> None:
    default = dict(MaskedSum(DIRECTORY).parameters)
    for change in (
        {"share_threshold": 5},
        {"graph": "complete"},
        {"corrupt": 0.0},
        {"dropout": 0.2},
        {"security_bits": 30},
        {"correctness_bits": 30},
        {"packed": True},
        {"min_vectors": 2},
    ):
        assert dict(MaskedSum(DIRECTORY, **change).parameters) == default | change  # type: ignore[arg-type]
    assert dict(MaskedSum(DIRECTORY, threads=2).parameters) == default
    assert CkksSum(DIRECTORY, security=192).parameters != CkksSum(DIRECTORY).parameters


@pytest.mark.parametrize("make", [MaskedSum, CkksSum])
@pytest.mark.parametrize("clients", [1, 2])
def test_a_sum_that_hides_nobody_is_refused_or_says_so(make: Any, clients: int) -> None:
    with pytest.raises(ConfigError, match="never opens"):
        summed(make(DIRECTORY), task_of(clients, 1))
    usual = set(summed(make(DIRECTORY), task_of(3, 1)).caveats)
    few = set(summed(make(DIRECTORY, min_vectors=1), task_of(clients, 1)).caveats)
    assert any("hides nobody" in caveat for caveat in few - usual)
    assert not any("hides nobody" in caveat for caveat in usual)
    with pytest.raises(ConfigError, match="min_vectors"):
        make(DIRECTORY, min_vectors=0)


def test_two_parties_with_another_min_vectors_do_not_sum_together() -> None:
    task = task_of(5, 4)
    assert MaskedSum(DIRECTORY).terms(task).digest() != MaskedSum(DIRECTORY, min_vectors=2).terms(task).digest()


@pytest.mark.parametrize("mode", ["signed", "semi-honest"])
def test_fewer_vectors_than_min_vectors_are_never_opened(mode: str) -> None:
    """The threshold alone would open two vectors of a semi-honest sum of three clients."""
    directory = DIRECTORY if mode == "signed" else None
    for min_vectors, opens in ((2, mode == "semi-honest"), (3, False)):
        scheme = MaskedSum(directory, mode=mode, min_vectors=min_vectors, corrupt=0.0)  # type: ignore[arg-type]
        try:
            result = summed(scheme, task_of(3, 1), drop=lambda c, s: c == 0 and s >= 2)
            assert opens
            assert any("2 vectors hides nobody" in caveat for caveat in result.caveats)
        except TooFewSurvivors:
            assert not opens


def test_an_entry_beyond_the_bound_releases_nothing() -> None:
    task, opened = task_of(6, 5), []

    def opening(total: Any, survivors: frozenset[int]) -> Any:
        opened.append(total)
        return total

    for value in (61, -61, 1 << 20):
        task = task_of(6, 5)
        scheme = MaskedSum(DIRECTORY)
        server = scheme.server(task, opening=opening)
        sessions = {
            c: scheme.client(task, c, np.zeros(4, np.int64), credentials=CREDENTIALS[c]) for c in task.clients[1:]
        }
        sessions[0] = MaskedClient(  # made without the check of its own vector
            scheme.terms(task),
            0,
            np.full(4, value),
            signing=CREDENTIALS[0].signing,
            directory=DIRECTORY,
            tasks=None,
            entropy=os.urandom,
            threads=1,
        )
        for c, session in sessions.items():
            server.receive(c, session.start())
        for _ in range(4):
            for c, message in server.advance().items():
                server.receive(c, sessions[c].receive(message) or b"")
        with pytest.raises(RemoteProtocolError, match="beyond 6 times the task's bound of 10") as caught:
            server.advance()
        assert str(value) not in str(caught.value)
        assert server.result is None
        assert not opened


def test_totals_at_the_bound_are_honest_and_beyond_it_are_not() -> None:
    task = task_of(3, 1, bound=7)
    for total in ([14, -14, 0, 1], [0, 0, 0, 0]):
        assert checked_total(task, np.array(total), 2).tolist() == total
    for total in ([15, 0, 0, 0], [0, 0, 0, -15]):
        with pytest.raises(RemoteProtocolError, match="nothing is released"):
            checked_total(task, np.array(total), 2)


# --- TooFewSurvivors.opened ------------------------------------------------------------------------------------------


def abort(scheme: SecureSum, step: int, *, stay: int = 2) -> TooFewSurvivors:
    """The error of a sum of five in which all but `stay` clients drop out at `step`."""
    with pytest.raises(TooFewSurvivors) as caught:
        summed(scheme, task_of(5, 4), drop=lambda c, s: c >= stay and s >= step)
    return caught.value


@pytest.mark.parametrize(("name", "steps", "opening_step"), [("masked", 5, 4), ("semi-honest", 4, 3)])
def test_an_abort_of_a_masked_sum_is_unopened_until_shares_are_asked_for(
    name: str, steps: int, opening_step: int
) -> None:
    for step in range(steps):
        assert abort(SUMS[name], step).opened == (step == opening_step)


def test_an_abort_of_a_ckks_sum_is_unopened_until_an_opener_is_asked() -> None:
    """The steps are: advert, deal, frame, consent, opening; in the last every opener in turn drops out."""
    assert not abort(SUMS["ckks"], 0).opened
    for stay, opened in ((2, False), (0, False)):
        assert abort(SUMS["ckks"], 2, stay=stay).opened == opened
    asked = []

    def silent_openers(client: int, step: int) -> bool:
        asked.append((client, step))
        return step >= 4

    with pytest.raises(TooFewSurvivors) as caught:
        summed(SUMS["ckks"], task_of(5, 3), drop=silent_openers)
    assert max(step for _, step in asked) >= 4
    assert caught.value.opened


def test_an_abort_of_a_plain_sum_is_unopened_only_if_no_vector_arrived() -> None:
    assert not abort(PlainSum(), 0, stay=0).opened
    assert abort(PlainSum(), 0, stay=1).opened
    task = task_of(5, 1)
    server = PlainSum().server(task)
    with pytest.raises(WireError):  # refused is not unseen
        server.receive(0, PlainSum().client(task, 0, np.ones(4, np.int64)).start()[:-1])
    for client in task.clients:
        server.drop(client)
    with pytest.raises(TooFewSurvivors) as caught:
        server.advance()
    assert caught.value.opened


def test_the_flag_survives_a_trip_between_processes_and_is_in_the_words() -> None:
    for opened in (True, False):
        error = pickle.loads(pickle.dumps(TooFewSurvivors(2, 3, opened)))  # noqa: S301 - its own bytes
        assert isinstance(error, ProtocolError)
        assert (error.survivors, error.threshold, error.opened) == (2, 3, opened)
        assert ("nothing was opened" in str(error)) != opened
