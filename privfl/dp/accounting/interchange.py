"""Ledgers as events of dp-accounting and back, in JSON.

The JSON of an event is dp-accounting's own named tuple of it (`DpEvent.to_named_tuple`) as an object: `module_name`,
`class_name`, and its fields. An event states noise, sampling and counts. It states neither the unit nor what skipped
rounds take of delta, so both are reported next to an export and asked for by an import.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from privfl.dp.accounting.compose import combined, dp_accounting_library
from privfl.dp.accounting.events import in_every_release, known_sampling
from privfl.dp.accounting.history import EVERYONE, DrawnRound, History
from privfl.dp.ledger import Ledger
from privfl.dp.release import Release
from privfl.dp.unit import (
    Everyone,
    FixedSize,
    Poisson,
    PoissonBySite,
    PrivacyUnit,
    RandomAllocation,
    Sampling,
    TruncatedPoisson,
)
from privfl.errors import ConfigError, UnsupportedRelease

MODULE: Final = "dp_accounting.dp_event"
MAX_ROUNDS: Final = 1 << 20
"""Rounds of an imported ledger of clients, each of which is a line."""

FIXED_SIZE: Final = (
    "fixed-size sampling is exported as SampledWithoutReplacementDpEvent: the PLD accountant of dp-accounting 0.6 does "
    "not judge it, and its Renyi accountant is wrong there under REPLACE_ONE. Take the figure of `privfl epsilon`"
)
UNBOUNDED: Final = (
    "sampling of a round is left out where nothing bounds the probability that one client decides whether the round is "
    "skipped"
)
SINGLE_ROUND: Final = (
    "one pass is exported as the one round that costs most: the event does not show that each client takes part once"
)
CLASSES: Final = (
    "NoOpDpEvent",
    "NonPrivateDpEvent",
    "GaussianDpEvent",
    "ComposedDpEvent",
    "SelfComposedDpEvent",
    "PoissonSampledDpEvent",
    "SampledWithoutReplacementDpEvent",
    "TruncatedSubsampledGaussianDpEvent",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A ledger as one event.

    Attributes:
        event: The `DpEvent` of dp-accounting.
        unit: The unit for which it holds; the neighboring relation is asked of the accountant.
        warnings: What the event does not state, in sentences.
    """

    event: Any
    unit: PrivacyUnit
    warnings: tuple[str, ...]

    @property
    def text(self) -> str:
        """The JSON of the event; equal events give equal text."""
        return event_text(self.event)


def export_events(ledger: Ledger | History) -> Exported:
    """The releases of a ledger as one event, against an outsider.

    Args:
        ledger: The ledger.

    Raises:
        UnsupportedRelease: Noise for which dp-accounting has no event.
        MissingExtra: dp-accounting is not installed.
    """
    history = History.of(ledger)
    if any(drawn.once for drawn, _ in history.rounds):
        return _of_one_pass(history)
    library = dp_accounting_library()
    warnings = []
    if any(drawn.unbounded and drawn.draw and drawn.draw.sampling != EVERYONE for drawn, _ in history.rounds):
        warnings.append(UNBOUNDED)
    if history.turn:
        warnings.append(f"skipped rounds take {history.turn:.3g} of delta: ask dp-accounting for delta less that much")
    events: list[tuple[Any, int]] = []
    for drawn, times in history.rounds:
        if drawn.releases:
            event, count = _event_of(library, history.unit, drawn)
            events.append((event, count * times))
            sampled = any(isinstance(release.sampling, FixedSize) for release in drawn.releases)
            if sampled and FIXED_SIZE not in warnings:
                warnings.append(FIXED_SIZE)
    parts = []
    for event, equal in groupby(events, key=lambda pair: pair[0]):
        count = sum(times for _, times in equal)
        parts.append(event if count == 1 else library.SelfComposedDpEvent(event, count))
    return Exported(library.ComposedDpEvent(parts), history.unit, tuple(warnings))


