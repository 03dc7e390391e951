"""Attacks on mesh noise inside the masked sum, and what the noise is made of, seen from inside every client."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_payment, a_plan, an_encoding

from privfl.crypto import TasksInMemory, generate_identities, read_keystream
from privfl.dp import Mechanism
from privfl.dp.mesh import MeshNoise
from privfl.dp.noise.skellam import skellam
from privfl.errors import ConfigError, PlanRejected, TooFewSurvivors, WireError
from privfl.fl.client_round import ClientRound
from privfl.fl.policy import ClientPolicy
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.he import CkksSum
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum, keys
from privfl.secagg.client import MaskedClient
from privfl.secagg.messages import Bitmap, Survivors
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.wire import SERVER

CREDENTIALS, DIRECTORY = generate_identities(range(40))
LENGTH = 200
SCHEMES = {
    "complete, signed": MaskedSum(DIRECTORY),
    "complete, semi-honest": MaskedSum(mode="semi-honest"),
    "ring, signed": MaskedSum(DIRECTORY, graph=8, corrupt=0.0),
    "ring, semi-honest": MaskedSum(mode="semi-honest", graph=8, corrupt=0.0),
}


class Parts:
    """Every sample that members take: u by client, and v by (client, other)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own: dict[int, Ints] = {}
        self.pairs: dict[tuple[int, int], Ints] = {}
        self.added: dict[int, Ints] = {}
        whole, calls = MeshNoise.sample, list[Ints]()

        def recorded(variance: float, length: int, *, entropy: Any) -> Ints:
            calls.append(skellam(variance, length, entropy=entropy))
            return calls[-1].copy()

        def sample(noise: MeshNoise, me: int, others: Sequence[int], length: int, **streams: Any) -> Ints:
            calls.clear()
            self.added[me] = whole(noise, me, others, length, **streams)
            self.own[me] = calls[0]
            self.pairs |= {(me, other): v for other, v in zip(others, calls[1:], strict=True)}
            return self.added[me]

        monkeypatch.setattr("privfl.dp.mesh.skellam", recorded)
        monkeypatch.setattr(MeshNoise, "sample", sample)

    def stray(self, present: set[int]) -> Ints:
        """The pair noise that does not cancel: that of one member in the sum and one outside of it."""
        total = np.zeros(LENGTH, np.int64)
        for (me, other), v in self.pairs.items():
            if me in present and other not in present:
                total += v if me < other else -v
        return total


def task_of(clients: int, noise: MeshNoise, *, context: bytes = b"round", least: int = 3) -> SumTask:
    return SumTask(context, tuple(range(clients)), least, LENGTH, Ring(48), 1000 + noise.reach, noise=noise)


def vectors_of(clients: int) -> dict[int, Ints]:
    rng = np.random.default_rng(3)
    return {c: rng.integers(-1000, 1001, LENGTH) for c in range(clients)}


