"""Plans that are valid, plans that are not, and spellings that are not canonical: section 9 of SPEC.md."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from typing import Any

BASE: dict[str, Any] = {
    "run": "000102030405060708090a0b0c0d0e0f",
    "round": 3,
    "attempt": 0,
    "model": hashlib.sha256(b"float32:4\n" + bytes(16)).hexdigest(),
    "cohort": [0, 1, 2, 5],
    "state_rounds": [],
    "population": 4,
    "sampling": {"kind": "everyone"},
    "survivors": {"fraction": 0.5, "floor": 3},
    "encoding": {
        "length": 4,
        "bits": 40,
        "scale": 65536.0,
        "clip": {"kind": "flat", "clip_norm": 1.5},
        "weighting": "uniform",
        "max_weight": 1,
        "max_total_weight": 0,
        "count_bound": 0,
        "metrics": [],
        "blocks": [],
        "rounding": "nearest",
        "rotation": None,
        "examples": None,
    },
    "mechanism": {
        "placement": "none",
        "noise_multiplier": 0.0,
        "source": "secure",
        "colluders": 0,
        "discrete": False,
        "spare": 0,
        "members": 0,
        "min_members_to_open": 0,
        "correlation": "none",
    },
    "scheme": "plain-sum/1",
    "parameters": {},
    "seed": 7,
    "chunking": {"kind": "single", "size": 1},
    "bases": [],
}


BASES = [{"model": f"{age:064x}", "weight": 1 / (1.0 + age)} for age in (0, 3, 0, 1)]


def changed(**changes: Any) -> dict[str, Any]:
    """BASE with some fields replaced; a field of an inner object is named with two underscores."""
    plan = json.loads(json.dumps(BASE))
    for name, value in changes.items():
        target, *inner = name.split("__")
        if inner:
            plan[target][inner[0]] = value
        else:
            plan[target] = value
    return plan


ADAPTIVE = {
    "kind": "adaptive", "clip_norm": 0.3, "units": 65536, "indicator_units": 1024, "quantile": 0.5,
    "learning_rate": 0.2,
}  # fmt: skip
NOISE = {
    "placement": "distributed", "noise_multiplier": 1.1, "source": "secure", "colluders": 0, "discrete": False,
    "spare": 0, "members": 0, "min_members_to_open": 0, "correlation": "none",
}  # fmt: skip
STREAM = NOISE | {"placement": "central", "correlation": "toeplitz"}
ONE_PASS = {"kind": "one_pass", "size": 4}
MESH = NOISE | {"placement": "mesh", "spare": 1}
MASKED = {
    "mode": "semi-honest", "share_threshold": "auto", "graph": "complete", "corrupt": 0.05, "dropout": 0.1,
    "security_bits": 40, "correctness_bits": 20, "packed": False, "min_vectors": 3,
}  # fmt: skip

EXAMPLES = {"sampling": {"kind": "poisson", "probability": 0.0625}, "denominator": 40.0, "max_entry": 12.5}
BY_SITE = {"kind": "poisson_by_site", "probabilities": [[0, 0.1], [1, 0.2], [2, 0.05], [5, 1.0]]}

VALID: dict[str, dict[str, Any]] = {
    "everybody, no noise": BASE,
    "one pass with correlated noise": changed(sampling=ONE_PASS, mechanism=STREAM),
    "one pass with independent noise": changed(sampling=ONE_PASS, mechanism=NOISE),
    "weights and a metric": changed(
        encoding__weighting="examples", encoding__max_weight=250,
        encoding__metrics=[{"name": "loss", "bound": 32.0, "units": None}],
    ),
    "counts, weights by a total": changed(
        encoding__weighting="examples", encoding__max_weight=200000, encoding__max_total_weight=200015,
        encoding__count_bound=137438953471, encoding__scale=2.0**35,
        encoding__clip={"kind": "entries", "max_abs": 8.0},
        encoding__metrics=[{"name": "loss", "bound": 2.0**64, "units": None}],
    ),
    "counts, uniform": changed(
        encoding__count_bound=255, encoding__bits=11, encoding__scale=16.0,
        encoding__metrics=[{"name": "loss", "bound": 1024.0, "units": None}],
    ),
    "layers": changed(encoding__clip={"kind": "layers", "cuts": [0, 1, 4], "norms": [0.5, 0.25]}),
    "entries, stochastic": changed(
        encoding__clip={"kind": "entries", "max_abs": 8.0}, encoding__rounding="stochastic"
    ),
    "central, a noised loss": changed(
        mechanism=NOISE | {"placement": "central"},
        encoding__metrics=[{"name": "loss", "bound": 2.0, "units": 5000}],
    ),
    "distributed": changed(mechanism=NOISE),
    "distributed, fewer than everybody": changed(mechanism=NOISE, cohort=[0, 1, 5]),
    "distributed, Poisson": changed(
        mechanism=NOISE, population=12, sampling={"kind": "poisson", "probability": 0.4},
    ),
    "distributed, truncated, a colluder": changed(
        mechanism=NOISE | {"colluders": 1}, population=20, survivors={"fraction": 0.9, "floor": 4},
        sampling={"kind": "truncated_poisson", "probability": 0.25, "cap": 6, "population": 20},
    ),
    "mesh": changed(mechanism=MESH, scheme="masked-sum/1", parameters=MASKED),
    "mesh, three members of five": changed(
        mechanism=MESH | {"members": 3, "min_members_to_open": 2}, scheme="masked-sum/1", parameters=MASKED,
        cohort=[0, 1, 2, 5, 9], population=5,
    ),
    "mesh, Poisson": changed(
        mechanism=MESH, scheme="masked-sum/1", parameters=MASKED, population=12, cohort=[0, 1, 2, 5, 9],
        survivors={"fraction": 0.75, "floor": 4}, sampling={"kind": "poisson", "probability": 0.4},
    ),
    "local, fixed size": changed(
        mechanism=NOISE | {"placement": "local", "discrete": True}, population=9,
        sampling={"kind": "fixed_size", "size": 4, "population": 9},
    ),
    "adaptive, simulation": changed(
        mechanism=NOISE | {"placement": "central", "source": "simulation"}, encoding__clip=ADAPTIVE,
        encoding__scale=65536 / 0.3 if Fraction(65536 / 0.3) * Fraction(0.3) <= 65536
        else math.nextafter(65536 / 0.3, 0.0),
    ),
    "arrivals": changed(population=9, bases=BASES),
    "arrivals, central": changed(population=9, bases=BASES, mechanism=NOISE | {"placement": "central"}),
    "arrivals, distributed": changed(population=9, bases=BASES, mechanism=NOISE),
    "chunks": changed(chunking={"kind": "batched", "size": 32}),
    "chunks of clients with states": changed(chunking={"kind": "batched", "size": 2}, state_rounds=[2, 0, 1, 2]),
    "states": changed(state_rounds=[2, 0, 1, 2]),
    "blocks": changed(
        encoding__count_bound=255, encoding__bits=11, encoding__scale=16.0, state_rounds=[0, 0, 0, 0],
        encoding__blocks=[{"name": "control", "length": 1}, {"name": "other", "length": 2}],
        encoding__clip={"kind": "entries", "max_abs": 8.0},
    ),
    "examples": changed(mechanism=NOISE, encoding__examples=EXAMPLES),
    "examples, a probability for each site": changed(encoding__examples=EXAMPLES | {"sampling": BY_SITE}),
    "nobody sampled": changed(
        cohort=[], population=9, sampling={"kind": "poisson", "probability": 1e-05},
        survivors={"fraction": 0.0, "floor": 0}, mechanism=NOISE | {"placement": "central"},
    ),
}  # fmt: skip

INVALID: dict[str, dict[str, Any]] = {
    "correlated noise of everyone": changed(mechanism=STREAM),
    "correlated noise of clients": changed(sampling=ONE_PASS, mechanism=STREAM | {"placement": "local"}),
    "correlated discrete noise": changed(sampling=ONE_PASS, mechanism=STREAM | {"discrete": True}),
    "another correlation": changed(sampling=ONE_PASS, mechanism=STREAM | {"correlation": "banded"}),
    "correlated noise under an adaptive clip": changed(
        sampling=ONE_PASS,
        mechanism=STREAM,
        encoding__clip=ADAPTIVE,
        encoding__scale=math.nextafter(65536 / 0.3, 0.0)
        if Fraction(65536 / 0.3) * Fraction(0.3) > 65536
        else 65536 / 0.3,
    ),
    "more than one pass asks": changed(sampling=ONE_PASS | {"size": 3}),
    "a real number as round": changed(round=3.0),
    "a truth value as attempt": changed(attempt=True),
    "a cohort out of order": changed(cohort=[1, 0, 2, 5]),
    "a client twice": changed(cohort=[0, 1, 1, 5]),
    "the server in the cohort": changed(cohort=[0, 1, 2, (1 << 32) - 1]),
    "more than the population": changed(cohort=[0, 1, 2, 5, 6]),
    "above the cap": changed(
        population=20, sampling={"kind": "truncated_poisson", "probability": 0.5, "cap": 3, "population": 20}
    ),
    "an integer as scale": changed(encoding__scale=65536),
    "an integer as fraction": changed(survivors={"fraction": 1, "floor": 3}),
    "a length that is too long": changed(encoding__length=(1 << 28) + 1),
    "an unknown clip": changed(encoding__clip={"kind": "sharp"}),
    "a metric named as a slot": changed(encoding__metrics=[{"name": "update", "bound": 1.0, "units": None}]),
    "a scale that is not that of the adaptive clip": changed(encoding__clip=ADAPTIVE),
    "noise without a multiplier": changed(mechanism=NOISE | {"noise_multiplier": 0.0}),
    "a multiplier without noise": changed(mechanism=NOISE | {"placement": "none"}),
    "spare of other noise": changed(mechanism=NOISE | {"spare": 1}),
    "colluders of mesh noise": changed(mechanism=MESH | {"colluders": 1}),
    "one member": changed(mechanism=MESH | {"members": 1}),
    "a minimum that is spare": changed(mechanism=MESH | {"spare": 2, "min_members_to_open": 2}),
    "noise and weights": changed(mechanism=NOISE, encoding__weighting="examples"),
    "noise and counts": changed(mechanism=NOISE, encoding__count_bound=100),
    "a total weight without counts": changed(encoding__weighting="examples", encoding__max_total_weight=9),
    "a count bound below the largest weight": changed(
        encoding__weighting="examples", encoding__max_weight=50, encoding__count_bound=49
    ),
    "a metric named as a slot that counts": changed(
        encoding__metrics=[{"name": "rejected", "bound": 1.0, "units": None}]
    ),
    "a state of the round itself": changed(state_rounds=[3, 0, 0, 0]),
    "a state for some of the cohort": changed(state_rounds=[1, 1]),
    "blocks that leave no update": changed(encoding__blocks=[{"name": "control", "length": 4}]),
    "a block named as a slot": changed(encoding__blocks=[{"name": "weight", "length": 1}]),
    "noise and blocks": changed(mechanism=NOISE, encoding__blocks=[{"name": "control", "length": 1}]),
    "blocks and a rotation": changed(encoding__rotation=1, encoding__blocks=[{"name": "control", "length": 1}]),
    "examples of sampled sites": changed(encoding__examples=EXAMPLES, sampling={"kind": "poisson", "probability": 0.5}),
    "examples under local noise": changed(encoding__examples=EXAMPLES, mechanism=NOISE | {"placement": "local"}),
    "examples and a metric": changed(
        encoding__examples=EXAMPLES, encoding__metrics=[{"name": "loss", "bound": 2.0, "units": None}]
    ),
    "examples clipped by entries": changed(
        encoding__examples=EXAMPLES, encoding__clip={"kind": "entries", "max_abs": 8.0}
    ),
    "examples without a denominator": changed(encoding__examples=EXAMPLES | {"denominator": 0.0}),
    "examples of everyone": changed(encoding__examples=EXAMPLES | {"sampling": {"kind": "everyone"}}),
    "examples of a site without a probability": changed(
        encoding__examples=EXAMPLES | {"sampling": {**BY_SITE, "probabilities": [[0, 0.1]]}}
    ),
    "examples, rounded stochastically": changed(encoding__examples=EXAMPLES, encoding__rounding="stochastic"),
    "upper-case hexadecimal digits": changed(run="000102030405060708090A0B0C0D0E0F"),
    "a nested parameter": changed(parameters={"a": [1]}),
    "an unknown kind of chunk": changed(chunking={"kind": "whole", "size": 1}),
    "a batched chunk of a sum over examples": changed(
        chunking={"kind": "batched", "size": 2}, encoding__examples=EXAMPLES
    ),
    "a base for some of the cohort": changed(bases=BASES[:2]),
    "a base with a weight above 1": changed(bases=[*BASES[:3], BASES[3] | {"weight": 1.5}]),
    "bases and examples": changed(bases=BASES, encoding__examples=EXAMPLES),
    "bases and one pass": changed(bases=BASES, sampling=ONE_PASS, mechanism=NOISE),
    "bases and a sampling": changed(
        bases=BASES, population=9, sampling={"kind": "fixed_size", "size": 4, "population": 9}
    ),
    "a chunk of nobody": changed(chunking={"kind": "single", "size": 0}),
    "a seed of 65 bits": changed(seed=1 << 64),
    "a field too many": changed() | {"noise_stddev": 1.0},
}

SPELLINGS = {
    "white space": (b'"round":3', b'"round": 3'),
    "an exponent": (b"65536.0", b"6.5536e4"),
    "a key twice": (b'"round":3', b'"round":3,"round":3'),
    "an escape": (b'"everyone"', b'"every\\u006fne"'),
    "NaN": (b"65536.0", b"NaN"),
}
