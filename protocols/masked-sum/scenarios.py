"""Plays the reference against itself and writes vectors/*.json: whole transcripts, and failures, one a file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("masked_sum_reference", HERE / "reference.py")
assert _spec is not None
assert _spec.loader is not None
ref = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = ref  # its dataclasses look their module up
_spec.loader.exec_module(ref)

Tamper = Callable[["Play", int, bytes], bytes]
STEPS = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"]


class Entropy:
    """Public bytes: SHA-256 of name, client and counter; the bytes given are recorded."""

    def __init__(self, name: str, client: int) -> None:
        self.label, self.counter, self.unread, self.consumed = f"privfl masked-sum {name} {client}", 0, b"", b""

    def __call__(self, size: int) -> bytes:
        while len(self.unread) < size:
            self.unread += hashlib.sha256(f"{self.label} {self.counter}".encode()).digest()
            self.counter += 1
        part, self.unread = self.unread[:size], self.unread[size:]
        self.consumed += part
        return part


def terms(clients: list[int], threshold: int, **more: Any) -> Any:
    """Terms with defaults: a complete, signed graph over 32-bit words."""
    how = {"context": b"round 7", "min_survivors": 2, "length": 3, "bits": 32, "bound": 1000, "signed": True}
    how |= {"packed": False, "degree": 0, "arc": 0, "min_roster": max(threshold, 3), "min_vectors": 3}
    return ref.Terms(clients=clients, threshold=threshold, **(how | more))


class Play:
    """One run: `drop` maps clients to the step at which they drop out; the tampers alter what is sent."""

    def __init__(
        self,
        name: str,
        how: Any,
        drop: dict[int, str] | None = None,
        up: tuple[str, int, Tamper] | None = None,
        down: tuple[str, int, Tamper] | None = None,
    ) -> None:
        self.name, self.terms, self.up, self.down = name, how, up, down
        self.drop = drop or {}
        self.entropy = {c: Entropy(name, c) for c in how.clients}
        self.seeds = {c: hashlib.sha256(f"privfl masked-sum signing {c}".encode()).digest() for c in how.clients}
        private = ref.Ed25519PrivateKey.from_private_bytes
        self.directory = {c: private(s).public_key().public_bytes_raw() for c, s in self.seeds.items()}
        self.vectors = {c: self.vector(c) for c in how.clients}
        self.clients = {
            c: ref.Client(
                how, c, self.vectors[c], seed=self.seeds[c], directory=self.directory, entropy=self.entropy[c]
            )
            for c in how.clients
        }
        self.server = ref.Server(how, self.directory)
        self.steps: list[dict[str, Any]] = []
        self.failure: dict[str, Any] = {}
        self.inbox: dict[int, list[bytes]] = {c: [] for c in how.clients}
        self.outbox: dict[int, list[bytes]] = {c: [] for c in how.clients}
        self.run()

    def vector(self, client: int) -> list[int]:
        block = hashlib.sha512(f"privfl masked-sum vector {self.name} {client}".encode()).digest()
        bound = self.terms.bound - (self.terms.noise.reach if self.terms.noise else 0)
        values = [int.from_bytes(block[8 * i : 8 * i + 8], "little") for i in range(self.terms.length)]
        return [value % (2 * bound + 1) - bound for value in values]

    def is_absent(self, client: int, step: str) -> bool:
        return client in self.drop and STEPS.index(step) >= STEPS.index(self.drop[client])

    def run(self) -> None:
        mail: dict[int, bytes | None] = dict.fromkeys(self.terms.clients)
        while self.server.result is None:
            step: dict[str, Any] = {"name": self.server.step, "up": {}, "down": {}, "refused": [], "unusable": []}
            self.steps.append(step)
            for client, received in mail.items():
                if self.is_absent(client, self.server.step):
                    continue
                sent = self.speak(client, received)
                if self.failure:
                    return
                step["up"][client] = sent.hex()
                try:
                    self.server.take(client, sent)
                except ref.Remote as error:
                    step["refused"].append(client)
                    step["why"] = str(error)
                except ref.Unusable as error:
                    step["unusable"].append(client)
                    step["why"] = str(error)
            try:
                mail = self.server.close()
            except (ref.Remote, ref.TooFew) as error:
                self.failure = {"error": ERRORS[type(error)], "why": str(error)}
                if isinstance(error, ref.Remote):
                    self.failure |= {"sender": error.sender} | self.server.verdict()
                return
            step["down"] = {client: data.hex() for client, data in mail.items()}

    def speak(self, client: int, received: bytes | None) -> bytes:
        session, step = self.clients[client], self.server.step
        if received is not None:
            due = received
            if self.down and self.down[:2] == (step, client):
                received = self.down[2](self, client, received)
            self.inbox[client].append(received)
            try:
                sent = session.answer(received)
            except (ref.Remote, ref.TooFew, ref.Unusable) as error:
                self.failure = {"receiver": client, "error": ERRORS[type(error)], "why": str(error)}
                if isinstance(error, ref.Unusable):  # nothing has changed: what is due is answered all the same
                    self.failure["due"] = due.hex()
                    self.failure["answer"] = session.answer(due).hex()
                return b""
        else:
            sent = session.start()
        self.outbox[client].append(sent)
        if self.up and self.up[:2] == (step, client):
            sent = self.up[2](self, client, sent)
        return bytes(sent)

    def parameters(self) -> dict[str, Any]:
        found = asdict(self.terms) | {"context": self.terms.context.hex()}
        return found if self.terms.noise else {name: value for name, value in found.items() if name != "noise"}

    def party(self, client: int) -> dict[str, Any]:
        entropy = self.entropy[client].consumed.hex()
        noise = {"noise": self.clients[client].noise} if self.terms.noise else {}
        return {"signing_seed": self.seeds[client].hex(), "entropy": entropy, "vector": self.vectors[client]} | noise

    def head(self, kind: str) -> dict[str, Any]:
        head = {"version": 1, "kind": kind, "name": self.name, "parameters": self.parameters()}
        directory = {client: key.hex() for client, key in self.directory.items()}
        return head | {"session": self.terms.session.hex(), "directory": directory}

    def transcript(self) -> dict[str, Any]:
        """The server's view of a run, with everything that the clients drew."""
        told = self.head("transcript") | {"clients": {client: self.party(client) for client in self.clients}}
        if hasattr(self.server, "view"):
            view = self.server.view
            told["derived"] = {
                "roster_digest": view.digest.hex(),
                "ring": [view.ids[place] for place in view.order],
                **({"members": [view.ids[place] for place in view.members()]} if self.terms.noise else {}),
                "holders": {view.ids[p]: [view.ids[h] for h in view.holders(p)] for p in range(view.size)},
            }
        return told | {"steps": self.steps} | (self.failure or {"result": self.server.result})

    def refusal(self) -> dict[str, Any]:
        """The view of the one client that refuses its last message."""
        me = self.failure["receiver"]
        mail = {"inbox": [m.hex() for m in self.inbox[me]], "outbox": [m.hex() for m in self.outbox[me]]}
        return self.head("refusal") | {"client": self.party(me)} | mail | self.failure


