"""The terms that the parties of one masked sum agree on beyond the task, checked before anything runs.

The digest of the terms, called `session` everywhere else, stands in the header of every message, in every signature
and in every derived key. It is SHA-256("privfl/1 masked-sum terms" | the fields of `_TermsForm` below, as in wire.py).
Where the task has noise that needs the roster, the fields of `_NoiseForm` follow.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_type
from privfl.errors import ConfigError
from privfl.secagg.planner import GraphPlan, assess_cohort, cohort_arc, plan_graph
from privfl.sums.base import MAX_CLIENTS, SumTask
from privfl.sums.noise import RosterNoise
from privfl.wire import U8, U32, U64, Fixed, Uint, wired, write_fields

Mode = Literal["signed", "semi-honest"]
GraphChoice = Literal["auto", "complete"] | int

COMPLETE_UP_TO: Final = 100
"""Up to this many clients everybody shares with everybody, unless another graph is asked for."""

_LABEL: Final = b"privfl/1 masked-sum terms"
_COUNT: Final = Uint(4, MAX_CLIENTS)


@dataclass(frozen=True, slots=True)
class Terms:
    """One masked sum's parameters.

    Attributes:
        task: The task.
        signed: True in signed mode, False in the semi-honest mode.
        packed: True if masked vectors take exactly the ring's bits a value, False if whole words.
        degree: The neighbors of a client on the ring; 0 is the complete graph.
        threshold: The holders of a client (all clients, or its neighbors) that open a secret.
        arc: The least number of survivors among any degree / 2 consecutive places; 0 without a ring.
        min_roster: Fewer advertisements start nothing.
        min_vectors: Fewer vectors are never opened.
    """

    task: SumTask
    signed: bool
    packed: bool
    degree: int
    threshold: int
    arc: int
    min_roster: int
    min_vectors: int
    session: bytes = field(init=False, compare=False)
    _cohort: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        form = _TermsForm(
            self.task.digest(),
            int(self.signed),
            int(self.packed),
            self.degree,
            self.threshold,
            self.arc,
            self.min_roster,
            self.min_vectors,
        )
        noise = b"" if self.noise is None else write_fields(_NoiseForm.of(self.noise))
        object.__setattr__(self, "_cohort", np.array(self.task.clients, np.int64))
        object.__setattr__(self, "session", hashlib.sha256(_LABEL + write_fields(form) + noise).digest())

    def digest(self) -> bytes:
        """32 bytes: the session."""
        return self.session

    def in_cohort(self, clients: npt.NDArray[Any]) -> bool:
        """True if all of these identities are in the cohort."""
        places = np.searchsorted(self._cohort, clients)
        return bool((places < len(self._cohort)).all() and (self._cohort[places] == clients).all())

    @property
    def noise(self) -> RosterNoise | None:
        """The noise that members of the roster add inside the sum."""
        return self.task.noise

    @property
    def min_survivors(self) -> int:
        """Fewer vectors than this are not summed: the task's own demand, and `min_vectors`."""
        return max(self.task.min_survivors, self.min_vectors)

    @property
    def max_corrupt(self) -> int:
        """The most corrupt clients, among all clients or the neighbors of one, that `threshold` tolerates."""
        holders = self.degree or len(self.task.clients)
        return 2 * self.threshold - holders - 1 if self.signed else self.threshold - 1

    @property
    def min_survivors_to_open(self) -> int:
        """Below this many vectors nothing is opened: fewer holders than the threshold can open no secret.

        A sum with noise that needs the roster has at least as many vectors as members that it needs.
        """
        members = 0 if self.noise is None else self.noise.min_members_to_open
        return max(self.min_survivors, self.threshold, members)


@dataclass(frozen=True, slots=True)
class _TermsForm:
    task: bytes = wired(Fixed(32))
    signed: int = wired(U8)
    packed: int = wired(U8)
    degree: int = wired(_COUNT)
    threshold: int = wired(_COUNT)
    arc: int = wired(_COUNT)
    min_roster: int = wired(U32)
    min_vectors: int = wired(U32)


