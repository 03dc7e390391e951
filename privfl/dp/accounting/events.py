"""From releases to what one observer can use against one unit: the events that an accountant composes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from privfl.checks import check_choice
from privfl.dp.release import Law, Placement, Release
from privfl.dp.unit import OBSERVERS, Everyone, FixedSize, Observer, PrivacyUnit, Sampling, TruncatedPoisson
from privfl.errors import UnsupportedRelease
from privfl.wire import ClientId

EVERYONE: Final = Everyone()


@dataclass(frozen=True, slots=True, order=True)
class Noise:
    """One noisy look at a contribution: its law, deviation and bounds, all in units of the contribution's l2 bound.

    Only a law on the integers needs `norm_bound` and `l1_bound` (integer units); they are 0 for the rounded Gaussian,
    so that releases of equal noise multiplier count as equal.
    """

    law: Law
    noise_multiplier: float
    norm_bound: float = 0.0
    l1_bound: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """All looks that one draw of a cohort allowed, and how that cohort was drawn as far as the observer knows."""

    looks: tuple[Noise, ...]
    sampling: Sampling

    @property
    def gaussian(self) -> bool:
        """Whether every look is Gaussian; there is one look then."""
        return all(look.law == "rounded_gaussian" for look in self.looks)

    @property
    def noise_multiplier(self) -> float:
        """Of all looks together: 1/z^2 = sum of 1/z_i^2."""
        return 1.0 / math.sqrt(math.fsum(look.noise_multiplier**-2 for look in self.looks))


Profile = Counter[Event]
"""What bears on one unit: events, and how often each."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """All profiles that may be some unit's worst; `unbounded` says why there is no finite epsilon, or is empty."""

    profiles: tuple[Profile, ...]
    unbounded: str = ""


def gaussian_event(noise_multiplier: float, sampling: Sampling = EVERYONE) -> Event:
    """One rounded-Gaussian (or real Gaussian) look."""
    return Event((Noise("rounded_gaussian", noise_multiplier),), sampling)


def carried_by_units(unit: PrivacyUnit, placement: Placement) -> bool:
    """Whether each unit brings a noise of its own, so that one unit less is less noise.

    So it is with clients under local noise. A sample brings none: in DP-SGD its client adds one noise to each batch.
    """
    return placement == "local" and unit.level == "client"


def known_sampling(unit: PrivacyUnit, placement: Placement, sampling: Sampling) -> Sampling:
    """How a cohort was drawn, as far as it protects against an outsider.

    Noise that units carry grows with the cohort, so that a sum of many entries tells how large that was, and with it
    what sampling should hide: no amplification is claimed.
    """
    return EVERYONE if carried_by_units(unit, placement) else sampling


def exposure(releases: Sequence[Release], unit: PrivacyUnit, observer: Observer) -> Exposure:
    """What `observer` can use.

    The outsider does not know the cohorts, so that each round counts with its sampling and no unit is special. All
    others know them: each client has a profile of the rounds in which it took part, without amplification, and those
    that another one dominates are left out. Raises `UnsupportedRelease` when the releases do not tell.
    """
    check_choice("observer", observer, OBSERVERS)
    for release in releases:
        reason = _unbounded(release, observer)
        if reason:
            return Exposure((), reason)
    if observer == "outsider":
        profile: Profile = Counter()
        for looks in _by_draw(releases, unit):
            sampling = _one_sampling(looks)
            if any(known_sampling(unit, look.placement, sampling) == EVERYONE for look in looks):
                sampling = EVERYONE
            profile[_event(looks, sampling)] += looks[0].count
        return Exposure((profile,))
    if unit.level == "example":
        # Whoever knows the batches knows in which steps a row was: the worst row is in all of them.
        whole: Profile = Counter()
        for release in releases:
            whole[_event([release], EVERYONE)] += release.count
        return Exposure((whole,))
    everyone: Profile = Counter()
    clients: defaultdict[ClientId, Profile] = defaultdict(Counter)
    for release in releases:
        event = _event([release], EVERYONE)
        if release.participants is not None:
            for client in release.participants:
                clients[client][event] += release.count
        elif isinstance(release.sampling, Everyone):
            everyone[event] += release.count
        else:
            raise UnsupportedRelease(
                f"round {release.round}: this ledger withholds who took part, and the {observer} knows it: only the "
                "outsider's epsilon can be computed from it"
            )
    profiles = [profile + everyone for profile in clients.values()] or [everyone]
    return Exposure(_undominated(profiles))


