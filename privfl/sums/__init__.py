"""Sums: one interface, the plain sum, and an in-memory driver."""

from privfl.sums.base import (
    MIN_VECTORS,
    ClientSession,
    Entropy,
    KeyedOpening,
    Opening,
    SecureSum,
    ServerSession,
    SumPolicy,
    SumResult,
    SumTask,
    checked_total,
    checked_vector,
    few_vectors,
    identity,
)
from privfl.sums.driver import Drop, Tap, drive, ignore, never, run_sum
from privfl.sums.names import number_clients
from privfl.sums.plain import PlainSum
from privfl.sums.shortfall import binomial_shortfall, check_dropout
from privfl.sums.store import SessionStore

__all__ = [
    "MIN_VECTORS",
    "ClientSession",
    "Drop",
    "Entropy",
    "KeyedOpening",
    "Opening",
    "PlainSum",
    "SecureSum",
    "ServerSession",
    "SessionStore",
    "SumPolicy",
    "SumResult",
    "SumTask",
    "Tap",
    "binomial_shortfall",
    "check_dropout",
    "checked_total",
    "checked_vector",
    "drive",
    "few_vectors",
    "identity",
    "ignore",
    "never",
    "number_clients",
    "run_sum",
]
