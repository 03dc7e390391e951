"""The checks of an `UpdateEncoding`: parts that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privfl.dp import AdaptiveClip, FlatClip
from privfl.errors import ConfigError
from privfl.fl.examples import MAX_UNITS

if TYPE_CHECKING:
    from privfl.fl.encoding import UpdateEncoding


def check_names(encoding: UpdateEncoding) -> None:
    """Raise `ConfigError` for names that occur twice, and for blocks that do not fit."""
    names = [metric.name for metric in encoding.metrics] + [metric.weight for metric in encoding.metrics]
    names += [block.name for block in encoding.blocks]
    if len(set(names)) != len(names):
        raise ConfigError(f"metrics and blocks need distinct names, not {names}")
    if encoding.blocks and (encoding.rotation is not None or isinstance(encoding.clip, AdaptiveClip)):
        raise ConfigError("an update with blocks has no rotation and no adaptive clip: leave them out")
    if encoding.model_length < 1:
        raise ConfigError(f"the blocks leave no entry of {encoding.length} to the update: count them into the length")


def check_counts(encoding: UpdateEncoding) -> None:
    """Raise `ConfigError` for numbers that are out of range, or do not fit what is counted."""
    for name, value in (("max_total_weight", encoding.max_total_weight), ("count_bound", encoding.count_bound)):
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise ConfigError(f"{name} must be an integer of at least 0, not {value!r}")
    if encoding.max_total_weight and not (encoding.counts and encoding.max_total_weight >= encoding.max_weight):
        raise ConfigError("a max_total_weight is at least max_weight, and needs an encoding that counts weights")
    if not encoding.counts:
        return
    if isinstance(encoding.clip, AdaptiveClip) or any(metric.units is not None for metric in encoding.metrics):
        raise ConfigError("an encoding that counts has no adaptive clip, and no metric with units")
    if encoding.count_bound < max(2, encoding.max_weight):
        raise ConfigError(f"count_bound must be at least 2 and the max_weight, not {encoding.count_bound}")


def check_examples(encoding: UpdateEncoding) -> None:
    """Raise `ConfigError` for an encoding of sums over examples that holds anything else."""
    if encoding.examples is None:
        return
    if not isinstance(encoding.clip, FlatClip):
        raise ConfigError(
            f"each example is clipped to one fixed norm, and the clip is a {type(encoding.clip).__name__}: give a "
            "FlatClip"
        )
    others = (encoding.metrics, encoding.blocks, encoding.counts, encoding.rotation is not None)
    if any(others) or encoding.weighting != "uniform" or encoding.rounding != "nearest":
        raise ConfigError(
            "a sum over examples is an update alone: no metrics, blocks, counts, weights, rotation and stochastic "
            "rounding, because each would reveal something of a batch or break the bound of one example"
        )
    units = encoding.codec.sensitivity(encoding.clip.clip_norm)
    if not 1 <= units <= MAX_UNITS:
        raise ConfigError(f"scale * clip_norm must be in [1, 2^40] integer units, not {units:g}: change the scale")
