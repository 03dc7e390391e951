"""A small federation for the tests of sites: real keys, folders and frames, and a server in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import privfl
from privfl.codec import FixedPoint
from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.dp import Everyone, FlatClip, Mechanism
from privfl.errors import RemoteProtocolError
from privfl.experiment.config import Config
from privfl.experiment.schemes import describe
from privfl.fl.charter import Charter
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.examples import ExampleRule
from privfl.fl.frames import Down, Invitation, Up, frame_hash, model_to_bytes, open_up, seal_down
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.receipts import Receipt
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.site import Site, SiteHome
from privfl.wire import ClientId

LENGTH = 4
NOISE = Mechanism("distributed", 2.0)
DELTA = np.array([0.5, -0.25, 0.125, 0.0])
NOW = 1_800_000_000.0

Answer = Callable[[bytes, bytes], bytes]


def train(model: np.ndarray, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
    """The same update at every site and in every round."""
    return ClientUpdate(DELTA.copy(), 10)


@dataclass
class Clock:
    """A clock that moves only when a test sets it, or sleeps on it."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Federation:
    """Folders of sites, the keys of a server, and a charter that every site has approved."""

    folder: Path
    homes: dict[ClientId, SiteHome]
    members: Members
    charter: Charter
    key: SigningKey
    clock: Clock
    scheme: Any
    receipts: dict[ClientId, Receipt] = field(default_factory=dict)
    all_receipts: list[Receipt] = field(default_factory=list)
    model: np.ndarray = field(default_factory=lambda: np.zeros(LENGTH))

    def site(self, client: ClientId, how: Any = train, **settings: Any) -> Site:
        """A site at work in this process, on the clock of the federation."""
        settings = {"clock": self.clock, "sleep": self.clock.sleep} | settings
        return Site(self.homes[client].folder, how, **settings)

    def sites(self, how: Any = train) -> dict[ClientId, Site]:
        """All sites."""
        return {client: self.site(client, how) for client in self.homes}

    def plan(self, round: int = 1, attempt: int = 0, **changes: Any) -> RoundPlan:
        """The plan of a round on the present model."""
        terms = self.charter.terms
        return replace(terms, round=round, attempt=attempt, model_hash=model_hash(self.model), **changes)

    def down(self, client: ClientId, plan: RoundPlan, step: int, body: bytes, **changes: Any) -> bytes:
        """A signed frame."""
        values = {"client": client, "expires": int(self.clock.now) + 600} | changes
        down = Down(round=plan.round, attempt=plan.attempt, step=step, body=body, **values)
        return seal_down(down, self.key, charter=self.charter.digest())

    def invitation(self, plan: RoundPlan, receipts: Sequence[Receipt] | None = None) -> bytes:
        """The body of step 0."""
        shown = list(self.receipts.values()) if receipts is None else receipts
        ascii_version = privfl.__version__.encode()
        return Invitation(
            plan.to_bytes(), bytes(16), int(self.clock.now * 1000) + 1, ascii_version, [r.to_bytes() for r in shown]
        ).to_bytes()

    def first(self, client: ClientId, plan: RoundPlan | None = None) -> tuple[bytes, bytes]:
        """The frame of step 0 and the model for one site."""
        plan = self.plan() if plan is None else plan
        return self.down(client, plan, 0, self.invitation(plan)), model_to_bytes(self.model)

    def read(self, client: ClientId, request: bytes, answer: bytes) -> Up:
        """A site's verified answer; its receipts are kept."""
        key = self.members.verify_key(client)
        up = open_up(answer, key, charter=self.charter.digest(), client=client, request=request)
        for data in up.receipts:
            receipt = Receipt.from_bytes(data)
            receipt.verify(key)
            self.receipts[client] = receipt
            self.all_receipts.append(receipt)
        return up

    def round(
        self,
        answers: Mapping[ClientId, Answer],
        round: int = 1,
        attempt: int = 0,
        *,
        plan: RoundPlan | None = None,
        before: Callable[[int], None] = lambda step: None,
    ) -> ServerRound:
        """Run a round over the sites' `answer` functions; a site that is refused or refuses drops out."""
        plan = self.plan(round, attempt) if plan is None else plan
        server = ServerRound(ServerState(self.model), plan, scheme=self.scheme)
        bodies: Mapping[ClientId, bytes] = dict.fromkeys(plan.cohort, self.invitation(plan))
        model, step = model_to_bytes(self.model), 0
        while server.result is None:
            before(step)
            for client, body in bodies.items():
                frame = self.down(client, plan, step, bytes(body))
                try:
                    up = self.read(client, frame, answers[client](frame, model))
                    assert up.request == frame_hash(frame)
                    server.receive(client, bytes(up.body))
                except RemoteProtocolError:
                    server.drop(client)
            for client in server.awaiting:
                server.drop(client)
            bodies, model, step = server.advance(), b"", step + 1
        self.model = server.outcome.state.model
        return server