@pytest.mark.parametrize("silent", [(), (4,), (4, 9)])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_sum_without_own_and_stray_noise_is_exact(
    name: str, silent: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, noise = Parts(monkeypatch), MeshNoise(1e6, 12, 1, 9)
    vectors, keys_of = vectors_of(12), CREDENTIALS if "signed" in name else None
    fresh = {c: replace(own, tasks=TasksInMemory()) for c, own in (keys_of or {}).items()}
    result = run_sum(
        SCHEMES[name],
        task_of(12, noise),
        vectors,
        credentials=fresh or None,
        drop=lambda client, step: client in silent and step >= 2,
    )
    present = set(result.survivors)
    assert present == set(range(12)) - set(silent)
    assert all(np.array_equal(v, parts.pairs[other, me]) for (me, other), v in parts.pairs.items())
    rest = result.total - sum(parts.own[c] for c in present) - parts.stray(present)
    np.testing.assert_array_equal(rest, sum(vectors[c] for c in present))
    assert (parts.stray(present) != 0).any() == bool(silent)


@pytest.mark.parametrize("name", ["complete, signed", "ring, signed"])
def test_only_the_members_add_noise_and_the_others_count_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, noise = Parts(monkeypatch), MeshNoise(1e6, 5, 1, 3)
    fresh = {c: replace(own, tasks=TasksInMemory()) for c, own in CREDENTIALS.items()}
    vectors = vectors_of(12)
    result = run_sum(SCHEMES[name], task_of(12, noise), vectors, credentials=fresh)
    assert len(parts.added) == 5
    rest = result.total - sum(parts.own.values())
    np.testing.assert_array_equal(rest, sum(vectors.values()))


class Game:
    """A signed sum on the complete graph, message by message."""

    def __init__(self, clients: int, noise: MeshNoise, *, least: int = 3) -> None:
        self.scheme, self.task = MaskedSum(DIRECTORY), task_of(clients, noise, least=least)
        vectors = vectors_of(clients)
        self.clients: dict[int, MaskedClient] = {
            c: self.scheme.client(self.task, c, vectors[c], credentials=CREDENTIALS[c], tasks=TasksInMemory())
            for c in range(clients)
        }
        self.server = self.scheme.server(self.task)
        self.mail: dict[int, bytes] = {}

    def step(self, silent: tuple[int, ...] = ()) -> Game:
        for client, session in self.clients.items():
            if client in silent or (self.mail and client not in self.mail):
                continue
            answer = session.receive(self.mail[client]) if self.mail else session.start()
            assert answer is not None
            self.server.receive(client, answer)
        for client in set() if self.server.ready else self.server.awaiting:
            self.server.drop(client)
        self.mail = dict(self.server.advance())
        return self


def test_a_list_with_too_few_members_is_signed_by_nobody() -> None:
    noise = MeshNoise(1e6, 4, 1, 4)  # of six clients four are members, and all of them must be in the sum
    game = Game(6, noise).step().step().step()
    members = {c for c, own in game.clients.items() if c in game.clients[0]._members(own._keys, 6)}
    assert len(members) == 4
    missing = min(members)
    lied = Survivors(Bitmap.of(6, set(range(6)) - {missing})).to_bytes(sender=SERVER, task=game.server._session)
    for client in set(range(6)) - {missing}:  # those that are no members refuse too
        with pytest.raises(TooFewSurvivors) as refused:
            game.clients[client].receive(lied)
        assert (refused.value.survivors, refused.value.threshold, refused.value.opened) == (3, 4, False)


def test_the_server_stops_before_anything_is_revealed_where_too_few_members_stay() -> None:
    game = Game(6, MeshNoise(1e6, 6, 1, 6), least=6).step().step()
    with pytest.raises(TooFewSurvivors) as stopped:
        game.step(silent=(2,))
    assert not stopped.value.opened


def test_a_roster_smaller_than_the_members_that_a_sum_needs_starts_nothing() -> None:
    noise = MeshNoise(1e6, 6, 1, 6)
    game = Game(6, noise)
    with pytest.raises(TooFewSurvivors):
        game.step(silent=(5,))
    with pytest.raises(ConfigError, match="needs 6 members"):
        MaskedSum(DIRECTORY).terms(task_of(5, noise))


@pytest.mark.parametrize("broken", [False, True], ids=["box keys", "a copy that takes mask keys"])
def test_the_mask_key_of_a_dropout_gives_no_noise(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reconstructs the mask key of client 2. It foretells what stands in for it only in a broken copy."""
    parts, noise = Parts(monkeypatch), MeshNoise(1e6, 5, 1, 4)
    if broken:
        whole = MaskedClient._add_noise

        def with_mask_keys(self: MaskedClient, roster: Any, partners: list[int]) -> None:
            right = {place: self._peers[place].shared for place in partners}
            for place in partners:
                self._peers[place].shared = self._own.mask_key.agree(roster.keys(place)[:32])
            whole(self, roster, partners)
            for place, shared in right.items():
                self._peers[place].shared = shared

        monkeypatch.setattr(MaskedClient, "_add_noise", with_mask_keys)
    game = Game(5, noise)
    stolen, publics = game.clients[2]._own.mask_key, {c: s._own.mask_key.public for c, s in game.clients.items()}
    game.step().step().step(silent=(2,))
    bound: keys.RosterKeys = game.clients[0]._keys
    known = True
    for other in (0, 1, 3, 4):
        key = bound.pair_noise(stolen.agree(publics[other]), 2, other)
        guess = skellam(noise.pair_variance(5), LENGTH, entropy=read_keystream(key))
        known &= np.array_equal(guess, parts.pairs[other, 2])
    assert known == broken


def test_a_saved_and_restored_member_adds_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    game = Game(5, MeshNoise(1e6, 5, 1, 4)).step().step()
    state = game.clients[1].to_bytes()
    kept, boxes, first = copy.deepcopy(game.clients[1]), game.mail[1], parts.added[1]
    restored = game.scheme.resume_client(game.task, 1, state, credentials=CREDENTIALS[1], tasks=TasksInMemory())
    assert restored.receive(boxes) == kept.receive(boxes)
    assert parts.added[1] is first  # sampled once
    shared = kept._own.box_key.agree(game.clients[0]._own.box_key.public) if kept._own.seed else b""
    assert shared
    assert kept._keys.pair_noise(shared, 0, 1) not in state  # nothing in it gives the noise of a pair again


@pytest.mark.parametrize(
    "other",
    [
        MeshNoise(1e6 + 1, 5, 1, 4),
        MeshNoise(1e6, 5, 0, 4),
        MeshNoise(1e6, 5, 1, 5),
        MeshNoise(1e6, 4, 1, 4),
    ],
)
def test_terms_that_differ_end_in_silence(other: MeshNoise) -> None:
    game = Game(5, MeshNoise(1e6, 5, 1, 4))
    task = replace(game.task, noise=other, bound=1000 + other.reach)
    odd = game.scheme.client(task, 3, vectors_of(5)[3], credentials=CREDENTIALS[3], tasks=TasksInMemory())
    with pytest.raises(WireError):
        game.server.receive(3, odd.start())


def mesh_plan(scheme: MaskedSum, **changes: Any) -> Any:
    mechanism = Mechanism("mesh", 4.0, **({"spare": 1} | changes))
    return a_plan(scheme, np.zeros(4), cohort=tuple(range(5)), mechanism=mechanism, encoding=an_encoding())


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (ClientPolicy(min_spare=2), "spare"),
        (ClientPolicy(min_members_to_open=5), "min_members_to_open"),
        (ClientPolicy(min_noise_stddev=100.0), "noise stddev"),
        (ClientPolicy(placements=frozenset({"distributed"})), "'mesh'"),
    ],
)
def test_a_client_refuses_less_than_it_demands(policy: ClientPolicy, reason: str) -> None:
    scheme = MaskedSum(DIRECTORY)
    with pytest.raises(PlanRejected, match=reason):
        policy.check(mesh_plan(scheme), scheme)
    assert ClientPolicy(min_spare=1, min_members_to_open=4).check(mesh_plan(scheme), scheme).noise is not None


Deliver = Callable[[int, bytes], bytes | None]


def play_round(folder: Path, *, refuse_from: int | None) -> tuple[ServerRound, Any]:
    """A round of five whose clients refuse every message from step `refuse_from` on; its payment too."""
    scheme, payment = MaskedSum(DIRECTORY), a_payment(folder)
    plan = mesh_plan(scheme)
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    server = ServerRound(ServerState(np.zeros(4), {}, None), plan, scheme=scheme, payment=payment)
    halves = {
        c: ClientRound(
            plan,
            c,
            np.zeros(4, np.int64),
            scheme=scheme,
            credentials=replace(CREDENTIALS[c], tasks=TasksInMemory()),
        )
        for c in plan.cohort
    }
    mail: dict[int, bytes] = {}
    for step in range(6):
        for client, half in halves.items():
            answer = half.start() if step == 0 else half.receive(mail[client])
            if refuse_from is None or step < refuse_from:
                assert answer is not None
                server.receive(client, answer)
        for client in set() if server.ready else server.awaiting:
            server.drop(client)
        mail = dict(server.advance())
        if server.result is not None:
            break
    return server, payment


@pytest.mark.parametrize(("step", "refunded"), [(2, True), (3, True), (4, False)])
def test_refused_messages_leave_the_charge_standing_once_signatures_left(
    step: int, refunded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments = []
    whole = a_payment

    def kept(folder: Path) -> Any:
        payments.append(whole(folder))
        return payments[-1]

    monkeypatch.setattr(f"{__name__}.a_payment", kept)
    with pytest.raises(TooFewSurvivors) as stopped:
        play_round(tmp_path, refuse_from=step)
    assert stopped.value.opened != refunded
    assert len(payments[0].ledger.releases) == (0 if refunded else 1)


def test_the_ledger_states_what_counted(tmp_path: Path) -> None:
    server, payment = play_round(tmp_path, refuse_from=None)
    (release,) = payment.ledger.releases
    mesh = server.plan.noise(MaskedSum(DIRECTORY)).mesh
    assert (release.placement, release.law, release.spare) == ("mesh", "skellam", 1)
    assert release.realized_stddev == mesh.counted_variance(5, 5) ** 0.5 >= release.declared_stddev


@pytest.mark.parametrize("scheme", [PlainSum(), CkksSum(DIRECTORY)], ids=lambda scheme: scheme.name)
def test_other_sums_refuse_it_and_say_which_they_are(scheme: Any) -> None:
    plan = a_plan(scheme, mechanism=Mechanism("mesh", 4.0, spare=1))
    with pytest.raises(ConfigError, match=f"{scheme.name} gives them none"):
        plan.task(scheme)
    task = task_of(5, MeshNoise(1e6, 5, 1, 4))
    for make in (lambda: scheme.server(task), lambda: scheme.client(task, 0, np.zeros(LENGTH, np.int64))):
        with pytest.raises(ConfigError, match=f"{scheme.name} cannot add noise"):
            make()


def test_a_restored_server_counts_the_same_members() -> None:
    game = Game(5, MeshNoise(1e6, 5, 1, 4)).step().step().step(silent=(2,))
    again = game.scheme.resume(game.task, game.server.to_bytes())
    assert again.members == game.server.members == (5, 4)
    game.server = again
    game.clients.pop(2)
    game.step().step()
    assert again.result is not None
    assert again.result.survivors == {0, 1, 3, 4}


def test_the_sum_states_that_it_opens_no_fewer_vectors_than_members() -> None:
    scheme, noise = MaskedSum(DIRECTORY), MeshNoise(1e6, 6, 1, 6)
    task = task_of(6, noise)
    assert scheme.min_survivors_to_open(task) == scheme.terms(task).min_survivors_to_open == 6
    assert scheme.min_survivors_to_open(replace(task, noise=None)) == 5
