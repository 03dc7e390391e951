"""CkksSum gives the same integers as PlainSum, whoever drops out, at the bounds and at awkward lengths."""

from dataclasses import replace

import numpy as np
import pytest

from privfl.codec import FixedPoint
from privfl.crypto import TasksInMemory, generate_identities
from privfl.errors import CapacityError
from privfl.he import CkksSum, plan_for
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.sums.base import KeyedOpening


def make(clients: int, length: int, bits: int = 23, least: int = 1) -> tuple[SumTask, dict[int, Ints]]:
    ring = Ring(bits)
    bound = (ring.half - 1) // clients
    task = SumTask(b"equivalence", tuple(range(clients)), least, length, ring, bound)
    rng = np.random.default_rng([clients, length, bits])
    return task, {c: rng.integers(-bound, bound, length, endpoint=True) for c in task.clients}


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 4095, 4096, 4097])
def test_every_length_around_a_ciphertext(length: int) -> None:
    task, vectors = make(3, length)
    credentials, directory = generate_identities(task.clients)
    ckks = run_sum(CkksSum(directory), task, vectors, credentials=credentials)
    assert np.array_equal(ckks.total, run_sum(PlainSum(), task, vectors).total)


@pytest.mark.parametrize("bits", [8, 16, 23, 24, 31, 32, 39, 40, 43])
@pytest.mark.parametrize("sign", [-1, 1])
def test_all_values_at_the_bound(bits: int, sign: int) -> None:
    task, vectors = make(2, 5000, bits)
    vectors = {c: np.full(task.length, sign * task.bound) for c in vectors}
    credentials, directory = generate_identities(task.clients)
    result = run_sum(CkksSum(directory, min_vectors=1), task, vectors, credentials=credentials)
    assert (result.total == 2 * sign * task.bound).all()


def test_more_clients_than_unreduced_residues_fit_a_word() -> None:
    task, vectors = make(40, 10, 40)
    credentials, directory = generate_identities(task.clients)
    assert plan_for(task).prime_bits == 60
    result = run_sum(CkksSum(directory), task, vectors, credentials=credentials)
    assert np.array_equal(result.total, sum(vectors.values()))


def test_an_opening_that_leaves_the_ring_is_refused() -> None:
    task, vectors = make(3, 10)
    for shift in (task.ring.half, -task.ring.modulus):
        credentials, directory = generate_identities(task.clients)

        def opening(total: Ints, survivors: frozenset[int], shift: int = shift) -> Ints:
            return total * 0 + shift

        with pytest.raises(CapacityError, match="beyond a ring of 23 bits"):
            run_sum(CkksSum(directory), task, vectors, credentials=credentials, opening=opening)


@pytest.mark.parametrize("clients", [1, 2, 10, 100])
def test_any_number_of_clients(clients: int) -> None:
    """The slow test below sums a thousand."""
    task, vectors = make(clients, 10)
    credentials, directory = generate_identities(task.clients)
    result = run_sum(CkksSum(directory, min_vectors=1), task, vectors, credentials=credentials)
    assert np.array_equal(result.total, sum(vectors.values()))


def test_training_with_dropouts_gives_bit_identical_models() -> None:
    clients, rounds, length = tuple(range(7)), 3, 300
    identities, directory = generate_identities(clients)
    codec = FixedPoint.fit(Ring(23), clip_norm=1.0, cohort=len(clients))
    models = {}
    for scheme in (PlainSum(), MaskedSum(directory), CkksSum(directory)):
        model = np.zeros(length)
        credentials = {c: replace(own, tasks=TasksInMemory()) for c, own in identities.items()}  # one task, three sums
        for round in range(rounds):
            rng = np.random.default_rng(round)
            task = SumTask(bytes([round]), clients, 4, length, codec.ring, codec.bound(1.0))
            vectors = {}
            for client in clients:
                target = rng.normal(size=length)
                step = (target - model) / (2 * np.linalg.norm(target - model))
                vectors[client] = codec.encode(step, max_norm=1.0)
            silent = {round, (3 * round + 1) % 7}

            def drop(client: int, step: int, silent: set[int] = silent) -> bool:
                return client in silent and step == 0

            result = run_sum(scheme, task, vectors, credentials=credentials, drop=drop)
            model = model + codec.decode(result.total) / len(result.survivors)
        models[scheme.name] = model
    assert len(models) == 3
    assert len({model.tobytes() for model in models.values()}) == 1


def test_the_opening_runs_once_and_before_the_server_sees_the_sum() -> None:
    task, vectors = make(3, 50)
    credentials, directory = generate_identities(task.clients)
    calls = []

    def opening(total: Ints, survivors: frozenset[int]) -> Ints:
        calls.append(survivors)
        return total + 1

    result = run_sum(CkksSum(directory), task, vectors, credentials=credentials, opening=opening)
    assert calls == [frozenset({0, 1, 2})]
    assert np.array_equal(result.total, sum(vectors.values()) + 1)


@pytest.mark.parametrize("silent", [(), (0,), (0, 1)])
def test_whoever_opens_adds_the_same_noise(silent: tuple[int, ...]) -> None:
    """The noise comes from the session key and the transcript; only the opener in turn differs."""
    task, vectors = make(5, 50)
    credentials, directory = generate_identities(task.clients)
    drawn: list[bytes] = []

    def make_opening(entropy):  # type: ignore[no-untyped-def]
        def opening(total: Ints, survivors: frozenset[int]) -> Ints:
            drawn.append(entropy(300))
            assert entropy(100_000) != entropy(100_000)
            return total + np.frombuffer(drawn[-1][:50], np.uint8)

        return opening

    lost = []

    scheme = CkksSum(directory)
    server = scheme.server(task)
    sessions = {
        c: scheme.client(task, c, vectors[c], credentials=credentials[c], opening=KeyedOpening(make_opening))
        for c in task.clients
    }
    for client, session in sessions.items():
        server.receive(client, session.start())
    while server.result is None:
        for client, message in server.advance().items():
            answer = sessions[client].receive(message)
            if answer is not None and server.step == "open" and client in silent:
                lost.append(client)
                continue
            if answer is not None:
                server.receive(client, answer)
    assert lost == list(silent)
    assert len(drawn) == len(silent) + 1
    assert len(set(drawn)) == 1
    noise = np.frombuffer(drawn[0][:50], np.uint8)
    assert np.array_equal(server.result.total, sum(vectors.values()) + noise)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    task, vectors = make(2, 9000)
    credentials, directory = generate_identities(task.clients)
    run_sum(CkksSum(directory, min_vectors=1), task, vectors, credentials=credentials)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_thousand_clients() -> None:
    task, vectors = make(1000, 100)
    credentials, directory = generate_identities(task.clients)
    assert plan_for(task).margin >= 14
    result = run_sum(CkksSum(directory), task, vectors, credentials=credentials)
    assert np.array_equal(result.total, sum(vectors.values()))


@pytest.mark.slow
def test_a_million_values() -> None:
    task, vectors = make(5, 1_000_000)
    credentials, directory = generate_identities(task.clients)
    result = run_sum(CkksSum(directory), task, vectors, credentials=credentials, drop=lambda c, s: c == 2 and s == 2)
    assert result.survivors == {0, 1, 3, 4}
    assert np.array_equal(result.total, sum(v for c, v in vectors.items() if c != 2))
