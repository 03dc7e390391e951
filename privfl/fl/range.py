"""The range and the precision of a run's sums, which follow the updates where no noise is added.

A run starts with a narrow ring and a small bound of an entry. A round may count entries that did not fit, weights
beyond the plan, or a rounding error above the tolerance. The run then repeats that round with the range or precision
that was missing, and keeps it for the later rounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from privfl.codec import SCALE_RANGE, FixedPoint
from privfl.dp import ElementClip
from privfl.errors import CapacityError
from privfl.fl.counts import RANGE_STEP, Counts
from privfl.fl.encoding import UpdateEncoding
from privfl.ring import MAX_BITS, Ring

ENTRY_BOUND: Final = 8.0
"""The bound of an entry of an update in the first round, unless the settings give one."""

NARROW_BITS: Final = 31
"""A ring that fits a word of 32 bits, and the 48-bit prime of CKKS."""

WIDE_BITS: Final = 42
"""The widest ring that all three sums have for cohorts of up to 1007 clients."""

TOLERANCE: Final = 1e-5
"""The largest rounding error of the mean update that is not reported, as a fraction of its largest entry."""

_EXPECTED: Final = 512
"""The largest entry of a mean update is expected to be at least the bound of an entry divided by this."""

_MAX_COUNT: Final = 1 << 40

_HEADROOM: Final = 2
"""A ring is widened for the next round when the rounding error comes this close to the tolerance."""


@dataclass(frozen=True, slots=True)
class Range:
    """The limits of the integers of a run's next round; part of the server's state.

    Attributes:
        max_abs: The bound of each entry of an update; None where a clip norm bounds the update.
        bits: The bits of the ring; None leaves the choice to the size of the cohort.
        max_weight: The most examples of one client; None takes the known number of examples of the largest client.
        max_total_weight: The total weight of a cohort; None takes that of the largest clients together.
    """

    max_abs: float | None = None
    bits: int | None = None
    max_weight: int | None = None
    max_total_weight: int | None = None

    def record(self) -> dict[str, Any]:
        """The range as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any] | None) -> Range:
        """The range from its JSON object; None gives the default range."""
        return cls() if record is None else cls(**record)