def _of_one_pass(history: History) -> Exported:
    """A client of one pass is in one round: the event is that of the worst round, with what its noise shares."""
    library, profiles = dp_accounting_library(), in_every_release(history)
    if any(not event.gaussian for profile in profiles for event in profile):
        raise UnsupportedRelease(
            "dp-accounting has no event for integer noise in many dimensions; `privfl epsilon --ledger` judges it"
        )
    if any(release.placement == "none" for release in history.releases):
        return Exported(library.ComposedDpEvent([library.NonPrivateDpEvent()]), history.unit, (SINGLE_ROUND,))
    weakest = min(1 / math.sqrt(combined(frozenset(profile.items()))[1]) for profile in profiles)
    event = library.ComposedDpEvent([library.GaussianDpEvent(weakest)])
    taken = f"skipped rounds take {history.turn:.3g} of delta: ask dp-accounting for delta less that much"
    return Exported(event, history.unit, (SINGLE_ROUND, *([taken] if history.turn else [])))


def import_events(text: str, unit: PrivacyUnit, *, turn: float | None = None, secure: bool = False) -> Ledger:
    """A ledger in memory of the releases of an event; `Ledger.publish` writes it.

    Args:
        text: The JSON of the event.
        unit: Whose presence is hidden.
        turn: The probability in [0, 1] that one client decides whether a round is skipped; None means that nothing
            bounds it, so sampling is not counted. Not used at level "example".
        secure: True where the noise came from a cryptographic stream through an exact sampler. Otherwise the ledger
            gives an epsilon "if the noise were secure".

    Raises:
        ConfigError: The text is not an event, or the event holds too many rounds.
        UnsupportedRelease: An event for which privfl has no release.
    """
    ledger = Ledger(unit)
    number = 0
    for releases, sampling, count in _flat(read_event(text), 1):
        lines = 1 if unit.level == "example" else count
        if number + lines > MAX_ROUNDS:
            raise ConfigError(f"the event holds more than {MAX_ROUNDS} rounds; import it as a ledger of examples")
        if unit.level == "example" and count > 1 and len(releases) > 1:
            raise UnsupportedRelease("several releases of one batch cannot be repeated: compose the event by itself")
        for _ in range(lines):
            if unit.level == "client":
                ledger.draw(number, sampling, turn)
            for opening, noise in enumerate(releases):
                ledger.reserve(
                    Release(
                        round=number,
                        opening=opening,
                        placement="none" if noise is None else "central",
                        law="none" if noise is None else "rounded_gaussian" if secure else "float_gaussian",
                        secure=secure,
                        declared_stddev=noise or 0.0,
                        realized_stddev=noise or 0.0,
                        norm_bound=1.0,
                        length=1,
                        sampling=sampling,
                        views={"outsider": "release"},
                        count=count if unit.level == "example" else 1,
                    )
                )
            number += 1
    return ledger


def event_text(event: Any) -> str:
    """The JSON of an event; equal events give equal text."""
    return json.dumps(_record(event.to_named_tuple()), indent=1, allow_nan=False)


def read_event(text: str) -> Any:
    """The event behind a JSON text. Only classes of `CLASSES` are made, and no module is imported by name.

    Raises:
        ConfigError: The text is not the JSON of an event.
        UnsupportedRelease: An event of another class.
    """
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"this is no JSON: {error}") from error
    return _made(record)


def _record(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _record(part) for name, part in value._asdict().items()}
    return [_record(part) for part in value] if isinstance(value, list | tuple) else value


def _made(record: Any) -> Any:
    if not isinstance(record, Mapping) or record.get("module_name") != MODULE:
        raise ConfigError(f"an event is an object with module_name {MODULE!r}: export one with `privfl ledger export`")
    name = record.get("class_name")
    if name not in CLASSES:
        raise UnsupportedRelease(
            f"there is no release for {name!r}: the events that can be read are {', '.join(CLASSES)}"
        )
    fields = {}
    for key, value in record.items():
        if key not in ("module_name", "class_name"):
            fields[key] = [_made(part) for part in value] if key == "events" else value
            if key == "event":
                fields[key] = _made(value)
    try:
        return getattr(dp_accounting_library(), str(name))(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} does not have the fields {sorted(fields)}: {error}") from error