def a_federation(
    folder: Path,
    sites: int = 3,
    *,
    scheme: str = "masked",
    mechanism: Mechanism = NOISE,
    examples: ExampleRule | None = None,
    length: int = LENGTH,
    rounds: int = 50,
    policy: str = "",
    now: float = NOW,
    **charter: Any,
) -> Federation:
    """Make the folders, the directory that two members sign, the charter, and its approval at every site.

    Args:
        folder: Where the sites' folders are made.
        sites: The number of sites.
        scheme: The sum in the registry.
        mechanism: The noise.
        examples: The terms of a sum over examples.
        length: The entries of the model.
        rounds: The rounds of the charter.
        policy: Further lines of every site's policy, which replace those of the same key.
        now: The time at which everything is made.
        charter: Further values of the charter.
    """
    folder.mkdir(exist_ok=True)
    clock, key = Clock(now), SigningKey.generate()
    made = [SiteHome.make(folder / f"site{place}", f"site{place}", now=now) for place in range(sites)]
    members = Members([home.card for home in made], issued=int(now), expires=int(now) + 30 * 86400, quorum=2)
    for home in made[:2]:
        members = members.signed(home.credentials().signing)
    build = describe(scheme).build(Config(), members.current(now))
    plan = RoundPlan(
        run=bytes(16),
        round=1,
        model_hash="0" * 64,
        cohort=members.clients,
        population=sites,
        sampling=Everyone(),
        survivor_rule=SurvivorRule(0.0, min(3, sites)),
        encoding=UpdateEncoding(length, FixedPoint(2.0**10, Ring(31)), FlatClip(1.0), examples=examples),
        mechanism=mechanism,
        scheme=build.name,
        parameters=build.parameters,
        seed=5,
    )
    values = {"name": "trial", "rounds": rounds, "directory": members.digest, "server": key.public.public.hex()}
    agreed = Charter(**(values | {"terms": Charter.terms_of(plan), "members": members.clients} | charter))
    for home in made:
        members.write(home / "directory.json")
        own = {"unit": '"example"'} if examples is not None else {}
        own |= {"key": f'"{agreed.server}"', "epsilon": "100.0", "answer_after": "5.0"}
        set_policy(home, own | _lines(policy))
        home.approve(agreed)
    homes = {home.card.client: home for home in made}
    return Federation(folder, homes, members, agreed, key, clock, build, model=np.zeros(length))


def set_policy(home: SiteHome, values: Mapping[str, str]) -> None:
    """Replace lines of a site's policy.toml, by key."""
    path = home / "policy.toml"
    lines = path.read_text().splitlines()
    for key, value in values.items():
        at = [n for n, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key} = ")]
        assert len(at) == 1, key
        lines[at[0]] = f"{key} = {value}"
    path.write_text("\n".join(lines) + "\n")


def log_of(home: SiteHome) -> str:
    """The log of a site, as text."""
    path = home / "log.jsonl"
    return path.read_text() if path.exists() else ""


def real_now() -> float:
    """The time of this machine, for tests with processes."""
    return time.time()


def _lines(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line.strip())
    return {key.strip(): value.strip() for key, _, value in pairs}
