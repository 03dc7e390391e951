"""Clients with lasting credentials take part in a run, and then in a second run from the same first model.
Must hold: the second run trains: what clients remember is one run's task, not every run's."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from privfl.codec import FixedPoint
from privfl.crypto import Credentials, MemoryDirectory, load_credentials, save_credentials
from privfl.dp import FlatClip
from privfl.engine import LoopExecutor
from privfl.errors import PrivflError
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import EveryoneSampler
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.secagg import MaskedSum


def train(model, client, round, rng):
    return ClientUpdate(np.full(3, 0.1), 1)


def build(root, store):
    own = {c: load_credentials(root / f"{c}.json") for c in range(5)}
    directory = MemoryDirectory({c: keys.signing.public for c, keys in own.items()})
    encoding = UpdateEncoding(3, FixedPoint.fit(Ring(32), clip_norm=1.0, cohort=5), FlatClip(1.0))
    parts = Parts(train, MaskedSum(directory), LoopExecutor(), credentials=own)
    return FederatedRun(
        population=5,
        parts=parts,
        encoding=encoding,
        sampler=EveryoneSampler(),
        store=ModelStore(root / store),
        seed=0,
        survivor_rule=SurvivorRule(0.8),
    )


fault = ""
with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    for c in range(5):
        save_credentials(root / f"{c}.json", Credentials.generate(c))
    first = [report.status for report in build(root, "a").run(np.zeros(3), 1)]
    try:
        second = [report.status for report in build(root, "b").run(np.zeros(3), 1)]
        bad = second != first
    except PrivflError as error:
        second, bad = f"{type(error).__name__}: {error}", True
print("FAILS:" if bad else "holds:", f"first run {first}, second run {second}")
sys.exit(int(bad))
