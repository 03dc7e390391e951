"""Arguments of another type get a typed error from every sum alike."""

from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import ConfigError
from privfl.he import CkksSum
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumTask

CREDENTIALS, DIRECTORY = generate_identities(range(4))
TASK = SumTask(b"odd", (0, 1, 2, 3), 2, 3, Ring(24), 10)
VECTOR = np.array([1, 2, 3])
SUMS: dict[str, Any] = {"plain": PlainSum(), "masked": MaskedSum(DIRECTORY), "ckks": CkksSum(DIRECTORY)}


@pytest.mark.parametrize("odd", [None, 5, "x", b"", object()])
@pytest.mark.parametrize("name", SUMS)
def test_a_task_or_a_policy_of_another_type_is_refused(name: str, odd: Any) -> None:
    scheme = SUMS[name]
    for ask in (
        lambda: scheme.server(odd),
        lambda: scheme.client(odd, 0, VECTOR, credentials=CREDENTIALS[0]),
        lambda: scheme.client(TASK, 0, VECTOR, credentials=CREDENTIALS[0], policy=odd),
    ):
        with pytest.raises(ConfigError, match="must be of type"):
            ask()


@pytest.mark.parametrize("kind", [MaskedSum, CkksSum])
@pytest.mark.parametrize("odd", [5, "x", [1], {0: 1}])
def test_a_directory_without_keys_is_refused(kind: Any, odd: Any) -> None:
    with pytest.raises(ConfigError, match="verify_key"):
        kind(odd)


@pytest.mark.parametrize("kind", [MaskedSum, CkksSum])
@pytest.mark.parametrize("odd", ["x", 0, True, 1.5, None])
def test_a_least_number_of_vectors_that_is_none_is_refused(kind: Any, odd: Any) -> None:
    with pytest.raises(ConfigError, match="min_vectors"):
        kind(DIRECTORY, min_vectors=odd)
