"""The run loop: cohorts, dropouts, payment, and going on after a crash."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import a_payment, central

from privfl.codec import FixedPoint
from privfl.dp import ElementClip, Everyone, FlatClip, Ledger, Mechanism, epsilon
from privfl.engine import LoopExecutor
from privfl.errors import BudgetExceeded, ConfigError, StateError
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import RandomDropouts
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.metrics import Evaluation
from privfl.fl.optimizers import FedAdam, ServerSGD
from privfl.fl.payment import Payment
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import EveryoneSampler, FixedSizeSampler, PoissonSampler
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import Drop, PlainSum
from privfl.sums.driver import never

TARGETS = np.random.default_rng(1).normal(size=(8, 3))
CODEC = FixedPoint(2.0**20, Ring(40))


def towards_target(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate((TARGETS[client] - model) * rng.uniform(0.4, 0.6), client + 1, {})


def silent_all(round: int, attempt: int) -> Drop:
    return lambda client, step: True


def a_run(folder: Path, *, noise: Mechanism | None = None, **changes: object) -> FederatedRun:
    clip = FlatClip(2.0) if noise else ElementClip(8.0, 3)
    weights = {} if noise else {"weighting": "examples", "max_weight": 8}
    run = FederatedRun(
        population=8,
        parts=Parts(towards_target, PlainSum(), LoopExecutor(), FedAdam(eta=0.5)),
        encoding=UpdateEncoding(3, CODEC, clip, **weights),  # type: ignore[arg-type]
        mechanism=noise or Mechanism("none"),
        sampler=EveryoneSampler(),
        store=ModelStore(folder / "models"),
        seed=3,
    )
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


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
    run = a_run(tmp_path, noise=central(), payment=payment, dropouts=drop)
    reports = list(run.run(np.zeros(3), 3))
    assert [r.round for r in payment.ledger.releases] == [1, 3]
    assert not payment.ledger.unsettled
    assert reports[1].epsilon == reports[0].epsilon
    assert reports[2].epsilon > reports[1].epsilon > 0  # type: ignore[operator]


def test_a_server_that_saw_vectors_is_paid_for_even_if_too_few_survived(tmp_path: Path) -> None:
    def drop(round: int, attempt: int) -> Drop:
        return lambda client, step: client > 0

    noise = Mechanism("local", 5.0, source="simulation")
    payment = a_payment(tmp_path)
    run = a_run(tmp_path, noise=noise, payment=payment, dropouts=drop, retries=2)
    (report,) = run.run(np.zeros(3), 1)
    assert report.status == "skipped"
    assert len(payment.ledger.releases) == 3
    assert epsilon(payment.ledger, 1e-5, observer="server", assume_secure_noise=True).epsilon > 0.5


def test_the_budget_stops_the_run_before_a_client_is_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path, noise=central(), payment=a_payment(tmp_path, epsilon=4.0))
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
    expected = final(a_run(tmp_path / "whole", noise=central(), payment=whole))
    killed = tmp_path / "killed"
    _crash(a_run(killed, noise=central(), payment=a_payment(killed)), where, monkeypatch, 6)
    payment = a_payment(killed)
    assert final(a_run(killed, noise=central(), payment=payment)) == expected
    assert payment.ledger.releases == whole.ledger.releases
    assert not payment.ledger.unsettled


@pytest.mark.parametrize("where", PLACES)
def test_a_run_with_secure_noise_keeps_what_was_released_and_charges_what_is_done_again(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def payment() -> Payment:
        return a_payment(tmp_path, assume=False)

    _crash(a_run(tmp_path, noise=central(source="secure"), payment=payment()), where, monkeypatch, 6)
    kept = {version.round: version.hash for version in ModelStore(tmp_path / "models").lineage()}
    paid = payment()
    list(a_run(tmp_path, noise=central(source="secure"), payment=paid).run(np.zeros(3), 6))
    after = {version.round: version.hash for version in ModelStore(tmp_path / "models").lineage()}
    assert kept.items() <= after.items()
    twice = where in ("after reserve", "before save", "after settle")  # secure noise is settled before it is sampled
    assert len(paid.ledger.releases) == (7 if twice else 6)


def test_an_empty_poisson_cohort_releases_noise_and_is_charged(tmp_path: Path) -> None:
    payment = a_payment(tmp_path)
    run = a_run(
        tmp_path,
        noise=central(),
        payment=payment,
        sampler=PoissonSampler(1e-9),
        evaluate_every=0,
        survivor_rule=SurvivorRule(0.0, 0),
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
    run = a_run(tmp_path, evaluate=lambda model, _: Evaluation({"size": float(np.abs(model).sum())}), evaluate_every=2)
    assert [bool(report.evaluation) for report in run.run(np.zeros(3), 5)] == [False, True, False, True, True]
    silent = a_run(tmp_path / "b", evaluate=lambda model, _: Evaluation({"size": 1.0}), evaluate_every=0)
    assert [bool(report.evaluation) for report in silent.run(np.zeros(3), 3)] == [False, False, True]


def test_a_store_of_another_model_is_refused(tmp_path: Path) -> None:
    list(a_run(tmp_path).run(np.zeros(3), 1))
    with pytest.raises(StateError, match="stored model"):
        list(a_run(tmp_path).run(np.zeros(4), 2))


def test_the_report_is_stored_with_the_model(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    reports = list(run.run(np.zeros(3), 2))
    assert RoundReport.read(run.store.load(2).report) == reports[1]


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        a_run(tmp_path, population=0)


def test_a_cohort_below_the_fewest_survivors_is_skipped(tmp_path: Path) -> None:
    run = a_run(tmp_path, survivor_rule=SurvivorRule(0.5, 8), sampler=PoissonSampler(0.5))
    (report,) = run.run(np.zeros(3), 1)
    assert (report.status, report.attempts) == ("skipped", 1)
    assert report.cohort < 8


def test_a_run_in_which_no_round_can_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cohort"):
        list(a_run(tmp_path, survivor_rule=SurvivorRule(0.5, 9)).run(np.zeros(3), 1))
    alone = a_run(tmp_path / "b", population=1)
    parts = dataclasses.replace(alone.parts, scheme=MaskedSum(mode="semi-honest"))
    with pytest.raises(ConfigError):
        list(dataclasses.replace(alone, parts=parts).run(np.zeros(3), 1))


def test_a_stored_attempt_number_is_never_used_again(tmp_path: Path) -> None:
    """Killed without a ledger: what counts is that every start of a round has attempts of its own."""
    store = ModelStore(tmp_path)
    first = store.begin(1, tries=3)
    assert [first.first_attempt(round) for round in (1, 2)] == [0, 0]
    again = store.begin(1, tries=3)
    assert (again.nonce, again.first_attempt(1), again.first_attempt(2)) == (first.nonce, 3, 0)
    third = store.begin(2, tries=3)
    assert (third.nonce, third.first_attempt(2)) == (first.nonce, 3)
    assert store.begin(2, tries=3).first_attempt(2) == 6
    assert ModelStore(tmp_path / "other").begin(1, tries=1).nonce != first.nonce


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"attempt":0,"nonce":"00","round":1}', '{"nonce":"zz"}'])
def test_an_altered_record_of_the_start_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StateError):
        ModelStore(tmp_path).begin(1, tries=1)


def test_the_draw_stands_in_the_ledger_before_the_cohort_is_sampled(tmp_path: Path) -> None:
    payment = a_payment(tmp_path)
    seen: list[int] = []

    class Watching(EveryoneSampler):
        def sample(self, population: int, uniforms: object) -> tuple[int, ...]:
            seen.append(len(payment.ledger.draws))
            return super().sample(population, uniforms)  # type: ignore[arg-type]

    list(a_run(tmp_path, noise=central(), payment=payment, sampler=Watching()).run(np.zeros(3), 3))
    assert seen == [1, 2, 3]
    assert [draw.sampling for draw in payment.ledger.draws] == [Everyone()] * 3


def test_dropouts_of_ones_own_leave_the_turn_of_a_draw_open(tmp_path: Path) -> None:
    for dropouts, bounded in ((RandomDropouts(0.1, 3), True), (lambda round, number: never, False)):
        payment = a_payment(tmp_path / str(bounded))
        run = a_run(
            tmp_path / str(bounded), noise=central(), payment=payment, sampler=PoissonSampler(0.9), dropouts=dropouts
        )
        list(run.run(np.zeros(3), 2))
        assert [draw.turn is not None for draw in payment.ledger.draws] == [bounded] * 2
