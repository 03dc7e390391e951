"""Small plans, runs and payments that the tests of rounds share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from privfl.codec import FixedPoint
from privfl.dp import Accountant, Budget, Everyone, FlatClip, Ledger, Mechanism
from privfl.dp.unit import CLIENT_UNIT
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum, SecureSum

CODEC = FixedPoint(2.0**16, Ring(40))
NONCE = bytes(range(16))


def an_encoding(length: int = 4, **changes: Any) -> UpdateEncoding:
    return replace(UpdateEncoding(length, CODEC, FlatClip(1.0)), **changes)


def a_plan(under: SecureSum | None = None, model: np.ndarray | None = None, **changes: Any) -> RoundPlan:
    """Three clients, everybody asked, two must survive, with `model` and the sum `under` it."""
    named = PlainSum() if under is None else under
    values: dict[str, Any] = {
        "run": NONCE,
        "round": 3,
        "model_hash": "ab" * 32 if model is None else model_hash(model),
        "cohort": (0, 1, 2),
        "population": len(changes.get("cohort", (0, 1, 2))),
        "sampling": Everyone(),
        "survivor_rule": SurvivorRule(0.0, 2),
        "encoding": an_encoding(4 if model is None else len(model)),
        "scheme": named.name,
        "parameters": named.parameters,
        "seed": 7,
    }
    return RoundPlan(**values | changes)


def a_payment(folder: Path, *, epsilon: float = 100.0, assume: bool = True) -> Payment:
    ledger = Ledger(CLIENT_UNIT, folder / "ledger.jsonl")
    accountant = Accountant(1e-5, assume_secure_noise=assume)
    return Payment(ledger, accountant, Budget(epsilon, 1e-5, assume_secure_noise=assume))


def central(multiplier: float = 2.0, source: Any = "simulation") -> Mechanism:
    return Mechanism("central", multiplier, source)


def constant(delta: Sequence[float], examples: int = 1) -> Any:
    """A training function that always returns the same update."""

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.array(delta, np.float64), examples)

    return train
