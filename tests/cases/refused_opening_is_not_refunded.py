"""A CKKS run with central noise; the openers' answers reach the server, but with a damaged signature each.
Must hold: the ledger charges every attempt in which the server received an opened sum; nothing is refunded."""

import dataclasses
import sys
import tempfile

from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.he.messages import Opened
from privfl.wire import peek

received = []


class Damaged:
    """A server session whose Opened messages arrive with their last byte flipped."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def receive(self, sender, message):
        if peek(message, max_length=len(message))[0].kind == Opened.KIND:
            received.append(sender)
            message = message[:-1] + bytes([message[-1] ^ 1])
        return self._inner.receive(sender, message)


class Scheme:
    """The CKKS sum with a damaged server."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def server(self, *args, **more):
        return Damaged(self._inner.server(*args, **more))


settings = {
    "data.name": "breast_cancer", "data.clients": 6, "client.steps": 2, "sum.scheme": "ckks", "evaluate_every": 0,
    "privacy.placement": "central", "privacy.noise_multiplier": 1.0, "privacy.clip_norm": 1.0,
}  # fmt: skip
with tempfile.TemporaryDirectory() as runs:
    run = Experiment(rounds=1, runs=runs, overrides=settings)
    run.parts = dataclasses.replace(run.parts, scheme=Scheme(run.scheme))
    try:
        list(run.run())
    except PrivflError as error:
        print("the run ends:", error)
    epsilon = run.epsilon().epsilon
bad = bool(received) and epsilon <= 0
print("FAILS:" if bad else "holds:", f"{len(received)} opened sums reached the server, epsilon says {epsilon:.3f}")
sys.exit(int(bad or not received))
