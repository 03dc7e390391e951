"""The roster: the advertisement of every participant in records of one size, read without a copy for each client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import RemoteProtocolError, WireError
from privfl.secagg.messages import KEYS_BYTES
from privfl.secagg.terms import Terms
from privfl.wire import ClientId


class RosterView:
    """The records of a roster by place. Places are in the order of identities."""

    def __init__(self, records: npt.NDArray[np.void]) -> None:
        self._records = records
        self._ids: npt.NDArray[np.uint32] = records["client"]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def clients(self) -> list[ClientId]:
        """All identities, increasing."""
        found: list[int] = self._ids.tolist()
        return found

    def place_of(self, client: ClientId) -> int | None:
        """Return the place of a client, or None."""
        place = int(np.searchsorted(self._ids, client))
        return place if place < len(self) and self.client(place) == client else None

    def client(self, place: int) -> ClientId:
        """Return the client at a place."""
        return int(self._ids[place])

    def keys(self, place: int) -> bytes:
        """The mask key and box key of the client at `place`, 64 bytes."""
        return bytes(self._records["mask"][place]) + bytes(self._records["box"][place])

    def signature(self, place: int) -> bytes:
        """The signature of the client at `place` over its keys."""
        return bytes(self._records["signature"][place])


def write_roster(adverts: Mapping[ClientId, bytes]) -> bytes:
    """The records of `adverts` (keys and, in signed mode, signature)."""
    return b"".join(client.to_bytes(4, "little") + adverts[client] for client in sorted(adverts))


def read_roster(terms: Terms, entries: bytes) -> RosterView:
    """Return the records of a roster. Signatures are for the reader to verify.

    Args:
        terms: The terms of the sum.
        entries: The records as bytes.

    Raises:
        WireError: The records are not strictly increasing in identity.
        RemoteProtocolError: A client is not in the cohort, they are fewer than `min_roster`, or two have one key.
    """
    layout = _layout(terms.signed)
    if len(entries) % layout.itemsize:
        raise WireError(f"{len(entries)} bytes are no records of {layout.itemsize}")
    records = np.frombuffer(entries, layout)
    ids = records["client"]
    if (ids[1:] <= ids[:-1]).any():
        raise WireError("the roster's identities must be strictly increasing")
    if not terms.in_cohort(ids):
        raise RemoteProtocolError("the roster names a client that is not in the cohort")
    if len(ids) < terms.min_roster:
        raise RemoteProtocolError(f"the roster has {len(ids)} clients, at least {terms.min_roster} are due")
    if _repeats(np.concatenate([records["mask"], records["box"]])):
        raise RemoteProtocolError("one key stands for two in the roster")
    return RosterView(records)


def _repeats(keys: npt.NDArray[np.void]) -> bool:
    """True if two keys are equal; hardly ever are as much as their first eight bytes."""
    heads = np.sort(keys.view("<u8").reshape(len(keys), -1)[:, 0])
    if not (heads[1:] == heads[:-1]).any():
        return False
    return len(set(keys.tolist())) < len(keys)


def _layout(signed: bool) -> np.dtype[Any]:
    half = KEYS_BYTES // 2
    fields = [("client", "<u4"), ("mask", f"V{half}"), ("box", f"V{half}")]
    return np.dtype([*fields, ("signature", f"V{SIGNATURE_BYTES}")] if signed else fields)
