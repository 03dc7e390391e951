"""The server's side of ckks-sum/1: public parameters, residues, signatures; no key, and no TenSEAL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from privfl.errors import LocalProtocolError, StateError, TooFewSurvivors, WireError
from privfl.he.checks import check_header, fresh_seeds
from privfl.he.machine import SERVER as TABLE
from privfl.he.messages import (
    NO_KEY,
    Advert,
    Advertise,
    AskDealer,
    AskOpener,
    Consent,
    Deal,
    Dealt,
    Frame,
    FrameHeader,
    Opened,
    Survivors,
    UseKey,
    Vote,
    consent_parts,
    deal_parts,
    digest,
    transcript,
)
from privfl.he.packing import add_block, pack
from privfl.he.plan import Terms
from privfl.he.state import Blame, ServerForm, dump_form, load_form
from privfl.sums import SumResult
from privfl.sums.checks import few_vectors
from privfl.sums.server import ServerMachine, SumProgress
from privfl.sums.session import MessageType
from privfl.wire import HEADER_BYTES, SERVER, ClientId, Message

CAVEATS: Final = (
    "all clients share one session key: a client that colludes with the server can read every vector",
    "the value of the sum is the opener's word; the frames bind it, but only another key holder can check",
)


class CkksServer(ServerMachine):
    """The server's session: it adds residues as they come, and keeps one block, and each frame's header and seeds."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(TABLE, session=terms.digest, progress=SumProgress("advertise", set(terms.task.clients)))
        self._terms = terms
        self._adverts: dict[ClientId, Advert] = {}
        self._dealt: Deal | None = None
        self._dealer: Advert | None = None
        self._key = NO_KEY
        self._headers: dict[ClientId, FrameHeader] = {}
        self._seeds: set[bytes] = set()
        self._votes: dict[ClientId, Vote] = {}
        self._openers: list[ClientId] = []
        self._total = np.zeros(0, np.uint64)
        self._pending = 0

    def to_bytes(self) -> bytes:
        """Everything that `CkksSum.resume` needs; save it as `MaskedServer.to_bytes` says.

        Raises `StateError` when the sum is over.
        """
        with self._guard:
            progress = self._progress
            if progress.step not in self._steps:
                raise StateError("this sum is over, and there is nothing to resume")
            form = ServerForm(
                self._steps.index(progress.step),
                tuple(sorted(progress.awaiting)),
                tuple(sorted(progress.answered)),
                tuple(Blame(client, reason.encode()) for client, reason in sorted(progress.blamed.items())),
                tuple(self._adverts[client] for client in sorted(self._adverts)),
                () if self._dealer is None else (self._dealer,),
                () if self._dealt is None else (self._dealt,),
                self._key,
                tuple(self._headers[client] for client in sorted(self._headers)),
                tuple(self._votes[client] for client in sorted(self._votes)),
                tuple(self._openers),
                self._pending,
                self._total.tobytes(),
            )
            return dump_form(form, self._terms.digest)

    def restore(self, data: bytes) -> None:
        """Become the session that `to_bytes` saved; raises `StateError` for any other bytes."""
        form, plan = load_form(data, self._terms.digest), self._terms.plan
        if form.step >= len(self._steps) or len(form.total) not in (0, 8 * plan.chunks * plan.degree):
            raise StateError("the state is not one of this sum")
        with self._guard:
            progress = self._progress
            progress.step = self._steps[form.step]
            progress.awaiting, progress.answered = set(form.awaiting), set(form.answered)
            progress.blamed = {entry.client: bytes(entry.reason).decode() for entry in form.blamed}
            self._adverts = {advert.client: advert for advert in form.adverts}
            self._dealer = form.dealer[0] if form.dealer else None
            self._dealt = form.dealt[0] if form.dealt else None
            self._key, self._pending = form.key, form.pending
            self._headers = {header.client: header.detached() for header in form.headers}
            if progress.step == "frame":
                for header in self._headers.values():
                    self._seeds |= fresh_seeds(plan, header, self._seeds)
            self._votes = {vote.client: vote for vote in form.votes}
            self._openers = list(form.openers)
            self._total = np.frombuffer(form.total, np.uint64).copy()

    def _taker(self, kind: MessageType) -> Callable[[ClientId, memoryview], None]:
        takers: dict[MessageType, Callable[[ClientId, Message], None]] = {
            Advertise: self._take_advert,
            Deal: self._take_deal,
            Frame: self._take_frame,
            Consent: self._take_consent,
            Opened: self._take_opened,
        }
        return lambda sender, body: takers[kind](sender, kind.from_body(body))

    def _max_length(self, kind: MessageType) -> int:
        plan, clients = self._terms.plan, len(self._terms.task.clients)
        limits: dict[MessageType, int] = {
            Advertise: HEADER_BYTES + 132,
            Deal: HEADER_BYTES + 100 + 64 * clients,
            Frame: plan.bytes_up,
            Consent: HEADER_BYTES + 64,
            Opened: plan.bytes_opened,
        }
        return limits[kind]

    def _check(self) -> None:
        terms, step = self._terms, self.step
        if step == "consent":
            self._need(len(self._votes), terms.quorum)
        elif step == "open":
            self._need(len(self._openers), 1)
        elif step == "deal":  # a dealer that dropped out is left out
            self._need(len(self._adverts) - (self._dealt is None), terms.min_clients)
        else:
            self._need(len(self._adverts if step == "advertise" else self._headers), terms.min_clients)

    def _close(self) -> tuple[str, dict[ClientId, bytes]]:
        steps: dict[str, Callable[[], tuple[str, dict[ClientId, Message]]]] = {
            "advertise": self._after_adverts,
            "deal": self._after_deal,
            "frame": self._after_frames,
            "consent": self._after_consent,
            "open": self._ask_opener,
        }
        then, messages = steps[self.step]()
        digest = self._terms.digest
        return then, {client: message.to_bytes(sender=SERVER, task=digest) for client, message in messages.items()}

    def _need(self, count: int, minimum: int) -> None:
        if count < minimum:
            raise TooFewSurvivors(count, minimum, self.step == "open")  # an opener may have opened it

    # step 1: adverts

    def _take_advert(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Advertise)  # noqa: S101 - _taker ties handler to type
        if message.advert.client != sender:
            raise WireError("the advert names another client")
        message.advert.verify(self._terms.digest, self._terms.directory)
        self._adverts[sender] = message.advert

    def _after_adverts(self) -> tuple[str, dict[ClientId, Message]]:
        held = {advert.held for advert in self._adverts.values()}
        if len(held) == 1 and NO_KEY not in held:
            return self._ask_frames(held.pop(), dict.fromkeys(self._adverts, None))
        return self._ask_dealer()

    # step 2: the deal

    def _ask_dealer(self) -> tuple[str, dict[ClientId, Message]]:
        adverts = tuple(self._adverts[client] for client in sorted(self._adverts))
        self._dealer = adverts[0]
        return "deal", {self._dealer.client: AskDealer(self._dealer.client, adverts)}

    def _take_deal(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Deal)  # noqa: S101 - _taker ties handler to type
        terms, dealer = self._terms, self._adverts[sender]
        if [box.client for box in message.boxes] != [client for client in sorted(self._adverts) if client != sender]:
            raise WireError("a deal has one box for each other client, in order")
        key = terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum deal", *deal_parts(terms.digest, dealer, message.key), sender=sender)
        self._dealt = message

    def _after_deal(self) -> tuple[str, dict[ClientId, Message]]:
        deal, dealer = self._dealt, self._dealer
        if dealer is None:  # pragma: no cover - set with the step
            raise LocalProtocolError("nobody was asked to deal")
        if deal is None:  # dropped out or refused: the next one deals
            del self._adverts[dealer.client]
            return self._ask_dealer()
        boxes = {box.client: box for box in deal.boxes}
        messages: dict[ClientId, Message] = {
            client: Dealt(client, dealer, deal.key, deal.signature, (boxes[client],) if client in boxes else ())
            for client in sorted(self._adverts)
        }
        self._dealt = None
        return self._ask_frames(deal.key, messages)

    # step 3: frames

    def _ask_frames(
        self, key: bytes, messages: Mapping[ClientId, Message | None]
    ) -> tuple[str, dict[ClientId, Message]]:
        self._key = key
        plan = self._terms.plan
        self._total = np.zeros(plan.chunks * plan.degree, np.uint64)
        return "frame", {client: message or UseKey(key) for client, message in sorted(messages.items())}

    def _take_frame(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Frame)  # noqa: S101 - _taker ties handler to type
        terms, header = self._terms, message.header
        if header.client != sender:
            raise WireError("the frame names another client")
        check_header(terms.plan, header, self._key)
        header.verify(terms.digest, terms.directory)
        if digest(message.block) != header.block:
            raise WireError("the block is not the one that was signed")
        seeds = fresh_seeds(terms.plan, header, self._seeds)
        if self._pending == (1 << 64) // terms.plan.modulus - 1:
            self._reduce()
        add_block(self._total, message.block, terms.plan)
        self._pending += 1
        self._seeds |= seeds  # of frames in the sum only: a refused one must not keep another out
        self._headers[sender] = header.detached()

    def _reduce(self) -> None:
        np.remainder(self._total, np.uint64(self._terms.plan.modulus), out=self._total)
        self._pending = 1

    def _after_frames(self) -> tuple[str, dict[ClientId, Message]]:
        self._reduce()
        self._seeds.clear()
        survivors = tuple(sorted(self._headers))
        return "consent", {client: Survivors(survivors) for client in survivors}

    # step 4: one survivor list

    def _take_consent(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Consent)  # noqa: S101 - _taker ties handler to type
        parts = consent_parts(self._terms.digest, self._key, sorted(self._headers))
        key = self._terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum survivors", *parts, sender=sender)
        self._votes[sender] = Vote(sender, message.signature)

    def _after_consent(self) -> tuple[str, dict[ClientId, Message]]:
        self._openers = sorted(self._votes)
        return self._ask_opener()

    # step 5: the opener, and the next one when it drops out

    def _ask_opener(self) -> tuple[str, dict[ClientId, Message]]:
        headers = tuple(self._headers[client] for client in sorted(self._headers))
        votes = tuple(self._votes[client] for client in sorted(self._votes))
        block = pack(self._total, self._terms.plan.residue_bytes)
        opener = self._openers.pop(0)
        return "open", {opener: AskOpener(opener, headers, votes, block)}

    def _take_opened(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Opened)  # noqa: S101 - _taker ties handler to type
        terms = self._terms
        record = transcript(terms.digest, [self._headers[client] for client in sorted(self._headers)])
        key = terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum opened", terms.digest, record, digest(message.total), sender=sender)
        words = terms.task.ring.unpack(message.total, terms.task.length)
        survivors = frozenset(self._headers)
        blamed = MappingProxyType(dict(self._progress.blamed))
        self._result = SumResult(
            terms.task.ring.center(words), survivors, record, blamed, caveats=(*CAVEATS, *few_vectors(len(survivors)))
        )
        self._progress.step = "done"
