"""The record of a round at a site: the last request, its answer and the state after it, written as one.

The record is on the disk before its answer leaves. A site that was killed finds the record, and sends the same answer
again. Or it finds the record before: then the answer never left, and the step is computed again. No state is restored
after an answer that followed it has left, so no step is answered twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfl.errors import StateError
from privfl.files import atomic_write
from privfl.fl.frames import MAX_FRAME_BYTES
from privfl.sums.session import layer_pieces, unpack_layer
from privfl.wire import U8, U32, Blob, Fixed, wired

OPEN: Final = 0
OVER: Final = 1

_LABEL: Final = b"privfl/1 round of a site"


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """The last exchange of a round.

    Attributes:
        round: The round.
        attempt: Its attempt.
        step: The step of the last request.
        task: The digest of the sum's task.
        request: The SHA-256 of the last request.
        answer: The answer to it; empty where the session was aborted.
        transcript: The digest of all exchanges of the round.
        status: `OPEN`, or `OVER` once no step is due any more.
        state: The state of the client's half of the round, as secret as the contribution; empty once it is over.
    """

    round: int = wired(U32)
    attempt: int = wired(U32)
    step: int = wired(U8)
    task: bytes = wired(Fixed(32))
    request: bytes = wired(Fixed(32))
    answer: bytes | memoryview = wired(Blob(MAX_FRAME_BYTES))
    transcript: bytes = wired(Fixed(32))
    status: int = wired(U8)
    state: bytes | memoryview = wired(Blob(1 << 34), secret=True)

    @property
    def place(self) -> tuple[int, int]:
        """The round and the attempt."""
        return self.round, self.attempt

    def write(self, path: Path, charter: bytes) -> None:
        """Replace the record on the disk, durably.

        Args:
            path: The file.
            charter: The digest of the charter.
        """
        atomic_write(path, layer_pieces(_LABEL + charter, self, inner="state"))

    @classmethod
    def read(cls, path: Path, charter: bytes) -> RoundRecord | None:
        """Return the record on the disk, or None before the first.

        Args:
            path: The file.
            charter: The digest of the charter.

        Raises:
            StateError: The file was altered, or belongs to another charter.
        """
        if not path.exists():
            return None
        try:
            return unpack_layer(_LABEL + charter, cls, path.read_bytes(), inner="state")
        except StateError as error:
            raise StateError(f"{path} is not the record of a round of this charter: {error}") from error
