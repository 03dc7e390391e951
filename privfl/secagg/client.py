"""A client's side: five messages out, four in, and the rules that no server can bypass.

It enters each task once (privfl/crypto/memory.py) and answers each step once, in order; the rules that all sessions
share are those of privfl/sums/session.py. It reveals shares for one list of survivors only, in one message. If a dealer
survived, the client gives the share of the dealer's self-mask seed; if the dealer dropped out, the share of its mask
key. No client ever gives both. In signed mode it gives shares only once `threshold` of its holders have signed that
same list.

Where the task has noise that needs the roster (privfl/sums/noise.py), a member adds its noise to its vector when the
roster comes. A saved session therefore keeps the noise that it added, and holds no key of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from privfl.checks import draw
from privfl.crypto import (
    AgreementKey,
    KeyDirectory,
    MemoryDirectory,
    SigningKey,
    TaskMemory,
    add_keystreams,
    read_keystream,
)
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.sealed import seal, unseal
from privfl.crypto.shamir import SHARE_BYTES, share_from_bytes, share_to_bytes, split
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import ConfigError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ints
from privfl.secagg import keys
from privfl.secagg.graph import Graph, member_places
from privfl.secagg.machine import client_table
from privfl.secagg.messages import (
    BOX_BYTES,
    KEYS_BYTES,
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
from privfl.secagg.roster import RosterView, read_roster
from privfl.secagg.state import CLIENT_LABEL, ClientForm, Peer, peer_forms, peers_of
from privfl.secagg.terms import Terms
from privfl.sums.base import Entropy
from privfl.sums.client import ClientMachine
from privfl.sums.session import Interrupted, MessageType, SteadyDirectory
from privfl.wire import HEADER_BYTES, ClientId, Message, Reader, read_fields, write_fields


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Made for this sum alone: both key pairs, and the seed of the client's own mask."""

    mask_key: AgreementKey
    box_key: AgreementKey
    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """Both public keys, as the client advertises them."""
        return self.mask_key.public + self.box_key.public


