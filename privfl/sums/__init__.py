"""Sums: one interface, the plain sum, and an in-memory driver."""

from privfl.ring import Opening
from privfl.sums.base import ClientSession, Entropy, SecureSum, ServerSession, SumPolicy, SumResult, SumTask
from privfl.sums.driver import Drop, Tap, drive, run_sum
from privfl.sums.names import number_clients
from privfl.sums.plain import PlainSum
from privfl.sums.regional import Region, RegionalSum
from privfl.sums.store import SessionStore

__all__ = [
    "ClientSession",
    "Drop",
    "Entropy",
    "Opening",
    "PlainSum",
    "Region",
    "RegionalSum",
    "SecureSum",
    "ServerSession",
    "SessionStore",
    "SumPolicy",
    "SumResult",
    "SumTask",
    "Tap",
    "drive",
    "number_clients",
    "run_sum",
]
