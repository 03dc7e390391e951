"""The server's half of a round, free of any engine: it reserves the cost, drives the sum, opens it, yields the outcome.

`run_round` drives it in one process; an engine moves the same bytes over a network.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from privfl.dp import CorrelatedNoise
from privfl.dp.ledger import Token
from privfl.errors import ConfigError, LocalProtocolError, StateError, TooFewSurvivors
from privfl.fl.aggregation import Aggregation, Mean
from privfl.fl.chunks import ChunkAnswer
from privfl.fl.optimizers import ServerOptimizer, ServerSGD, stepped
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan
from privfl.fl.range import caveats, overflows
from privfl.fl.saved import SavedParty, server_bytes, server_restorer
from privfl.fl.state import Outcome, ServerState
from privfl.ring import Ints
from privfl.sums import SecureSum, ServerSession, SumResult
from privfl.wire import ClientId

ZERO_IF_NOT_FINITE: Final = (
    "an update that is not finite counts as zero; it and clients without examples stay in the denominator, and nobody "
    "learns whether there was one"
)

EXAMPLE_ZERO_IF_NOT_FINITE: Final = (
    "an example whose gradient is not finite counts as zero, entries beyond the bound of a sum are clamped, and nobody "
    "learns whether there was any"
)

NOT_FINITE: Final = "the model after this round is not finite: its numbers overflowed; lower the learning rates"

_SERVER: Final = b"privfl/1 server round"


class ServerRound:
    """The server's half of a round: it reserves the cost, drives the sum, opens it and yields the outcome.

    Args:
        state: The server's state before the round.
        plan: The round's plan; its model must be `state.sent`.
        scheme: The sum that the plan names.
        optimizer: How the mean update changes the model.
        aggregation: How the round's means become that update; by default as they are.
        payment: Where the round is charged; None for a run that keeps no ledger.
        noise: The noise of the run, where it is correlated across rounds.

    Raises:
        ConfigError: If the state or the sum is not the plan's.
        BudgetExceeded: If the round could cost too much; nothing was charged.
        TooFewSurvivors: If the cohort is smaller than what the sum opens; nothing was charged.
    """

    _optimizer: ServerOptimizer
    _aggregation: Aggregation
    _session: ServerSession | None
    _empty: SumResult | None
    _token: Token | None
    _outcome: Outcome | None
    _noise: CorrelatedNoise | None

    def __init__(
        self,
        state: ServerState,
        plan: RoundPlan,
        *,
        scheme: SecureSum,
        optimizer: ServerOptimizer | None = None,
        aggregation: Aggregation | None = None,
        payment: Payment | None = None,
        noise: CorrelatedNoise | None = None,
    ) -> None:
        self._bind(state, plan, scheme, optimizer, payment)
        self._noise = noise
        self._aggregation = aggregation or Mean()
        plan.check_openable(scheme)
        if plan.cohort:
            self._session = scheme.server(plan.task(scheme), opening=self._open)
        self._token = payment.reserve(plan, scheme) if payment is not None else None
        if self._session is None:  # nobody was sampled: the noise alone is released, as the accountant assumes
            total = self._open(np.zeros(plan.encoding.total_length, np.int64), frozenset())
            self._empty = SumResult(total, frozenset(), plan.digest())

    def _bind(
        self,
        state: ServerState,
        plan: RoundPlan,
        scheme: SecureSum,
        optimizer: ServerOptimizer | None,
        payment: Payment | None,
    ) -> None:
        """Take the parts of the round, after checking that they are the plan's."""
        plan.check_model(state.sent)
        plan.check_scheme(scheme)
        if plan.encoding != plan.encoding.in_round(state.clip_norm):
            raise ConfigError(
                f"the plan clips to {plan.encoding.clip.clip_norm:g}, and the server's state says {state.clip_norm!r}"
            )
        self.plan, self._state, self._scheme = plan, state, scheme
        self._optimizer, self._payment = optimizer or ServerSGD(), payment
        self._session, self._empty, self._token, self._outcome = None, None, None, None
        self._settled = self._opened = self._restored = False
        self._heard: set[ClientId] = set()

    def _open(self, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        """The opening at a server: secure noise is paid for, durably, before it is sampled.

        Of two halves that were restored from one state only one can do so, because a reservation is settled once.
        """
        if self._opened:
            raise LocalProtocolError("this sum was opened before; a second opening must be charged as a further one")
        self._opened = True
        if self.plan.mechanism.source == "secure":
            self._pay(survivors)
        return self.plan.opening(self._scheme, self._noise)(total, survivors)

    def _pay_opener(self) -> None:
        """Settle a sum that a client has opened, as soon as its result is here."""
        if (summed := self.result) is not None and self.plan.mechanism.source == "secure":
            self._pay(summed.survivors)

    def _pay(self, survivors: frozenset[ClientId]) -> None:
        """Settle the reservation, if it was not settled before.

        A server that reads single vectors has also seen those that it refused: under local noise they count.
        """
        if self._payment is not None and not self._settled:
            read = self.plan.mechanism.placement == "local" and self._scheme.views.get("server") == "vectors"
            taking_part = survivors | (self._heard if read else set())
            members = getattr(self._session, "members", None)  # of mesh noise
            self._payment.settle(self._token, self.plan, self._scheme, taking_part, members=members)
            self._settled = True

    @classmethod
    def restore(
        cls,
        data: bytes,
        state: ServerState,
        *,
        scheme: SecureSum,
        optimizer: ServerOptimizer | None = None,
        aggregation: Aggregation | None = None,
        payment: Payment | None = None,
        noise: CorrelatedNoise | None = None,
    ) -> Self:
        """The half that `to_bytes` saved, in another process perhaps.

        Its charge is not refunded: what left the first half's hands after it was saved is not known here.

        Args:
            data: The saved bytes.
            state: The server's state before the round.
            scheme: The sum that the plan names.
            optimizer: How the mean update changes the model.
            aggregation: How the round's means become that update; by default as they are.
            payment: Where the round was charged; None only for a round that was not charged.
            noise: The noise of the run, where it is correlated across rounds.

        Raises:
            StateError: If the bytes were altered, or the ledger does not hold the open reservation: the sum was opened
                already, or this is another run's ledger.
            ConfigError: If the state or the sum is not the plan's, or the sum's sessions cannot be restored.
        """
        saved = SavedParty.from_bytes(_SERVER, data)
        half = cls.__new__(cls)
        half._bind(state, saved.plan, scheme, optimizer, payment)
        half._aggregation, half._noise = aggregation or Mean(), noise
        digest = bytes(saved.token).decode()
        if bool(digest) != (payment is not None and half.plan.mechanism.claims):
            raise StateError(
                "the saved round was charged: give its payment" if digest else "the saved round was never charged"
            )
        half._token = None if payment is None else payment.reserved(digest)
        half._restored, half._heard = True, set(half.plan.cohort)
        task = half.plan.task(scheme)
        half._session = server_restorer(scheme).resume(task, bytes(saved.session), opening=half._open)
        return half

    def to_bytes(self) -> bytes:
        """Everything that `restore` needs besides the server's state before the round.

        Save it after each `receive` whose message must not be lost, and after `advance` before its messages are sent.

        Raises:
            LocalProtocolError: If nobody was sampled, so no message is expected.
            StateError: If the sum is over.
        """
        token = b"" if self._token is None else self._token.digest.encode()
        return SavedParty(self.plan.to_bytes(), server_bytes(self._live()), token).to_bytes(_SERVER)

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """Clients whose message of the present step has not come."""
        return frozenset() if self._session is None else self._session.awaiting

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once there is one."""
        return self._empty if self._session is None else self._session.result

    @property
    def ready(self) -> bool:
        """True if `advance()` would succeed now."""
        return self._session is not None and self._session.ready

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Take one client's message. A `RemoteProtocolError` means that its sender was dropped, and the round goes on.

        Args:
            sender: The client.
            message: The bytes.
        """
        self._heard.update({sender}.intersection(self.plan.cohort))
        self._live().receive(sender, message)
        self._pay_opener()

    @property
    def takes_answers(self) -> bool:
        """True if `take` stands in for messages: the server reads the vectors anyway, and the clients are here."""
        return self._session is not None and getattr(self._scheme, "adds_rows", False)

    def take(self, answer: ChunkAnswer) -> int:
        """Take the contributions of a chunk in this process; returns the bytes that its messages would have had.

        Raises:
            ConfigError: If a contribution is beyond the bound of the task.
        """
        self._heard.update(answer.clients)
        session: Any = self._live()
        size: int = session.add_rows(answer.clients, answer.rows, added=answer.added)
        return size

    def drop(self, client: ClientId) -> None:
        """Declare that a client has dropped out: nothing is awaited from it any more."""
        self._live().drop(client)

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step: clients whose message has not come have dropped out. Returns the next step's messages.

        Raises:
            LocalProtocolError: If too few have answered yet and others are awaited; nothing has changed.
            TooFewSurvivors: If nothing can be opened; the charge is refunded if that is proven.
            RemoteProtocolError: If what the clients sent does not open; the charge stands.
            PrivacyError: If another half, restored from the same state, was here before; nothing is opened.
        """
        try:
            messages = self._live().advance()
        except TooFewSurvivors as error:
            if self._payment is not None and not self._restored:
                self._payment.refund(self._token, error)
            raise
        self._pay_opener()
        return messages

    @property
    def outcome(self) -> Outcome:
        """The result of the round; raises `LocalProtocolError` before the sum is opened."""
        summed = self.result
        if summed is None:
            raise LocalProtocolError("this round has no outcome yet: its sum is not opened")
        if self._outcome is None:
            self._outcome = self._read(summed)
        return self._outcome

    def _read(self, summed: SumResult) -> Outcome:
        state, encoding = self._state, self.plan.encoding
        decoded = self.plan.decode(summed.total, len(summed.survivors))  # 9: decode, mean
        mean, counts = decoded.mean, decoded.counts
        trained, said = True, tuple[str, ...]()
        # The precision of each part counts against its own largest entry.
        peaks = [float(np.abs(part).max()) for part in (mean, *decoded.blocks.values())]
        largest = min((peak for peak in peaks if peak), default=0.0)
        floor = float(np.finfo(state.model.dtype).eps * np.abs(state.model).max())
        if counts is not None:
            trained = counts.weight > 0 and not overflows(encoding, counts)
            said = caveats(encoding, counts, largest=largest, floor=floor)
        elif self.plan.mechanism.claims:
            said = (ZERO_IF_NOT_FINITE if self.plan.level == "client" else EXAMPLE_ZERO_IF_NOT_FINITE,)
        model, moments, shared = state.model, state.moments, state.shared
        if trained:
            fraction = decoded.denominator / self.plan.population
            mean, shared = self._aggregation.combine(decoded, shared, fraction=fraction)
            model, moments = stepped(self._optimizer, model, mean, moments)  # 10: server optimizer
            said = said if np.isfinite(model).all() else (*said, NOT_FINITE)
        return Outcome(
            # the run moves the range on
            state=ServerState(model, moments, decoded.next_clip_norm, state.range, shared),
            metrics=decoded.metrics if trained else {},
            update_norm=_norm(mean) if trained else 0.0,
            survivors=summed.survivors,
            caveats=(*summed.caveats, *said),
            trained=trained,
            counts=counts,
            largest=largest,
            floor=floor,
        )

    def settle(self) -> None:
        """Replace the reservation by what was opened, where the opening did not do so; call it once that is stored."""
        summed = self.result
        if summed is None:
            raise LocalProtocolError("this round cannot be settled yet: its sum is not opened")
        self._pay(summed.survivors)

    def _live(self) -> ServerSession:
        if self._session is None:
            raise LocalProtocolError("nobody was sampled for this round: no message is expected")
        return self._session


def _norm(mean: np.ndarray) -> float:
    """The l2 norm, at most the largest float: a model that diverges still has a report."""
    largest = float(np.abs(mean).max(initial=0.0))
    if not 0.0 < largest < math.inf:
        return min(largest, sys.float_info.max) if largest == largest else sys.float_info.max  # noqa: PLR0124 - NaN
    with np.errstate(under="ignore"):
        return min(largest * math.sqrt(float(np.square(mean / largest).sum())), sys.float_info.max)