ERRORS = {ref.Remote: "RemoteProtocolError", ref.TooFew: "TooFewSurvivors", ref.Unusable: "WireError"}


def mesh(clients: list[int], threshold: int, members: int, spare: int, minimum: int, **more: Any) -> Any:
    """Terms with mesh noise of variance 40; the reach is that of the largest share of any roster."""
    noise = ref.Noise(
        members=members, spare=spare, min_members_to_open=minimum, variance=40.0, reach=REACH[minimum, spare]
    )
    return terms(clients, threshold, bound=1000 + noise.reach, noise=noise, **more)


REACH = {(2, 1): 167, (1, 0): 125, (7, 2): 92, (5, 1): 98}
MESH = mesh([3, 8, 21], 2, 3, 1, 2, min_vectors=2)
LONE = mesh([3, 8, 21], 1, 3, 0, 1, signed=False, min_vectors=1, min_survivors=1, min_roster=3)


# --- whole transcripts ------------------------------------------------------------------------------------------


def transcripts() -> list[Play]:
    """Several sizes, thresholds, widths, both graphs, both modes, dropouts at every step."""
    every = {1: "AdvertiseKeys", 2: "ShareKeys", 3: "MaskedInput", 4: "ConsistencyCheck", 5: "Unmask"}
    return [
        Play("complete-3", terms([0, 1, 2], 3)),
        Play("complete-5-dropout", terms([1, 4, 9, 16, 25], 4), {9: "MaskedInput"}),
        Play("complete-11-dropout-at-every-step", terms(list(range(11)), 6), every),
        Play("complete-7-two-at-once", terms(list(range(7)), 5), {0: "MaskedInput", 6: "MaskedInput"}),
        Play("semi-honest-4", terms([2, 3, 5, 7], 3, signed=False), {5: "MaskedInput"}),
        Play("bits-16", terms([0, 1, 2, 3], 3, bits=16, bound=8000)),
        Play("bits-20-packed", terms([0, 1, 2, 3], 3, bits=20, packed=True, length=5), {1: "ConsistencyCheck"}),
        Play("bits-33-packed", terms([0, 1, 2, 3], 4, bits=33, packed=True, bound=2**30 - 1)),
        Play("bits-64-extreme-identities", terms([0, 1, 2**32 - 2], 3, bits=64, bound=2**60)),
        Play("length-1", terms([5, 6, 7], 3, length=1)),
        Play(
            "ring-12",
            terms(list(range(100, 112)), 4, degree=6, arc=1, min_roster=7),
            {103: "MaskedInput", 108: "MaskedInput"},
        ),
        Play(
            "ring-14-dropout-at-every-step",
            terms(list(range(14)), 4, degree=8, arc=1, min_roster=9, min_survivors=5),
            {9: "AdvertiseKeys", 2: "ShareKeys", 3: "MaskedInput", 4: "ConsistencyCheck", 5: "Unmask"},
        ),
        Play(
            "ring-9-semi-honest",
            terms(list(range(9)), 3, signed=False, degree=4, arc=1, min_roster=5),
            {4: "MaskedInput"},
        ),
        Play("mesh-3", MESH),
        Play("mesh-3-one-silent", MESH, {8: "MaskedInput"}),
        Play("mesh-3-two-silent", LONE, {3: "MaskedInput", 21: "MaskedInput"}),
        Play("mesh-of-three-members", mesh([0, 1, 2, 3, 4], 3, 3, 1, 2), {2: "ShareKeys"}),
        Play(
            "mesh-ring-9",
            mesh(list(range(9)), 3, 9, 2, 7, degree=4, arc=1, min_roster=7, length=2),
            {4: "MaskedInput"},
        ),
    ]


