"""Federated analytics: counts, histograms, vocabularies, means and quantiles of one column, through a secure sum.

Without noise an answer hides *cells*, which are counts of few examples (`Channel.min_cell`, 11 by default). The rule
looks at one answer at a time: the difference of two answers can be about one example. The party that opens the sum sees
every cell. Against both use noise: every answer is then charged to a ledger before a client is asked.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint
from privfl.data.channel import Channel
from privfl.data.moments import pooled_moments
from privfl.data.noised import NoisedMoments
from privfl.dp import Budget, Draw, Everyone, Ledger, Mechanism, RoundNoise, Slot
from privfl.errors import ConfigError, PrivacyError, TooFewSurvivors
from privfl.ring import Ints
from privfl.sums import Opening, SumResult
from privfl.sums.base import KeyedOpening
from privfl.wire import ClientId

Column = Callable[[ClientId], npt.NDArray[Any]]
"""Client -> its values of one column, `[n]`; NaN marks a missing number, and None a missing text."""

SMALL: Final = "the opener of the sum saw the cells that are hidden here, and differences of answers can show them"

_UNITS: Final = 2.0**12
"""Integer units of one example in a sum with noise."""


@dataclass(frozen=True, slots=True)
class AnswerNoise:
    """Central noise on every answer, charged to a ledger of clients.

    Attributes:
        ledger: The ledger, of level "client".
        mechanism: The noise, with placement "central".
        max_norm: The l2 norm that a client's contribution is scaled down to, in examples: its greatest influence.
        budget: What may be spent; None for no limit.
        seed: Keys simulation noise; secure noise takes none.
    """

    ledger: Ledger
    mechanism: Mechanism
    max_norm: float
    budget: Budget | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ledger.unit.level != "client":
            raise PrivacyError("a client's whole contribution is hidden here: give a ledger of level 'client'")
        if self.mechanism.placement != "central":
            raise ConfigError(f"analytics have central noise, not {self.mechanism.placement!r}")
        if not (math.isfinite(self.max_norm) and self.max_norm > 0):
            raise ConfigError(f"max_norm must be positive and finite, not {self.max_norm!r}")


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts of examples.

    Attributes:
        counts: The counts, None for a cell that is hidden. With noise they are estimates, which may be negative.
        caveats: What the answer does not promise.
    """

    counts: tuple[float | None, ...]
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile, as an interval that holds it.

    Attributes:
        low: The lower end.
        high: The upper end.
        answers: The number of answers that the search took.
        caveats: What the answers do not promise.
    """

    low: float
    high: float
    answers: int
    caveats: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The middle of the interval."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class Analytics:
    """Questions about one column of the clients' examples.

    Attributes:
        column: Maps a client to its values.
        clients: The number of clients.
        channel: The secure sum. With noise its ring has room for the noise.
        noise: The noise of every answer; None for exact answers under the rule of small cells.
    """

    column: Column = field(repr=False)
    clients: int
    channel: Channel
    noise: AnswerNoise | None = None

    def count(self, where: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]] | None = None) -> Cells:
        """The number of values present, or of those that meet a condition.

        Args:
            where: Maps values to truth values; None counts every value that is present.
        """
        return self._cells(lambda values: np.array([len(values) if where is None else int(where(values).sum())]), 1)

    def histogram(self, edges: Sequence[float]) -> Cells:
        """The number of values in each interval [edges[i], edges[i + 1]); the last interval has both its ends.

        Args:
            edges: At least two increasing numbers. Values outside are in no interval.
        """
        cuts = np.asarray(edges, np.float64)
        if cuts.ndim != 1 or len(cuts) < 2 or not (np.diff(cuts) > 0).all():
            raise ConfigError("edges must be at least two increasing numbers")
        return self._cells(lambda values: np.histogram(values, cuts)[0], len(cuts) - 1)

    def categories(self, candidates: Sequence[str]) -> Cells:
        """The number of examples of each category of a column of text.

        Only categories that are known beforehand are counted. A value that nobody listed may belong to one person, so
        no noise makes it safe to name. Without noise a cell with fewer than `channel.min_cell` examples is not shown.

        Args:
            candidates: The different categories, such as the codes of a public catalog. Other values are in no cell.

        Raises:
            ConfigError: There are no candidates, or one stands twice.
        """
        return self._shown(*self._named(candidates))

    def _named(self, candidates: Sequence[str]) -> tuple[list[float], tuple[str, ...]]:
        names = list(candidates)
        if not names or len(set(names)) < len(names):
            raise ConfigError("list the categories to be counted, each once: undeclared values are never released")

        def own(client: ClientId) -> npt.NDArray[np.float64]:
            texts = np.asarray(self.column(client), object)
            return np.array([np.count_nonzero(texts == name) for name in names], np.float64)

        return self._summed(own, len(names))

    def vocabulary(self, candidates: Sequence[str], min_count: float) -> tuple[str, ...]:
        """The candidates of at least `min_count` examples, in the order given, from one answer.

        With noise this is a release like every other, charged before a client is asked. A category may then be in or
        out by chance: give a `min_count` of several standard deviations of the noise. Counts are not returned.

        Args:
            candidates: The different categories, known beforehand.
            min_count: The fewest examples of a category, positive; without noise at least `channel.min_cell`.

        Raises:
            ConfigError: As in `categories`, or `min_count` is not positive.
            PrivacyError: No candidate has that many examples.
        """
        if not min_count > 0:
            raise ConfigError(f"min_count must be positive, not {min_count!r}")
        fewest = min_count if self.noise else max(min_count, self.channel.min_cell)
        counts, _ = self._named(candidates)
        chosen = tuple(name for name, count in zip(candidates, counts, strict=True) if count >= fewest)
        if not chosen:
            raise PrivacyError(f"no candidate has {fewest:g} examples: lower min_count, or list the values yourself")
        return chosen

    def moments(self, low: float | None = None, high: float | None = None) -> tuple[float, float]:
        """The mean and the population variance.

        Args:
            low: With noise, the lower end of the values, known beforehand; values below count as this.
            high: With noise, the upper end.

        Raises:
            PrivacyError: If there are fewer values than `channel.min_cell`, and no noise.
        """
        if self.noise is None:
            found = pooled_moments(lambda client: self._values(client)[:, None], self.clients, 1, self._fresh_channel())
            return float(found.mean[0]), float(found.variance[0])
        if low is None or high is None or not low < high:
            raise ConfigError("a mean with noise needs the ends of the values, known beforehand: give low < high")
        center, width = np.array([(low + high) / 2]), np.array([(high - low) / 2])
        codec = FixedPoint(_UNITS, self.channel.ring)
        plan = NoisedMoments(center, width, math.sqrt(3), codec)
        slot = Slot("moments", plan.length, codec.scale, plan.clip_norm)
        result = self._sum(lambda client: plan.contribution(self._values(client)[:, None]), slot, plan.bound)
        found_std = plan.standardizer(result.total)
        return float(found_std.mean[0]), float(found_std.std[0] ** 2)

    def quantile(self, fraction: float, low: float, high: float, *, resolution: float) -> Quantile:
        """Find the value below which this fraction of the values lies, by halving an interval that holds it.

        Each step asks for one count. Without noise the search also ends where the interval would hold fewer values
        than `channel.min_cell`.

        Args:
            fraction: In (0, 1); 0.5 for the median.
            low: The lower end of the first interval, known beforehand; values below count as this.
            high: The upper end of the first interval; values above count as this.
            resolution: The search ends when the interval is not wider than this.

        Raises:
            PrivacyError: If there are fewer values than `channel.min_cell`, and no noise.
        """
        if not (0 < fraction < 1 and low < high and resolution > 0):
            raise ConfigError("a quantile needs a fraction in (0, 1), low < high, and a positive resolution")
        total, answers = self._count_below(math.inf), 1
        least, below, upto = (0 if self.noise else self.channel.min_cell), 0.0, total
        if total < least:
            raise PrivacyError(f"a quantile of fewer than {least} values would be about so few examples")
        caveats: tuple[str, ...] = () if self.noise else (SMALL,)
        while high - low > resolution:
            middle = (low + high) / 2
            count, answers = self._count_below(middle), answers + 1
            if any(0 < cell < least for cell in (count - below, upto - count)):
                break
            if count >= fraction * total:
                high, upto = middle, count
            else:
                low, below = middle, count
        return Quantile(low, high, answers, caveats)

    def _count_below(self, limit: float) -> float:
        """The number of values up to `limit`."""
        total, _ = self._counts(lambda values: np.array([int((values <= limit).sum())]), 1)
        return float(total[0])

    def _fresh_channel(self) -> Channel:
        """The channel with a context of its own: no client enters one task twice."""
        return dataclasses.replace(self.channel, context=self.channel.context + b" " + os.urandom(16))

    def _values(self, client: ClientId) -> npt.NDArray[np.float64]:
        values = np.asarray(self.column(client), np.float64)
        if values.ndim != 1:
            raise ConfigError(f"a column gives a flat array for each client, not one of shape {values.shape}")
        return values

    def _cells(self, counts_of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], length: int) -> Cells:
        return self._shown(*self._counts(counts_of, length))

    def _shown(self, total: list[float], caveats: tuple[str, ...]) -> Cells:
        if self.noise is not None:
            return Cells(tuple(total), caveats)
        hidden = hidden_cells([int(count) for count in total], self.channel.min_cell)
        shown = tuple(None if at in hidden else count for at, count in enumerate(total))
        return Cells(shown, (*caveats, *((SMALL,) if hidden else ())))

    def _counts(
        self, counts_of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], length: int
    ) -> tuple[list[float], tuple[str, ...]]:
        """The summed counts over all values that are present, exact or with noise."""

        def own(client: ClientId) -> npt.NDArray[np.float64]:
            values = self._values(client)
            return np.asarray(counts_of(values[~np.isnan(values)]), np.float64)

        return self._summed(own, length)

    def _summed(
        self, own: Callable[[ClientId], npt.NDArray[np.float64]], length: int
    ) -> tuple[list[float], tuple[str, ...]]:
        """The sum of one vector of counts of each client, exact or with noise."""
        if self.noise is None:
            bound = (self.channel.ring.half - 1) // max(1, self.clients)
            result = self._sum(lambda client: own(client).astype(np.int64), None, bound, length)
            return [float(count) for count in result.total], result.caveats
        codec = FixedPoint(_UNITS, self.channel.ring)
        slot = Slot("counts", length, codec.scale, self.noise.max_norm)
        norm = self.noise.max_norm

        def encoded(client: ClientId) -> Ints:
            counts = own(client)
            size = float(np.sqrt(np.square(counts).sum()))
            return codec.encode(counts * min(1.0, norm / size) if size else counts, max_norm=norm)

        result = self._sum(encoded, slot, codec.bound(norm))
        return codec.decode(result.total).tolist(), result.caveats

    def _sum(self, vector_of: Callable[[ClientId], Ints], slot: Slot | None, bound: int, length: int = 0) -> SumResult:
        """One secure sum over the clients; with noise it is charged before a client is asked."""
        channel, noise = self._fresh_channel(), self.noise
        task = channel.task(range(self.clients), slot.length if slot else length, bound)
        vectors = ((client, vector_of(client)) for client in task.clients)
        if noise is None or slot is None:
            return channel.run(task, vectors)
        law = RoundNoise(noise.mechanism, (slot,), self.clients)
        room = self.clients * bound + math.ceil(20 * law.noise_stddev)
        if room >= channel.ring.half:
            raise ConfigError(f"a ring of {channel.ring.bits} bits is too narrow: use Ring({room.bit_length() + 1})")
        ledger, round = noise.ledger, noise.ledger.first_undrawn(1)
        draw = Draw(round, Everyone(), None)
        worst = law.release(
            round=round, attempt=0, sampling=Everyone(), views=channel.scheme.views,
            participants=task.clients, worst_case=True,
        )  # fmt: skip
        if noise.budget is not None:
            noise.budget.check(ledger, draw, worst)
        ledger.draw(round, draw.sampling, draw.turn)
        token = ledger.reserve(worst)
        key = None if noise.mechanism.source == "secure" else (noise.seed, round, 0, 0)
        opening: Opening = KeyedOpening(lambda entropy: law.opening(entropy=entropy if key is None else None, key=key))
        try:
            result = channel.run(task, vectors, opening)
        except TooFewSurvivors as error:
            if not error.opened:
                ledger.refund(token, "too_few_survivors")
            raise
        ledger.settle(
            token,
            law.release(
                round=round, attempt=0, sampling=Everyone(), views=channel.scheme.views,
                participants=result.survivors, worst_case=False,
            ),
        )  # fmt: skip
        return result


def hidden_cells(counts: Sequence[int], min_cell: int) -> set[int]:
    """The cells that are not shown: small ones, and so many others that their sum is not small either.

    Where the total is known, one hidden cell could be computed from the others. So at least two are hidden, which hold
    at least `min_cell` examples together, if there are so many.

    Args:
        counts: The count of each cell.
        min_cell: The fewest examples of a cell that is shown, except none at all.
    """
    hidden = {at for at, count in enumerate(counts) if 0 < count < min_cell}
    others = sorted((count, at) for at, count in enumerate(counts) if at not in hidden)
    for _, at in others if hidden else ():
        if len(hidden) > 1 and sum(counts[cell] for cell in hidden) >= min_cell:
            break
        hidden.add(at)
    return hidden
