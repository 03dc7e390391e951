"""Checks of a run that claims privacy: the settings that would break the claim in spite of the noise."""

from __future__ import annotations

from typing import Literal

from privfl.dp.adaptive import AdaptiveClip
from privfl.dp.release import Correlation
from privfl.dp.unit import OnePass, Sampling
from privfl.errors import ConfigError


def check_correlated(correlation: Correlation, sampling: Sampling, clip: object = None) -> None:
    """Raise `ConfigError` where the noise of one round cannot take back that of another.

    Args:
        correlation: How the noise of the rounds depends on each other.
        sampling: How the cohort of a round is sampled.
        clip: The clip; an adaptive one changes the noise from round to round.
    """
    if correlation == "none":
        return
    if not isinstance(sampling, OnePass):
        raise ConfigError(
            f"privacy.correlation = {correlation!r} is priced for clients that take part in one round: set "
            "cohort.sampling = 'one-pass', or privacy.correlation = 'none'"
        )
    if isinstance(clip, AdaptiveClip):
        raise ConfigError(
            f"privacy.correlation = {correlation!r} needs noise of one size in all rounds, and a clip that follows a "
            "quantile changes it: leave privacy.clip_quantile out"
        )


def check_opener(correlation: Correlation, opener: Literal["server", "client"], scheme: str) -> None:
    """Raise `ConfigError` where correlated noise would have another opener in every round.

    Args:
        correlation: How the noise of the rounds depends on each other.
        opener: The party that opens the sum.
        scheme: The name of the sum.
    """
    if correlation != "none" and opener != "server":
        raise ConfigError(
            f"privacy.correlation = {correlation!r} needs the same opener in every round, and {scheme} is opened by "
            "clients: set sum.scheme = 'plain' or 'masked'"
        )
