"""FedBuff: its schedule, its figures against a loop of the paper, equal over the sums, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CODEC, NONCE, a_plan, central

from privfl.codec import Vector
from privfl.crypto import Credentials, MemoryDirectory
from privfl.dp import Accountant, Everyone, FlatClip, History, Ledger, Mechanism, PrivacyUnit
from privfl.dp.unit import OnePass
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError, PrivacyError
from privfl.fl.arrivals import SeededTimes, buffers
from privfl.fl.bases import Base
from privfl.fl.buffered import ArrivalSampler, Schedule
from privfl.fl.chunks import Chunking
from privfl.fl.client import ClientUpdate, client_rng
from privfl.fl.client_round import Contribution
from privfl.fl.client_state import Stateful
from privfl.fl.dropout import RandomDropouts
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.keep import Keep
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.optimizers import ServerSGD
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts, run_round
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import EveryoneSampler
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.he import CkksSum
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

MODEL = LinearModel("softmax", 4, 3)
CLIENTS, SIZE, CONCURRENCY, ROUNDS = 14, 4, 5, 8
TIMES = SeededTimes(3, spread=0.5, stragglers=0.3, slowdown=6.0, availability=0.7, period=2.0)


def rows(client: int) -> Any:
    rng = np.random.default_rng(client)
    return rng.normal(size=(6, 4)), rng.integers(0, 3, 6).astype(float)


TRAIN = LinearTrain(MODEL, rows, 0.5, epochs=3, batch_size=4)
ENCODING = UpdateEncoding(MODEL.length, CODEC, FlatClip(100.0))


def a_run(folder: Path, parts: Parts, **changes: Any) -> FederatedRun:
    values: dict[str, Any] = {
        "population": CLIENTS,
        "parts": parts,
        "encoding": ENCODING,
        "sampler": ArrivalSampler(a_schedule()),
        "store": ModelStore(folder),
        "seed": 7,
        "nonce": NONCE,
        "survivor_rule": SurvivorRule(1.0),
    }
    return FederatedRun(**values | changes)


def a_schedule(clients: int = CLIENTS) -> Schedule:
    return Schedule(clients, SIZE, CONCURRENCY, TIMES, seed=7)


def plain(**changes: Any) -> Parts:
    return Parts(TRAIN, PlainSum(), LoopExecutor(), **changes)


def reports(run: FederatedRun, rounds: int = ROUNDS) -> list[RoundReport]:
    return list(run.run(MODEL.initial("uniform", seed=1), rounds))


def models(run: FederatedRun) -> list[Vector]:
    reports(run)
    return [run.store.load(round).model for round in range(1, ROUNDS + 1)]


def test_the_model_is_that_of_the_papers_loop(tmp_path: Path) -> None:
    """Nguyen et al. 2022, algorithm 1, in floats: w <- w + eta/K times the sum of s(age) times the updates."""
    current, history = MODEL.initial("uniform", seed=1), {}
    history[0] = current
    expected = []
    for buffer in islice(buffers(CLIENTS, SIZE, CONCURRENCY, TIMES, seed=7), ROUNDS):
        step = np.zeros(MODEL.length)
        for arrival in buffer.arrivals:
            update = TRAIN(history[arrival.base], arrival.client, 0, client_rng(7, buffer.round, arrival.client))
            step += update.delta / np.sqrt(1.0 + (buffer.round - 1 - arrival.base))
        current = current + 0.7 * step / SIZE
        history[buffer.round] = current
        expected.append(current)
    got = models(a_run(tmp_path, plain(optimizer=ServerSGD(0.7))))
    assert np.abs(np.array(got) - np.array(expected)).max() < 2e-5


def test_the_model_is_equal_over_sums_executors_and_chunks(tmp_path: Path) -> None:
    expected = [model.tobytes() for model in models(a_run(tmp_path / "plain", plain()))]
    people = {client: Credentials.generate(client) for client in range(CLIENTS)}
    directory = MemoryDirectory({client: own.signing.public for client, own in people.items()})
    for scheme, credentials in ((MaskedSum(directory), people), (CkksSum(directory), people)):
        run = a_run(tmp_path / scheme.name, Parts(TRAIN, scheme, LoopExecutor(), credentials=credentials))
        assert [model.tobytes() for model in models(run)] == expected
    for size in (1, 3):
        with ProcessExecutor(2) as executor:
            run = a_run(tmp_path / str(size), Parts(TRAIN, PlainSum(), executor), chunking=Chunking(size=size))
            assert [model.tobytes() for model in models(run)] == expected
    batched = models(a_run(tmp_path / "batched", plain(), chunking=Chunking("batched", 3)))
    np.testing.assert_allclose(batched[-1], np.frombuffer(expected[-1]), atol=1e-4)


@pytest.mark.parametrize("rule", ["all", "last:1"])
def test_a_run_that_stops_after_any_round_goes_on_to_the_same_model(tmp_path: Path, rule: str) -> None:
    """A new process makes the schedule again, and finds the models that clients still train from, however few are
    kept."""
    whole = a_run(tmp_path / "whole", plain(), dropouts=RandomDropouts(0.15, 7))
    expected = reports(whole)
    assert {report.status for report in expected} == {"trained", "skipped"}
    for stop in range(1, ROUNDS + 1):
        run = a_run(
            tmp_path / rule,
            plain(),
            dropouts=RandomDropouts(0.15, 7),
            sampler=ArrivalSampler(a_schedule()),
            store=ModelStore(tmp_path / rule, Keep.read(rule)),
        )
        (report,) = reports(run, stop)
        for name in ("model", "parent", "status", "virtual_time", "ages", "dropouts", "metrics"):
            assert getattr(report, name) == getattr(expected[stop - 1], name), (stop, name)
        assert RoundReport.read(run.store.sealed(stop).report) == report
        oldest = a_schedule().buffer(stop).oldest
        kept = {version.round for version in run.store.lineage()}
        needed = set(range(min(oldest, stop - 1), stop + 1))
        assert kept == (needed if rule == "last:1" else set(range(stop + 1)))


def by_hand(count: int) -> list[tuple[int, list[tuple[int, int]], float]]:
    """The same schedule, with a list of those that train in place of a heap, and every event looked for."""
    choice, training, busy, filled, found = np.random.default_rng([7, 6]), [], set(), [], []
    time, job = 0.0, 0
    while len(found) < count:
        free = [c for c in range(CLIENTS) if c not in busy and TIMES.available(c, time)]
        while len(training) < CONCURRENCY and free:
            client = free.pop(int(choice.integers(len(free))))
            training.append((time + TIMES.seconds(client, job), client, len(found)))
            busy.add(client)
            job += 1
        first = min(training)
        training.remove(first)
        time = first[0]
        filled.append((first[1], first[2]))
        if len(filled) == SIZE:
            found.append((len(found) + 1, sorted(filled), time))
            busy -= {client for client, _ in filled}
            filled = []
    return found


def test_the_schedule_is_the_one_made_by_hand() -> None:
    got = list(islice(buffers(CLIENTS, SIZE, CONCURRENCY, TIMES, seed=7), 40))
    assert [(b.round, [(a.client, a.base) for a in b.arrivals], b.time) for b in got] == by_hand(40)
    ages = [b.round - 1 - a.base for b in got for a in b.arrivals]
    assert min(ages) == 0
    assert max(ages) > 2
    for buffer in got:
        assert len({arrival.client for arrival in buffer.arrivals}) == SIZE
        assert all(arrival.base < buffer.round and arrival.time <= buffer.time for arrival in buffer.arrivals)
    for before, after in pairwise(got):
        assert after.time > before.time
        assert all(arrival.base >= before.oldest for arrival in after.arrivals)  # its model is still there


def test_times_have_speeds_stragglers_and_availability() -> None:
    times = SeededTimes(1, spread=0.2, stragglers=0.25, slowdown=10.0, availability=0.6, period=5.0)
    means = np.array([np.mean([times.seconds(client, job) for job in range(20)]) for client in range(400)])
    assert 0.15 < np.mean(means > 4.0) < 0.35
    assert np.mean([times.available(client, 12.0) for client in range(2000)]) == pytest.approx(0.6, abs=0.04)
    assert times.available(3, 5.1) == times.available(3, 9.9)
    assert all(SeededTimes(1).available(client, 3.0) for client in range(20))
    fast = Counter(a.client for b in islice(buffers(30, 5, 10, times, seed=0), 60) for a in b.arrivals)
    slow = [client for client in range(30) if means[client] > 4.0]
    quick = [client for client in range(30) if means[client] <= 4.0]
    assert np.mean([fast[client] for client in quick]) > 2 * np.mean([fast[client] for client in slow])


def recording(plans: list[RoundPlan]) -> Any:
    def driver(state: ServerState, plan: RoundPlan, parts: Parts, **others: Any) -> ServerRound:
        plans.append(plan)
        return run_round(state, plan, parts, **others)

    return driver


def test_the_plan_names_base_models_and_weights(tmp_path: Path) -> None:
    plans: list[RoundPlan] = []
    sampler = ArrivalSampler(a_schedule(), age_exponent=2.0)
    found = reports(a_run(tmp_path, plain(), sampler=sampler, driver=recording(plans)), 5)
    hashes = {0: model_hash(MODEL.initial("uniform", seed=1))} | {r.round: r.model for r in found}
    for report, plan in zip(found, plans, strict=True):
        assert plan.sampling == Everyone()
        assert report.virtual_time == a_schedule().buffer(report.round).time
        for base, age in zip(plan.bases, report.ages, strict=True):
            assert base == Base(hashes[report.round - 1 - age], (1.0 + age) ** -2)
        assert RoundPlan.from_bytes(plan.to_bytes()) == plan
    assert max(age for report in found for age in report.ages) > 0


def test_weights_are_never_zero_and_exponents_are_checked() -> None:
    assert ArrivalSampler(a_schedule(), 0.0).weight(10**6) == 1.0
    assert 0 < ArrivalSampler(a_schedule(), 1000.0).weight(10**6) < 1e-300
    for exponent in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="age_exponent must be"):
            ArrivalSampler(a_schedule(), exponent)
    with pytest.raises(ConfigError, match="the schedule of arrivals is of 14 clients, and 15 exist"):
        ArrivalSampler(a_schedule()).sample(15, None)


NOISE = {
    "central": (central(2.0), PlainSum()),
    "local": (Mechanism("local", 2.0, "simulation"), PlainSum()),
}


@pytest.mark.parametrize("placement", sorted(NOISE))
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_noise_costs_as_much_as_rounds_of_everyone(tmp_path: Path, placement: str, adjacency: Any) -> None:
    mechanism, scheme = NOISE[placement]
    unit, accountant = PrivacyUnit("client", adjacency), Accountant(1e-5, assume_secure_noise=True)
    common = {
        "mechanism": mechanism,
        "encoding": UpdateEncoding(MODEL.length, CODEC, FlatClip(1.0)),
        "survivor_rule": SurvivorRule(0.5),
    }

    def spent(name: str, **changes: Any) -> tuple[float, Ledger]:
        payment = Payment(Ledger(unit, tmp_path / f"{name}.jsonl"), accountant)
        run = a_run(tmp_path / name, Parts(TRAIN, scheme, LoopExecutor()), payment=payment, **common, **changes)
        return reports(run)[-1].epsilon or 0.0, payment.ledger

    arriving, ledger = spent("arriving")
    everyone, _ = spent("everyone", sampler=EveryoneSampler())
    assert arriving == everyone > 1
    assert [r.participants for r in ledger.releases] == [
        tuple(a.client for a in a_schedule().buffer(round).arrivals) for round in range(1, ROUNDS + 1)
    ]
    # Whoever knows the cohorts counts the buffers of the client that was in most of them.
    most = Counter(client for release in ledger.releases for client in release.participants or ()).most_common(1)[0][1]
    assert most < ROUNDS
    known = Accountant(1e-5, observer="server" if placement == "local" else "participant", assume_secure_noise=True)
    worst = replace(ledger.releases[0], participants=(0,))
    same = History.planned(unit, worst, rounds=most, turn=0.0)
    assert known.spent(ledger) == pytest.approx(known.spent(same), rel=1e-9)


def test_no_contribution_of_any_age_is_above_the_bound_of_the_plan() -> None:
    """The clip comes after the weight: whatever a client sends, and whichever model it trained from, moves the sum by
    at most the norm that the release states."""
    model, rng = MODEL.initial("uniform", seed=1), np.random.default_rng(0)
    bases = tuple(Base(model_hash(model), weight) for weight in (1.0, 0.5, 1e-9))
    encoding = UpdateEncoding(MODEL.length, CODEC, FlatClip(1.0))
    plan = a_plan(None, model, encoding=encoding, bases=bases, mechanism=central())
    bound = plan.worst_case(PlainSum()).norm_bound
    for size in (1e-3, 1.0, 1e3, 1e12):
        update = ClientUpdate(rng.normal(size=MODEL.length) * size, 3, {})
        contribution = Contribution(lambda *_, update=update: update, PlainSum())
        for client in plan.cohort:
            row, _ = contribution.with_state(model, client, plan.to_bytes())
            assert math.sqrt(sum(int(entry) ** 2 for entry in row)) <= bound


def test_who_arrives_does_not_depend_on_data(tmp_path: Path) -> None:
    other = LinearTrain(MODEL, lambda client: (np.ones((1 + client, 4)), np.zeros(1 + client)), 0.1)
    first = reports(a_run(tmp_path / "a", plain()))
    second = reports(a_run(tmp_path / "b", Parts(other, PlainSum(), LoopExecutor())))
    assert first[-1].model != second[-1].model
    assert [(r.virtual_time, r.ages) for r in first] == [(r.virtual_time, r.ages) for r in second]


def test_a_ledger_of_add_remove_is_never_charged(tmp_path: Path) -> None:
    """With one client more, other clients fill the buffers from some round on."""
    one_more = [a_schedule(CLIENTS + 1).buffer(round).arrivals for round in range(1, ROUNDS + 1)]
    assert one_more != [a_schedule().buffer(round).arrivals for round in range(1, ROUNDS + 1)]
    payment = Payment(Ledger(PrivacyUnit("client", "add_remove"), tmp_path / "ledger"), Accountant(1e-5))
    encoding = UpdateEncoding(MODEL.length, CODEC, FlatClip(1.0))
    with pytest.raises(PrivacyError, match="does not fit asynchronous rounds"):
        a_run(tmp_path, plain(), payment=payment, mechanism=central(), encoding=encoding)
    plan = a_plan(bases=(Base("ab" * 32, 1.0),) * 3, mechanism=central())
    with pytest.raises(PrivacyError, match="does not fit asynchronous rounds"):
        payment.reserve(plan, PlainSum())
    assert not payment.ledger.releases


def test_states_weights_by_examples_and_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weighs updates by their age"):
        a_run(tmp_path, plain(), encoding=replace(ENCODING, weighting="examples", max_weight=10))
    with pytest.raises(ConfigError, match="keep no states"):
        a_run(tmp_path, Parts(Stateful(lambda m, c, r, g, s: (TRAIN(m, c, r, g), s)), PlainSum(), LoopExecutor()))
    bases = (Base("ab" * 32, 1.0),) * 3
    for changes in ({"bases": bases[:2]}, {"bases": bases, "state_rounds": (1, 0, 0)}):
        with pytest.raises(ConfigError, match="bases must name a model"):
            a_plan(**changes)
    with pytest.raises(ConfigError, match="bases must name a model"):
        a_plan(bases=bases, sampling=OnePass(3))
    for options in ({"model_hash": "x" * 64}, {"weight": 0.0}, {"weight": 1.1}, {"weight": 1}):
        with pytest.raises(ConfigError):
            Base(**{"model_hash": "ab" * 32, "weight": 0.5} | options)


@pytest.mark.parametrize(
    "options",
    [{"spread": -1.0}, {"stragglers": 1.5}, {"slowdown": 0.5}, {"availability": 0.0}, {"period": float("nan")}],
)
def test_wrong_times_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SeededTimes(0, **options)


@pytest.mark.parametrize(("population", "size", "concurrency"), [(5, 0, 1), (5, 1, 0), (5, 3, 3)])
def test_wrong_sizes_are_refused(population: int, size: int, concurrency: int) -> None:
    with pytest.raises(ConfigError, match="need a population of"):
        next(buffers(population, size, concurrency, TIMES, seed=0))


def test_one_round_takes_the_base_models_that_it_is_given() -> None:
    old, new = MODEL.initial("uniform", seed=1), MODEL.initial("uniform", seed=2)
    bases = (Base(model_hash(old), 0.5), Base(model_hash(new), 1.0), Base(model_hash(old), 0.25))
    plan = a_plan(None, new, encoding=ENCODING, bases=bases)
    outcome = run_round(
        ServerState(new), plan, Parts(TRAIN, PlainSum(), LoopExecutor()), bases={model_hash(old): old}
    ).outcome
    steps = [
        base.weight * TRAIN(old if i != 1 else new, i, 3, client_rng(7, 3, i)).delta for i, base in enumerate(bases)
    ]
    np.testing.assert_allclose(outcome.state.model, new + np.mean(steps, axis=0), atol=1e-4)


def test_a_large_population_is_sampled_without_a_list_of_it() -> None:
    """Every client that can be asked starts equally often, and no client trains twice at a time."""
    times = SeededTimes(5, availability=0.5)
    clients, size, concurrency = 5000, 50, 60
    found = list(islice(buffers(clients, size, concurrency, times, seed=2), 60))
    for buffer in found:
        assert len({arrival.client for arrival in buffer.arrivals}) == size
        assert all(0 <= arrival.client < clients for arrival in buffer.arrivals)
    tenths = np.bincount([a.client * 10 // clients for b in found for a in b.arrivals], minlength=10)
    expected = len(found) * size / 10
    assert ((tenths - expected) ** 2 / expected).sum() < 33.7  # chi-square of 9 degrees at 1e-4
    asked: list[float] = []

    class Counting(SeededTimes):
        def available(self, client: int, time: float) -> bool:
            asked.append(time)
            return super().available(client, time)

    next(buffers(10**6, 5, 5, Counting(5, availability=0.5), seed=2))
    assert len(asked) < 200
