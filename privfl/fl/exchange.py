"""The rounds of a server whose sites are elsewhere: signed frames over any transport, saved before they leave.

`FrameDriver` is a `RoundDriver`: a `FederatedRun` with it runs over a network what it runs with `run_round` in one
process. In each step the driver saves the server's half of the round and the frames, and sends the frames. It verifies
the answers and closes the step: sites that have not answered have dropped out. After a crash the driver sends the saved
frames again, and sites give equal bytes the same answer, so a round goes on where it stood and costs nothing more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import privfl
from privfl.codec import Vector
from privfl.crypto import KeyDirectory, SigningKey
from privfl.dp import Ledger
from privfl.errors import ConfigError, PrivacyError, ProtocolError, RemoteProtocolError, StateError, WireError
from privfl.files import atomic_write
from privfl.fl.frames import (
    NONCE_BYTES,
    Down,
    Invitation,
    SiteEndpoint,
    model_to_bytes,
    open_up,
    seal_down,
)
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan
from privfl.fl.receipts import Receipt, ReceiptBook
from privfl.fl.round import Parts
from privfl.fl.saved import SavedParty
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.sums import Drop, Tap
from privfl.sums.driver import ignore, never
from privfl.sums.restore import restores_servers
from privfl.sums.session import layer_pieces, unpack_layer
from privfl.wire import CLIENT, U8, Blob, ClientId, ListOf, Struct, wired

LIFETIME: Final = 3600.0
"""The seconds in which a site may take a frame for the first time, unless the server is given another number."""

_LABEL: Final = b"privfl/1 saved exchange"
_SERVER: Final = b"privfl/1 server round"
_MAX_BYTES: Final = 1 << 34
_MAX_CLIENTS: Final = 100_000


class Transport(Protocol):
    """Carries frames to sites and brings their answers: an engine, or the sites themselves in one process."""

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        """Yield (site, answer) as answers come, and end when no more will; blocks until then.

        A site may be absent, or come more than once. Its name is what the engine knows of the sender.

        Args:
            frames: The frame for each site.
            model: The model's bytes, which go with every frame of step 0; empty later.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """Sites in this process, for simulations and tests.

    Attributes:
        sites: The endpoint of each site.
    """

    sites: Mapping[ClientId, SiteEndpoint]

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        """See `Transport.exchange`."""
        for client, frame in frames.items():
            if client in self.sites:
                yield client, self.sites[client].answer(frame, model)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The log of one step of a round: one line of a file that monitoring reads. It holds no personal value.

    Attributes:
        round: The round.
        attempt: The attempt of the round.
        step: The step, from 0.
        requests: The number of sites that were asked.
        answers: The number of sites whose answer was verified and taken.
        rejected: The number of answers that were not, repeats excepted.
        bytes_down: Bytes of the frames.
        bytes_up: Bytes of the answers that were taken.
        bytes_model: Bytes of the model, once for each site that was asked.
        seconds: Wall time of the exchange.
    """

    round: int
    attempt: int
    step: int
    requests: int
    answers: int
    rejected: int
    bytes_down: int
    bytes_up: int
    bytes_model: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Frame:
    client: ClientId = wired(CLIENT)
    frame: bytes | memoryview = wired(Blob(_MAX_BYTES))


@dataclass(frozen=True, slots=True)
class SavedExchange:
    """One step, as it is saved before its frames leave.

    Attributes:
        step: The step.
        half: The server's half of the round, from `ServerRound.to_bytes`.
        frames: The frame of each site.
    """

    step: int = wired(U8)
    half: bytes | memoryview = wired(Blob(_MAX_BYTES), secret=True)
    frames: Sequence[_Frame] = wired(ListOf(Struct(_Frame), _MAX_CLIENTS))

    def write(self, path: Path) -> None:
        """Replace the file of the exchange, durably: its bytes under a label, with their hash."""
        atomic_write(path, layer_pieces(_LABEL, self, inner="half"))

    @classmethod
    def from_bytes(cls, data: bytes) -> SavedExchange:
        """The saved exchange; raises `StateError` for other or altered bytes."""
        try:
            return unpack_layer(_LABEL, cls, data, inner="half")
        except StateError as error:
            raise StateError(
                f"not a saved exchange, or an altered one: {error}. Remove the file, and the round is tried again"
            ) from error

    @property
    def party(self) -> SavedParty:
        """The half of the round without its state: plan, session and reservation."""
        return SavedParty.from_bytes(_SERVER, bytes(self.half))


