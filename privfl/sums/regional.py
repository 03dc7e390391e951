"""A sum of sums: regions sum their own clients' vectors by any scheme, and a root sums the regions' totals.

The total is exactly that of a flat sum over the survivors of all regions. The server of a region opens the sum of its
region, and this partial sum is a release to the region. `RegionalSum.views` counts every observer who can open
a partial sum as one who sees single vectors, and a ledger prices that. A client's policy judges the sum of its region
like any other. A region that only relays the messages of a flat masked sum opens nothing, and needs no `RegionalSum`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from privfl.observers import Observer, View, Views
from privfl.ring import Ints, Opening
from privfl.sums.base import (
    ClientSession,
    Entropy,
    SecureSum,
    ServerSession,
    SumPolicy,
    SumResult,
    SumTask,
    identity,
)
from privfl.sums.driver import run_sum
from privfl.wire import ClientId

_LABEL: Final = b"privfl/1 regional-sum"


@dataclass(frozen=True, slots=True)
class Region:
    """The clients of one region, and their sum.

    Attributes:
        clients: The clients of the population that belong to it.
        scheme: The sum of the region.
    """

    clients: frozenset[ClientId]
    scheme: SecureSum


@dataclass(frozen=True, slots=True)
class RegionalSum:
    """A sum over regions, each of which opens the sum of its own clients.

    Attributes:
        regions: The regions, which have no client in common.
        root: The sum of the regions' totals, opened by the root's server. Its clients are the numbers of the regions.
        credentials: The regions' credentials for the root, by number; None for a root without keys.
        name: The scheme and its version.
        opener: The party that opens the sum: the root's server.
        roster_noise: False: clients of different regions have no roster in common.

    Raises:
        ConfigError: If a client is in two regions, or there is no region.
    """

    regions: Sequence[Region]
    root: SecureSum
    credentials: Mapping[ClientId, Any] | None = field(default=None, repr=False)
    name: str = "regional-sum/1"
    opener: Literal["server", "client"] = "server"
    roster_noise: bool = False

    def __post_init__(self) -> None:
        count = sum(len(region.clients) for region in self.regions)
        if not self.regions or count != len(frozenset().union(*(region.clients for region in self.regions))):
            raise ConfigError("regions must hold each client once: give at least one Region, without common clients")
        if self.root.opener != "server":
            raise ConfigError(f"the root opens the sum at its server, and {self.root.name} is opened by a client")

    @property
    def views(self) -> Views:
        """Everybody who opens a partial sum counts as one who sees single vectors; others see the release."""
        views: dict[Observer, View] = {"outsider": "release", "participant": "release"}
        for scheme in (*(region.scheme for region in self.regions), self.root):
            for observer, view in scheme.views.items():
                views[observer] = "release" if view == "release" and views.get(observer) != "vectors" else "vectors"
        return views | {"server": "vectors"}

    @property
    def messages_per_client(self) -> int:
        """The most messages of a client in any region."""
        return max(region.scheme.messages_per_client for region in self.regions)

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """The schemes and their parameters, and a hash of who belongs to which region."""
        found: dict[str, str | int | float | bool] = {"root": self.root.name}
        found |= {f"root.{name}": value for name, value in self.root.parameters.items()}
        digest = hashlib.sha256(_LABEL)
        for number, region in enumerate(self.regions):
            found[f"region {number}"] = region.scheme.name
            found |= {f"region {number}.{name}": value for name, value in region.scheme.parameters.items()}
            digest.update(b"".join(client.to_bytes(4, "little") for client in sorted(region.clients)) + b"\xff" * 4)
        return found | {"regions": digest.hexdigest()}

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """`min_survivors`, at least 1: a region that opens nothing drops out, and the others go on.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: The task asks for more vectors than there are clients.
        """
        if not 0 <= min_survivors <= cohort or not cohort:
            raise ConfigError(f"min_survivors must be in [0, {cohort}], not {min_survivors}: lower it")
        return max(1, min_survivors)

    def min_survivors_to_open(self, task: SumTask) -> int:
        """`min_survivors_of` the cohort and the `min_survivors` of `task`."""
        return self.min_survivors_of(len(task.clients), task.min_survivors)

    def shortfall(self, cohort: int, dropout: float, *, min_survivors: int = 1) -> float | None:
        """None: the probability depends on how the cohort is spread over regions, and no bound is known.

        Args:
            cohort: The number of clients of the sum.
            dropout: The probability that one client drops out.
            min_survivors: What its task asks for.
        """
        return None

    def tasks(self, task: SumTask) -> dict[int, SumTask]:
        """The task of each region that has clients in the cohort, by the region's number.

        A region asks for the same fraction of survivors as the whole sum.

        Raises:
            ConfigError: A client of the cohort is in no region.
        """
        found: dict[int, SumTask] = {}
        for number, region in enumerate(self.regions):
            clients = tuple(client for client in task.clients if client in region.clients)
            if clients:
                asked = -(-task.min_survivors * len(clients) // len(task.clients))
                context = hashlib.sha256(_LABEL + b" region" + task.digest() + number.to_bytes(4, "little")).digest()
                limit = len(clients) * task.bound
                known = task.max_sum if task.bound <= task.max_sum < limit else 0
                found[number] = SumTask(context, clients, asked, task.length, task.ring, task.bound, known)
        missing = len(task.clients) - sum(len(part.clients) for part in found.values())
        if missing:
            raise ConfigError(f"{missing} clients of the cohort are in no region: add them to one")
        return found

    def client(
        self,
        task: SumTask,
        me: ClientId,
        vector: Ints,
        *,
        credentials: Any = None,
        policy: SumPolicy = SumPolicy(),
        opening: Opening = identity,
        entropy: Entropy = os.urandom,
    ) -> ClientSession:
        """See `SecureSum.client`: a session of the client's region, whose partial sum the policy judges too.

        Args:
            task: The task.
            me: The client.
            vector: int64 `[task.length]`, each |entry| <= task.bound.
            credentials: The client's keys in its region.
            policy: The minima that it insists on, of the whole sum and of its region's.
            opening: Not used: the root applies it.
            entropy: A source of random bytes.
        """
        policy.check(task)
        number, part = next((n, part) for n, part in self.tasks(task).items() if me in part.clients)
        return self.regions[number].scheme.client(
            part, me, vector, credentials=credentials, policy=policy, entropy=entropy
        )

    def server(self, task: SumTask, *, opening: Opening = identity) -> RegionalServer:
        """See `SecureSum.server`: the servers of all regions and of the root.

        Args:
            task: The task.
            opening: Applied to the root's total.
        """
        return RegionalServer(self, task, opening)

    def sum_regions(self, task: SumTask, totals: Mapping[int, Ints], opening: Opening) -> SumResult:
        """The root's sum of the regions' totals.

        Args:
            task: The task of the whole sum.
            totals: The opened totals by the number of the region.
            opening: Applied to the root's total.
        """
        parts, regions = self.tasks(task), tuple(sorted(totals))
        bound = max(parts[number].limit(len(parts[number].clients)) for number in regions)
        total = task.limit(len(task.clients))
        known = total if bound <= total < len(regions) * bound else 0
        context = hashlib.sha256(_LABEL + b" root" + task.digest()).digest()
        root = SumTask(context, regions, len(regions), task.length, task.ring, bound, known)
        return run_sum(self.root, root, totals, credentials=self.credentials, opening=opening)


class RegionalServer:
    """The servers of all regions, and of the root once the regions are done.

    Args:
        scheme: The sum.
        task: The task of the whole sum.
        opening: Applied to the root's total.
    """

    def __init__(self, scheme: RegionalSum, task: SumTask, opening: Opening) -> None:
        self._scheme, self._task, self._opening = scheme, task, opening
        self._parts: dict[int, ServerSession] = {}
        self._home: dict[ClientId, int] = {}
        self._result: SumResult | None = None
        for number, part in scheme.tasks(task).items():
            try:
                self._parts[number] = scheme.regions[number].scheme.server(part)
            except ConfigError as error:  # a region of fewer clients than its sum ever opens
                raise TooFewSurvivors(len(part.clients), len(part.clients) + 1) from error
            self._home |= dict.fromkeys(part.clients, number)

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """Clients whose message of the present step has not come, in any region."""
        return frozenset().union(*(part.awaiting for part in self._unfinished()))

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once there is one."""
        return self._result

    @property
    def ready(self) -> bool:
        """True if every region can close its step, or has nobody to wait for."""
        return self._result is None and all(part.ready or not part.awaiting for part in self._unfinished())

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Give one client's message to the server of its region; see `ServerSession.receive`.

        Args:
            sender: The client.
            message: The bytes.
        """
        if sender not in self._home:
            raise RemoteProtocolError(f"client {sender} is not a client of this sum", sender=sender)
        part = self._parts.get(self._home[sender])
        if part is not None and part.result is None:
            part.receive(sender, message)

    def drop(self, client: ClientId) -> None:
        """Declare that a client has dropped out of its region's sum."""
        part = self._parts.get(self._home[client])
        if part is not None and part.result is None:
            part.drop(client)

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step in every region. A region with too few survivors drops out with all its clients.

        Raises:
            LocalProtocolError: A region still waits for clients; nothing has changed.
            TooFewSurvivors: Too few clients survived in the regions that opened their sums.
        """
        if self._result is not None or not self.ready:
            raise LocalProtocolError("a region still waits for clients, or the sum is over")
        messages: dict[ClientId, bytes] = {}
        opened = any(part.result is not None for part in self._parts.values())
        for number, part in list(self._parts.items()):
            if part.result is not None:
                continue
            try:
                messages |= part.advance()
            except TooFewSurvivors as error:
                opened = opened or error.opened
                del self._parts[number]
        if not any(True for _ in self._unfinished()):
            self._finish(opened=opened)
        return messages

    def _finish(self, *, opened: bool) -> None:
        found = {number: part.result for number, part in self._parts.items() if part.result is not None}
        survivors = frozenset[ClientId]().union(*(result.survivors for result in found.values()))
        least = self._scheme.min_survivors_to_open(self._task)
        if len(survivors) < least:
            raise TooFewSurvivors(len(survivors), least, opened=opened or bool(found))
        totals = {number: result.total for number, result in found.items()}
        try:
            self._scheme.root.min_survivors_of(len(totals), len(totals))
        except ConfigError as error:  # the root never opens a sum of so few regions
            raise TooFewSurvivors(len(survivors), least, opened=True) from error
        root = self._scheme.sum_regions(self._task, totals, lambda total, _: self._opening(total, survivors))
        transcript = hashlib.sha256(_LABEL + b" transcript" + root.transcript)
        blamed: dict[ClientId, str] = {}
        for number in sorted(found):
            transcript.update(found[number].transcript)
            blamed |= found[number].blamed
        sizes = sorted(len(result.survivors) for result in found.values())
        caveats = (
            f"regional sum: each region's server saw the sum of its region, of {sizes[0]} clients at the least",
            *(caveat for result in found.values() for caveat in result.caveats),
        )
        undecided = tuple(dispute for number in sorted(found) for dispute in found[number].undecided)
        self._result = SumResult(
            root.total, survivors, transcript.digest(), blamed, undecided, tuple(dict.fromkeys(caveats))
        )

    def _unfinished(self) -> Iterator[ServerSession]:
        return (part for part in self._parts.values() if part.result is None)
