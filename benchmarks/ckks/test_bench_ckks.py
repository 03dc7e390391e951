"""CKKS sums against TenSEAL's own vectors with the usual parameters, measured in the same run.

The peer is `tenseal.ckks_vector` under N = 8192, primes of [60, 40, 40] bits, scale 2^40, symmetric encryption: one
vector for every 4096 values. Peer and privfl take turns, and the best of the turns counts, in processor time, so that
a busy machine falsifies little. The *floor* is what SEAL itself takes for our parameters through `tenseal.sealapi`,
with nothing around it: encoding and encrypting, or decrypting and decoding, lists that are ready made.
Run with `python -m pytest benchmarks/ckks -s`; a whole run is kept as benchmarks/results/ckks.json.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import harness
import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.he import CkksSum, plan_for
from privfl.he.exchange import ExchangeFile
from privfl.he.keys import secret_polynomial
from privfl.he.messages import AskOpener
from privfl.he.opening import decrypt_sum, open_sum
from privfl.he.packing import to_slots, unpack
from privfl.he.seal import SealCipher
from privfl.ring import Ring
from privfl.sums import SumTask, run_sum
from privfl.sums.base import identity
from privfl.wire import HEADER_BYTES

LENGTH = 64 * 4096
TURNS = 16
CLIENTS = 10
SLOTS = 4096
FIGURES: list[dict[str, Any]] = []
PARTS = {"bytes up", "client", "server", "opening", "opener", "whole round"}


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    """Figures of one whole run belong together."""
    yield
    if {figure["name"] for figure in FIGURES} == PARTS:
        harness.write("ckks", FIGURES)


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
    """A sum that is driven up to the step to be measured; `alike` clients share one vector, to save memory."""

    def __init__(self, bits: int, length: int = LENGTH, clients: int = CLIENTS, *, alike: bool = False) -> None:
        ring = Ring(bits)
        self.task = SumTask(b"bench", tuple(range(clients)), 1, length, ring, (ring.half - 1) // clients)
        self.credentials, self.directory = generate_identities(self.task.clients)
        self.scheme, self.plan = CkksSum(self.directory, min_vectors=1), plan_for(self.task)
        rng = np.random.default_rng(0)
        bound = self.task.bound
        self.vectors = {0: rng.integers(-bound, bound, length)}
        for c in self.task.clients[1:]:
            self.vectors[c] = self.vectors[0] if alike else rng.integers(-bound, bound, length)
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

    def until_open(self) -> bytes:
        """The request to the opener, client 0; no two frames are in memory at once."""
        for client in self.task.clients:
            self.server.receive(client, self.frame(client))
        for client, message in self.server.advance().items():
            self.server.receive(client, self.sessions[client].receive(message) or b"")
        ((_, ask),) = self.server.advance().items()
        return ask

    def opened(self, ask: AskOpener) -> tuple[bytes, bytes]:
        """Everything that the opener does, from the request to the released words and the transcript."""
        held = self.sessions[0]._secrets
        assert held is not None
        assert held.session_key is not None
        assert held.cipher is not None
        terms = self.scheme.terms(self.task)
        return open_sum(
            self.task,
            self.plan,
            self.directory,
            ask,
            digest=terms.digest,
            quorum=terms.quorum,
            survivors=self.task.clients,
            own=ask.headers[0],
            session_key=held.session_key,
            cipher=held.cipher,
            opening=identity,
        )


def request(ask: bytes) -> AskOpener:
    return AskOpener.from_body(memoryview(ask)[HEADER_BYTES:])


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def best_of(*runs: Callable[[int], Any], turns: int = TURNS) -> list[float]:
    """The least seconds of each, taking turns; the number of the turn is passed."""
    spent = [[seconds(lambda run=run, turn=turn: run(turn))[0] for run in runs] for turn in range(turns)]  # type: ignore[misc]
    return [min(column) for column in zip(*spent, strict=True)]


def report(benchmark: Any, name: str, **figures: float) -> None:
    """Keep the figures, and show them."""
    rounded = {key: round(value, 4) for key, value in figures.items()}
    FIGURES.append({"name": name, **rounded})
    benchmark.extra_info.update(rounded)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))


def nanoseconds(total: float, length: int = LENGTH) -> float:
    """A value's share."""
    return 1e9 * total / length


@pytest.mark.parametrize(("bits", "limit"), [(23, 5.1), (31, 6.1)])
def test_bytes_up(benchmark: Any, bits: int, limit: float) -> None:
    ours = Ours(bits, clients=2)
    frame = ours.frame(0)
    peer = sum(map(len, Peer().encrypt(ours.vectors[0] / 1000)))
    assert len(frame) == ours.plan.bytes_up
    report(benchmark, "bytes up", bits=bits, ours=len(frame) / LENGTH, peer=peer / LENGTH)
    assert len(frame) / LENGTH <= limit
    assert peer / LENGTH > 50


