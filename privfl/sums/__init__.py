"""Sums: one interface, the plain sum, and an in-memory driver."""

from privfl.sums.base import (
    ClientSession,
    Entropy,
    KeyedOpening,
    Opening,
    SecureSum,
    ServerSession,
    SumPolicy,
    SumResult,
    SumTask,
    checked_vector,
    identity,
)
from privfl.sums.driver import Drop, Tap, ignore, never, run_sum
from privfl.sums.plain import PlainSum

__all__ = [
    "ClientSession",
    "Drop",
    "Entropy",
    "KeyedOpening",
    "Opening",
    "PlainSum",
    "SecureSum",
    "ServerSession",
    "SumPolicy",
    "SumResult",
    "SumTask",
    "Tap",
    "checked_vector",
    "identity",
    "ignore",
    "never",
    "run_sum",
]
