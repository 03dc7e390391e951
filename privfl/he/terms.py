"""What all parties of one sum have in common."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.crypto import KeyDirectory
from privfl.he.plan import CkksPlan
from privfl.sums import SumTask


@dataclass(frozen=True, slots=True)
class Terms:
    """The public parameters of one sum, the same at every client and at the server."""

    task: SumTask
    plan: CkksPlan
    directory: KeyDirectory
    quorum: int
    digest: bytes
    least: int
    """The fewest clients a sum goes on with: `min_survivors`, the quorum that must sign, and `min_vectors`."""