@pytest.mark.parametrize("bits", [23, 31])
def test_client(benchmark: Any, bits: int) -> None:
    """From the message that names the key to the signed frame."""
    ours, peer = Ours(bits, clients=TURNS), Peer()
    values = ours.vectors[0] / 1000
    cipher = SealCipher(ours.plan, secret_polynomial(bytes(32), ours.plan))
    plain, ready = cipher._seal.Plaintext(), [row.tolist() for row in to_slots(ours.vectors[0], ours.plan.degree)]

    def floor(_: int) -> None:
        for row in ready:
            cipher._parts.encoder.encode(row, ours.plan.scale, plain)
            cipher._encryptor.encrypt_symmetric(plain)

    theirs, mine, least = best_of(lambda _: peer.encrypt(values), ours.frame, floor)
    report(
        benchmark,
        "client",
        bits=bits,
        ratio=theirs / mine,
        limit=2.2,
        ours_ns_a_value=nanoseconds(mine),
        peer_ns_a_value=nanoseconds(theirs),
        floor_ns_a_value=nanoseconds(least),
        floor_ratio=theirs / least,
    )
    assert theirs / mine >= 2.2


@pytest.mark.parametrize("bits", [23, 31])
def test_server(benchmark: Any, bits: int) -> None:
    """Ten frames with their hashes and signatures, and the one reduction."""
    ours, peer = Ours(bits), Peer()
    frames = {c: ours.frame(c) for c in range(CLIENTS)}
    encrypted = [peer.encrypt(ours.vectors[c] / 1000) for c in range(3)]
    server: Any = ours.server

    def add(_: int) -> None:
        server._waiting, server._seeds, server._total[:], server._pending = set(frames), set(), 0, 0
        for client, frame in frames.items():
            server.receive(client, frame)
        server._reduce()

    theirs, mine = best_of(lambda _: peer.add(encrypted), add)
    theirs, mine = theirs / 3, mine / CLIENTS
    report(
        benchmark,
        "server",
        bits=bits,
        ratio=theirs / mine,
        limit=8,
        ours_ns_a_value_a_client=nanoseconds(mine),
        peer_ns_a_value_a_client=nanoseconds(theirs),
    )
    assert theirs / mine >= 8


@pytest.mark.parametrize("bits", [23, 31])
def test_opening(benchmark: Any, bits: int) -> None:
    """Everything an opener does for one frame, and apart from that what each further client's seeds cost."""
    ours, peer = Ours(bits, clients=1), Peer()
    ask = request(ours.until_open())
    held = ours.sessions[0]._secrets
    assert held is not None
    assert held.cipher is not None
    encrypted = peer.encrypt(ours.vectors[0] / 1000)
    cipher, ckks = held.cipher, held.cipher.ckks
    block, seeds = unpack(ask.block, ours.plan), [bytes(ask.headers[0].seeds)]
    plain = ckks._seal.Plaintext()
    with ExchangeFile() as file:
        ready = ckks._parts.put_together(block[: ours.plan.degree], [seeds[0][:64]], ours.plan.scale, file)

    def floor(_: int) -> None:
        for _ in range(ours.plan.chunks):
            ckks._decryptor.decrypt(ready, plain)
            ckks._parts.encoder.decode_complex(plain)

    theirs, mine, one, eleven, least = best_of(
        lambda _: peer.open(encrypted),
        lambda _: ours.opened(ask),
        lambda _: decrypt_sum(ours.plan, block, seeds, cipher, unsafe_approximate=True),
        lambda _: decrypt_sum(ours.plan, block, seeds * 11, cipher, unsafe_approximate=True),
        floor,
    )
    expansion = (eleven - one) / 10
    before = mine - expansion
    report(
        benchmark,
        "opening",
        bits=bits,
        ratio_before_expansion=theirs / before,
        limit=3.3,
        ratio_with_one_client=theirs / mine,
        ours_ns_a_value=nanoseconds(before),
        peer_ns_a_value=nanoseconds(theirs),
        floor_ns_a_value=nanoseconds(least),
        expansion_ns_a_value_a_client=nanoseconds(expansion),
    )
    assert theirs / before >= 3.3


@pytest.mark.parametrize("clients", [10, 100])
def test_what_an_opener_costs(benchmark: Any, clients: int) -> None:
    """One million values: the bytes that the opener receives and sends, and its seconds from request to answer."""
    ours = Ours(23, length=1_000_000, clients=clients, alike=True)
    ask = ours.until_open()
    (spent,) = best_of(lambda _: ours.opened(request(ask)), turns=3)
    answer = ours.sessions[0].receive(ask) or b""
    ours.server.receive(0, answer)
    assert ours.server.result is not None
    assert np.array_equal(ours.server.result.total, clients * ours.vectors[0])
    report(
        benchmark,
        "opener",
        clients=clients,
        length=ours.task.length,
        seconds=spent,
        bytes_down=len(ask),
        bytes_up=len(answer),
    )


@pytest.mark.parametrize(
    ("clients", "length"), [(10, 100_000), (10, 300_000), (2, 1_000_000), (5, 1_000_000), (10, 1_000_000)]
)
def test_whole_round(benchmark: Any, clients: int, length: int) -> None:
    """All parties in one process, keys and opening included: up to one million values of ten clients."""
    ring = Ring(23)
    task = SumTask(b"round", tuple(range(clients)), 1, length, ring, (ring.half - 1) // clients)
    credentials, directory = generate_identities(task.clients)
    rng = np.random.default_rng(0)
    vectors = {c: rng.integers(-1000, 1000, length) for c in task.clients}
    spent, result = seconds(lambda: run_sum(CkksSum(directory, min_vectors=1), task, vectors, credentials=credentials))
    assert np.array_equal(result.total, sum(vectors.values()))
    report(benchmark, "whole round", clients=clients, length=length, seconds=spent)
