"""The interface of every sum: integers in, the exact integer sum of the survivors out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from privfl.checks import check_type
from privfl.errors import CapacityError, ConfigError, PlanRejected
from privfl.observers import Views
from privfl.ring import Ints, Opening, Ring
from privfl.sums.noise import RosterNoise
from privfl.wire import SERVER, U16, U64, Blob, ClientId, IdSet, wired, write_fields

MAX_CLIENTS: Final = 100_000
MAX_LENGTH: Final = 1 << 28
"""2 GiB of 64-bit words: what fits a message, whose body length is a u32."""

MIN_VECTORS: Final = 3
"""Fewer vectors than this are opened only if the sum allows it: of two, each client learns the other's."""

_LABEL: Final = b"privfl/1 sum-task"

Entropy = Callable[[int], bytes]
"""`os.urandom`, or outside of production a recorded stream: n -> n bytes."""


def identity(total: Ints, survivors: frozenset[ClientId]) -> Ints:
    """Return the sum unchanged.

    Args:
        total: The sum, int64 `[length]`.
        survivors: The clients whose vectors are in it.
    """
    return total


@dataclass(frozen=True, slots=True)
class KeyedOpening:
    """An opening that uses random bytes: `make(entropy)` gives the opening itself.

    Any of several clients may be the one to open. The scheme then calls `make` with a source of bytes derived from what
    they share and from the transcript. Every opener therefore releases equal integers, and no repetition with fresh
    noise can be averaged. Used as it is, at a server that opens alone, it takes bytes from the operating system.
    """

    make: Callable[[Entropy], Opening]

    def __call__(self, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        return self.make(os.urandom)(total, survivors)


@dataclass(frozen=True, slots=True)
class SumTask:
    """The agreement of all parties of one sum.

    Attributes:
        context: Bytes that bind the sum to the round around it: a digest, at most 1 KiB.
        clients: The cohort, increasing.
        min_survivors: The minimum of vectors that are opened. A plain sum may have 0, and then always opens.
        length: The entries of a vector.
        ring: The ring of the sum.
        bound: The maximum of an entry's magnitude.
        max_sum: The bound of each entry of the sum where a smaller one than `bound` times the number of clients is
            known, as for weights of a known total. 0 if none is known.
        noise: The noise that the clients of the roster add inside the sum, or None. `bound` covers it.

    Raises:
        ConfigError: A value is out of range.
        CapacityError: The sum of all clients' bounds would leave the ring.
    """

    context: bytes
    clients: tuple[ClientId, ...]
    min_survivors: int
    length: int
    ring: Ring
    bound: int
    max_sum: int = 0
    noise: RosterNoise | None = None
    _digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_type("context", self.context, bytes)
        check_type("clients", self.clients, tuple)
        check_type("ring", self.ring, Ring)
        cohort = len(self.clients)
        for name, value in self._integers():
            if type(value) is not int:  # a numpy integer overflows, and has no canonical form
                raise ConfigError(f"{name} must be an int, not {value!r} of {type(value).__name__}")
        if len(self.context) > 1024:
            raise ConfigError(f"the context has {len(self.context)} bytes, at most 1024 are allowed")
        if not 1 <= cohort <= MAX_CLIENTS:
            raise ConfigError(f"a sum has 1 to {MAX_CLIENTS} clients, not {cohort}")
        if any(not 0 <= c < SERVER for c in self.clients) or list(self.clients) != sorted(set(self.clients)):
            raise ConfigError("clients must be strictly increasing identities in [0, 2^32 - 2]")
        if not 0 <= self.min_survivors <= cohort:
            raise ConfigError(f"min_survivors must be in [0, {cohort}], not {self.min_survivors}")
        if not 1 <= self.length <= MAX_LENGTH:
            raise ConfigError(f"length must be in [1, {MAX_LENGTH}], not {self.length}")
        if self.bound < 0:
            raise ConfigError(f"bound must be at least 0, not {self.bound}")
        if self.vector_bound < 0:
            raise ConfigError(
                f"bound is {self.bound}, and the noise of one client alone may reach {self.bound - self.vector_bound}"
            )
        if self.max_sum and not self.bound <= self.max_sum < cohort * self.bound:
            raise ConfigError(
                f"max_sum must be 0, or at least the bound of {self.bound} and below {cohort} times it, "
                f"not {self.max_sum}"
            )
        limit = self.limit(cohort)
        if limit >= self.ring.half:
            raise CapacityError(
                f"{cohort} clients with entries up to {self.bound} need a ring of {limit.bit_length() + 1} bits, "
                f"not {self.ring.bits}"
            )
        form = _TaskForm(self.context, self.clients, self.min_survivors, self.length, self.ring.bits, self.bound)
        total = self.max_sum.to_bytes(8, "little") if self.max_sum else b""
        # Once for all: with 10^4 clients in one process it would otherwise be most of the work.
        object.__setattr__(self, "_digest", hashlib.sha256(_LABEL + write_fields(form) + total).digest())

    @property
    def vector_bound(self) -> int:
        """The maximum of an entry's magnitude before the sum adds noise to it."""
        return self.bound - (0 if self.noise is None else self.noise.reach)

    def limit(self, survivors: int) -> int:
        """The bound of each entry of the sum of `survivors` vectors."""
        return min(survivors * self.bound, self.max_sum or survivors * self.bound)

    def digest(self) -> bytes:
        """32 bytes: SHA-256 of the canonical form under its label."""
        return self._digest

    def _integers(self) -> Iterator[tuple[str, object]]:
        yield "min_survivors", self.min_survivors
        yield "length", self.length
        yield "bound", self.bound
        yield "max_sum", self.max_sum
        for client in self.clients:
            yield "a client", client


@dataclass(frozen=True, slots=True)
class _TaskForm:
    context: bytes = wired(Blob(1024))
    clients: tuple[ClientId, ...] = wired(IdSet(MAX_CLIENTS))
    min_survivors: int = wired(U64)
    length: int = wired(U64)
    bits: int = wired(U16)
    bound: int = wired(U64)


@dataclass(frozen=True, slots=True, order=True)
class Dispute:
    """A bad share that either its dealer or its holder spoiled.

    Attributes:
        dealer: The client that dealt the share.
        holder: The client that should have given it.
        kind: For "missing" the holder gave none. A "wrong" share does not lie on the polynomial of the dealer's
            secret. An "unopened" one is among the shares from which the dealer's secret could not be found.
    """

    dealer: ClientId
    holder: ClientId
    kind: Literal["missing", "wrong", "unopened"]


@dataclass(frozen=True, slots=True, eq=False)
class SumResult:
    """The opened sum: int64 `[length]`, centered, with the opening applied.

    Attributes:
        total: The sum.
        survivors: The clients whose vectors are in it.
        transcript: A 32-byte digest of what was opened for whom.
        blamed: The clients that broke the rules, and how: their messages were refused, or their shares were bad.
        undecided: Bad shares that either the dealer or the holder spoiled.
        caveats: Sentences on what this sum does not promise.
    """

    total: Ints = field(repr=False)
    survivors: frozenset[ClientId]
    transcript: bytes
    blamed: Mapping[ClientId, str] = field(default_factory=dict)
    undecided: tuple[Dispute, ...] = ()
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SumPolicy:
    """The minima that a client insists on; `check` raises `PlanRejected` below them.

    Attributes:
        min_cohort: The minimum number of clients.
        min_survivors: The minimum of vectors that are opened.
        min_threshold: The minimum share threshold, where the scheme has one.
    """

    min_cohort: int = 1
    min_survivors: int = 0
    min_threshold: int = 1

    def __post_init__(self) -> None:
        for name in ("min_cohort", "min_survivors", "min_threshold"):
            check_type(name, getattr(self, name), int)

    def check(self, task: SumTask, *, threshold: int | None = None) -> None:
        """Raise `PlanRejected` for a task below these minima.

        Args:
            task: The task.
            threshold: The scheme's share threshold, where it has one.
        """
        demands = [
            ("cohort", len(task.clients), self.min_cohort),
            ("min_survivors", task.min_survivors, self.min_survivors),
        ]
        if threshold is not None:
            demands.append(("share_threshold", threshold, self.min_threshold))
        for name, found, least in demands:
            if found < least:
                raise PlanRejected(f"{name} is {found}, and this client insists on at least {least}")


class ClientSession(Protocol):
    """One client's side of one sum: bytes in, bytes out; aborted for good after an error in a step it accepted."""

    @property
    def finished(self) -> bool:
        """True once the last message has been sent; an aborted session never is."""
        ...

    def start(self) -> bytes:
        """The first message."""
        ...

    def receive(self, message: bytes) -> bytes | None:
        """Answer one message of the server; None where no answer is due. A `WireError` has changed nothing."""
        ...


class ServerSession(Protocol):
    """The server's side of one sum."""

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """Clients whose message of the present step has not come."""
        ...

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once there is one."""
        ...

    @property
    def ready(self) -> bool:
        """True if `advance()` would succeed now."""
        ...

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Take one client's message. After a `RemoteProtocolError` its sender is dropped, and the session goes on.

        Args:
            sender: The client.
            message: The bytes.

        Raises:
            RemoteProtocolError: The sender broke the rules.
            WireError: The bytes are unusable; nothing has changed.
        """
        ...

    def drop(self, client: ClientId) -> None:
        """Declare that a client has dropped out: nothing is awaited from it any more."""
        ...

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step: the clients that have not answered have dropped out. Returns the next step's messages.

        Raises:
            LocalProtocolError: Too few have answered yet, and others are awaited; nothing has changed.
            TooFewSurvivors: Too few have answered, and no other is awaited; the session is over.
        """
        ...


class SecureSum(Protocol):
    """A way to sum integer vectors. Only this object states what the sum guarantees."""

    @property
    def name(self) -> str:
        """The scheme and the version of its protocol, such as "plain-sum/1"."""
        ...

    @property
    def opener(self) -> Literal["server", "client"]:
        """The party that opens the sum, and so runs the opening."""
        ...

    @property
    def views(self) -> Views:
        """The part of one sum that each observer sees; "sum" and "vectors" are seen before the opener's noise."""
        ...

    @property
    def roster_noise(self) -> bool:
        """True if the clients of the roster can add noise that needs the roster inside the sum."""
        ...

    @property
    def messages_per_client(self) -> int:
        """The maximum number of messages that one client sends in one sum."""
        ...

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """Everything of the scheme that both sides must share next to the task, in JSON scalars."""
        ...

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """The fewest vectors that a sum of `cohort` clients opens.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: The scheme never opens a sum of so few clients.
        """
        ...

    def min_survivors_to_open(self, task: SumTask) -> int:
        """`min_survivors_of` the cohort and the `min_survivors` of `task`."""
        ...

    def shortfall(self, cohort: int, dropout: float, *, min_survivors: int = 1) -> float | None:
        """At least the probability that a sum opens nothing, or None where no bound is known.

        Args:
            cohort: The number of clients of the sum, at least 0.
            dropout: The probability that one client drops out at any step, independently of all others.
            min_survivors: What its task asks for.

        Returns:
            A probability that does not decrease in `dropout`; 1 where a sum of `cohort` clients can never open.

        Raises:
            ConfigError: `dropout` is not a probability.
        """
        ...

    def client(
        self,
        task: SumTask,
        me: ClientId,
        vector: Ints,
        *,
        credentials: Any = None,
        policy: SumPolicy = ...,
        opening: Opening = ...,
        entropy: Entropy = ...,
    ) -> ClientSession:
        """Return a client's session.

        Args:
            task: The task.
            me: The client.
            vector: int64 `[task.length]`, each |entry| <= task.bound.
            credentials: The client's keys, where the scheme needs them.
            policy: The minima that it insists on.
            opening: Applied to the sum, where clients open it.
            entropy: A source of random bytes, such as `os.urandom`.
        """
        ...

    def server(self, task: SumTask, *, opening: Opening = ...) -> ServerSession:
        """Return the server's session.

        Args:
            task: The task.
            opening: Applied to the sum, where the server opens it.
        """
        ...
