"""The server's side: it adds masked vectors as they come, and takes off what the survivors let it take off.

Each step collects one message from each client that is still there; `advance` closes it. A client whose message breaks
the rules is dropped and blamed; the others go on while enough are left (privfl/sums/session.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from privfl.crypto import AgreementKey, KeyDirectory, MemoryDirectory
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.sealed import TAG_BYTES
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import ConfigError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Opening
from privfl.secagg import keys
from privfl.secagg.disputes import Disputes
from privfl.secagg.graph import Graph, member_places
from privfl.secagg.machine import server_table
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
from privfl.secagg.roster import RosterView, read_roster, write_roster
from privfl.secagg.state import ServerState, dump_state
from privfl.secagg.terms import Terms
from privfl.secagg.unmask import Opener, check_unmask
from privfl.sums.base import SumResult
from privfl.sums.checks import checked_total, few_vectors
from privfl.sums.noise import MemberCount
from privfl.sums.server import ServerMachine
from privfl.sums.session import MessageType, SteadyDirectory
from privfl.wire import HEADER_BYTES, SERVER, ClientId, Message, write_fields

SEMI_HONEST_CAVEAT = (
    "semi-honest masked sum: keys and survivor lists were not signed, so a server that lies can read single vectors"
)
_PROBE = AgreementKey(b"\x01" * KEY_BYTES)
"""A key of nobody's, to find points of low order before they reach the clients."""