def _no_log(record: StepRecord) -> None:
    """Log nothing."""


@dataclass(slots=True, kw_only=True)
class FrameDriver:
    """Runs rounds with sites that are elsewhere; a `RoundDriver`.

    Attributes:
        key: The server's signing key.
        charter: The digest of the charter, 32 bytes.
        sites: The directory: the key that verifies each site's answers.
        saved: The file that holds the present exchange.
        receipts: The receipts of the sites.
        ledger: The run's ledger; an empty one in a run without noise.
        transport: Carries the frames; by default there are no sites.
        lifetime: The seconds in which a site may take a frame for the first time.
        clock: The time in seconds since 1970.
        log: Called after each step.
    """

    key: SigningKey
    charter: bytes
    sites: KeyDirectory
    saved: Path
    receipts: ReceiptBook
    ledger: Ledger
    transport: Transport = LocalTransport({})
    lifetime: float = LIFETIME
    clock: Callable[[], float] = time.time
    log: Callable[[StepRecord], None] = field(default=_no_log, repr=False)

    def __call__(
        self,
        state: ServerState,
        plan: RoundPlan,
        parts: Parts,
        *,
        payment: Payment | None = None,
        states: MutableMapping[ClientId, bytes] | None = None,
        drop: Drop = never,
        tap: Tap = ignore,
        failed: dict[ClientId, str] | None = None,
        bases: Mapping[str, Vector] | None = None,
    ) -> ServerRound:
        """Run `plan` on `state`, from its saved exchange if there is one.

        Args:
            state: The server's state before the round.
            plan: The round's plan.
            parts: Sum and optimizer; training, keys and policies are at the sites.
            payment: Where the round is charged.
            states: Left as they are: a client's state is at its site, and the plan names its round.
            drop: Clients that are not heard.
            tap: Sees every frame.
            failed: Receives nothing: the error of a site's training stays in the site's log.
            bases: None, or empty: sites train from the model of the round.

        Returns:
            The server's half, with its `outcome`.

        Raises:
            TooFewSurvivors: If nothing can be opened.
            BudgetExceeded: If the round could cost too much; no site was asked.
            StateError: If the exchange was saved by a half whose sum may have been opened since.
            ConfigError: If the round is asynchronous.
        """
        if bases:
            raise ConfigError("rounds over a network are synchronous: leave buffer.size out")
        try:
            half, step, frames = self._start(state, plan, parts, payment)
            while half.result is None:
                self._exchange(half, step, frames, state, drop=drop, tap=tap)
                messages = _closed(half) if half.result is None else {}  # a client may have opened it
                if half.result is None:
                    step += 1
                    frames = {client: self._sealed(plan, step, client, body) for client, body in messages.items()}
                    self._save(half, step, frames, parts)
        except (ProtocolError, PrivacyError, StateError):
            self.forget()
            raise
        return half

    def interrupted(self, round: int) -> RoundPlan | None:
        """The plan of a saved exchange that can go on; None if there is none.

        An exchange of an earlier round is over. One whose reservation is not open any more is over, too: its sum may
        have been opened and its result lost, so the round is tried again, and charged again.
        """
        if not self.saved.exists():
            return None
        half = SavedExchange.from_bytes(self.saved.read_bytes()).party
        charged = bytes(half.token).decode("ascii")
        settled = bool(charged) and charged not in {token.digest for token in self.ledger.unsettled}
        if half.plan.round == round and not settled:
            return half.plan
        self.forget()
        return None

    def forget(self) -> None:
        """Remove the saved exchange: the round is stored, or its sum is over."""
        self.saved.unlink(missing_ok=True)

    def _start(
        self, state: ServerState, plan: RoundPlan, parts: Parts, payment: Payment | None
    ) -> tuple[ServerRound, int, Mapping[ClientId, bytes]]:
        """The half of the round, the step that is open, and its frames: saved before, or new and saved now."""
        made: dict[str, Any] = {"scheme": parts.scheme, "optimizer": parts.optimizer, "payment": payment}
        made |= {"aggregation": parts.aggregation, "noise": parts.noise}
        if self.saved.exists():
            saved = SavedExchange.from_bytes(self.saved.read_bytes())
            if saved.party.plan == plan:
                half = ServerRound.restore(bytes(saved.half), state, **made)
                return half, saved.step, {each.client: bytes(each.frame) for each in saved.frames}
            self.forget()
        half = ServerRound(state, plan, **made)
        if half.result is not None:
            return half, 0, {}
        invitation = Invitation(
            plan=plan.to_bytes(),
            nonce=os.urandom(NONCE_BYTES),
            issued=int(self.clock() * 1000),
            software=privfl.__version__.encode("ascii"),
            receipts=tuple(receipt.to_bytes() for receipt in self.receipts.newest),
        ).to_bytes()
        frames = {client: self._sealed(plan, 0, client, invitation) for client in plan.cohort}
        self._save(half, 0, frames, parts)
        return half, 0, frames

    def _sealed(self, plan: RoundPlan, step: int, client: ClientId, body: bytes) -> bytes:
        expires = int(self.clock() + self.lifetime)
        return seal_down(Down(plan.round, plan.attempt, step, client, expires, body), self.key, charter=self.charter)

    def _save(self, half: ServerRound, step: int, frames: Mapping[ClientId, bytes], parts: Parts) -> None:
        if not restores_servers(parts.scheme):  # a plain sum has one step: after a crash it is a new attempt
            return
        listed = tuple(_Frame(client, frame) for client, frame in frames.items())
        SavedExchange(step, half.to_bytes(), listed).write(self.saved)

    def _exchange(
        self,
        half: ServerRound,
        step: int,
        frames: Mapping[ClientId, bytes],
        state: ServerState,
        *,
        drop: Drop,
        tap: Tap,
    ) -> None:
        """Send the frames of one step, and give the half what comes back and verifies."""
        requests = {client: frame for client, frame in frames.items() if not drop(client, step)}
        model = model_to_bytes(state.sent) if step == 0 else b""
        began, taken, rejected, up = time.perf_counter(), dict[ClientId, bytes](), 0, 0
        receipts: list[Receipt] = []
        for client, frame in requests.items():
            tap("down", client, frame)
        for client, answer in self.transport.exchange(requests, model):
            if taken.get(client) == answer:
                continue  # the transport repeated it
            try:
                receipts += self._take(half, step, requests, client, answer)
            except (RemoteProtocolError, WireError):
                rejected += 1
                continue
            taken[client] = answer
            up += len(answer)
            tap("up", client, answer)
        self.receipts.keep(receipts)
        self.log(
            StepRecord(
                round=half.plan.round,
                attempt=half.plan.attempt,
                step=step,
                requests=len(requests),
                answers=len(taken),
                rejected=rejected,
                bytes_down=sum(map(len, requests.values())),
                bytes_up=up,
                bytes_model=len(model) * len(requests),
                seconds=time.perf_counter() - began,
            )
        )

    def _take(
        self, half: ServerRound, step: int, requests: Mapping[ClientId, bytes], client: ClientId, answer: bytes
    ) -> list[Receipt]:
        """Give the half one verified answer; return the receipts in it."""
        if client not in requests:
            raise RemoteProtocolError(f"nothing was asked of client {client}", sender=client)
        up = open_up(
            answer, self.sites.verify_key(client), charter=self.charter, client=client, request=requests[client]
        )
        if (up.round, up.attempt, up.step) != (half.plan.round, half.plan.attempt, step):
            raise RemoteProtocolError("the answer names another step", sender=client)
        receipts = [Receipt.from_bytes(receipt) for receipt in up.receipts]
        for receipt in receipts:
            if receipt.client != client:
                raise RemoteProtocolError("the answer holds a receipt of another site", sender=client)
            receipt.verify(self.sites.verify_key(client))
        half.receive(client, bytes(up.body))
        return receipts


def _closed(half: ServerRound) -> Mapping[ClientId, bytes]:
    """Close the step: nobody who has not answered will."""
    if not half.ready:
        for client in half.awaiting:
            half.drop(client)
    return half.advance()
