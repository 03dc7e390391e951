"""The client's side of ckks-sum/1: advertises, deals if asked, sends one frame, consents once, opens if asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from privfl.crypto import SIGNATURE_BYTES, AgreementKey, Credentials, TaskMemory, derive, draw, framed, seal, unseal
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.he.authenticator import SessionCipher
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
from privfl.he.plan import Terms
from privfl.ring import Ints
from privfl.sums import Entropy, Opening
from privfl.wire import SERVER, ClientId, Message, decode, peek

_SMALL: Final = 1 << 16


@dataclass(slots=True)
class ClientSecrets:
    """A client's secrets during one sum.

    Attributes:
        own: The client's long-term keys.
        store: Its session key between sums.
        box: The key of this sum's boxes.
        advert: Its signed advert; None before the start.
        reserved: The session key that it advertised and whose use it reserved, if it held one.
        session_key: The session key of this sum, as soon as it is known.
        cipher: Seals and opens under that key.
    """

    own: Credentials = field(repr=False)
    store: KeyStore = field(repr=False)
    box: AgreementKey = field(repr=False)
    advert: Advert | None = None
    reserved: bytes | None = field(default=None, repr=False)
    session_key: bytes | None = field(default=None, repr=False)
    cipher: SessionCipher | None = field(default=None, repr=False)


class CkksClient:
    """One client's session: it answers every message at most once, and any error ends it for good."""

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
    ) -> None:
        """Make a session; `CkksSum.client` checks the arguments before.

        Args:
            terms: The public parameters of the sum.
            me: This client.
            vector: int64 `[length]`.
            own: The client's long-term keys.
            store: Its session key between sums.
            tasks: The memory of tasks begun before.
            opening: Runs here if this client opens.
            entropy: The source of random bytes.
        """
        self._terms, self._me, self._entropy, self._opening = terms, me, entropy, opening
        self._tasks = tasks
        self._vector: Ints | None = vector
        self._secrets: ClientSecrets | None = ClientSecrets(own, store, AgreementKey.generate(entropy))
        self._header: FrameHeader | None = None
        self._survivors: tuple[ClientId, ...] = ()
        self.state = ClientState.NEW
        self._handlers: dict[Kind, Callable[[ClientSecrets, Message], Message]] = {
            AskDealer: self._deal,
            Dealt: self._dealt,
            UseKey: self._use_key,
            Survivors: self._consent,
            AskOpener: self._open,
        }

    def start(self) -> bytes:
        """Return the advert, and reserve a use of the session key that it names.

        Raises:
            LocalProtocolError: The session was started before, or has ended.
            PlanRejected: This client has begun this task before; the session has ended.
        """
        secrets, terms = self._secrets, self._terms
        if self.state is not ClientState.NEW or secrets is None:
            raise LocalProtocolError("start() was called twice, or after an error")
        try:
            self._tasks.begin(terms.digest)
            secrets.reserved = secrets.store.reserve()
            held = NO_KEY if secrets.reserved is None else key_id(secrets.reserved)
            signing = secrets.own.signing
            secrets.advert = Advert.make(self._me, secrets.box.public, held, task=terms.digest, signing=signing)
        except BaseException:  # a task that could not be recorded has not begun
            self._abort()
            raise
        self.state = ClientState.ADVERTISED
        return self._bytes(Advertise(secrets.advert))

    def receive(self, message: bytes) -> bytes | None:
        """Answer one message of the server; any error ends this session for good.

        Raises:
            LocalProtocolError: The session has not started, or has ended.
            RemoteProtocolError: The message breaks the protocol.
            TooFewSurvivors: The server goes on with too few clients.
            CapacityError: This client opened, and the opened sum leaves the ring.
        """
        secrets = self._secrets
        if secrets is None or self.state in (ClientState.NEW, ClientState.ABORTED, ClientState.OPENED):
            self._abort()
            raise LocalProtocolError("this session has not started, or has ended")
        try:
            return self._bytes(self._answer(secrets, message))
        except WireError as error:
            self._abort()
            raise RemoteProtocolError(f"the server's message: {error}") from error
        except BaseException:
            self._abort()
            raise

    def _answer(self, secrets: ClientSecrets, message: bytes) -> Message:
        terms = self._terms
        limit = max(terms.plan.bytes_down, _SMALL + 200 * len(terms.task.clients))
        header, _ = peek(message, max_length=limit)
        if header.sender != SERVER or header.task != terms.digest:
            raise WireError("the header names another sender or task")
        due = {step.receives: step for step in CLIENT if step.state is self.state and step.receives is not None}
        _, content = decode(message, list(due), max_length=limit)
        answer = self._handlers[type(content)](secrets, content)
        self.state = due[type(content)].then
        if self.state is ClientState.OPENED:
            self._secrets = None
        return answer

    def _bytes(self, message: Message) -> bytes:
        return message.to_bytes(sender=self._me, task=self._terms.digest)

    def _abort(self) -> None:
        self.state = ClientState.ABORTED
        self._secrets = self._vector = self._header = None

    def _deal(self, secrets: ClientSecrets, message: Message) -> Message:
        assert isinstance(message, AskDealer)  # noqa: S101 - _handlers ties them
        terms, me, own = self._terms, self._me, self._own_advert(secrets)
        ids = [advert.client for advert in message.adverts]
        if ids != sorted(set(ids)) or not set(ids) <= set(terms.task.clients) or own not in message.adverts:
            raise RemoteProtocolError("the list of adverts repeats, names strangers or lacks this client")
        if len(ids) < terms.min_clients:
            raise TooFewSurvivors(len(ids), terms.min_clients)
        for advert in message.adverts:
            advert.verify(terms.digest, terms.directory)
        key = draw(self._entropy, 32)
        secrets.session_key, name = key, key_id(key)
        boxes = [
            Box(advert.client, self._seal_for(secrets, advert, key, name))
            for advert in message.adverts
            if advert.client != me
        ]
        signature = secrets.own.signing.sign("ckks-sum deal", *deal_parts(terms.digest, own, name))
        return Deal(name, signature, tuple(boxes))

    def _seal_for(self, secrets: ClientSecrets, advert: Advert, key: bytes, name: bytes) -> bytes:
        context = box_context(self._terms.digest, self._me, advert.client, name)
        secret = derive(secrets.box.agree(advert.public, sender=advert.client), "ckks-sum box", *context)
        return seal(secret, key, associated=framed(*context), entropy=self._entropy)

    def _own_deal(self, secrets: ClientSecrets, message: Dealt) -> Message:
        key, own = secrets.session_key, self._own_advert(secrets)
        if key is None or message.dealer != own or message.key != key_id(key) or message.box:
            raise RemoteProtocolError("the server passes on another deal than this client's own")
        parts = deal_parts(self._terms.digest, own, message.key)
        secrets.own.signing.public.verify(message.signature, "ckks-sum deal", *parts)
        secrets.store.keep(key)
        return self._frame(secrets, key)

    def _dealt(self, secrets: ClientSecrets, message: Message) -> Message:
        assert isinstance(message, Dealt)  # noqa: S101 - _handlers ties them
        if self.state is ClientState.DEALING:
            return self._own_deal(secrets, message)
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
        secret = derive(secrets.box.agree(dealer.public, sender=dealer.client), "ckks-sum box", *context)
        key = unseal(secret, message.box[0].content, associated=framed(*context), sender=dealer.client)
        if key_id(key) != message.key:
            raise RemoteProtocolError("the dealt key does not fit its commitment", sender=dealer.client)
        secrets.store.keep(key)
        return self._frame(secrets, key)

    def _use_key(self, secrets: ClientSecrets, message: Message) -> Message:
        assert isinstance(message, UseKey)  # noqa: S101 - _handlers ties them
        key = secrets.reserved
        if key is None or message.key != key_id(key):
            raise RemoteProtocolError("the server names a session key that this client does not hold")
        return self._frame(secrets, key)

    def _frame(self, secrets: ClientSecrets, key: bytes) -> Message:
        terms, me, vector = self._terms, self._me, self._vector
        if vector is None:  # pragma: no cover - the states allow one frame only
            raise LocalProtocolError("the vector was sent before")
        self._vector = None
        secrets.session_key = key
        secrets.cipher = SessionCipher(terms.plan, key, terms.digest)
        seeds, block, tag = secrets.cipher.seal(vector, me)
        header = FrameHeader(me, terms.plan.identifier, key_id(key), seeds, digest(block), tag, bytes(SIGNATURE_BYTES))
        self._header = header.sign(terms.digest, secrets.own.signing)
        return Frame(self._header, block)

    def _consent(self, secrets: ClientSecrets, message: Message) -> Message:
        assert isinstance(message, Survivors)  # noqa: S101 - _handlers ties them
        terms, survivors = self._terms, message.clients
        if not set(survivors) <= set(terms.task.clients) or self._me not in survivors:
            raise RemoteProtocolError("the survivor list names strangers, or lacks this client")
        if len(survivors) < terms.min_clients:
            raise TooFewSurvivors(len(survivors), terms.min_clients)
        self._survivors = survivors
        parts = consent_parts(terms.digest, self._own_header().key, survivors)
        return Consent(secrets.own.signing.sign("ckks-sum survivors", *parts))

    def _open(self, secrets: ClientSecrets, message: Message) -> Message:
        assert isinstance(message, AskOpener)  # noqa: S101 - _handlers ties them
        if secrets.session_key is None or secrets.cipher is None:  # pragma: no cover - set with the frame
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
            session_key=secrets.session_key,
            cipher=secrets.cipher,
            opening=self._opening,
        )
        signature = secrets.own.signing.sign("ckks-sum opened", terms.digest, transcript, digest(words))
        return Opened(signature, words)

    def _own_advert(self, secrets: ClientSecrets) -> Advert:
        if secrets.advert is None:  # pragma: no cover - set with the state ADVERTISED
            raise LocalProtocolError("nothing was advertised")
        return secrets.advert

    def _own_header(self) -> FrameHeader:
        if self._header is None:  # pragma: no cover - the states order frame and consent
            raise LocalProtocolError("no frame was sent")
        return self._header
