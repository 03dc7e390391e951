"""From releases to what one observer can use against one unit: the events that an accountant composes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

from privfl.checks import check_choice
from privfl.dp.accounting.history import EVERYONE, History
from privfl.dp.noise.toeplitz import column_norm
from privfl.dp.release import SHARED, Law, Placement, Release
from privfl.dp.unit import OnePass, PrivacyUnit, RandomAllocation, Sampling
from privfl.errors import UnsupportedRelease
from privfl.observers import OBSERVERS, Observer
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True, order=True)
class Look:
    """One noisy look at a contribution, in units of the contribution's l2 bound.

    Only a law on the integers needs the last three. They are 0 for the rounded Gaussian, so releases of equal noise
    multiplier count as equal.

    Attributes:
        law: The law of the noise.
        noise_multiplier: The standard deviation.
        norm_bound: The l2 bound in integer units.
        l1_bound: The l1 bound in integer units.
        length: The number of noise coordinates.
    """

    law: Law
    noise_multiplier: float
    norm_bound: float = 0.0
    l1_bound: float = 0.0
    length: int = 0

    @property
    def variance(self) -> float:
        """Variance of the noise in integer units squared, rounded down; 0 for the rounded Gaussian."""
        return (self.noise_multiplier * self.norm_bound) ** 2 * (1 - 2.0**-50)


@dataclass(frozen=True, slots=True)
class Event:
    """The observations that one sampled cohort gave one observer.

    Attributes:
        looks: The noise of each observation.
        sampling: The sampling of the cohort, as far as the observer knows it.
    """

    looks: tuple[Look, ...]
    sampling: Sampling

    @property
    def gaussian(self) -> bool:
        """True when every look is Gaussian; there is one look then."""
        return all(look.law == "rounded_gaussian" for look in self.looks)

    @property
    def noise_multiplier(self) -> float:
        """Of all looks together: 1/z^2 = sum of 1/z_i^2."""
        return 1.0 / math.sqrt(math.fsum(look.noise_multiplier**-2 for look in self.looks))


Profile = Counter[Event]
"""What bears on one unit: events, and how often each."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """All profiles that may be some unit's worst.

    Attributes:
        profiles: The events of each such unit, and how often each occurs.
        unbounded: The reason why there is no finite epsilon; empty where there is one.
    """

    profiles: tuple[Profile, ...]
    unbounded: str = ""


def gaussian_event(noise_multiplier: float, sampling: Sampling = EVERYONE) -> Event:
    """One look through Gaussian noise, rounded or not.

    Args:
        noise_multiplier: Noise standard deviation divided by the norm bound of one contribution.
        sampling: How the cohort is sampled as far as the observer knows.
    """
    return Event((Look("rounded_gaussian", noise_multiplier),), sampling)


def carried_by_units(unit: PrivacyUnit, placement: Placement) -> bool:
    """True when each unit brings a noise of its own, so one unit less is less noise.

    Clients under local noise do. An example brings none: in DP-SGD its client adds one noise to each batch.

    Args:
        unit: The unit of the ledger.
        placement: Where the noise was added.
    """
    return placement == "local" and unit.level == "client"


def known_sampling(unit: PrivacyUnit, placement: Placement, sampling: Sampling) -> Sampling:
    """Return the sampling of a cohort, as far as it protects against an outsider.

    Noise that units carry grows with the cohort. A sum of many entries then reveals how large the cohort was, and with
    it what sampling should hide: no amplification is claimed.

    Args:
        unit: The unit of the ledger.
        placement: The placement of the noise.
        sampling: The sampling of the cohort.
    """
    return unsampled(sampling) if carried_by_units(unit, placement) else sampling


def unsampled(sampling: Sampling) -> Sampling:
    """The sampling without what it hides: everyone takes part, or each in one round."""
    return sampling if isinstance(sampling, OnePass) else EVERYONE


def drawn_at_sites(releases: Iterable[Release]) -> bool:
    """True when every release is over examples whose draw is known to their own site only."""
    return all(release.draw_known_to == "site" for release in releases)


def as_seen(
    unit: PrivacyUnit, observer: Observer, placements: Iterable[Placement] = (), *, at_sites: bool = False
) -> PrivacyUnit:
    """Return the unit that can be promised: add_remove becomes zero_out against observers who see that a unit was
    absent.

    Those observers know the cohort. Where each client brings a whole noise of its own (local), it is everybody: one
    client less is less noise then, and no shift of the sum accounts for that. Shares of distributed noise have one
    variance together in every cohort, which an outsider does not know. Mesh noise is filled up to one variance where
    cohorts are sampled. Of examples that their site samples, nobody else sees that one was absent.

    Args:
        unit: The unit of the ledger.
        observer: The observer against whom the promise holds.
        placements: The placements of the noise of all releases.
        at_sites: Whether all draws are known to the sites only, from `drawn_at_sites`.
    """
    carried = any(carried_by_units(unit, placement) for placement in placements)
    knows = observer != "outsider" and not (at_sites and unit.level == "example")
    if unit.adjacency == "add_remove" and (knows or carried):
        return PrivacyUnit(unit.level, "zero_out")
    return unit


def named(observer: Observer) -> str:
    """The observer in words."""
    return observer.replace("_", " ")


def exposure(history: History, observer: Observer) -> Exposure:
    """Return the events that `observer` can use.

    The outsider does not know the cohorts, so each round counts with its sampling and no unit is special; participants
    are not looked at. All others know the cohorts: each client has a profile of the rounds in which it took part,
    without amplification, and those that another one dominates are left out. Several ledgers number their clients each
    by itself, so the worst of each is taken to be one client.

    Args:
        history: The releases, with the sampling that protects.
        observer: The observer.

    Raises:
        UnsupportedRelease: The releases do not state what the observer knows, or there is no such observer.
    """
    check_choice("observer", observer, OBSERVERS)
    for release in history.releases:
        if observer != "outsider" and history.unit.level == "client" and release.participants is None:
            raise UnsupportedRelease(
                f"round {release.round}: this ledger withholds who took part, and the {named(observer)} knows it: ask "
                "for the outsider's epsilon, or give the ledger of the run itself"
            )
        reason = _unbounded(release, observer)
        if reason:
            return Exposure((), reason)
    if observer == "outsider":
        return Exposure(_outsider(history))
    if history.unit.level == "example":
        return Exposure((_examples(history),))
    ledgers: defaultdict[int, defaultdict[ClientId, Profile]] = defaultdict(lambda: defaultdict(Counter))
    together = _correlated(history)
    for drawn, times in history.rounds:
        for release in drawn.releases:
            joined = release.correlation != "none"
            event = together[drawn.ledger] if joined else _event([release], EVERYONE)
            count = 1 if drawn.once else release.count * times
            for client in release.participants or ():
                known = ledgers[drawn.ledger][client]
                known[event] = 1 if joined else known[event] + count
    profiles = [list(clients.values()) for clients in ledgers.values()] or [[Counter()]]
    if len(profiles) > 1:  # any client of one ledger may be any client of another
        every: Iterator[Profile] = (reduce(or_, known, Counter()) for known in profiles)
        profiles = [[sum(every, Counter())]]
    return Exposure(_undominated(profiles[0]))


def _examples(history: History) -> Profile:
    """The worst example against an observer inside the federation.

    Draws that the sites alone know count with their sampling. Of all others the observer knows in which steps an
    example was, so the worst example is in all of them.
    """
    profile: Profile = Counter()
    for drawn, times in history.rounds:
        if drawn.releases and drawn_at_sites(drawn.releases):
            looks = list(drawn.releases)
            profile[_event(looks, _one_sampling(looks))] += looks[0].count * times
            continue
        for release in drawn.releases:
            profile[_event([release], EVERYONE)] += release.count * times
    return profile


def in_every_release(history: History) -> tuple[Profile, ...]:
    """The profiles of a unit that is in every release that it can be in, for an observer who knows that."""
    profile: Profile = Counter()
    for drawn, times in history.rounds:
        for release in () if drawn.once else drawn.releases:
            profile[_event([release], EVERYONE)] += release.count * times
    return tuple(profile + one for one in _in_one_round(history))


def _in_one_round(history: History) -> Iterator[Profile]:
    """The additions of a unit that takes part in one round of each ledger of one pass: any round may be that one."""
    choices: defaultdict[int, list[Profile]] = defaultdict(list)
    together = _correlated(history)
    for drawn, _ in history.rounds:
        if drawn.once:
            _one_sampling(list(drawn.releases))
            apart = [release for release in drawn.releases if release.correlation == "none"]
            profile = Counter([_event(apart, EVERYONE)] if apart else [])
            if len(apart) < len(drawn.releases):
                profile[together[drawn.ledger]] += 1
            if profile not in choices[drawn.ledger]:
                choices[drawn.ledger].append(profile)
    for choice in product(*choices.values()):
        yield sum(choice, Counter())


def _correlated(history: History) -> dict[int, Event]:
    """The one look that all rounds with correlated noise of each ledger allow at a client, by ledger.

    The client of the first round has the most rounds behind it: its contribution moves the noise of all of them. Of an
    opening that was tried again the same noise was added to the same sum, or nothing was.
    """
    found: dict[int, Event] = {}
    spans: defaultdict[int, list[tuple[int, int, Release]]] = defaultdict(list)
    for drawn, times in history.rounds:
        for release in drawn.releases:
            if release.correlation != "none":
                spans[drawn.ledger].append((release.round, release.round + times, release))
    for ledger, rounds in spans.items():
        count = max(end for _, end, _ in rounds) - min(start for start, _, _ in rounds)
        weakest = min(release.declared_stddev for _, _, release in rounds)
        largest = max(release.norm_bound for _, _, release in rounds)
        found[ledger] = gaussian_event(weakest / largest / column_norm(count))
    return found


def _outsider(history: History) -> tuple[Profile, ...]:
    profile: Profile = Counter()
    blocks: dict[tuple[Sampling, int], list[float]] = {}
    for drawn, times in history.rounds:
        looks = list(drawn.releases)
        if not looks or drawn.once:
            continue
        sampling = EVERYONE if drawn.unbounded else _one_sampling(looks)
        if any(known_sampling(history.unit, look.placement, sampling) == EVERYONE for look in looks):
            sampling = EVERYONE
        event = _event(looks, sampling)
        if isinstance(sampling, RandomAllocation) and event.gaussian and drawn.draw is not None:
            # A block that was begun counts as a whole one, and each of its rounds with the least noise of all.
            first = (drawn.draw.round - 1) // sampling.rounds
            for block in range(first, first + math.ceil(times / sampling.rounds)):
                blocks.setdefault((sampling, block), []).append(event.noise_multiplier)
            continue
        profile[event] += looks[0].count * times
    for (sampling, _), noises in blocks.items():
        profile[gaussian_event(min(noises), sampling)] += 1
    return tuple(profile + one for one in _in_one_round(history))


def _unbounded(release: Release, observer: Observer) -> str:
    """The reason why this observer gets no finite epsilon from this release, or an empty string."""
    where = f"round {release.round}"
    if release.placement == "none":
        return f"{where}: no noise was added"
    if observer not in release.views:
        raise UnsupportedRelease(
            f"{where}: there is no {named(observer)} in this sum; ask for one of {', '.join(release.views)}"
        )
    view = release.views[observer]
    if release.placement == "central" and view != "release":
        if observer == "participant":
            return f"{where}: every participant of this sum can open it, and knows the sum before its noise"
        return f"{where}: the {named(observer)} opened the sum before its noise was added"
    if release.placement in SHARED and view == "vectors":
        return f"{where}: the {observer} saw single vectors, which carry only a share of the noise"
    if release.spare == 0 and observer in ("participant", "key_holder"):
        return f"{where}: spare is 0, so the noise counts on every member, and a member knows its own part"
    return ""


def _one_sampling(releases: list[Release]) -> Sampling:
    sampling = releases[0].sampling
    for release in releases:
        where = f"round {release.round}"
        if len(releases) > 1 and release.count > 1:
            raise UnsupportedRelease(f"{where}: a line for {release.count} draws cannot share one with another line")
        if release.sampling != sampling:
            raise UnsupportedRelease(f"{where}: one draw of a cohort has one sampling, not {release.sampling} too")
    return sampling


def _event(releases: list[Release], sampling: Sampling) -> Event:
    looks = [_look(release) for release in releases]
    if len(looks) > 1 and all(look.law == "rounded_gaussian" for look in looks):
        looks = [Look("rounded_gaussian", Event(tuple(looks), sampling).noise_multiplier)]
    return Event(tuple(sorted(looks)), sampling)


def _look(release: Release) -> Look:
    if release.law in ("rounded_gaussian", "float_gaussian"):
        return Look("rounded_gaussian", release.noise_multiplier)
    if release.law == "discrete_gaussian":
        return Look(release.law, release.noise_multiplier, release.norm_bound, length=release.length)
    if release.l1_bound is None:
        raise UnsupportedRelease(f"round {release.round}: {release.law} noise needs the l1 bound of a contribution")
    return Look(release.law, release.noise_multiplier, release.norm_bound, release.l1_bound, release.length)


def _undominated(profiles: list[Profile]) -> tuple[Profile, ...]:
    unique = {frozenset(profile.items()): profile for profile in profiles}
    kept: list[Profile] = []
    for profile in sorted(unique.values(), key=lambda p: -p.total()):
        if not any(profile <= other for other in kept):
            kept.append(profile)
    return tuple(kept)
