"""Ways to open one sum twice under one charge, or to have a charge back for what was seen, and that each fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_payment, a_plan, central

from privfl.crypto import MemoryDirectory, generate_identities
from privfl.dp import Accountant, FixedSize, Ledger, Mechanism, Poisson, PrivacyUnit, TruncatedPoisson, epsilon
from privfl.dp.draws import round_turn
from privfl.errors import ConfigError, PrivacyError, RemoteProtocolError, StateError, TooFewSurvivors, WireError
from privfl.fl.client_round import ClientRound
from privfl.fl.payment import Payment
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.he import CkksSum
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

MODEL = np.zeros(2)
STATE = ServerState(MODEL)


class KeyedRound:
    """A round of four clients over a masked or CKKS sum, driven to where one event is left: `finish`."""

    def __init__(self, folder: Path, mechanism: Mechanism, name: str = "masked") -> None:
        credentials, directory = generate_identities(range(4))
        self.scheme: Any = MaskedSum(directory) if name == "masked" else CkksSum(directory)
        self.payment = a_payment(folder, assume=mechanism.source == "simulation")
        self.plan = a_plan(self.scheme, MODEL, cohort=(0, 1, 2, 3), mechanism=mechanism)
        self.payment.ledger.draw(self.plan.round, self.plan.sampling, 0.0)
        self.first = ServerRound(STATE, self.plan, scheme=self.scheme, payment=self.payment)
        self.early = self.first.to_bytes()
        clients = {
            me: ClientRound(self.plan, me, np.full(2, 100, np.int64), scheme=self.scheme, credentials=credentials[me])
            for me in self.plan.cohort
        }
        answers = {me: client.start() for me, client in clients.items()}
        for step in range(self.scheme.messages_per_client):
            if step:
                received = {me: clients[me].receive(message) for me, message in self.first.advance().items()}
                answers = {me: answer for me, answer in received.items() if answer is not None}
            if step == self.scheme.messages_per_client - 1 and name == "ckks":
                break  # what is left is the opener's message
            for me, answer in answers.items():
                self.first.receive(me, answer)
            answers = {} if name == "masked" else answers
        self.late, self._last = self.first.to_bytes(), answers

    def finish(self, half: ServerRound) -> None:
        """The event with which the sum is open: the server's last step, or the message of the client that opened it."""
        for me, message in self._last.items():
            half.receive(me, message)
        if not self._last:
            half.advance()

    def restore(self, data: bytes, payment: Payment | None = None) -> ServerRound:
        return ServerRound.restore(data, STATE, scheme=self.scheme, payment=payment or self.payment)

    @property
    def charges(self) -> int:
        return len(self.payment.ledger.releases)


SECURE = [Mechanism("central", 4.0), Mechanism("distributed", 4.0), Mechanism("local", 4.0)]
ROUNDS = [(name, mechanism) for name in ("masked", "ckks") for mechanism in SECURE]
ROUNDS.append(("masked", Mechanism("mesh", 4.0, spare=1)))


@pytest.mark.parametrize(("name", "mechanism"), ROUNDS, ids=lambda m: getattr(m, "placement", m))
def test_a_state_from_before_the_opening_is_worth_nothing_after_it(
    tmp_path: Path, mechanism: Mechanism, name: str
) -> None:
    round = KeyedRound(tmp_path, mechanism, name)
    round.finish(round.first)
    assert round.first.result is not None
    for data in (round.late, round.early):
        with pytest.raises(StateError, match="no open reservation"):
            round.restore(data)
    round.first.settle()
    assert round.charges == 1


