"""privfl's frames, charters and receipts against protocols/site-frames, whose reference shares no code with them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import references

from privfl.crypto import SigningKey, VerifyKey
from privfl.errors import RemoteProtocolError, WireError
from privfl.fl.charter import Charter
from privfl.fl.frames import (
    REFUSAL,
    Down,
    Invitation,
    Up,
    frame_hash,
    open_down,
    open_up,
    seal_down,
    seal_up,
)
from privfl.fl.receipts import Receipt

FOLDER = Path(__file__).parents[2] / "protocols" / "site-frames"
VALID: dict[str, Any] = json.loads((FOLDER / "vectors" / "valid.json").read_text(encoding="utf-8"))
INVALID: dict[str, Any] = json.loads((FOLDER / "vectors" / "invalid.json").read_text(encoding="utf-8"))
DIGEST, CLIENT = bytes.fromhex(VALID["charter_digest"]), VALID["client"]
DOWN, UP = bytes.fromhex(VALID["down"]), bytes.fromhex(VALID["up"])
SERVER_KEY, SITE_KEY = (VerifyKey(bytes.fromhex(VALID[name])) for name in ("server_public", "site_public"))


def test_the_vectors_are_what_the_reference_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = references.load("site-frames", "reference")
    (tmp_path / "site-frames" / "vectors").mkdir(parents=True)
    (tmp_path / "round-plan").symlink_to(FOLDER.parent / "round-plan")
    monkeypatch.setattr(reference, "__file__", str(tmp_path / "site-frames" / "reference.py"))
    reference.main()
    for name in ("valid", "invalid"):
        written = (tmp_path / "site-frames" / "vectors" / f"{name}.json").read_bytes()
        assert written == (FOLDER / "vectors" / f"{name}.json").read_bytes()


def test_a_charter_has_the_digest_of_the_reference() -> None:
    charter = Charter.from_bytes(VALID["charter"].encode())
    assert charter.to_bytes() == VALID["charter"].encode()
    assert charter.digest() == DIGEST


def test_receipts_are_those_of_the_reference() -> None:
    receipts = [Receipt.from_bytes(text.encode()) for text in VALID["receipts"]]
    assert [receipt.hash for receipt in receipts] == VALID["receipt_hashes"]
    for receipt, text in zip(receipts, VALID["receipts"], strict=True):
        receipt.verify(SITE_KEY)
        assert receipt.signed(SigningKey(b"\x02" * 32)).to_bytes() == text.encode()
    transcript = hashlib.sha256(bytes(32) + frame_hash(DOWN) + hashlib.sha256(b"the message of the sum").digest())
    assert receipts[1].transcript == transcript.hexdigest()
    assert receipts[1].previous == receipts[0].hash


def test_frames_are_those_of_the_reference_byte_for_byte() -> None:
    down = open_down(DOWN, SERVER_KEY, charter=DIGEST, me=CLIENT)
    assert (down.round, down.attempt, down.step, down.expires) == (1, 0, 0, 1_800_000_600)
    invitation = Invitation.from_bytes(down.body)
    assert invitation.to_bytes().hex() == VALID["invitation"]
    assert bytes(invitation.plan).decode() == VALID["plan"]
    again = Down(1, 0, 0, CLIENT, down.expires, bytes(down.body))
    assert seal_down(again, SigningKey(b"\x01" * 32), charter=DIGEST) == DOWN
    up = open_up(UP, SITE_KEY, charter=DIGEST, client=CLIENT, request=DOWN)
    assert [bytes(receipt).decode() for receipt in up.receipts] == VALID["receipts"]
    sent = Up(1, 0, 0, frame_hash(DOWN), bytes(up.body), tuple(map(bytes, up.receipts)))
    assert seal_up(sent, SigningKey(b"\x02" * 32), charter=DIGEST, me=CLIENT) == UP
    assert REFUSAL.hex() == VALID["refusal"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in INVALID["cases"]])
def test_every_other_frame_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises((WireError, RemoteProtocolError)):
        open_down(bytes.fromhex(case["bytes"]), SERVER_KEY, charter=DIGEST, me=CLIENT)
