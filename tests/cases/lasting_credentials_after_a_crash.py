"""Clients with lasting credentials (task memories on the disk); the run dies in the middle of a round and is resumed.
Must hold: the round is tried again under a new context, and the run ends with three trained rounds."""

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

messages = 0


def bomb(direction, client, message):
    global messages
    messages += 1
    if messages == 61:
        raise KeyboardInterrupt


def train(model, client, round, rng):
    return ClientUpdate(np.full(3, 0.1), 1)


def build(root, **more):
    own = {c: load_credentials(root / f"{c}.json") for c in range(5)}
    directory = MemoryDirectory({c: keys.signing.public for c, keys in own.items()})
    encoding = UpdateEncoding(3, FixedPoint.fit(Ring(32), clip_norm=1.0, cohort=5), FlatClip(1.0))
    parts = Parts(train, MaskedSum(directory), LoopExecutor(), credentials=own)
    return FederatedRun(
        population=5,
        parts=parts,
        encoding=encoding,
        sampler=EveryoneSampler(),
        store=ModelStore(root / "a"),
        seed=0,
        survivor_rule=SurvivorRule(0.8),
        **more,
    )


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    for c in range(5):
        save_credentials(root / f"{c}.json", Credentials.generate(c))
    done, fault = [], ""
    try:
        done += [report.round for report in build(root, tap=bomb).run(np.zeros(3), 3)]
    except KeyboardInterrupt:
        pass
    stored = max(ModelStore(root / "a").rounds())
    try:
        for report in build(root).run(np.zeros(3), 3):
            done.append((report.round, report.status))
    except PrivflError as error:
        fault = f"{type(error).__name__}: {error}"
    bad = bool(fault) or done[-1:] != [(3, "trained")]
print("FAILS:" if bad else "holds:", f"killed after round {stored}; resumed: {done or 'nothing'} {fault}")
sys.exit(int(bad))
