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

    @property
    def least(self) -> int:
        """The fewest clients a sum goes on with: `min_survivors`, and the quorum that must sign."""
        return max(self.task.min_survivors, self.quorum)