@pytest.mark.parametrize(("name", "mechanism"), ROUNDS, ids=lambda m: getattr(m, "placement", m))
def test_of_halves_that_were_restored_from_one_state_one_opens(tmp_path: Path, mechanism: Mechanism, name: str) -> None:
    round = KeyedRound(tmp_path, mechanism, name)
    halves = [round.restore(round.late) for _ in range(3)]
    round.finish(halves[1])
    assert halves[1].result is not None
    for half in (halves[0], halves[2], round.first):
        with pytest.raises(PrivacyError):
            round.finish(half)
    assert round.charges == 1


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_an_older_state_does_not_have_the_charge_back(tmp_path: Path, name: str) -> None:
    round = KeyedRound(tmp_path, central(source="secure"), name)
    stale = round.restore(round.early)
    for client in round.plan.cohort:
        stale.drop(client)
    with pytest.raises(TooFewSurvivors):
        stale.advance()
    assert round.charges == 1
    round.finish(round.first)
    assert epsilon(round.payment.ledger, 1e-5).epsilon > 1


def test_a_state_is_not_restored_beside_its_ledger(tmp_path: Path) -> None:
    round = KeyedRound(tmp_path, central(source="secure"))
    with pytest.raises(StateError, match="give its payment"):
        ServerRound.restore(round.late, STATE, scheme=round.scheme)
    unpaid = ServerRound(STATE, round.plan, scheme=round.scheme).to_bytes()
    with pytest.raises(StateError, match="never charged"):
        round.restore(unpaid)
    ServerRound.restore(unpaid, STATE, scheme=round.scheme)


def test_a_vector_that_the_server_read_and_refused_is_charged_under_local_noise(tmp_path: Path) -> None:
    scheme, payment = PlainSum(), a_payment(tmp_path, assume=False)
    plan = a_plan(scheme, MODEL, mechanism=Mechanism("local", 2.0))
    payment.ledger.draw(plan.round, plan.sampling, 0.0)
    server = ServerRound(STATE, plan, scheme=scheme, payment=payment)
    for me in plan.cohort:
        message = ClientRound(plan, me, np.full(2, 100, np.int64), scheme=scheme).start()
        if me < 2:
            server.receive(me, message)
        else:
            with pytest.raises((RemoteProtocolError, WireError)):
                server.receive(me, message + b"\0")  # the vector is all there
            server.drop(me)
    server.advance()
    assert server.outcome.survivors == {0, 1}
    server.settle()
    (release,) = payment.ledger.releases
    assert release.participants == (0, 1, 2)


@pytest.mark.parametrize("sampling", [FixedSize(3, 10**6), TruncatedPoisson(0.01, 3, 10**6), FixedSize(3, 7)])
def test_a_sampler_that_declares_another_population_is_refused(sampling: Any) -> None:
    with pytest.raises(ConfigError, match="population"):
        a_plan(PlainSum(), MODEL, sampling=sampling, population=8)


def test_a_round_of_clients_is_not_charged_as_one_of_examples() -> None:
    plan = a_plan(PlainSum(), MODEL, mechanism=central(source="secure"), sampling=Poisson(0.1), population=30)
    payment = Payment(Ledger(PrivacyUnit("example")), Accountant(1e-5))
    with pytest.raises(PrivacyError, match="client"):
        ServerRound(STATE, plan, scheme=PlainSum(), payment=payment)


@pytest.mark.parametrize(
    "scheme", [MaskedSum(MemoryDirectory({})), CkksSum(MemoryDirectory({}))], ids=["masked", "ckks"]
)
@pytest.mark.parametrize("placement", ["central", "distributed", "local"])
def test_an_empty_cohort_opens_only_where_the_sum_could_open_it(scheme: Any, placement: Any) -> None:
    """Else noise alone, or bare zeros, would be released in the one case that `turn` takes for a skipped round."""
    rule = SurvivorRule(0.0, 0)
    assert round_turn(Poisson(0.3), 2, lambda size: rule.shortfall(scheme, size, 0.0)) == 0  # never opens at all
    plan = a_plan(
        scheme, MODEL, cohort=(), population=9, sampling=Poisson(0.3), survivor_rule=rule,
        mechanism=Mechanism(placement, 2.0),
    )  # fmt: skip
    with pytest.raises(TooFewSurvivors):
        ServerRound(STATE, plan, scheme=scheme)
