"""The server, up to the opening of the sum: sections 8 and 9 of SPEC.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from masked_disputes import Disputes
from masked_messages import (
    ADDRESSED,
    KINDS,
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
from masked_primitives import PRIME, agree, combine, digest, public, verify
from masked_roster import View
from masked_terms import Terms


@dataclass
class Server:
    """`take` one message at a time; `close` a step: the messages of the next one, or finally `result`."""

    terms: Terms
    directory: dict[int, bytes]
    step: str = "AdvertiseKeys"
    blamed: set[int] = field(default_factory=set)
    result: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.session, self.total = self.terms.session, [0] * self.terms.length
        self.adverts: dict[int, bytes] = {}
        self.shared: dict[int, tuple[bytes, list[bytes]]] = {}
        self.uploaded: list[int] = []
        self.signed: dict[int, bytes] = {}
        self.unmasks: dict[int, dict[int, int]] = {}
        self.heard: set[int] = set()  # in this step
        self.disputes = Disputes(self.terms)
        self.order = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"]
        if not self.terms.signed:
            self.order.remove("ConsistencyCheck")

    def take(self, sender: int, data: bytes) -> None:
        kind, steps = read_kind(data, sender, self.session), self.order
        if kind in steps[: steps.index(self.step)] or sender in self.heard:
            return  # late, or once more
        require(kind == self.step, "not due", Unusable)
        try:
            body = Body(data, self.step)
            getattr(self, "take_" + self.step)(sender, body)
        except Remote:
            self.blamed.add(sender)
            raise
        self.heard.add(sender)

    def take_AdvertiseKeys(self, sender: int, body: Body) -> None:  # noqa: N802 - the message's name
        keys, signature = body.fixed(64), body.blob()
        body.end()
        require(len(signature) == (64 if self.terms.signed else 0), "no signature of 64 bytes")
        if self.terms.signed:
            verify(self.directory[sender], signature, "advertise", self.session, u32(sender), keys)
        known = {half for advert in self.adverts.values() for half in (advert[:32], advert[32:64])}
        require(keys[:32] != keys[32:] and not {keys[:32], keys[32:]} & known, "one key stands for two")
        agree(b"\x01" * 32, keys[:32]), agree(b"\x01" * 32, keys[32:])
        self.adverts[sender] = keys + signature

    def take_ShareKeys(self, sender: int, body: Body) -> None:  # noqa: N802
        seed_hash, boxes = body.fixed(32), body.blob()
        body.end()
        count = len(self.view.neighbors(self.view.ids.index(sender)))
        self.shared[self.view.ids.index(sender)] = seed_hash, pieces(boxes, 94, count)

    def take_MaskedInput(self, sender: int, body: Body) -> None:  # noqa: N802
        check, values, place = body.fixed(16), body.blob(), self.view.ids.index(sender)
        body.end()
        require(check == self.view.input_check(place, values), "damaged")
        self.total = [a + b for a, b in zip(self.total, self.terms.unpack(values), strict=True)]
        self.uploaded.append(place)

    def take_ConsistencyCheck(self, sender: int, body: Body) -> None:  # noqa: N802
        signature, place = body.fixed(64), self.view.ids.index(sender)
        body.end()
        verify(self.directory[sender], signature, "survivors", *self.view.statement(place, self.uploaded))
        self.signed[place] = signature

    def take_Unmask(self, sender: int, body: Body) -> None:  # noqa: N802
        dealers = self.dealers(self.view.ids.index(sender))
        given = body.bitmap(len(dealers))
        shares = pieces(body.blob(), 33, len(given))
        body.end()
        require(all(int.from_bytes(share, "little") < PRIME for share in shares), "a share beyond the prime")
        found = {dealers[i]: int.from_bytes(share, "little") for i, share in zip(given, shares, strict=True)}
        self.unmasks[self.view.ids.index(sender)] = found

    def dealers(self, holder: int) -> list[int]:
        return [place for place in self.view.holders(holder) if place in self.shared]

    def able(self, members: Any) -> list[int]:
        """Those with enough holders among the members."""
        if self.terms.degree == 0:
            able = sorted(members)
        else:
            near = {place: sum(other in members for other in self.view.holders(place)) for place in sorted(members)}
            able = [place for place, count in near.items() if count >= self.terms.threshold]
        require(len(able) >= self.terms.threshold, "too few can go on", TooFew)
        return able

    def check_left(self, members: Any) -> None:
        least = max(self.terms.min_survivors, self.terms.min_vectors, self.terms.threshold)
        require(len(members) >= least, "too few are left", TooFew)
        self.view.check_members(members)
        require(self.view.min_arc(list(members)) >= self.terms.arc, "an arc too empty", TooFew)

    def down(self, kind: str, bodies: dict[int, bytes]) -> dict[int, bytes]:
        clients = {self.view.ids[place]: body for place, body in bodies.items()}
        if KINDS[kind] in ADDRESSED:
            clients = {client: u32(client) + body for client, body in clients.items()}
        return {client: message(kind, SERVER, self.session, body) for client, body in clients.items()}

    def close(self) -> dict[int, bytes]:
        self.heard = set()
        if self.step == "AdvertiseKeys":
            require(len(self.adverts) >= self.terms.min_roster, "too few advertisements", TooFew)
            entries = b"".join(u32(client) + self.adverts[client] for client in sorted(self.adverts))
            self.view, self.step = View(self.terms, entries), "ShareKeys"
            return self.down("Roster", dict.fromkeys(range(self.view.size), blob(entries)))
        if self.step == "ShareKeys":
            self.step = "MaskedInput"
            self.check_left(self.shared)
            sharers, bodies = bitmap(self.view.size, self.shared), {}
            for place in self.able(self.shared):
                inbox = b""
                for dealer in self.dealers(place):
                    if dealer != place:
                        inbox += self.shared[dealer][1][self.view.neighbors(dealer).index(place)]
                bodies[place] = sharers + blob(inbox)
            return self.down("Boxes", bodies)
        if self.step == "MaskedInput":
            self.step = "ConsistencyCheck" if self.terms.signed else "Unmask"
            self.uploaded.sort()
            self.check_left(self.uploaded)
            survivors = bitmap(self.view.size, self.uploaded)
            return self.down("Survivors", dict.fromkeys(self.able(self.uploaded), survivors))
        if self.step == "ConsistencyCheck":
            self.step, bodies = "Unmask", {}
            for place in self.able(self.signed):
                neighbors = self.view.neighbors(place)
                near = [i for i, other in enumerate(neighbors) if other in self.signed]
                joined = b"".join(self.signed[neighbors[i]] for i in near)
                bodies[place] = bitmap(len(neighbors), near) + blob(joined)
            return self.down("Signatures", bodies)
        self.open()
        return {}

    def open(self) -> None:
        """Section 9."""
        view, terms = self.view, self.terms
        needed: dict[int, Any] = {}
        for dealer in range(view.size):
            if dealer in self.uploaded:
                expected = self.shared[dealer][0]
                needed[dealer] = lambda s, d=dealer, e=expected: view.seed_hash(d, s) == e
            elif dealer in self.shared and any(other in self.uploaded for other in view.neighbors(dealer)):
                needed[dealer] = lambda s, d=dealer: public(s) == view.keys[d][:32]
        secrets = self.secrets(needed)
        for dealer, secret in secrets.items():
            if dealer in self.uploaded:
                masks = [(-1, terms.mask(view.self_mask(dealer, secret)))]
            else:
                near = [other for other in view.neighbors(dealer) if other in self.uploaded]
                # The client with the lower identity had added it; that survivor's mask is still in the total.
                masks = [
                    (-1 if view.ids[other] < view.ids[dealer] else 1, terms.mask(view.pairwise(secret, dealer, other)))
                    for other in near
                ]
            for sign_, mask in masks:
                self.total = [a + sign_ * b for a, b in zip(self.total, mask, strict=True)]
        half, modulus = 1 << (terms.bits - 1), 1 << terms.bits
        total = [(value + half) % modulus - half for value in self.total]
        limit = len(self.uploaded) * terms.bound
        require(all(abs(value) <= limit for value in total), "an entry beyond the clients' bounds")
        self.result = {
            "total": total,
            "survivors": [view.ids[place] for place in self.uploaded],
            "transcript": digest("transcript", view.session, view.digest, bitmap(view.size, self.uploaded)).hex(),
            **self.verdict(),
        }

    def secrets(self, needed: dict[int, Any]) -> dict[int, bytes]:
        """Every secret that is needed, by place; what is in dispute about their shares is kept."""
        ids, threshold, disputes = self.view.ids, self.terms.threshold, self.disputes
        held: dict[int, dict[int, int]] = {dealer: {} for dealer in self.shared}
        spoke = dict.fromkeys(self.shared, 0)
        for holder, found in self.unmasks.items():
            for dealer in self.dealers(holder):
                spoke[dealer] += 1
                if dealer in found:
                    held[dealer][ids[holder]] = found[dealer]
                else:
                    disputes.disputed.add((ids[dealer], ids[holder], "missing"))
        for dealer in needed:
            require(spoke[dealer] >= threshold, "too few shares", TooFew)
        opened: dict[int, bytes] = {}
        for dealer, accept in needed.items():
            pair = combine(held[dealer], threshold, accept)
            if pair is not None:
                opened[dealer] = pair[0]
                disputes.wrong(ids[dealer], pair[1], len(held[dealer]))
        unopened = [dealer for dealer in needed if dealer not in opened]
        for dealer in unopened:
            if len(held[dealer]) >= threshold:
                disputes.unopened(ids[dealer], held[dealer])
        self.blamed |= disputes.guilty()
        if unopened:
            error = Remote("a dealer's secret cannot be found")
            error.sender = next((ids[dealer] for dealer in unopened if disputes.bad_dealer(ids[dealer])), None)
            raise error
        return opened

    def verdict(self) -> dict[str, Any]:
        return {"blamed": sorted(self.blamed), "undecided": self.disputes.undecided()}
