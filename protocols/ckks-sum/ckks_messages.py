"""The bytes of messages, and the digest of a task: section 7 of SPEC.md."""

import base64
import hashlib
import struct

from ckks_primitives import u32, u64

SERVER = 0xFFFF_FFFF


KINDS = {
    "Advertise": 0x0301,
    "AskDealer": 0x0302,
    "Deal": 0x0303,
    "Dealt": 0x0304,
    "UseKey": 0x0305,
    "Frame": 0x0306,
    "Survivors": 0x0307,
    "Consent": 0x0308,
    "AskOpener": 0x0309,
    "Opened": 0x030A,
}


def message(name, sender, task, body):
    return struct.pack("<4sBHI", b"pvfl", 1, KINDS[name], sender) + task + u32(len(body)) + body


def body_for(receiver, body):
    """A body that differs by receiver: it begins with the receiver's identity."""
    return u32(receiver) + body


def blob(data):
    return u64(len(data)) + data


def listed(items):
    return u32(len(items)) + b"".join(items)


def task_digest(context, clients, *, minimum, length, bits, bound):
    form = blob(context) + listed([u32(c) for c in clients]) + u64(minimum) + u64(length) + struct.pack("<H", bits)
    return hashlib.sha256(b"privfl/1 sum-task" + form + u64(bound)).digest()


def text(data):
    return base64.b64encode(data).decode()
