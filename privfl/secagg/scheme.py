"""`MaskedSum`: the masked sum behind the interface that all sums share."""

from __future__ import annotations

import os
from typing import Any, Literal

from privfl.crypto import Credentials, KeyDirectory, TaskMemory
from privfl.errors import ConfigError
from privfl.ring import Ints
from privfl.secagg.client import MaskedClient
from privfl.secagg.server import MaskedServer
from privfl.secagg.state import load_state
from privfl.secagg.terms import Assumptions, GraphChoice, Mode, Terms, resolve
from privfl.sums.base import Entropy, Opening, SumPolicy, SumTask, checked_vector, identity
from privfl.wire import ClientId


class MaskedSum:
    """Secure aggregation by pairwise masks, after Bonawitz et al. 2017 (complete graph) and Bell et al. 2020 (ring).

    `directory` tells whose signing key is whose; it must not come from the server. Without one there is only
    `mode="semi-honest"`, which must be asked for by name and promises nothing against a server that lies.

    `share_threshold` holders open a secret; the default is floor(2m/3) + 1 of m holders in signed mode, floor(m/2) + 1
    in the semi-honest one, and the planner's on a ring. `graph` is "complete", an even degree, or "auto": complete up
    to 100 clients, planned beyond. `corrupt` and `dropout` are the fractions of the cohort planned for. `packed` sends
    exactly `bits` bits a value instead of whole words; `threads` expand masks. Raises `ConfigError`.
    """

    name: str = "masked-sum/1"
    opener: Literal["server", "client"] = "server"

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
        packed: bool = False,
        threads: int = 1,
    ) -> None:
        if mode not in ("signed", "semi-honest"):
            raise ConfigError(f"mode is 'signed' or 'semi-honest', not {mode!r}")
        if (mode == "signed") != (directory is not None):
            raise ConfigError("signed mode needs a key directory, and only signed mode takes one")
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, not {threads}")
        self._directory = directory
        self._signed = mode == "signed"
        self._threshold, self._graph, self._packed, self._threads = share_threshold, graph, packed, threads
        self._assume = Assumptions(corrupt, dropout, security_bits, correctness_bits)

    def terms(self, task: SumTask) -> Terms:
        """What all parties of `task` will agree on."""
        return resolve(
            task,
            signed=self._signed,
            packed=self._packed,
            graph=self._graph,
            threshold=self._threshold,
            assume=self._assume,
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
        """A client's session over int64 `[task.length]`, |entry| <= task.bound.

        `credentials` are its `Credentials` in signed mode; the opening is the server's. `tasks` remembers what this
        client took part in, so that `start` refuses a task begun before; the credentials' own memory, if there are
        credentials and no other is given. Raises `ConfigError`, and `PlanRejected` when the task or the thresholds are
        below `policy`.
        """
        terms = self.terms(task)
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

    def server(self, task: SumTask, *, opening: Opening = identity) -> MaskedServer:
        """The server's session; it holds one running total, whatever the number of clients."""
        return MaskedServer(self.terms(task), directory=self._directory, opening=opening, threads=self._threads)

    def resume(self, task: SumTask, state: bytes, *, opening: Opening = identity) -> MaskedServer:
        """The server's session that `MaskedServer.to_bytes` wrote, in another process perhaps.

        Raises `StateError` for bytes that were altered, cut short, or belong to other terms.
        """
        server = self.server(task, opening=opening)
        load_state(server.state, state)
        return server
