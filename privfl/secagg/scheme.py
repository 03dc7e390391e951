"""`MaskedSum`: the masked sum behind the interface that all sums share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from privfl.checks import check_count, check_type
from privfl.crypto import Credentials, KeyDirectory, TaskMemory
from privfl.errors import ConfigError
from privfl.observers import Views
from privfl.ring import Ints, Opening
from privfl.secagg.client import MaskedClient
from privfl.secagg.planner import GraphPlan, ring_shortfall
from privfl.secagg.server import MaskedServer
from privfl.secagg.state import load_state
from privfl.secagg.terms import Assumptions, GraphChoice, Mode, Terms, graph_and_threshold, resolve
from privfl.sums.base import MIN_VECTORS, Entropy, SumPolicy, SumTask, identity
from privfl.sums.checks import checked_vector
from privfl.sums.shortfall import OpensByCount
from privfl.wire import ClientId, check_client

_WORD_BITS: Final = 32
"""A wider ring has words of 64 bits, of which packing saves a part."""


class MaskedSum(OpensByCount):
    """Secure aggregation by pairwise masks, after Bonawitz et al. 2017 (complete graph) and Bell et al. 2020 (ring).

    Args:
        directory: The signing key of each client; it must not come from the server. Without one there is only
            `mode="semi-honest"`.
        mode: "signed", or "semi-honest", which must be named and promises nothing against a server that lies.
        share_threshold: The holders that open a secret. By default floor(2m/3) + 1 of m holders in signed mode,
            floor(m/2) + 1 in the semi-honest mode, and the planner's on a ring.
        graph: "complete", an even degree, or "auto": complete up to 100 clients, planned beyond.
        corrupt: The fraction of the cohort, in [0, 1), that may collude with the server.
        dropout: The fraction of the cohort, in [0, 1), that may drop out.
        security_bits: The bits of security that a ring must reach.
        correctness_bits: The bits of correctness that a ring must reach.
        packed: True sends exactly `bits` bits a value, False whole words; "wide" packs only in rings above 32 bits.
        threads: The number of threads that expand masks.
        min_vectors: Fewer vectors are never opened. A sum of fewer than 3 carries a caveat.

    Raises:
        ConfigError: An argument is outside its range, or the mode and the directory do not fit.
    """

    name: str = "masked-sum/1"
    opener: Literal["server", "client"] = "server"
    roster_noise: bool = True

    def __init__(
        self,
        directory: KeyDirectory | None = None,
        *,
        mode: Mode = "signed",
        share_threshold: int | None = None,
        graph: GraphChoice = "auto",
        corrupt: float = 0.05,
        dropout: float = 0.1,
        security_bits: int = 40,
        correctness_bits: int = 20,
        packed: bool | Literal["wide"] = False,
        threads: int = 1,
        min_vectors: int = MIN_VECTORS,
    ) -> None:
        if mode not in ("signed", "semi-honest"):
            raise ConfigError(f"mode is 'signed' or 'semi-honest', not {mode!r}")
        if (mode == "signed") != (directory is not None):
            raise ConfigError("signed mode needs a key directory, and only signed mode takes one")
        if directory is not None and not callable(getattr(directory, "verify_key", None)):
            raise ConfigError(f"a key directory has a method verify_key, and {type(directory).__name__} has none")
        check_count("threads", threads)
        check_count("min_vectors", min_vectors)
        check_type("share_threshold", share_threshold, int, type(None))
        check_type("graph", graph, int, str)
        if not (isinstance(packed, bool) or packed == "wide"):
            raise ConfigError(f"packed is True, False or 'wide', not {packed!r}")
        self._directory, self._min_vectors = directory, min_vectors
        self._signed = mode == "signed"
        self._threshold, self._graph, self._packed, self._threads = share_threshold, graph, packed, threads
        self._assume = Assumptions(corrupt, dropout, security_bits, correctness_bits)

    @property
    def views(self) -> Views:
        """The server opens the sum, and everybody else sees what is published."""
        return {"outsider": "release", "participant": "release", "server": "sum"}

    @property
    def messages_per_client(self) -> int:
        """Five messages, or four in the semi-honest mode, which has no consistency check."""
        return 5 if self._signed else 4

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """Everything that decides the terms of a task; "auto" stands for a default that follows the cohort."""
        return {
            "mode": "signed" if self._signed else "semi-honest",
            "share_threshold": "auto" if self._threshold is None else self._threshold,
            "graph": self._graph,
            "corrupt": self._assume.corrupt,
            "dropout": self._assume.dropout,
            "security_bits": self._assume.security_bits,
            "correctness_bits": self._assume.correctness_bits,
            "packed": self._packed,
            "min_vectors": self._min_vectors,
        }

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """The largest of `min_survivors`, the share threshold and `min_vectors`.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: A sum of `cohort` clients never opens.
        """
        least = self._fewest(cohort, min_survivors)[1]
        if least > cohort:
            raise ConfigError(f"a masked sum of {cohort} clients never opens, because it needs {least} vectors")
        return least

    def min_survivors_to_open(self, task: SumTask) -> int:
        """`min_survivors_of` the cohort and the minimum of `task`, no fewer than the members that its noise needs."""
        members = 0 if task.noise is None else task.noise.min_members_to_open
        return self.min_survivors_of(len(task.clients), max(task.min_survivors, members))

    def shortfall(self, cohort: int, dropout: float, *, min_survivors: int = 1) -> float | None:
        """The bound of `OpensByCount`, and of `ring_shortfall` on a ring.

        Args:
            cohort: The number of clients of the sum, at least 0.
            dropout: The probability that one client drops out at any step, independently of all others.
            min_survivors: What its task asks for.
        """
        few = super().shortfall(cohort, dropout, min_survivors=min_survivors)
        if few is None or few == 1:
            return few
        ring, least = self._fewest(cohort, min_survivors)
        return few if ring is None else ring_shortfall(ring, least, dropout)

    def _fewest(self, cohort: int, min_survivors: int) -> tuple[GraphPlan | None, int]:
        """(the ring if the graph is one, the fewest vectors that open)."""
        if cohort < 1:
            raise ConfigError(f"a masked sum has at least 1 client, not {cohort}")
        ring, threshold = graph_and_threshold(
            cohort, signed=self._signed, graph=self._graph, threshold=self._threshold, assume=self._assume
        )
        return ring, max(min_survivors, threshold, self._min_vectors)

    def terms(self, task: SumTask) -> Terms:
        """The terms that all parties of `task` agree on."""
        check_type("task", task, SumTask)
        return resolve(
            task,
            signed=self._signed,
            packed=task.ring.bits > _WORD_BITS if self._packed == "wide" else self._packed,
            graph=self._graph,
            threshold=self._threshold,
            assume=self._assume,
            min_vectors=self._min_vectors,
        )

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
    ) -> MaskedClient:
        """A client's session.

        Args:
            task: The task of the sum.
            me: The client.
            vector: int64 `[task.length]`, |entry| <= task.bound.
            credentials: The client's `Credentials` in signed mode.
            policy: What this client insists on.
            opening: Ignored here; it is the server's.
            entropy: A function from n to n random bytes.
            tasks: The memory of this client's tasks, because of which `start` refuses a task begun before. By default
                the credentials' own memory, if there are credentials.

        Raises:
            ConfigError: The vector, the credentials or another argument does not fit the task.
            PlanRejected: The task or the thresholds are below `policy`.
        """
        terms, me = self.terms(task), check_client(me)
        check_type("policy", policy, SumPolicy)
        if not callable(entropy):
            raise ConfigError(f"entropy must be a function from n to n bytes, not {type(entropy).__name__}")
        policy.check(task, threshold=terms.threshold)
        checked = checked_vector(task, me, vector)
        if self._signed and (not isinstance(credentials, Credentials) or credentials.client != me):
            raise ConfigError(f"signed mode needs the credentials of client {me}")
        signing = credentials.signing if self._signed else None
        if tasks is None and isinstance(credentials, Credentials):
            tasks = credentials.tasks
        return MaskedClient(
            terms,
            me,
            checked,
            signing=signing,
            directory=self._directory,
            tasks=tasks,
            entropy=entropy,
            threads=self._threads,
        )

    def resume_client(
        self,
        task: SumTask,
        me: ClientId,
        state: bytes,
        *,
        credentials: Any = None,
        policy: SumPolicy = SumPolicy(),
        opening: Opening = identity,
        entropy: Entropy = os.urandom,
        tasks: TaskMemory | None = None,
    ) -> MaskedClient:
        """The client's session that `MaskedClient.to_bytes` saved, in another process perhaps.

        Args:
            task: The task of the session.
            me: The client.
            state: The saved bytes; they hold no long-term key.
            credentials: The client's `Credentials` in signed mode.
            policy: What this client insists on, as in `client`.
            opening: Ignored, as in `client`.
            entropy: Where the rest of the session takes random bytes from.
            tasks: What notes that the state was restored, durably; the credentials' own memory by default.

        Raises:
            StateError: The bytes were altered, cut short, or belong to other terms; or the state was restored before,
                or the session that saved it went on without it.
            ConfigError: As `client`, and where there is no memory that could refuse a second restoration.
        """
        zeros = np.zeros(task.length, np.int64)
        client = self.client(task, me, zeros, credentials=credentials, policy=policy, entropy=entropy, tasks=tasks)
        client.restore(state)
        return client

    def server(self, task: SumTask, *, opening: Opening = identity) -> MaskedServer:
        """The server's session; it holds one running total for any number of clients.

        Args:
            task: The task of the sum.
            opening: The function that the server applies to the sum before it is released; by default the identity.
        """
        return MaskedServer(self.terms(task), directory=self._directory, opening=opening, threads=self._threads)

    def resume(self, task: SumTask, state: bytes, *, opening: Opening = identity) -> MaskedServer:
        """The server's session that `MaskedServer.to_bytes` wrote, in another process perhaps.

        Args:
            task: The task of the session.
            state: The saved bytes.
            opening: As in `server`.

        Raises:
            StateError: The bytes were altered, cut short, or belong to other terms.
        """
        server = self.server(task, opening=opening)
        load_state(server.state, state)
        return server
