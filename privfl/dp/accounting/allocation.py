"""Random allocation: each unit takes part in exactly k of t rounds, priced by the package `PLD_accounting`.

The package bounds k of t rounds by k compositions of one of t/k (Feldman and Shenfeld 2026). It serves add_remove and
Gaussian noise against outsiders. Its Fourier route rounds losses up; a slack covers the rounding of the transforms.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.unit import PrivacyUnit, RandomAllocation
from privfl.errors import MissingExtra, UnsupportedRelease

NAME: Final = "PLD of random allocation (PLD_accounting)"
MIN_DELTA: Final = 1e-9

_COARSE: Final = 2e-2
_FINE: Final = 5e-3
_SLACK: Final = 1e-12
_TAIL: Final = 1e-3  # of delta may be cut off in the tails, which counts as infinite loss


def allocation_epsilon(
    noise_multiplier: float, sampling: RandomAllocation, blocks: int, delta: float, *, quick: bool = False
) -> float:
    """Epsilon of whole blocks of random allocation under add_remove.

    Args:
        noise_multiplier: Noise standard deviation divided by the norm bound of one contribution.
        sampling: The allocation.
        blocks: The number of blocks of `sampling.rounds` rounds; one that was begun counts as a whole one.
        delta: In (0, 1).
        quick: Compute on a coarse grid, an upper bound too.

    Raises:
        UnsupportedRelease: `delta` is below `MIN_DELTA`.
        MissingExtra: The package is not installed.
    """
    # An observer that knows the rounds of a unit sees `selected` releases of it in each block.
    known = gaussian_epsilon(noise_multiplier / math.sqrt(sampling.selected * blocks), delta)
    if sampling.rounds < 2 * sampling.selected:  # the package takes at most half of the rounds
        return known
    if delta < MIN_DELTA:
        raise UnsupportedRelease(
            f"random allocation is priced for a delta of at least {MIN_DELTA:g}, not {delta:g}: raise delta, or use "
            "Poisson sampling"
        )
    losses = _distribution(noise_multiplier, sampling, blocks, _TAIL * delta, _COARSE if quick else _FINE)
    figure = float(losses.get_epsilon_for_delta(delta - _SLACK))
    if not quick:
        figure = min(figure, allocation_epsilon(noise_multiplier, sampling, blocks, delta, quick=True))
    return min(figure, known)


def check_allocation(unit: PrivacyUnit, group: int) -> None:
    """Raise `UnsupportedRelease` for a question that the package does not answer.

    Args:
        unit: The unit, with its adjacency.
        group: The number of units that change together.
    """
    if unit.adjacency != "add_remove" or group > 1:
        raise UnsupportedRelease(
            "random allocation is priced under add_remove for one unit only: set privacy.adjacency = 'add_remove', or "
            "use Poisson sampling"
        )


@lru_cache(maxsize=32)
def _distribution(z: float, sampling: RandomAllocation, blocks: int, tail: float, grid: float) -> Any:
    try:
        import PLD_accounting
        from PLD_accounting import types
    except ImportError as error:
        raise MissingExtra("PLD_accounting", "allocation") from error
    return PLD_accounting.gaussian_allocation_pld(
        params=types.PrivacyParams(
            sigma=z, num_steps=sampling.rounds, num_selected=sampling.selected, num_epochs=blocks
        ),
        config=types.AllocationSchemeConfig(
            loss_discretization=grid, tail_truncation=tail, convolution_method=types.ConvolutionMethod.FFT
        ),
    )
