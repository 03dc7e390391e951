"""Steps over examples for the gray-box replay: one person of one site has other data, or counts as zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from replay import MASKED, Case
from replay_cases import random_update

from privfl.codec import FixedPoint
from privfl.dp import FlatClip, Mechanism, Poisson, PrivacyUnit
from privfl.dp.unit import Everyone
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.examples import ExampleRule
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum


class Gradients:
    """An `ExampleGradients` of given matrices: one row for each person of a client."""

    def __init__(self, rows: Mapping[int, Any]) -> None:
        self.rows = rows

    def people(self, client: int) -> int:
        return len(self.rows[client])

    def gradients(self, model: np.ndarray, client: int, chosen: np.ndarray) -> Iterator[np.ndarray]:
        yield from np.array_split(self.rows[client][chosen], 2)


def example_case(seed: int) -> Case:
    """A random step over examples: one person of one site has other data, or counts as zero."""
    rng = np.random.default_rng(seed)
    length, clients = int(rng.integers(1, 24)), int(rng.integers(3, 7))
    placement = str(rng.choice(["central", "distributed", "mesh"]))
    scheme = MASKED if placement == "mesh" or rng.random() < 0.15 else PlainSum()
    cohort = tuple(sorted(int(c) for c in rng.choice(8, clients, replace=False)))
    model = rng.normal(size=length)
    rule = ExampleRule(Poisson(float(rng.choice([0.2, 0.7, 1.0]))), 20.0, float(rng.choice([0.5, 3.0, 40.0])))
    codec = FixedPoint(float(rng.choice([50.0, 2.0**10, 2.0**16])), Ring(48))
    plan = RoundPlan(
        run=bytes(16),
        round=1,
        model_hash=model_hash(model),
        cohort=cohort,
        population=8,
        sampling=Everyone(),
        survivor_rule=SurvivorRule(0.0, 2),
        encoding=UpdateEncoding(length, codec, FlatClip(float(rng.choice([0.1, 1.0, 7.3]))), examples=rule),
        mechanism=Mechanism(placement, float(rng.uniform(0.5, 4.0)), str(rng.choice(["simulation", "secure"]))),
        scheme=scheme.name,
        parameters=scheme.parameters,
        seed=int(rng.integers(1 << 32)),
    )
    rows = {me: np.array([random_update(rng, length, []).delta for _ in range(rng.integers(1, 30))]) for me in cohort}
    client, adjacency = int(rng.choice(cohort)), str(rng.choice(["zero_out", "replace_one"]))
    other, person = rows[client].astype(np.float64), int(rng.integers(len(rows[client])))
    changed = -other[person] if rng.random() < 0.5 else random_update(rng, length, []).delta
    other[person] = np.nan if adjacency == "zero_out" else changed
    dropouts = {int(c): int(rng.integers(0, 5)) for c in rng.permutation(cohort)[: rng.choice([0, 0, 1])]}
    return Case(plan, scheme, model, PrivacyUnit("example", adjacency), client, rows, other, dropouts, seed, Gradients)
