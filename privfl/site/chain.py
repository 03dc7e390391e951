"""The receipts of a site: an append-only file from which rollback is detected, and the last round of each charter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from privfl.crypto import SigningKey, VerifyKey
from privfl.errors import PrivflError, StateError
from privfl.files import GENESIS, HashChain
from privfl.fl.plan import EVALUATION
from privfl.fl.receipts import Receipt
from privfl.wire import ClientId

Place = tuple[int, int]
"""(round, attempt); the places of a charter only grow."""

NOWHERE: Final[Place] = (-1, -1)


class ReceiptChain:
    """The receipts that a site has signed, in a hash-chained file.

    Args:
        path: The file, made with the first receipt.
        key: The public key of the site.

    Raises:
        StateError: The file was altered, or holds a receipt of another key.
    """

    def __init__(self, path: Path, key: VerifyKey) -> None:
        self._file, self._key = HashChain(path), key
        self._receipts: list[Receipt] = []
        self._hashes: set[str] = {GENESIS}
        self._times: dict[str, float] = {}
        self._trained: dict[str, float] = {}
        self._adopted: dict[str, bool] = {}
        self._entered: dict[str, Receipt] = {}
        records = self._file.records
        for number, record in enumerate(records, start=1):
            try:
                receipt = Receipt(**record["receipt"])
                if number == len(records):  # the hash chain holds the ones before
                    receipt.verify(key)
                self._take(receipt, float(record["time"]), adopted=bool(record["adopted"]))
            except (PrivflError, KeyError, TypeError, ValueError) as error:
                raise StateError(f"{path}, line {number}: {error}") from error

    def _take(self, receipt: Receipt, time: float, *, adopted: bool) -> None:
        if receipt.previous not in self._hashes:
            raise StateError(f"receipt {receipt.number} does not follow one of this site's receipts")
        self._receipts.append(receipt)
        self._hashes.add(receipt.hash)
        if receipt.kind == "entered" and place_of(receipt) > self.last_place(receipt.charter):
            self._entered[receipt.charter], self._times[receipt.charter] = receipt, time
            self._adopted[receipt.charter] = adopted
            if receipt.attempt < EVALUATION:
                self._trained[receipt.charter] = time

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """All receipts, in the order of the file."""
        return tuple(self._receipts)

    @property
    def newest(self) -> Receipt | None:
        """The receipt with the highest number, the last one of several; None before the first."""
        return max(reversed(self._receipts), key=lambda receipt: receipt.number, default=None)

    def holds(self, receipt: Receipt) -> bool:
        """True if `receipt` is one of this chain."""
        return receipt.hash in self._hashes

    def entered(self, charter: str) -> Receipt | None:
        """The receipt of the newest round that was entered under a charter; None before the first."""
        return self._entered.get(charter)

    def last_place(self, charter: str) -> Place:
        """The round and attempt of the newest `entered` receipt; before the first one, a place below every other."""
        receipt = self._entered.get(charter)
        return NOWHERE if receipt is None else place_of(receipt)

    def entered_at(self, charter: str) -> float | None:
        """The time at which the round of `entered` was entered, in seconds since 1970; None before the first."""
        return self._times.get(charter)

    def adopted(self, charter: str) -> bool:
        """True if the newest round under a charter was taken up: its answers left before a rollback."""
        return self._adopted.get(charter, False)

    def trained_at(self, charter: str) -> float | None:
        """The time at which a charter's newest round that trains was entered, in seconds since 1970.

        None before the first such round. A round that only evaluates does not count."""
        return self._trained.get(charter)

    def append(self, receipt: Receipt, key: SigningKey, time: float) -> Receipt:
        """Sign a receipt as the next one, and keep it durably.

        Args:
            receipt: The receipt; its number and its predecessor are set here.
            key: The signing key of the site.
            time: The present time, in seconds since 1970.

        Returns:
            The signed receipt.
        """
        last = self.newest
        number, previous = (1, GENESIS) if last is None else (last.number + 1, last.hash)
        signed = replace(receipt, number=number, previous=previous).signed(key)
        self._keep(signed, time, adopted=False)
        return signed

    def missing(self, receipts: Iterable[Receipt]) -> tuple[Receipt, ...]:
        """The receipts that this site signed and lost, such as after a restored backup, in order.

        Args:
            receipts: Receipts in any order; those that the chain holds are passed over.

        Raises:
            StateError: They do not follow a receipt of this chain without a gap.
            RemoteProtocolError: The site did not sign one of them.
        """
        lost: Mapping[str, Receipt] = {r.hash: r for r in receipts if not self.holds(r)}
        ordered = sorted(lost.values(), key=lambda receipt: receipt.number)
        known = set(self._hashes)
        for receipt in ordered:
            receipt.verify(self._key)
            if receipt.previous not in known:
                raise StateError(
                    f"receipt {receipt.number} follows one that is missing: ask the server and the other sites for the "
                    "receipts between"
                )
            known.add(receipt.hash)
        return tuple(ordered)

    def adopt(self, lost: Iterable[Receipt], time: float) -> None:
        """Keep receipts that `missing` returned; the newest receipt of all is the one that the next one follows.

        Args:
            lost: The receipts, in order.
            time: The present time, in seconds since 1970.
        """
        for receipt in lost:
            self._keep(receipt, time, adopted=True)

    def _keep(self, receipt: Receipt, time: float, *, adopted: bool) -> None:
        signed = receipt.record() | {"signature": receipt.signature}
        self._file.append({"receipt": signed, "time": time, "adopted": adopted})
        self._take(receipt, time, adopted=adopted)


def place_of(receipt: Receipt) -> Place:
    """The round and the attempt of a receipt."""
    return receipt.round, receipt.attempt


def newest_of(receipts: Iterable[Receipt], client: ClientId) -> Receipt | None:
    """Return the receipt of one site with the highest number, or None.

    Args:
        receipts: Receipts of any sites.
        client: The site.
    """
    return max((r for r in receipts if r.client == client), key=lambda r: r.number, default=None)
