"""The counts of a round without noise about its updates: cut entries, updates left out, weights beyond the plan.

The counts are slots of the summed vector, so the server learns their sums and no client's own. Metrics travel without
a practical bound: as limbs, digits of one large integer, each of which fits a slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from privfl.ring import Ints

CLIPPED: Final = "clipped"
RANGE: Final = "range"
REJECTED: Final = "rejected"
EMPTY: Final = "empty"
UNSUMMED: Final = "unsummed"
EXCESS: Final = "excess"

RANGE_STEP: Final = 64.0
RANGE_STEPS: Final = 8
"""The slot `range` reports which of the bounds 64, 64^2, ... 64^8 times the present one an update would need."""

METRIC_FRACTION_BITS: Final = 32
"""A metric is a multiple of 2^-32."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of one round about its updates.

    Attributes:
        survivors: The number of vectors in the sum.
        rejected: Updates that held a NaN or an infinity, in an entry or a metric; nothing of them counts.
        empty: Updates of clients without an example; nothing of them counts.
        clipped: Entries beyond the bound of an entry; or updates beyond the clip norm.
        above: Updates with an entry beyond the bound times 64, 64^2 and so on; empty for a clip norm.
        excess: Examples beyond `max_weight`, which did not count.
        weight: The total weight of the accepted updates; their number for uniform weights.
        unsummed: Accepted updates with a metric that the plan does not sum.
        without: The weight of the accepted updates without a metric, by the metric's name, where some have it.
    """

    survivors: int
    rejected: int = 0
    empty: int = 0
    clipped: int = 0
    above: tuple[int, ...] = ()
    excess: int = 0
    weight: int = 0
    unsummed: int = 0
    without: tuple[tuple[str, int], ...] = ()

    @property
    def accepted(self) -> int:
        """The number of updates that count."""
        return self.survivors - self.rejected - self.empty

    @property
    def steps(self) -> int:
        """The smallest number of times that the bound of an entry must be multiplied by 64 to fit every update."""
        if not self.clipped:
            return 0
        return next((step for step, count in enumerate(self.above, 1) if not count), len(self.above))


def range_entries(largest: float, max_abs: float) -> list[int]:
    """The slot `range` of one update.

    Args:
        largest: The largest absolute entry of the update.
        max_abs: The present bound of an entry.
    """
    return [int(largest > max_abs * RANGE_STEP**step) for step in range(1, RANGE_STEPS + 1)]


def limb_bits(count_bound: int) -> int:
    """The bits of one limb: the most, l, with 2^l at most `count_bound`."""
    return count_bound.bit_length() - 1


def limb_count(bound: float, max_weight: int, count_bound: int) -> int:
    """The number of limbs of a metric times its weight.

    Args:
        bound: The largest absolute value of the metric.
        max_weight: The largest weight of a client, at least 1.
        count_bound: The largest limb, at least 2.
    """
    largest = math.ceil(math.ldexp(bound, METRIC_FRACTION_BITS)) * max_weight
    return -(-largest.bit_length() // limb_bits(count_bound))


def to_limbs(value: float, weight: int, limbs: int, count_bound: int) -> list[int]:
    """A metric times its weight as limbs, least first.

    Args:
        value: The metric.
        weight: The client's weight.
        limbs: The number of limbs, from `limb_count`.
        count_bound: The largest limb.

    Returns:
        `limbs` integers of the sign of `value`.
    """
    whole, bits = round(math.ldexp(abs(value), METRIC_FRACTION_BITS)) * weight, limb_bits(count_bound)
    sign, mask = -1 if value < 0 else 1, (1 << bits) - 1
    return [sign * ((whole >> (bits * place)) & mask) for place in range(limbs)]


def from_limbs(totals: Sequence[int], weight: int, count_bound: int) -> float:
    """The mean metric from the summed limbs, correctly rounded.

    Args:
        totals: The sum of each limb over the clients, least first.
        weight: The total weight of the clients that report the metric, above 0.
        count_bound: The largest limb of one client, as for `to_limbs`.
    """
    bits = limb_bits(count_bound)
    whole = sum(int(total) << (bits * place) for place, total in enumerate(totals))
    return whole / (weight << METRIC_FRACTION_BITS)


def counts_of(
    total: Ints,
    places: Mapping[str, slice[int, int, None]],
    survivors: int,
    metrics: Sequence[tuple[str, str]],
    *,
    weighted: bool,
) -> Counts:
    """The counts of an opened sum about the updates in it.

    Args:
        total: The opened sum, int64 `[length]`.
        places: The place of each slot.
        survivors: The number of vectors in the sum.
        metrics: The slots of each metric and of its weight.
        weighted: Whether the weights are numbers of examples.
    """
    one = {name: int(total[place][0]) for name, place in places.items() if place.stop - place.start == 1}
    weight = one["weight"] if weighted else survivors - one[REJECTED] - one[EMPTY]
    given = {name: one[slot] for name, slot in metrics}
    return Counts(
        survivors=survivors,
        rejected=one[REJECTED],
        empty=one[EMPTY],
        clipped=one[CLIPPED],
        above=tuple(int(count) for count in total[places[RANGE]]) if RANGE in places else (),
        excess=one.get(EXCESS, 0),
        weight=weight,
        unsummed=one[UNSUMMED],
        without=tuple((name, weight - had) for name, had in given.items() if 0 < had < weight),
    )
