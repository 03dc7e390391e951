"""A release: what one opened sum was worth, in the terms an accountant needs, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

from privfl.checks import check_choice, check_count, check_positive
from privfl.dp.unit import Sampling, read_sampling, sampling_record
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.wire import SERVER, ClientId

Placement = Literal["none", "central", "distributed", "local"]
Law = Literal["none", "rounded_gaussian", "skellam", "discrete_gaussian", "float_gaussian"]
ServerView = Literal["vectors", "sum", "ciphertexts"]

PLACEMENTS: Final[tuple[Placement, ...]] = get_args(Placement)
LAWS: Final[tuple[Law, ...]] = get_args(Law)
VIEWS: Final[tuple[ServerView, ...]] = get_args(ServerView)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One opened sum.

    `declared_stddev`: deviation (integer units) of the noise that the guarantee rests on - in the opened sum when
    central or distributed, in each contribution when local; `realized_stddev`: what was there in the end, at least
    the declared; `norm_bound`: l2 norm bound (integer units) of one contribution, all blocks together; `l1_bound`:
    its l1 norm bound, for the laws that need it; `secure`: the noise came from a cryptographic stream through an
    exact sampler; `server_sees`: single vectors (a plain sum), the opened sum (masks), or ciphertexts and what the
    key holder opened; `participants`: whose data may be in the sum, increasing, or None where that is withheld;
    `opening`: 0 for a sum's first opening, 1 for a second one with fresh noise, and so on: each is charged;
    `count`: how many releases in a row, each with its own draw, the line stands for (steps of DP-SGD in a round).
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
    sampling: Sampling
    server_sees: ServerView
    participants: tuple[ClientId, ...] | None = None
    count: int = 1

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, PLACEMENTS)
        check_choice("law", self.law, LAWS)
        check_choice("server_sees", self.server_sees, VIEWS)
        check_positive("norm_bound", self.norm_bound)
        if self.l1_bound is not None:
            check_positive("l1_bound", self.l1_bound)
        for name in ("round", "attempt", "opening"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{name} must be an integer of at least 0, not {value!r}")
        check_count("count", self.count)
        self._check_noise()
        ids = self.participants
        if ids is not None and (
            list(ids) != sorted(set(ids)) or any(not isinstance(c, int) or not 0 <= c < SERVER for c in ids)
        ):
            raise ConfigError("participants must be strictly increasing identities in [0, 2^32 - 2]")

    def _check_noise(self) -> None:
        if (self.placement == "none") != (self.law == "none"):
            raise ConfigError(f"placement {self.placement!r} does not go with the law {self.law!r}")
        if self.placement == "none":
            if self.declared_stddev != 0 or self.realized_stddev != 0:
                raise ConfigError("a release without noise declares a deviation of 0")
            return
        if self.law == "float_gaussian" and self.secure:
            raise ConfigError("floating-point noise is not secure: its low bits tell the sum")
        check_positive("declared_stddev", self.declared_stddev)
        check_positive("realized_stddev", self.realized_stddev)
        if self.realized_stddev < self.declared_stddev:
            raise PrivacyError(
                f"the surviving noise has deviation {self.realized_stddev:.6g}, and {self.declared_stddev:.6g} was "
                "declared: no epsilon can be claimed"
            )

    @property
    def noise_multiplier(self) -> float:
        """Declared noise deviation over the norm bound of one contribution."""
        return self.declared_stddev / self.norm_bound

    def record(self) -> dict[str, Any]:
        """The release as a JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["sampling"] = sampling_record(self.sampling)
        values["participants"] = None if self.participants is None else list(self.participants)
        return values

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Release:
        """The release from its JSON object; raises `StateError` when it is not one."""
        values = dict(record)
        names = {f.name for f in fields(cls)}
        if set(values) != names:
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
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a release: {error}") from error

    def withheld(self) -> Release:
        """The release as it may be published beside an outsider's epsilon: without who took part, or how much noise
        more than declared survived, since both depend on the cohort."""
        return replace(self, participants=None, realized_stddev=self.declared_stddev)

    def covers(self, other: Release) -> bool:
        """Whether this (reserved) release is a worst case of `other` (settled): same terms, no less noise declared."""
        same = ("round", "attempt", "opening", "placement", "law", "secure", "sampling", "server_sees")
        mine, theirs = self.participants, other.participants
        return (
            all(getattr(self, name) == getattr(other, name) for name in same)
            and other.noise_multiplier >= self.noise_multiplier
            and _l1_ratio(other) <= _l1_ratio(self)
            and other.count <= self.count
            and other.declared_stddev >= self.declared_stddev
            and (mine is None or (theirs is not None and set(theirs) <= set(mine)))
        )


def _l1_ratio(release: Release) -> float:
    return 0.0 if release.l1_bound is None else release.l1_bound / max(release.declared_stddev, math.ulp(0.0))