def _event_of(library: Any, unit: PrivacyUnit, entry: DrawnRound) -> tuple[Any, int]:
    """The event of one draw, and how often it counts."""
    first = entry.releases[0]
    noises = []
    for release in entry.releases:
        if release.law in ("skellam", "discrete_gaussian"):
            raise UnsupportedRelease(
                f"round {release.round}: dp-accounting has no event for {release.law.replace('_', ' ')} noise in many "
                "dimensions; `privfl epsilon --ledger` judges it"
            )
        if release.placement == "none":
            return library.NonPrivateDpEvent(), first.count
        noises.append(library.GaussianDpEvent(release.noise_multiplier))
    one = noises[0] if len(noises) == 1 else library.ComposedDpEvent(noises)
    sampling = EVERYONE if entry.unbounded else known_sampling(unit, first.placement, first.sampling)
    return _sampled(library, sampling, one, [release.noise_multiplier for release in entry.releases]), first.count


def _sampled(library: Any, sampling: Sampling, event: Any, noises: list[float]) -> Any:
    if isinstance(sampling, Everyone):
        return event
    if isinstance(sampling, Poisson | PoissonBySite):
        return library.PoissonSampledDpEvent(sampling.probability, event)
    if isinstance(sampling, FixedSize):
        return library.SampledWithoutReplacementDpEvent(sampling.population, sampling.size, event)
    if isinstance(sampling, RandomAllocation):
        raise UnsupportedRelease(
            "dp-accounting has no event for random allocation; `privfl epsilon --ledger` judges it"
        )
    z = noises[0] if len(noises) == 1 else 1 / math.sqrt(math.fsum(noise**-2 for noise in noises))
    return library.TruncatedSubsampledGaussianDpEvent(sampling.population, sampling.probability, sampling.cap, z)


_Flat = tuple[list[float | None], Sampling, int]


def _flat(event: Any, count: int) -> Iterable[_Flat]:
    """(noise multipliers of one draw, its sampling, how often) of each event inside."""
    name = type(event).__name__
    if name == "NoOpDpEvent" or not count:
        return
    if name == "ComposedDpEvent":
        for part in event.events:  # counts may mix the order of rounds, which does not matter
            yield from _flat(part, count)
    elif name == "SelfComposedDpEvent":
        _check_repeats(event.count)
        yield from _flat(event.event, count * event.count)
    elif name == "PoissonSampledDpEvent":
        yield _noises(event.event), Poisson(event.sampling_probability), count
    elif name == "SampledWithoutReplacementDpEvent":
        yield _noises(event.event), FixedSize(event.sample_size, event.source_dataset_size), count
    elif name == "TruncatedSubsampledGaussianDpEvent":
        sampling = TruncatedPoisson(event.sampling_probability, event.truncated_batch_size, event.dataset_size)
        yield [_number(event.noise_multiplier)], sampling, count
    else:
        yield _noises(event), EVERYONE, count


def _noises(event: Any) -> list[float | None]:
    """The noise multipliers of all releases of one draw; None for a release without noise."""
    name = type(event).__name__
    if name == "GaussianDpEvent":
        return [_number(event.noise_multiplier)]
    if name == "NonPrivateDpEvent":
        return [None]
    if name == "NoOpDpEvent":
        return []
    if name == "ComposedDpEvent":
        return [noise for part in event.events for noise in _noises(part)]
    if name == "SelfComposedDpEvent":
        _check_repeats(event.count)
        return _noises(event.event) * int(event.count)
    raise UnsupportedRelease(f"there is no release for {name} inside a sampled event: only Gaussian noise is")


def _check_repeats(count: Any) -> None:
    if not isinstance(count, int) or not 0 <= count <= MAX_ROUNDS:
        raise ConfigError(f"a count must be an integer in [0, {MAX_ROUNDS}], not {count!r}")


def _number(noise_multiplier: Any) -> float:
    if isinstance(noise_multiplier, bool) or not isinstance(noise_multiplier, int | float):
        raise ConfigError(f"a noise_multiplier must be a number, not {noise_multiplier!r}")
    return float(noise_multiplier)
