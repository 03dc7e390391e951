"""The client's side of ckks-sum/1: advertises, deals if asked, sends one frame, consents once, opens if asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from privfl.crypto import SIGNATURE_BYTES, AgreementKey, Credentials, TaskMemory, derive, framed, seal, unseal
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he.keys import KeyStore, key_id
from privfl.he.machine import CLIENT, ClientState, Kind
from privfl.he.messages import (
    NO_KEY,
    Advert,
    Advertise,
    AskDealer,
    AskOpener,
    Box,
    Consent,
    Deal,
    Dealt,
    Frame,
    FrameHeader,
    Opened,
    Survivors,
    UseKey,
    box_context,
    consent_parts,
    deal_parts,
    digest,
)
from privfl.he.opening import open_sum
from privfl.he.processes import Processes
from privfl.he.terms import Terms
from privfl.he.work import KeyedWork
from privfl.ring import Ints
from privfl.sums import Entropy, Opening
from privfl.wire import SERVER, ClientId, Message, decode, peek

_SMALL: Final = 1 << 16


@dataclass(slots=True)
class Held:
    """A client's secrets during one sum."""

    own: Credentials = field(repr=False)
    store: KeyStore = field(repr=False)
    box: AgreementKey = field(repr=False)
    advert: Advert
    session_key: bytes | None = field(default=None, repr=False)
    work: KeyedWork | None = field(default=None, repr=False)


