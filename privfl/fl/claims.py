"""Checks of a round that claims privacy: the settings of its plan that would break the claim in spite of the noise."""

from __future__ import annotations

from privfl.dp import Mechanism
from privfl.dp.contract import check_correlated
from privfl.dp.unit import Sampling
from privfl.errors import PrivacyError
from privfl.fl.encoding import UpdateEncoding


def check_claim(mechanism: Mechanism, encoding: UpdateEncoding, sampling: Sampling) -> None:
    """Check what a plan with noise sums, and of whom.

    Args:
        mechanism: The noise.
        encoding: How an update becomes integers.
        sampling: How the cohort was sampled.

    Raises:
        PrivacyError: If the noise is combined with weights by example count, with slots that count, or with blocks.
        ConfigError: If correlated noise meets another sampling than one pass, or a clip norm that changes.
    """
    if encoding.weighting == "examples":
        raise PrivacyError(
            "weights by example count leave the sensitivity of a mean without a bound: set server.weighting = 'uniform'"
        )
    if encoding.counts:
        raise PrivacyError("an encoding that counts what it did to updates has no noise: count_bound must be 0")
    if encoding.blocks:
        raise PrivacyError(
            "blocks next to an update, such as control variates, are refused with noise: a clipped block is no "
            "longer the sum of what the clients keep. Use an algorithm without blocks"
        )
    check_correlated(mechanism.correlation, sampling, encoding.clip)
