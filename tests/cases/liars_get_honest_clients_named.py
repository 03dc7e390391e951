"""Of 16 clients 3 send random shares at the last step, and the round is run again without the clients that were named.
Must hold: no honest client is ever named as the culprit of a failed opening (or the sum opens)."""

import random
import sys

import numpy as np

from privfl.crypto.shamir import PRIME
from privfl.errors import ProtocolError
from privfl.secagg import MaskedSum, Ring, SumTask, generate_identities
from privfl.secagg.messages import Unmask
from privfl.wire import peek

everybody, liars, source = list(range(16)), {13, 14, 15}, random.Random(1)
credentials, directory = generate_identities(everybody)
scheme, named = MaskedSum(directory), []


def lie(message, session):
    honest = Unmask.from_body(peek(message, max_length=len(message))[1])
    shares = b"".join(source.randrange(PRIME).to_bytes(33, "little") for _ in range(len(honest.dealers)))
    return lambda sender: Unmask(honest.dealers, shares).to_bytes(sender=sender, task=session)


def attempt(number, ids):
    task = SumTask(b"try %d" % number, tuple(ids), len(ids) // 2, 2, Ring(32), 10)
    server, step = scheme.server(task), 0
    sessions = {c: scheme.client(task, c, np.ones(2, np.int64), credentials=credentials[c]) for c in ids}
    for c in ids:
        server.receive(c, sessions[c].start())
    while server.result is None:
        step += 1
        for c, message in server.advance().items():
            answer = sessions[c].receive(message)
            if step == 4 and c in liars:
                answer = lie(answer, scheme.terms(task).digest())(c)
            server.receive(c, answer)


for number in range(4):
    try:
        attempt(number, everybody)
        break
    except ProtocolError as error:
        culprit = getattr(error, "sender", None)
        if culprit is None:
            break
        named.append(culprit)
        everybody.remove(culprit)
honest = [c for c in named if c not in liars]
print(
    f"FAILS: honest clients named and put out: {honest}; liars named: {len(named) - len(honest)} of 3"
    if honest
    else "holds"
)
sys.exit(bool(honest))
