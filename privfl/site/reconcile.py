"""Reconciling: a site that was restored from a backup takes up the receipts that it signed and lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from privfl.dp import Release
from privfl.fl.receipts import Receipt, receipts_in
from privfl.site.account import Account
from privfl.site.chain import ReceiptChain, newest_of
from privfl.site.home import BEHIND, LEDGERS, RECEIPTS, SiteHome


def read_receipts(paths: Iterable[Path]) -> list[Receipt]:
    """The receipts in files, one canonical JSON line each; raises `StateError` for any other line."""
    return [receipt for path in paths for receipt in receipts_in(path.read_bytes().splitlines(), str(path))]


def reconcile(home: SiteHome, receipts: Iterable[Receipt], now: float) -> tuple[Receipt, ...]:
    """Take up every lost receipt: charge what it charged, pass the rounds that it entered, and end the open rounds.

    Args:
        home: The folder of the site; no agent may have it open.
        receipts: All receipts that the server and the other sites hold; those of other sites are passed over.
        now: The present time, in seconds since 1970.

    Returns:
        The receipts that were taken up.

    Raises:
        StateError: A receipt between is missing, another process has the folder open, or the newest receipt that the
            site was shown is not among them.
        RemoteProtocolError: A receipt was not signed by this site.
    """
    with home.writing():
        chain, account = ReceiptChain(home / RECEIPTS, home.card.key), Account(home / LEDGERS, home.policy())
        mine = [receipt for receipt in receipts if receipt.client == home.card.client]
        if (home / BEHIND).exists():
            mine.append(Receipt.from_bytes((home / BEHIND).read_bytes()))
        lost = chain.missing(mine)
        for receipt in lost:  # the charge first: a crash between leaves more charged, never less
            if receipt.release is not None:
                account.take_up(receipt.charter, Release.read(receipt.release))
        chain.adopt(lost, now)
        home.end_rounds()
        newest = newest_of(mine, home.card.client)
        if newest is None or chain.holds(newest):
            (home / BEHIND).unlink(missing_ok=True)
    return lost
