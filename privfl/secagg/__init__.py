"""MaskedSum: secure aggregation by pairwise masks, embeddable with numpy and cryptography alone.

`MaskedSum(directory).client(...)` and `.server(...)` are state machines: bytes in, bytes out, over any transport.
"""

from privfl.crypto import (
    Credentials,
    FileDirectory,
    KeyDirectory,
    MemoryDirectory,
    SigningKey,
    TaskMemory,
    TasksInFolder,
    TasksInMemory,
    VerifyKey,
    generate_identities,
)
from privfl.ring import Ring
from privfl.secagg.client import MaskedClient
from privfl.secagg.plan import Speed, SumPlan, measure_speed, plan_sum
from privfl.secagg.planner import GraphPlan, plan_graph
from privfl.secagg.scheme import MaskedSum
from privfl.secagg.server import MaskedServer
from privfl.secagg.terms import Terms
from privfl.sums import SessionStore, SumPolicy, SumResult, SumTask, number_clients, run_sum

__all__ = [
    "Credentials",
    "FileDirectory",
    "GraphPlan",
    "KeyDirectory",
    "MaskedClient",
    "MaskedServer",
    "MaskedSum",
    "MemoryDirectory",
    "Ring",
    "SessionStore",
    "SigningKey",
    "Speed",
    "SumPlan",
    "SumPolicy",
    "SumResult",
    "SumTask",
    "TaskMemory",
    "TasksInFolder",
    "TasksInMemory",
    "Terms",
    "VerifyKey",
    "generate_identities",
    "measure_speed",
    "number_clients",
    "plan_graph",
    "plan_sum",
    "run_sum",
]
