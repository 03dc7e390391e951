"""CKKS summation: integers in, their exact sum out, encrypted under a key that the server never has."""

from privfl.he.ckks_sum import CkksSum
from privfl.he.keys import KeyStore, StandingCredentials
from privfl.he.plan import CkksPlan, CkksSpeed, plan_ckks, plan_for

__all__ = ["CkksPlan", "CkksSpeed", "CkksSum", "KeyStore", "StandingCredentials", "plan_ckks", "plan_for"]
