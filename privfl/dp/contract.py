"""Checks of a run that claims privacy: the settings that would break the claim in spite of the noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from privfl.dp.adaptive import AdaptiveClip
from privfl.dp.release import Correlation
from privfl.dp.slots import Slot
from privfl.dp.unit import OnePass, Sampling
from privfl.errors import ConfigError, PrivacyError


def check_weighting(weighting: Literal["uniform", "examples"], bound: float | None) -> None:
    """Raise `PrivacyError` for weights by example count without a finite bound, which leave the sensitivity unbounded.

    With `bound`, a client's weight is min(examples, bound)/bound, and its contribution stays within the clip.

    Args:
        weighting: "uniform" or "examples".
        bound: The maximum of examples that count.
    """
    if weighting == "examples" and (bound is None or not math.isfinite(bound) or bound <= 0):
        raise PrivacyError(f"weights by example count need a finite bound, not {bound!r}; or use uniform weights")


def check_denominator(denominator: float | None) -> None:
    """Raise `PrivacyError` unless the mean's denominator is a public, fixed positive number.

    None stands for the number of survivors or examples, which depends on who takes part.
    """
    if denominator is None or not math.isfinite(denominator) or denominator <= 0:
        raise PrivacyError(f"a private mean has a public, fixed denominator, not {denominator!r}")


def check_metrics(metrics: Iterable[str], slots: Sequence[Slot]) -> None:
    """Raise `PrivacyError` for a metric over private data that is not a noised slot of the vector.

    Args:
        metrics: The names of the metrics.
        slots: The slots of the vector.
    """
    covered = {slot.name for slot in slots}
    for name in metrics:
        if name not in covered:
            raise PrivacyError(
                f"metric {name!r} would be released outside the ledger: make it a noised block of the vector, or "
                "compute it on public data"
            )


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
