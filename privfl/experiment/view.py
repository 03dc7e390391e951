"""What the server sees of one client: a tap on the wire that keeps the message with the client's vector in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.errors import StateError, WireError
from privfl.fl.plan import UpdatePlan
from privfl.he.messages import Frame
from privfl.secagg.messages import MaskedInput
from privfl.sums.plain import Upload
from privfl.wire import HEADER_BYTES, ClientId, peek

_KINDS: Final[Mapping[int, type[Upload | MaskedInput | Frame]]] = {
    Upload.KIND: Upload,
    MaskedInput.KIND: MaskedInput,
    Frame.KIND: Frame,
}
_LONGEST: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Sighting:
    """One client's vector as the server got it.

    `values` are the numbers that the server reads: the clear integers of a plain sum, the masked ring elements of a
    masked sum, centered, or the bytes of a ciphertext. `low` and `high` is the range such numbers can take.
    """

    scheme: Literal["plain", "masked", "ckks"]
    values: npt.NDArray[np.int64] = field(repr=False)
    low: int
    high: int
    bytes: int

    @property
    def words(self) -> str:
        """What the server saw, in a phrase."""
        return {
            "plain": "every hospital's vector in the clear, and their sum",
            "masked": "masked vectors that look like uniform noise one by one, and their exact sum",
            "ckks": "ciphertexts without the key, and the noised sum that a hospital opened",
        }[self.scheme]


class Watcher:
    """A `Tap` that keeps the first vector that `client` sends."""

    def __init__(self, client: ClientId) -> None:
        self.client = client
        self._message: bytes | None = None

    def __call__(self, direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        """See one message."""
        if self._message is None and direction == "up" and client == self.client and len(message) >= HEADER_BYTES:
            header, _ = peek(message, max_length=_LONGEST)
            if header.kind in _KINDS:
                self._message = message

    def sighting(self, update: UpdatePlan) -> Sighting:
        """What was seen; raises `StateError` when the client sent no vector."""
        if self._message is None:
            raise StateError(f"client {self.client} sent no vector")
        header, body = peek(self._message, max_length=_LONGEST)
        message: Any = _KINDS[header.kind].from_body(body)
        if isinstance(message, Frame):
            octets = np.frombuffer(bytes(message.block), np.uint8).astype(np.int64)
            return Sighting("ckks", octets, 0, 255, len(self._message))
        ring = update.codec.ring
        try:
            words = ring.unpack(message.values, update.total_length)
        except WireError as error:
            raise StateError(f"client {self.client}'s vector is not of this run: {error}") from error
        scheme: Literal["plain", "masked"] = "plain" if isinstance(message, Upload) else "masked"
        return Sighting(scheme, ring.center(words), -ring.half, ring.half - 1, len(self._message))