class MaskedServer(ServerMachine):
    """The server's session; see `MaskedSum.server`. It holds one vector for any number of clients.

    Args:
        terms: The terms of the sum.
        directory: The verify keys of all clients in signed mode, else None.
        opening: The function applied to the sum before it is released.
        threads: The number of threads that expand masks, at least 1.

    Raises:
        ConfigError: Signed terms come without a directory, or semi-honest terms with one.
    """

    def __init__(self, terms: Terms, *, directory: KeyDirectory | None, opening: Opening, threads: int) -> None:
        if terms.signed != (directory is not None):
            raise ConfigError("a key directory belongs to signed terms, and to no others")
        task = terms.task
        self._terms, self._opening, self._threads = terms, opening, threads
        self._directory = SteadyDirectory(MemoryDirectory({}) if directory is None else directory)  # or knows nobody
        self.state = ServerState(
            step="AdvertiseKeys",
            awaiting=set(task.clients),
            terms=terms,
            session=terms.digest(),
            total=task.ring.zeros(task.length),
        )
        super().__init__(server_table(signed=terms.signed), session=terms.digest(), progress=self.state)
        self._seen_keys: set[bytes] | None = None

    def to_bytes(self) -> bytes:
        """Everything that `MaskedSum.resume` needs.

        Save it after each `receive()` whose message must not be lost, and after `advance()` before its messages are
        sent. A client answers a step once. If a message was taken after the last save and lost with the process, it
        comes again only if the server's message is sent to that client again.

        Raises `StateError` when the sum is over.
        """
        with self._guard:
            return dump_state(self.state)

    def _taker(self, kind: MessageType) -> Callable[[ClientId, memoryview], None]:
        takers: dict[MessageType, Callable[[ClientId, memoryview], None]] = {
            AdvertiseKeys: self._take_advert,
            ShareKeys: self._take_shares,
            MaskedInput: self._take_input,
            ConsistencyCheck: self._take_signature,
            Unmask: self._take_unmask,
        }
        return takers[kind]

    def _check(self) -> None:
        state = self.state
        if state.step == "AdvertiseKeys":
            if len(state.adverts) < self._terms.min_roster:
                raise TooFewSurvivors(len(state.adverts), self._terms.min_roster)
        elif state.step == "ConsistencyCheck":
            self._able(self._members(set(state.signatures)))
        elif state.step == "Unmask":
            self._opener().check()
        else:
            members = self._members(set(state.boxes) if state.step == "ShareKeys" else state.uploaded)
            self._check_left(members)
            self._able(members)

    def _close(self) -> tuple[str, dict[ClientId, bytes]]:
        row = next(row for row in self._table if row.state == self.state.step)
        senders: dict[MessageType | None, Callable[[], dict[ClientId, bytes]]] = {
            Roster: self._send_roster,
            Boxes: self._send_boxes,
            Survivors: self._send_survivors,
            Signatures: self._send_signatures,
            None: self._open,
        }
        return row.then, senders[row.sends]()

    # --- AdvertiseKeys -> Roster -----------------------------------------------------------------------------------

    def _take_advert(self, sender: ClientId, body: memoryview) -> None:
        advert = AdvertiseKeys.from_body(body)
        public, signature = advert.keys, bytes(advert.signature)
        if len(signature) != (SIGNATURE_BYTES if self._terms.signed else 0):
            raise WireError(f"a signature of {len(signature)} bytes")
        if self._terms.signed:
            key = self._directory.verify_key(sender)
            key.verify(signature, keys.ADVERTISE, self.state.session, keys.id_bytes(sender), public, sender=sender)
        if self._seen_keys is None:
            self._seen_keys = {half for other in self.state.adverts.values() for half in _halves(other)}
        mine = set(_halves(public))
        if len(mine) < 2 or mine & self._seen_keys:
            raise RemoteProtocolError("one key stands for two", sender=sender)
        for half in mine:
            _PROBE.agree(half, sender=sender)
        self._seen_keys |= mine
        self.state.adverts[sender] = public + signature

    def _send_roster(self) -> dict[ClientId, bytes]:
        message = self._pack(Roster(self._entries))
        return dict.fromkeys(sorted(self.state.adverts), message)

    @cached_property
    def _entries(self) -> bytes:
        return write_roster(self.state.adverts)

    @cached_property
    def _roster(self) -> RosterView:
        return read_roster(self._terms, self._entries)

    @cached_property
    def _keys(self) -> keys.RosterKeys:
        return keys.RosterKeys(self.state.session, keys.roster_digest(self.state.session, self._entries))

    @cached_property
    def _graph(self) -> Graph:
        return Graph(len(self._roster), self._terms.degree, self._keys.ring())

    @cached_property
    def _clients(self) -> list[ClientId]:
        return self._roster.clients

    @cached_property
    def _places(self) -> dict[ClientId, int]:
        return {client: place for place, client in enumerate(self._clients)}

    def _members(self, clients: set[ClientId]) -> Bitmap:
        return Bitmap.of(len(self._clients), (self._places[client] for client in clients))

    # --- ShareKeys -> Boxes ----------------------------------------------------------------------------------------

    def _take_shares(self, sender: ClientId, body: memoryview) -> None:
        shared = ShareKeys.from_body(body)
        boxes = bytes(shared.boxes)
        pieces(boxes, BOX_BYTES, len(self._graph.neighbors(self._places[sender])), "boxes")
        self.state.hashes[sender], self.state.boxes[sender] = shared.seed_hash, boxes

    def _send_boxes(self) -> dict[ClientId, bytes]:
        sharers = self._members(set(self.state.boxes))
        inboxes: dict[int, list[bytes]] = {place: [] for place in sharers}
        for dealer in sharers:  # in increasing order, and so is every inbox
            boxes = self.state.boxes[self._clients[dealer]]
            for index, holder in enumerate(self._graph.neighbors(dealer)):
                if holder in inboxes:
                    inboxes[holder].append(boxes[index * BOX_BYTES : (index + 1) * BOX_BYTES])
        able = {place: self._clients[place] for place in self._able(sharers)}
        return {client: self._pack(Boxes(client, sharers, b"".join(inboxes[place]))) for place, client in able.items()}

    def _able(self, members: Bitmap) -> list[int]:
        """The members with enough holders among them; the others would refuse to go on, and rightly so."""
        threshold = self._terms.threshold
        if self._terms.degree == 0:
            able = list(members)
        else:
            inside = set(members)
            able = [place for place in members if len(inside.intersection(self._graph.holders(place))) >= threshold]
        if len(able) < threshold:
            raise TooFewSurvivors(len(able), threshold)
        return able

    @property
    def members(self) -> MemberCount | None:
        """The members of the noise in the sum's roster and among the vectors that came; None without such noise."""
        noise = self._terms.noise
        if noise is None or self.state.step == "AdvertiseKeys":
            return None
        places = member_places(len(self._roster), noise.members, self._keys.members())
        return MemberCount(len(places), (places.mask & self._survivors.mask).bit_count())

    def _check_left(self, members: Bitmap) -> None:
        if len(members) < self._terms.min_survivors_to_open:
            raise TooFewSurvivors(len(members), self._terms.min_survivors_to_open)
        noise = self._terms.noise
        if noise is not None:
            places = member_places(len(self._roster), noise.members, self._keys.members())
            present = (places.mask & members.mask).bit_count()
            if present < noise.min_members_to_open:
                raise TooFewSurvivors(present, noise.min_members_to_open)
        arc = self._graph.min_arc(members)
        if arc < self._terms.arc:
            raise TooFewSurvivors(arc, self._terms.arc)

    # --- MaskedInput -> Survivors ----------------------------------------------------------------------------------

    def _take_input(self, sender: ClientId, body: memoryview) -> None:
        task = self._terms.task
        upload = MaskedInput.from_body(body)
        if self._keys.input_check(sender, upload.values) != upload.check:
            raise WireError("the upload was damaged")
        words = task.ring.unpack(upload.values, task.length, dense=self._terms.packed)
        task.ring.add(self.state.total, words)
        self.state.uploaded.add(sender)

    @property
    def _survivors(self) -> Bitmap:
        return self._members(self.state.uploaded)

    @cached_property
    def _closed_survivors(self) -> Bitmap:
        """The list that the clients were sent; only used from the consistency step on."""
        return self._survivors

    def _send_survivors(self) -> dict[ClientId, bytes]:
        message = self._pack(Survivors(self._survivors))
        return {self._clients[place]: message for place in self._able(self._survivors)}

    # --- ConsistencyCheck -> Signatures ----------------------------------------------------------------------------

    def _take_signature(self, sender: ClientId, body: memoryview) -> None:
        signature = ConsistencyCheck.from_body(body).signature
        parts = self._keys.said_by(sender, self._closed_survivors)
        self._directory.verify_key(sender).verify(signature, keys.SURVIVORS, *parts, sender=sender)
        self.state.signatures[sender] = signature

    def _send_signatures(self) -> dict[ClientId, bytes]:
        signed = self._members(set(self.state.signatures))
        messages = {}
        for place in self._able(signed):
            client, neighbors = self._clients[place], self._graph.neighbors(place)
            near = [index for index, other in enumerate(neighbors) if other in signed]
            joined = b"".join(self.state.signatures[self._clients[neighbors[index]]] for index in near)
            messages[client] = self._pack(Signatures(client, Bitmap.of(len(neighbors), near), joined))
        return messages

    # --- Unmask -> the sum -----------------------------------------------------------------------------------------

    def _take_unmask(self, sender: ClientId, body: memoryview) -> None:
        message = Unmask.from_body(body)
        holders = self._graph.holders(self._places[sender])
        check_unmask(message, sum(self._clients[place] in self.state.boxes for place in holders))
        self.state.unmasks[sender] = write_fields(message)

    def _opener(self) -> Opener:
        return Opener(self._terms, self.state, self._graph, self._clients, keys=self._keys, threads=self._threads)

    def _open(self) -> dict[ClientId, bytes]:
        state, task, opener = self.state, self._terms.task, self._opener()
        try:
            masks = opener.masks()
        except RemoteProtocolError:
            if not state.awaiting:  # else a message that is still to come may mend it
                self._settle(opener.disputes)
            raise
        self._settle(opener.disputes)
        state.awaiting.clear()  # from here on the total is no longer what it was
        opener.unmask(*masks)
        total, survivors = task.ring.center(task.ring.mask(state.total)), frozenset(state.uploaded)
        state.total = task.ring.zeros(0)
        checked, members = checked_total(task, total, len(survivors)), self.members
        if self._terms.noise is not None and members is not None:
            checked = self._terms.noise.fill(checked, *members)
        opened = self._opening(checked, survivors)
        digest = self._keys.transcript(self._closed_survivors)
        caveats = (*(() if self._terms.signed else (SEMI_HONEST_CAVEAT,)), *few_vectors(len(survivors)))
        self._result = SumResult(opened, survivors, digest, dict(state.blamed), state.undecided, caveats)
        return {}

    def _settle(self, disputes: Disputes) -> None:
        """Blame those that are guilty, next to those whose messages were refused; keep what is undecided."""
        blamed = self.state.blamed
        for client, reason in disputes.guilty().items():
            blamed[client] = f"{blamed[client]}; {reason}" if client in blamed else reason
        self.state.undecided = disputes.undecided()

    def _pack(self, message: Message) -> bytes:
        return message.to_bytes(sender=SERVER, task=self.state.session)

    def _max_length(self, kind: MessageType) -> int:
        """A bound on an honest message of this kind; nothing larger is even parsed."""
        task = self._terms.task
        if kind is MaskedInput:
            return HEADER_BYTES + TAG_BYTES + 8 + task.ring.packed_bytes(task.length, dense=self._terms.packed)
        return HEADER_BYTES + 128 + BOX_BYTES * len(task.clients)


def _halves(advert: bytes) -> tuple[bytes, bytes]:
    return advert[:KEY_BYTES], advert[KEY_BYTES:KEYS_BYTES]
