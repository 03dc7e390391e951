"""Clients that remember: states of survivors only, one committing write, the same bits however a run is executed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_plan, an_encoding, constant

from privfl.codec import FixedPoint
from privfl.dp import ElementClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ClientFailed, ConfigError, StateError
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.client_state import ClientState, SiteState, Stateful, pack_state, unpack_state
from privfl.fl.dropout import RandomDropouts, nobody
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.optimizers import ServerSGD
from privfl.fl.plan import RoundPlan
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import FixedSizeSampler
from privfl.fl.state_store import StateStore
from privfl.fl.store import ModelStore
from privfl.ring import Ring
from privfl.sums import PlainSum

CLIENTS, LENGTH, ROUNDS = 10, 3, 9
CODEC = FixedPoint(2.0**24, Ring(42))


def remembering(
    model: np.ndarray, client: int, round: int, rng: np.random.Generator, state: ClientState
) -> tuple[ClientUpdate, ClientState]:
    """Its update depends on the state to the last bit; the state counts the rounds that the client survived."""
    sum_before, count = state.get("moved", np.zeros(LENGTH)), int(state.get("visits", np.zeros(1, np.int32))[0])
    delta = rng.normal(size=LENGTH) + 0.1 * sum_before - 0.05 * model + count
    return ClientUpdate(delta, 1 + client), {"moved": sum_before + delta, "visits": np.array([count + 1], np.int32)}


def a_run(folder: Path, executor: Any = None, **changes: Any) -> FederatedRun:
    run = FederatedRun(
        population=CLIENTS,
        parts=Parts(Stateful(remembering), PlainSum(), executor or LoopExecutor(), ServerSGD()),
        encoding=UpdateEncoding(LENGTH, CODEC, ElementClip(512.0, LENGTH), "examples", CLIENTS),
        sampler=FixedSizeSampler(6),
        store=ModelStore(folder / "models"),
        dropouts=RandomDropouts(0.3, 5, steps=1),
        seed=5,
    )
    return dataclasses.replace(run, **changes)


def reference() -> tuple[np.ndarray, dict[int, int]]:
    """The same run as a loop over a dictionary, which commits the states of survivors only."""
    sampler, dropouts, model, states = FixedSizeSampler(6), RandomDropouts(0.3, 5, steps=1), np.zeros(LENGTH), {}
    from privfl.fl.client import client_rng
    from privfl.fl.sampling import seeded_uniforms

    for round in range(1, ROUNDS + 1):
        cohort = sampler.sample(CLIENTS, seeded_uniforms(5, round))
        drop = dropouts(round, 0)
        results = {c: remembering(model, c, round, client_rng(5, round, c), states.get(c, {})) for c in cohort}
        alive = [c for c in cohort if not drop(c, 0)]
        if len(alive) < 3:
            continue
        states |= {c: results[c][1] for c in alive}
        model = model + np.average([results[c][0].delta for c in alive], axis=0, weights=[1 + c for c in alive])
    return model, {client: int(state["visits"][0]) for client, state in states.items()}


def final(run: FederatedRun) -> tuple[str, dict[int, bytes]]:
    reports = list(run.run(np.zeros(LENGTH), ROUNDS))
    states = run.store.states()
    return reports[-1].model, {client: states.read(client) for client in range(CLIENTS)}


def test_a_run_is_the_loop_that_commits_survivors_only(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    _, states = final(run)
    model, counts = reference()
    np.testing.assert_allclose(run.store.load(ROUNDS).model, model, atol=2e-5)
    assert {c: int(unpack_state(s)["visits"][0]) for c, s in states.items() if s} == counts
    assert 0 < sum(counts.values()) < 6 * ROUNDS  # somebody dropped out


@pytest.mark.parametrize("workers", [1, 2])
def test_states_and_model_do_not_depend_on_the_executor(tmp_path: Path, workers: int) -> None:
    with ProcessExecutor(workers) as executor:
        assert final(a_run(tmp_path / "pool", executor)) == final(a_run(tmp_path / "loop"))


def test_going_on_after_any_round_changes_nothing(tmp_path: Path) -> None:
    whole = final(a_run(tmp_path / "whole"))
    for stop in range(1, ROUNDS):
        folder = tmp_path / str(stop)
        list(a_run(folder).run(np.zeros(LENGTH), stop))
        assert final(a_run(folder)) == whole


def test_a_kill_between_the_states_and_the_model_leaves_the_round_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, genuine = final(a_run(tmp_path / "whole")), ModelStore.save

    def killed(self: ModelStore, round: int, *args: Any, **kwargs: Any) -> Any:
        if round == 5:
            raise KeyboardInterrupt
        return genuine(self, round, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            final(a_run(tmp_path / "cut"))
    orphan = tmp_path / "cut" / "models" / "states" / "000005.bin"
    assert orphan.exists()
    assert ModelStore(tmp_path / "cut" / "models").states().rounds(range(CLIENTS)).count(5) == 0
    assert final(a_run(tmp_path / "cut")) == whole


def test_only_files_that_a_client_needs_are_kept(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    final(run)
    store = run.store.states()
    needed = set(store.rounds(range(CLIENTS))) - {0}
    assert {int(path.stem) for path in store.folder.glob("*.bin")} == needed
    assert len(needed) < ROUNDS


def test_an_altered_or_lost_file_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    final(run)
    path = max(run.store.states_folder.glob("*.bin"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StateError, match="altered"):
        [run.store.states().read(c) for c in range(CLIENTS)]
    path.write_bytes(good.replace(b'"round"', b'"ruond"'))
    with pytest.raises(StateError, match="altered"):
        run.store.states()
    path.unlink()
    with pytest.raises(StateError, match="lost"):
        run.store.states()


def test_no_report_holds_a_state(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    reports = list(run.run(np.zeros(LENGTH), 2))
    assert all("moved" not in str(report.record()) and "visits" not in str(report.record()) for report in reports)


def test_an_update_that_does_not_count_leaves_the_state_as_it_was() -> None:
    def poisoned(model: Any, client: int, round: int, rng: Any, state: ClientState) -> tuple[ClientUpdate, ClientState]:
        delta = np.full(4, np.nan if client == 0 else 0.5)
        return ClientUpdate(delta, client), {"seen": np.ones(1)}

    plan = a_plan(encoding=an_encoding(weighting="examples", max_weight=4), state_rounds=(2, 2, 0))
    contribution, before = Contribution(Stateful(poisoned), PlainSum()), pack_state({"seen": np.zeros(1)})
    after = [contribution.with_state(np.zeros(4), c, plan.to_bytes(), before)[1] for c in (0, 1)]
    assert after == [before, pack_state({"seen": np.ones(1)})]


def test_a_failing_client_keeps_its_state_and_drops_out(tmp_path: Path) -> None:
    def sometimes(model: Any, client: int, round: int, rng: Any, state: ClientState) -> Any:
        if client == 3 and round % 2:
            raise RuntimeError
        return remembering(model, client, round, rng, state)

    def parts(**changes: Any) -> Parts:
        return Parts(Stateful(sometimes), PlainSum(), LoopExecutor(), ServerSGD(), **changes)

    run = a_run(tmp_path, parts=parts(on_client_error="drop"), sampler=FixedSizeSampler(CLIENTS), dropouts=nobody)
    _, states = final(run)
    assert [int(unpack_state(states[c])["visits"][0]) for c in (2, 3)] == [ROUNDS, ROUNDS // 2]
    with pytest.raises(ClientFailed):
        final(a_run(tmp_path / "raise", parts=parts(), sampler=FixedSizeSampler(CLIENTS)))


# --- the bytes of a state


def test_a_state_survives_its_bytes() -> None:
    state = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([True, False]),
        "c": np.array(7, np.uint8),
    }
    data = pack_state(state)
    back = unpack_state(data)
    assert list(back) == ["a", "b", "c"]
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype
        assert not back[name].flags.writeable
    assert pack_state(dict(reversed(state.items()))) == data
    assert (pack_state({}), unpack_state(b"")) == (b"", {})


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"x" + d, lambda d: d[:30]])
def test_other_bytes_are_no_state(change: Any) -> None:
    with pytest.raises(StateError, match="not a client's state"):
        unpack_state(change(pack_state({"a": np.zeros(3)})))


@pytest.mark.parametrize("state", [{"a": np.array(["x"])}, {1: np.zeros(1)}, {"a": np.array([None])}])
def test_a_state_holds_numbers_only(state: Any) -> None:
    with pytest.raises(ConfigError, match="arrays of numbers"):
        pack_state(state)


# --- a site's own state


def plan_of(round: int, state_rounds: tuple[int, ...]) -> RoundPlan:
    return a_plan(round=round, state_rounds=state_rounds)


def test_a_site_commits_what_a_plan_names(tmp_path: Path) -> None:
    keeper = SiteState(tmp_path / "state", 1)
    assert keeper.begin(plan_of(1, (0, 0, 0))) == b""
    keeper.propose(plan_of(1, (0, 0, 0)), b"one")
    assert keeper.begin(plan_of(2, (1, 1, 0))) == b"one"  # this client survived round 1
    keeper.propose(plan_of(2, (1, 1, 0)), b"two")
    again = SiteState(tmp_path / "state", 1)  # another process
    assert again.begin(plan_of(5, (1, 1, 0))) == b"one"  # it did not survive round 2
    again.propose(plan_of(5, (1, 1, 0)), b"five")
    assert again.begin(plan_of(9, (1, 5, 0))) == b"five"
    with pytest.raises(StateError, match=r"state of round 1.*holds 5"):
        again.begin(plan_of(9, (1, 1, 0)))
    assert again.begin(plan_of(9, (1, 0, 0))) == b""


def test_a_site_that_is_killed_before_it_answers_can_be_asked_again(tmp_path: Path) -> None:
    keeper = SiteState(tmp_path / "state", 0)
    for attempt in range(3):
        plan = dataclasses.replace(plan_of(4, (0, 0, 0)), attempt=attempt)
        assert keeper.begin(plan) == b""
        keeper.propose(plan, b"same")
    assert keeper.begin(plan_of(7, (4, 0, 0))) == b"same"


def test_a_site_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    keeper = SiteState(tmp_path / "state", 1)
    keeper.propose(plan_of(1, (0, 0, 0)), b"one")
    with pytest.raises(StateError, match="client 1, and this is client 2"):
        SiteState(tmp_path / "state", 2).begin(plan_of(2, (0, 0, 1)))
    with pytest.raises(ConfigError, match="without states"):
        keeper.begin(a_plan())
    with pytest.raises(ConfigError, match="not in the cohort"):
        SiteState(tmp_path / "other", 7).begin(plan_of(1, (0, 0, 0)))
    data = bytearray(keeper.path.read_bytes())
    data[-40] ^= 1
    keeper.path.write_bytes(data)
    with pytest.raises(StateError, match="altered"):
        keeper.begin(plan_of(2, (0, 1, 0)))


def test_rounds_over_sites_equal_the_rounds_of_a_run(tmp_path: Path) -> None:
    """A federation whose clients keep their own states, driven by hand, against the run in one process."""
    run = a_run(tmp_path, sampler=FixedSizeSampler(CLIENTS))
    final(run)
    model = np.zeros(LENGTH)
    contribution = Contribution(Stateful(remembering), PlainSum())
    survived: dict[int, int] = {}
    drops = RandomDropouts(0.3, 5, steps=1)
    start = run.store.begin(ROUNDS + 1, tries=1)
    for round in range(1, ROUNDS + 1):
        before = run.store.load(round - 1).state
        np.testing.assert_array_equal(before.model, model)
        named = tuple(survived.get(c, 0) for c in range(CLIENTS))
        plan = run.plan(before, start, round, 0, tuple(range(CLIENTS)), state_rounds=named)
        drop = drops(round, 0)
        clients = {
            c: ClientRound.trained(
                plan.to_bytes(), model, c, contribution=contribution, keeper=SiteState(tmp_path / str(c), c)
            )
            for c in plan.cohort
        }
        task = plan.task(PlainSum())
        server = PlainSum().server(task)
        for client, half in clients.items():
            message = half.start()
            if not drop(client, 0):
                server.receive(client, message)
        server.advance()
        assert server.result is not None
        model = model + plan.decode(server.result.total, len(server.result.survivors)).mean
        survived |= dict.fromkeys(server.result.survivors, round)
    np.testing.assert_array_equal(run.store.load(ROUNDS).model, model)


def test_training_and_keeper_belong_together() -> None:
    plan, model = a_plan(model=np.zeros(4)), np.zeros(4)
    keeper = SiteState(Path("nowhere"), 0)
    for train, given in ((constant([0.0] * 4), keeper), (Stateful(remembering), None)):
        with pytest.raises(ConfigError, match="SiteState"):
            ClientRound.trained(plan.to_bytes(), model, 0, contribution=Contribution(train, PlainSum()), keeper=given)


@pytest.mark.parametrize("rounds", [(1,), (3, 0, 0), (-1, 0, 0), (1.0, 0, 0)])
def test_a_plan_refuses_rounds_of_states_that_cannot_be(rounds: Any) -> None:
    with pytest.raises(ConfigError, match="state_rounds"):
        a_plan(state_rounds=rounds)


def test_a_store_without_states_reads_none(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert store.rounds([1, 2]) == (0, 0)
    assert store.read(1) == b""
    assert store.write(1, {}) == ()
