"""A sum of the reference with itself, message by message, and the vector that records it: section 14 of SPEC.md."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from reference import Client, Noise, Remote, Server, Terms, TooFew, Unusable

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
    return Terms(clients=clients, threshold=threshold, **(how | more))


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
        private = Ed25519PrivateKey.from_private_bytes
        self.directory = {c: private(s).public_key().public_bytes_raw() for c, s in self.seeds.items()}
        self.vectors = {c: self.vector(c) for c in how.clients}
        self.clients = {
            c: Client(how, c, self.vectors[c], seed=self.seeds[c], directory=self.directory, entropy=self.entropy[c])
            for c in how.clients
        }
        self.server = Server(how, self.directory)
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
                except Remote as error:
                    step["refused"].append(client)
                    step["why"] = str(error)
                except Unusable as error:
                    step["unusable"].append(client)
                    step["why"] = str(error)
            try:
                mail = self.server.close()
            except (Remote, TooFew) as error:
                self.failure = {"error": ERRORS[type(error)], "why": str(error)}
                if isinstance(error, Remote):
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
            except (Remote, TooFew, Unusable) as error:
                self.failure = {"receiver": client, "error": ERRORS[type(error)], "why": str(error)}
                if isinstance(error, Unusable):  # nothing has changed: what is due is answered all the same
                    self.failure["due"] = due.hex()
                    self.failure["answer"] = session.answer(due).hex()
                return b""
        else:
            sent = session.start()
        self.outbox[client].append(sent)
        if self.up and self.up[:2] == (step, client):
            sent = self.up[2](self, client, sent)
        return sent

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


ERRORS = {Remote: "RemoteProtocolError", TooFew: "TooFewSurvivors", Unusable: "WireError"}


def mesh(clients: list[int], threshold: int, members: int, spare: int, minimum: int, **more: Any) -> Any:
    """Terms with mesh noise of variance 40; the reach is that of the largest share of any roster."""
    noise = Noise(members=members, spare=spare, min_members_to_open=minimum, variance=40.0, reach=REACH[minimum, spare])
    return terms(clients, threshold, bound=1000 + noise.reach, noise=noise, **more)


REACH = {(2, 1): 167, (1, 0): 125, (7, 2): 92, (5, 1): 98}
MESH = mesh([3, 8, 21], 2, 3, 1, 2, min_vectors=2)
LONE = mesh([3, 8, 21], 1, 3, 0, 1, signed=False, min_vectors=1, min_survivors=1, min_roster=3)


FIVE = terms([0, 1, 2, 3, 4], 4, min_survivors=3, bits=24)
TEN = terms(list(range(10)), 7, min_survivors=3, bits=24)
