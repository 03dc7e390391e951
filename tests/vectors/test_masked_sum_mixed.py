"""Clients of privfl and of the reference in one sum, under servers of both: random terms, graphs and dropouts.

The two share no code, so that whatever they agree on is written in protocols/masked-sum/SPEC.md.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.crypto import MemoryDirectory, SigningKey
from privfl.errors import TooFewSurvivors
from privfl.ring import Ring
from privfl.secagg.client import MaskedClient
from privfl.secagg.server import MaskedServer
from privfl.secagg.terms import Terms
from privfl.sums import SumTask
from privfl.sums.base import identity

FOLDER = Path(__file__).parents[2] / "protocols" / "masked-sum"
SIGNING = {c: SigningKey(hashlib.sha256(f"mixed {c}".encode()).digest()) for c in range(10)}


REF = references.load("masked-sum", "reference")


def stream(name: str) -> Callable[[int], bytes]:
    left = hashlib.shake_256(name.encode()).digest(20_000)

    def entropy(size: int) -> bytes:
        nonlocal left
        part, left = left[:size], left[size:]
        return part

    return entropy


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    n = draw(st.integers(3, 9))
    clients = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=n, max_size=n))))
    degree = draw(st.sampled_from([0, *range(2, n, 2)]))
    signed = draw(st.booleans())
    least = 1 if not signed else (n // 2 + 1 if degree == 0 else degree // 2 + 1)
    threshold = draw(st.integers(least, n if degree == 0 else degree))
    bits = draw(st.sampled_from([12, 16, 17, 32, 40, 64]))
    task = SumTask(b"mixed", clients, draw(st.integers(1, n)), draw(st.integers(1, 6)), Ring(bits), 200)
    arc = draw(st.integers(1, degree // 2)) if degree else 0
    min_vectors = draw(st.integers(1, 3))
    min_roster = max(threshold, degree + 1, task.min_survivors, min_vectors)
    return Terms(task, signed, draw(st.booleans()), degree, threshold, arc, min_roster, min_vectors)


def both(terms: Terms) -> tuple[Any, Any, Any]:
    """The terms, the directory and the signing seeds in the reference's shape."""
    task = terms.task
    how = (list(task.clients), task.min_survivors, task.length, task.ring.bits, task.bound)
    form = (terms.signed, terms.packed, terms.degree, terms.threshold, terms.arc, terms.min_roster, terms.min_vectors)
    return (
        REF.Terms(task.context, *how, *form),
        {c: SIGNING[c].public.public for c in task.clients},
        {c: SIGNING[c].secret for c in task.clients},
    )


def outcome(terms: Terms, vectors: Any, silent: Any, *, ours: Any, our_server: bool) -> Any:
    """The total and the survivors, or the word "too few"; `ours` are the clients that privfl plays."""
    theirs, public, seeds = both(terms)
    directory = MemoryDirectory({c: SIGNING[c].public for c in terms.task.clients}) if terms.signed else None
    sessions: dict[int, Any] = {}
    for c in terms.task.clients:
        entropy = stream(f"entropy {c}")
        if c in ours:
            signing = SIGNING[c] if terms.signed else None
            vector = np.array(vectors[c])
            sessions[c] = MaskedClient(
                terms, c, vector, signing=signing, directory=directory, tasks=None, entropy=entropy, threads=1
            )
        else:
            sessions[c] = REF.Client(theirs, c, vectors[c], seed=seeds[c], directory=public, entropy=entropy)
    server: Any = REF.Server(theirs, public)
    take: Any = server.take
    close: Any = server.close
    if our_server:
        server = MaskedServer(terms, directory=directory, opening=identity, threads=1)
        take = server.receive

        def close() -> Any:
            if not server.ready:
                for silent_ in server.awaiting:
                    server.drop(silent_)
            return server.advance()

    mail: Any = dict.fromkeys(terms.task.clients)
    step = 0
    while server.result is None:
        for c, message in mail.items():
            if step < silent.get(c, 9):
                speak = sessions[c].receive if c in ours else sessions[c].answer
                take(c, sessions[c].start() if message is None else speak(message))
        try:
            mail = close()
        except (TooFewSurvivors, REF.TooFew):
            return "too few", step
        step += 1
    if our_server:
        return server.result.total.tolist(), sorted(server.result.survivors), server.result.transcript.hex()
    return server.result["total"], server.result["survivors"], server.result["transcript"]


def check(terms: Terms, data: st.DataObject) -> None:
    clients = terms.task.clients
    entries = st.lists(st.integers(-200, 200), min_size=terms.task.length, max_size=terms.task.length)
    vectors = {c: data.draw(entries) for c in clients}
    silent = data.draw(st.dictionaries(st.sampled_from(clients), st.integers(0, 4), max_size=3))
    ours = data.draw(st.sets(st.sampled_from(clients)))
    found = [outcome(terms, vectors, silent, ours=ours, our_server=side) for side in (True, False)]
    assert found[0] == found[1]
    if found[0][0] != "too few":
        survivors = found[0][1]
        assert found[0][0] == [sum(vectors[c][i] for c in survivors) for i in range(terms.task.length)]
        assert survivors == [c for c in clients if silent.get(c, 9) > 2]


@settings(max_examples=40, deadline=None)
@given(terms(), st.data())
def test_mixed_parties_agree_on_every_sum(terms: Terms, data: st.DataObject) -> None:
    check(terms, data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(terms(), st.data())
def test_mixed_parties_agree_on_many_sums(terms: Terms, data: st.DataObject) -> None:
    check(terms, data)
