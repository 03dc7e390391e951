"""run_round gets a plan that disagrees with what runs: codec, model hash, scheme, noise that nobody can count on.
Must hold: a typed error in each case (or no second place to state it); never a halved model or an unmet policy."""

import dataclasses
import inspect
import sys

import numpy as np

from privfl.codec import FixedPoint
from privfl.dp import Everyone, FlatClip, Mechanism
from privfl.engine import LoopExecutor
from privfl.errors import PrivflError
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.policy import ClientPolicy
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum


def train(model, client, round, rng):
    return ClientUpdate(np.array([1.0, 0.0]), 1)


encoding = UpdateEncoding(2, FixedPoint(2.0**16, Ring(40)), FlatClip(2.0))
other = dataclasses.replace(encoding, codec=FixedPoint(2.0**17, Ring(40)))
parts, start = Parts(train, PlainSum(), LoopExecutor()), ServerState(np.zeros(2))
right = RoundPlan(
    run=bytes(16),
    round=1,
    model_hash=model_hash(start.model),
    cohort=(0, 1),
    population=2,
    sampling=Everyone(),
    survivor_rule=SurvivorRule(0.0, 1),
    encoding=encoding,
    scheme="plain-sum/1",
    parameters=PlainSum().parameters,
    seed=3,
)


def mean(plan, parts=parts):
    return run_round(start, plan, parts).outcome.state.model


silent = []
# A codec can be stated in the plan only, so every codec that has room gives the same mean.
second_places = [f.name for f in dataclasses.fields(Parts) if f.name in ("encoding", "codec", "seed", "mechanism")]
known = ("state", "plan", "parts", "payment", "states", "drop", "tap", "failed", "bases")
second_places += [n for n in inspect.signature(run_round).parameters if n not in known]
if second_places:
    silent.append(f"second places next to the plan: {second_places}")
for name, plan in (("the codec", right), ("a codec of twice the scale", dataclasses.replace(right, encoding=other))):
    if not np.allclose(mean(plan), [1, 0], atol=1e-3):
        silent.append(f"{name} -> {mean(plan)}")
central = dataclasses.replace(right, mechanism=Mechanism("central", 1.0, "simulation"))
demanding = dataclasses.replace(parts, policy=ClientPolicy(min_noise_stddev=1.0))
for name, plan, with_ in (
    ("another model's hash", dataclasses.replace(right, model_hash="0" * len(right.model_hash)), parts),
    ("another scheme", dataclasses.replace(right, scheme="masked-sum/1"), parts),
    ("a policy that demands noise, and none", right, demanding),
    ("a policy that demands noise, and noise from the plan's public seed", central, demanding),
):
    try:
        silent.append(f"{name} -> {mean(plan, with_)}")
    except PrivflError as error:
        print(name, "refused:", error)
print("FAILS: accepted silently: " + "; ".join(silent) if silent else "holds")
sys.exit(int(bool(silent)))