# --- failures ---------------------------------------------------------------------------------------------------

FIVE = terms([0, 1, 2, 3, 4], 4, min_survivors=3, bits=24)
TEN = terms(list(range(10)), 7, min_survivors=3, bits=24)
RECORD = 132


def rebuilt(kind: str, sender: int, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    """The message with another body after the receiver, where it names one, and a header that fits it."""
    start = 51 if ref.KINDS[kind] in ref.ADDRESSED else 47

    def tamper(play: Play, client: int, data: bytes) -> bytes:
        new = data[47:start] + body(play, client, data[start:])
        return bytes(ref.message(kind, client if sender < 0 else sender, play.terms.session, new))

    return tamper


def from_server(kind: str, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    return rebuilt(kind, ref.SERVER, body)


def from_client(kind: str, body: Callable[[Play, int, bytes], bytes]) -> Tamper:
    return rebuilt(kind, -1, body)


def roster(change: Callable[[Play, list[bytes]], list[bytes]]) -> Tamper:
    def body(play: Play, client: int, old: bytes) -> bytes:
        records = [old[8:][i : i + RECORD] for i in range(0, len(old) - 8, RECORD)]
        return bytes(ref.blob(b"".join(change(play, records))))

    return from_server("Roster", body)


def advert(play: Play, client: int, keys: bytes) -> bytes:
    """A record that the client itself would have signed."""
    parts = play.terms.session, ref.u32(client), keys
    return bytes(ref.u32(client) + keys + ref.sign(play.seeds[client], "advertise", *parts))


def flip(at: int, bit: int = 0) -> Tamper:
    """The message with one bit turned; `at` counts bytes from the start, or from the end if negative."""

    def tamper(play: Play, client: int, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        return bytes(changed)

    return tamper


def misrouted(play: Play, client: int, data: bytes) -> bytes:
    """The message of the same step to another client."""
    return bytes.fromhex(play.steps[-2]["down"][client + 1])


def bits(kind: str, *members: int, count: int = 5) -> Tamper:
    """A list of these members in place of the one sent."""

    def body(play: Play, client: int, old: bytes) -> bytes:
        return bytes(ref.bitmap(count, members)) + old[4 + -(-count // 8) :]

    return from_server(kind, body)


def signatures(change: Callable[[Play, list[int], list[bytes]], tuple[list[int], list[bytes]]]) -> Tamper:
    def body(play: Play, client: int, old: bytes) -> bytes:
        near = [i for i in range(4) if old[4] >> i & 1]
        blobs = [old[13:][i : i + 64] for i in range(0, len(old) - 13, 64)]
        near, blobs = change(play, near, blobs)
        return bytes(ref.bitmap(4, near) + ref.blob(b"".join(blobs)))

    return from_server("Signatures", body)


def refusals() -> list[Play]:
    """The messages that client 1 of five must refuse. A step is named after the message that would answer it."""
    own_keys = roster(lambda play, r: [r[0], advert(play, 1, b"\x09" * 32 + b"\x0a" * 32), *r[2:]])
    low_order = roster(lambda play, r: [*r[:2], advert(play, 2, bytes(32) + r[2][36:68]), *r[3:]])
    twice = roster(lambda play, r: [*r[:2], advert(play, 2, r[3][4:68]), *r[3:]])
    forged = roster(lambda play, r: [*r[:2], r[2][:-1] + bytes([r[2][-1] ^ 1]), *r[3:]])
    other_session = replace(FIVE, context=b"round 8").session
    silent = {4: "MaskedInput"}
    cases: list[tuple[str, dict[int, str], str, Tamper]] = [
        ("roster-with-other-keys-for-the-receiver", {}, "ShareKeys", own_keys),
        ("roster-without-the-receiver", {}, "ShareKeys", roster(lambda play, r: [r[0], *r[2:]])),
        ("roster-below-its-least-size", {}, "ShareKeys", roster(lambda play, r: r[:3])),
        ("roster-out-of-order", {}, "ShareKeys", roster(lambda play, r: [r[1], r[0], *r[2:]])),
        ("roster-with-a-repeated-client", {}, "ShareKeys", roster(lambda play, r: [*r, r[-1]])),
        ("roster-with-a-stranger", {}, "ShareKeys", roster(lambda play, r: [*r[:4], ref.u32(9) + r[4][4:]])),
        ("roster-with-one-key-for-two", {}, "ShareKeys", twice),
        ("roster-with-a-forged-signature", {}, "ShareKeys", forged),
        ("roster-with-a-low-order-point", {}, "ShareKeys", low_order),
        ("roster-cut-inside-a-record", {}, "ShareKeys", roster(lambda play, r: [*r[:4], r[4][:-1]])),
        ("header-of-another-session", {}, "ShareKeys", lambda p, c, d: d[:11] + other_session + d[43:]),
        ("header-of-another-sender", {}, "ShareKeys", lambda p, c, d: d[:7] + ref.u32(0) + d[11:]),
        ("header-of-another-version", {}, "ShareKeys", lambda p, c, d: d[:4] + b"\x02" + d[5:]),
        ("header-of-another-length", {}, "ShareKeys", lambda p, c, d: d + b"\x00"),
        ("survivors-too-early", {}, "MaskedInput", from_server("Survivors", lambda p, c, o: ref.bitmap(5, range(5)))),
        ("boxes-list-without-the-receiver", {}, "MaskedInput", bits("Boxes", 0, 2, 3, 4)),
        ("boxes-list-over-other-places", {}, "MaskedInput", bits("Boxes", 0, 1, 2, 3, count=6)),
        ("boxes-list-with-padding-bits", {}, "MaskedInput", flip(55, 7)),
        (
            "boxes-fewer-than-the-list-says",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:5] + ref.blob(o[13:-94])),
        ),
        ("boxes-cut", {}, "MaskedInput", lambda p, c, d: d[:-1]),
        ("boxes-for-another-client", {}, "MaskedInput", misrouted),
        ("boxes-for-nobody", {}, "MaskedInput", flip(50, 7)),
        ("boxes-shorter-than-a-receiver", {}, "MaskedInput", lambda p, c, d: d[:43] + ref.u32(3) + d[47:50]),
        (
            "boxes-of-which-two-do-not-open",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:13] + bytes(2 * 94) + o[13 + 188 :]),
        ),
        (
            "boxes-re-routed",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:13] + o[13 + 94 : 13 + 188] + o[13 : 13 + 94] + o[13 + 188 :]),
        ),
        ("survivors-without-the-receiver", {}, "ConsistencyCheck", bits("Survivors", 0, 2, 3, 4)),
        ("survivors-below-the-threshold", {}, "ConsistencyCheck", bits("Survivors", 0, 1, 2)),
        ("survivors-below-the-least", {}, "ConsistencyCheck", bits("Survivors", 0, 1)),
        (
            "survivors-with-one-that-never-shared",
            {4: "ShareKeys"},
            "ConsistencyCheck",
            bits("Survivors", 0, 1, 2, 3, 4),
        ),
        ("survivors-with-padding-bits", {}, "ConsistencyCheck", flip(51, 6)),
        ("survivors-and-a-byte", {}, "ConsistencyCheck", from_server("Survivors", lambda p, c, o: o + b"\x00")),
        (
            "signature-forged",
            {},
            "Unmask",
            signatures(lambda p, near, s: (near, [s[0][:-1] + bytes([s[0][-1] ^ 1]), *s[1:]])),
        ),
        (
            "signature-under-another-list",
            {},
            "Unmask",
            signatures(
                lambda p, near, s: (
                    near,
                    [ref.sign(p.seeds[0], "survivors", *p.server.view.statement(0, [0, 1, 2, 3])), *s[1:]],
                )
            ),
        ),
        ("signature-of-another-client", {}, "Unmask", signatures(lambda p, near, s: (near, [s[1], s[1], *s[2:]]))),
        ("signatures-for-another-client", {}, "Unmask", misrouted),
        ("signatures-too-few", {}, "Unmask", signatures(lambda p, near, s: (near[:2], s[:2]))),
        ("signature-of-one-who-did-not-survive", silent, "Unmask", signatures(lambda p, near, s: ([0, 1, 3], s))),
        ("signatures-fewer-than-the-list-says", {}, "Unmask", signatures(lambda p, near, s: (near, s[:-1]))),
    ]
    plays = [Play("refuse-" + name, FIVE, drop, down=(step, 1, tamper)) for name, drop, step, tamper in cases]
    ring = terms(list(range(12)), 4, degree=6, arc=2, min_roster=7, min_survivors=2, context=b"round 8")

    def emptied(play: Play, client: int, data: bytes) -> bytes:
        order = play.server.view.order
        far = [place for place in range(12) if place not in (*play.server.view.holders(1), 1)]
        run = next(order[i : i + 3] for i in range(9) if set(order[i : i + 3]) <= set(far))
        left = [place for place in range(12) if place not in run]
        return bytes(ref.message("Survivors", ref.SERVER, play.terms.session, ref.bitmap(12, left)))

    plays.append(Play("refuse-survivors-that-cut-the-ring", ring, down=("ConsistencyCheck", 1, emptied)))
    few = ("ConsistencyCheck", 1, bits("Survivors", 0, 1, 2, 3))
    plays.append(Play("refuse-survivors-with-too-few-members", mesh([0, 1, 2, 3, 4], 4, 5, 1, 5), down=few))
    spread = mesh(list(range(9)), 3, 9, 2, 7, degree=4, arc=1, min_roster=7)
    plays.append(Play("refuse-roster-with-a-forged-distant-member", spread, down=("ShareKeys", 1, roster(distant))))
    return plays


