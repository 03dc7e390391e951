"""CKKS behind the interface of all sums."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from privfl.checks import check_count, check_type
from privfl.crypto import Credentials, KeyDirectory, TaskMemory
from privfl.errors import ConfigError
from privfl.he.client import CkksClient
from privfl.he.keys import KeyStore, StandingCredentials
from privfl.he.messages import NAME
from privfl.he.plan import HE_STANDARD, Terms, plan_for, quorum_of
from privfl.he.server import CkksServer
from privfl.observers import Views
from privfl.ring import Ints
from privfl.sums import Entropy, Opening, SumPolicy, SumTask
from privfl.sums.base import MIN_VECTORS, identity
from privfl.sums.checks import checked_vector
from privfl.sums.noise import refuse_noise
from privfl.sums.session import SteadyDirectory
from privfl.sums.shortfall import OpensByCount
from privfl.wire import ClientId, check_client


class CkksSum(OpensByCount):
    """Sums vectors that the server cannot read, and that one of the clients opens.

    More than half of the cohort must sign one survivor list before a sum is opened. Every client needs credentials.
    With `Credentials` every sum gets a fresh session key, unless the credentials hold one in `session_key`. With
    `StandingCredentials` one session key serves several sums. The scheme itself holds nothing secret.
    """

    name: str = NAME
    opener: Literal["server", "client"] = "client"

    messages_per_client: int = 5
    roster_noise: bool = False

    def __init__(self, directory: KeyDirectory, *, security: int = 128, min_vectors: int = MIN_VECTORS) -> None:
        """Make the scheme.

        Args:
            directory: The clients' signing keys; it must not come from the server.
            security: Security level in bits, 128, 192 or 256.
            min_vectors: The fewest vectors that a sum opens with; below 3 a sum hides nobody.

        Raises:
            ConfigError: `security` or `min_vectors` is out of range.
        """
        if security not in HE_STANDARD[1024]:
            raise ConfigError(f"security is one of {sorted(HE_STANDARD[1024])} bits, not {security!r}")
        check_count("min_vectors", min_vectors)
        if not callable(getattr(directory, "verify_key", None)):
            raise ConfigError(f"a key directory has a method verify_key, and {type(directory).__name__} has none")
        self._directory, self._security, self._min_vectors = SteadyDirectory(directory), security, min_vectors

    @property
    def views(self) -> Views:
        """Each observer's view. Every participant receives the session key and could decrypt; the server cannot."""
        return {"outsider": "release", "participant": "sum", "server": "release", "key_holder": "sum"}

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """Everything that decides the terms of a task."""
        return {"security": self._security, "min_vectors": self._min_vectors}

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """Return the largest of `min_survivors`, the quorum and `min_vectors`.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: The number in its task.

        Raises:
            ConfigError: A sum of `cohort` clients never opens.
        """
        if cohort < 1:
            raise ConfigError(f"a CKKS sum has at least 1 client, not {cohort}")
        needed = max(min_survivors, quorum_of(cohort), self._min_vectors)
        if needed > cohort:
            raise ConfigError(
                f"a CKKS sum of {cohort} clients never opens, because it needs {needed} vectors: sum more clients, or "
                "lower min_vectors if it need not hide them from each other"
            )
        return needed

    def terms(self, task: SumTask) -> Terms:
        """Return the public parameters of the sum of `task`; raises as `plan_ckks`, and for a sum that never opens."""
        check_type("task", task, SumTask)
        if task.min_survivors < 1:
            raise ConfigError("a CKKS sum opens at least 1 vector: set min_survivors of its task to 1 or more")
        refuse_noise(task.noise, NAME)
        plan, needed = plan_for(task, security=self._security), self.min_survivors_to_open(task)
        return Terms(task, plan, self._directory, quorum_of(len(task.clients)), task.digest(), needed)

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
        """Make a client's session.

        Args:
            task: The sum.
            me: This client, one of the cohort.
            vector: int64 `[length]`, with entries within the task's bound.
            credentials: This client's `Credentials` or `StandingCredentials`.
            policy: The least that this client insists on.
            opening: Runs here if this client opens; make it a `KeyedOpening` if it adds noise.
            entropy: The source of random bytes, except of encryption, which takes them from SEAL.
            tasks: The memory of tasks begun before, which `start` refuses; None takes that of the credentials.

        Raises:
            CapacityError: The sum does not fit the largest prime.
            ConfigError: Vector or credentials do not belong to this client and task.
            PlanRejected: The policy refuses the task.
        """
        terms, me = self.terms(task), check_client(me)
        check_type("policy", policy, SumPolicy)
        policy.check(task, threshold=terms.quorum)
        own, store = _credentials(credentials, me)
        values = checked_vector(task, me, vector)
        tasks = own.tasks if tasks is None else tasks
        return CkksClient(terms, me, values, own=own, store=store, tasks=tasks, opening=opening, entropy=entropy)

    def server(self, task: SumTask, *, opening: Opening = identity) -> CkksServer:
        """Make the server's session.

        Args:
            task: The sum.
            opening: Not used: a server never sees the sum before it.

        Raises:
            CapacityError: The sum does not fit the largest prime.
        """
        return CkksServer(self.terms(task))

    def resume(self, task: SumTask, state: bytes, *, opening: Opening = identity) -> CkksServer:
        """Return the server's session that `CkksServer.to_bytes` saved, in another process perhaps.

        Args:
            task: The sum.
            state: The saved bytes.
            opening: Not used, as in `server`.

        Raises:
            StateError: The bytes were altered, cut short, or belong to another task.
        """
        server = self.server(task, opening=opening)
        server.restore(state)
        return server


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
