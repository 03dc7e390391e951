"""MaskedSum: secure aggregation by pairwise masks, embeddable with numpy and cryptography alone.

`MaskedSum(directory).client(...)` and `.server(...)` are state machines: bytes in, bytes out, over any transport.
"""

from privfl.crypto import (
    Credentials,
    FileDirectory,
    MemoryDirectory,
    generate_identities,
    load_credentials,
    save_credentials,
)
from privfl.ring import Ring
from privfl.secagg.plan import SumPlan, plan_sum
from privfl.secagg.scheme import MaskedSum
from privfl.sums import SessionStore, SumPolicy, SumTask, number_clients, run_sum

__all__ = [
    "Credentials",
    "FileDirectory",
    "MaskedSum",
    "MemoryDirectory",
    "Ring",
    "SessionStore",
    "SumPlan",
    "SumPolicy",
    "SumTask",
    "generate_identities",
    "load_credentials",
    "number_clients",
    "plan_sum",
    "run_sum",
    "save_credentials",
]
