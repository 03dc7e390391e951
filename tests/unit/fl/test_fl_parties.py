"""The two halves of a round: what each refuses, and that bytes are all that they exchange."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_payment, a_plan, an_encoding, central, constant

from privfl.crypto import generate_identities
from privfl.dp import AdaptiveClip, Mechanism
from privfl.engine import LoopExecutor
from privfl.errors import (
    BudgetExceeded,
    ClientFailed,
    ConfigError,
    LocalProtocolError,
    PlanRejected,
    StateError,
    TooFewSurvivors,
    WireError,
)
from privfl.fl.bases import Base
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.policy import ClientPolicy
from privfl.fl.round import Parts, run_round
from privfl.fl.server_round import ServerRound, _norm
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.he import CkksSum
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SecureSum, SumPolicy, drive

MODEL = np.zeros(2)
DELTA = [0.5, -0.25]


def a_sum(name: str, clients: int = 3) -> tuple[SecureSum, dict[int, Any]]:
    if name == "plain":
        return PlainSum(), {}
    credentials, directory = generate_identities(range(clients))
    return (MaskedSum(directory) if name == "masked" else CkksSum(directory)), dict(credentials)


@pytest.mark.parametrize("name", ["plain", "masked", "ckks"])
def test_the_halves_meet_over_bytes_alone(name: str) -> None:
    scheme, credentials = a_sum(name)
    plan = a_plan(scheme, MODEL)
    order = plan.to_bytes()
    server = ServerRound(ServerState(MODEL), plan, scheme=scheme)
    clients = {
        me: ClientRound.trained(
            order, MODEL, me, contribution=Contribution(constant(DELTA), scheme), credentials=credentials.get(me)
        )
        for me in plan.cohort
    }
    for me, client in clients.items():
        server.receive(me, client.start())
    while server.result is None:
        for me, message in server.advance().items():
            answer = clients[me].receive(message)
            if answer is not None:
                server.receive(me, answer)
    np.testing.assert_allclose(server.outcome.state.model, DELTA, atol=1e-4)
    assert server.outcome.survivors == {0, 1, 2}


def test_run_round_refuses_a_plan_that_is_not_of_this_model_or_sum() -> None:
    scheme = PlainSum()
    parts = Parts(constant(DELTA), scheme, LoopExecutor())
    right = a_plan(scheme, MODEL)
    np.testing.assert_allclose(run_round(ServerState(MODEL), right, parts).outcome.state.model, DELTA, atol=1e-4)
    for changes in ({"model_hash": "0" * 64}, {"scheme": "masked-sum/1"}, {"parameters": {"threshold": 2}}):
        with pytest.raises(ConfigError):
            run_round(ServerState(MODEL), a_plan(scheme, MODEL, **changes), parts)


def test_run_round_takes_the_model_of_a_base_by_its_hash_alone() -> None:
    parts, other = Parts(constant(DELTA), PlainSum(), LoopExecutor()), np.ones(2)
    plan = a_plan(PlainSum(), MODEL, bases=(Base(model_hash(other), 1.0), *[Base(model_hash(MODEL), 1.0)] * 2))
    for bases in ({}, {model_hash(other): np.full(2, 3.0)}):
        with pytest.raises(ConfigError, match="no model with this hash"):
            run_round(ServerState(MODEL), plan, parts, bases=bases)
    # The plan's own model is the state's, whatever is given under its hash.
    seen: list[float] = []

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        seen.append(float(model[0]))
        return ClientUpdate(np.array(DELTA), 1)

    given = {model_hash(other): other, model_hash(MODEL): np.full(2, 9.0)}
    run_round(ServerState(MODEL), plan, Parts(train, PlainSum(), LoopExecutor()), bases=given)
    assert seen == [1.0, 0.0, 0.0]


def test_a_policy_that_demands_noise_is_not_met_by_a_plan_without_it() -> None:
    scheme = PlainSum()
    parts = Parts(constant(DELTA), scheme, LoopExecutor(), policy=ClientPolicy(min_noise_stddev=1.0))
    for mechanism in (Mechanism("none"), central(5.0, "simulation"), central(0.5, "secure")):
        with pytest.raises(PlanRejected):
            run_round(ServerState(MODEL), a_plan(scheme, MODEL, mechanism=mechanism), parts)
    outcome = run_round(ServerState(MODEL), a_plan(scheme, MODEL, mechanism=central(1.0, "secure")), parts).outcome
    assert not np.allclose(outcome.state.model, DELTA, atol=1e-4)


def test_the_encoding_of_the_plan_is_the_only_one() -> None:
    scheme = PlainSum()
    parts = Parts(constant(DELTA), scheme, LoopExecutor())
    finer = an_encoding(2, codec=type(an_encoding().codec)(2.0**17, Ring(40)))
    for encoding in (an_encoding(2), finer):
        outcome = run_round(ServerState(MODEL), a_plan(scheme, MODEL, encoding=encoding), parts).outcome
        np.testing.assert_allclose(outcome.state.model, DELTA, atol=1e-4)


def test_a_client_judges_the_plan_before_it_trains() -> None:
    trained: list[int] = []

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> Any:
        trained.append(client)
        return constant(DELTA)(model, client, round, rng)

    scheme = PlainSum()
    work, order = Contribution(train, scheme), a_plan(scheme, MODEL).to_bytes()
    refusals: list[tuple[type[Exception], dict[str, Any]]] = [
        (PlanRejected, {"policy": ClientPolicy(max_clip_norm=0.1)}),
        (PlanRejected, {"policy": ClientPolicy(sum=SumPolicy(min_cohort=9))}),
        (ConfigError, {"model": np.ones(2)}),
        (ConfigError, {"me": 9}),
        (ConfigError, {"order": a_plan(scheme, MODEL, scheme="ckks-sum/1").to_bytes()}),
        (WireError, {"order": order[:-1]}),
    ]
    for error, changes in refusals:
        values: dict[str, Any] = {"order": order, "model": MODEL, "me": 0} | changes
        with pytest.raises(error):
            ClientRound.trained(values.pop("order"), values.pop("model"), values.pop("me"), contribution=work, **values)
    assert not trained
    ClientRound.trained(order, MODEL, 1, contribution=work)
    assert trained == [1]


def test_the_servers_state_must_carry_the_clip_norm_of_the_plan() -> None:
    clip = AdaptiveClip(0.5, units=1 << 12, indicator_units=1 << 6)
    encoding = UpdateEncoding(2, clip.codec(Ring(40)), clip)
    plan = a_plan(PlainSum(), MODEL, encoding=encoding)
    ServerRound(ServerState(MODEL, {}, 0.5), plan, scheme=PlainSum())
    for clip_norm in (0.25, 0.5 * (1 + 1e-15)):
        with pytest.raises(ConfigError, match="clip"):
            ServerRound(ServerState(MODEL, {}, clip_norm), plan, scheme=PlainSum())


def test_an_adaptive_clip_norm_travels_in_the_state() -> None:
    clip = AdaptiveClip(0.01, units=1 << 12, indicator_units=1 << 6)
    encoding = UpdateEncoding(2, clip.codec(Ring(40)), clip)
    parts = Parts(constant(DELTA), PlainSum(), LoopExecutor())
    plan = a_plan(PlainSum(), MODEL, encoding=encoding)
    state = run_round(ServerState(MODEL, {}, 0.01), plan, parts).outcome.state
    assert state.clip_norm is not None
    assert state.clip_norm > 0.01


def test_a_cohort_below_the_minimum_is_never_asked(tmp_path: Path) -> None:
    payment = a_payment(tmp_path)
    plan = a_plan(PlainSum(), MODEL, mechanism=central(), survivor_rule=SurvivorRule(0.0, 4))
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    with pytest.raises(TooFewSurvivors) as caught:
        ServerRound(ServerState(MODEL), plan, scheme=PlainSum(), payment=payment)
    assert not caught.value.opened
    assert not payment.ledger.releases


def test_a_round_is_charged_before_anybody_is_asked_and_settled_by_what_was_opened(tmp_path: Path) -> None:
    scheme, credentials = a_sum("masked", 4)
    payment = a_payment(tmp_path)
    plan = a_plan(scheme, MODEL, cohort=(0, 1, 2, 3), mechanism=central())
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    server = ServerRound(ServerState(MODEL), plan, scheme=scheme, payment=payment)
    assert payment.ledger.releases == (plan.worst_case(scheme),)
    with pytest.raises(LocalProtocolError, match="outcome"):
        _ = server.outcome
    with pytest.raises(LocalProtocolError, match="settled"):
        server.settle()
    work = Contribution(constant(DELTA), scheme)
    sessions = {
        me: ClientRound.trained(plan.to_bytes(), MODEL, me, contribution=work, credentials=credentials[me])
        for me in plan.cohort
    }
    drive(server, sessions.items(), drop=lambda client, step: client == 3)
    assert len(payment.ledger.unsettled) == 1
    server.settle()
    (release,) = payment.ledger.releases
    assert release.participants == (0, 1, 2)
    assert not payment.ledger.unsettled


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1)])
def test_a_masked_round_is_refunded_only_before_its_signatures_left(tmp_path: Path, step: int, kept: int) -> None:
    scheme, credentials = a_sum("masked", 4)
    payment = a_payment(tmp_path)
    plan = a_plan(scheme, MODEL, cohort=(0, 1, 2, 3), mechanism=central())
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    server = ServerRound(ServerState(MODEL), plan, scheme=scheme, payment=payment)
    work = Contribution(constant(DELTA), scheme)
    sessions = (
        (me, ClientRound.trained(plan.to_bytes(), MODEL, me, contribution=work, credentials=credentials[me]))
        for me in plan.cohort
    )
    with pytest.raises(TooFewSurvivors) as caught:
        drive(server, sessions, drop=lambda client, at: client > 0 and at >= step)
    assert caught.value.opened == bool(kept)
    assert len(payment.ledger.releases) == kept


def test_a_round_that_could_cost_too_much_is_refused_before_a_client_is_asked(tmp_path: Path) -> None:
    payment = a_payment(tmp_path, epsilon=0.01)
    plan = a_plan(PlainSum(), MODEL, mechanism=central())
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    with pytest.raises(BudgetExceeded):
        ServerRound(ServerState(MODEL), plan, scheme=PlainSum(), payment=payment)
    assert not payment.ledger.releases


def test_nobody_sampled_releases_noise_only_where_the_plan_opens_whatever_arrives() -> None:
    from privfl.dp import Poisson

    scheme = PlainSum()
    empty: dict[str, Any] = {"cohort": (), "population": 9, "sampling": Poisson(0.1)}
    plan = a_plan(scheme, MODEL, mechanism=central(), survivor_rule=SurvivorRule(0.0, 0), **empty)
    server = ServerRound(ServerState(MODEL), plan, scheme=scheme)
    assert not server.awaiting
    assert server.outcome.state.model.any()
    with pytest.raises(LocalProtocolError, match="nobody"):
        server.advance()
    for changes in ({"mechanism": Mechanism("none")}, {"survivor_rule": SurvivorRule(0.0, 1)}):
        with pytest.raises(TooFewSurvivors):
            ServerRound(ServerState(MODEL), a_plan(scheme, MODEL, **{**empty, **changes}), scheme=scheme)


def test_a_plan_that_arrives_is_the_plan_that_was_sent() -> None:
    scheme = PlainSum()
    plan = a_plan(scheme, MODEL, mechanism=Mechanism("local", 2.0, source="simulation"))
    first, second = Contribution(constant(DELTA), scheme), Contribution(constant(DELTA), scheme)

    def work(client: int, order: bytes, made: Contribution = first) -> Ints:
        return made(MODEL, (client,), order).rows

    np.testing.assert_array_equal(work(1, plan.to_bytes()), work(1, plan.to_bytes()))
    again = work(1, RoundPlan.from_bytes(plan.to_bytes()).to_bytes(), second)
    np.testing.assert_array_equal(work(1, plan.to_bytes()), again)
    assert (work(2, plan.to_bytes()) != again).any()


def test_both_halves_are_saved_and_restored_between_any_two_messages(tmp_path: Path) -> None:
    """Every party is killed after each message, and goes on from what it saved; the sum and its price are the same."""
    scheme, credentials = a_sum("masked", 4)
    payment = a_payment(tmp_path, epsilon=1e9, assume=False)
    plan = a_plan(scheme, MODEL, cohort=(0, 1, 2, 3), mechanism=central(0.001, "secure"))
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    state = ServerState(MODEL)
    server = ServerRound(state, plan, scheme=scheme, payment=payment)
    work = Contribution(constant(DELTA), scheme)
    saved: dict[int, bytes] = {}

    def again(half: ServerRound) -> ServerRound:
        return ServerRound.restore(
            half.to_bytes(), state, scheme=scheme, payment=a_payment(tmp_path, epsilon=1e9, assume=False)
        )

    for me in plan.cohort:
        client = ClientRound.trained(plan.to_bytes(), MODEL, me, contribution=work, credentials=credentials[me])
        message = client.start()
        saved[me] = client.to_bytes()
        assert credentials[me].signing.secret not in saved[me]
        server.receive(me, message)
        server = again(server)
    while server.result is None:
        messages = server.advance()
        for me, message in messages.items():
            client = ClientRound.restore(saved[me], me, scheme=scheme, credentials=credentials[me])
            with pytest.raises(StateError):
                ClientRound.restore(saved[me], me, scheme=scheme, credentials=credentials[me])
            answer = client.receive(message)
            saved[me] = client.to_bytes()
            if server.result is None:
                server = again(server)
            if answer is not None:
                server.receive(me, answer)
    np.testing.assert_allclose(server.outcome.state.model, DELTA, atol=0.02)
    server.settle()
    (release,) = a_payment(tmp_path, epsilon=1e9, assume=False).ledger.releases
    assert release.participants == (0, 1, 2, 3)


def test_a_saved_party_that_was_altered_or_is_of_another_run_is_refused(tmp_path: Path) -> None:
    scheme, credentials = a_sum("masked", 4)
    payment = a_payment(tmp_path)
    plan = a_plan(scheme, MODEL, cohort=(0, 1, 2, 3), mechanism=central())
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    state = ServerState(MODEL)
    data = ServerRound(state, plan, scheme=scheme, payment=payment).to_bytes()
    for other in (b"", data[:-1], data + b"\0", data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(StateError):
            ServerRound.restore(other, state, scheme=scheme, payment=payment)
    with pytest.raises(StateError, match="reservation"):
        ServerRound.restore(data, state, scheme=scheme, payment=a_payment(tmp_path / "other"))
    with pytest.raises(ConfigError, match="hash"):
        ServerRound.restore(data, ServerState(np.ones(2)), scheme=scheme, payment=payment)
    with pytest.raises(StateError):
        ClientRound.restore(data, 0, scheme=scheme, credentials=credentials[0])
    client = ClientRound(plan, 0, np.zeros(2, np.int64), scheme=scheme, credentials=credentials[0])
    client.start()
    with pytest.raises(PlanRejected):
        ClientRound.restore(
            client.to_bytes(), 0, scheme=scheme, credentials=credentials[0], policy=ClientPolicy(max_clip_norm=0.1)
        )


@pytest.mark.parametrize(("name", "error"), [("plain", ConfigError), ("ckks", StateError)])
def test_a_client_that_cannot_be_saved_says_so_and_goes_on(name: str, error: type[Exception]) -> None:
    scheme, credentials = a_sum(name)
    plan = a_plan(scheme, MODEL)
    work = Contribution(constant(DELTA), scheme)
    client = ClientRound.trained(plan.to_bytes(), MODEL, 0, contribution=work, credentials=credentials.get(0))
    first = client.start()
    with pytest.raises(error, match=r"cannot be saved.*use a"):
        client.to_bytes()
    server = ServerRound(ServerState(MODEL), plan, scheme=scheme)
    server.receive(0, first)


@pytest.mark.parametrize(
    ("mean", "norm"),
    [
        ([3.0, -4.0], 5.0),
        ([0.0, 0.0], 0.0),
        ([1e200, -1e200], 1e200 * 2**0.5),  # whose squares overflow
        ([1e-200, 0.0], 1e-200),
        ([1.7e308, 1.7e308], np.finfo(float).max),
        ([np.inf, 1.0], np.finfo(float).max),
        ([np.nan, 1.0], np.finfo(float).max),
    ],
)
def test_the_norm_in_a_report_is_finite(mean: list[float], norm: float) -> None:
    assert _norm(np.array(mean)) == pytest.approx(norm, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("returned", [None, np.zeros(2), ([0.5, 0.5], 1)], ids=["none", "array", "pair"])
def test_a_training_that_returns_no_update_is_told_what_to_return(returned: Any) -> None:
    parts = Parts(lambda model, client, round, rng: returned, PlainSum(), LoopExecutor())
    with pytest.raises(ClientFailed, match=r"a training returns ClientUpdate\(delta, examples\), not a"):
        run_round(ServerState(MODEL), a_plan(PlainSum(), MODEL), parts)
