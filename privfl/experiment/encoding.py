"""From settings to the encoding, the noise and the survivor rule of a run's rounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from privfl.codec import FixedPoint
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Mechanism, RoundNoise
from privfl.dp.slots import Slot, side_bound
from privfl.dp.unit import Sampling
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.config import Config
from privfl.fl.aggregation import Aggregation, Mean
from privfl.fl.encoding import UpdateClip, UpdateEncoding
from privfl.fl.examples import MAX_UNITS, ExampleRule
from privfl.fl.range import ENTRY_BOUND, NARROW_BITS, WIDE_BITS, Range, RangeRule
from privfl.fl.slots import Metric
from privfl.fl.survivors import SurvivorRule, cohort_sizes, round_noise
from privfl.ring import MAX_BITS, Ring
from privfl.rotation import Rotation
from privfl.sums import SecureSum

_UNBOUNDED: Final = 2.0**64
"""A training metric without noise is averaged as it was reported, up to here."""

_SIZES: Final = 128
"""At about this many sizes of a sampled cohort the room of mesh noise is computed."""


_MIN_UNITS: Final = 1 << 12
"""The fewest integer units of one example's clip norm."""


def build_mechanism(config: Config) -> Mechanism:
    """The noise of the `[privacy]` section; raises `ConfigError` if its multiplier is missing."""
    privacy = config.privacy
    if privacy.placement == "none":
        return Mechanism("none")
    if privacy.noise_multiplier is None:
        raise ConfigError("privacy.noise_multiplier is missing; `privfl calibrate` finds the least for an epsilon")
    if privacy.placement == "private":
        raise ConfigError("privacy.placement = 'private' is a choice that an experiment makes for its sum: assemble it")
    if privacy.placement != "mesh":
        return Mechanism(
            privacy.placement,
            privacy.noise_multiplier,
            privacy.noise,
            privacy.colluders,
            correlation=privacy.correlation,
        )
    return Mechanism(
        "mesh",
        privacy.noise_multiplier,
        privacy.noise,
        spare=privacy.spare,
        members=privacy.members or 0,
        min_members_to_open=privacy.min_members_to_open or 0,
        correlation=privacy.correlation,
    )


def build_survivor_rule(config: Config, scheme: SecureSum, sampling: Sampling, population: int) -> SurvivorRule:
    """The fewest survivors of a round.

    A server that sees every vector and adds the noise itself opens every vector that arrives. A minimum would protect
    nobody there, and a round skipped because of the minimum would reveal who was there. Noise that clients add inside
    the sum gets a floor, because it is sized for the fewest survivors before anybody is sampled.

    Args:
        config: The settings: `cohort.min_survivor_fraction` and `privacy.placement`.
        scheme: The sum, which states what its server sees.
        sampling: How cohorts are sampled.
        population: The number of clients that exist.
    """
    fraction, placement = config.cohort.min_survivor_fraction, config.privacy.placement
    if placement == "central" and scheme.views["server"] == "vectors":
        return SurvivorRule(0.0, 0)
    if placement not in ("distributed", "mesh"):
        return SurvivorRule(fraction, 1)
    expected = min(sampling.expected_size(population), max(sampling.sizes(population)))
    floor = max(1, int(fraction * expected))
    everybody = placement == "mesh" and (config.privacy.members or population) >= population
    return SurvivorRule(fraction, max(floor, config.privacy.min_members_to_open or 0) if everybody else floor)


def build_clip(config: Config, layers: Sequence[int]) -> UpdateClip:
    """The clip that bounds an update: to `privacy.clip_norm`, or each entry where no norm is given.

    Args:
        config: The settings: `privacy` and `sum.clip_entries`.
        layers: The entries of each layer of the model.

    Raises:
        ConfigError: If settings say how to clip to a norm, and no norm is given; or if both a norm and a bound of each
            entry are given.
    """
    privacy, length = config.privacy, sum(layers)
    if privacy.clip_norm is None:
        if privacy.clip != "flat" or privacy.clip_quantile is not None:
            raise ConfigError("privacy.clip and privacy.clip_quantile say how to clip to privacy.clip_norm: give it")
        return ElementClip(config.sum.clip_entries or ENTRY_BOUND, length)
    if config.sum.clip_entries is not None:
        raise ConfigError(
            f"sum.clip_entries = {config.sum.clip_entries:g} has no effect next to privacy.clip_norm, which bounds "
            "every entry: remove one of them"
        )
    if privacy.clip == "layers":
        return LayerClip.of(layers, privacy.clip_norm)
    if privacy.clip == "entries":
        return ElementClip(privacy.clip_norm / math.sqrt(length), length)
    return FlatClip(privacy.clip_norm)


