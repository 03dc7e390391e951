"""Checks of a run that claims privacy: the settings that would break the claim in spite of the noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from privfl.dp.slots import Slot
from privfl.errors import PrivacyError


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
