"""Gray-box replay: one round twice on neighboring inputs with the same coins, and every difference named.

The recorder sits at the seams of a round: encoding, noise, messages, opening, outcome, ledger. A value may differ
between the two worlds only through a declared sensitivity (the norm bounds that the ledger's release states) or where
it is a declared public fact. Everything else that differs is a divergence: private data reached it undeclared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from privfl.crypto import generate_identities
from privfl.dp import (
    Accountant,
    AdaptiveClip,
    CorrelatedNoise,
    Ledger,
    MeshNoise,
    PrivacyUnit,
)
from privfl.fl import client_round
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.secagg import MaskedSum
from privfl.sums.base import SumResult
from privfl.sums.driver import drive

CREDENTIALS, DIRECTORY = generate_identities(range(8))
# One task is played twice here, which no client's own memory would allow.
KEYS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}
MASKED = MaskedSum(DIRECTORY)
NONE = ClientUpdate(np.array([np.nan]), 1)
"""Stands for an absent contribution: an update that is not finite is summed as zeros."""


class Coins:
    """A recorded stream of random bytes that notes how many were asked for."""

    def __init__(self, *key: Any) -> None:
        self.key, self.requests = repr(key).encode(), list[int]()

    def __call__(self, count: int) -> bytes:
        self.requests.append(count)
        return hashlib.shake_128(self.key + len(self.requests).to_bytes(8, "big")).digest(count)


@dataclass(frozen=True, slots=True)
class Case:
    """One round and one client whose data differ between the worlds."""

    plan: RoundPlan
    scheme: Any
    model: np.ndarray = field(repr=False)
    unit: PrivacyUnit
    client: int
    updates: Mapping[int, ClientUpdate] = field(repr=False)
    other: ClientUpdate = field(repr=False)
    dropouts: Mapping[int, int]
    seed: int
    gradients: Callable[[Any], Any] | None = None

    def drop(self, client: int, step: int) -> bool:
        return self.dropouts.get(client, 99) == step

    @property
    def encrypted(self) -> bool:
        """True where SEAL draws coins that nobody can record. Ciphertexts, and the noise that is derived from their
        transcript, then differ between any two runs; their lengths must not."""
        return bool(self.scheme.opener == "client")


@dataclass(slots=True)
class Trace:
    """What flowed in one world."""

    encoded: dict[int, np.ndarray] = field(default_factory=dict)
    contributed: dict[int, np.ndarray] = field(default_factory=dict)
    messages: list[tuple[str, int, bytes]] = field(default_factory=list)
    requests: dict[str, list[int]] = field(default_factory=dict)
    opened: np.ndarray | None = None
    survivors: frozenset[int] | None = None
    released: np.ndarray | None = None
    outcome: Any = None
    lines: list[Any] = field(default_factory=list)
    releases: tuple[Any, ...] = ()
    error: str = ""
    read: Callable[[SumResult], Any] | None = None


class RecordedServer(ServerRound):
    """A server's half that notes the sum before and after its opening."""

    trace: Trace

    def _open(self, total: np.ndarray, survivors: frozenset[int]) -> np.ndarray:
        self.trace.opened, self.trace.survivors = total.copy(), survivors
        released = super()._open(total, survivors)
        self.trace.released = released.copy()
        return released


@contextmanager
def recorded(trace: Trace, coins: Coins) -> Iterator[None]:
    """Note every encoded and every noised contribution, and serve secure noise from `coins`."""
    encode, add_noise, turn = UpdateEncoding.encode, RoundPlan.add_noise, list[np.ndarray]()
    over_examples = client_round.example_sum

    def encoding(self: UpdateEncoding, update: ClientUpdate, rng: np.random.Generator) -> np.ndarray:
        vector = encode(self, update, rng)
        turn[:] = [vector.copy()]
        return vector

    def summing(train: Any, plan: RoundPlan, model: np.ndarray, client: int) -> np.ndarray:
        vector = over_examples(train, plan, model, client)
        turn[:] = [vector.copy()]
        return vector

    def noising(self: RoundPlan, scheme: Any, client: int, vector: np.ndarray) -> np.ndarray:
        trace.encoded[client] = turn[0]
        noisy = add_noise(self, scheme, client, vector)
        trace.contributed[client] = noisy.copy()
        return noisy

    with (
        mock.patch.object(UpdateEncoding, "encode", encoding),
        mock.patch.object(client_round, "example_sum", summing),
        mock.patch.object(RoundPlan, "add_noise", noising),
        mock.patch.object(os, "urandom", coins),
        mock.patch.dict(MeshNoise.fill.__kwdefaults__, entropy=coins),
    ):
        yield


