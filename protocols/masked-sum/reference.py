"""The masked sum of SPEC.md, slow and readable. Section numbers are those of that page.

Cryptographic primitives come from the `cryptography` package; everything between them is written out here. It never
imports privfl, and privfl never imports it. scenarios.py runs it to write vectors/*.json.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import hmac
import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

SERVER = 2**32 - 1
PRIME = 2**256 + 297
CONTEXT = Context(prec=90)
KINDS = {
    "AdvertiseKeys": 0x0201,
    "Roster": 0x0202,
    "ShareKeys": 0x0203,
    "Boxes": 0x0204,
    "MaskedInput": 0x0205,
    "Survivors": 0x0206,
    "ConsistencyCheck": 0x0207,
    "Signatures": 0x0208,
    "Unmask": 0x0209,
}
ADDRESSED = {KINDS["Boxes"], KINDS["Signatures"]}  # their bodies begin with the receiver


class Remote(Exception):
    """RemoteProtocolError: a peer broke the rules; at the close of a step, `sender` where it is certain which."""

    sender: int | None = None


class TooFew(Exception):
    """TooFewSurvivors."""


class Unusable(Exception):
    """WireError: the bytes are cut, misrouted or not due, and nothing has changed."""


def require(holds: bool, what: str, error: type[Exception] = Remote) -> None:
    if not holds:
        raise error(what)


# --- 4: bytes ---------------------------------------------------------------------------------------------------


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def blob(data: bytes) -> bytes:
    return u64(len(data)) + data


def bitmap(count: int, members: Any) -> bytes:
    number = sum(1 << i for i in members)
    return u32(count) + number.to_bytes(-(-count // 8), "little")


def message(kind: str, sender: int, session: bytes, body: bytes) -> bytes:
    return b"pvfl" + b"\x01" + struct.pack("<HI", KINDS[kind], sender) + session + u32(len(body)) + body


def read_kind(data: bytes, sender: int, session: bytes, receiver: int = SERVER) -> str:
    """The kind of a whole message from `sender` to `receiver` in this session."""
    require(len(data) >= 47, "shorter than a header", Unusable)
    number = struct.unpack_from("<H", data, 5)[0]
    kind = next((name for name, known in KINDS.items() if known == number), "")
    require(kind != "", "an unknown kind", Unusable)
    header = message(kind, sender, session, b"")[:43]
    require(data[:43] == header, "another sender, session or version", Unusable)
    require(data[43:47] == u32(len(data) - 47), "another length", Unusable)
    require(number not in ADDRESSED or data[47:51] == u32(receiver), "for another client", Unusable)
    return kind


class Body:
    """Takes the fields of a message one by one; what is left at the end, or missing, is an error."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.rest = data[51 if KINDS[kind] in ADDRESSED else 47 :]

    def fixed(self, size: int) -> bytes:
        require(len(self.rest) >= size, "truncated")
        part, self.rest = self.rest[:size], self.rest[size:]
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.fixed(size), "little")

    def blob(self) -> bytes:
        return self.fixed(self.number(8))

    def bitmap(self, count: int) -> list[int]:
        require(self.number(4) == count, "a bitmap over another number of members")
        bits = self.number(-(-count // 8))
        require(bits >> count == 0, "padding bits")
        return [i for i in range(count) if bits >> i & 1]

    def end(self) -> None:
        require(not self.rest, "bytes left over")


def pieces(data: bytes, size: int, count: int) -> list[bytes]:
    require(len(data) == size * count, "not that many pieces")
    return [data[i : i + size] for i in range(0, len(data), size)]


# --- 5: cryptography --------------------------------------------------------------------------------------------


def framed(*parts: bytes) -> bytes:
    return b"".join(u32(len(part)) + part for part in parts)


def label(text: str) -> bytes:
    return b"privfl/1 masked-sum " + text.encode()


def derive(secret: bytes, text: str, *context: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt; one block gives the 32 bytes."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, framed(label(text), *context) + b"\x01", hashlib.sha256).digest()


def digest(text: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(label(text), *parts)).digest()


def stream(key: bytes, size: int) -> bytes:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(size))


def words_of(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, other: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise Remote("a point of low order") from error


def sign(seed: bytes, text: str, *parts: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(framed(label(text), *parts))


def verify(key: bytes, signature: bytes, text: str, *parts: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, framed(label(text), *parts))
    except InvalidSignature as error:
        raise Remote("a signature does not verify") from error


def split(secret: bytes, clients: list[int], threshold: int, coins: bytes) -> list[int]:
    """Shamir 1979: the values of one polynomial at identity + 1."""
    tail = [int.from_bytes(coins[48 * i : 48 * (i + 1)], "little") % PRIME for i in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "little"), *tail]
    return [sum(c * pow(client + 1, i, PRIME) for i, c in enumerate(coefficients)) % PRIME for client in clients]


def value_at(x: int, points: list[tuple[int, int]]) -> int:
    """Lagrange's formula."""
    total = 0
    for xi, yi in points:
        term = yi
        for xj, _ in points:
            if xj != xi:
                term = term * (x - xj) * pow(xi - xj, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def combine(shares: dict[int, int], threshold: int, accept: Any) -> tuple[bytes, set[int]] | None:
    """The accepted secret on whose polynomial most shares lie, and the holders of the others; None if there is none."""
    best: tuple[bytes, set[int]] | None = None
    for secret, wrong in polynomials(shares, threshold):
        if secret < 2**256 and accept(secret.to_bytes(32, "little")) and (best is None or len(wrong) < len(best[1])):
            best = secret.to_bytes(32, "little"), wrong
            if not wrong:
                break
    return best


def polynomials(shares: dict[int, int], threshold: int) -> Iterator[tuple[int, set[int]]]:
    """For each `threshold` of the shares: the secret, and the holders whose shares are off the polynomial."""
    for subset in itertools.combinations(sorted(shares), threshold):
        points = [(client + 1, shares[client]) for client in subset]
        yield (
            value_at(0, points),
            {client for client in shares if value_at(client + 1, points) != shares[client]},
        )


# --- 9: disputes --------------------------------------------------------------------------------------------------


@dataclass
class Disputes:
    """Pairs (dealer, holder, kind); of the disputed ones one of the two is corrupt, the noted ones prove nothing."""

    terms: Terms
    disputed: set[tuple[int, int, str]] = field(default_factory=set)
    noted: set[tuple[int, int, str]] = field(default_factory=set)

    @property
    def max_corrupt(self) -> int:
        t, m = self.terms.threshold, self.terms.degree or len(self.terms.clients)
        return 2 * t - m - 1 if self.terms.signed else t - 1

    def wrong(self, dealer: int, holders: set[int], shares: int) -> None:
        agreeing = shares - len(holders) - self.terms.threshold + 2
        clear = agreeing > len(holders) and 2 * agreeing > self.max_corrupt
        (self.disputed if clear else self.noted).update((dealer, holder, "wrong") for holder in holders)

    def unopened(self, dealer: int, shares: dict[int, int]) -> None:
        off = min((wrong for _, wrong in polynomials(shares, self.terms.threshold)), key=len, default=set(shares))
        clear = len(shares) - len(off) >= self.terms.threshold + self.max_corrupt
        for holder in shares:
            (self.disputed if clear and holder not in off else self.noted).add((dealer, holder, "unopened"))

    def bad_dealer(self, dealer: int) -> bool:
        holders = {holder for d, holder, kind in self.disputed if d == dealer and kind != "wrong"}
        return len(holders) > self.max_corrupt

    def guilty(self) -> set[int]:
        others: dict[int, set[int]] = {}
        for dealer, holder, _ in self.disputed:
            others.setdefault(dealer, set()).add(holder)
            others.setdefault(holder, set()).add(dealer)
        return {client for client, met in others.items() if len(met) > self.max_corrupt}

    def undecided(self) -> list[tuple[int, int, str]]:
        guilty = self.guilty()
        return sorted(pair for pair in self.disputed | self.noted if not guilty & set(pair[:2]))


# --- 16: noise that needs the roster --------------------------------------------------------------------------------


@dataclass
class Noise:
    members: int
    spare: int
    min_members_to_open: int
    variance: float
    reach: int

    def form(self) -> bytes:
        counts = u32(self.spare) + u32(self.min_members_to_open) + u32(self.members)
        return counts + struct.pack("<d", self.variance) + u64(self.reach)

    def variances(self, members: int) -> tuple[float, float]:
        own = self.variance / (members - self.spare)
        return own, own / (self.min_members_to_open - self.spare)


def skellam(variance: float, length: int, draw: Any) -> list[int]:
    """Section 16.3: the least k for which a real uniform number is below the distribution function at k."""
    below = distribution(variance)
    reach = len(below) // 2
    return [_invert(word, below, draw) - reach for word in words_of(draw(8 * length), 8)]


@functools.cache
def distribution(variance: float) -> list[Decimal]:
    """P(at most k) of Skellam(variance), from one end of its reach to the other."""
    require(variance < 4096, "this reference samples small variances only", ValueError)
    c = CONTEXT
    half, reach = Decimal(variance) / 2, math.ceil(32 * math.sqrt(variance)) + 64
    chances, first = [], c.exp(-Decimal(variance))
    for k in range(reach + 1):  # P(k) = e^-m times the sum over j of (m/2)^(2j + k) / (j! (j + k)!)
        term, total, j = first, Decimal(0), 0
        while term > Decimal("1e-80"):
            total, j = c.add(total, term), j + 1
            term = c.divide(c.multiply(term, c.multiply(half, half)), Decimal(j * (j + k)))
        chances.append(total)
        first = c.divide(c.multiply(first, half), Decimal(k + 1))
    return list(itertools.accumulate((chances[abs(k)] for k in range(-reach, reach + 1)), c.add))


def _invert(word: int, below: list[Decimal], draw: Any) -> int:
    known = 64
    while True:
        unit = Decimal(1 << known)
        low, high = CONTEXT.divide(Decimal(word), unit), CONTEXT.divide(Decimal(word + 1), unit)
        index = bisect.bisect_right(below, low)
        if index == bisect.bisect_left(below, high):
            return index
        word, known = word << 64 | int.from_bytes(draw(8), "little"), known + 64


def reader(key: bytes) -> Any:
    encryptor = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))


# --- 3 and 6: terms, ring words, graph --------------------------------------------------------------------------


@dataclass
class Terms:
    context: bytes
    clients: list[int]
    min_survivors: int
    length: int
    bits: int
    bound: int
    signed: bool
    packed: bool
    degree: int
    threshold: int
    arc: int
    min_roster: int
    min_vectors: int
    noise: Noise | None = None

    @property
    def session(self) -> bytes:
        task = blob(self.context) + u32(len(self.clients)) + b"".join(map(u32, self.clients))
        task += u64(self.min_survivors) + u64(self.length) + struct.pack("<H", self.bits) + u64(self.bound)
        task = hashlib.sha256(b"privfl/1 sum-task" + task).digest()
        form = task + bytes([self.signed, self.packed]) + u32(self.degree) + u32(self.threshold) + u32(self.arc)
        form += u32(self.min_roster) + u32(self.min_vectors) + (self.noise.form() if self.noise else b"")
        return hashlib.sha256(b"privfl/1 masked-sum terms" + form).digest()

    @property
    def width(self) -> int:
        return 2 if self.bits <= 16 else 4 if self.bits <= 32 else 8

    def mask(self, key: bytes) -> list[int]:
        return words_of(stream(key, self.length * self.width), self.width)

    def pack(self, words: list[int]) -> bytes:
        step = self.bits if self.packed else 8 * self.width
        number = sum(word << step * i for i, word in enumerate(words))
        return number.to_bytes(-(-len(words) * step // 8), "little")

    def unpack(self, data: bytes) -> list[int]:
        step = self.bits if self.packed else 8 * self.width
        require(len(data) == -(-self.length * step // 8), "another length of vector")
        number = int.from_bytes(data, "little")
        require(number >> step * self.length == 0, "padding bits")
        words = [number >> step * i & (1 << step) - 1 for i in range(self.length)]
        require(all(word < 1 << self.bits for word in words), "a word is not reduced")
        return words


class View:
    """The consequences of a roster: places, the graph, and every key that is bound to it."""

    def __init__(self, terms: Terms, entries: bytes) -> None:
        size = 132 if terms.signed else 68
        require(len(entries) % size == 0, "not whole records")
        records = [entries[i : i + size] for i in range(0, len(entries), size)]
        self.terms, self.ids = terms, [int.from_bytes(record[:4], "little") for record in records]
        require(all(a < b for a, b in itertools.pairwise(self.ids)), "not strictly increasing")
        require(set(self.ids) <= set(terms.clients), "a stranger")
        require(len(self.ids) >= terms.min_roster, "a roster too small")
        self.keys = [record[4:68] for record in records]
        self.signatures = [record[68:] for record in records]
        halves = [half for keys in self.keys for half in (keys[:32], keys[32:])]
        require(len(set(halves)) == len(halves), "one key stands for two")
        self.session, self.size = terms.session, len(records)
        self.digest = digest("roster", self.session, entries)
        words = words_of(stream(derive(self.digest, "ring", self.session), 8 * self.size), 8)
        self.order = sorted(range(self.size), key=lambda place: (words[place], place))

    def members(self) -> list[int]:
        noise = self.terms.noise
        if noise is None or self.size <= noise.members:
            return list(range(self.size)) if noise else []
        words = words_of(stream(derive(self.digest, "members", self.session), 8 * self.size), 8)
        return sorted(sorted(range(self.size), key=lambda place: (words[place], place))[: noise.members])

    def noise_key(self, shared: bytes, own: int, other: int) -> bytes:
        low, high = sorted((self.ids[own], self.ids[other]))
        return derive(shared, "mesh noise", self.session, self.digest, u32(low), u32(high))

    def check_members(self, places: Any) -> None:
        noise = self.terms.noise
        present = len(set(self.members()) & set(places))
        require(noise is None or present >= noise.min_members_to_open, "too few members are left", TooFew)

    def holders(self, place: int) -> list[int]:
        degree = self.terms.degree
        if degree == 0:
            return list(range(self.size))
        rank = self.order.index(place)
        steps = [s for s in range(-degree // 2, degree // 2 + 1) if s]
        return sorted(self.order[(rank + s) % self.size] for s in steps)

    def neighbors(self, place: int) -> list[int]:
        return [other for other in self.holders(place) if other != place]

    def min_arc(self, members: list[int]) -> int:
        half = self.terms.degree // 2
        if not half:
            return len(members)
        ring = [place in members for place in self.order] * 2
        return min(sum(ring[i : i + half]) for i in range(self.size))

    def pairwise(self, secret: bytes, own: int, other: int) -> bytes:
        """`own` and `other` are places; `secret` is the mask key of `own`."""
        low, high = sorted((self.ids[own], self.ids[other]))
        shared = agree(secret, self.keys[other][:32])
        return derive(shared, "pairwise mask", self.session, self.digest, u32(low), u32(high))

    def self_mask(self, place: int, seed: bytes) -> bytes:
        return derive(seed, "self mask", self.session, self.digest, u32(self.ids[place]))

    def seed_hash(self, place: int, seed: bytes) -> bytes:
        return digest("seed hash", self.session, self.digest, u32(self.ids[place]), seed)

    def box_key(self, shared: bytes, sender: int, receiver: int) -> bytes:
        ids = u32(self.ids[sender]), u32(self.ids[receiver])
        return derive(shared, "box", self.session, self.digest, *ids)

    def box_context(self, sender: int, receiver: int) -> bytes:
        return framed(self.session, b"ShareKeys", u32(self.ids[sender]), u32(self.ids[receiver]))

    def input_check(self, place: int, values: bytes) -> bytes:
        key = derive(self.digest, "input", self.session, u32(self.ids[place]))
        return AESGCM(key).encrypt(bytes(12), b"", values)

    def statement(self, place: int, survivors: list[int]) -> tuple[bytes, ...]:
        return self.session, self.digest, u32(self.ids[place]), bitmap(self.size, survivors)


# --- 7: the client ----------------------------------------------------------------------------------------------


class Client:
    """`answer` takes a message of the server and gives the client's; `Remote` and `TooFew` end the session."""

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


# --- 8: the server ----------------------------------------------------------------------------------------------


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
