"""CKKS summation: integers in, their exact sum out, encrypted under a key that the server never has."""

from privfl.he.ckks_sum import CkksSum
from privfl.he.keys import KeyStore, StandingCredentials
from privfl.he.measure import measure_ckks_speed
from privfl.he.plan import CkksPlan, CkksSpeed, plan_ckks, plan_for

__all__ = [
    "CkksPlan",
    "CkksSpeed",
    "CkksSum",
    "KeyStore",
    "StandingCredentials",
    "measure_ckks_speed",
    "plan_ckks",
    "plan_for",
]
