"""One of six clients uploads an entry of 2^30 in a sum whose vectors are bounded by 10.
Must hold: an opened entry beyond survivors x bound gives a typed error or a caveat; it cannot be an honest sum."""

import os
import sys

import numpy as np

from privfl.errors import PrivflError
from privfl.secagg import MaskedSum, Ring, SumTask, generate_identities
from privfl.secagg.client import MaskedClient

ids = tuple(range(6))
credentials, directory = generate_identities(ids)
scheme, task = MaskedSum(directory), SumTask(b"poison", ids, 5, 4, Ring(32), 10)
server = scheme.server(task)
sessions = {c: scheme.client(task, c, np.ones(4, np.int64), credentials=credentials[c]) for c in ids[1:]}
sessions[0] = MaskedClient(  # made without the check of its own vector
    scheme.terms(task), 0, np.full(4, 2**30), signing=credentials[0].signing, directory=directory, tasks=None,
    entropy=os.urandom, threads=1,
)  # fmt: skip
try:
    for c in ids:
        server.receive(c, sessions[c].start())
    while server.result is None:
        for c, message in server.advance().items():
            server.receive(c, sessions[c].receive(message))
except PrivflError as error:
    print("holds:", type(error).__name__, error)
    sys.exit(0)
beyond = np.abs(server.result.total).max() > 60
bad = beyond and not server.result.caveats
print(
    "FAILS:" if bad else "holds:",
    f"opened {server.result.total.tolist()}, where 60 is the most; caveats {server.result.caveats}",
)
sys.exit(int(bad))
