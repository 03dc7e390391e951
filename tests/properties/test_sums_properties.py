"""PlainSum: exact for any cohort, order and dropouts; any bytes are refused or summed, never half of either."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.errors import RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ring
from privfl.sums import PlainSum, SumTask, run_sum


@settings(deadline=None)
@given(st.data(), st.integers(8, 64).map(Ring), st.integers(1, 6), st.integers(1, 5))
def test_the_sum_of_the_survivors_is_exact(data: st.DataObject, ring: Ring, cohort: int, length: int) -> None:
    bound = (ring.half - 1) // cohort
    clients = tuple(sorted(data.draw(st.sets(st.integers(0, 2**32 - 2), min_size=cohort, max_size=cohort))))
    task = SumTask(b"", clients, 1, length, ring, bound)
    entries = st.lists(st.integers(-bound, bound), min_size=length, max_size=length)
    vectors = {c: data.draw(entries) for c in data.draw(st.permutations(clients))}
    gone = data.draw(st.sets(st.sampled_from(clients)))
    stay = [c for c in clients if c not in gone]
    arrays = {c: np.array(v, np.int64) for c, v in vectors.items()}
    try:
        result = run_sum(PlainSum(), task, arrays, drop=lambda client, step: client in gone)
    except TooFewSurvivors:
        assert not stay
        return
    assert result.survivors == set(stay)
    assert result.total.tolist() == [sum(vectors[c][i] for c in stay) for i in range(length)]


TASK = SumTask(b"fuzz", (1, 2), 1, 4, Ring(16), 5)
GOOD = PlainSum().client(TASK, 1, np.array([5, -5, 0, 1])).start()


@given(st.integers(0, len(GOOD)), st.integers(0, 4), st.binary(max_size=4))
def test_a_mutated_upload_is_refused_or_is_a_vector_within_the_bound(at: int, drop: int, insert: bytes) -> None:
    server = PlainSum().server(TASK)
    server.receive(2, PlainSum().client(TASK, 2, np.array([1, 1, 1, 1])).start())
    try:
        server.receive(1, GOOD[:at] + insert + GOOD[at + drop :])
        extra = True
    except (RemoteProtocolError, WireError):
        extra = False
        server.drop(1)
    server.advance()
    assert server.result is not None
    assert (1 in server.result.survivors) == extra
    assert np.abs(server.result.total - 1).max() <= (5 if extra else 0)