@dataclass(frozen=True, slots=True)
class _NoiseForm:
    spare: int = wired(U32)
    min_members_to_open: int = wired(U32)
    members: int = wired(U32)
    variance: bytes = wired(Fixed(8))  # binary64, little-endian
    reach: int = wired(U64)

    @classmethod
    def of(cls, noise: RosterNoise) -> _NoiseForm:
        variance = struct.pack("<d", noise.variance)
        return cls(noise.spare, noise.min_members_to_open, noise.members, variance, noise.reach)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """The conditions that a masked sum is planned for.

    Attributes:
        corrupt: The fraction of the cohort, in [0, 1), that colludes with the server.
        dropout: The fraction of the cohort, in [0, 1), that drops out.
        security_bits: A ring breaks security with probability at most 2^-security_bits.
        correctness_bits: A ring fails to open with probability at most 2^-correctness_bits.
    """

    corrupt: float
    dropout: float
    security_bits: int
    correctness_bits: int

    def __post_init__(self) -> None:
        for name, value in (("corrupt", self.corrupt), ("dropout", self.dropout)):
            check_type(name, value, float, int)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be a fraction in [0, 1), not {value!r}")
        check_count("security_bits", self.security_bits)
        check_count("correctness_bits", self.correctness_bits)


@lru_cache(maxsize=8)  # in a simulation every client asks for the same
def resolve(
    task: SumTask,
    *,
    signed: bool,
    packed: bool,
    graph: GraphChoice,
    threshold: int | None,
    assume: Assumptions,
    min_vectors: int,
) -> Terms:
    """The terms of a task.

    Args:
        task: The task.
        signed: True in signed mode, where the server may lie.
        packed: True for exactly the ring's bits a value, False for whole words.
        graph: As in `choose_graph`.
        threshold: The share threshold, or None for the default.
        assume: The conditions that the sum is planned for.
        min_vectors: Fewer vectors are never opened.

    Raises:
        ConfigError: The sum could never open, or the scheme would promise nothing under these thresholds.
    """
    cohort, noisy = len(task.clients), 1 if task.noise is None else task.noise.min_members_to_open
    if noisy > cohort:
        raise ConfigError(
            f"a masked sum of {cohort} clients never opens, because its noise needs {noisy} members: sum more clients, "
            "or lower min_members_to_open"
        )
    if task.min_survivors < 1:
        raise ConfigError("a masked sum opens at least 1 vector: set min_survivors of its task to 1 or more")
    if cohort < min_vectors:
        raise ConfigError(
            f"a masked sum of {cohort} clients never opens, because it needs min_vectors = {min_vectors} vectors: "
            "sum more clients, or lower min_vectors if it need not hide them from each other"
        )
    plan = choose_graph(cohort, signed, graph, threshold, assume)
    if plan is None:
        chosen = complete_threshold(cohort, signed, threshold, assume)
        least = max(chosen, task.min_survivors, min_vectors, noisy)
        return Terms(task, signed, packed, 0, chosen, 0, least, min_vectors)
    least = max(plan.min_roster, task.min_survivors, min_vectors, noisy)
    return Terms(task, signed, packed, plan.degree, plan.threshold, plan.arc, least, min_vectors)


def graph_and_threshold(
    cohort: int, *, signed: bool, graph: GraphChoice, threshold: int | None, assume: Assumptions
) -> tuple[GraphPlan | None, int]:
    """The ring of a cohort, or None for the complete graph, and the shares that open a secret.

    Args:
        cohort: The number of clients.
        signed: True in signed mode, where the server may lie.
        graph: As in `choose_graph`.
        threshold: The share threshold, or None for the default.
        assume: The conditions that the sum is planned for.

    Raises:
        ConfigError: No graph or threshold meets the conditions.
    """
    plan = choose_graph(cohort, signed, graph, threshold, assume)
    return plan, complete_threshold(cohort, signed, threshold, assume) if plan is None else plan.threshold