def play(case: Case, *, other: bool) -> Trace:
    """Run the round in one of the two worlds."""
    updates = dict(case.updates) | ({case.client: case.other} if other else {})
    plan, trace, system = case.plan, Trace(), Coins("system", case.seed)
    streams = {me: Coins("client", case.seed, me) for me in plan.cohort}

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return updates[client]

    ledger = Ledger(case.unit)
    if case.unit.level == "client":
        ledger.draw(plan.round, plan.sampling, 0.0)
    state = ServerState(case.model, clip_norm=getattr(plan.encoding.clip, "clip_norm", None)
                        if isinstance(plan.encoding.clip, AdaptiveClip) else None)  # fmt: skip
    RecordedServer.trace = trace
    server = None
    with recorded(trace, system):
        try:
            payment = Payment(ledger, Accountant(1e-5, assume_secure_noise=True))
            key = (plan.seed,) if plan.mechanism.source == "simulation" else None
            noise = None if plan.mechanism.correlation == "none" else CorrelatedNoise(key=key)
            server = RecordedServer(state, plan, scheme=case.scheme, payment=payment, noise=noise)
            contribution = Contribution(train if plan.level == "client" else case.gradients(updates), case.scheme)
            order = plan.to_bytes()
            sessions = [
                (
                    me,
                    ClientRound.trained(
                        order, case.model, me, contribution=contribution, credentials=KEYS.get(me), entropy=streams[me]
                    ),
                )
                for me in plan.cohort
            ]
            drive(server, sessions, drop=case.drop, tap=lambda *message: trace.messages.append(message))
            trace.outcome = server.outcome
            if case.encrypted:  # a client opened the sum: its total before the noise is what the survivors sent
                summed = server.result
                trace.survivors, trace.released = summed.survivors, summed.total.copy()
                trace.opened = sum(trace.contributed[me] for me in summed.survivors)
            server.settle()
            trace.read = server._read
        except Exception as error:  # noqa: BLE001 - which error it is may depend on data
            trace.error = type(error).__name__
    trace.requests = {"system": system.requests} | {str(me): coins.requests for me, coins in streams.items()}
    trace.lines, trace.releases = list(ledger._chain.records), ledger.releases
    return trace


def divergences(case: Case) -> list[str]:
    """Every undeclared difference between the two worlds; empty for a sound round."""
    one, two = play(case, other=False), play(case, other=True)
    found: list[str] = []
    if one.error != two.error:
        return [f"branch: {one.error or 'no error'} against {two.error or 'no error'}"]
    if one.requests != two.requests:
        found.append("branch: other amounts of randomness were asked for")
    if one.lines != two.lines:
        found.append("file: the ledgers differ")
    if set(one.encoded) != set(two.encoded):
        return [*found, "branch: other clients contributed"]
    if case.client in one.encoded:
        found += _contributions(case, one, two)
    found += _messages(case, one, two)
    if one.opened is not None and two.opened is not None:
        found += _openings(case, one, two)
    elif (one.opened is None) != (two.opened is None):
        found.append("branch: only one of the sums was opened")
    return found


def presence_divergences(case: Case) -> list[str]:
    """The differences between a round with the client and one without it, beyond the client's own contribution.

    Where one of the two opens nothing there is nothing to compare: the ledger's draw charges that difference.
    """
    cohort = tuple(me for me in case.plan.cohort if me != case.client)
    absent = replace(case, plan=replace(case.plan, cohort=cohort), client=cohort[0], other=case.updates[cohort[0]])
    one, two = play(case, other=False), play(absent, other=False)
    if one.released is None or two.released is None:
        return [] if case.scheme.min_survivors_to_open(case.plan.task(case.scheme)) else ["branch: nothing was opened"]
    found = [] if np.array_equal(one.released - one.opened, two.released - two.opened) else ["release: other noise"]
    found += _too_far(case, one, one.released - two.released, "release")
    facts = [_facts(two.read(SumResult(one.released, survivors, b""))) for survivors in (one.survivors, two.survivors)]
    if [part for n, part in enumerate(facts[0]) if n != _SURVIVORS] != [
        part for n, part in enumerate(_facts(one.read(SumResult(one.released, one.survivors, b"")))) if n != _SURVIVORS
    ] or facts[0][:_SURVIVORS] != facts[1][:_SURVIVORS]:
        found.append("outcome: it depends on the cohort")
    return found