def build_encoding(
    config: Config,
    layers: Sequence[int],
    *,
    scheme: SecureSum,
    sampling: Sampling,
    population: int,
    sizes: Sequence[int],
    clip: UpdateClip | None = None,
    aggregation: Aggregation | None = None,
    metrics: Sequence[str] = (),
    examples: ExampleRule | None = None,
) -> tuple[UpdateEncoding, RangeRule | None]:
    """The encoding of updates as integers: the finest scale, a power of two, at which every cohort fits the ring.

    Args:
        config: The settings.
        layers: The entries of each layer of the model.
        scheme: The sum, for the size of noise shares.
        sampling: How cohorts are sampled.
        population: The number of clients that exist.
        sizes: The clients' numbers of examples.
        clip: Takes the place of the clip of the settings.
        aggregation: The server's side of the algorithm, which states the blocks and metrics that it needs.
        metrics: The training metrics, next to the loss, that a run without noise sums.
        examples: The terms of a sum over examples.

    Returns:
        The encoding of a cohort of the largest size, and how range and precision follow a run without noise; None for
        a run with noise, whose range is fixed.

    Raises:
        ConfigError: If settings contradict each other, or the ring leaves no precision.
        PrivacyError: If noise is combined with weights by example count, or with no clip norm.
    """
    privacy, private = config.privacy, config.privacy.placement != "none"
    weighting = config.server.weighting or ("uniform" if private else "examples")
    if private and weighting == "examples":
        raise PrivacyError("server.weighting = 'examples' would make the sensitivity depend on the data; use 'uniform'")
    if private and privacy.clip_norm is None:
        raise ConfigError("privacy.clip_norm is missing: noise is measured in multiples of it")
    _check_slots(config)
    aggregation = aggregation or Mean()
    if private and (aggregation.blocks or aggregation.metrics):
        raise PrivacyError(
            "client.algorithm sums more than updates (control variates or numbers of steps), which is refused where "
            "noise is added: use 'fedavg', 'fedprox' or 'local-layers'"
        )
    layers = (*layers, *(block.length for block in aggregation.blocks))
    length, cohort = sum(layers), max(sampling.sizes(population))
    given_clip, clip = clip, clip or build_clip(config, layers)
    max_entry = clip.max_abs if isinstance(clip, ElementClip) else clip.clip_norm
    rotation = Rotation(length, config.seed) if config.sum.rotation else None
    if rotation is not None:
        max_entry = rotation.entry_bound(clip.clip_norm)
    survivors = build_survivor_rule(config, scheme, sampling, population)

    def noise(slots: Sequence[Slot], size: int) -> RoundNoise:
        return round_noise(
            build_mechanism(config),
            slots,
            size,
            rule=survivors,
            scheme=scheme,
            sampling=sampling,
            population=population,
        )

    if examples is not None:
        return _over_examples(config, length, examples, cohort, noise), None
    if not private:
        rule = RangeRule(
            entries=given_clip is None and privacy.clip_norm is None and config.sum.clip_entries is None,
            bits=config.sum.bits,
            sizes=tuple(sorted(map(int, sizes), reverse=True)) if weighting == "examples" else (),
        )
        base = UpdateEncoding(
            length,
            FixedPoint(1.0, Ring(config.sum.bits or NARROW_BITS)),
            clip,
            weighting=weighting,
            metrics=tuple(Metric(name, _UNBOUNDED) for name in _summed(config, metrics, aggregation)),
            blocks=aggregation.blocks,
            rounding=config.sum.rounding,
            rotation=rotation,
        )
        return rule.encoding(base, Range(), cohort), rule
    ring = Ring(config.sum.bits or NARROW_BITS)
    encoding = UpdateEncoding(
        length,
        FixedPoint.fit(ring, clip_norm=max_entry, cohort=cohort),
        clip,
        rounding=config.sum.rounding,
        rotation=rotation,
    )
    sizes = cohort_sizes(sampling, population, cohort) if privacy.placement == "mesh" else (cohort,)
    return _fitted(config, encoding, sizes, sampling.expected_size(population), noise), None


def _summed(config: Config, metrics: Sequence[str], aggregation: Aggregation) -> tuple[str, ...]:
    """The names of the training metrics of a run without noise, each once."""
    return tuple(dict.fromkeys(("loss", *metrics, *config.client.metrics, *aggregation.metrics)))


