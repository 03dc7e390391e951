"""The price of noise inside a masked sum, before it starts: the figures of `privfl plan --noise`.

Four ways of adding noise that the server cannot subtract are compared. All of them keep one promise in every sum that
opens. The noise that a coalition of `spare` clients knows nothing of has at least the variance of central noise.

    shares              each client adds an equal share, sized for the fewest clients in the sum (placement distributed)
    groups              clients in groups of two or more; within a group they stand in for each other
    mesh                each two members stand in for each other (placement mesh; privfl/dp/mesh.py)
    add-then-remove     XNoise of Dordis (Jiang et al., EuroSys 2024): surplus noise is removed once it is known who
                        stayed. Figures only: it is not built here.

All variances are divided by the variance of central noise. Every client is a client of the roster, and drops out
independently before its vector is sent.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_type
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.shamir import SHARE_BYTES
from privfl.errors import ConfigError
from privfl.secagg.plan import Speed
from privfl.secagg.planner import MAX_CLIENTS
from privfl.secagg.terms import COMPLETE_UP_TO, Assumptions, Mode, complete_threshold
from privfl.sums.shortfall import binomial_shortfall

ALL_UP_TO: Final = 32
"""In a sum of up to this many clients all are members of mesh noise, unless `members` gives another number."""

TOLERANCE: Final = 1.03
"""Above `ALL_UP_TO` clients, the fewest members are chosen whose price is within this factor of the best one."""

MAX_GROUPS: Final = 512
_SPEED: Final = Speed()
_Floats = npt.NDArray[np.float64]
Way = Literal["shares", "groups", "mesh", "add-then-remove"]


@dataclass(frozen=True, slots=True)
class NoisePrice:
    """The price of one way of adding noise.

    Attributes:
        way: The way.
        members: The clients that add noise.
        min_members_to_open: The fewest of them in a sum that opens; for groups, the fewest groups with a client in it.
        full_variance: The variance if nobody drops out, divided by that of central noise.
        mean_variance: The mean over the sums that open.
        max_variance: The largest variance of a sum that opens.
        failure: The probability that a sum does not open.
        bytes: Bytes that one client sends and receives for the noise.
        client_samples: Vectors of noise that one client samples.
        server_samples: Vectors of noise that the server samples, at most.
        client_seconds: Seconds of one core for them at one client.
        server_seconds: Seconds of one core for them at the server, at most.
    """

    way: Way
    members: int
    min_members_to_open: int
    full_variance: float
    mean_variance: float
    max_variance: float
    failure: float
    bytes: int
    client_samples: int
    server_samples: int
    client_seconds: float
    server_seconds: float


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """The prices of all ways that can be had for one cohort, and what they assume.

    Attributes:
        clients: The clients of the sum.
        dropout: The probability that one client drops out before its vector is sent.
        spare: The most clients that one coalition holds, the observer's own place included.
        max_failure: The probability of a sum that does not open, from which the minimum follows.
        length: The entries of a vector.
        min_threshold: The minimum share threshold of the masked sum, below which nothing may open; 1 on a ring, whose
            threshold is one of neighbors.
        prices: The ways, mesh first. A way that has no noise left against the coalition is missing.
    """

    clients: int
    dropout: float
    spare: int
    max_failure: float
    length: int
    min_threshold: int
    prices: tuple[NoisePrice, ...]

    @property
    def mesh(self) -> NoisePrice:
        """The price of mesh noise, with the members and the minimum that were chosen."""
        return self.prices[0]


def plan_noise(
    clients: int,
    *,
    dropout: float = 0.05,
    spare: int = 1,
    max_failure: float = 0.01,
    length: int = 1,
    mode: Mode = "signed",
    corrupt: int | None = None,
    members: int | None = None,
    min_members_to_open: int | None = None,
    speed: Speed = _SPEED,
) -> NoisePlan:
    """Compare the ways of adding noise inside one masked sum, and choose the members of mesh noise.

    Args:
        clients: The number of clients, from 2.
        dropout: The probability, in [0, 1), that one client drops out before its vector is sent.
        spare: The most clients that one coalition holds, the observer's own place included; from 0.
        max_failure: The probability, in (0, 1), of a sum that does not open. `min_members_to_open` follows from it.
        length: The entries of a vector.
        mode: "signed", where the share threshold bounds the minimum, or "semi-honest".
        corrupt: Clients that collude with a server that lies. By default those of `spare` besides the observer.
        members: The members of mesh noise. By default all up to 32 clients, and above that the fewest whose mean price
            is within 3 % of the best.
        min_members_to_open: The fewest members in a sum that opens; by default the most with which at most
            `max_failure` of the sums fail, and no fewer than the share threshold.
        speed: The seconds of each operation on one core.

    Raises:
        ConfigError: A value is out of range, the minimum is below the share threshold, or no noise would be left
            against the coalition.
    """
    for name, value in (("clients", clients), ("length", length)):
        check_count(name, value)
    check_type("spare", spare, int)
    if not 2 <= clients <= MAX_CLIENTS or spare < 0:
        raise ConfigError(
            f"noise is planned for 2 to {MAX_CLIENTS} clients and 0 or more spare, not {clients}, {spare}"
        )
    if not 0 <= dropout < 1 or not 0 < max_failure < 1:
        raise ConfigError(
            f"dropout is a probability in [0, 1) and max_failure one in (0, 1), not {dropout!r}, {max_failure!r}"
        )
    colluding = max(0, spare - 1) if corrupt is None else corrupt
    low = _min_threshold(clients, colluding, mode)
    plan = _Planner(clients, dropout, spare, max_failure, length, low, speed)
    mesh = plan.mesh(plan.members(members), min_members_to_open)
    others = (plan.shares(), plan.groups(), plan.add_then_remove())
    prices = (mesh, *(found for found in others if found is not None))
    return NoisePlan(clients, dropout, spare, max_failure, length, low, prices)


def variance_over_dropout(
    clients: int, spare: int, rates: Iterable[float], *, mode: Mode = "signed", max_failure: float = 0.01
) -> dict[Way, list[float]]:
    """The mean variance of each way over dropout rates, divided by that of central noise; NaN where it cannot be had.

    Args:
        clients: The number of clients.
        spare: The most clients that one coalition holds, the observer's own place included.
        rates: The dropout rates, each in [0, 1).
        mode: As in `plan_noise`.
        max_failure: As in `plan_noise`.
    """
    curves: dict[Way, list[float]] = {"shares": [], "groups": [], "add-then-remove": [], "mesh": []}
    for rate in rates:
        found: dict[Way, float] = {}
        with contextlib.suppress(ConfigError):  # at this rate no noise is left
            plan = plan_noise(clients, dropout=rate, spare=spare, mode=mode, max_failure=max_failure)
            found = {one.way: one.mean_variance for one in plan.prices}
        for way, curve in curves.items():
            curve.append(found.get(way, math.nan))
    return curves


def _min_threshold(clients: int, colluding: int, mode: Mode) -> int:
    """The minimum share threshold that is safe, which is the fewest vectors that a complete graph may open."""
    if mode != "signed":
        return 1
    low = (clients + colluding) // 2 + 1
    if clients > COMPLETE_UP_TO:
        return 1
    return complete_threshold(clients, True, low, Assumptions(min(colluding / clients, 0.999), 0.0, 40, 20))


@dataclass(frozen=True, slots=True)
class _Planner:
    clients: int
    dropout: float
    spare: int
    max_failure: float
    length: int
    low: int
    speed: Speed

    def members(self, members: int | None) -> int:
        """The members that are asked for, or all of few clients, or the fewest whose price is near the best."""
        if members is not None:
            if not 2 <= members <= self.clients:
                raise ConfigError(
                    f"mesh noise has 2 to {self.clients} members of {self.clients} clients, not {members}"
                )
            return members
        if self.clients <= ALL_UP_TO:
            return self.clients
        best = self._price_of(self.clients) * TOLERANCE
        below, enough = 1, self.clients
        while enough - below > 1:
            middle = (below + enough) // 2
            below, enough = (below, middle) if self._price_of(middle) <= best else (middle, enough)
        while enough > 2 and self._price_of(enough - 1) <= best:
            enough -= 1
        return enough

    def _price_of(self, members: int) -> float:
        try:
            return self.mesh(members, None).mean_variance
        except ConfigError:
            return math.inf

    def mesh(self, members: int, minimum: int | None) -> NoisePrice:
        chosen = self._min_members(members) if minimum is None else minimum
        if members == self.clients and chosen < self.low:
            raise ConfigError(
                f"min_members_to_open = {chosen} is below the minimum share threshold of {self.low} of {self.clients} "
                f"clients, so no sum with so few opens: set it to {self.low} or more, or plan for fewer corrupt clients"
            )
        if not self.spare < chosen <= members:
            raise ConfigError(
                f"no noise would be left: a sum that opens holds {chosen} of {members} members, and a "
                f"coalition {self.spare} of them. Raise min_members_to_open above {self.spare}, lower spare, or allow "
                "more failures"
            )
        # In a complete graph every member has these agreements already.
        agreements = (members - 1) * self.speed.agreement if self.clients > COMPLETE_UP_TO else 0.0
        return self._priced(
            "mesh",
            members,
            chosen,
            lambda s: s * (1 + (members - s) / (chosen - self.spare)) / (members - self.spare),
            samples=(members, 0),
            seconds=agreements,
        )

    def shares(self) -> NoisePrice | None:
        minimum, spare = self._min_members(self.clients), self.spare
        if minimum <= spare:
            return None
        return self._priced("shares", self.clients, minimum, lambda s: s / (minimum - spare), samples=(1, 0))

    def add_then_remove(self) -> NoisePrice | None:
        """Surplus noise of T + 1 parts a client, T the tolerated dropouts; seeds of the parts are shared among all."""
        n, minimum, spare = self.clients, self._min_members(self.clients), self.spare
        if minimum <= spare:
            return None
        parts = n - minimum
        # Each box holds a share of each part's seed, up and down; at the end the seeds of removed parts are revealed.
        extra = 2 * parts * (n - 1) * SHARE_BYTES + parts * KEY_BYTES
        samples = (parts + 1, parts * n)
        return self._priced("add-then-remove", n, minimum, lambda s: s / (s - spare), samples=samples, extra=extra)

    def groups(self) -> NoisePrice | None:
        """The best number of groups, as equal as they can be, each of 2 clients or more."""
        n, spare, best = self.clients, self.spare, None
        for count in range(min(n // 2, MAX_GROUPS), spare, -1):
            sizes = [n // count + (i < n % count) for i in range(count)]
            empty = np.array([self.dropout**size for size in sizes])
            lost, failure = _max_lost(empty, self.max_failure)
            if count - lost <= spare:
                continue
            scale = 1.0 / (count - lost - spare)
            if best is not None and count * scale >= best.full_variance:
                continue
            means, tops = [], []
            for size in sizes:
                present = np.arange(size + 1.0)
                variance = present * (1 + size - present) / size
                means.append(float(_binomial(size, self.dropout) @ variance))
                tops.append(float(variance.max()))
            best = NoisePrice(
                "groups", n, count - lost, count * scale, sum(means) * scale, sum(tops) * scale, failure, 0,
                sizes[0], 0, sizes[0] * self.length * self.speed.noise_value, 0.0,
            )  # fmt: skip
        return best

    def _priced(
        self,
        way: Way,
        members: int,
        minimum: int,
        variance: Callable[[_Floats], _Floats],
        *,
        samples: tuple[int, int],
        extra: int = 0,
        seconds: float = 0.0,
    ) -> NoisePrice:
        """The price of a way whose variance depends on the number of members present alone."""
        present = np.arange(minimum, members + 1.0)
        chances, values = _binomial(members, self.dropout)[minimum:], variance(present)
        mean = float(chances @ values / chances.sum()) if chances.sum() else math.nan
        vector = self.length * self.speed.noise_value
        return NoisePrice(
            way,
            members,
            minimum,
            float(values[-1]),
            mean,
            float(values.max()),
            binomial_shortfall(members, minimum, self.dropout),
            extra,
            *samples,
            samples[0] * vector + seconds,
            samples[1] * vector,
        )

    def _min_members(self, members: int) -> int:
        """The most members that a sum may ask for with at most `max_failure` of failures; the threshold at minimum."""
        below = np.cumsum(_binomial(members, self.dropout))  # below[s]: at most s stay
        found = int(np.searchsorted(below, self.max_failure, side="right"))
        return max(min(found, members), self.low if members == self.clients else 1)


def _max_lost(empty: _Floats, max_failure: float) -> tuple[int, float]:
    """The fewest groups that may be lost with at most `max_failure` of worse cases, and the probability of those."""
    chances = np.ones(1)
    for chance in empty:
        chances = np.convolve(chances, [1 - chance, chance])
    above = np.maximum(1 - np.cumsum(chances), 0.0)
    lost = int(np.argmax(above <= max_failure))
    return lost, float(above[lost])


@lru_cache(maxsize=256)
def _binomial(count: int, dropout: float) -> _Floats:
    """P[j of `count` stay], j from 0 to `count`."""
    if dropout == 0:
        return np.append(np.zeros(count), 1.0)
    logs = np.append(0.0, np.cumsum(np.log(np.arange(1.0, count + 1))))
    j = np.arange(count + 1)
    found: _Floats = np.exp(
        logs[-1] - logs[j] - logs[count - j] + j * math.log1p(-dropout) + (count - j) * math.log(dropout)
    )
    return found
