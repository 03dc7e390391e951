"""CKKS sums against TenSEAL's own vectors with the usual parameters, measured in the same run.

The peer is `tenseal.ckks_vector` under N = 8192, primes of [60, 40, 40] bits, scale 2^40, symmetric encryption: one
vector for every 4096 values. Peer and privfl take turns, and the best of the turns counts, in processor time, so that
a busy machine falsifies little. Run with `python -m pytest benchmarks/ckks`; figures are in the JSON's `extra_info`.
"""

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.he import CkksSum, plan_for
from privfl.he.keys import secret_polynomial
from privfl.he.messages import AskOpener
from privfl.he.opening import decrypt_sum, open_sum
from privfl.he.packing import unpack
from privfl.he.seal import SealCipher
from privfl.ring import Ring
from privfl.sums import SumTask, identity, run_sum
from privfl.wire import HEADER_BYTES

LENGTH = 128 * 4096
TURNS = 6
CLIENTS = 10
SLOTS = 4096


class Peer:
    """What a user of TenSEAL's high-level vectors runs."""

    def __init__(self) -> None:
        self.tenseal = pytest.importorskip("tenseal")
        self.context = self.tenseal.context(
            self.tenseal.SCHEME_TYPE.CKKS,
            8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=self.tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self.context.global_scale = 2.0**40

    def encrypt(self, values: Any) -> list[bytes]:
        parts = (values[at : at + SLOTS] for at in range(0, len(values), SLOTS))
        return [self.tenseal.ckks_vector(self.context, part.tolist()).serialize() for part in parts]

    def add(self, frames: list[list[bytes]]) -> list[bytes]:
        total = [self.tenseal.ckks_vector_from(self.context, part) for part in frames[0]]
        for frame in frames[1:]:
            for at, part in enumerate(frame):
                total[at] += self.tenseal.ckks_vector_from(self.context, part)
        return [vector.serialize() for vector in total]

    def open(self, total: list[bytes]) -> Any:
        return np.concatenate([self.tenseal.ckks_vector_from(self.context, part).decrypt() for part in total])


class Ours:
    """A sum that is driven up to the step to be measured."""

    def __init__(self, bits: int, length: int = LENGTH, clients: int = CLIENTS) -> None:
        ring = Ring(bits)
        self.task = SumTask(b"bench", tuple(range(clients)), 1, length, ring, (ring.half - 1) // clients)
        self.credentials, self.directory = generate_identities(self.task.clients)
        self.scheme, self.plan = CkksSum(self.directory), plan_for(self.task)
        rng = np.random.default_rng(0)
        bound = self.task.bound
        self.vectors = {c: rng.integers(-bound, bound, length) for c in self.task.clients}
        self.server = self.scheme.server(self.task)
        self.sessions = {
            c: self.scheme.client(self.task, c, self.vectors[c], credentials=self.credentials[c])
            for c in self.task.clients
        }
        for client, session in self.sessions.items():
            self.server.receive(client, session.start())
        ((dealer, ask),) = self.server.advance().items()
        self.server.receive(dealer, self.sessions[dealer].receive(ask) or b"")
        self.keys = dict(self.server.advance())

    def frame(self, client: int) -> bytes:
        return self.sessions[client].receive(self.keys[client]) or b""

    def until_open(self, frames: dict[int, bytes]) -> AskOpener:
        for client, frame in frames.items():
            self.server.receive(client, frame)
        for client, message in self.server.advance().items():
            self.server.receive(client, self.sessions[client].receive(message) or b"")
        ((_, ask),) = self.server.advance().items()
        return AskOpener.from_body(memoryview(ask)[HEADER_BYTES:])


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def best_of(peer: Callable[[], Any], ours: list[Callable[[], Any]]) -> tuple[float, float]:
    """(peer, ours) in seconds, taking turns."""
    pairs = [(seconds(peer)[0], seconds(run)[0]) for run in ours]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def report(benchmark: Any, title: str, **figures: float) -> None:
    """Keep the figures with the machine's description, and show them."""
    benchmark.extra_info.update(figures, cpu=platform.processor() or platform.machine(), cores=os.cpu_count())
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


@pytest.mark.parametrize(("bits", "limit"), [(23, 5.1), (31, 6.1)])
def test_bytes_up(benchmark: Any, bits: int, limit: float) -> None:
    ours = Ours(bits, clients=2)
    frame = ours.frame(0)
    peer = sum(map(len, Peer().encrypt(ours.vectors[0] / 1000)))
    assert len(frame) == ours.plan.bytes_up
    report(benchmark, f"bytes a value up, ring of {bits} bits", ours=len(frame) / LENGTH, peer=peer / LENGTH)
    assert len(frame) / LENGTH <= limit
    assert peer / LENGTH > 50


@pytest.mark.parametrize("bits", [23, 31])
def test_client(benchmark: Any, bits: int) -> None:
    ours, peer = Ours(bits, clients=TURNS), Peer()
    values = ours.vectors[0] / 1000
    theirs, mine = best_of(lambda: peer.encrypt(values), [lambda c=c: ours.frame(c) for c in range(TURNS)])  # type: ignore[misc]
    report(
        benchmark,
        f"client, ring of {bits} bits",
        ratio=theirs / mine,
        ours_ns_a_value=1e9 * mine / LENGTH,
        peer_ns_a_value=1e9 * theirs / LENGTH,
    )
    assert theirs / mine >= 3


@pytest.mark.parametrize("bits", [23, 31])
def test_server(benchmark: Any, bits: int) -> None:
    ours, peer = Ours(bits), Peer()
    frames = {c: ours.frame(c) for c in range(CLIENTS)}
    encrypted = [peer.encrypt(ours.vectors[c] / 1000) for c in range(3)]

    def add(server: Any = ours.server) -> Any:
        """Ten frames with their hashes and signatures, and the one reduction."""
        server._waiting, server._total[:], server._pending = set(frames), 0, 0
        for client, frame in frames.items():
            server.receive(client, frame)
        server._reduce()

    theirs, mine = best_of(lambda: peer.add(encrypted), [add] * TURNS)
    theirs, mine = theirs / 3, mine / CLIENTS
    report(
        benchmark,
        f"server a client, ring of {bits} bits",
        ratio=theirs / mine,
        ours_ns_a_value=1e9 * mine / LENGTH,
        peer_ns_a_value=1e9 * theirs / LENGTH,
    )
    assert theirs / mine >= 8


@pytest.mark.parametrize("bits", [23, 31])
def test_opening(benchmark: Any, bits: int) -> None:
    """Everything an opener does for one frame, and apart from that what each further client's seeds cost."""
    ours, peer = Ours(bits, clients=1), Peer()
    ask = ours.until_open({0: ours.frame(0)})
    held = ours.sessions[0]._held
    assert held is not None
    assert held.session_key is not None
    assert held.cipher is not None
    assert held.tagger is not None
    encrypted = peer.encrypt(ours.vectors[0] / 1000)
    arguments: dict[str, Any] = {
        "digest": ours.task.digest(),
        "quorum": 1,
        "survivors": (0,),
        "own": ask.headers[0],
        "session_key": held.session_key,
        "cipher": held.cipher,
        "tagger": held.tagger,
        "opening": identity,
    }

    def opened() -> Any:
        return open_sum(ours.task, ours.plan, ours.directory, ask, **arguments)

    theirs, mine = best_of(lambda: peer.open(encrypted), [opened] * TURNS)
    cipher = SealCipher(ours.plan, secret_polynomial(held.session_key, ours.plan))
    block, seeds = unpack(ask.block, ours.plan), [bytes(ask.headers[0].seeds)]
    one, eleven = best_of(
        lambda: decrypt_sum(ours.plan, block, seeds, cipher, unsafe_approximate=True),
        [lambda: decrypt_sum(ours.plan, block, seeds * 11, cipher, unsafe_approximate=True)] * TURNS,
    )
    expansion = (eleven - one) / 10
    before = mine - expansion
    report(
        benchmark,
        f"opening, ring of {bits} bits",
        ratio_before_expansion=theirs / before,
        ratio_with_one_client=theirs / mine,
        ours_ns_a_value=1e9 * before / LENGTH,
        peer_ns_a_value=1e9 * theirs / LENGTH,
        expansion_ns_a_value_a_client=1e9 * expansion / LENGTH,
    )
    assert theirs / before >= 4


def test_whole_round(benchmark: Any) -> None:
    """One million values, ten clients, in one process; and how it grows with clients and length."""
    figures = {}
    for length, clients in ((100_000, 10), (1_000_000, 5), (1_000_000, 10)):
        ring = Ring(23)
        task = SumTask(b"round", tuple(range(clients)), 1, length, ring, (ring.half - 1) // clients)
        credentials, directory = generate_identities(task.clients)
        rng = np.random.default_rng(0)
        vectors = {c: rng.integers(-1000, 1000, length) for c in task.clients}
        spent, result = seconds(
            lambda t=task, v=vectors, c=credentials, d=directory: run_sum(CkksSum(d), t, v, credentials=c)
        )  # type: ignore[misc]
        assert np.array_equal(result.total, sum(vectors.values()))
        figures[f"seconds_{clients}_clients_{length}_values"] = spent
    report(benchmark, "whole round", **figures)
