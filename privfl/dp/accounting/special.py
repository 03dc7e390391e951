"""The special functions of scipy that accounting needs, in one place."""

from __future__ import annotations

from privfl.errors import MissingExtra

try:
    from scipy.special import bdtrc, betaincinv, erf, log_ndtr, ndtr, ndtri, ndtri_exp
except ImportError as error:
    raise MissingExtra("scipy", "dp") from error

__all__ = ["bdtrc", "betaincinv", "erf", "log_ndtr", "ndtr", "ndtri", "ndtri_exp"]
