"""Differential privacy: unit, clipping, noise, releases, ledger, accounting."""

from privfl.dp.accounting.accountant import Accountant, Budget, epsilon
from privfl.dp.accounting.compose import discrete_gaussian_epsilon
from privfl.dp.accounting.history import History
from privfl.dp.accounting.planning import (
    Plan,
    calibrate,
    default_delta,
    max_rounds,
    min_population,
    over_delta,
    over_rounds,
    what_if,
)
from privfl.dp.accounting.report import EpsilonReport, format_epsilon
from privfl.dp.adaptive import AdaptiveClip
from privfl.dp.clip import Clip, Clipped, ElementClip, FlatClip, LayerClip
from privfl.dp.draws import Draw, mean_shortfall, plausible, round_turn
from privfl.dp.ledger import Ledger, Token
from privfl.dp.mechanism import Mechanism, RoundNoise
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import rounded_gaussian, seeded_entropy
from privfl.dp.noise.skellam import skellam, skellam_reach
from privfl.dp.release import Release
from privfl.dp.slots import Slot, l1_bound, norm_bound, side_bound
from privfl.dp.unit import (
    CLIENT_UNIT,
    Everyone,
    FixedSize,
    Poisson,
    PrivacyUnit,
    Sampling,
    TruncatedPoisson,
)
from privfl.observers import Observer

__all__ = [
    "CLIENT_UNIT",
    "Accountant",
    "AdaptiveClip",
    "Budget",
    "Clip",
    "Clipped",
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
    "Observer",
    "Plan",
    "Poisson",
    "PrivacyUnit",
    "Release",
    "RoundNoise",
    "Sampling",
    "Slot",
    "Token",
    "TruncatedPoisson",
    "calibrate",
    "default_delta",
    "discrete_gaussian",
    "discrete_gaussian_epsilon",
    "epsilon",
    "format_epsilon",
    "l1_bound",
    "max_rounds",
    "mean_shortfall",
    "min_population",
    "norm_bound",
    "over_delta",
    "over_rounds",
    "plausible",
    "round_turn",
    "rounded_gaussian",
    "seeded_entropy",
    "side_bound",
    "skellam",
    "skellam_reach",
    "what_if",
]
