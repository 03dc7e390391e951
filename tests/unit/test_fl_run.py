"""The run loop: cohorts, dropouts, payment, and going on after a crash."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ledgers import PLAIN

from privfl.codec import FixedPoint
from privfl.dp import CLIENT_UNIT, Accountant, Budget, ElementClip, FlatClip, Ledger, Mechanism, NoisePlan, Slot
from privfl.engine import LoopExecutor
from privfl.errors import BudgetExceeded, ConfigError, StateError, TooFewSurvivors
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import RandomDropouts
from privfl.fl.optimizers import FedAdam, ServerSGD
from privfl.fl.plan import UpdatePlan
from privfl.fl.round import Contribution, Parts
from privfl.fl.run import FederatedRun, Payment, RoundReport
from privfl.fl.sampling import EveryoneSampler, FixedSizeSampler, PoissonSampler
from privfl.fl.store import ModelStore
from privfl.ring import Ring
from privfl.sums import Drop, PlainSum, never

TARGETS = np.random.default_rng(1).normal(size=(8, 3))
CODEC = FixedPoint(2.0**20, Ring(40))


def towards_target(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate((TARGETS[client] - model) * rng.uniform(0.4, 0.6), client + 1, {})


def silent_all(round: int, attempt: int) -> Drop:
    return lambda client, step: True


def a_run(folder: Path, *, noise: NoisePlan | None = None, **changes: object) -> FederatedRun:
    clip = FlatClip(2.0) if noise else ElementClip(8.0, 3)
    update = UpdatePlan(3, CODEC, clip, weighting="uniform" if noise else "examples", max_weight=8)
    parts = Parts(Contribution(towards_target, update, noise, 3), PlainSum(), LoopExecutor(), FedAdam(eta=0.5))
    run = FederatedRun(8, parts, EveryoneSampler(), ModelStore(folder / "models"), seed=3)
    return dataclasses.replace(run, **changes)


def a_noise(source: str = "simulation") -> NoisePlan:
    mechanism = Mechanism("central", 2.0, source=source)  # type: ignore[arg-type]
    return mechanism.plan([Slot("update", 3, CODEC.scale, 2.0)], cohort=8, min_survivors=4)


def a_payment(folder: Path, *, epsilon: float = 100.0, assume: bool = True) -> Payment:
    ledger = Ledger(CLIENT_UNIT, folder / "ledger.jsonl")
    accountant = Accountant(1e-5, assume_secure_noise=assume)
    budget = Budget(epsilon, 1e-5, assume_secure_noise=assume)
    return Payment(ledger, accountant, PLAIN, budget)


def final(run: FederatedRun, rounds: int = 6) -> str:
    return list(run.run(np.zeros(3), rounds))[-1].model


def test_the_first_round_is_the_weighted_mean_of_the_updates(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    plain = dataclasses.replace(run, parts=dataclasses.replace(run.parts, optimizer=ServerSGD()))
    (report,) = plain.run(np.zeros(3), 1)
    deltas = [update.delta for _, update in sorted(_updates().items())]
    expected = np.average(deltas, axis=0, weights=np.arange(1, 9))
    np.testing.assert_allclose(plain.store.load(1).model, expected, atol=1e-5)
    assert report.survivors == report.cohort == 8
    assert report.bytes_up > 8 * 4 * 8
    assert report.bytes_down == 0


def _updates() -> dict[int, ClientUpdate]:
    from privfl.fl.client import client_rng

    return {c: towards_target(np.zeros(3), c, 1, client_rng(3, 1, c)) for c in range(8)}


def test_stopping_after_any_round_and_going_on_changes_nothing(tmp_path: Path) -> None:
    whole = final(a_run(tmp_path / "whole", dropouts=RandomDropouts(0.3, 3, steps=1), sampler=FixedSizeSampler(6)))
    for stop in range(1, 6):
        folder = tmp_path / str(stop)
        for rounds in (stop, 6):
            run = a_run(folder, dropouts=RandomDropouts(0.3, 3, steps=1), sampler=FixedSizeSampler(6))
            last = final(run, rounds)
        assert last == whole
        assert len(list(ModelStore(folder / "models").lineage())) == 7


def test_too_few_survivors_skip_the_round_and_keep_the_model(tmp_path: Path) -> None:
    def drop(round: int, attempt: int) -> Drop:
        return silent_all(round, attempt) if round == 2 else never

    run = a_run(tmp_path, dropouts=drop, retries=1)
    reports = list(run.run(np.zeros(3), 3))
    assert [r.status for r in reports] == ["trained", "skipped", "trained"]
    assert reports[1].attempts == 2
    assert reports[1].model == reports[0].model == reports[2].parent


def test_a_retry_uses_the_same_cohort(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def drop(round: int, attempt: int) -> Drop:
        def silent(client: int, step: int) -> bool:
            asked.append((attempt, client))
            return attempt == 0

        return silent

    (report,) = a_run(tmp_path, dropouts=drop, retries=2, sampler=PoissonSampler(0.5)).run(np.zeros(3), 1)
    cohorts = [{client for at, client in asked if at == attempt} for attempt in (0, 1)]
    assert cohorts[0] == cohorts[1]
    assert (report.status, report.attempts) == ("trained", 2)


def test_an_unopened_round_is_refunded_and_an_opened_one_is_settled(tmp_path: Path) -> None:
    def drop(round: int, attempt: int) -> Drop:
        return silent_all(round, attempt) if round == 2 else never

    payment = a_payment(tmp_path)
    run = a_run(tmp_path, noise=a_noise(), payment=payment, dropouts=drop, denominator=8.0)
    reports = list(run.run(np.zeros(3), 3))
    assert [r.round for r in payment.ledger.releases] == [1, 3]
    assert not payment.ledger.unsettled
    assert reports[1].epsilon == reports[0].epsilon
    assert reports[2].epsilon > reports[1].epsilon > 0  # type: ignore[operator]


def test_a_server_that_saw_vectors_is_paid_for_even_if_too_few_survived(tmp_path: Path) -> None:
    def drop(round: int, attempt: int) -> Drop:
        return lambda client, step: client > 0

    noise = Mechanism("local", 5.0, source="simulation").plan(
        [Slot("update", 3, CODEC.scale, 2.0)], cohort=8, min_survivors=4
    )
    payment = a_payment(tmp_path)
    run = a_run(tmp_path, noise=noise, payment=payment, dropouts=drop, retries=2, denominator=8.0)
    (report,) = run.run(np.zeros(3), 1)
    assert report.status == "skipped"
    assert len(payment.ledger.releases) == 3
    server = Accountant(1e-5, observer="server", assume_secure_noise=True)
    assert server.report(payment.ledger).epsilon > 0.5


def test_the_budget_stops_the_run_before_a_client_is_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path, noise=a_noise(), payment=a_payment(tmp_path, epsilon=4.0), denominator=8.0)
    reports: list[RoundReport] = []
    with pytest.raises(BudgetExceeded):
        reports.extend(run.run(np.zeros(3), 100))
    assert 1 <= len(reports) < 100
    assert reports[-1].epsilon <= 4.0  # type: ignore[operator]
    latest = run.store.latest()
    assert latest is not None
    assert latest.round == len(reports)


class Killed(BaseException):
    """Stands for kill -9: nothing between it and the top may catch it."""


def _crash(run: FederatedRun, where: str, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    count = 0

    def wrap(function: Callable[..., object], after: bool) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == 3 and not after:
                raise Killed
            value = function(*args, **kwargs)
            if count == 3:
                raise Killed
            return value

        return call

    target, name, after = {
        "before reserve": (Ledger, "reserve", False),
        "after reserve": (Ledger, "reserve", True),
        "before save": (ModelStore, "save", False),
        "after save": (ModelStore, "save", True),
        "after settle": (Ledger, "settle", True),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, wrap(getattr(target, name), after))
        with pytest.raises(Killed):
            list(run.run(np.zeros(3), rounds))


PLACES = ["before reserve", "after reserve", "before save", "after save", "after settle"]


@pytest.mark.parametrize("where", PLACES)
def test_a_seeded_run_continues_bit_identically_wherever_it_was_killed(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = a_payment(tmp_path / "whole")
    expected = final(a_run(tmp_path / "whole", noise=a_noise(), payment=whole, denominator=8.0))
    killed = tmp_path / "killed"
    _crash(a_run(killed, noise=a_noise(), payment=a_payment(killed), denominator=8.0), where, monkeypatch, 6)
    payment = a_payment(killed)
    assert final(a_run(killed, noise=a_noise(), payment=payment, denominator=8.0)) == expected
    assert payment.ledger.releases == whole.ledger.releases
    assert not payment.ledger.unsettled


@pytest.mark.parametrize("where", PLACES)
def test_a_run_with_secure_noise_keeps_what_was_released_and_charges_what_is_done_again(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def payment() -> Payment:
        return a_payment(tmp_path, assume=False)

    _crash(a_run(tmp_path, noise=a_noise("secure"), payment=payment(), denominator=8.0), where, monkeypatch, 6)
    kept = {version.round: version.hash for version in ModelStore(tmp_path / "models").lineage()}
    paid = payment()
    list(a_run(tmp_path, noise=a_noise("secure"), payment=paid, denominator=8.0).run(np.zeros(3), 6))
    after = {version.round: version.hash for version in ModelStore(tmp_path / "models").lineage()}
    assert kept.items() <= after.items()
    twice = where in ("after reserve", "before save")
    assert len(paid.ledger.releases) == (7 if twice else 6)


def test_an_empty_poisson_cohort_releases_noise_and_is_charged(tmp_path: Path) -> None:
    payment = a_payment(tmp_path)
    run = a_run(
        tmp_path, noise=a_noise(), payment=payment, denominator=8.0, sampler=PoissonSampler(1e-9), evaluate_every=0
    )
    reports = list(run.run(np.zeros(3), 2))
    assert [r.cohort for r in reports] == [0, 0]
    assert [r.status for r in reports] == ["trained", "trained"]
    assert run.store.load(1).model.any()
    assert len(payment.ledger.releases) == 2


def test_an_empty_cohort_without_noise_is_skipped(tmp_path: Path) -> None:
    (report,) = a_run(tmp_path, sampler=PoissonSampler(1e-9)).run(np.zeros(3), 1)
    assert report.status == "skipped"


def test_evaluation_happens_when_it_is_due(tmp_path: Path) -> None:
    run = a_run(tmp_path, evaluate=lambda model: {"size": float(np.abs(model).sum())}, evaluate_every=2)
    assert [bool(report.evaluation) for report in run.run(np.zeros(3), 5)] == [False, True, False, True, True]
    silent = a_run(tmp_path / "b", evaluate=lambda model: {"size": 1.0}, evaluate_every=0)
    assert [bool(report.evaluation) for report in silent.run(np.zeros(3), 3)] == [False, False, True]


def test_a_store_of_another_model_is_refused(tmp_path: Path) -> None:
    list(a_run(tmp_path).run(np.zeros(3), 1))
    with pytest.raises(StateError, match="stored model"):
        list(a_run(tmp_path).run(np.zeros(4), 2))


def test_the_report_is_stored_with_the_model(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    reports = list(run.run(np.zeros(3), 2))
    assert RoundReport.read(run.store.load(2).report) == reports[1]


@pytest.mark.parametrize("changes", [{"population": 0}, {"survivor_share": 0.0}, {"survivor_share": 1.5}])
def test_bad_settings_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        a_run(tmp_path, **changes)


def test_a_cohort_below_the_least_survivors_is_skipped(tmp_path: Path) -> None:
    (report,) = a_run(tmp_path, least_survivors=9).run(np.zeros(3), 1)
    assert report.status == "skipped"


def test_run_round_raises_for_an_empty_cohort_without_central_noise(tmp_path: Path) -> None:
    from privfl.fl.round import run_round

    run = a_run(tmp_path)
    first = run.store.save(0, np.zeros(3), {}, parent="", report={})
    with pytest.raises(TooFewSurvivors):
        run_round(np.zeros(3), {}, run._plan(first, 1, 0, (), run.parts.work), run.parts)
