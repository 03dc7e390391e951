"""The server's side of ckks-sum/1: public parameters, residues, signatures; no key, and no TenSEAL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from privfl.errors import LocalProtocolError, PrivflError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he.checks import check_header, fresh_seeds
from privfl.he.machine import SERVER as TABLE
from privfl.he.machine import Kind, ServerState
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
from privfl.sums import SumResult, few_vectors
from privfl.wire import HEADER_BYTES, SERVER, ClientId, Message, peek

CAVEATS: Final = (
    "all clients share one session key: a client that colludes with the server can read every vector",
    "the value of the sum is the opener's word; the frames bind it, but only another key holder can check",
)


class CkksServer:
    """The server's session: it adds residues as they come, and keeps one block, and each frame's header and seeds."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._waiting = set(terms.task.clients)
        self._blamed: dict[ClientId, str] = {}
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
        self._result: SumResult | None = None
        self.state = ServerState.ADVERTISE

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """The clients whose message of the present step has not come."""
        return frozenset(self._waiting)

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once an opener has sent it."""
        return self._result

    @property
    def ready(self) -> bool:
        """Whether `advance()` would succeed now; an early call gives the sum up."""
        return True

    def drop(self, client: ClientId) -> None:
        """Await nothing from this client any more."""
        self._waiting.discard(client)

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Take one client's message.

        Args:
            sender: The client on whose channel the message came.
            message: The bytes, which are untrusted.

        Raises:
            LocalProtocolError: The sum has ended.
            RemoteProtocolError: The message is refused. A sender whose message was due is dropped and blamed.
        """
        if self.state is ServerState.DONE:
            raise LocalProtocolError("this sum has ended")
        if sender not in self._waiting:
            raise RemoteProtocolError(f"nothing is awaited from client {sender}", sender=sender)
        self._waiting.discard(sender)
        kind, limit, take = self._expected()
        try:
            header, body = peek(message, max_length=limit)
            if (header.kind, header.sender, header.task) != (kind.KIND, sender, self._terms.digest):
                raise WireError("the header names another kind, sender or task")
            take(sender, kind.from_body(body))
        except PrivflError as error:
            self._blamed[sender] = str(error)
            raise RemoteProtocolError(f"client {sender}: {error}", sender=sender) from error

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step, and return the next message to each client.

        Raises:
            LocalProtocolError: The sum has ended.
            TooFewSurvivors: Too few clients, or no opener, are left; nothing was opened here.
        """
        if self.state is ServerState.DONE:
            raise LocalProtocolError("this sum has ended")
        self._waiting.clear()
        steps: dict[ServerState, Callable[[], dict[ClientId, Message]]] = {
            ServerState.ADVERTISE: self._after_adverts,
            ServerState.DEAL: self._after_deal,
            ServerState.FRAME: self._after_frames,
            ServerState.CONSENT: self._after_consent,
            ServerState.OPEN: self._ask_opener,
        }
        try:
            messages = steps[self.state]()
        except TooFewSurvivors:
            self.state = ServerState.DONE
            raise
        self._waiting = set(messages)
        return {client: self._bytes(message) for client, message in messages.items()}

    def _bytes(self, message: Message) -> bytes:
        return message.to_bytes(sender=SERVER, task=self._terms.digest)

    def _expected(self) -> tuple[Kind, int, Callable[[ClientId, Message], None]]:
        """What this step collects, how long it may be, and who takes it."""
        plan, clients = self._terms.plan, len(self._terms.task.clients)
        limits: dict[Kind, tuple[int, Callable[[ClientId, Message], None]]] = {
            Advertise: (HEADER_BYTES + 132, self._take_advert),
            Deal: (HEADER_BYTES + 100 + 64 * clients, self._take_deal),
            Frame: (plan.bytes_up, self._take_frame),
            Consent: (HEADER_BYTES + 64, self._take_consent),
            Opened: (plan.bytes_opened, self._take_opened),
        }
        kind = next(step.collects for step in TABLE if step.step is self.state)
        return (kind, *limits[kind])

    def _need(self, count: int, minimum: int) -> None:
        if count < minimum:
            raise TooFewSurvivors(count, minimum, self.state is ServerState.OPEN)  # an opener may have opened it

    # step 1: adverts

    def _take_advert(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Advertise)  # noqa: S101 - _expected ties handler to type
        if message.advert.client != sender:
            raise WireError("the advert names another client")
        message.advert.verify(self._terms.digest, self._terms.directory)
        self._adverts[sender] = message.advert

    def _after_adverts(self) -> dict[ClientId, Message]:
        self._need(len(self._adverts), self._terms.min_clients)
        held = {advert.held for advert in self._adverts.values()}
        if len(held) == 1 and NO_KEY not in held:
            return self._ask_frames(held.pop(), dict.fromkeys(self._adverts, None))
        return self._ask_dealer()

    # step 2: the deal

    def _ask_dealer(self) -> dict[ClientId, Message]:
        self._need(len(self._adverts), self._terms.min_clients)
        self.state = ServerState.DEAL
        adverts = tuple(self._adverts[client] for client in sorted(self._adverts))
        self._dealer = adverts[0]
        return {self._dealer.client: AskDealer(adverts)}

    def _take_deal(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Deal)  # noqa: S101 - _expected ties handler to type
        terms, dealer = self._terms, self._adverts[sender]
        if [box.client for box in message.boxes] != [client for client in sorted(self._adverts) if client != sender]:
            raise WireError("a deal has one box for each other client, in order")
        key = terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum deal", *deal_parts(terms.digest, dealer, message.key), sender=sender)
        self._dealt = message

    def _after_deal(self) -> dict[ClientId, Message]:
        deal, dealer = self._dealt, self._dealer
        if dealer is None:  # pragma: no cover - set with the step
            raise LocalProtocolError("nobody was asked to deal")
        if deal is None:  # dropped out or refused: the next one deals
            del self._adverts[dealer.client]
            return self._ask_dealer()
        boxes = {box.client: box for box in deal.boxes}
        messages: dict[ClientId, Message] = {
            client: Dealt(dealer, deal.key, deal.signature, (boxes[client],) if client in boxes else ())
            for client in sorted(self._adverts)
        }
        self._dealt = None
        return self._ask_frames(deal.key, messages)

    # step 3: frames

    def _ask_frames(self, key: bytes, messages: Mapping[ClientId, Message | None]) -> dict[ClientId, Message]:
        self.state = ServerState.FRAME
        self._key = key
        plan = self._terms.plan
        self._total = np.zeros(plan.chunks * plan.degree, np.uint64)
        return {client: message or UseKey(key) for client, message in sorted(messages.items())}

    def _take_frame(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Frame)  # noqa: S101 - _expected ties handler to type
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

    def _after_frames(self) -> dict[ClientId, Message]:
        self._need(len(self._headers), self._terms.min_clients)
        self._reduce()
        self._seeds.clear()
        self.state = ServerState.CONSENT
        survivors = tuple(sorted(self._headers))
        return {client: Survivors(survivors) for client in survivors}

    # step 4: one survivor list

    def _take_consent(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Consent)  # noqa: S101 - _expected ties handler to type
        parts = consent_parts(self._terms.digest, self._key, sorted(self._headers))
        key = self._terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum survivors", *parts, sender=sender)
        self._votes[sender] = Vote(sender, message.signature)

    def _after_consent(self) -> dict[ClientId, Message]:
        self._need(len(self._votes), self._terms.quorum)
        self.state = ServerState.OPEN
        self._openers = sorted(self._votes)
        return self._ask_opener()

    # step 5: the opener, and the next one when it drops out

    def _ask_opener(self) -> dict[ClientId, Message]:
        self._need(len(self._openers), 1)
        headers = tuple(self._headers[client] for client in sorted(self._headers))
        votes = tuple(self._votes[client] for client in sorted(self._votes))
        block = pack(self._total, self._terms.plan.residue_bytes)
        return {self._openers.pop(0): AskOpener(headers, votes, block)}

    def _take_opened(self, sender: ClientId, message: Message) -> None:
        assert isinstance(message, Opened)  # noqa: S101 - _expected ties handler to type
        terms = self._terms
        record = transcript(terms.digest, [self._headers[client] for client in sorted(self._headers)])
        key = terms.directory.verify_key(sender)
        key.verify(message.signature, "ckks-sum opened", terms.digest, record, digest(message.total), sender=sender)
        words = terms.task.ring.unpack(message.total, terms.task.length)
        survivors = frozenset(self._headers)
        blamed = MappingProxyType(dict(self._blamed))
        self._result = SumResult(
            terms.task.ring.center(words), survivors, record, blamed, (*CAVEATS, *few_vectors(len(survivors)))
        )
        self.state = ServerState.DONE
