"""CKKS summation: integers in, their exact sum out, encrypted under a key that the server never has."""

from privfl.he.keys import KeyStore, StandingCredentials
from privfl.he.plan import CkksPlan, plan_ckks, plan_for
from privfl.he.scheme import CkksSum

__all__ = [
    "CkksPlan",
    "CkksSum",
    "KeyStore",
    "StandingCredentials",
    "plan_ckks",
    "plan_for",
]
