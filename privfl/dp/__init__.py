"""Differential privacy: unit, clipping, noise, releases, ledger, accounting."""

from privfl.dp.accounting.accountant import Accountant, Budget, epsilon
from privfl.dp.accounting.by_observer import ObserverFigure, by_observer
from privfl.dp.accounting.curves import PrivacyCurve
from privfl.dp.accounting.history import History
from privfl.dp.accounting.opinions import Opinion, opinions
from privfl.dp.accounting.planning import Plan, calibrate, default_delta, max_rounds, min_population, what_if
from privfl.dp.accounting.report import EpsilonReport, format_epsilon
from privfl.dp.adaptive import AdaptiveClip
from privfl.dp.clip import ElementClip, FlatClip, LayerClip
from privfl.dp.correlated import CorrelatedNoise
from privfl.dp.draws import Draw
from privfl.dp.ledger import Ledger
from privfl.dp.mechanism import Mechanism, RoundNoise
from privfl.dp.mesh import MeshNoise
from privfl.dp.release import Release
from privfl.dp.slots import Slot
from privfl.dp.unit import (
    Everyone,
    FixedSize,
    OnePass,
    Poisson,
    PrivacyUnit,
    RandomAllocation,
    Sampling,
    TruncatedPoisson,
)
from privfl.observers import Observer

__all__ = [
    "Accountant",
    "AdaptiveClip",
    "Budget",
    "CorrelatedNoise",
    "Draw",
    "ElementClip",
    "EpsilonReport",
    "Everyone",
    "FixedSize",
    "FlatClip",
    "History",
    "LayerClip",
    "Ledger",
    "Mechanism",
    "MeshNoise",
    "Observer",
    "ObserverFigure",
    "OnePass",
    "Opinion",
    "Plan",
    "Poisson",
    "PrivacyCurve",
    "PrivacyUnit",
    "RandomAllocation",
    "Release",
    "RoundNoise",
    "Sampling",
    "Slot",
    "TruncatedPoisson",
    "by_observer",
    "calibrate",
    "default_delta",
    "epsilon",
    "format_epsilon",
    "max_rounds",
    "min_population",
    "opinions",
    "what_if",
]
