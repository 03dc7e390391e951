"""One client that deals bad shares costs a training run attempts and rounds, and does not end it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_payment, central

from privfl.codec import FixedPoint
from privfl.crypto import TasksInMemory, generate_identities
from privfl.dp import FlatClip, Mechanism
from privfl.engine import LoopExecutor
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import EveryoneSampler
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.messages import ShareKeys
from privfl.sums import SumTask
from privfl.wire import HEADER_BYTES

CLIENTS, BAD = 8, 3
CREDENTIALS, DIRECTORY = generate_identities(range(CLIENTS))

Spoil = Callable[[ShareKeys], ShareKeys]


def boxes_that_nobody_opens(honest: ShareKeys) -> ShareKeys:
    return ShareKeys(honest.seed_hash, bytes(len(honest.boxes)))


def hash_of_no_seed(honest: ShareKeys) -> ShareKeys:
    return ShareKeys(bytes(32), honest.boxes)


class BadDealer:
    """A client's session whose shares are spoiled on their way out."""

    def __init__(self, honest: Any, spoil: Spoil, session: bytes) -> None:
        self._honest, self._spoil, self._session = honest, spoil, session

    def start(self) -> bytes:
        return bytes(self._honest.start())

    def receive(self, message: bytes) -> bytes | None:
        answer = self._honest.receive(message)
        if answer is None or int.from_bytes(answer[5:7], "little") != ShareKeys.KIND:
            return answer  # type: ignore[no-any-return]
        shared = ShareKeys.from_body(memoryview(answer)[HEADER_BYTES:])
        return self._spoil(shared).to_bytes(sender=BAD, task=self._session)


class Infiltrated(MaskedSum):
    """A masked sum of which client 3 is a `BadDealer` in the contexts that are counted off."""

    def __init__(self, spoil: Spoil, sums: range, **settings: Any) -> None:
        super().__init__(DIRECTORY, **settings)
        self._spoil, self._sums, self._count = spoil, sums, -1

    def client(self, task: SumTask, me: int, vector: Any, **settings: Any) -> Any:
        session = super().client(task, me, vector, **settings | {"tasks": TasksInMemory()})
        if me != BAD:
            return session
        self._count += 1
        return BadDealer(session, self._spoil, self.terms(task).digest()) if self._count in self._sums else session


def a_run(folder: Path, scheme: MaskedSum, **changes: Any) -> FederatedRun:
    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.full(3, 0.1 * (client + 1)), 1)

    run = FederatedRun(
        population=CLIENTS,
        parts=Parts(train, scheme, LoopExecutor(), credentials=CREDENTIALS),
        encoding=UpdateEncoding(3, FixedPoint.fit(Ring(40), clip_norm=10.0, cohort=CLIENTS), FlatClip(10.0)),
        mechanism=Mechanism("none"),
        sampler=EveryoneSampler(),
        store=ModelStore(folder / "models"),
        seed=0,
        survivor_rule=SurvivorRule(0.5),
    )
    return dataclasses.replace(run, **changes)


def test_a_dealer_that_is_proven_bad_is_left_out_of_the_next_attempt(tmp_path: Path) -> None:
    run = a_run(tmp_path, Infiltrated(boxes_that_nobody_opens, range(100)), retries=1)
    reports = list(run.run(np.zeros(3), 3))
    assert [(report.status, report.attempts, report.dropouts) for report in reports] == [("trained", 2, (BAD,))] * 3
    for report in reports:
        (caveat,) = report.caveats
        assert caveat.startswith(f"attempt 1 of round {report.round} was not opened: client 3 dealt bad shares")
    honest = [0.1 * (client + 1) for client in range(CLIENTS) if client != BAD]
    np.testing.assert_allclose(run.store.load(1).model, np.full(3, np.mean(honest)), atol=1e-6)


@pytest.mark.parametrize("spoil", [hash_of_no_seed, boxes_that_nobody_opens])
def test_a_round_that_never_opens_is_skipped_and_the_run_goes_on(tmp_path: Path, spoil: Spoil) -> None:
    run = a_run(tmp_path, Infiltrated(spoil, range(1, 2)))
    reports = list(run.run(np.zeros(3), 3))
    assert [report.status for report in reports] == ["trained", "skipped", "trained"]
    assert len(reports[1].caveats) == 1
    assert reports[2].parent == reports[0].model


def test_where_nothing_is_proven_nobody_is_left_out(tmp_path: Path) -> None:
    """Of eight clients three may be corrupt, and could have made an honest dealer's hash fit no share."""
    run = a_run(tmp_path, Infiltrated(hash_of_no_seed, range(1)), retries=1)
    (report,) = run.run(np.zeros(3), 1)
    assert (report.status, report.attempts, report.dropouts) == ("trained", 2, ())
    assert "nobody is named" in report.caveats[0]


def test_a_sum_that_did_not_open_stays_charged(tmp_path: Path) -> None:
    """Its survivors' shares were on their way: refused is not unseen."""
    payment = a_payment(tmp_path)
    run = a_run(
        tmp_path,
        Infiltrated(hash_of_no_seed, range(1)),
        retries=1,
        mechanism=central(),
        payment=payment,
        encoding=UpdateEncoding(3, FixedPoint(2.0**16, Ring(40)), FlatClip(1.0)),
    )
    (report,) = run.run(np.zeros(3), 1)
    assert (report.status, report.attempts) == ("trained", 2)
    assert len(payment.ledger.releases) == 2
