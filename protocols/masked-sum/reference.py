"""The masked sum of SPEC.md, slow and readable. It never imports privfl, and privfl never imports it.

The page as code, from the bottom up, with the sections that each file follows:

- `masked_messages.py` (4, 11), `masked_primitives.py` (5), `masked_noise.py` (16.1, 16.3);
- `masked_terms.py` (3), `masked_roster.py` (6), `masked_disputes.py` (9);
- `masked_client.py` (7, 16.2), `masked_server.py` (8, 9).

This file names the two parties and all that one needs to run them. `scenarios.py` does so and writes vectors/*.json
(section 14).
"""

from __future__ import annotations

from masked_client import Client
from masked_messages import Remote, TooFew, Unusable
from masked_noise import Noise
from masked_server import Server
from masked_terms import Terms

__all__ = ["Client", "Noise", "Remote", "Server", "Terms", "TooFew", "Unusable"]
