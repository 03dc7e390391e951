"""A masked client's session is saved between two steps and restored by a new process (names of the calls may differ).
Must hold: it goes on; the bytes hold no long-term signing key; one state is restored at most once."""

import sys

import numpy as np

from privfl.errors import PrivflError
from privfl.secagg import MaskedSum, Ring, SumTask, generate_identities
from privfl.secagg.client import MaskedClient

if not hasattr(MaskedClient, "to_bytes") or not hasattr(MaskedSum, "resume_client"):
    print("FAILS: no way to save a client session")
    sys.exit(1)
ids, wrong = tuple(range(4)), []
credentials, directory = generate_identities(ids)
scheme, task = MaskedSum(directory), SumTask(b"save", ids, 3, 2, Ring(32), 9)
server = scheme.server(task)
sessions = {c: scheme.client(task, c, np.ones(2, np.int64), credentials=credentials[c]) for c in ids}
for c in ids:
    server.receive(c, sessions[c].start())
while server.result is None:
    for c, message in server.advance().items():
        if c == 0:
            state = sessions[0].to_bytes()
            if credentials[0].signing.secret in state:
                wrong.append("the state holds the long-term signing key")
            sessions[0] = scheme.resume_client(task, 0, state, credentials=credentials[0])
            try:
                scheme.resume_client(task, 0, state, credentials=credentials[0])
                wrong.append("one state is restored twice")
            except PrivflError as error:
                print("restored again:", error)
        server.receive(c, sessions[c].receive(message))
if not (server.result.total == 4).all():
    wrong.append("a wrong sum")
print("FAILS: " + "; ".join(dict.fromkeys(wrong)) if wrong else "holds")
sys.exit(int(bool(wrong)))