def choose_graph(
    cohort: int, signed: bool, graph: GraphChoice, threshold: int | None, assume: Assumptions
) -> GraphPlan | None:
    """The ring for a cohort, or None for the complete graph.

    Args:
        cohort: The number of clients.
        signed: Whether the server may lie.
        graph: "complete", an even degree, or "auto": complete up to `COMPLETE_UP_TO` clients, a planned ring beyond.
        threshold: The share threshold, or None for the default.
        assume: What the ring has to reach.

    Raises:
        ConfigError: No ring reaches it. There is no fall-back: a complete graph of a large cohort is asked for by name.
    """
    if graph == "complete" or (graph == "auto" and cohort <= COMPLETE_UP_TO):
        return None
    if graph == "auto":
        plan = _planned(cohort, signed, assume)
        return plan if threshold is None else _explicit(cohort, signed, plan.degree, threshold, assume)
    if not isinstance(graph, int) or graph % 2 or not 2 <= graph < cohort:
        raise ConfigError(f"graph is 'auto', 'complete' or an even degree in [2, {cohort - 1}], not {graph!r}")
    return _explicit(cohort, signed, graph, 2 * graph // 3 + 1 if threshold is None else threshold, assume)


@lru_cache(maxsize=1 << 12)  # the shortfall of a sampled cohort asks for every size
def _planned(cohort: int, signed: bool, assume: Assumptions) -> GraphPlan:
    try:
        return plan_graph(
            cohort,
            assume.corrupt,
            assume.dropout,
            malicious=signed,
            security_bits=assume.security_bits,
            correctness_bits=assume.correctness_bits,
        )
    except ConfigError as error:
        remedy = "Assume fewer corrupt clients or fewer dropouts"
        with contextlib.suppress(ConfigError):
            complete_threshold(cohort, signed, None, assume)
            remedy += f", or set graph = 'complete' (privfl plan: --degree 0), of {cohort - 1} neighbors each"
        raise ConfigError(f"{error}. {remedy}") from error


@lru_cache(maxsize=1 << 12)
def _explicit(cohort: int, signed: bool, degree: int, threshold: int, assume: Assumptions) -> GraphPlan:
    low = degree // 2 + 1 if signed else 1
    if not low <= threshold <= degree:
        raise ConfigError(f"share_threshold must be in [{low}, {degree}] for degree {degree}, not {threshold}")
    arc = max(threshold - degree // 2, cohort_arc(cohort, assume.dropout, degree, assume.correctness_bits))
    plan = assess_cohort(
        cohort, assume.corrupt, assume.dropout, degree=degree, threshold=threshold, arc=arc, malicious=signed
    )
    if assume.corrupt == 0:  # nobody can stand for an arc, and every arc holds a survivor
        return replace(plan, security_bits=math.inf)
    if plan.security_bits < assume.security_bits:
        raise ConfigError(
            f"degree {degree} with threshold {threshold} gives {max(plan.security_bits, 0.0):.1f} bits of security "
            f"where {100 * assume.corrupt:g} % of {cohort} clients are corrupt and {plan.min_roster} can start the "
            f"sum, not {assume.security_bits}. Raise the degree or the threshold, or assume fewer corrupt clients"
        )
    return plan


def complete_threshold(cohort: int, signed: bool, threshold: int | None, assume: Assumptions) -> int:
    """The share threshold of a complete graph, given or by default.

    Args:
        cohort: The number of clients.
        signed: True in signed mode, where the server may lie.
        threshold: The share threshold, or None for the default.
        assume: The conditions that the sum is planned for.

    Raises:
        ConfigError: The threshold is outside its range, or the planned dropouts would leave fewer clients than it.
    """
    colluding = math.floor(assume.corrupt * cohort + 1e-9)
    low = (cohort + colluding) // 2 + 1 if signed else colluding + 1
    usual = 2 * cohort // 3 + 1 if signed else cohort // 2 + 1
    chosen = max(low, usual) if threshold is None else threshold
    if not low <= chosen <= cohort:
        raise ConfigError(
            f"share_threshold must be in [{low}, {cohort}] for {cohort} clients of whom {colluding} may be corrupt, "
            f"not {chosen}"
        )
    gone = math.floor(assume.dropout * cohort + 1e-9)
    if cohort - gone < chosen:
        raise ConfigError(
            f"dropout {assume.dropout:g} plans for {gone} of {cohort} clients dropping out, and a share_threshold of "
            f"{chosen} allows {cohort - chosen}: nothing would be opened (thresholds from {low} on are safe)"
        )
    return chosen
