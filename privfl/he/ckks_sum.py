"""CKKS behind the interface of all sums."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from privfl.crypto import Credentials, KeyDirectory, TaskMemory
from privfl.errors import ConfigError
from privfl.he.client import CkksClient
from privfl.he.keys import KeyStore, StandingCredentials
from privfl.he.messages import NAME
from privfl.he.plan import HE_STANDARD, plan_for, quorum_of
from privfl.he.processes import Processes
from privfl.he.server import CkksServer
from privfl.he.terms import Terms
from privfl.he.work import worth_sharing
from privfl.observers import Views
from privfl.ring import Ints
from privfl.sums import (
    MIN_VECTORS,
    Entropy,
    Opening,
    SumPolicy,
    SumTask,
    binomial_shortfall,
    check_dropout,
    checked_vector,
    identity,
)
from privfl.wire import ClientId


class CkksSum:
    """Sums vectors that the server cannot read, and that one of the clients opens.

    `directory` maps clients to their signing keys and must not come from the server. More than half of the cohort and
    of `corrupt` further clients must sign one survivor list before a sum is opened. `security` is 128, 192 or 256 bits.
    Clients seal vectors of about 100,000 values and more, and open their sums, in so many `processes`: this one, and
    helpers that are started with the first such vector and end with `close`, or with this object and its sessions.
    Raises `ConfigError` for parameters out of these ranges, and for helpers where keys would pass through files.
    Holds nothing secret. Every client needs credentials: its `Credentials` for a fresh session key in every sum (or,
    where they hold a session key, for that one), or `StandingCredentials` for a key that lasts several sums.
    """

    name: str = NAME
    opener: Literal["server", "client"] = "client"
    messages_per_client: int = 5

    def __init__(
        self,
        directory: KeyDirectory,
        *,
        corrupt: int = 0,
        security: int = 128,
        processes: int = 1,
        min_vectors: int = MIN_VECTORS,
    ) -> None:
        if corrupt < 0:
            raise ConfigError(f"corrupt is a number of clients, not {corrupt}")
        if security not in HE_STANDARD[1024]:
            raise ConfigError(f"security is one of {sorted(HE_STANDARD[1024])} bits, not {security!r}")
        if min_vectors < 1:
            raise ConfigError(f"min_vectors must be at least 1, not {min_vectors}")
        self._directory, self._corrupt, self._security = directory, corrupt, security
        self._min_vectors = min_vectors
        self._processes = Processes(processes)

    @property
    def views(self) -> Views:
        """Every participant is dealt the session key and could decrypt; the server cannot."""
        return {"outsider": "release", "participant": "sum", "server": "release", "key_holder": "sum"}

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """Everything that decides the terms of a task."""
        return {"corrupt": self._corrupt, "security": self._security, "min_vectors": self._min_vectors}

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """The largest of `min_survivors`, the quorum and `min_vectors`.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: A sum of `cohort` clients never opens.
        """
        if cohort < 1:
            raise ConfigError(f"a CKKS sum has at least 1 client, not {cohort}")
        least = max(min_survivors, quorum_of(cohort, self._corrupt), self._min_vectors)
        if least > cohort:
            raise ConfigError(
                f"a CKKS sum of {cohort} clients never opens, because it needs {least} vectors: sum more clients, or "
                "lower min_vectors if it need not hide them from each other"
            )
        return least

    def min_survivors_to_open(self, task: SumTask) -> int:
        """`min_survivors_of` the cohort and the `min_survivors` of `task`."""
        return self.min_survivors_of(len(task.clients), task.min_survivors)

    def shortfall(self, cohort: int, dropout: float, *, min_survivors: int = 1) -> float | None:
        """The probability that fewer than `min_survivors_of` clients stay.

        Args:
            cohort: The number of clients of the sum, at least 0.
            dropout: The probability that one client drops out at any step, independently of all others.
            min_survivors: What its task asks for.

        Returns:
            A probability that does not decrease in `dropout`; 1 where a sum of `cohort` clients can never open.

        Raises:
            ConfigError: `dropout` is not a probability.
        """
        check_dropout(dropout)
        try:
            return binomial_shortfall(cohort, self.min_survivors_of(cohort, min_survivors), dropout)
        except ConfigError:
            return 1.0

    def terms(self, task: SumTask) -> Terms:
        """The public parameters of the sum of `task`; raises as `plan_ckks`, and for a sum that never opens."""
        if task.min_survivors < 1:
            raise ConfigError("a CKKS sum opens at least 1 vector: set min_survivors of its task to 1 or more")
        least, quorum = self.min_survivors_to_open(task), quorum_of(len(task.clients), self._corrupt)
        return Terms(task, plan_for(task, security=self._security), self._directory, quorum, task.digest(), least)

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
        tasks: TaskMemory | None = None,
    ) -> CkksClient:
        """A client's session. `opening` runs here if this client opens; make it a `KeyedOpening` if it draws noise.

        Encryption draws its randomness from SEAL, and everything else from `entropy`. `tasks` remembers what this
        client took part in, so that `start` refuses a task begun before: the credentials' own memory unless another is
        given. Raises `ConfigError` if helper processes are wanted and cannot be started.
        """
        terms = self.terms(task)
        policy.check(task, threshold=terms.quorum)
        own, store = _credentials(credentials, me)
        values = checked_vector(task, me, vector)
        tasks = own.tasks if tasks is None else tasks
        self._processes.start(worth_sharing(terms.plan))  # a sum of many short vectors is opened by one client only
        return CkksClient(
            terms,
            me,
            values,
            own=own,
            store=store,
            tasks=tasks,
            opening=opening,
            entropy=entropy,
            processes=self._processes,
        )

    def server(self, task: SumTask, *, opening: Opening = identity) -> CkksServer:
        """The server's session; `opening` is not used, for a server never sees the sum before it."""
        return CkksServer(self.terms(task))

    def close(self) -> None:
        """End the helper processes, if there are any. Sessions go on in this process; new ones start new helpers."""
        self._processes.close()


def _credentials(credentials: Any, me: ClientId) -> tuple[Credentials, KeyStore]:
    if isinstance(credentials, StandingCredentials):
        own, store = credentials.own, credentials.store
    elif isinstance(credentials, Credentials):
        own = credentials
        store = KeyStore() if own.session_key is None else KeyStore.holding(own.session_key)
    else:
        raise ConfigError(f"a CKKS sum needs Credentials or StandingCredentials, not {type(credentials).__name__}")
    if own.client != me:
        raise ConfigError(f"the credentials are those of client {own.client}, not {me}")
    return own, store
