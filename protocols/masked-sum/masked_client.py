"""The client, with the noise that it adds: sections 7 and 16.2 of SPEC.md."""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from masked_messages import (
    SERVER,
    Body,
    Remote,
    TooFew,
    Unusable,
    bitmap,
    blob,
    message,
    pieces,
    read_kind,
    require,
    u32,
)
from masked_noise import reader, skellam
from masked_primitives import PRIME, agree, public, sign, split, verify
from masked_roster import View
from masked_terms import Terms


class Client:
    """`answer` takes a message of the server and gives the client's; an error ends it, except over unusable bytes."""

    def __init__(
        self, terms: Terms, me: int, vector: list[int], *, seed: bytes, directory: dict[int, bytes], entropy: Any
    ) -> None:
        self.terms, self.me, self.session = terms, me, terms.session
        self.words = [value % (1 << terms.bits) for value in vector]
        self.signing, self.directory, self.entropy = seed, directory, entropy
        self.mask_secret, self.box_secret, self.seed = entropy(32), entropy(32), entropy(32)
        self.public = public(self.mask_secret) + public(self.box_secret)
        self.steps = {"Roster": self.roster, "Boxes": self.boxes, "Survivors": self.survivors_}
        if terms.signed:
            self.steps["Signatures"] = self.signatures
        self.noise = [0] * terms.length
        self.answered: list[str] = []
        self.last = b"", b""  # the last message that was answered, and the answer

    def send(self, kind: str, body: bytes) -> bytes:
        return message(kind, self.me, self.session, body)

    def start(self) -> bytes:
        signature = b""
        if self.terms.signed:
            signature = sign(self.signing, "advertise", self.session, u32(self.me), self.public)
        return self.send("AdvertiseKeys", self.public + blob(signature))

    def answer(self, data: bytes) -> bytes | None:
        kind = read_kind(data, SERVER, self.session, self.me)
        if data == self.last[0]:
            return self.last[1]
        if kind in self.answered:
            require(kind != self.answered[-1], "two different messages in one step", Remote)
            return None
        due = [name for name in self.steps if name not in self.answered][:1]
        require([kind] == due, "not due", Unusable)
        sent = self.steps[kind](data)
        self.answered.append(kind)
        self.last = data, sent
        return sent

    def roster(self, data: bytes) -> bytes:
        body = Body(data, "Roster")
        entries = body.blob()
        body.end()
        view = View(self.terms, entries)
        require(self.me in view.ids, "without me", Unusable)
        require(view.keys[view.ids.index(self.me)] == self.public, "not my own keys")
        self.view = view
        self.place = view.ids.index(self.me)
        self.peers = view.holders(self.place)
        self.masks, self.shared = {}, {}
        members = view.members()
        others = [place for place in members if place != self.place] if self.place in members else []
        for place in dict.fromkeys([*self.peers, *others]):
            client, keys = view.ids[place], view.keys[place]
            if self.terms.signed:
                require(client in self.directory, "not in the directory")
                parts = self.session, u32(client), keys
                verify(self.directory[client], view.signatures[place], "advertise", *parts)
            if place != self.place:
                self.shared[place] = agree(self.box_secret, keys[32:])
            if place != self.place and place in self.peers:
                self.masks[place] = view.pairwise(self.mask_secret, self.place, place)
        ids = [view.ids[place] for place in self.peers]
        drawn = 48 * (self.terms.threshold - 1)
        key_shares = split(self.mask_secret, ids, self.terms.threshold, self.entropy(drawn))
        seed_shares = split(self.seed, ids, self.terms.threshold, self.entropy(drawn))
        self.held, boxes = {}, b""
        for place, pair in zip(self.peers, zip(key_shares, seed_shares, strict=True), strict=True):
            content = b"".join(share.to_bytes(33, "little") for share in pair)
            if place == self.place:
                self.held[place] = content
            else:
                key, nonce = view.box_key(self.shared[place], self.place, place), self.entropy(12)
                boxes += nonce + AESGCM(key).encrypt(nonce, content, view.box_context(self.place, place))
        if self.place in members:
            self.add_noise(others)
        return self.send("ShareKeys", view.seed_hash(self.place, self.seed) + blob(boxes))

    def add_noise(self, others: list[int]) -> None:
        """Section 16.2, with this member's own part after all else that it samples."""
        noise, view, length = self.terms.noise, self.view, self.terms.length
        own, pair = noise.variances(len(others) + 1)
        self.noise = skellam(own, length, self.entropy)
        for place in others:
            shared = skellam(pair, length, reader(view.noise_key(self.shared[place], self.place, place)))
            sign_ = 1 if self.me < view.ids[place] else -1
            self.noise = [a + sign_ * b for a, b in zip(self.noise, shared, strict=True)]
        require(all(abs(value) <= noise.reach for value in self.noise), "noise beyond its bound", ValueError)
        self.words = [(a + b) % (1 << self.terms.bits) for a, b in zip(self.words, self.noise, strict=True)]

    def boxes(self, data: bytes) -> bytes:
        view, body = self.view, Body(data, "Boxes")
        self.sharers = body.bitmap(view.size)
        require(self.place in self.sharers, "I am not among the sharers")
        self.peers = [place for place in self.peers if place in self.sharers]
        others = [place for place in self.peers if place != self.place]
        for place, box in zip(others, pieces(body.blob(), 94, len(others)), strict=True):
            key = view.box_key(self.shared[place], place, self.place)
            try:
                content = AESGCM(key).decrypt(box[:12], box[12:], view.box_context(place, self.place))
            except InvalidTag:
                continue
            if all(int.from_bytes(share, "little") < PRIME for share in (content[:33], content[33:])):
                self.held[place] = content
        body.end()
        require(len(self.held) >= self.terms.threshold, "too few shares", TooFew)
        masks = [(1, self.terms.mask(view.self_mask(self.place, self.seed)))]
        for place in others:
            sign_ = 1 if self.me < view.ids[place] else -1
            masks.append((sign_, self.terms.mask(self.masks[place])))
        total = [sum(s * mask[i] for s, mask in masks) for i in range(self.terms.length)]
        values = self.terms.pack([(a + b) % (1 << self.terms.bits) for a, b in zip(self.words, total, strict=True)])
        return self.send("MaskedInput", view.input_check(self.place, values) + blob(values))

    def survivors_(self, data: bytes) -> bytes:
        view, body = self.view, Body(data, "Survivors")
        survivors = body.bitmap(view.size)
        body.end()
        require(self.place in survivors, "I am not among the survivors", Unusable)
        self.survivors = survivors
        require(set(self.survivors) <= set(self.sharers), "a survivor that never shared")
        require(
            len(self.survivors) >= max(self.terms.min_survivors, self.terms.min_vectors), "too few survivors", TooFew
        )
        view.check_members(self.survivors)
        near = sum(place in self.survivors for place in self.peers)
        require(near >= self.terms.threshold, "too few neighbors survive", TooFew)
        require(view.min_arc(self.survivors) >= self.terms.arc, "an arc too empty", TooFew)
        if not self.terms.signed:
            return self.reveal()
        said = view.statement(self.place, self.survivors)
        return self.send("ConsistencyCheck", sign(self.signing, "survivors", *said))

    def signatures(self, data: bytes) -> bytes:
        view, body = self.view, Body(data, "Signatures")
        neighbors = view.neighbors(self.place)
        signers = [neighbors[i] for i in body.bitmap(len(neighbors))]
        given = pieces(body.blob(), 64, len(signers))
        body.end()
        for place, signature in zip(signers, given, strict=True):
            require(place in self.survivors, "a signer that did not survive")
            verify(self.directory[view.ids[place]], signature, "survivors", *view.statement(place, self.survivors))
        own = self.terms.degree == 0
        require(len(signers) + own >= self.terms.threshold, "too few signatures", TooFew)
        return self.reveal()

    def reveal(self) -> bytes:
        given = [i for i, place in enumerate(self.peers) if place in self.held]
        shares = b""
        for i in given:
            place = self.peers[i]
            shares += self.held[place][33:] if place in self.survivors else self.held[place][:33]
        return self.send("Unmask", bitmap(len(self.peers), given) + blob(shares))
