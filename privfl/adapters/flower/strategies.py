"""Which of Flower's strategies work on a mean alone, and which need single updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from privfl.errors import ConfigError

NEED_A_MEAN: Final = ("FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedProx")
"""Strategies that average what clients send, and change the model by that mean."""

_SINGLE: Final = "it compares single updates, and a secure sum reveals none"
_NOISE: Final = (
    "it clips and adds noise by itself, and this ledger would not know of it: use FedAvg and set privacy.placement, "
    "privacy.clip_norm and privacy.noise_multiplier of this run"
)
REFUSED: Final[Mapping[str, str]] = {
    "Krum": _SINGLE,
    "MultiKrum": _SINGLE,
    "Bulyan": _SINGLE,
    "FedMedian": _SINGLE,
    "FedTrimmedAvg": _SINGLE,
    "QFedAvg": "it weighs each update by the loss of its client, and a secure sum reveals neither",
    "FedXgbBagging": "it appends trees, which no sum of vectors can do",
    "FedXgbCyclic": "it passes one model from client to client, so there is nothing to sum",
    "DifferentialPrivacyFixedClippingBase": _NOISE,
    "DifferentialPrivacyAdaptiveBase": _NOISE,
    "DifferentialPrivacyServerSideFixedClipping": _NOISE,
    "DifferentialPrivacyClientSideFixedClipping": _NOISE,
    "DifferentialPrivacyServerSideAdaptiveClipping": _NOISE,
    "DifferentialPrivacyClientSideAdaptiveClipping": _NOISE,
}
"""Strategies that cannot work on a secure sum, and why, by the names of their classes."""


def check_strategy(strategy: object) -> None:
    """Refuse a strategy that does not work on a mean alone.

    Args:
        strategy: The strategy. A class of your own passes if it is derived from a strategy that does.

    Raises:
        ConfigError: The strategy needs more than a mean; the message names the strategy and the reason.
    """
    name, names = type(strategy).__name__, [of.__name__ for of in type(strategy).__mro__]
    for known in names:
        if known in REFUSED:
            raise ConfigError(f"the strategy {name} cannot run on a secure sum: {REFUSED[known]}")
    if not set(names) & set(NEED_A_MEAN):
        raise ConfigError(
            f"the strategy {name} is not known to work on a mean alone: derive it from one of {', '.join(NEED_A_MEAN)}"
        )
