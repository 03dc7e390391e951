"""`Site`: the whole of a site, bytes in and bytes out, over a client's half of each round."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

import privfl
from privfl.errors import PlanRejected, PrivflError, ProtocolError, StateError, WireError
from privfl.fl.client import Train
from privfl.fl.client_round import ClientRound
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleGradients
from privfl.fl.frames import REFUSAL, Down, Up, charter_of, frame_hash, open_down, seal_up
from privfl.fl.receipts import Mode, Receipt, ReceiptKind
from privfl.site.entry import AcceptedRound
from privfl.site.examples import SiteCoins, SiteSums
from privfl.site.halves import Halves
from privfl.site.home import CHARTERS, LOG, ROUNDS, STATES, SiteHome
from privfl.site.log import SiteLog
from privfl.site.memory import SiteMemory, take
from privfl.site.record import OPEN, OVER, RoundRecord
from privfl.sums.base import Entropy
from privfl.wire import ClientId

_START: Final = bytes(32)
_MIB: Final = 1 << 20
_FRAME_BYTES: Final = 1 << 16
_BYTES_PER_MEMBER: Final = 1 << 13  # its receipt, its place in the plan, its keys, boxes and signature
_ENTRY_BYTES: Final = 8


class Site:
    """A site at work: it judges frames, trains, answers, and writes down everything before an answer leaves.

    One process opens a site's folder at a time. All methods may be called from several threads.

    Args:
        home: The site's folder.
        train: The training function; a `Stateful` one keeps its state in the folder. Plans about examples need an
            `ExampleGradients`.
        evaluate: The evaluation of a model, called like `train`; None calls `train`, which an engine's adapter makes.
        mode: "agent" in a process of the site's own, "in-app" in the process of an engine's app; receipts state it.
        passphrase: The passphrase of the keys, where they are under one.
        clock: The time in seconds since 1970.
        sleep: Waits a number of seconds.
        entropy: A source of random bytes.

    Raises:
        StateError: The folder is not that of a site, was altered, or another process has it open.
        ConfigError: The policy holds a key or a value that is not allowed.
    """

    def __init__(
        self,
        home: Path | str,
        train: Train | Stateful | ExampleGradients | SiteSums,
        *,
        evaluate: Train | None = None,
        mode: Mode = "in-app",
        passphrase: str | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        entropy: Entropy = os.urandom,
    ) -> None:
        kept, self._mode = take(home), mode
        self._home = SiteHome(home) if kept is None else kept.home
        self._clock, self._sleep = clock, sleep
        self._closing = contextlib.ExitStack()
        self._turn = self._closing.enter_context(self._home.writing())
        try:
            if kept is None or not kept.is_current(self._turn, passphrase):
                self._home = SiteHome(home)
                kept = SiteMemory(self._home, passphrase, clock())
            self._memory, self._policy = kept, kept.policy
            self.log = SiteLog(self._home / LOG, clock, max_bytes=self._policy.agent.max_log_mib * _MIB)
            self._halves = Halves(
                train,
                evaluate,
                own=kept.own,
                policy=self._policy.client,
                states=self._home / STATES,
                coins=SiteCoins(self._home / ROUNDS, entropy),
                mode=mode,
                log=self.log,
                entropy=entropy,
            )
        except BaseException:
            self._closing.close()
            raise
        self._books = threading.Lock()  # of the account and the receipts
        self._locks: defaultdict[bytes, threading.Lock] = defaultdict(threading.Lock)
        self._closed = self._failed = False

    @property
    def client(self) -> ClientId:
        """The identity of the site in every sum."""
        return self._home.card.client

    @property
    def name(self) -> str:
        """The name of the site."""
        return self._home.card.name

    def spent(self) -> float:
        """Epsilon against the server over all charters, counting the reserved worst case of each round."""
        with self._books:
            return self._memory.account.spent()

    def close(self) -> None:
        """Release the lock on the folder. Rounds in progress continue when it is opened again."""
        self._closed = True
        self._closing.close()

    def leave(self) -> None:
        """Close the site between two messages of an app.

        What was read from the folder, keys and sessions included, stays in the memory of this process. The next `Site`
        of this folder in this process takes it, if nobody has held or changed the folder meanwhile.
        """
        try:
            if not (self._closed or self._failed):
                self._memory.keep(self._turn)
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def answer(self, frame: bytes, model: bytes) -> bytes:
        """Return the site's frame, or `REFUSAL`; the reason of a refusal stands in the log of the site alone.

        Args:
            frame: A server's frame.
            model: The model's bytes with a frame of step 0; empty later.
        """
        try:
            return self._answered(bytes(frame), model)
        except (PrivflError, OSError) as error:
            self._failed |= isinstance(error, StateError | OSError)
            self.log.refuse(str(error), kind=type(error).__name__, bytes=len(frame))
        except Exception as error:  # noqa: BLE001 (a fault of this software must not reach the relay either)
            self._failed = True
            self.log.refuse(type(error).__name__, kind="fault", traceback=traceback.format_exc()[-2000:])
        return REFUSAL

    def max_request(self) -> tuple[int, int]:
        """The most bytes of a frame and of a model that an approved charter can need; zeros where none is approved."""
        frame = model = 0
        for path in (self._home / CHARTERS).glob("*.json"):
            with contextlib.suppress(PrivflError, ValueError):
                charter = self._memory.charter(bytes.fromhex(path.stem))
                frame = max(frame, _FRAME_BYTES + _BYTES_PER_MEMBER * len(charter.members))
                model = max(model, _ENTRY_BYTES * charter.terms.encoding.length)
        return frame, model

    def is_known(self, frame: bytes) -> bool:
        """True for a verified frame of a later step of the round in progress; nothing is changed."""
        try:
            digest = charter_of(frame)
            down = self._opened(frame, digest)
            record = self._memory.record(digest)
        except (PrivflError, OSError):
            return False
        return record is not None and record.place == (down.round, down.attempt) and down.step > 0

    # --- one frame ---------------------------------------------------------------------------------------------------

    def _opened(self, frame: bytes, digest: bytes) -> Down:
        self._memory.charter(digest)
        return open_down(frame, self._policy.server_key, charter=digest, me=self.client)

    def _answered(self, frame: bytes, model: bytes) -> bytes:
        if self._closed:
            raise StateError("this site was closed: open it again")
        digest = charter_of(frame)
        down = self._opened(frame, digest)
        request = _Request(digest, down, frame_hash(frame))
        with self._locks[digest]:
            record = self._memory.record(digest)
            if record is not None and (*record.place, record.step) == (down.round, down.attempt, down.step):
                return self._again(request, record)
            now = self._clock()
            if not now <= down.expires <= now + self._policy.server.max_ahead:
                when = "expired" if down.expires < now else "is valid for longer than server.max_ahead"
                raise PlanRejected(f"the frame {when}: compare the clocks of server and site")
            if down.step == 0:
                if record is not None and (down.round, down.attempt) <= record.place:
                    raise PlanRejected("this round is past its first step, or over")
                return self._enter(request, model, now)
            return self._go_on(request, record)

    def _again(self, request: _Request, record: RoundRecord) -> bytes:
        """The saved answer, for the bytes that it answers."""
        if record.request != request.hash:
            raise PlanRejected("other bytes for a step that is answered")
        if not record.answer:
            raise PlanRejected("this round was aborted at this site")
        if record.step == 0:
            self._remember(record.task)
            self._wait(request.charter)
        return bytes(record.answer)

    def _enter(self, request: _Request, model: bytes, now: float) -> bytes:
        """Step 0: judge, charge, train, and send the first message."""
        digest = request.charter
        self._memory.check_policy()
        with self._books:
            entry = self._memory.judge.entry(
                request.down, self._memory.charter(digest), self._memory.members(), model, now
            )
            task = entry.task.digest()
            if task in self._memory.tasks:
                raise PlanRejected("this task was begun before")
            self._halves.check(entry)
            release = self._memory.account.charge(digest.hex(), entry.plan, entry.scheme)
            entered = self._memory.chain.entered(digest.hex()) if entry.resumed else None
            if entered is None:
                spent = self._memory.account.spent() if release is not None else np.inf
                charged = None if release is None else replace(release, participants=(self.client,)).record()
                entered = self._receipt(digest, entry, "entered", _START, spent=spent, release=charged)
        self._memory.live.pop(digest, None)
        half = self._halves.trained(entry)
        body = half.start()
        sent = self._finish(request, half, body, task, _START, entered)
        self._halves.forget_coins(digest.hex())
        self._remember(task)
        self._wait(digest)
        return sent

    def _go_on(self, request: _Request, record: RoundRecord | None) -> bytes:
        """A later step of the round in progress."""
        down, digest = request.down, request.charter
        if record is None or record.place != (down.round, down.attempt):
            raise PlanRejected(f"round {down.round}, attempt {down.attempt}, is not in progress here")
        # A sum with saved sessions asks every site in each step; one without may ask single sites in some.
        ahead = 0 < down.step - record.step <= (1 if record.state else down.step)
        if record.status != OPEN or not ahead:
            raise PlanRejected(f"step {down.step} is not due in round {down.round}")
        half = self._memory.live.pop(digest, None) or self._restored(record)
        try:
            body = half.receive(bytes(down.body))
        except (ProtocolError, WireError) as error:
            self._keep_if_alive(request, half, record, unchanged=isinstance(error, WireError))
            raise
        answer = b"" if body is None else body
        return self._finish(request, half, answer, record.task, record.transcript)

    def _finish(
        self, request: _Request, half: ClientRound, body: bytes, task: bytes, transcript: bytes, *receipts: Receipt
    ) -> bytes:
        """Write request, answer and next state as one record; only then may the answer leave."""
        down, digest = request.down, request.charter
        transcript = hashlib.sha256(transcript + request.hash + hashlib.sha256(body).digest()).digest()
        over = half.finished
        if over:
            with self._books:
                spent = self._memory.account.spent()
                receipts = *receipts, self._receipt(digest, half, "ended", transcript, spent=spent)
        up = Up(down.round, down.attempt, down.step, request.hash, body, tuple(r.to_bytes() for r in receipts))
        sent = seal_up(up, self._memory.own.signing, charter=digest, me=self.client)
        state = half.to_bytes(repeats=False) if half.savable and not over else b""
        status = OVER if over else OPEN
        record = RoundRecord(down.round, down.attempt, down.step, task, request.hash, sent, transcript, status, state)
        self._memory.write(digest, record)
        if not over:
            self._memory.live[digest] = half
        facts = {"charter": digest.hex()[:16], "round": down.round, "attempt": down.attempt, "step": down.step}
        self.log.note("answered", **facts, bytes=len(sent), over=over)
        return sent

    def _keep_if_alive(self, request: _Request, half: ClientRound, record: RoundRecord, *, unchanged: bool) -> None:
        """After a refused message the session goes on if nothing has changed, and is over if it was aborted."""
        if half.savable:
            try:
                half.to_bytes()
                unchanged = True
            except StateError:
                unchanged = False
        if not unchanged:
            ended = replace(record, step=request.down.step, request=request.hash, answer=b"", status=OVER, state=b"")
            self._memory.write(request.charter, ended)
        else:
            self._memory.live[request.charter] = half

    # --- parts -------------------------------------------------------------------------------------------------------

    def _restored(self, record: RoundRecord) -> ClientRound:
        keys = self._memory.members().current(self._clock())
        return self._halves.restored(bytes(record.state), lambda plan: self._memory.judge.scheme(plan, keys))

    def _remember(self, task: bytes) -> None:
        """Note a task durably before its first answer leaves; it is never begun again."""
        if task not in self._memory.tasks:
            self._memory.tasks.begin(task)

    def _wait(self, digest: bytes) -> None:
        """Wait until the time at which first answers leave."""
        entered, seconds = self._memory.chain.entered_at(digest.hex()), self._policy.training.answer_after
        left = 0.0 if entered is None else entered + seconds - self._clock()
        if left > 0:
            self._sleep(min(left, seconds))

    def _receipt(
        self,
        digest: bytes,
        of: AcceptedRound | ClientRound,
        kind: ReceiptKind,
        transcript: bytes,
        *,
        spent: float,
        release: dict[str, object] | None = None,
    ) -> Receipt:
        receipt = Receipt(
            client=self.client,
            number=1,
            kind=kind,
            charter=digest.hex(),
            round=of.plan.round,
            attempt=of.plan.attempt,
            plan=of.plan.digest().hex(),
            transcript=transcript.hex(),
            spent=float(spent) if np.isfinite(spent) else None,
            release=release,
            software=privfl.__version__,
            mode=self._mode,
        )
        return self._memory.chain.append(receipt, self._memory.own.signing, self._clock())


@dataclass(frozen=True, slots=True)
class _Request:
    """A verified frame: the digest of its charter, its content, and its hash."""

    charter: bytes
    down: Down
    hash: bytes
