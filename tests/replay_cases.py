"""Random rounds for the gray-box replay: placement, sum, adjacency, clip, metrics, rounding, rotation and dropouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from replay import MASKED, NONE, Case

from privfl.codec import FixedPoint
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Mechanism, OnePass, Poisson, PrivacyUnit, Sampling
from privfl.dp.unit import Everyone
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.slots import Metric
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.sums import PlainSum


def random_update(rng: np.random.Generator, length: int, names: list[str]) -> ClientUpdate:
    """Small, large, tiny, sparse, huge and not finite updates."""
    delta = rng.normal(size=length) * 10.0 ** rng.choice([-6, -1, 0, 0, 1, 3, 30])
    kind = rng.integers(12)
    if kind == 0:
        delta[rng.integers(length)] = rng.choice([np.nan, np.inf])
    elif kind == 1:
        delta = np.zeros(length)
    elif kind == 2:
        delta = np.where(rng.random(length) < 0.2, delta, 0.0)
    metrics = {name: float(rng.choice([0.3, -2.0, 50.0, np.nan if kind == 3 else 1.0])) for name in names}
    return ClientUpdate(delta.astype(rng.choice([np.float32, np.float64])), int(rng.integers(1, 500)), metrics)


def random_case(seed: int, **forced: Any) -> Case:
    """A random round: placement, sum, adjacency, clip, metrics, rounding, rotation and dropouts."""
    rng = np.random.default_rng(seed)
    length, clients = int(rng.integers(1, 24)), int(rng.integers(3, 7))
    names = ["central", "distributed", "local", "mesh"]
    placement = forced.get("placement", str(rng.choice(names, p=[0.3, 0.3, 0.3, 0.1])))
    scheme = forced.get("scheme", MASKED if placement == "mesh" or rng.random() < 0.12 else PlainSum())
    adjacency = str(rng.choice(["zero_out", "replace_one"]))
    names = ["loss", "accuracy"][: forced.get("metrics", int(rng.integers(0, 3)))]
    encoding = _encoding(rng, length, names, forced.get("clip"), forced.get("bits", 0))
    cohort = tuple(sorted(int(c) for c in rng.choice(8, clients, replace=False)))
    model = rng.normal(size=length)
    sampling: Sampling = Everyone() if rng.random() < 0.3 else Poisson(0.5)
    mechanism = Mechanism(placement, float(rng.uniform(0.5, 4.0)), str(rng.choice(["simulation", "secure"])))
    if placement == "mesh":
        mechanism = _mesh(rng, mechanism, sampling)
    elif placement == "central" and not isinstance(encoding.clip, AdaptiveClip) and rng.random() < 0.3 and not forced:
        sampling, mechanism = OnePass(8), replace(mechanism, correlation="toeplitz")
    plan = RoundPlan(
        run=bytes(16),
        round=1,
        model_hash=model_hash(model),
        cohort=cohort,
        population=8,
        sampling=sampling,
        survivor_rule=SurvivorRule(0.0, 2),
        encoding=encoding,
        mechanism=mechanism,
        scheme=scheme.name,
        parameters=scheme.parameters,
        seed=int(rng.integers(1 << 32)),
    )
    dropouts = {int(c): int(rng.integers(0, 5)) for c in rng.permutation(cohort)[: rng.choice([0, 0, 1, 1, 2])]}
    updates = {client: random_update(rng, length, names) for client in cohort}
    client = int(rng.choice(cohort))
    other = replace(NONE, delta=np.full(length, np.nan)) if adjacency == "zero_out" else _other(rng, updates[client])
    return Case(plan, scheme, model, PrivacyUnit("client", adjacency), client, updates, other, dropouts, seed)


def _mesh(rng: np.random.Generator, mechanism: Mechanism, sampling: Sampling) -> Mechanism:
    """Mesh noise of all clients or of some; sampled cohorts have many sizes, of which each needs enough members."""
    spare, members = int(rng.integers(0, 2)), int(rng.choice([0, 3, 4]))
    least = spare + 1 if members and isinstance(sampling, Poisson) else 0
    return replace(mechanism, spare=spare, members=members, min_members_to_open=least)


def _encoding(
    rng: np.random.Generator, length: int, names: list[str], clip_name: str | None, bits: int
) -> UpdateEncoding:
    ring, bound = Ring(bits or int(rng.choice([40, 48, 64]))), float(rng.choice([0.1, 1.0, 7.3]))
    chosen = clip_name or str(rng.choice(["flat", "layer", "element", "adaptive"]))
    codec = FixedPoint(float(rng.choice([50.0, 2.0**10, 2.0**16])), ring)
    metrics = tuple(Metric(name, 1.0, int(rng.integers(5, 500))) for name in names)
    rotation = None
    if chosen == "layer" and length > 1:
        clip: Any = LayerClip.of([1, length - 1], bound)
    elif chosen == "element":
        clip = ElementClip(bound, length)
    elif chosen == "adaptive":
        clip = AdaptiveClip(bound, int(rng.integers(100, 5000)), 2 * int(rng.integers(10, 500)))
        codec = clip.codec(ring)
    else:
        clip = FlatClip(bound)
        rotation = Rotation(length, int(rng.integers(1 << 32))) if rng.random() < 0.3 else None
    rounding: Any = str(rng.choice(["nearest", "stochastic"]))
    return UpdateEncoding(length, codec, clip, metrics=metrics, rounding=rounding, rotation=rotation)


def _other(rng: np.random.Generator, update: ClientUpdate) -> ClientUpdate:
    """Other data of the same client: unrelated, or the opposite, which is as far away as any."""
    if rng.random() < 0.5:
        return replace(update, delta=-update.delta, metrics={name: -value for name, value in update.metrics.items()})
    return random_update(rng, len(update.delta), list(update.metrics))