def _over_examples(
    config: Config,
    length: int,
    rule: ExampleRule,
    cohort: int,
    noise_of: Callable[[Sequence[Slot], int], RoundNoise],
) -> UpdateEncoding:
    """The encoding of sums over examples, in the narrowest ring with enough integer units for one clip norm."""
    clip = FlatClip(config.privacy.clip_norm or 1.0)
    for bits in (config.sum.bits,) if config.sum.bits else (NARROW_BITS, WIDE_BITS, MAX_BITS):
        ring = Ring(bits)
        scale = FixedPoint.fit(ring, clip_norm=clip.clip_norm * rule.max_entry, cohort=cohort).scale
        scale = min(scale, 2.0 ** math.floor(math.log2(MAX_UNITS / clip.clip_norm)))
        while scale * clip.clip_norm >= 1:
            encoding = UpdateEncoding(length, FixedPoint(scale, ring), clip, examples=rule)
            if _room(encoding, noise_of(encoding.slots, cohort)) < ring.half:
                break
            scale /= 2
        if scale * clip.clip_norm >= _MIN_UNITS:
            return encoding
    raise ConfigError(
        f"sum.bits = {ring.bits} leaves {math.floor(scale * clip.clip_norm)} integer units for the gradient of one "
        f"example, and {_MIN_UNITS} are needed: raise sum.bits, or lower privacy.denominator"
    )


def _check_slots(config: Config) -> None:
    privacy = config.privacy
    if privacy.placement != "none" and config.client.metrics:
        raise PrivacyError(
            "client.metrics are summed without noise, and this run adds noise: remove the key, or release the loss "
            "with privacy.loss_bound"
        )
    if privacy.placement == "none" and (privacy.clip_quantile, privacy.loss_bound) != (None, None):
        raise ConfigError(
            "privacy.clip_quantile and privacy.loss_bound are slots under the noise of the vector, and "
            "privacy.placement is 'none'"
        )
    if privacy.clip_quantile is not None and privacy.clip != "flat":
        raise ConfigError(
            f"privacy.clip_quantile follows the norm of a whole update, not privacy.clip = {privacy.clip!r}"
        )


def _with_side_slots(config: Config, encoding: UpdateEncoding, expected: float) -> UpdateEncoding:
    """The encoding with the noised slots next to the update, scaled to its integers: loss and clip indicator."""
    privacy = config.privacy
    loss, adaptive = privacy.loss_bound is not None, privacy.clip_quantile is not None
    if not (loss or adaptive) or privacy.noise_multiplier is None:
        return encoding
    units = math.floor(encoding.codec.sensitivity(encoding.clip.clip_norm))
    z, blocks = privacy.noise_multiplier, loss + adaptive
    if privacy.loss_bound is not None:
        side = side_bound(units, noise_multiplier=z, denominator=expected, blocks=blocks)
        encoding = dataclasses.replace(encoding, metrics=(Metric("loss", privacy.loss_bound, side),))
    if privacy.clip_quantile is None:
        return encoding
    clip = AdaptiveClip.plan(
        encoding.clip.clip_norm,
        units=units,
        noise_multiplier=z,
        denominator=expected,
        quantile=privacy.clip_quantile,
        learning_rate=privacy.clip_learning_rate,
        others=blocks - 1,
    )
    return dataclasses.replace(encoding, clip=clip, codec=clip.codec(encoding.codec.ring))


def _fitted(
    config: Config,
    encoding: UpdateEncoding,
    sizes: Sequence[int],
    expected: float,
    noise_of: Callable[[Sequence[Slot], int], RoundNoise],
) -> UpdateEncoding:
    """`encoding` with its scale halved until contributions, side slots and noise of every cohort fit the ring.

    An adaptive clip changes no integer's bound, so what fits at first fits at any clip norm.
    """
    ring, cohort = encoding.codec.ring, max(sizes)
    asked = sorted({cohort, *sizes[:: max(1, len(sizes) // _SIZES)]} - {0})
    while True:
        whole = _with_side_slots(config, encoding, expected)
        room = max(_room(whole, noise_of(whole.slots, size)) for size in asked)
        if room < ring.half:
            return whole
        if encoding.codec.bound(encoding.max_entry) < 4:
            bits = room.bit_length() + 9
            raise ConfigError(f"sum.bits = {ring.bits} leaves no precision for {cohort} clients; {bits} would do")
        encoding = dataclasses.replace(encoding, codec=FixedPoint(encoding.codec.scale / 2, ring))


def _room(encoding: UpdateEncoding, noise: RoundNoise) -> int:
    """The largest entry of a sum, with the noise of all of a cohort's clients and of the server."""
    # Noise shares of a smaller cohort are larger, each by up to the step in which their reach is found.
    reach = math.ceil(1.06 * noise.noise_reach)
    return noise.cohort * (encoding.entry_bound + reach) + math.ceil(20 * noise.total_stddev)