class CkksClient:
    """One client's session: every message is answered at most once, and after any error the session is dead."""

    def __init__(
        self,
        terms: Terms,
        me: ClientId,
        vector: Ints,
        *,
        own: Credentials,
        store: KeyStore,
        tasks: TaskMemory,
        opening: Opening,
        entropy: Entropy,
        processes: Processes,
    ) -> None:
        self._terms, self._me, self._entropy, self._opening = terms, me, entropy, opening
        self._tasks, self._processes = tasks, processes
        self._vector: Ints | None = vector
        box = AgreementKey.generate(entropy)
        advert = Advert.make(me, box.public, store.held, task=terms.digest, signing=own.signing)
        self._held: Held | None = Held(own, store, box, advert)
        self._header: FrameHeader | None = None
        self._survivors: tuple[ClientId, ...] = ()
        self.state = ClientState.NEW
        self._handlers: dict[Kind, Callable[[Held, Message], Message]] = {
            AskDealer: self._deal,
            Dealt: self._dealt,
            UseKey: self._use_key,
            Survivors: self._consent,
            AskOpener: self._open,
        }

    def start(self) -> bytes:
        """The advert; raises `PlanRejected` for a task that this client has begun before, which ends the session."""
        if self.state is not ClientState.NEW or self._held is None:
            raise LocalProtocolError("start() was called twice, or after an error")
        try:
            self._tasks.begin(self._terms.digest)
        except BaseException:  # a task that could not be noted has not begun
            self._abort()
            raise
        self.state = ClientState.ADVERTISED
        return self._bytes(Advertise(self._held.advert))

    def receive(self, message: bytes) -> bytes | None:
        """Answer one message of the server; any error ends this session for good."""
        held = self._held
        if held is None or self.state in (ClientState.NEW, ClientState.ABORTED, ClientState.OPENED):
            self._abort()
            raise LocalProtocolError("this session has not started, or has ended")
        try:
            return self._bytes(self._answer(held, message))
        except WireError as error:
            self._abort()
            raise RemoteProtocolError(f"the server's message: {error}") from error
        except BaseException:
            self._abort()
            raise

    def _answer(self, held: Held, message: bytes) -> Message:
        terms = self._terms
        limit = max(terms.plan.bytes_down, _SMALL + 200 * len(terms.task.clients))
        header, _ = peek(message, max_length=limit)
        if header.sender != SERVER or header.task != terms.digest:
            raise WireError("the header names another sender or task")
        due = {step.receives: step for step in CLIENT if step.state is self.state and step.receives is not None}
        _, content = decode(message, list(due), max_length=limit)
        answer = self._handlers[type(content)](held, content)
        self.state = due[type(content)].then
        if self.state is ClientState.OPENED:
            self._held = None
        return answer

    def _bytes(self, message: Message) -> bytes:
        return message.to_bytes(sender=self._me, task=self._terms.digest)

    def _abort(self) -> None:
        self.state = ClientState.ABORTED
        self._held = self._vector = self._header = None

    def _deal(self, held: Held, message: Message) -> Message:
        assert isinstance(message, AskDealer)  # noqa: S101 - _handlers ties them
        terms, me = self._terms, self._me
        ids = [advert.client for advert in message.adverts]
        if ids != sorted(set(ids)) or not set(ids) <= set(terms.task.clients) or held.advert not in message.adverts:
            raise RemoteProtocolError("the list of adverts repeats, names strangers or lacks this client")
        if len(ids) < terms.least:
            raise TooFewSurvivors(len(ids), terms.least)
        for advert in message.adverts:
            advert.verify(terms.digest, terms.directory)
        key = self._entropy(32)
        held.session_key, name = key, key_id(key)
        boxes = [
            Box(advert.client, self._seal_for(held, advert, key, name))
            for advert in message.adverts
            if advert.client != me
        ]
        signature = held.own.signing.sign("ckks-sum deal", *deal_parts(terms.digest, held.advert, name))
        return Deal(name, signature, tuple(boxes))

    def _seal_for(self, held: Held, advert: Advert, key: bytes, name: bytes) -> bytes:
        context = box_context(self._terms.digest, self._me, advert.client, name)
        secret = derive(held.box.agree(advert.public, sender=advert.client), "ckks-sum box", *context)
        return seal(secret, key, associated=framed(*context), entropy=self._entropy)

    def _own_deal(self, held: Held, message: Dealt) -> Message:
        key = held.session_key
        if key is None or message.dealer != held.advert or message.key != key_id(key) or message.box:
            raise RemoteProtocolError("the server passes on another deal than this client's own")
        parts = deal_parts(self._terms.digest, held.advert, message.key)
        held.own.signing.public.verify(message.signature, "ckks-sum deal", *parts)
        return self._frame(held, key)

    def _dealt(self, held: Held, message: Message) -> Message:
        assert isinstance(message, Dealt)  # noqa: S101 - _handlers ties them
        if self.state is ClientState.DEALING:
            return self._own_deal(held, message)
        terms, dealer = self._terms, message.dealer
        if dealer.client not in terms.task.clients or dealer.client == self._me:
            raise RemoteProtocolError(f"client {dealer.client} cannot be the dealer", sender=dealer.client)
        dealer.verify(terms.digest, terms.directory)
        verify_key = terms.directory.verify_key(dealer.client)
        parts = deal_parts(terms.digest, dealer, message.key)
        verify_key.verify(message.signature, "ckks-sum deal", *parts, sender=dealer.client)
        if [box.client for box in message.box] != [self._me]:
            raise RemoteProtocolError("the deal comes without this client's box")
        context = box_context(terms.digest, dealer.client, self._me, message.key)
        secret = derive(held.box.agree(dealer.public, sender=dealer.client), "ckks-sum box", *context)
        key = unseal(secret, message.box[0].content, associated=framed(*context), sender=dealer.client)
        if key_id(key) != message.key:
            raise RemoteProtocolError("the dealt key does not fit its commitment", sender=dealer.client)
        return self._frame(held, key)

    def _use_key(self, held: Held, message: Message) -> Message:
        assert isinstance(message, UseKey)  # noqa: S101 - _handlers ties them
        key = held.store.get(message.key) if message.key == held.advert.held != NO_KEY else None
        if key is None:
            raise RemoteProtocolError("the server names a session key that this client does not hold")
        return self._frame(held, key)

    def _frame(self, held: Held, key: bytes) -> Message:
        terms, me, vector = self._terms, self._me, self._vector
        if vector is None:  # pragma: no cover - the states allow one frame only
            raise LocalProtocolError("the vector was sent before")
        self._vector = None
        held.session_key = key
        held.store.keep(key)
        held.work = KeyedWork(terms.plan, key, terms.digest, self._processes)
        seeds, block, whole = held.work.seal(vector)
        tag = held.work.tagger.sign(whole, me)
        header = FrameHeader(me, terms.plan.identifier, key_id(key), seeds, digest(block), tag, bytes(SIGNATURE_BYTES))
        self._header = header.sign(terms.digest, held.own.signing)
        return Frame(self._header, block)

    def _consent(self, held: Held, message: Message) -> Message:
        assert isinstance(message, Survivors)  # noqa: S101 - _handlers ties them
        terms, survivors = self._terms, message.clients
        if not set(survivors) <= set(terms.task.clients) or self._me not in survivors:
            raise RemoteProtocolError("the survivor list names strangers, or lacks this client")
        if len(survivors) < terms.least:
            raise TooFewSurvivors(len(survivors), terms.least)
        self._survivors = survivors
        parts = consent_parts(terms.digest, self._own_header().key, survivors)
        return Consent(held.own.signing.sign("ckks-sum survivors", *parts))

    def _open(self, held: Held, message: Message) -> Message:
        assert isinstance(message, AskOpener)  # noqa: S101 - _handlers ties them
        if held.session_key is None or held.work is None:  # pragma: no cover - set with the frame
            raise ConfigError("nothing was sent")
        terms = self._terms
        words, transcript = open_sum(
            terms.task,
            terms.plan,
            terms.directory,
            message,
            digest=terms.digest,
            quorum=terms.quorum,
            survivors=self._survivors,
            own=self._own_header(),
            session_key=held.session_key,
            work=held.work,
            opening=self._opening,
        )
        signature = held.own.signing.sign("ckks-sum opened", terms.digest, transcript, digest(words))
        return Opened(signature, words)

    def _own_header(self) -> FrameHeader:
        if self._header is None:  # pragma: no cover - the states order frame and consent
            raise LocalProtocolError("no frame was sent")
        return self._header
