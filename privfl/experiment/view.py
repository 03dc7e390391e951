"""The server's view of one client: a tap on the wire that keeps the message with the client's vector in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.errors import StateError, WireError
from privfl.experiment.schemes import SchemeDescription
from privfl.fl.encoding import UpdateEncoding
from privfl.wire import HEADER_BYTES, ClientId, peek

_LONGEST: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Sighting:
    """One client's vector as the server got it.

    Attributes:
        scheme: The description of the sum.
        values: The numbers that the server reads, int64: clear integers, masked ring elements, centered, or bytes.
        low: The smallest number that it could read.
        high: The largest number that it could read.
        bytes: The length of the message.
    """

    scheme: SchemeDescription = field(repr=False)
    values: npt.NDArray[np.int64] = field(repr=False)
    low: int
    high: int
    bytes: int

    @property
    def words(self) -> str:
        """The server's view, in a phrase."""
        return self.scheme.sees["server"]


class Watcher:
    """A `Tap` that keeps the first vector that one client sends.

    Args:
        client: The client that is watched.
        scheme: The description of the sum that it takes part in.
    """

    def __init__(self, client: ClientId, scheme: SchemeDescription) -> None:
        self.client, self._scheme = client, scheme
        self._message: bytes | None = None

    def __call__(self, direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        """See one message."""
        if self._message is None and direction == "up" and client == self.client and len(message) >= HEADER_BYTES:
            header, _ = peek(message, max_length=_LONGEST)
            if header.kind == self._scheme.vector_message.KIND:
                self._message = message

    def sighting(self, encoding: UpdateEncoding) -> Sighting:
        """The vector that was seen; raises `StateError` when the client sent no vector of `encoding`."""
        if self._message is None:
            raise StateError(f"client {self.client} sent no vector")
        _, body = peek(self._message, max_length=_LONGEST)
        message: Any = self._scheme.vector_message.from_body(body)
        try:
            values, low, high = self._scheme.read_vector(message, encoding.codec.ring, encoding.total_length)
        except WireError as error:
            raise StateError(f"client {self.client}'s vector is not of this run: {error}") from error
        return Sighting(self._scheme, values, low, high, len(self._message))