def distant(play: Play, records: list[bytes]) -> list[bytes]:
    """The roster with a signature forged of a member that is no neighbor of client 1."""
    for place in range(len(records)):
        changed = list(records)
        changed[place] = changed[place][:-1] + bytes([changed[place][-1] ^ 1])
        if place != 1 and place not in ref.View(play.terms, b"".join(changed)).holders(1):
            return changed
    raise AssertionError


def blamed() -> list[Play]:
    """The messages that a server must refuse from client 1 of five, and go on without it; or give up."""
    double = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, o[:32] * 2))
    low = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, o[:32] + bytes(32)))
    stolen = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, p.clients[0].public[:32] + o[32:64]))

    def wrong_share(at: int) -> Tamper:
        return from_client(
            "Unmask", lambda p, c, o: o[: 13 + 33 * at] + bytes([o[13 + 33 * at] ^ 1]) + o[14 + 33 * at :]
        )

    def bad_dealer(play: Play, client: int, old: bytes) -> bytes:
        return bytes(32) + old[32:]

    cases: list[tuple[str, dict[int, str], str, Tamper]] = [
        ("advertisement-forged", {}, "AdvertiseKeys", flip(-1)),
        (
            "advertisement-unsigned",
            {},
            "AdvertiseKeys",
            from_client("AdvertiseKeys", lambda p, c, o: o[:64] + ref.blob(b"")),
        ),
        ("advertisement-of-one-key-twice", {}, "AdvertiseKeys", double),
        ("advertisement-of-another-s-key", {}, "AdvertiseKeys", stolen),
        ("advertisement-of-a-low-order-point", {}, "AdvertiseKeys", low),
        ("advertisement-in-another-s-name", {}, "AdvertiseKeys", lambda p, c, d: d[:7] + ref.u32(2) + d[11:]),
        ("advertisement-for-other-terms", {}, "AdvertiseKeys", flip(11)),
        ("boxes-too-few", {}, "ShareKeys", from_client("ShareKeys", lambda p, c, o: o[:32] + ref.blob(o[40:-94]))),
        ("advertisement-once-more", {}, "ShareKeys", lambda p, c, d: p.outbox[c][0]),
        ("input-too-early", {}, "ShareKeys", from_client("MaskedInput", lambda p, c, o: o)),
        ("input-damaged", {}, "MaskedInput", flip(-1)),
        ("input-too-short", {}, "MaskedInput", from_client("MaskedInput", lambda p, c, o: checked(p, c, o[24:-4]))),
        ("input-not-reduced", {}, "MaskedInput", from_client("MaskedInput", not_reduced)),
        ("list-signed-by-another", {}, "ConsistencyCheck", from_client("ConsistencyCheck", lambda p, c, o: bytes(64))),
        ("share-beyond-the-prime", {}, "Unmask", from_client("Unmask", lambda p, c, o: o[:-33] + b"\xff" * 33)),
        (
            "shares-fewer-than-the-list-says",
            {},
            "Unmask",
            from_client("Unmask", lambda p, c, o: o[:5] + ref.blob(o[13:-33])),
        ),
        ("share-wrong-of-a-survivor", {}, "Unmask", wrong_share(2)),
        ("share-wrong-of-a-dropout", {4: "MaskedInput"}, "Unmask", wrong_share(4)),
        (
            "share-not-given",
            {},
            "Unmask",
            from_client("Unmask", lambda p, c, o: ref.bitmap(5, [0, 1, 2, 4]) + ref.blob(o[13:112] + o[145:])),
        ),
        ("shares-wrong-of-all", {}, "Unmask", from_client("Unmask", wrong_shares(range(5)))),
        ("shares-wrong-of-two", {}, "Unmask", from_client("Unmask", wrong_shares((0, 3)))),
        ("shares-none-given", {}, "Unmask", from_client("Unmask", lambda p, c, o: ref.bitmap(5, []) + ref.blob(b""))),
        ("boxes-that-nobody-opens", {}, "ShareKeys", from_client("ShareKeys", lambda p, c, o: o[:40] + bytes(4 * 94))),
        ("seed-hash-of-nothing", {}, "ShareKeys", from_client("ShareKeys", bad_dealer)),
        ("too-few-at-the-end", {3: "Unmask"}, "Unmask", flip(50)),
        ("too-few-inputs", {2: "MaskedInput", 3: "MaskedInput"}, "MaskedInput", flip(-1)),
        ("too-few-advertisements", {3: "AdvertiseKeys"}, "AdvertiseKeys", flip(-1)),
    ]
    ring = terms(list(range(9)), 3, signed=False, degree=6, arc=1, min_roster=7)
    others = [
        Play("blame-seed-hash-of-nothing-of-ten", TEN, up=("ShareKeys", 1, from_client("ShareKeys", bad_dealer))),
        Play("blame-seed-hash-of-nothing-on-a-ring", ring, up=("ShareKeys", 1, from_client("ShareKeys", bad_dealer))),
        Play("blame-too-few-members", mesh([0, 1, 2, 3, 4], 4, 5, 1, 5), {4: "MaskedInput"}),
        Play("blame-shares-wrong-on-a-ring", ring, up=("Unmask", 1, from_client("Unmask", wrong_shares(range(6))))),
    ]
    return others + [Play("blame-" + name, FIVE, drop, up=(step, 1, tamper)) for name, drop, step, tamper in cases]


