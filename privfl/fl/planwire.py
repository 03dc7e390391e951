"""The canonical bytes of a round's plan: a label line, then canonical JSON. Every plan has exactly one form.

protocols/round-plan/SPEC.md specifies the form for readers of other languages. What is read is written again and
compared, so a second spelling of a number, a missing or an unknown key, or a value of another type is a `WireError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from privfl.codec import FixedPoint
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Mechanism
from privfl.dp.unit import read_sampling, sampling_record
from privfl.errors import ConfigError, PrivacyError, StateError, WireError
from privfl.files import canonical_json
from privfl.fl.bases import Base
from privfl.fl.chunks import Chunking
from privfl.fl.encoding import UpdateClip, UpdateEncoding
from privfl.fl.examples import ExampleRule
from privfl.fl.slots import Block, Metric
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.sums.base import MAX_LENGTH

if TYPE_CHECKING:
    from privfl.fl.plan import RoundPlan

PREFIX: Final = b"privfl/1 round-plan\n"
MAX_PLAN_BYTES: Final = 1 << 24
"""16 MiB: more than a cohort of a million needs."""

_T = TypeVar("_T", bound="RoundPlan")


def write_plan(plan: RoundPlan) -> bytes:
    """The canonical bytes of `plan`."""
    return PREFIX + canonical_json(
        {
            "run": plan.run.hex(),
            "round": plan.round,
            "attempt": plan.attempt,
            "model": plan.model_hash,
            "cohort": list(plan.cohort),
            "state_rounds": list(plan.state_rounds),
            "population": plan.population,
            "sampling": sampling_record(plan.sampling),
            "survivors": {"fraction": float(plan.survivor_rule.fraction), "floor": plan.survivor_rule.floor},
            "encoding": _encoding_record(plan.encoding),
            "mechanism": asdict(plan.mechanism) | {"noise_multiplier": float(plan.mechanism.noise_multiplier)},
            "scheme": plan.scheme,
            "parameters": dict(plan.parameters),
            "seed": plan.seed,
            "bases": [{"model": base.model_hash, "weight": base.weight} for base in plan.bases],
            "chunking": {"kind": plan.chunking.kind, "size": plan.chunking.size},
        }
    )


def read_plan(of: type[_T], data: bytes) -> _T:
    """Return the plan of canonical bytes.

    Args:
        of: The class of the plan.
        data: The bytes.

    Raises:
        WireError: The bytes are not the canonical form of a plan.
    """
    if len(data) > MAX_PLAN_BYTES:
        raise WireError(f"a plan has at most {MAX_PLAN_BYTES} bytes, not {len(data)}")
    if not data.startswith(PREFIX):
        raise WireError("these bytes are not a round plan of version 1")
    try:
        record = json.loads(data[len(PREFIX) :])
        plan = of(
            run=bytes.fromhex(record["run"]),
            round=record["round"],
            attempt=record["attempt"],
            model_hash=record["model"],
            cohort=tuple(record["cohort"]),
            state_rounds=tuple(record["state_rounds"]),
            population=record["population"],
            sampling=read_sampling(record["sampling"]),
            survivor_rule=SurvivorRule(**record["survivors"]),
            encoding=_read_encoding(record["encoding"]),
            mechanism=Mechanism(**record["mechanism"]),
            scheme=record["scheme"],
            parameters=record["parameters"],
            seed=record["seed"],
            bases=tuple(Base(base["model"], base["weight"]) for base in record["bases"]),
            chunking=Chunking(**record["chunking"]),
        )
        written = plan.to_bytes()
    except (ConfigError, PrivacyError, StateError) as error:
        raise WireError(f"not a round plan: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise WireError(f"not a round plan: {type(error).__name__}: {error}") from error
    if written != data:
        raise WireError("a round plan in another form than the canonical one")
    return plan


def _encoding_record(encoding: UpdateEncoding) -> dict[str, Any]:
    return {
        "length": encoding.length,
        "bits": encoding.codec.ring.bits,
        "scale": float(encoding.codec.scale),
        "clip": _clip_record(encoding.clip),
        "weighting": encoding.weighting,
        "max_weight": encoding.max_weight,
        "max_total_weight": encoding.max_total_weight,
        "count_bound": encoding.count_bound,
        "metrics": [{"name": m.name, "bound": float(m.bound), "units": m.units} for m in encoding.metrics],
        "blocks": [{"name": block.name, "length": block.length} for block in encoding.blocks],
        "rounding": encoding.rounding,
        "rotation": None if encoding.rotation is None else encoding.rotation.seed,
        "examples": None if encoding.examples is None else _examples_record(encoding.examples),
    }


def _examples_record(rule: ExampleRule) -> dict[str, Any]:
    terms = {"denominator": float(rule.denominator), "max_entry": float(rule.max_entry)}
    return {"sampling": sampling_record(rule.sampling), **terms}


def _read_examples(record: Mapping[str, Any]) -> ExampleRule:
    fields = dict(record)
    sampling = read_sampling(fields.pop("sampling"))
    return ExampleRule(sampling, **fields)  # type: ignore[arg-type]


def _read_encoding(record: Mapping[str, Any]) -> UpdateEncoding:
    length, rotation = record["length"], record["rotation"]
    if type(length) is not int or not 1 <= length <= MAX_LENGTH:  # before anything of that length is made
        raise ConfigError(f"length must be an integer in [1, {MAX_LENGTH}], not {length!r}")
    return UpdateEncoding(
        length,
        FixedPoint(record["scale"], Ring(record["bits"])),
        _read_clip(record["clip"], length),
        weighting=record["weighting"],
        max_weight=record["max_weight"],
        max_total_weight=record["max_total_weight"],
        count_bound=record["count_bound"],
        metrics=tuple(Metric(**metric) for metric in record["metrics"]),
        blocks=tuple(Block(**block) for block in record["blocks"]),
        rounding=record["rounding"],
        rotation=None if rotation is None else Rotation(length, rotation),
        examples=None if record["examples"] is None else _read_examples(record["examples"]),
    )


def _clip_record(clip: UpdateClip) -> dict[str, Any]:
    if isinstance(clip, FlatClip):
        return {"kind": "flat", "clip_norm": float(clip.clip_norm)}
    if isinstance(clip, LayerClip):
        return {"kind": "layers", "cuts": list(clip.cuts), "norms": list(map(float, clip.norms))}
    if isinstance(clip, ElementClip):
        return {"kind": "entries", "max_abs": float(clip.max_abs)}
    return {
        "kind": "adaptive",
        "clip_norm": float(clip.clip_norm),
        "units": clip.units,
        "indicator_units": clip.indicator_units,
        "quantile": float(clip.quantile),
        "learning_rate": float(clip.learning_rate),
    }


def _read_clip(record: Mapping[str, Any], length: int) -> UpdateClip:
    fields = dict(record)
    kind = fields.pop("kind")
    makers: dict[str, Callable[[], UpdateClip]] = {
        "flat": lambda: FlatClip(**fields),
        "layers": lambda: LayerClip(tuple(fields["cuts"]), tuple(fields["norms"])),
        "entries": lambda: ElementClip(fields["max_abs"], length),
        "adaptive": lambda: AdaptiveClip(**fields),
    }
    return makers[kind]()
