"""The site frames of SPEC.md, slow and readable.

Run it to write vectors/*.json. It never imports privfl, and privfl never imports it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SERVER = 0xFFFFFFFF
DOWN, UP = 0x0401, 0x0402
LABELS = {DOWN: "frame to a site", UP: "frame of a site"}
REFUSAL = bytes.fromhex("7076666c01") + b"refused"


class Refused(Exception):
    pass


# --- section 3: frames -------------------------------------------------------------------------------------------


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def framed(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def blob(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def blobs(items: list[bytes]) -> bytes:
    return struct.pack("<I", len(items)) + b"".join(map(blob, items))


def sign(seed: bytes, label: str, data: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(framed(f"privfl/1 {label}".encode(), data))


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def seal(kind: int, sender: int, charter: bytes, body: bytes, seed: bytes) -> bytes:
    message = b"pvfl" + struct.pack("<BHI", 1, kind, sender) + charter + struct.pack("<I", len(body)) + body
    return message + sign(seed, LABELS[kind], sha(message))


def down_body(place: tuple[int, int, int], client: int, expires: int, body: bytes) -> bytes:
    return struct.pack("<IIBIQ", *place, client, expires) + blob(body)


def up_body(place: tuple[int, int, int], request: bytes, body: bytes, receipts: list[bytes]) -> bytes:
    return struct.pack("<IIB", *place) + request + blob(body) + blobs(receipts)


def invitation(plan: bytes, nonce: bytes, issued: int, software: bytes, receipts: list[bytes]) -> bytes:
    return blob(plan) + nonce + struct.pack("<Q", issued) + blob(software) + blobs(receipts)


def check_down(frame: bytes, key: bytes, charter: bytes, client: int) -> None:
    """Refuse anything but a frame down of this key, charter and client."""
    message, signature = frame[:-64], frame[-64:]
    if len(message) < 47 or struct.unpack_from("<I", message, 43)[0] != len(message) - 47:
        raise Refused("length")
    if message[:5] != b"pvfl\x01" or struct.unpack_from("<HI", message, 5) != (DOWN, SERVER):
        raise Refused("kind or sender")
    if message[11:43] != charter:
        raise Refused("charter")
    try:
        signed = framed(f"privfl/1 {LABELS[DOWN]}".encode(), sha(message))
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except Exception as error:
        raise Refused("signature") from error
    body = message[47:]
    if len(body) < 29 or struct.unpack_from("<Q", body, 21)[0] != len(body) - 29:
        raise Refused("fields")
    if struct.unpack_from("<I", body, 9)[0] != client:
        raise Refused("client")


# --- sections 5 and 6: charter and receipts ----------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def charter_digest(data: bytes) -> bytes:
    return sha(b"privfl/1 charter digest" + data)


def receipt_hash(record: dict[str, Any]) -> bytes:
    return sha(b"privfl/1 receipt" + canonical(record))


def receipt(record: dict[str, Any], seed: bytes) -> bytes:
    return canonical(record | {"signature": sign(seed, "receipt of a site", receipt_hash(record)).hex()})


def transcript(before: bytes, request: bytes, body: bytes) -> bytes:
    return sha(before + sha(request) + sha(body))


# --- vectors -----------------------------------------------------------------------------------------------------


def main() -> None:
    server, site, client = b"\x01" * 32, b"\x02" * 32, 7
    plans = json.loads((Path(__file__).parents[1] / "round-plan/vectors/valid.json").read_text(encoding="utf-8"))
    plan = plans["cases"][0]["plan"].encode()
    record = json.loads(plan.partition(b"\n")[2])
    terms = record | {"round": 0, "attempt": 0, "model": "0" * 64}
    charter = b"privfl/1 charter\n" + canonical(
        {
            "name": "vectors",
            "rounds": 3,
            "members": list(range(record["population"])),
            "directory": "d" * 64,
            "server": public(server).hex(),
            "layout": "",
            "training": "",
            "evaluation": [],
            "min_interval": 60.0,
            "terms": terms,
        }
    )
    digest = charter_digest(charter)
    entered = {
        "client": client,
        "number": 1,
        "previous": "0" * 64,
        "kind": "entered",
        "charter": digest.hex(),
        "round": 1,
        "attempt": 0,
        "plan": "a" * 64,
        "transcript": "0" * 64,
        "spent": 0.5,
        "release": None,
        "software": "0.1.0",
        "mode": "agent",
    }
    first = receipt(entered, site)
    asked = invitation(plan, bytes(16), 1_800_000_000_000, b"0.1.0", [first])
    down = seal(DOWN, SERVER, digest, down_body((1, 0, 0), client, 1_800_000_600, asked), server)
    answer = b"the message of the sum"
    ended = entered | {
        "number": 2,
        "previous": receipt_hash(entered).hex(),
        "kind": "ended",
        "transcript": transcript(bytes(32), down, answer).hex(),
    }
    second = receipt(ended, site)
    up = seal(UP, client, digest, up_body((1, 0, 0), sha(down), answer, [first, second]), site)
    valid = {
        "server_public": public(server).hex(),
        "site_public": public(site).hex(),
        "client": client,
        "charter": charter.decode(),
        "charter_digest": digest.hex(),
        "plan": plan.decode(),
        "receipts": [first.decode(), second.decode()],
        "receipt_hashes": [receipt_hash(entered).hex(), receipt_hash(ended).hex()],
        "invitation": asked.hex(),
        "down": down.hex(),
        "up": up.hex(),
        "refusal": REFUSAL.hex(),
    }
    other = b"\x03" * 32
    wrong = {
        "cut short": down[:-1],
        "a byte too many": down + b"\0",
        "empty": b"",
        "another key": seal(DOWN, SERVER, digest, down_body((1, 0, 0), client, 1, b""), other),
        "another charter": seal(DOWN, SERVER, bytes(32), down_body((1, 0, 0), client, 1, b""), server),
        "another client": seal(DOWN, SERVER, digest, down_body((1, 0, 0), 8, 1, b""), server),
        "the sender is a site": seal(DOWN, client, digest, down_body((1, 0, 0), client, 1, b""), server),
        "a frame up": up,
        "fields cut short": seal(DOWN, SERVER, digest, down_body((1, 0, 0), client, 1, b"x")[:-1], server),
        "fields too long": seal(DOWN, SERVER, digest, down_body((1, 0, 0), client, 1, b"") + b"\0", server),
        "an altered body": down[:60] + bytes([down[60] ^ 1]) + down[61:],
        "an altered signature": down[:-1] + bytes([down[-1] ^ 1]),
    }
    for name, frame in wrong.items():
        try:
            check_down(frame, public(server), digest, client)
        except Refused:
            continue
        raise AssertionError(name)
    check_down(down, public(server), digest, client)
    invalid = {"cases": [{"name": name, "bytes": frame.hex()} for name, frame in wrong.items()]}
    folder = Path(__file__).parent / "vectors"
    for name, content in (("valid", valid), ("invalid", invalid)):
        text = json.dumps({"version": 1} | content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