def _contributions(case: Case, one: Trace, two: Trace) -> list[str]:
    found = []
    for me in one.encoded:
        noises = [trace.contributed[me] - trace.encoded[me] for trace in (one, two)]
        if not np.array_equal(*noises):
            found.append(f"release: the noise of client {me} depends on its data")
        if me != case.client and not np.array_equal(one.encoded[me], two.encoded[me]):
            found.append(f"release: the contribution of client {me} depends on another's data")
    return found + _too_far(case, one, one.encoded[case.client] - two.encoded[case.client], "contribution")


def _too_far(case: Case, trace: Trace, difference: np.ndarray, name: str) -> list[str]:
    """Compare a difference with the sensitivity that the ledger declares."""
    if not trace.releases:
        return [] if trace.error else [f"{name}: nothing was charged"]
    release, factor = trace.releases[0], case.unit.factor
    if len(difference) != release.length:
        return [f"{name}: {len(difference)} entries, and {release.length} are charged"]
    norm = int((difference.astype(object) ** 2).sum()) ** 0.5
    if norm > factor * release.norm_bound * (1 + 1e-12):
        return [f"{name}: the l2 distance is {norm:.6g}, and {factor * release.norm_bound:.6g} is declared"]
    if release.l1_bound is not None and np.abs(difference).sum() > factor * release.l1_bound * (1 + 1e-12):
        return [f"{name}: the l1 distance is above the declared"]
    return []


def _messages(case: Case, one: Trace, two: Trace) -> list[str]:
    shapes = [[(way, client, len(message)) for way, client, message in trace.messages] for trace in (one, two)]
    if shapes[0] != shapes[1]:
        return ["message: other messages, or messages of other lengths"]
    if case.encrypted:
        return []
    return [
        f"message: {way} {client} depends on another client's data"
        for (way, client, left), (_, _, right) in zip(one.messages, two.messages, strict=True)
        if left != right and (way, client) != ("up", case.client)
    ]


def _openings(case: Case, one: Trace, two: Trace) -> list[str]:
    if one.survivors != two.survivors:
        return ["branch: the survivors differ"]
    found = []
    counted = case.client in one.survivors
    moved = one.contributed[case.client] - two.contributed[case.client]
    if not np.array_equal(one.opened - two.opened, moved if counted else np.zeros_like(moved)):
        found.append("release: the sums differ by something else than the client's contribution")
    if not case.encrypted:
        if not np.array_equal(one.released - one.opened, two.released - two.opened):
            found.append("release: the noise of the opening depends on data")
        found += _too_far(case, one, one.released - two.released, "release")
    summed = SumResult(one.released, one.survivors, b"")
    if two.read is None or _facts(two.read(summed)) != _facts(one.read(summed)) or _facts(one.outcome) != _facts(
        two.read(replace(summed, caveats=_said(one)))
    ):  # fmt: skip
        found.append("outcome: it depends on more than the release")
    return found


def _said(trace: Trace) -> tuple[str, ...]:
    """The caveats of the sum itself, which the outcome repeats first."""
    bare = trace.read(SumResult(trace.released, trace.survivors, b"")).caveats
    return trace.outcome.caveats[: len(trace.outcome.caveats) - len(bare)]


_SURVIVORS = 7
"""The place of the survivors in the facts of an outcome."""


def _facts(outcome: Any) -> tuple[Any, ...]:
    state = outcome.state
    return (
        state.model.tobytes(), state.model.dtype, state.clip_norm, repr(state.moments), repr(state.shared),
        sorted(outcome.metrics.items()), outcome.update_norm, outcome.survivors, outcome.caveats, outcome.trained,
        outcome.counts, outcome.largest, outcome.floor,
    )  # fmt: skip
