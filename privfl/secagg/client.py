"""A client's side: five messages out, four in, and the rules that no server can talk around.

It enters each task once (privfl/crypto/memory.py), answers each step once, in order, and any error ends it for good.
It reveals shares for one list of survivors only, in one message: of each dealer either the share of its self-mask seed
(if it survived) or that of its mask key (if it dropped out), so that no client ever gives both. In signed mode it does
so only once `threshold` of its holders have signed that same list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from privfl.crypto import (
    KEY_BYTES,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    AgreementKey,
    KeyDirectory,
    MemoryDirectory,
    SigningKey,
    TaskMemory,
    add_keystreams,
    seal,
    share_from_bytes,
    share_to_bytes,
    split,
    unseal,
)
from privfl.errors import (
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
    WireError,
)
from privfl.ring import Ints
from privfl.secagg import keys
from privfl.secagg.graph import Graph
from privfl.secagg.machine import CLIENT_ABORTED, CLIENT_DONE, client_table
from privfl.secagg.messages import (
    BOX_BYTES,
    AdvertiseKeys,
    Bitmap,
    Boxes,
    ConsistencyCheck,
    MaskedInput,
    Roster,
    ShareKeys,
    Signatures,
    Survivors,
    Unmask,
    pieces,
)
from privfl.secagg.roster import read_roster
from privfl.secagg.terms import Terms
from privfl.sums.base import Entropy
from privfl.wire import SERVER, ClientId, Message, peek


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Made for this sum alone: both key pairs, and the seed of the client's own mask."""

    mask_key: AgreementKey
    box_key: AgreementKey
    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """What is advertised."""
        return self.mask_key.public + self.box_key.public


@dataclass(slots=True)
class _Peer:
    """What a client keeps of one holder (possibly itself)."""

    client: ClientId
    mask: bytes = field(default=b"", repr=False)  # the key of the pairwise mask
    shared: bytes = field(default=b"", repr=False)  # the agreed secret of the box keys
    key_share: bytes | None = field(default=None, repr=False)
    seed_share: bytes | None = field(default=None, repr=False)


