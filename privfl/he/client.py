"""The client's side of ckks-sum/1: advertises, deals if asked, sends one frame, consents once, opens if asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from privfl.checks import draw
from privfl.crypto import AgreementKey, Credentials, TaskMemory
from privfl.crypto.kdf import derive, framed
from privfl.crypto.sealed import seal, unseal
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, StateError, TooFewSurvivors, WireError
from privfl.he.authenticator import SessionCipher
from privfl.he.keys import KeyStore, key_id
from privfl.he.machine import CLIENT
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
from privfl.sums.client import ClientMachine
from privfl.sums.session import Interrupted, MessageType
from privfl.wire import ClientId, Message

_SMALL: Final = 1 << 16
_LABEL: Final = b"privfl/1 ckks-sum client state"


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


class CkksClient(ClientMachine):
    """One client's session; see `CkksSum.client`."""

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
        super().__init__(CLIENT, _LABEL, me=me, session=terms.digest, task=terms.digest, tasks=tasks)
        self._terms, self._entropy, self._opening = terms, entropy, opening
        self._vector: Ints | None = vector
        self._secrets: ClientSecrets | None = ClientSecrets(own, store, AgreementKey.generate(entropy))
        self._header: FrameHeader | None = None
        self._survivors: tuple[ClientId, ...] = ()

    def _first(self) -> Message:
        secrets, terms = self._held(), self._terms
        secrets.reserved = secrets.store.reserve()
        held = NO_KEY if secrets.reserved is None else key_id(secrets.reserved)
        signing = secrets.own.signing
        secrets.advert = Advert.make(self._me, secrets.box.public, held, task=terms.digest, signing=signing)
        return Advertise(secrets.advert)

    def _handler(self, kind: MessageType) -> Callable[[Any], Message]:
        handlers: dict[MessageType, Callable[[ClientSecrets, Message], Message]] = {
            AskDealer: self._deal,
            Dealt: self._dealt,
            UseKey: self._use_key,
            Survivors: self._consent,
            AskOpener: self._open,
        }
        return partial(handlers[kind], self._held())

    def _max_length(self) -> int:
        return max(self._terms.plan.bytes_down, _SMALL + 200 * len(self._terms.task.clients))

    def _forget(self) -> None:
        self._secrets = self._vector = self._header = None

    def _dump(self) -> bytes:
        raise StateError(
            "a client's session of a CKKS sum cannot be saved, because its state would hold a key that reads every "
            "vector; a client that restarts drops out of this sum and takes part in the next one; where clients must "
            "survive a restart within a sum, use a masked sum"
        )

    def _load(self, body: bytes) -> None:
        raise WireError("a session of a CKKS sum cannot be restored")

    def _held(self) -> ClientSecrets:
        if self._secrets is None:  # pragma: no cover - an ended session answers nothing
            raise LocalProtocolError("this session is over")
        return self._secrets

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
        if self._state == "dealing":
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
        if not set(survivors) <= set(terms.task.clients):
            raise RemoteProtocolError("the survivor list names strangers")
        if self._me not in survivors:
            raise Interrupted(WireError("the survivors are without this client, which has dropped out of this sum"))
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
