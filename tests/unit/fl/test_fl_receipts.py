"""Receipts: signed, chained, one form."""

from dataclasses import replace

import numpy as np
import pytest
from builders import a_plan

from privfl.crypto import SigningKey
from privfl.dp import Mechanism
from privfl.errors import ConfigError, RemoteProtocolError, WireError
from privfl.fl.receipts import Receipt
from privfl.sums import PlainSum

KEY = SigningKey(bytes([5]) * 32)
PLAN = a_plan(PlainSum(), np.zeros(4), mechanism=Mechanism("distributed", 2.0))
RECEIPT = Receipt(
    client=4,
    number=1,
    kind="entered",
    charter="c" * 64,
    round=1,
    attempt=0,
    plan=PLAN.digest().hex(),
    transcript="7" * 64,
    spent=1.25,
    release=PLAN.worst_case(PlainSum()).public_version().record(),
    software="0.2",
    mode="agent",
)


def test_a_receipt_comes_back_from_its_bytes_and_verifies() -> None:
    signed = RECEIPT.signed(KEY)
    again = Receipt.from_bytes(signed.to_bytes())
    again.verify(KEY.public)
    assert again.hash == RECEIPT.hash  # the signature is no part of it
    following = replace(RECEIPT, number=2, previous=again.hash, kind="ended", release=None).signed(KEY)
    assert Receipt.from_bytes(following.to_bytes()).previous == RECEIPT.hash


def test_an_altered_or_foreign_receipt_does_not_verify() -> None:
    signed = RECEIPT.signed(KEY)
    with pytest.raises(RemoteProtocolError) as caught:
        replace(signed, spent=0.5).verify(KEY.public)
    assert caught.value.sender == 4
    with pytest.raises(RemoteProtocolError):
        signed.verify(SigningKey(bytes([6]) * 32).public)


def test_other_bytes_are_no_receipt() -> None:
    data = RECEIPT.signed(KEY).to_bytes()
    for wrong in (data + b" ", b"{}", b"[]", b"no", data.replace(b'"number":1', b'"number":1.0'), b"x" * 5000):
        with pytest.raises(WireError):
            Receipt.from_bytes(wrong)
    for changes in ({"number": 0}, {"kind": "left"}, {"plan": "short"}, {"spent": float("inf")}, {"spent": 1}):
        with pytest.raises(ConfigError):
            replace(RECEIPT, **changes)
