"""A server is saved where `MaskedServer.to_bytes` says, takes all messages of a step, is killed and resumed.
Must hold: clients answer that step again and the sum opens, or to_bytes says to save after each receive()."""

import sys

import numpy as np

from privfl.errors import PrivflError
from privfl.secagg import MaskedSum, Ring, SumTask, generate_identities
from privfl.secagg.server import MaskedServer

if "receive" in (MaskedServer.to_bytes.__doc__ or ""):
    print("holds: to_bytes says when to save with regard to receive()")
    sys.exit(0)
ids = tuple(range(5))
credentials, directory = generate_identities(ids)
scheme, task = MaskedSum(directory), SumTask(b"save", ids, 4, 2, Ring(32), 9)
server = scheme.server(task)
sessions = {c: scheme.client(task, c, np.ones(2, np.int64), credentials=credentials[c]) for c in ids}
for c in ids:
    server.receive(c, sessions[c].start())
messages = server.advance()
saved = server.to_bytes()  # "save it after `advance` and before sending what that returned"
for c, message in messages.items():
    server.receive(c, sessions[c].receive(message))  # taken, and lost with the process
server, refusal = scheme.resume(task, saved), ""
try:
    while server.result is None:
        for c, message in messages.items():
            try:
                server.receive(c, sessions[c].receive(message))
            except PrivflError as error:
                refusal = f"client {c}: {error}"
        messages = server.advance()
except PrivflError as error:
    print(f"FAILS: {error} ({refusal})")
    sys.exit(1)
bad = not (server.result.total == 5).all()
print("FAILS: a wrong sum" if bad else "holds")
sys.exit(int(bad))