def _unbounded(release: Release, observer: Observer) -> str:
    """Why this observer gets no finite epsilon from this release, or an empty string."""
    where = f"round {release.round}"
    if release.placement == "none":
        return f"{where}: no noise was added"
    opener: Observer = "key_holder" if release.server_sees == "ciphertexts" else "server"
    if observer == "key_holder" and opener != "key_holder":
        raise UnsupportedRelease(f"{where}: there is no key holder in this sum; ask for the server's epsilon")
    if release.placement == "central":
        if observer == opener:
            return f"{where}: the {observer} opened the sum before its noise was added"
        if observer == "participant" and opener == "key_holder":
            # Any of them may open, and the noise is derived from a key that all of them were dealt.
            return f"{where}: a participant of an encrypted sum is a key holder, and knows the sum before its noise"
    if release.placement == "distributed" and observer == "server" and release.server_sees == "vectors":
        return f"{where}: the server saw single vectors, which carry only a share of the noise"
    return ""


def _by_draw(releases: Iterable[Release], unit: PrivacyUnit) -> list[list[Release]]:
    """Releases of one draw together: attempts and further openings of a round share its cohort.

    Of rows, each attempt draws its own batches, and only further openings share them.
    """
    draws: defaultdict[tuple[int, int], list[Release]] = defaultdict(list)
    for release in releases:
        draws[release.round, release.attempt if unit.level == "example" else 0].append(release)
    return list(draws.values())


def _one_sampling(releases: list[Release]) -> Sampling:
    sampling = releases[0].sampling
    for release in releases:
        where = f"round {release.round}"
        if len(releases) > 1 and release.count > 1:
            raise UnsupportedRelease(f"{where}: a line for {release.count} draws cannot share one with another line")
        if release.sampling != sampling:
            raise UnsupportedRelease(f"{where}: one draw of a cohort has one sampling, not {release.sampling} too")
        taking_part = 0 if release.participants is None else len(release.participants)
        if isinstance(sampling, FixedSize) and taking_part > sampling.size:
            raise UnsupportedRelease(f"{where}: {taking_part} took part, and {sampling.size} were declared as drawn")
        if isinstance(sampling, TruncatedPoisson) and taking_part > sampling.cap:
            raise UnsupportedRelease(f"{where}: {taking_part} took part, above the declared cap of {sampling.cap}")
    return sampling


def _event(releases: list[Release], sampling: Sampling) -> Event:
    looks = [_look(release) for release in releases]
    if len(looks) > 1 and all(look.law == "rounded_gaussian" for look in looks):
        looks = [Noise("rounded_gaussian", Event(tuple(looks), sampling).noise_multiplier)]
    return Event(tuple(sorted(looks)), sampling)


def _look(release: Release) -> Noise:
    if release.law in ("rounded_gaussian", "float_gaussian"):
        return Noise("rounded_gaussian", release.noise_multiplier)
    if release.law == "discrete_gaussian":
        return Noise(release.law, release.noise_multiplier)
    if release.l1_bound is None:
        raise UnsupportedRelease(f"round {release.round}: {release.law} noise needs the l1 bound of a contribution")
    return Noise(release.law, release.noise_multiplier, release.norm_bound, release.l1_bound)


def _undominated(profiles: list[Profile]) -> tuple[Profile, ...]:
    unique = {frozenset(profile.items()): profile for profile in profiles}
    kept: list[Profile] = []
    for profile in sorted(unique.values(), key=lambda p: -p.total()):
        if not any(profile <= other for other in kept):
            kept.append(profile)
    return tuple(kept)