@dataclass(frozen=True, slots=True)
class RangeRule:
    """The rule by which the range follows a run without noise.

    Attributes:
        entries: Whether the bound of an entry may grow; False keeps the one of the settings.
        bits: The bits of the ring that the settings give; None lets the ring follow the tolerance.
        sizes: The clients' numbers of examples, decreasing; empty for uniform weights.
    """

    entries: bool
    bits: int | None = None
    sizes: tuple[int, ...] = ()

    def encoding(self, base: UpdateEncoding, current: Range, cohort: int) -> UpdateEncoding:
        """The encoding of a round: the finest scale, a power of two, at which the cohort fits the ring.

        Args:
            base: The encoding whose scale, ring, weights and counts are replaced.
            current: The range so far.
            cohort: The number of clients in the round.

        Raises:
            CapacityError: If the ring cannot hold the weights, or leaves no precision.
        """
        cohort, clip = max(1, cohort), base.clip
        if isinstance(clip, ElementClip) and current.max_abs is not None:
            clip = ElementClip(current.max_abs, base.length)
        max_weight, total = 1, 0
        if base.weighting == "examples":
            max_weight = current.max_weight or max(1, self.sizes[0])
            total = min(cohort * max_weight, max(max_weight, current.max_total_weight or sum(self.sizes[:cohort])))
        candidates = (self.bits,) if self.bits else (current.bits,) if current.bits else (NARROW_BITS, WIDE_BITS)
        for bits in candidates:
            ring = Ring(bits)
            count_bound = min((ring.half - 1) // cohort, _MAX_COUNT)
            if count_bound < max(2, max_weight):
                continue
            fitted = dataclasses.replace(
                base,
                codec=FixedPoint(1.0, ring),
                clip=clip,
                max_weight=max_weight,
                max_total_weight=total,
                count_bound=count_bound,
            )
            share = Fraction(total, max_weight) if total else Fraction(cohort)
            scale = _scale(fitted, cohort, share)
            fitted = dataclasses.replace(fitted, codec=FixedPoint(scale, ring))
            enough = cohort / 2 / scale * _EXPECTED <= TOLERANCE * fitted.max_entry * float(share)
            if bits == candidates[-1] or enough:
                if fitted.codec.bound(fitted.max_entry) < 4:
                    break
                return fitted
        found = candidates[-1]
        wanted = min(MAX_BITS, max(2, max_weight).bit_length() + cohort.bit_length() + 9)
        remedy = f"set sum.bits = {max(wanted, found + 1)}" if found < MAX_BITS else "divide all weights by one factor"
        raise CapacityError(
            f"sum.bits = {found} leaves no precision for {cohort} clients with weights up to {max_weight}: {remedy}"
        )

    def after(
        self, encoding: UpdateEncoding, current: Range, counts: Counts, *, largest: float, floor: float
    ) -> tuple[Range, str]:
        """The range after a round, and why the round has to be repeated with it.

        Args:
            encoding: The encoding of the round.
            current: The range before the round.
            counts: What the round counted.
            largest: The largest absolute entry of the mean update.
            floor: A rounding error that is below the precision of the model itself.

        Returns:
            The range of the next attempt or round, and a sentence; empty where the round stands.
        """
        after, reasons = current, list[str]()
        max_abs = encoding.clip.max_abs if isinstance(encoding.clip, ElementClip) else None
        if self.entries and max_abs is not None and counts.steps:
            after = dataclasses.replace(after, max_abs=max_abs * RANGE_STEP**counts.steps)
            reasons.append(
                f"entries of updates were beyond the bound of {max_abs:g} and would have been clipped, so the bound is "
                f"{after.max_abs:g} from then on"
            )
        if counts.excess or overflows(encoding, counts):
            weight = current.max_weight or encoding.max_weight
            after = dataclasses.replace(
                after, max_weight=weight + counts.excess, max_total_weight=2 * (counts.weight + counts.excess)
            )
            reasons.append(
                "clients reported more examples than were planned for, so there is room for more from then on"
            )
        if not reasons and counts.weight:
            after, reasons = self._finer(encoding, current, counts, largest, floor)
        return after, f"the round was repeated: {'; '.join(reasons)}" if reasons else ""

    def roomier(self, encoding: UpdateEncoding, current: Range, cohort: int) -> Range | None:
        """The range after a sum that did not open, with room for every weight; None if every weight had room.

        Args:
            encoding: The encoding of the attempt.
            current: The range of the attempt.
            cohort: The number of clients in the round.
        """
        every = cohort * encoding.max_weight
        if not 0 < encoding.max_total_weight < every:
            return None
        return dataclasses.replace(current, max_weight=encoding.max_weight, max_total_weight=every)

    def _finer(
        self, encoding: UpdateEncoding, current: Range, counts: Counts, largest: float, floor: float
    ) -> tuple[Range, list[str]]:
        """The range with the precision that the mean update needs: less room for weights, or a wider ring."""
        after, reasons = current, list[str]()
        bits, error, weight = encoding.codec.ring.bits, encoding.rounding_error(counts), counts.weight
        if error <= floor:
            return after, reasons
        if error > TOLERANCE * largest and 4 * weight <= encoding.max_total_weight:
            after = dataclasses.replace(after, max_weight=weight, max_total_weight=2 * weight)
            error *= 2 * weight / encoding.max_total_weight
            reasons.append("the clients had far fewer examples than planned for, so the sum is finer from then on")
        if self.bits is None and bits < WIDE_BITS and error * _HEADROOM > TOLERANCE * largest:
            after = dataclasses.replace(after, bits=WIDE_BITS)
            if error > TOLERANCE * largest:
                reasons.append(f"a ring of {bits} bits was too coarse, so the ring has {WIDE_BITS} bits from then on")
        return after, reasons


def overflows(encoding: UpdateEncoding, counts: Counts) -> bool:
    """True if the total weight was beyond what the ring was planned for, so the sum may have left the ring.

    Args:
        encoding: The encoding of the round; its `max_total_weight` of 0 plans for every weight.
        counts: What the round counted.
    """
    return 0 < encoding.max_total_weight < counts.weight


def caveats(encoding: UpdateEncoding, counts: Counts, *, largest: float, floor: float) -> tuple[str, ...]:
    """The effects of a round on its clients' numbers, in sentences.

    Args:
        encoding: The encoding of the round.
        counts: What the round counted.
        largest: The largest absolute entry of the mean update.
        floor: A rounding error that is below the precision of the model itself.
    """
    said = []
    if counts.rejected:
        verb = "updates were" if counts.rejected > 1 else "update was"
        said.append(f"{counts.rejected} {verb} not finite (NaN or infinity) and left out")
    if counts.empty == counts.survivors:
        said.append(f"no client {'had an example' if counts.survivors else 'took part'}, and the model is unchanged")
    elif counts.empty:
        clients = "clients" if counts.empty > 1 else "client"
        said.append(f"{counts.empty} {clients} had no example and did not count")
    if counts.unsummed:
        clients = "clients" if counts.unsummed > 1 else "client"
        said.append(
            f"{counts.unsummed} {clients} reported training metrics that were not summed: name them in "
            "client.metrics, or in `metrics` of a FederationServer"
        )
    if counts.clipped and isinstance(encoding.clip, ElementClip):
        entries = "entries of updates were" if counts.clipped > 1 else "entry of an update was"
        said.append(f"{counts.clipped} {entries} clipped to the bound of {encoding.clip.max_abs:g}")
    elif counts.clipped:
        updates = "updates were" if counts.clipped > 1 else "update was"
        said.append(f"{counts.clipped} {updates} clipped to the norm of {encoding.clip.clip_norm:g}")
    if counts.excess:
        said.append(f"weights count up to {encoding.max_weight} examples of a client: {counts.excess} did not count")
    if overflows(encoding, counts):
        said.append("the clients' weights were beyond what the sum had room for, and nothing was taken from it")
        return tuple(said)
    unit = "examples" if encoding.weighting == "examples" else "clients"
    bounds = {metric.name: metric.bound for metric in encoding.metrics}
    for name, without in counts.without:
        said.append(
            f"the mean {name} is over {counts.weight - without} of {counts.weight} {unit}: others reported none, or "
            f"one beyond {bounds[name]:.0e}"
        )
    if not counts.weight:
        return tuple(said)
    error = encoding.rounding_error(counts)
    if error > floor and error > TOLERANCE * largest:
        share = error / (largest - error) if largest > error else 1.0  # the exact mean's entry may be smaller
        reached = f"{_rounded_up(share):.0e} of" if share < 1 else "as large as"
        said.append(
            f"the precision of the sum is limited: rounding in a ring of {encoding.codec.ring.bits} bits may be "
            f"{reached} the largest entry of the mean update"
        )
    return tuple(said)


def _rounded_up(value: float) -> float:
    """A positive number with one digit, which is at least `value`."""
    digit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / digit * (1 - 1e-12)) * digit


def _scale(encoding: UpdateEncoding, cohort: int, share: Fraction) -> float:
    """The largest power of two at which contributions of a total of `share` full weights fit the ring."""
    # Every entry of a contribution may be rounded up by a unit.
    room = Fraction(max(1, encoding.codec.ring.half - 1 - cohort)) / (Fraction(encoding.max_entry) * share)
    exponent = room.numerator.bit_length() - room.denominator.bit_length()
    if Fraction(2) ** exponent > room:
        exponent -= 1
    low, high = SCALE_RANGE
    return min(max(math.ldexp(1.0, max(-600, min(exponent, 600))), low), high)