def wrong_shares(indices: Iterable[int]) -> Callable[[Play, int, bytes], bytes]:
    """Unmask with the shares at these indices altered."""

    def body(play: Play, client: int, old: bytes) -> bytes:
        new = bytearray(old)
        for index in indices:
            new[len(old) % 33 + 33 * index] ^= 1
        return bytes(new)

    return body


def checked(play: Play, client: int, values: bytes) -> bytes:
    """An upload whose check fits."""
    view = play.server.view
    return bytes(view.input_check(view.ids.index(client), values) + ref.blob(values))


def not_reduced(play: Play, client: int, old: bytes) -> bytes:
    return checked(play, client, old[24:-4] + b"\xff" * 4)


def signed_advert(play: Play, client: int, keys: bytes) -> bytes:
    record = advert(play, client, keys)
    return record[4:68] + bytes(ref.blob(record[68:]))


def repeats() -> dict[str, Any]:
    """One client's honest session in which messages come twice, late, and in another version."""
    play = Play("repeats", FIVE)
    roster_, boxes, survivors, signatures_ = play.inbox[1]
    share, masked, check, unmask = (sent.hex() for sent in play.outbox[1][1:])
    other = ref.message("Survivors", ref.SERVER, FIVE.session, ref.bitmap(5, [0, 1, 2, 3]))
    refused = {"error": "RemoteProtocolError"}
    deliveries = [
        (roster_, {"answer": share}),
        (roster_, {"answer": share}),
        (boxes, {"answer": masked}),
        (roster_, {"answer": None}),
        (boxes, {"answer": masked}),
        (survivors, {"answer": check}),
        (other, refused),
        (survivors, {"answer": check}),
        (signatures_, {"answer": unmask}),
        (survivors, {"answer": None}),
        (signatures_, {"answer": unmask}),
    ]
    told = [{"message": message.hex()} | result for message, result in deliveries]
    return (
        play.head("repeats")
        | {"receiver": 1, "client": play.party(1), "start": play.outbox[1][0].hex()}
        | {"deliveries": told}
    )


def files() -> dict[str, str]:
    """Every vector file by name, as text."""
    made = {play.name: play.transcript() for play in [*transcripts(), *blamed()]}
    made |= {play.name: play.refusal() for play in refusals()} | {"repeats": repeats()}
    return {f"{name}.json": json.dumps(told, indent=1) + "\n" for name, told in made.items()}


if __name__ == "__main__":
    (HERE / "vectors").mkdir(exist_ok=True)
    for name, text in files().items():
        (HERE / "vectors" / name).write_text(text)