class MaskedClient:
    """One client's session; see `MaskedSum.client`."""

    def __init__(
        self,
        terms: Terms,
        me: ClientId,
        vector: Ints,
        *,
        signing: SigningKey | None,
        directory: KeyDirectory | None,
        tasks: TaskMemory | None,
        entropy: Entropy,
        threads: int,
    ) -> None:
        if terms.signed != (directory is not None) or terms.signed != (signing is not None):
            raise ConfigError("a signing key and a key directory belong to signed terms, and to no others")
        self._terms, self._me, self._session = terms, me, terms.digest()
        self._signing, self._tasks = signing, tasks
        self._directory: KeyDirectory = MemoryDirectory({}) if directory is None else directory  # knows nobody
        self._entropy, self._threads = entropy, threads
        self._table = client_table(signed=terms.signed)
        self._handlers: dict[type[Message], Callable[[Any], Message]] = {
            Roster: self._on_roster,
            Boxes: self._on_boxes,
            Survivors: self._on_survivors,
            Signatures: self._on_signatures,
        }
        self._state = "new"
        self._words = terms.task.ring.reduce(vector)
        self._own = _Secrets(AgreementKey.generate(entropy), AgreementKey.generate(entropy), entropy(KEY_BYTES))
        self._peers: dict[int, _Peer] = {}  # by place, increasing; includes this client in a complete graph
        self._keys = keys.RosterKeys(self._session, b"")
        self._size = 0  # of the roster
        self._place = -1
        self._holders: list[int] = []
        self._sharers = self._survivors = Bitmap(0, 0)

    @property
    def state(self) -> str:
        """A state of privfl/secagg/machine.py."""
        return self._state

    def start(self) -> bytes:
        """The advertisement; raises `LocalProtocolError` unless it is the first call.

        Raises `PlanRejected` for a task that this client has begun before, and that ends the session. What is
        remembered is the task, whatever the scheme, its thresholds or its graph.
        """
        if self._state != "new":
            raise LocalProtocolError(f"start() in state {self._state!r}")
        if self._tasks is not None:
            try:
                self._tasks.begin(self._terms.task.digest())
            except BaseException:  # a task that could not be noted has not begun
                self._abort()
                raise
        public, signature = self._own.public, b""
        if self._signing is not None:
            signature = self._signing.sign(keys.ADVERTISE, self._session, keys.id_bytes(self._me), public)
        self._state = self._table["new"].then
        return self._send(AdvertiseKeys(public, signature))

    def receive(self, message: bytes) -> bytes | None:
        """The answer to the server's next message.

        Raises `RemoteProtocolError` when the server, or a client behind it, broke the rules; `TooFewSurvivors` when
        too few are left; `LocalProtocolError` when nothing is expected any more. Each of them, and whatever else a
        directory raises, ends the session.
        """
        row = self._table.get(self._state)
        if row is None or row.receives is None:
            over = "has not started" if row is not None else "is over"
            self._abort()
            raise LocalProtocolError(f"this session {over}")
        try:
            answer = self._handlers[row.receives](self._parse(message, row.receives))
        except WireError as error:
            self._abort()
            raise RemoteProtocolError(f"{row.receives.__name__}: {error}") from error
        except BaseException:  # a directory that fails is no second chance for the server either
            self._abort()
            raise
        self._state = row.then
        if self._state == CLIENT_DONE:
            self._forget()
        return self._send(answer)

    def _parse(self, message: bytes, kind: type[Message]) -> Message:
        header, body = peek(message, max_length=len(message))
        if (header.kind, header.sender, header.task) != (kind.KIND, SERVER, self._session):
            raise WireError("the header names another kind, sender or session")
        return kind.from_body(body)

    def _send(self, message: Message) -> bytes:
        return message.to_bytes(sender=self._me, task=self._session)

    def _abort(self) -> None:
        self._state = CLIENT_ABORTED
        self._forget()

    def _forget(self) -> None:
        """Drop every secret: an ended session has nothing left to give."""
        self._words = self._terms.task.ring.zeros(0)
        self._peers = {}
        self._own = _NOTHING

    # --- Roster -> ShareKeys ---------------------------------------------------------------------------------------

    def _on_roster(self, message: Roster) -> Message:
        terms, entries = self._terms, bytes(message.entries)
        roster = read_roster(terms, entries)
        own = roster.place_of(self._me)
        if own is None or roster.keys(own) != self._own.public:
            raise RemoteProtocolError("the roster does not show this client's own keys")
        self._place, self._size = own, len(roster)
        self._keys = keys.RosterKeys(self._session, keys.roster_digest(self._session, entries))
        self._holders = self._graph().holders(own)
        for place in self._holders:
            client, public = roster.client(place), roster.keys(place)
            if terms.signed:
                parts = (self._session, keys.id_bytes(client), public)
                self._directory.verify_key(client).verify(
                    roster.signature(place), keys.ADVERTISE, *parts, sender=client
                )
            self._peers[place] = peer = _Peer(client)
            if place != own:
                peer.mask = self._keys.pairwise(self._own.mask_key, public[:KEY_BYTES], self._me, client)
                peer.shared = self._own.box_key.agree(public[KEY_BYTES:], sender=client)
        return self._share()

    def _graph(self) -> Graph:
        """Made anew when it is needed: its permutation is as long as the roster."""
        return Graph(self._size, self._terms.degree, self._keys.ring())

    def _share(self) -> ShareKeys:
        terms, me = self._terms, self._me
        points = [peer.client + 1 for peer in self._peers.values()]  # nobody may stand at zero
        key_shares = split(self._own.mask_key.secret, points, terms.threshold, self._entropy)
        seed_shares = split(self._own.seed, points, terms.threshold, self._entropy)
        boxes = []
        for peer, key_share, seed_share in zip(self._peers.values(), key_shares, seed_shares, strict=True):
            pair = share_to_bytes(key_share), share_to_bytes(seed_share)
            if peer.client == me:
                peer.key_share, peer.seed_share = pair
                continue
            key, context = self._keys.box(peer.shared, me, peer.client), self._keys.box_context(me, peer.client)
            boxes.append(seal(key, pair[0] + pair[1], associated=context, entropy=self._entropy))
        return ShareKeys(self._keys.seed_hash(me, self._own.seed), b"".join(boxes))

    # --- Boxes -> MaskedInput --------------------------------------------------------------------------------------

    def _on_boxes(self, message: Boxes) -> Message:
        me = self._me
        self._check_members(message.sharers)
        self._sharers = message.sharers
        self._peers = {place: peer for place, peer in self._peers.items() if place in message.sharers}
        others = [peer for place, peer in self._peers.items() if place != self._place]
        for peer, box in zip(others, pieces(message.boxes, BOX_BYTES, len(others), "boxes"), strict=True):
            key, context = self._keys.box(peer.shared, peer.client, me), self._keys.box_context(peer.client, me)
            try:
                content = unseal(key, box, associated=context, sender=peer.client)
                pair = content[:SHARE_BYTES], content[SHARE_BYTES:]
                share_from_bytes(pair[0]), share_from_bytes(pair[1])
            except (RemoteProtocolError, WireError):
                continue  # a share that is not there; the server names dealer and holder, and others may do
            peer.key_share, peer.seed_share = pair
        good = sum(peer.key_share is not None for peer in self._peers.values())
        if good < self._terms.threshold:
            raise TooFewSurvivors(good, self._terms.threshold)
        values = self._masked(others)
        return MaskedInput(self._keys.input_check(me, values), values)

    def _masked(self, others: list[_Peer]) -> bytes:
        me, ring = self._me, self._terms.task.ring
        words, self._words = self._words, ring.zeros(0)
        plus = [self._keys.self_mask(me, self._own.seed)]
        minus: list[bytes] = []
        for peer in others:
            (plus if me < peer.client else minus).append(peer.mask)
        add_keystreams(words, plus, minus, threads=self._threads)
        return ring.pack(ring.mask(words), dense=self._terms.packed)

    # --- Survivors -> ConsistencyCheck, or Unmask in the semi-honest mode ------------------------------------------

    def _on_survivors(self, message: Survivors) -> Message:
        terms, survivors = self._terms, message.survivors
        self._check_members(survivors)
        if survivors.mask & ~self._sharers.mask:
            raise RemoteProtocolError("a survivor is named that never shared its keys")
        if len(survivors) < terms.min_survivors:
            raise TooFewSurvivors(len(survivors), terms.min_survivors)
        near = sum(place in survivors for place in self._peers)
        if near < terms.threshold:
            raise TooFewSurvivors(near, terms.threshold)
        arc = self._graph().least_arc(survivors)
        if arc < terms.arc:
            raise TooFewSurvivors(arc, terms.arc)
        self._survivors = survivors
        if self._signing is None:
            return self._reveal()
        return ConsistencyCheck(self._signing.sign(keys.SURVIVORS, *self._keys.said_by(self._me, survivors)))

    # --- Signatures -> Unmask --------------------------------------------------------------------------------------

    def _on_signatures(self, message: Signatures) -> Message:
        neighbors = [place for place in self._holders if place != self._place]
        signers = message.signers
        if signers.count != len(neighbors):
            raise WireError(f"{signers.count} neighbors announced, this client has {len(neighbors)}")
        count = int(self._place in self._peers)
        given = pieces(message.signatures, SIGNATURE_BYTES, len(signers), "signatures")
        for index, signature in zip(signers, given, strict=True):
            if neighbors[index] not in self._survivors:
                raise RemoteProtocolError("a signature is shown of a client that is not among the survivors")
            client = self._peers[neighbors[index]].client
            parts = self._keys.said_by(client, self._survivors)
            self._directory.verify_key(client).verify(signature, keys.SURVIVORS, *parts, sender=client)
            count += 1
        if count < self._terms.threshold:
            raise TooFewSurvivors(count, self._terms.threshold)
        return self._reveal()

    def _reveal(self) -> Unmask:
        given, shares = [], []
        for index, (place, peer) in enumerate(self._peers.items()):
            share = peer.seed_share if place in self._survivors else peer.key_share
            if share is not None:
                given.append(index)
                shares.append(share)
        return Unmask(Bitmap.of(len(self._peers), given), b"".join(shares))

    def _check_members(self, members: Bitmap) -> None:
        if members.count != self._size:
            raise WireError(f"a list over {members.count} places, where the roster has {self._size}")
        if self._place not in members:
            raise RemoteProtocolError("this client is not on the list that it was sent")


_NOTHING = _Secrets(AgreementKey(bytes(KEY_BYTES)), AgreementKey(bytes(KEY_BYTES)), b"")
"""Stands where the secrets were, once a session has ended."""