class MaskedClient(ClientMachine):
    """One client's session; see `MaskedSum.client`.

    Args:
        terms: The terms of the sum.
        me: The client's identity.
        vector: int64 `[task.length]`, checked against the task.
        signing: The client's signing key in signed mode, else None.
        directory: The verify keys of all clients in signed mode, else None.
        tasks: The memory that refuses a task begun before; None keeps no memory.
        entropy: A function from n to n random bytes.
        threads: The number of threads that expand masks, at least 1.

    Raises:
        ConfigError: Signed terms come without a key or a directory, or semi-honest terms with one.
    """

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
        table, session = client_table(signed=terms.signed), terms.digest()
        super().__init__(table, CLIENT_LABEL, me=me, session=session, task=terms.task.digest(), tasks=tasks)
        self._terms, self._signing = terms, signing
        self._directory = SteadyDirectory(MemoryDirectory({}) if directory is None else directory)  # or knows nobody
        self._entropy, self._threads = entropy, threads
        self._words = terms.task.ring.reduce(vector)
        mask_key, box_key = AgreementKey.generate(entropy), AgreementKey.generate(entropy)
        self._own = _Secrets(mask_key, box_key, draw(entropy, KEY_BYTES))
        self._peers: dict[int, Peer] = {}  # by place, increasing; includes this client in a complete graph
        self._keys = keys.RosterKeys(session, b"")
        self._size = 0  # of the roster
        self._place = -1
        self._holders: list[int] = []
        self._sharers = self._survivors = Bitmap(0, 0)

    def _handler(self, kind: MessageType) -> Callable[[Any], Message]:
        handlers: dict[MessageType, Callable[[Any], Message]] = {
            Roster: self._on_roster,
            Boxes: self._on_boxes,
            Survivors: self._on_survivors,
            Signatures: self._on_signatures,
        }
        return handlers[kind]

    def _max_length(self) -> int:
        """An honest server's longest message lists the whole cohort."""
        return HEADER_BYTES + 1024 + (BOX_BYTES + 4 + KEYS_BYTES + SIGNATURE_BYTES) * len(self._terms.task.clients)

    def _first(self) -> Message:
        public, signature = self._own.public, b""
        if self._signing is not None:
            signature = self._signing.sign(keys.ADVERTISE, self._session, keys.id_bytes(self._me), public)
        return AdvertiseKeys(public, signature)

    def _forget(self) -> None:
        self._words = self._terms.task.ring.zeros(0)
        self._peers = {}
        self._own = _NOTHING

    def _dump(self) -> bytes:
        own = self._own
        form = ClientForm(
            own.mask_key.secret,
            own.box_key.secret,
            own.seed,
            self._words.data,
            self._keys.roster,
            self._size,
            self._place + 1,
            peer_forms(self._peers),
            self._sharers,
            self._survivors,
        )
        return write_fields(form)

    def _load(self, body: bytes) -> None:
        reader = Reader(body)
        form = read_fields(ClientForm, reader)
        reader.done()
        words = np.frombuffer(form.words, self._words.dtype).copy()
        if len(words) not in (0, self._terms.task.length):
            raise WireError(f"{len(words)} values, where the task has {self._terms.task.length}")
        self._own = _Secrets(AgreementKey(form.mask_secret), AgreementKey(form.box_secret), bytes(form.seed))
        self._words, self._peers = words, peers_of(form.peers)
        self._keys = keys.RosterKeys(self._session, bytes(form.roster))
        self._size, self._place = form.size, form.place - 1
        self._holders = self._graph().holders(self._place) if self._size else []
        self._sharers, self._survivors = form.sharers, form.survivors

    # --- Roster -> ShareKeys ---------------------------------------------------------------------------------------

    def _on_roster(self, message: Roster) -> Message:
        terms, entries = self._terms, bytes(message.entries)
        roster = read_roster(terms, entries)
        own = roster.place_of(self._me)
        if own is None:
            raise Interrupted(WireError("the roster is without this client, which has dropped out of this sum"))
        if roster.keys(own) != self._own.public:
            raise RemoteProtocolError("the roster does not show this client's own keys")
        bound = keys.RosterKeys(self._session, keys.roster_digest(self._session, entries))
        holders = Graph(len(roster), terms.degree, bound.ring()).holders(own)
        members = self._members(bound, len(roster))
        partners = [place for place in members if place != own] if own in members else []
        if terms.signed:
            for place in dict.fromkeys([*holders, *partners]):
                client, parts = roster.client(place), (self._session, keys.id_bytes(roster.client(place)))
                verify_key = self._directory.verify_key(client)
                verify_key.verify(roster.signature(place), keys.ADVERTISE, *parts, roster.keys(place), sender=client)
        self._place, self._size, self._keys, self._holders = own, len(roster), bound, holders
        for place in holders:
            client, public = roster.client(place), roster.keys(place)
            self._peers[place] = peer = Peer(client)
            if place != own:
                peer.mask = bound.pairwise(self._own.mask_key, public[:KEY_BYTES], self._me, client)
                peer.shared = self._own.box_key.agree(public[KEY_BYTES:], sender=client)
        answer = self._share()
        if own in members:
            self._add_noise(roster, partners)
        return answer

    def _members(self, bound: keys.RosterKeys, size: int) -> Bitmap:
        """The places that add noise; none in a task without."""
        noise = self._terms.noise
        return Bitmap(size, 0) if noise is None else member_places(size, noise.members, bound.members())

    def _add_noise(self, roster: RosterView, partners: list[int]) -> None:
        """Add this member's noise to its vector, once; its own part comes from its entropy, after all other draws."""
        terms, me, noise = self._terms, self._me, self._terms.noise
        assert noise is not None  # noqa: S101 - a roster without noise has no members
        places = {roster.client(place): place for place in partners}

        def pair(client: ClientId) -> Entropy:
            place = places[client]
            peer = self._peers.get(place)
            shared = peer.shared if peer is not None else b""
            if not shared:  # a member that is no neighbor on the ring
                shared = self._own.box_key.agree(roster.keys(place)[KEY_BYTES:], sender=client)
            return read_keystream(self._keys.pair_noise(shared, me, client))

        values = noise.sample(me, list(places), terms.task.length, own=self._entropy, pair=pair)
        if int(np.abs(values).max()) > noise.reach:
            raise ConfigError(f"an entry of the noise is beyond its bound of {noise.reach}: its sampler is broken")
        terms.task.ring.add(self._words, terms.task.ring.reduce(values))
        terms.task.ring.mask(self._words)

    def _graph(self) -> Graph:
        """Made again when it is needed: its permutation is as long as the roster."""
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

    def _masked(self, others: list[Peer]) -> bytes:
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
        self._check_size(survivors)
        if self._place not in survivors:
            raise Interrupted(WireError("the survivors are without this client, which has dropped out of this sum"))
        if survivors.mask & ~self._sharers.mask:
            raise RemoteProtocolError("a survivor is named that never shared its keys")
        if len(survivors) < terms.min_survivors:
            raise TooFewSurvivors(len(survivors), terms.min_survivors)
        if terms.noise is not None:
            present = (self._members(self._keys, self._size).mask & survivors.mask).bit_count()
            if present < terms.noise.min_members_to_open:
                raise TooFewSurvivors(present, terms.noise.min_members_to_open)
        near = sum(place in survivors for place in self._peers)
        if near < terms.threshold:
            raise TooFewSurvivors(near, terms.threshold)
        arc = self._graph().min_arc(survivors)
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
            raise TooFewSurvivors(count, self._terms.threshold, True)  # other holders may have opened it
        return self._reveal()

    def _reveal(self) -> Unmask:
        given, shares = [], []
        for index, (place, peer) in enumerate(self._peers.items()):
            share = peer.seed_share if place in self._survivors else peer.key_share
            if share is not None:
                given.append(index)
                shares.append(share)
        return Unmask(Bitmap.of(len(self._peers), given), b"".join(shares))

    def _check_size(self, members: Bitmap) -> None:
        if members.count != self._size:
            raise WireError(f"a list over {members.count} places, where the roster has {self._size}")

    def _check_members(self, members: Bitmap) -> None:
        self._check_size(members)
        if self._place not in members:
            raise RemoteProtocolError("this client is not on the list that it was sent")


_NOTHING = _Secrets(AgreementKey(bytes(KEY_BYTES)), AgreementKey(bytes(KEY_BYTES)), b"")
"""Stands where the secrets were, once a session has ended."""
