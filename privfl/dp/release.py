"""A release: one opened sum in the terms that an accountant needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

from privfl.checks import check_choice, check_count, check_positive
from privfl.dp.unit import FixedSize, OnePass, PoissonBySite, Sampling, TruncatedPoisson, read_sampling, sampling_record
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.observers import OBSERVERS, VIEWS, Views
from privfl.wire import SERVER, ClientId

Placement = Literal["none", "central", "distributed", "mesh", "local"]
Law = Literal["none", "rounded_gaussian", "skellam", "discrete_gaussian", "float_gaussian"]

Correlation = Literal["none", "toeplitz"]
"""How the noise of the rounds depends on each other: not at all, or as in privfl/dp/noise/toeplitz.py."""

PLACEMENTS: Final[tuple[Placement, ...]] = get_args(Placement)
CORRELATIONS: Final[tuple[Correlation, ...]] = get_args(Correlation)
LAWS: Final[tuple[Law, ...]] = get_args(Law)
DrawKnownTo = Literal["site"]
"""The party that knows which examples were sampled: the site that holds them, and nobody else."""

SHARED: Final[tuple[Placement, ...]] = ("distributed", "mesh")
"""The placements whose noise is the sum of what several clients add: Skellam noise inside the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One opened sum.

    Attributes:
        round: Number of the round, at least 0.
        attempt: 0 for the first try of a round, 1 for the next one.
        opening: 0 for the first opening of a sum, 1 for a second one with fresh noise. Each is charged.
        placement: Where the noise was added, or "none".
        law: The law of the noise, or "none".
        secure: True when the noise came from a cryptographic stream through an exact sampler.
        declared_stddev: Standard deviation (integer units) of the noise that the guarantee rests on: in the opened sum
            when central, distributed or mesh, in each contribution when local; 0 without noise.
        realized_stddev: Standard deviation of the noise that counted in the opened sum; at least `declared_stddev`.
        norm_bound: l2 norm bound (integer units) of one contribution, all slots together.
        l1_bound: Its l1 norm bound, for the laws that need it, else None.
        length: Noise coordinates: entries of the vector that was opened, at least 1.
        sampling: How the cohort was sampled; where `draw_known_to` is "site", how examples were.
        views: What each observer sees of this sum; the outsider sees the release.
        participants: Clients whose data may be in the sum, increasing; None in a public version.
        count: How many consecutive releases of equal terms this one entry stands for, such as the steps of DP-SGD in a
            round. Each has a sample of its own.
        spare: For mesh noise, the most members of one coalition whose noise does not count, at least 0; None elsewhere.
        draw_known_to: "site" where each site sampled its own examples by coins that no other party knows, again for
            each attempt; at level "example" only. None where other observers may know who was sampled.
        correlation: "none" for noise that is independent of that of other rounds. "toeplitz" for noise that partly
            takes back the noise of the rounds before it; the standard deviations are then those of its fresh part.

    Raises:
        ConfigError: Fields that contradict each other.
        PrivacyError: Less noise than declared, or more participants than the sampling allows.
    """

    round: int
    attempt: int = 0
    opening: int = 0
    placement: Placement
    law: Law
    secure: bool
    declared_stddev: float
    realized_stddev: float
    norm_bound: float
    l1_bound: float | None = None
    length: int
    sampling: Sampling
    views: Views
    participants: tuple[ClientId, ...] | None = None
    count: int = 1
    spare: int | None = None
    draw_known_to: DrawKnownTo | None = None
    correlation: Correlation = "none"

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, PLACEMENTS)
        check_choice("law", self.law, LAWS)
        object.__setattr__(self, "views", _checked_views(self.views))
        check_positive("norm_bound", self.norm_bound)
        if self.l1_bound is not None:
            check_positive("l1_bound", self.l1_bound)
        for name in ("round", "attempt", "opening"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{name} must be an integer of at least 0, not {value!r}")
        check_count("count", self.count)
        check_count("length", self.length)
        self._check_noise()
        if (self.spare is not None) != (self.placement == "mesh"):
            raise ConfigError("spare is stated with placement 'mesh', and with no other")
        if self.spare is not None and (type(self.spare) is not int or self.spare < 0):
            raise ConfigError(f"spare must be an integer of at least 0, not {self.spare!r}")
        if self.draw_known_to not in (None, "site"):
            raise ConfigError(f"draw_known_to must be 'site' or absent, not {self.draw_known_to!r}")
        if isinstance(self.sampling, PoissonBySite) and self.draw_known_to is None:
            raise ConfigError("a probability for each site is of examples whose draw is known to the site only")
        self._check_correlation()
        ids = self.participants
        if ids is not None and (
            list(ids) != sorted(set(ids)) or any(not isinstance(c, int) or not 0 <= c < SERVER for c in ids)
        ):
            raise ConfigError("participants must be strictly increasing identities in [0, 2^32 - 2]")
        largest = {TruncatedPoisson: "cap", FixedSize: "size", OnePass: "size"}.get(type(self.sampling))
        if ids is not None and largest is not None and len(ids) > getattr(self.sampling, largest):
            raise PrivacyError(
                f"round {self.round}: {len(ids)} took part, and the declared {largest} is "
                f"{getattr(self.sampling, largest)}: no epsilon can be claimed"
            )

    def _check_correlation(self) -> None:
        check_choice("correlation", self.correlation, CORRELATIONS)
        if self.correlation == "none":
            return
        if (self.placement, self.law, self.opening, self.count) != ("central", "rounded_gaussian", 0, 1):
            raise ConfigError(
                f"correlation {self.correlation!r} is of one opening with central, rounded Gaussian noise, not of "
                f"placement {self.placement!r} and law {self.law!r}"
            )
        if not isinstance(self.sampling, OnePass):
            raise ConfigError(
                f"correlation {self.correlation!r} is priced for clients that take part once: the sampling must be "
                f"OnePass, not {type(self.sampling).__name__}"
            )

    def _check_noise(self) -> None:
        if (self.placement == "none") != (self.law == "none"):
            raise ConfigError(f"placement {self.placement!r} does not go with the law {self.law!r}")
        if self.placement == "mesh" and self.law != "skellam":
            raise ConfigError(f"placement 'mesh' goes with the law 'skellam', not with {self.law!r}")
        if self.placement == "none":
            if self.declared_stddev != 0 or self.realized_stddev != 0:
                raise ConfigError("a release without noise declares a stddev of 0")
            return
        if self.law == "float_gaussian" and self.secure:
            raise ConfigError("floating-point noise is not secure: its low bits reveal the sum")
        check_positive("declared_stddev", self.declared_stddev)
        check_positive("realized_stddev", self.realized_stddev)
        if self.realized_stddev < self.declared_stddev:
            raise PrivacyError(
                f"the surviving noise has stddev {self.realized_stddev:.6g}, and {self.declared_stddev:.6g} was "
                "declared: no epsilon can be claimed"
            )

    @property
    def noise_multiplier(self) -> float:
        """The declared standard deviation of the noise divided by the norm bound of one contribution."""
        return self.declared_stddev / self.norm_bound

    def record(self) -> dict[str, Any]:
        """The release as a JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["sampling"] = sampling_record(self.sampling)
        values["views"] = dict(self.views)
        values["participants"] = None if self.participants is None else list(self.participants)
        for name in ("spare", "draw_known_to"):
            if values[name] is None:
                del values[name]
        if self.correlation == "none":
            del values["correlation"]
        return values

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Release:
        """The release from its JSON object; raises `StateError` when it is not one."""
        values = dict(record)
        names = {f.name for f in fields(cls)} - {"draw_known_to", "correlation"}
        names -= {"spare"} if values.get("placement") != "mesh" else set()
        absent = values.get("draw_known_to", "site") is None or values.get("correlation") == "none"
        if set(values) - {"draw_known_to", "correlation"} != names or absent:
            raise StateError(f"not a release: fields {sorted(set(values) ^ names)} are missing or too many")
        try:
            values["sampling"] = read_sampling(values["sampling"])
            if values["participants"] is not None:
                values["participants"] = tuple(values["participants"])
            for name in ("declared_stddev", "realized_stddev", "norm_bound"):
                values[name] = float(values[name])
            if not isinstance(values["secure"], bool):
                raise ConfigError(f"secure must be true or false, not {values['secure']!r}")
            return cls(**values)
        except (PrivacyError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a release: {error}") from error

    def public_version(self) -> Release:
        """Return the version of the release that may be published next to an outsider's epsilon.

        Participants and the noise beyond the declared noise are left out, because both depend on the cohort.
        """
        return replace(self, participants=None, realized_stddev=self.declared_stddev)

    def covers(self, other: Release) -> bool:
        """True when this (reserved) release is a worst case of `other` (settled).

        All terms are the same, the declared noise and the bounds of a contribution included. Only the participants and
        the steps may be fewer, and the noise that was realized may exceed what was declared.
        """
        free = ("realized_stddev", "participants", "count")
        same = (field.name for field in fields(self) if field.name not in free)
        mine, theirs = self.participants, other.participants
        return (
            all(getattr(self, name) == getattr(other, name) for name in same)
            and other.count <= self.count
            and (mine is None or (theirs is not None and set(theirs) <= set(mine)))
        )


def _checked_views(views: Views) -> Views:
    """The views in the order of the observers' names, which makes their JSON canonical."""
    if not isinstance(views, Mapping) or views.get("outsider") != "release":
        raise ConfigError(f"views must say what each observer sees, the outsider 'release', not {views!r}")
    for observer, view in views.items():
        check_choice("views' observer", observer, OBSERVERS)
        check_choice(f"the view of the {observer}", view, VIEWS)
    return {observer: views[observer] for observer in sorted(views)}
