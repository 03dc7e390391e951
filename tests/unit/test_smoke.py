import numpy as np

from privfl.codec import FixedPoint
from privfl.ring import Ring
from privfl.sums import PlainSum, SumTask, run_sum


def test_a_plain_sum_of_encoded_vectors_is_exact() -> None:
    ring = Ring(32)
    codec = FixedPoint(2.0**16, ring)
    task = SumTask(b"smoke", (0, 1, 2), 2, 100, ring, codec.bound(1.0))
    rng = np.random.default_rng(0)
    vectors = {c: codec.encode(rng.normal(size=100) / 10, max_norm=1.0) for c in task.clients}
    result = run_sum(PlainSum(), task, vectors, drop=lambda client, step: client == 1)
    assert result.survivors == {0, 2}
    np.testing.assert_array_equal(result.total, vectors[0] + vectors[2])
