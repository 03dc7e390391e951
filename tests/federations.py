"""A federation in this process for tests: sites that speak frames, a directory, and a transport that misbehaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tomli_w

import privfl
from privfl.codec import Vector
from privfl.crypto import Credentials, MemoryDirectory, SigningKey
from privfl.crypto.identity import generate_identities
from privfl.crypto.members import Members
from privfl.dp import Ledger, Release
from privfl.experiment.config import Config
from privfl.experiment.schemes import describe
from privfl.experiment.server import FederationServer
from privfl.files import verify_chain
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleGradients
from privfl.fl.frames import REFUSAL, Invitation, Up, charter_of, frame_hash, model_from_bytes, open_down, seal_up
from privfl.fl.plan import RoundPlan
from privfl.fl.receipts import Receipt
from privfl.site import Site, SiteHome
from privfl.site.memory import take
from privfl.wire import ClientId

SERVER_KEY = SigningKey.generate()


class Directory(MemoryDirectory):
    """A directory in memory with a digest."""

    @property
    def names(self) -> dict[str, ClientId]:
        return {f"site-{client}": client for client in self.clients}

    @property
    def digest(self) -> str:
        whole = b"".join(b"%d" % client + self.verify_key(client).public for client in self.clients)
        return hashlib.sha256(whole).hexdigest()

    def check(self, now: float) -> None: ...

    def current(self, now: float) -> MemoryDirectory:
        return self


def train(model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
    """An update that depends on everything that it may depend on."""
    step = rng.normal(size=len(model)) * 0.1 + 0.01 * (client + 1) - 0.05 * model
    return ClientUpdate(step.astype(model.dtype), 10 * (client + 1), {"loss": 1.0 / (client + round + 1)})


@dataclass
class PlainSite:
    """The smallest site: no policy and no ledger. It answers equal bytes equally, in one process or after a restart."""

    own: Credentials
    directory: Directory
    config: Config
    train: Train = train
    answers: dict[bytes, bytes] = field(default_factory=dict)
    half: ClientRound | bytes | None = None
    entered: list[tuple[int, int]] = field(default_factory=list)
    number: int = 0

    def answer(self, frame: bytes, model: bytes) -> bytes:
        """See `SiteEndpoint.answer`."""
        digest = hashlib.sha256(frame).digest()
        if digest not in self.answers:
            try:
                self.answers[digest] = self._answer(frame, model)
            except Exception:  # noqa: BLE001 - a site has one refusal, whatever went wrong
                return REFUSAL
        return self.answers[digest]

    def restart(self) -> None:
        """Keep what a site saves, and nothing else."""
        if isinstance(self.half, ClientRound):
            self.half = self.half.to_bytes()

    def _answer(self, frame: bytes, model: bytes) -> bytes:
        me, scheme = self.own.client, describe(self.config.sum.scheme).build(self.config, self.directory)
        charter = charter_of(frame)
        down = open_down(frame, SERVER_KEY.public, charter=charter, me=me)
        if down.step == 0:
            invited = Invitation.from_bytes(down.body)
            order = bytes(invited.plan)
            plan = RoundPlan.from_bytes(order)
            self.half = ClientRound.trained(
                order,
                model_from_bytes(model, plan, me),
                me,
                contribution=Contribution(self.train, scheme),
                credentials=self.own,
            )
            body: bytes | None = self.half.start()
            self.entered.append((down.round, down.attempt))
        else:
            if isinstance(self.half, bytes):
                self.half = ClientRound.restore(self.half, me, scheme=scheme, credentials=self.own)
            assert isinstance(self.half, ClientRound)
            body = self.half.receive(bytes(down.body))
        assert body is not None
        receipts: list[bytes] = []
        if down.step == 0:
            self.number += 1
            stated = Receipt(
                client=me,
                number=self.number,
                kind="entered",
                charter=charter.hex(),
                round=down.round,
                attempt=down.attempt,
                plan=plan.digest().hex(),
                transcript=frame_hash(frame).hex(),
                spent=None,
                software=privfl.__version__,
                mode="in-app",
            )
            receipts = [stated.signed(self.own.signing).to_bytes()]
        up = Up(down.round, down.attempt, down.step, frame_hash(frame), body, receipts)
        return seal_up(up, self.own.signing, charter=charter, me=me)


@dataclass
class Federation:
    """Sites of a directory, and the settings of a server for them."""

    folder: Path
    config: Config
    sites: dict[ClientId, PlainSite]
    directory: Directory
    initial: Vector

    def server(self, **options: object) -> FederationServer:
        """A server over the folder; enter it."""
        return FederationServer(
            self.folder, self.config, initial=self.initial, directory=self.directory, key=SERVER_KEY, **options
        )


def federation(
    folder: Path, count: int = 5, *, initial: Vector | None = None, settings: Mapping[str, object] | None = None
) -> Federation:
    """Five sites with fresh keys."""
    credentials, known = generate_identities(range(count))
    directory = Directory({client: known.verify_key(client) for client in known.clients})
    config = Config(rounds=3).with_overrides({"sum.scheme": "masked"} | dict(settings or {}))
    sites = {client: PlainSite(own, directory, config) for client, own in credentials.items()}
    return Federation(folder, config, sites, directory, np.zeros(6) if initial is None else initial)


Change = Callable[[int, ClientId, bytes], Iterable[tuple[ClientId, bytes]]]
"""(step, client, answer) -> what the server gets in its place."""


@dataclass
class Wire:
    """A transport to the sites of a federation that loses, repeats, and delays what `change` says."""

    sites: Mapping[ClientId, PlainSite]
    change: Change = lambda step, client, answer: [(client, answer)]
    lost: Callable[[int, ClientId], bool] = lambda step, client: False
    step: int = -1
    frames: list[bytes] = field(default_factory=list)

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        """See `Transport.exchange`."""
        self.step = 0 if model else self.step + 1
        self.frames += frames.values()
        for client, frame in frames.items():
            if not self.lost(self.step, client):
                yield from self.change(self.step, client, self.sites[client].answer(frame, model))


SITES = 5


def small(model, client, round, rng):  # type: ignore[no-untyped-def]
    """The training of `federations`, for identities of 32 bits."""
    return train(model, client % 7, round, rng)


@dataclass
class Sites:
    """Real sites in their own folders, each of which can be restarted at any moment."""

    folder: Path
    config: Config
    homes: dict[ClientId, SiteHome]
    members: Members
    initial: Vector = field(default_factory=lambda: np.zeros(6))
    open: dict[ClientId, Site] = field(default_factory=dict)
    run: str = "run"
    now: float = 1000.0
    agents: frozenset[ClientId] = frozenset()
    train: Train | Stateful | ExampleGradients = small
    evaluate: Train | None = None

    @classmethod
    def make(
        cls,
        folder: Path,
        settings: Mapping[str, object],
        initial: Vector | None = None,
        *,
        now: float = 0.0,
        days: Mapping[int, int] | None = None,
        epsilon: float = 1e6,
    ) -> Sites:
        config = Config().with_overrides({"sum.scheme": "masked", "cohort.min_survivor_fraction": 0.6, **settings})
        lasting = {n: (days or {}).get(n, 365) for n in range(SITES)}
        homes = [SiteHome.make(folder / f"site-{n}", f"site-{n}", now=now, days=lasting[n]) for n in range(SITES)]
        private = config.privacy.placement != "none"
        policy = {
            "server": {"key": SERVER_KEY.public.public.hex()},
            "demands": {
                "unit": config.privacy.unit,
                "placements": [config.privacy.placement],
                "schemes": [config.sum.scheme],
            },
            "budget": {"epsilon": epsilon} if private else {"unlimited": True},
            "training": {"answer_after": 0.0},
        }
        members = Members([home.card for home in homes], issued=0, expires=1 << 35, quorum=1)
        members = members.signed(homes[0].credentials().signing)
        for home in homes:
            (home / "policy.toml").write_text(tomli_w.dumps(policy))
            members.write(home / "directory.json")
        start = np.zeros(6) if initial is None else initial
        return cls(folder, config, {home.card.client: home for home in homes}, members, start)

    def server(self, **options: object) -> FederationServer:
        """A server over the folder `run`; enter it."""
        settings = {"clock": lambda: self.now} | options
        return FederationServer(
            self.folder / self.run,
            self.config,
            initial=self.initial,
            directory=self.members,
            key=SERVER_KEY,
            **settings,
        )

    def approve(self, **options: object) -> None:
        """Have every site approve the charter of the server."""
        with self.server(**options) as server:
            charter = server.charter
        for home in self.homes.values():
            home.approve(charter)

    def site(self, client: ClientId) -> Site:
        if client not in self.open:
            mode = "agent" if client in self.agents else "in-app"
            self.open[client] = Site(
                self.homes[client].folder, self.train, evaluate=self.evaluate, mode=mode, clock=lambda: self.now
            )
        return self.open[client]

    def restart(self, client: ClientId) -> None:
        take(self.homes[client].folder)  # what an app left in this process ends with it
        if client in self.open:
            self.open.pop(client).close()

    def close(self) -> None:
        for client in list(self.open):
            self.restart(client)


def check_ledgers(folder: Path, sites: Sites) -> None:
    """Compare the worst cases in the ledgers of the server and of each site, after losses, kills and restarts.

    Args:
        folder: The folder that holds the server's run.
        sites: The sites.
    """
    server = Ledger.read(folder / sites.run / "ledger.jsonl")
    lines = [record for record, _ in verify_chain((folder / sites.run / "ledger.jsonl").read_bytes())]
    reserved = {_charge(Release.read(line["release"])) for line in lines if line["type"] == "reserve"}
    own = {client: site_charges(home) for client, home in sites.homes.items()}
    for charges in own.values():
        assert charges <= reserved  # no site was charged for anything that the server did not reserve at that price
        assert len({charge[:2] for charge in charges}) == len(charges)  # and for nothing twice
    worst = {_charge(server.reserved(token)) for token in server.unsettled}  # whoever was asked may never have heard
    for release in server.releases:
        for client in release.participants or ():  # the survivors of an opened sum have all been charged
            assert _charge(release) in own[client] or _charge(release) in worst


def site_charges(home: SiteHome) -> set[tuple[int, int, float, float]]:
    """(round, attempt, noise, norm bound) of each charge in a site's own ledger."""
    (path,) = (home / "ledgers").iterdir()
    return {_charge(release) for release in Ledger.read(path).releases}


def _charge(release: Release) -> tuple[int, int, float, float]:
    return release.round, release.attempt, release.declared_stddev, release.norm_bound
